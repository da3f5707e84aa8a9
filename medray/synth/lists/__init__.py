"""The lists that prompts are made from: their values, and reading them from resource files."""
