"""Asking for replies: the state of all replies, the exchange of files, live backends, and the cost of what is left."""
