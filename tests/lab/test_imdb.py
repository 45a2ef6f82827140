"""The sections of IMDb with tuned arms: who is trained and tested on what, and records that verify accepts."""

import numpy as np
import pytest

from rsf.__main__ import main
from rsf.lab import data, records, tuning, verdicts, verify
from rsf.lab.tasks import imdb_tuned

SMALL = """
[imdb-tuned]
like = "imdb-full"
model = "embedded"
seeds = [1, 2]
train = 24
validation = 16
test = 20
tokens = 8
passes = 2
batch_size = 4
bf16 = false
family = ["imdb-tuned"]
tuning = ["imdb-tuned-tuning"]

[imdb-tuned-tuning]
like = "imdb-tuned"
arms = ["plain", "article"]
seeds = [7]
grid_learning_rate = [1e-3, 2e-3]
edges = []
primary = "accuracy on the validation reviews"
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A few embedded reviews in the place of IMDb, and results/ with two small sections."""
    text = (records.RESULTS / "protocol.toml").read_text(encoding="utf-8")
    (tmp_path / "protocol.toml").write_text(text + SMALL, encoding="utf-8")
    reviews = data.load("imdb", source="embedded")._replace(source="imdb: local copy of a few")
    load = data.load
    monkeypatch.setattr(
        data, "load", lambda name, source: reviews if source == "hub,local" else load(name, source=source)
    )
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    tuning.best.cache_clear()
    tuning.budget.cache_clear()
    return reviews


def test_no_text_stands_in_two_of_training_validation_and_test_and_old_sections_draw_as_they_did(small):
    twice = small._replace(train=small.train.add_item({**small.train[0]}))
    aside, pool = data.put_aside(twice, 16)
    assert len(aside) == 16 and len(pool) == 481 - 16 and not set(aside) & set(pool)
    assert not {0, 480} & set(data.put_aside(twice, 478)[0])  # what stands twice is never put aside
    assert np.array_equal(data.put_aside(small, 0)[1], np.arange(480))
    leak = small._replace(test=small.test.add_item({**small.train[5]}))
    assert 5 not in data.put_aside(leak, 0)[1]
    settings = records.protocol("imdb-tuned")
    (train, tested), (others, again) = (
        imdb_tuned.prepare(settings, seed, validate=True)[1:3] for seed in (1, 2)
    )
    assert tested == again
    index, other = ([row["index"] for row in rows] for rows in (train, others))
    assert set(index) <= set(data.put_aside(small, 16)[1]) and index != other


def test_arms_are_tuned_each_and_all_of_it_is_verified(small, capsys):
    with pytest.raises(ValueError, match="imdb-tuned-tuning lacks 4 runs"):
        imdb_tuned.run("imdb-tuned", "plain", 1)
    assert not main(["experiment", "imdb-tuned-tuning"])
    assert records.missing("imdb-tuned-tuning") == []
    numbers = records.find("imdb-tuned-tuning", "article", 7, rate=1e-3)["numbers"]
    assert not {"right", "kept_by_twentieth"} & numbers.keys() and round(numbers["accuracy"] * 16, 9) % 1 == 0
    assert not main(["experiment", "imdb-tuned"])
    assert verify.section("imdb-tuned") == verify.section("imdb-tuned-tuning") == []
    rates = {arm: runs[1]["numbers"]["learning_rate"] for arm, runs in records.read("imdb-tuned").items()}
    assert rates["random"] == rates["article"]
    record = records.find("imdb-tuned", "article", 2)
    assert len(verdicts.of_each(record, "accuracy")) == 20 and record["begun"]
    assert sum(record["numbers"]["kept_by_twentieth"]) == record["numbers"]["steps"]
    assert "10 seeds" not in str(verdicts.judged(*verdicts.contrasts("imdb-tuned")))
    before = records.runs("imdb-tuned")
    records.fold("imdb-tuned")
    assert records.runs("imdb-tuned") == before and not main(["experiment", "imdb-tuned"])
    assert "6 of 6 runs are stored" in capsys.readouterr().out
