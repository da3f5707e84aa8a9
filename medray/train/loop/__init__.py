"""The worker process of a run: the loop of every rank, from weights to export, and its steps."""
