"""Predictions for new data by a Ray Data job: rows in parts, one file per part, merged in the order of the input."""
