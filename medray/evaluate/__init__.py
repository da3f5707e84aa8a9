"""Evaluation: losses of validation rows, generated text, and metrics."""
