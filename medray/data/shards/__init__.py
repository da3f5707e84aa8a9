"""Records to token shards: a Ray Data pipeline that writes immutable files."""
