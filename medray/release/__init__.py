"""The release of a finished run's weights: merged, 4-bit, GGUF or adapter."""
