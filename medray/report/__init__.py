"""What people read of a run or of its data: console, pages and charts."""
