"""Corpora to records to token shards to a batch plan; and the simulated clinic."""
