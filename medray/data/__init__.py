"""The data pipeline: from corpora to records, token shards and the plan of batches."""
