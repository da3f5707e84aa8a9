"""Records to tokens: templates, prompts, text to ids and loss masks; the same for training and inference."""
