"""Scores of files with answers: reading them, metrics with intervals, comparison of two files, and signs of a useless model."""
