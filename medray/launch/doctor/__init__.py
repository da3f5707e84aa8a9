"""`medray doctor`: what this machine, or every node of a Ray cluster, has for a run, and what it lacks."""
