"""What a model will read of a config's data, and what is wrong with it."""
