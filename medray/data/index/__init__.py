"""Rows to splits: sources, membership, duplicates and leakage."""
