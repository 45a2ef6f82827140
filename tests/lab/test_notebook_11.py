"""Notebook 11: its tiny model's law is exact, its coins are far from their thresholds, its judges are told apart."""

import json
import re

import matplotlib
import numpy as np
import pytest
import readers

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
    assert min(world["report"].slack, world["spoken"].slack) > 1e-12


def test_the_conversation_is_written_by_the_template_and_its_pairs_are_counted(world):
    judged, accepted = world["talks"], world["spoken"].accepted
    assert 0 < accepted == sum(judged["kept"]) < len(judged) == 300
    assert judged["prompt"][:3] == world["chats"] and judged["completion"][0][0]["role"] == "assistant"
    assert 0 < len(world["generation"].pairs(judged)) <= min(accepted, 300 - accepted)


def test_math_verify_is_a_reward_in_one_line_and_reads_the_formats_as_the_table_says(world):
    (line,) = re.findall(
        r"`(\[verify\(parse.*?\])`", (notebooks.TEXT / f"{notebooks.names(['11'])[0]}.md").read_text()
    )
    names = {"verify": world["verify"], "parse": world["parse"]}
    names |= {"answer": ["3/4", "3/4"], "completions": [r"\boxed{\frac{3}{4}}", "it is 4"]}
    assert eval(line, names) == [True, False]
    assert world["careful"] == 16 > world["by_library"] > world["quick"]


def test_the_stored_table_of_readers_is_what_its_script_finds(world):
    stored = json.loads(readers.FILE.read_text(encoding="utf-8"))["readers"]
    own = [{"answer": text} for text in world["own"][:40]]
    found = readers.study(
        [*own, {"answer": "She answers 48 of 60 in all, and her answer is 48 more\n#### 66"}]
    )
    assert found["answers.read"] == {"right": 41, "one_more": 0, "missed": []}
    assert found["math_verify"]["right"] >= 40 and found["math_verify"]["one_more"] == 0
    assert stored["answers.read"] == {"right": 8792, "one_more": 0, "missed": []}
    assert stored["math_verify"]["right"] + len(stored["math_verify"]["missed"]) == 8792


def test_the_audit_finds_what_is_known_of_the_three_questions(world):
    page = world["audit"].audit(world["three"], world["above"](1))
    assert page.moved and page.kl == pytest.approx(-np.log(page.acceptance_rate), abs=1e-9)
    assert not world["page"].moved
