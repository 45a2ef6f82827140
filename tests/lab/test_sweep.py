"""The sweep over conditions: arms by rate, its splits of the reviews, grids that widen, runs killed on the way."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from rsf import rules
from rsf.__main__ import main
from rsf.lab import arms, compact, data, models, records, tuning, verify
from rsf.lab.tasks import imdb_floor, topics
from rsf.lab.tasks import imdb_last_layer as task

SETTINGS = {"k": 0.5, "window": 32, "rate_window": 256, "unit": "batch"}
SMALL = """
[imdb-last-small]
like = "imdb-last-limited"
arms = ["plain", "article", "at_rate-0.5", "plain-short"]
seeds = [1, 2]
train = 24
test = 30
test_places = [10, 40]
validation = 20
passes = 2
tokens = 8
flipped = 0.25
measure = "nll"
tuning = ["imdb-last-small-tuning"]
rate_of = { plain-short = "plain", "at_rate-0.5" = "article" }
budget_of = { plain-short = { section = "imdb-last-small-tuning", arm = "article", scoring = 0.0 } }

[imdb-last-small-tuning]
like = "imdb-last-limited-tuning"
arms = ["plain", "article"]
seeds = [7, 8]
train = 24
validation = 20
passes = 2
tokens = 8
grid_learning_rate = [1e-3, 2e-3, 4e-3]
edges = []

