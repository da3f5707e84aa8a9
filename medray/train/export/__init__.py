"""What a run does with its final weights: export, model card, evaluation and warnings."""
