"""Checks for `medray doctor`: whether this machine, or every node of a Ray cluster, has what a run needs."""