[floor-small]
like = "floor-imdb"
seeds = [1]
train = 24
test = 30
test_places = [10, 40]
tokens = 8
"""


@lru_cache
def embedded():
    reviews = data.load("imdb", source="embedded")
    return reviews, models.load("bert", 2, np.random.default_rng(0), source="embedded")


def small(folder):
    """Let the sweep run on a few embedded reviews, below a folder that has its own protocol; return what to put back."""
    folder = Path(folder)
    if not (folder / "protocol.toml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        text = (records.ROOT / "results" / "protocol.toml").read_text(encoding="utf-8")
        (folder / "protocol.toml").write_text(text + SMALL, encoding="utf-8")
    return {
        (records, "RESULTS"): folder,
        (task, "sources"): embedded,
        (imdb_floor, "sources"): embedded,
        (task, "ASIDE"): 20,
    }


@pytest.fixture
def in_small(monkeypatch, tmp_path):
    monkeypatch.setenv("RSF_CACHE", str(tmp_path / "cache"))

    def enter(name):
        for (where, what), value in small(tmp_path / name).items():
            monkeypatch.setattr(where, what, value)
        for remembered in (task.parts, task.outputs, task.tested, tuning.best, tuning.budget):
            remembered.cache_clear()
        return tmp_path / name

    yield enter
    for remembered in (task.parts, task.outputs, task.tested, tuning.best, tuning.budget):
        remembered.cache_clear()


# ---- arms


def test_an_arm_is_named_by_its_rule_and_rate():
    rule = arms.rule_of("at_rate-0.8", SETTINGS)
    assert isinstance(rule, rules.at_rate) and rule.family is rules.clipped
    assert (rule.rate, rule.window) == (0.8, 256)
    assert arms.rule_of("easy-0.3", SETTINGS).family is rules.easy
    blind = arms.rule_of("random-0.5", SETTINGS)
    assert isinstance(blind, rules.random_like) and blind.rule.rate == 0.5 and blind.window == 256
    assert str(arms.rule_of("plain-short", SETTINGS)) == str(rules.constant(1))
    assert [arms.has_rate(arm) for arm in ("article", "random", "at_rate-0.5", "plain-short")] == [
        False,
        False,
        True,
        False,
    ]
    for wrong in ("at_rate", "easy-", "plain-0.5", "dark"):
        with pytest.raises(ValueError, match=f"there is no arm '{wrong}'"):
            arms.rule_of(wrong, SETTINGS)


# ---- the protocol's sections

SWEEP = [name for name in records.sections() if name.startswith("imdb-last-")]


def test_every_arm_of_the_sweep_has_a_rule_a_grid_and_its_own_budget_if_it_is_short():
    assert len(SWEEP) == 30
    for name in SWEEP:
        section = records.protocol(name)
        assert section["test"] == section["test_places"][1] - section["test_places"][0]
        assert section["test_places"][0] >= 5000 and min(section["seeds"]) >= 110
        for arm in section["arms"]:
            arms.rule_of(arm, section)
            assert (arm == "plain-short") <= (arm in section["budget_of"])
            if not records.has_rates(section):
                tuned = section["rate_of"].get(arm, arm)
                grid = next(one for one in section["tuning"] if tuned in records.protocol(one)["arms"])
                like = records.protocol(grid)
                alike = ("train", "passes", "flipped", "unit", "progress", "window")
                assert {key: like[key] for key in alike} == {key: section[key] for key in alike}
                assert section["tuned_by"] in like["edges"]
                assert not set(like["seeds"]) & set(section["seeds"])


def test_the_family_is_seven_sections_with_a_contrast_each():
    family = records.protocol("imdb-last-limited")["family"]
    assert len(set(family)) == 7
    for name in family:
        section = records.protocol(name)
        assert section["family"] == family and section["level"] == 0.05 and len(section["seeds"]) >= 10
        assert set(section["contrast"]) <= set(section["arms"]) and name in section["cases"]


# ---- the reviews


def test_no_text_stands_in_two_of_training_validation_and_test(in_small):
    in_small("reviews")
    reviews, _ = embedded()
    aside, pool = task.parts()
    assert len(aside) == 20 and len(set(aside) | set(pool)) == 20 + len(pool)
    texts = reviews.train["text"]
    sets = [{texts[i] for i in aside}, {texts[i] for i in pool}, set(reviews.test["text"])]
    assert not sets[0] & sets[1] and not (sets[0] | sets[1]) & sets[2]
    settings = records.protocol("imdb-last-small") | {"test": 30}
    rows, validation = task.reviews_of(settings, np.random.default_rng(5))
    assert len(rows) == 24 and np.array_equal(validation.index, aside)
    wrong = [row["label"] != reviews.train["label"][row["index"]] for row in (rows[i] for i in range(24))]
    assert sum(wrong) == 6
    others = task.reviews_of(settings | {"validate": "pool", "validation": 100}, np.random.default_rng(5))
    assert np.array_equal(others[0].index, rows.index) and np.array_equal(others[0].labels, rows.labels)
    assert not set(others[1].index) & (set(rows.index) | set(aside)) and len(others[1]) == 100
    noisy = others[1].labels != np.array(reviews.train["label"])[others[1].index]
    assert noisy.sum() == 25
    tested = task.tested(8, 10, 40)
    assert np.array_equal(tested.index, np.sort(np.random.default_rng(0).permutation(240)[10:40]))


def test_the_floor_counts_the_words_of_the_same_reviews(in_small, monkeypatch):
    in_small("floor")
    told = []

    class Told(topics.TfidfVectorizer):
        def fit_transform(self, texts, y=None):
            told.append(list(texts))
            return super().fit_transform(texts, y)

    monkeypatch.setattr(topics, "TfidfVectorizer", Told)
    runs = [imdb_floor.run("floor-small", arm, 1) for arm in ("same words", "whole reviews")]
    rng = np.random.default_rng(1)
    models.draw(embedded()[1].model, task.HEAD, rng)
    rows, _ = task.reviews_of(records.protocol("imdb-last-small"), rng)
    texts = [embedded()[0].train["text"][i] for i in rows.index]
    assert told[1] == texts
    for short, text in zip(told[0], texts, strict=True):
        assert 0 < len(short) < len(text) and short.split()[0].strip(".,'") in text.lower()
    assert all(compact.unpack(run.numbers["right"], 30).mean() == run.numbers["accuracy"] for run in runs)


# ---- grids


@pytest.fixture
def grid(monkeypatch):
    """Let a section have runs with given accuracies: {arm: {rate: [accuracy of each seed]}}."""
    section = {
        "arms": ["plain"],
        "seeds": [1, 2],
        "grid_learning_rate": [0.1, 0.2, 0.4],
        "edges": ["accuracy"],
    }
    section |= {"drop_collapsed": False}

    def put(found, **changes):
        monkeypatch.setattr(records, "protocol", lambda name: section | changes)
        runs = [
            {"arm": arm, "seed": seed, "rate": rate, "numbers": {"accuracy": value, "nll": 1 - value**2}}
            for arm, rates in found.items()
            for rate, values in rates.items()
            for seed, value in zip((1, 2), values, strict=False)
        ]
        monkeypatch.setattr(records, "runs", lambda name: runs)
        tuning.best.cache_clear()

    yield put
    tuning.best.cache_clear()


def test_the_best_mean_wins_and_the_smaller_rate_of_two(grid):
    grid({"plain": {0.1: [0.5, 0.7], 0.2: [0.9, 0.7], 0.4: [0.8, 0.8]}})
    assert tuning.best("some", "accuracy") == {"plain": 0.2}
    assert tuning.best("some", "nll") == {"plain": 0.2}  # 1 - 0.65 against 1 - 0.64
    assert len(tuning.declared("some")) == 6


@pytest.mark.parametrize("best, further", [(0.1, 0.05), (0.4, 0.8)])
def test_an_edge_widens_the_grid_once_all_runs_are_there(grid, best, further):
    values = {rate: [0.6, 0.6] for rate in (0.1, 0.2, 0.4)} | {best: [0.9, 0.9]}
    grid({"plain": values})
    assert tuning.declared("some")[6:] == [("plain", 1, further), ("plain", 2, further)]
    with pytest.raises(ValueError, match=rf"some lacks 2 runs, \('plain', 1, {further}\) first"):
        tuning.best("some", "accuracy")
    grid({"plain": values | {best: [0.9]}})  # not yet all
    assert len(tuning.declared("some")) == 6
    grid({"plain": values | {further: [0.5, 0.6]}})
    assert len(tuning.declared("some")) == 8 and tuning.best("some", "accuracy") == {"plain": best}
    grid({"plain": values}, edges=[])
    assert len(tuning.declared("some")) == 6


def test_a_rate_at_which_a_seed_collapsed_is_not_eligible(grid):
    found = {"plain": {0.1: [0.6, 0.62], 0.2: [0.7, 0.7], 0.4: [0.99, 0.54]}}
    grid(found, edges=[])
    assert tuning.best("some", "accuracy") == {"plain": 0.4}
    grid(found, drop_collapsed=True)  # the median is 0.66, the midpoint 0.58
    assert tuning.best("some", "accuracy") == {"plain": 0.2}


# ---- runs


def numbers(folder):
    """Return the numbers of all runs below a folder but their times."""
    found = {}
    for file in sorted(Path(folder).glob("*/*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        found[file.name] = {name: value for name, value in record["numbers"].items() if name != "seconds"}
    return found


PROGRAM = """
import sys, time, test_sweep
from pathlib import Path
from rsf.__main__ import main
from rsf.lab import models
folder = Path(sys.argv[1])
for (where, what), value in test_sweep.small(folder).items():
    setattr(where, what, value)
