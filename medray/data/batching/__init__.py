"""Batches from token shards: the order of rows, mixing of corpora, packing, and padding to arrays. Needs only NumPy."""
