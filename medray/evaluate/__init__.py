"""What a model's text is worth: metrics, and the rules that they rest on."""
