"""The gain in several models: the same reviews for each, and the largest difference held against the smallest."""

import numpy as np
import pytest
from test_sweep import embedded

from rsf import checks
from rsf.__main__ import main
from rsf.lab import records, tuning, verdicts
from rsf.lab.report.forest import forest_figure
from rsf.lab.tasks import imdb_last_layer, imdb_models

SMALL = """
[models-small]
like = "imdb-models-2"
seeds = [1]
pool = 60
train = 16
validation = 12
test = 20
passes = 1
tokens = 8
tuning = ["models-small-tuning"]

[models-small-tuning]
like = "models-small"
seeds = [7]
grid_learning_rate = [1e-3]
edges = []

[models-new]
like = "models-small"
layers = 1
width = 8
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A few embedded reviews, and results/ with small sections."""
    text = (records.RESULTS / "protocol.toml").read_text(encoding="utf-8")
    (tmp_path / "protocol.toml").write_text(text + SMALL, encoding="utf-8")
    monkeypatch.setenv("RSF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setattr(imdb_last_layer, "sources", embedded)
    monkeypatch.setattr(imdb_last_layer, "ASIDE", 20)
    remembered = (imdb_last_layer.parts, imdb_models.rows, tuning.best, tuning.budget)
    for one in remembered:
        one.cache_clear()
    yield
    for one in remembered:
        one.cache_clear()


def test_each_model_learns_from_the_same_reviews_and_is_tested_on_the_same(small):
    assert not main(["experiment", "models-small-tuning"]) and not main(["experiment", "models-small"])
    assert not main(["experiment", "models-new"])
    one, other = (records.find(name, "article", 1) for name in ("models-small", "models-new"))
    assert "all-MiniLM" in one["model"] and "1 layer of width 8, random weights" in other["model"]
    assert one["numbers"]["budget"] == other["numbers"]["budget"] == 3 * 16
    cut, labels = imdb_models.rows("train", 60, 8, 2, 0)
    whole, same = imdb_models.rows("train", 60, 8, 1, 8)
    assert labels.tolist() == same.tolist() == [row["label"] for row in whole]
    assert [len(cut[i]["hidden"]) for i in range(60)] == [len(row["input_ids"]) for row in whole]
    assert cut[0]["label"] == whole[0]["label"]


def gains(monkeypatch, means, without=None):
    """Let four models gain so much on the mean of the ten declared seeds, in points, with the seeds' noise."""
    section = records.protocol("imdb-models")
    rng = np.random.default_rng(0)
    gained = {name: mean + rng.normal(0, 0.3, 10) for name, mean in zip(section["among"], means, strict=True)}

    def of_arm(name, arm):
        values = 60 + (gained[name] if arm == "article" else 0 * gained[name])
        runs = {
            seed: {
                "experiment": name,
                "arm": arm,
                "machine": {},
                "numbers": {"accuracy": value / 100, "seed": seed},
            }
            for seed, value in zip(section["seeds"], values, strict=True)
        }
        return dict([*runs.items()][: 9 if name == without else 10])

    monkeypatch.setattr(verdicts, "of_arm", of_arm)
    return gained, verdicts.judged(*verdicts.contrasts("imdb-models"))


def test_the_largest_gain_is_held_against_the_smallest_and_the_limits_of_all_pairs_hold_together(
    monkeypatch, tmp_path
):
    gained, found = gains(monkeypatch, (-0.5, 0.0, 2.5, 0.3))
    names = records.protocol("imdb-models")["among"]
    by_hand = checks.paired_difference(gained[names[2]], gained[names[0]], level=0.05 / 6)
    for name in ("estimate", "low", "high"):
        assert getattr(found.difference, name) == pytest.approx(getattr(by_hand, name))
    assert (found.contrast.arm, found.contrast.against) == (names[2], names[0])
    assert found.judgement.word == "reproduced" and "at 99.17 %" in str(found)
    assert forest_figure(found, tmp_path / "four.png").stat().st_size > 10_000


def test_gains_that_are_alike_or_are_not_all_there_show_no_difference(monkeypatch):
    _, found = gains(monkeypatch, (0.5, 0.5, 0.5, 0.5))
    assert found.judgement.word == "not reproduced here"
    names = records.protocol("imdb-models")["among"]
    for name in names:
        assert gains(monkeypatch, (0.0, 0.0, 3.0, 0.0), without=name)[1].judgement.word == "open"
