"""Judges of anybody's accept-reject code: named faults are caught, right code is not accused, errors name what is wrong."""

import json
import math

import numpy as np
import power
import pytest
import torch
from imitations import CASES, DRAFTER, MODEL, TEXTS, best_two
from scipy import stats

from rsf.checks import draws_law, estimates, same_counts

ids = [case.fault for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_planted_fault_is_caught_and_its_right_twin_is_not_accused(case):
    """The short form of tests/power.py: 12 and 30 in place of 200 and 2,000."""
    assert case.calls <= 20_000
    for found in power.verdicts(case, case.faulty, 12, 4):
        assert not found and found.p_value < 1e-3 and str(found).endswith(": FAIL")
    right = power.verdicts(case, case.right, 30, 5)
    assert sum(not found for found in right) <= 1
    assert 0.2 < np.mean([found.p_value for found in right]) < 0.8


def test_the_stored_power_is_what_was_asked_for():
    stored = json.loads(power.FILE.read_text(encoding="utf-8"))
    assert [row["fault"] for row in stored["faults"]] == ids and stored["level"] == 1e-3
    for row, case in zip(stored["faults"], CASES, strict=True):
        assert (row["repeats"], row["twins"], row["calls"]) == (200, 2_000, case.calls)
        assert row["caught"] >= 198 and row["alarms"] <= 8 and row["enough"] <= case.calls <= 20_000
    passed = {what: found["passed"] for what, found in stored["transformers"].items()}
    assert list(passed.values()) == [True, True, False, True, False, True]


def test_the_worlds_of_the_imitations_are_laws():
    assert math.isclose(sum(TEXTS.values()), 1)
    for text, law in DRAFTER.items():
        assert [law.sum(), MODEL[text].sum()] == pytest.approx([1, 1]) and (best_two(law) > 0).sum() == 2


def test_the_installed_transformers_draws_the_models_law_with_a_drafter():
    """What README and notebook 16 tell of five thousand calls, in a short form."""
    found = power.installed(200)
    assert [bool(verdict) for verdict in found.values()] == [True, True, False, True, False, True], found


# ---- draws_law


def test_the_cell_that_is_most_off_is_named_in_standard_errors():
    law = np.array([0.5, 0.3, 0.15, 0.05])
    wrong = np.array([0.5, 0.28, 0.15, 0.07])
    found = draws_law(lambda rng: rng.choice(4, p=wrong), law, np.random.default_rng(0))
    assert found.cell == 3 and not found and "most off 3, 0.0" in str(found) and "for 0.0500" in str(found)


def test_the_p_value_is_that_of_the_counts():
    def sampler(rng):
        return int(rng.integers(3))

    found = draws_law(sampler, [0.3, 0.3, 0.4], np.random.default_rng(1), calls=500, level=0.01)
    rng = np.random.default_rng(1)
    counts = np.bincount([sampler(rng) for _ in range(500)], minlength=3)
    same = same_counts(counts, [0.3, 0.3, 0.4], level=0.01)
    assert (found.p_value, found.passed, found.estimate) == (same.p_value, same.passed, same.estimate)


@pytest.mark.parametrize(
    "outcome",
    [
        lambda a, b: (a, b),
        lambda a, b: [a, b],
        lambda a, b: np.array([a, b]),
        lambda a, b: torch.tensor([a, b]),
        lambda a, b: (np.int64(a), torch.tensor(b)),
    ],
    ids=["tuple", "list", "array", "tensor", "scalars"],
)
def test_tuples_lists_arrays_and_tensors_are_one_outcome(outcome):
    joint = np.outer([0.3, 0.7], [0.6, 0.4])

    def sampler(rng):
        return outcome(int(rng.random() > 0.3), int(rng.random() > 0.6))

    as_mapping = {(a, b): joint[a, b] for a in range(2) for b in range(2)}
    for law in (joint, joint.tolist(), as_mapping):
        assert draws_law(sampler, law, np.random.default_rng(2), calls=1_000)


def test_texts_none_and_nested_tuples_are_outcomes_too():
    law = {"a": 0.2, None: 0.3, ("b", (1, None)): 0.5}
    outcomes = list(law)
    found = draws_law(lambda rng: outcomes[rng.choice(3, p=[0.2, 0.3, 0.5])], law, np.random.default_rng(3))
    assert found and found.cell in law


def test_one_outcome_that_the_law_does_not_have_is_enough_to_fail():
    calls = iter(range(20_000))
    found = draws_law(
        lambda rng: 7 if next(calls) == 19_999 else int(rng.integers(2)), [0.5, 0.5], np.random.default_rng(4)
    )
    assert (
        not found and found.p_value == 0 and found.cell == 7 and "most off 7, 0.0001 for 0.0000" in str(found)
    )
    never = draws_law(lambda rng: int(rng.integers(2)), [0.5, 0.5, 0.0], np.random.default_rng(4))
    assert never


def test_a_shared_coin_is_seen_only_in_what_comes_out_together():
    def rows(rng):
        coin = rng.random()
        return coin < 0.3, coin < 0.6

    alone = draws_law(lambda rng: rows(rng)[0], {True: 0.3, False: 0.7}, np.random.default_rng(5))
    both = {(a, b): (0.3 if a else 0.7) * (0.6 if b else 0.4) for a in (True, False) for b in (True, False)}
    together = draws_law(rows, both, np.random.default_rng(5))
    assert alone and not together and together.cell == (True, False)  # a coin below 0.3 is below 0.6


def never(rng):
    pytest.fail("called, although the answer cannot be judged")


@pytest.mark.parametrize(
    "law, words",
    [
        ([0.5, 0.6], "2 probabilities summing to 1.1, 10 counts"),
        ({0: 1.5, 1: -0.5}, "one probability per cell"),
        ([0.5, math.nan], "summing to nan"),
        ({}, "0 probabilities"),
        (np.full(4, 1 / 4), "one cell is left"),
    ],
)
def test_what_is_no_law_or_too_fine_for_the_calls_is_refused_before_the_first(law, words):
    with pytest.raises(ValueError, match=words):
        draws_law(never, law, np.random.default_rng(6), calls=10)


@pytest.mark.parametrize("as_law", [np.asarray, torch.tensor, lambda law: torch.tensor(law).requires_grad_()])
def test_a_law_in_single_precision_is_made_to_sum_to_1(as_law):
    law = as_law(np.full(7, 1 / 7, dtype=np.float32))
    assert abs(sum(law.tolist()) - 1) > 1e-9
    found = draws_law(lambda rng: int(rng.integers(7)), law, np.random.default_rng(13), calls=1_000)
    assert found and "for 0.1429" in str(found)
    with pytest.raises(ValueError, match=r"summing to 0\.99"):
        draws_law(never, np.full(7, 0.999 / 7), np.random.default_rng(13))


def test_a_series_is_read_by_its_labels():
    pd = pytest.importorskip("pandas")
    law = pd.Series({"a": 0.3, "b": 0.7})
    assert draws_law(lambda rng: "ab"[int(rng.random() > 0.3)], law, np.random.default_rng(14), calls=1_000)


def test_all_that_is_not_a_number_is_one_outcome():
    found = draws_law(
        lambda rng: float("nan") if rng.random() < 0.1 else np.float32("nan"),
        [0.5, 0.5],
        np.random.default_rng(15),
    )
    assert not found and math.isnan(found.cell) and "most off nan, 1.0000 for 0.0000" in str(found)


@pytest.mark.parametrize("outcome", [{"a": 1}, {1}, (1, [{2}]), iter([1])])
def test_what_cannot_be_counted_is_named(outcome):
    for judge, truth in ((draws_law, [1.0]), (estimates, 1.0)):
        with pytest.raises(TypeError, match=r"one call must return a number.*got "):
            judge(lambda rng: outcome, truth, np.random.default_rng(16))


def test_recorded_outcomes_that_are_too_few_are_counted():
    for judge, truth in ((draws_law, [0.5, 0.5]), (estimates, 0.5)):
        recorded = iter([0, 1] * 20)
        with pytest.raises(ValueError, match=r"call 41 of 20,000 had nothing left.*calls=40 would do"):
            judge(lambda rng, recorded=recorded: next(recorded), truth, np.random.default_rng(17))
        recorded = iter([0, 1] * 20)
        assert judge(
            lambda rng, recorded=recorded: next(recorded), truth, np.random.default_rng(17), calls=40
        )


# ---- estimates


def test_the_interval_is_students_and_the_p_value_belongs_to_it():
    def estimator(rng):
        return rng.exponential()

    for level in (1e-3, 0.05):
        found = estimates(estimator, 1.0, np.random.default_rng(7), calls=400, level=level)
        rng = np.random.default_rng(7)
        seen = np.array([estimator(rng) for _ in range(400)])
        test = stats.ttest_1samp(seen, 1.0)
        low, high = test.confidence_interval(1 - level)
        assert (found.estimate, found.low, found.high) == pytest.approx((seen.mean(), low, high))
        assert found.p_value == pytest.approx(test.pvalue) and found.passed == (test.pvalue >= level)
        assert found.cell is None and str(found).startswith("estimates 1.0000: mean ")


def test_of_an_array_the_component_that_is_most_off_is_judged_for_all_of_them():
    def gradient(rng):
        return np.array([[0.0, 1.0], [2.0, 3.018]]) + 0.5 * rng.normal(size=(2, 2))

    value = [[0.0, 1.0], [2.0, 3.0]]
    found = estimates(gradient, value, np.random.default_rng(8), calls=10_000)
    assert not found and found.cell == (1, 1) and "estimates 3.0000 at (1, 1): mean 3.0" in str(found)
    rng = np.random.default_rng(8)
    one = estimates(lambda rng: gradient(rng)[1, 1], 3.0, rng, calls=10_000)
    assert found.p_value == pytest.approx(4 * one.p_value, rel=1e-9, abs=0) and found.p_value > 1e-9
    assert found.high - found.low > one.high - one.low
    assert estimates(
        lambda rng: 0.5 * rng.normal(size=(2, 2)), np.zeros((2, 2)), np.random.default_rng(8), calls=2_000
    )


def test_a_constant_is_right_or_wrong_without_an_interval():
    rng = np.random.default_rng(9)
    right = estimates(lambda rng: 0.1 + 0.2, 0.3, rng, calls=10)
    assert right and right.p_value == 1 and (right.low, right.high) == pytest.approx((0.3, 0.3))
    wrong = estimates(lambda rng: 0.3, 0.31, rng, calls=10)
    assert not wrong and wrong.p_value < 1e-12
    for single in (np.float32(0.3), torch.tensor(0.3)):  # 0.30000001192...
        assert estimates(lambda rng, single=single: single, 0.3, rng, calls=10)
        assert not estimates(lambda rng, single=single: single, 0.3001, rng, calls=10)


@pytest.mark.parametrize(
    "as_estimate",
    [
        torch.tensor,
        lambda x: torch.tensor(x, requires_grad=True) * 1,
        lambda x: torch.tensor(x, dtype=torch.float64),
        list,
        tuple,
    ],
)
def test_tensors_with_or_without_gradients_lists_and_tuples_are_estimates(as_estimate):
    found = estimates(
        lambda rng: as_estimate(rng.random(2)), torch.tensor([0.5, 0.5]), np.random.default_rng(18), calls=500
    )
    assert found and found.estimate == pytest.approx(0.5, abs=0.05)


def test_a_baseline_that_rejected_rows_leak_into_is_caught():
    reward, keep = np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.1, 0.9, 0.2, 0.8])

    def baseline(rng, leak):
        while True:
            rows = rng.integers(4, size=8)
            kept = rng.random(8) < keep[rows]
            if kept.any():
                return reward[rows].mean() if leak else reward[rows][kept].mean()

    value = reward @ keep / keep.sum()
    assert estimates(lambda rng: baseline(rng, False), value, np.random.default_rng(10), calls=2_000)
    assert not estimates(lambda rng: baseline(rng, True), value, np.random.default_rng(10), calls=2_000)


