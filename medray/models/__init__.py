"""Weights in and out: packaged models, presets, loading under ZeRO, adapters, export."""
