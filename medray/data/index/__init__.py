"""The index: the first pass over the data, which decides which rows exist and to which split they belong."""
