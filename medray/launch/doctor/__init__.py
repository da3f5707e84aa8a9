"""Checks for `medray doctor`: what a run needs, and whether this machine or every node of a Ray cluster has it."""
