"""The second map of the sums: arms that spend alike, a blind control that keeps as many, a tuning in three stages."""

import json

import helpers
import numpy as np
import pytest

from rsf.lab import compact, records
from rsf.lab.tasks import addition, sums

SECTION = {
    **helpers.SUMS,
    "arms": ["rejection", "control", "control-in-rounds", "blind", "best-of-4", "gold"],
    "grid_learning_rate": [0.003, 0.006, 0.009],
    "grid_weight_decay": [1.0, 3.0, 10.0],
    "tuning": ["all", "three", "beyond"],
    "beyond": [[0.0015, 0.0135], [0.3, 30.0]],
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A protocol of a few seconds in a folder of its own, and a way to put tuning runs into it."""
    stages = {"all": [], "three": ["all"], "beyond": ["all", "three"]}
    told = {"all": "all", "three": "best three", "beyond": "beyond"}
    every = {"main": SECTION} | {
        name: SECTION | {"stage": told[name], "after": after} for name, after in stages.items()
    }
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
        for name, section in every.items()
    )
    (tmp_path / "protocol.toml").write_text(text)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    addition.base.cache_clear()

    def tuned(name, arm, seed, scores):
        numbers = {"grid": list(scores), "validation": list(scores.values()), "kept": [[3, 4]] * len(scores)}
        records.write(name, arm, seed, records.Run("d", "m", "CPU", numbers))

    yield tuned
    addition.base.cache_clear()


@pytest.mark.parametrize("arm", SECTION["arms"])
def test_every_arm_spends_the_budget_and_no_more(small, arm):
    _, reports, spent = sums.train("main", arm, 0, (0.006, 3.0), [5, 2])
    step = 3 * 32 * 9
    budget = 60 * step
    assert budget - 2 * step < spent <= budget
    if arm == "control":
        assert reports == []
        return
    samples = {"rejection": 64, "blind": 64, "best-of-4": 64}.get(arm, 0)
    assert [report.steps for report in reports] == [(20 * step - 9 * samples) // step] * 2
    examples = {"gold": 104, "control-in-rounds": 40}.get(arm)
    for report in reports:
        assert report.examples == (examples or 40 + report.sampling.kept)


def test_the_blind_control_keeps_as_many_as_it_is_told_and_not_by_what_is_right(small):
    _, reports, _ = sums.train("main", "blind", 0, (0.006, 3.0), [5, 0])
    assert [report.sampling.kept for report in reports] == [5, 0]
    chosen = sums.chooses(30, np.random.default_rng(1))(["1+1="] * 100, ["x"] * 100)
    assert sum(chosen) == 30 and chosen != sorted(chosen)


def test_best_of_4_sees_a_fresh_quarter_each_round(small, monkeypatch):
    seen = []
    learn = addition.learn
    monkeypatch.setattr(
        addition,
        "learn",
        lambda model, prompts, *a, **k: seen.append(prompts) or learn(model, prompts, *a, **k),
    )
    sums.train("main", "best-of-4", 0, (0.006, 3.0))
    rounds = [one for one in seen if len(one) == 16]
    assert len(rounds) == 2 and set(rounds[0]) != set(rounds[1])


def test_what_rejection_kept_is_read_where_it_is_stored(small, monkeypatch):
    small("all", "rejection", 0, {(0.006, 3.0): 0.5})
    monkeypatch.setattr(sums, "train", None)  # is not needed
    assert sums.kept_by_rejection("all", 0, (0.006, 3.0)) == [3, 4]


def test_all_settings_then_the_best_three_then_those_beyond_an_edge(small):
    axes = SECTION["grid_learning_rate"], SECTION["grid_weight_decay"]
    everything = sums.grid("all", "gold")
    assert len(everything) == 9 and everything[4] == (0.006, 3.0)
    for seed in (0, 1):
        small("all", "gold", seed, {one: 0.1 * (one == (0.009, 10.0)) + one[0] for one in everything})
    three = sums.grid("three", "gold")
    assert three[0] == (0.009, 10.0) and {one[0] for one in three} == {0.009}
    small("three", "gold", 1, dict.fromkeys(three, 0.0) | {three[0]: 0.9})
    assert sums.grid("beyond", "gold") == [(0.009, 30.0), (0.0135, 10.0), (0.0135, 30.0)]
    assert len(axes) == 2 and sums.best("main", "gold", ["all", "three"])[0] == (0.009, 10.0)


def test_a_winner_inside_the_grid_has_nothing_beyond(small):
    for seed in (0, 1):
        small("all", "gold", seed, {one: 0.9 * (one == (0.006, 3.0)) for one in sums.grid("all", "gold")})
    small("three", "gold", 0, {(0.006, 3.0): 0.9})
    assert sums.grid("beyond", "gold") == []


def test_a_run_holds_right_or_wrong_of_each_test_sum(small):
    for seed in (0, 1):
        small("all", "rejection", seed, {(0.006, 3.0): 0.9})
    run = sums.run("main", "rejection", 0)
    numbers = run.numbers
    assert numbers["setting"] == (0.006, 3.0) and len(numbers["kept"]) == 2
    assert compact.unpack(numbers["right"], 40).mean() == numbers["accuracy"]
