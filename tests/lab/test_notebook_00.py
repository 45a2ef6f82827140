"""Notebook 00: the wrong answer that its exercises refuse; every coin of 00 and 01 is decided by more than rounding."""

import matplotlib
import numpy as np
import pytest

from rsf import acceptance
from rsf.lab import notebooks

matplotlib.use("Agg")
WRONG = ("beta=0.25", "beta=1.0")  # two rounds do not undo one another


@pytest.mark.parametrize("name", ["00_start_here", "01_accept_or_reject"])
def test_every_coin_is_decided_by_more_than_rounding(name, monkeypatch):
    slacks = []
    accept = acceptance.accept

    def watched(log_probability, rng, with_slack=False):
        kept, slack = accept(log_probability, rng, with_slack=True)
        slacks.append(slack)
        return (kept, slack) if with_slack else kept

    monkeypatch.setattr(acceptance, "accept", watched)
    names = {}
    for cell in notebooks.from_text(name).cells:
        if cell.cell_type == "code":
            exec(cell.source.replace("    %pip", "    raise  # "), names)
    matplotlib.pyplot.close("all")
    if name == "00_start_here":  # its first coins are tossed by hand
        slacks.append(np.abs(names["u"] - names["target"].pdf(names["x"]) / names["k"]).min())
    assert len(slacks) >= 3 and min(slacks) > 1e-12
