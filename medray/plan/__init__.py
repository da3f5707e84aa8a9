"""The cost of a run and whether it fits: parameters, bytes, workers, steps. Only arithmetic."""
