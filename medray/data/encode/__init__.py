"""Records to tokens: templates, prompts, text to ids and loss masks; the same for training and inference."""

IGNORED = -100  # label of a token without loss: torch's cross_entropy leaves it out
