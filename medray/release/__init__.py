"""Release: writes the weights of a finished run in other forms (merged, 4-bit, GGUF or as an adapter)."""
