"""The steps after training: model card, evaluation of the export, and warnings."""
