"""Notebook 13: its prose is held to what its cells print and to the stored runs."""

WRONG = (").sum(1) / 4", ").sum(1) / 2")
