"""Preference pairs: a chosen and a rejected answer to one prompt."""
