"""Token shards: a Ray Data pipeline that turns records into immutable files."""
