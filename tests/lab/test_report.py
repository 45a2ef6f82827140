"""What README and notebook 07 show of the whole model, made again from right or wrong of each review."""

import pytest

from rsf.checks import Verdict
from rsf.lab import validated, verdicts
from rsf.lab.report import whole_model
from rsf.lab.report.parts import limits, span, table


def test_the_parts_of_a_report_read_as_they_should():
    assert table(["a", "b"], [[1, ""]]) == "| a | b |\n| --- | --- |\n| 1 |  |"
    found = Verdict("", True, 0.5, -1.25, 2.25)
    assert (
        limits(found) == "+0.5 [-1.2, +2.2]" and limits(found, 2, " points") == "+0.50 points [-1.25, +2.25]"
    )
    assert span([2.04, 1.0], 1) == "1.0 to 2.0" and span(iter([1.04, 1.0]), 1) == "1.0"


@pytest.mark.parametrize(
    "passes, arm, accuracy, minus, nll, kept, seeds",
    [
        (3, "plain", 92.81, "", 0.276, 1.0, 10),
        (3, "article", 92.29, "-0.52 [-0.64, -0.41]", 0.214, 0.34, 10),
        (3, "twin", 92.40, "-0.41 [-0.57, -0.25]", 0.220, 1.0, 10),
        (3, "random", 92.29, "-0.47 [-0.61, -0.33]", 0.256, 0.41, 5),
        (1, "plain", 91.89, "", 0.209, 1.0, 10),
        (1, "article", 91.51, "-0.38 [-0.66, -0.10]", 0.214, 0.55, 10),
    ],
)
def test_each_row_of_the_whole_model(passes, arm, accuracy, minus, nll, kept, seeds):
    (row,) = (row for row in whole_model.rows() if (row.passes, row.arm) == (passes, arm))
    assert len(row.runs) == seeds and (limits(row.minus_plain, 2) if row.minus_plain else "") == minus
    shown = [round(row.mean(name), 2) for name in ("accuracy", "acceptance_rate")]
    assert shown == [accuracy, kept] and round(row.mean("nll"), 3) == nll
    assert (row.word == "refuted") == (arm == "article")


def test_the_table_says_what_the_rows_do_not_and_the_picture_is_drawn(tmp_path):
    text = whole_model.whole_model_table()
    assert "article minus twin -0.11 [-0.28, +0.05], random minus article +0.04 [-0.17, +0.24]" in text
    assert text.count("refuted") == 2 and text.count("exploratory") == 2
    whole_model.whole_model_figure(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_tuning_of_the_whole_model_is_what_its_runs_say():
    mean = {
        (name, arm): {setting: 100 * sum(found) / len(found) for setting, found in validated.tried(name, arm)}
        for name in (whole_model.MAIN, whole_model.ONE)
        for arm in ("plain", "article")
    }
    assert mean[whole_model.MAIN, "plain"] == pytest.approx(
        {2.5e-5: 92.2, 5e-5: 93.15, 1e-4: 92.85, 2e-4: 90.825}
    )
    article = {2.5e-5: 91.775, 5e-5: 92.425, 1e-4: 92.775, 2e-4: 91.0}
    assert mean[whole_model.MAIN, "article"] == pytest.approx(article, abs=0.03)
    assert mean[whole_model.ONE, "plain"] == pytest.approx(
        {5e-5: 92.025, 1e-4: 92.25, 2e-4: 90.575}, abs=0.03
    )
    assert mean[whole_model.ONE, "article"] == pytest.approx(
        {5e-5: 91.3, 1e-4: 91.725, 2e-4: 89.75}, abs=0.03
    )


def test_means_are_told_by_arm_and_of_a_grid_by_rate():
    accuracy, nll = verdicts.means(whole_model.MAIN)
    assert accuracy == "accuracy: plain 92.81 %, article 92.29 %, twin 92.40 %"
    assert nll == "nll: plain 0.276, article 0.214, twin 0.220"
    assert "plain at 5e-05 93.15 %" in verdicts.means(f"{whole_model.MAIN}-tuning")[0]
    assert verdicts.means("bench-sampling") == []
