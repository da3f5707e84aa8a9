"""The assignment of rows to splits: sources, membership, duplicates and leakage."""
