"""The command line: verbs, one file each. They parse, compose rooms, own Ray's start and signals."""
