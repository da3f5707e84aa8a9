"""A finished run's weights in other forms: merged, 4-bit, GGUF or adapter."""
