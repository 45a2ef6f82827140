"""Notebook 00: the wrong answer that its exercises refuse."""

WRONG = ("beta=0.25", "beta=1.0")  # two rounds do not undo one another
