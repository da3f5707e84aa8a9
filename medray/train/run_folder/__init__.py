"""The run folder: claiming it, its locks, and the files that a run leaves."""
