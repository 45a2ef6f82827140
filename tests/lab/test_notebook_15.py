"""Notebook 15: the wrong answer that its check must refuse; what it reads is tested in test_claims.py."""

WRONG = ("1 - 0.025 / 2", "1 - 0.0001 / 2")  # limits at another level than the file's
