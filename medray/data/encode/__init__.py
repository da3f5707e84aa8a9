"""Encoding of records as tokens: templates, prompts, tokenization and loss masks, the same for training and inference."""

IGNORED = -100  # label of a token without loss: torch's cross_entropy leaves it out
