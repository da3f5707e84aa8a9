"""Dual review (DMCR): two judges decide independently, agreement is final, and people decide the rest."""
