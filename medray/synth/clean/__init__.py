"""Finished chats to training data: filters with counts, splits, three forms, and a datasheet."""
