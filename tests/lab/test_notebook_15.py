"""Notebook 15: the wrong answer that its check must refuse, and that its text counts as its output does.

What it reads is tested in test_claims.py.
"""

import re

import nbformat
from num2words import num2words

from rsf.lab import notebooks

WRONG = ("1 - 0.025 / 2", "1 - 0.0001 / 2")  # limits at another level than the file's


def test_its_text_counts_the_claims_that_hold_as_its_output_does():
    cells = nbformat.read(notebooks.NOTEBOOKS / "15_read_the_evidence.ipynb", 4).cells
    printed = "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
    hold = re.search(r"^hold: .* found (\d+)$", printed, re.MULTILINE)[1]
    decided = re.search(r"^measured and decided: (\d+) of", printed, re.MULTILINE)[1]
    told = f"**What happened.** {num2words(hold).capitalize()} of the {num2words(decided)}. "
    assert any(told in cell.source for cell in cells)
    right = re.search(r"right of 0: .* found (\d+) of", printed)[1]
    assert any(f"**What happened.** {num2words(right).capitalize()}. " in cell.source for cell in cells)
