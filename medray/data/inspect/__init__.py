"""Inspection of the data as a model will read it, and of its problems."""
