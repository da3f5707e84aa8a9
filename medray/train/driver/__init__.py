"""The driver process of a run: it waits for nodes, prepares the data, runs the workers and collects their results."""
