"""Models: loading (also sharded under ZeRO), forward passes, adapters, 4-bit weights and export."""
