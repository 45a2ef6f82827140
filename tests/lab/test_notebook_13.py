"""Notebook 13: its prose is held to what its cells print and to the stored runs."""

import json
import re

import numpy as np
import pytest

from rsf.lab import notebooks, records, verdicts
from rsf.lab.report import claims

NAME = "13_distil_and_prune_first"
WRONG = (").sum(1) / 4", ").sum(1) / 2")
SMALLER = ("distilled", "pruned")


def sections():
    """What each section's paragraph under "What happened" says, and what the section's cells print."""
    cells = json.loads((notebooks.NOTEBOOKS / f"{NAME}.ipynb").read_text(encoding="utf-8"))["cells"]
    heading, told, printed = "", {}, {}
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for part in re.split(r"^(?=## |\*\*What happened)", source, flags=re.MULTILINE):
                if part.startswith("## "):
                    heading = part.splitlines()[0]
                elif part.startswith("**What happened"):
                    told[heading] = part
        for output in cell.get("outputs", []):
            printed[heading] = printed.get(heading, "") + "".join(output.get("text", ""))
    return {heading: (text, printed[heading]) for heading, text in told.items()}


def test_each_measured_number_in_what_happened_is_printed_in_its_section():
    found = sections()
    assert len(found) == 4
    for heading, (text, printed) in found.items():
        numbers = re.findall(r"[+-]?\d+\.\d+|\b\d{3}\b", text)
        assert numbers, heading
        there = set(re.findall(r"[+-]?\d+\.\d+|\b\d{3}\b", printed))
        there |= {number.lstrip("+-") for number in there}
        assert set(numbers) <= there, (heading, set(numbers) - there)


def test_the_distilled_and_the_pruned_model_train_at_the_price_that_is_told():
    runs = {how: verdicts.of_arm("compression", how) for how in records.protocol("compression")["arms"]}
    cost = {how: np.mean(list(verdicts.measured(each, "cost").values())) for how, each in runs.items()}
    assert cost["pruned"] / cost["dense"] == pytest.approx(4 / 3, abs=0.005)
    assert cost["masked"] / cost["dense"] == pytest.approx(5 / 3, abs=1e-9)
    for contrast in verdicts.contrasts("compression"):
        assert verdicts.judged(contrast).judgement.word == "reproduced"
    student, pruned, masked = (verdicts.difference(runs[how], runs["dense"]) for how in (*SMALLER, "masked"))
    assert student.low < 0 < student.high and pruned.high < 0 and masked.high < 0


@pytest.mark.parametrize("name", SMALLER)
def test_the_further_gain_is_refuted_in_either_model_and_what_is_not_excluded_is_said(name):
    (contrast,) = verdicts.contrasts(name)
    found = verdicts.judged(contrast)
    assert found.judgement.word == "refuted" and found.difference.low < 0 < found.difference.high
    (text,) = [text for heading, (text, _) in sections().items() if "further" in heading]
    for number in found.difference.estimate, found.difference.low, found.difference.high:
        assert f"{number:+.2f}" in text
    assert any(name in one.asks for one in claims.CLAIMS)
