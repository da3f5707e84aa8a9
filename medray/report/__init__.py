"""Reports about a run or its data for people: console, HTML pages and charts."""
