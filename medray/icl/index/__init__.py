"""The index of the training documents: their vectors, their words, and the folder that holds both."""
