"""Medray turns medical text into a tuned language model, from one YAML file, on any Ray cluster."""

__version__ = "0.1.0"