pad, begun = models.pad_hidden, []
def waiting_in_the_third_run(rows):
    if len(list(folder.glob("*/*.json"))) == 2:
        begun.append(len(rows))
        if len(begun) == 3:
            (folder / "waits").touch()
            time.sleep(600)
    return pad(rows)
models.pad_hidden = waiting_in_the_third_run
main(["experiment", "imdb-last-small-tuning"])
"""


def test_a_sweep_that_is_killed_and_started_again_gives_the_same_files(in_small, tmp_path, capsys):
    killed = tmp_path / "killed"
    paths = [str(records.ROOT), str(records.ROOT / "tests"), str(records.ROOT / "tests" / "lab")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", PROGRAM, str(killed)]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (killed / "waits").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == (1 if sys.platform == "win32" else -9)  # in the middle
    before = numbers(killed)
    assert len(before) == 2 and (killed / "waits").exists()
    in_small("killed")
    assert not main(["experiment", "imdb-last-small-tuning"])
    in_small("at once")
    assert not main(["experiment", "imdb-last-small-tuning"])
    assert len(numbers(killed)) == 12 and numbers(killed) == numbers(tmp_path / "at once")
    assert before.items() <= numbers(killed).items()
    assert set(numbers(killed)["plain-7-0.001.json"]) == {
        *("accuracy", "nll", "acceptance_rate", "forward_passes", "budget", "scored", "trained", "steps"),
        "learning_rate",
    }

    # what was tuned is then run, and can be folded
    assert not main(["experiment", "imdb-last-small"])
    runs = {(run["arm"], run["seed"]): run for run in records.runs("imdb-last-small")}
    assert len(runs) == 8
    best = tuning.best("imdb-last-small-tuning", "accuracy")
    for (arm, _), run in runs.items():
        found = run["numbers"]
        assert found["learning_rate"] == best["plain" if "plain" in arm else "article"]
        right = compact.unpack(found["right"], 30)
        assert right.mean() == found["accuracy"] and sum(found["calibration"]["count"]) == 30
        losses = compact.unpack_values(found["nll_each"])
        assert (
            losses.mean() == pytest.approx(found["nll"], rel=1e-3) and ((losses < np.log(2)) == right).all()
        )
        assert sum(found["kept_by_twentieth"]) * (1 if arm == "at_rate-0.5" else 8) >= found["trained"]
        assert found["forward_passes"] == found["scored"] + 3 * found["trained"] >= found["budget"]
    tuned = [run for run in records.runs("imdb-last-small-tuning") if run["arm"] == "article"]
    trained = [run["numbers"]["trained"] for run in tuned if run["rate"] == best["article"]]
    assert runs["plain-short", 1]["numbers"]["budget"] == round(3 * np.mean(trained))
    assert Counter(run["numbers"]["scored"] > 0 for run in runs.values()) == {True: 4, False: 4}
    for run in runs.values():
        verify.setting(run)
        with pytest.raises(ValueError, match=r"learning_rate is 0.1, and made again"):
            verify.setting(run | {"numbers": run["numbers"] | {"learning_rate": 0.1}})
    with pytest.raises(ValueError, match=r"budget is 9, and made again"):
        verify.setting(
            runs["plain-short", 2] | {"numbers": runs["plain-short", 2]["numbers"] | {"budget": 9}}
        )
    records.fold("imdb-last-small")
    assert len(records.runs("imdb-last-small")) == 8
    capsys.readouterr()
    assert not main(["experiment", "imdb-last-small"])
    assert "8 of 8 runs are stored" in capsys.readouterr().out


def test_what_is_not_tuned_yet_says_so(in_small, capsys):
    in_small("not tuned")
    assert main(["experiment", "imdb-last-small", "--arms", "article", "--seeds", "1"]) == 2
    assert "imdb-last-small-tuning lacks 12 runs" in capsys.readouterr().err
