"""Token shards: immutable files with the tokens of all records, written by a Ray Data pipeline."""
