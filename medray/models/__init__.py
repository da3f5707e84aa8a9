"""Models: packaged models, presets, loading under ZeRO, adapters, export."""
