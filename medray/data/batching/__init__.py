"""The path from token shards to batches: order, mixing, packing, windows and collation. NumPy only."""
