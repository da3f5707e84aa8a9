"""Token shards to batches: order, mixing, packing, windows and collation. NumPy only."""
