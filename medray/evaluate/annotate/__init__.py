"""Annotation: a teacher writes rationales for labelled records, and those whose answer is right are kept."""