@pytest.mark.parametrize(
    "estimator, calls, words",
    [
        (lambda rng: float("nan"), 5, "of those that 5 calls returned, 5 are not finite"),
        (lambda rng: None, 5, "5 are not finite"),
        (lambda rng: [1.0, 2.0], 5, r"of the value's shape \(\); got the shapes \[\(2,\)\]"),
        (lambda rng: [1.0] * int(rng.integers(1, 3)), 20, r"got the shapes \[\(1,\), \(2,\)\]"),
        (lambda rng: 1.0, 1, "needs 2 calls or more.*got 1 calls"),
    ],
)
def test_what_is_no_estimate_is_refused(estimator, calls, words):
    with pytest.raises(ValueError, match=words):
        estimates(estimator, 1.0, np.random.default_rng(11), calls=calls)


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, math.nan], []])
def test_what_is_no_value_is_refused_before_the_first_call(value):
    with pytest.raises(ValueError, match="a finite value; got 20000 calls and"):
        estimates(never, value, np.random.default_rng(19))


@pytest.mark.parametrize("level", [0, 1, 5, float("nan")])
def test_a_level_outside_0_to_1_is_refused(level):
    rng = np.random.default_rng(12)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\)"):
        estimates(never, 0.5, rng, calls=10, level=level)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\)"):
        draws_law(never, [0.5, 0.5], rng, calls=20, level=level)
