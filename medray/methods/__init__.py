"""Losses. A method names the tasks that it trains and how their token sums become one loss; torch and nothing else."""
