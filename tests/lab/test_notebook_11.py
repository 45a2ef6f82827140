"""Notebook 11: its tiny model's law is exact, its coins are far from their thresholds, its judges are told apart."""

import re

import matplotlib
import numpy as np
import pytest

from rsf import checks
from rsf.lab import notebooks
from rsf.lab.tasks import answers

matplotlib.use("Agg")
WRONG = ("np.array([s, 1 - s])", "np.array([0.5, 0.5])")  # forgets how often the model is right


@pytest.fixture(scope="module")
def world():
    """The names of the notebook's code cells, without those that are slow."""
    found = {}
    for cell in notebooks.from_text(notebooks.names(["11"])[0]).cells:
        if cell.cell_type == "code" and "slow" not in cell.metadata.get("tags", []):
            exec(re.sub(r"^    %pip .*$", "    raise", cell.source, flags=re.MULTILINE), found)
    matplotlib.pyplot.close("all")
    return found


def test_the_careful_reader_reads_as_a_person_would_and_the_afternoons_only_the_data_set(world):
    formats, own = world["formats"], world["own"]
    assert [answers.read(text) for text in formats] == list(formats.values())
    assert world["quick"] == 7
    assert all(world["afternoon"](text) == answers.read(text) for text in own)


def test_the_strict_judge_is_the_verifier_that_is_trained_with(world):
    for row in world["rows"]:
        for write in world["kinds"].values():
            assert answers.verify([""], [write(row)], [row["answer"]]) == [
                world["strict"](write(row), row["answer"])
            ]


def test_a_lenient_judge_accepts_slips_as_often_as_what_is_solved(world):
    lenient = world["accepts"]["lenient"]
    assert lenient["slip"] == lenient["solved"] > 0.75 < lenient["list"]


def test_the_exact_laws_are_laws_and_what_is_accepted_has_their_rate(world):
    np.testing.assert_allclose(world["q"].sum(axis=1), 1, rtol=1e-12)
    rate = (world["q"] * world["a"]).sum() / 3
    report = world["report"]
    assert checks.rate_interval(report.accepted, report.samples, expected=float(rate))


def test_no_coin_lies_so_close_that_another_processor_could_decide_otherwise(world):
    assert world["report"].slack > 1e-12


def test_the_audit_finds_what_is_known_of_the_three_questions(world):
    page = world["audit"].audit(world["three"], world["above"](1))
    assert page.moved and page.kl == pytest.approx(-np.log(page.acceptance_rate), abs=1e-9)
    assert not world["page"].moved
