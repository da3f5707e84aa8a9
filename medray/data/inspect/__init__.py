"""Inspection of training data as a model will read it, and of problems in the data."""
