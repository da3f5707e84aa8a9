"""What a run will cost and whether it fits: parameters, bytes, workers, steps. Arithmetic alone."""
