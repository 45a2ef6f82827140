"""Notebook 01: the wrong answer that its exercises refuse."""

WRONG = ("target.logpdf(0.5) - broad.logpdf(0.5)", "target.logpdf(0.3) - broad.logpdf(0.3)")  # k is too small
