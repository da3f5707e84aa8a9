"""Reports for people about a run or its data: console, HTML pages and charts."""
