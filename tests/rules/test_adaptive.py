"""Rules that decide from the past, on worlds where the right rate, rank or k is known exactly, and over runs that drift."""

import json
import subprocess
import sys
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np
import pytest
from test_fixed import POINTWISE

from rsf import finite
from rsf.acceptance import accept
from rsf.rules import above, adaptive, at_rate, clipped, constant, easy, percentile, random_like, tilted

LAW, VALUES = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.6, 2.0])  # a world of three losses
FAMILIES = {
    "clipped": clipped,
    "above": above,
    "easy": easy,
    "tilted": lambda beta: tilted(beta, 1.0, clip=True),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
every_rate = pytest.mark.parametrize("rate", [0.3, 0.5, 0.9])


def information(rule, past):
    """Return (mutual information of criterion and decision given one block of the past, acceptance rate): sums over all outcomes."""
    rule.observe(np.array(past))
    a = rule(VALUES)
    joint = np.array([LAW * a, LAW * (1 - a)])  # (decision, value)
    independent = joint.sum(axis=1, keepdims=True) * LAW
    there = joint > 0
    return float(np.sum(joint[there] * np.log(joint[there] / independent[there]))), float(LAW @ a)


@pytest.mark.parametrize("rule", [case[0] for name, case in POINTWISE.items() if name != "tilted"], ids=str)
def test_the_control_is_blind_and_has_the_rate_of_the_rule_exactly_on_a_finite_world(rule):
    rate = 0.0
    for past in product(range(3), repeat=3):  # all that it can have seen
        bits, kept = information(random_like(rule), VALUES[list(past)])
        assert bits < 1e-15
        rate += np.prod(LAW[list(past)]) * kept
    assert rate == pytest.approx(LAW @ rule(VALUES), rel=1e-13, abs=1e-15)
    assert (information(rule, [0.1])[0] > 1e-3) == (
        np.ptp(rule(VALUES)) > 0
    )  # the counter-check: a rule that looks


def rates(rule, losses, block=32):
    """Return the acceptance probabilities that a run over these losses decides by."""
    a = []
    for part in np.split(losses, range(block, len(losses), block)):
        a.append(rule(part))
        rule.observe(part)
    return np.concatenate(a)


T = np.arange(1536)
FALL = np.exp(-np.log(100) * T / len(T))  # by 100x
NOISE = np.random.default_rng(40).normal(size=len(T))
RUNS = {
    "falling": np.exp(0.5 * NOISE) * FALL,
    "falling, narrow": (1 + 0.05 * NOISE)
    * FALL,  # within one window all losses leave the range of the window before
    "falling, all alike": FALL,
    "constant": np.full(len(T), 0.7),
    "all zero": np.zeros(len(T)),
    "half zero": np.maximum(NOISE, 0.0),
    "errors": np.float64(NOISE > 0.6),
    "twelve decades": 10.0 ** (2 * NOISE),
}


@every_family
@every_rate
@pytest.mark.parametrize("losses", RUNS.values(), ids=RUNS)
def test_the_rate_is_held_after_one_window(family, rate, losses):
    a = rates(at_rate(family, rate, window=256), losses)
    assert a.mean() == pytest.approx(1 - rate, abs=0.02) and a[256:].mean() == pytest.approx(
        1 - rate, abs=0.02
    )


@every_rate
@pytest.mark.parametrize("family", [clipped, above, easy])
@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_rate_is_held_again_one_window_after_a_jump(family, rate, factor):
    losses = np.exp(0.5 * NOISE) * np.where(T < 768, 1.0, factor)
    a = rates(at_rate(family, rate, window=256), losses)
    assert a[768 + 256 :].mean() == pytest.approx(1 - rate, abs=0.02)
    assert abs(a[768:800].mean() - 1 + rate) > 0.05  # the jump was felt


def test_without_making_up_for_the_windows_lag_the_rate_is_lost(monkeypatch):
    monkeypatch.setattr(adaptive, "SPEED", 0)
    for family in (clipped, above):
        assert abs(rates(at_rate(family, 0.5, window=256), RUNS["falling, narrow"])[256:].mean() - 0.5) > 0.1


def test_with_all_losses_zero_or_alike_it_accepts_blindly_at_one_minus_the_rate():
    for losses, family in product((RUNS["all zero"], RUNS["constant"]), FAMILIES.values()):
        np.testing.assert_allclose(rates(at_rate(family, 0.3), losses[:640]), 0.7, rtol=0, atol=1e-9)


def trained(rule, blocks=320, size=32):
    """Train a logistic model on what the rule keeps; return A and the coins of all candidates, and the mean loss of each block."""
    rng = np.random.default_rng(30)
    x = rng.normal(size=(blocks, size, 6))
    y = np.sign(x[..., 0])
    x[..., 0] += 0.5 * y  # separable: losses can fall for ever
    theta, a, kept, losses = np.zeros(6), [], [], []
    for features, labels in zip(x, y, strict=True):
        loss, gradient = finite.logistic(features, labels, theta)
        log_a = rule.log_probability(loss)
        a, losses = [*a, np.exp(log_a)], [*losses, loss.mean()]
        kept.append(accept(log_a, rng))
        rule.observe(loss)
        theta = theta - 6.0 * (kept[-1] @ gradient) / size
    return np.concatenate(a), np.concatenate(kept), np.array(losses)


@every_rate
@pytest.mark.parametrize("family", [clipped, above])
def test_the_rate_is_held_over_a_training_run_whose_losses_fall_by_100(family, rate):
    a, kept, losses = trained(at_rate(family, rate))
    assert losses[0] > 100 * losses[-16:].mean()
    assert kept[512:].mean() == pytest.approx(1 - rate, abs=0.02)
    for quarter in np.array_split(a[512:], 4):
        assert quarter.mean() == pytest.approx(1 - rate, abs=0.02)


def test_a_fixed_k_does_not_hold_it():
    k = finite.clip_level([1.0], [np.log(2)], 0.5)  # right at the first step
    _, kept, _ = trained(clipped(k))
    assert kept[:32].mean() == pytest.approx(0.5, abs=0.2) and kept[-512:].mean() < 0.05


@every_family
@every_rate
def test_the_mean_probability_differs_by_the_change_of_level_over_gain_and_length(family, rate):
    rule, losses = at_rate(family, rate, window=256), RUNS["falling, narrow"]
    rates(rule, losses[:512])
    level = rule.level
    error = rates(rule, losses[512:]).mean() - (1 - rate)
    assert error == pytest.approx(-(rule.level - level) / (8 / 256 * 1024), abs=1e-12)


POPULATION, MASS = (
    np.array([0.1, 0.4, 0.4, 0.9, 1.3, 0.0, 0.4, 2.2]),
    np.full(8, 1 / 8),
)  # listed, with ties and a zero


def seen(rule, values=POPULATION):
    rule.observe(values)
    return rule


@pytest.mark.parametrize("rate", [0.2, 0.3, 0.5, 0.6, 0.9])
def test_the_k_found_is_the_exact_one_of_a_listed_world(rate):
    rule = seen(at_rate(clipped, rate))
    k = finite.clip_level(MASS, POPULATION, rate)
    assert rule.k == pytest.approx(k, rel=1e-12)
    np.testing.assert_allclose(rule(POPULATION), np.minimum(1, POPULATION / k), rtol=1e-12)
    for family in FAMILIES.values():
        assert seen(at_rate(family, rate))(POPULATION).mean() == pytest.approx(1 - rate, abs=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.3, 0.5, 0.7, 0.9])
def test_a_threshold_at_a_rate_keeps_the_worst_share_with_ties_at_random(rate):
    a = seen(at_rate(above, rate))(POPULATION)
    np.testing.assert_allclose(
        MASS * a / (1 - rate), finite.tail_law(MASS, POPULATION, rate), rtol=0, atol=1e-12
    )


def test_a_threshold_may_be_negative_a_scale_may_not():
    rewards = np.array([-5.0, -3.0, -1.0, -0.5])
    for rate, k, a in ((0.5, -3.0, [0, 0, 1, 1]), (0.4, -3.0, [0, 0.4, 1, 1]), (0.1, -5.0, [0.6, 1, 1, 1])):
        rule = seen(at_rate(above, rate), rewards)
        assert rule.k == k and rule(rewards).tolist() == pytest.approx(a, abs=1e-12)
    assert seen(at_rate(clipped, 0.5)).k > 0


def test_where_no_k_is_generous_enough_zeros_are_kept_at_random():
    a = seen(at_rate(clipped, 0.1), np.array([0.0, 0.0, 0.5, 0.7, 0.8]))(
        [0.0, 0.5, 3.0]
    )  # at the most 3 of 5 by the family itself
    assert a == pytest.approx([0.75, 1, 1])  # 0.9 = (3 + 2 * 0.75) / 5


def test_before_the_first_block_and_after_an_empty_one_it_keeps_at_one_minus_the_rate():
    rule = at_rate(above, 0.3)
    for _ in range(2):
        assert rule([0.0, 9.0]).tolist() == [0.7, 0.7] and np.isnan(rule.k)
        rule.observe(np.zeros(0))


def test_a_block_as_large_as_the_window_does_not_make_the_level_swing():
    levels, rule = [], at_rate(clipped, 0.5, window=16)
    for block in np.split(RUNS["falling"], 24):
        rule.observe(block)
        levels.append(rule.level)
    assert np.ptp(levels) < 0.5 and rates(rule, RUNS["constant"], block=64)[128:] == pytest.approx(
        0.5, abs=0.01
    )


MOVING = {
    "at_rate": lambda: at_rate(clipped, 0.4, window=40),
    "at_rate, ties": lambda: at_rate(above, 0.4, window=40),
    "at_rate, partial": lambda: at_rate(partial(tilted, ceiling=9.0, clip=True), 0.4, window=40),
    "percentile": lambda: percentile(2, window=40),
    "random_like": lambda: random_like(at_rate(easy, 0.4, window=20), window=40),
    "random_like, twice": lambda: random_like(random_like(percentile(1, window=20), window=30), window=40),
}
every_moving = pytest.mark.parametrize("make", MOVING.values(), ids=MOVING)
BLOCKS = np.split(
    np.round(np.random.default_rng(41).exponential(size=165), 1), range(12, 165, 12)
)  # rounded: with ties


@every_moving
def test_a_restored_rule_goes_on_exactly_alike(make):
    rule, other = make(), make()
    for block in BLOCKS[:7]:
        rule.observe(block / 3)
    other.load_state_dict(json.loads(json.dumps(rule.state_dict())))
    for block in BLOCKS[7:]:
        assert other.state_dict() == rule.state_dict()
        assert other.log_probability(block).tolist() == rule.log_probability(block).tolist()
        rule.observe(block)
        other.observe(block)
    assert make().state_dict() != rule.state_dict()  # there was something to restore


@every_moving
def test_a_rule_that_is_set_to_its_first_state_begins_anew_exactly(make):
    rule, fresh = make(), make()
    beginning = json.loads(json.dumps(rule.state_dict()))
    as_it_was = rule.state_dict()  # also without the way through a file it does not change with the rule
    for first in (beginning, as_it_was):
        for block in BLOCKS[:7]:
            rule.observe(block / 3)
        rule.load_state_dict(first)
        other = make()
        assert rule.state_dict() == fresh.state_dict()
        assert repr(getattr(rule, "k", None)) == repr(getattr(fresh, "k", None))
        for block in BLOCKS:
            assert rule(block).tolist() == other(block).tolist()
            rule.observe(block)
            other.observe(block)
            assert rule.state_dict() == other.state_dict()
        rule.load_state_dict(first)
        assert rule(BLOCKS[0]).tolist() == fresh(BLOCKS[0]).tolist()


@every_moving
def test_a_decision_uses_the_past_and_asking_changes_nothing(make):
    rule, fresh = make(), make()
    for block in BLOCKS[:5]:
        rule.observe(block)
    before = json.dumps(rule.state_dict())
    apart = [rule([value])[0] for value in BLOCKS[5]]
    assert rule(BLOCKS[5]).tolist() == apart  # the others of the block have no say
    assert json.dumps(rule.state_dict()) == before and rule(BLOCKS[5]).tolist() != fresh(BLOCKS[5]).tolist()
    rule.observe(BLOCKS[5])
    assert json.dumps(rule.state_dict()) != before


@every_moving
def test_probabilities_lie_in_0_1_and_what_is_forgotten_has_no_say(make):
    rule, other = make(), make()
    rule.observe(np.full(100, 50.0))
    other.observe(np.full(100, 0.0))
    for block in BLOCKS * 2:
        a = rule(block)
        assert a.shape == block.shape and (a >= 0).all() and (a <= 1).all()
        rule.observe(block)
        other.observe(block)
    assert rule([0.1, 0.7, 9.0]) == pytest.approx(other([0.1, 0.7, 9.0]), abs=1e-6)
    assert sum(n for n, _ in rule._past) < 40 + 12


def rank_power(value, past, power):
    """Return the mean of u ** power over the ranks that the value spans, in exact fractions."""
    below, tied = sum(r < value for r in past), sum(r == value for r in past)
    low, high = Fraction(below, len(past)), Fraction(below + tied, len(past))
    return float(
        (high ** (power + 1) - low ** (power + 1)) / ((power + 1) * (high - low)) if tied else low**power
    )


@pytest.mark.parametrize("power", [0, 1, 3, 7])
def test_percentile_is_the_power_of_the_rank_with_ties_sharing_theirs(power):
    past = [0.1, 0.4, 0.4, 0.9, 1.3, 0.0, 0.4, 2.2]
    rule = seen(percentile(power), np.array(past))
    values = [-1.0, 0.0, 0.05, 0.4, 0.5, 2.2, 9.0]
    assert rule(np.reshape(values, (7, 1))).ravel() == pytest.approx(
        [rank_power(v, past, power) for v in values], rel=1e-13
    )


def test_the_rate_of_percentile_is_1_over_power_plus_1_also_with_ties_and_before_anything_was_seen():
    for power in (0, 0.5, 1, 4):
        assert percentile(power)([3.0, 4.0]) == pytest.approx([1 / (power + 1)] * 2)
        assert seen(percentile(power))(POPULATION).mean() == pytest.approx(1 / (power + 1), rel=1e-13)
        assert seen(percentile(power), np.zeros(9))([0.0]) == pytest.approx(1 / (power + 1))


@pytest.mark.parametrize("power", [1, 2, 5])
def test_ranks_descend_the_expected_maximum_of_power_plus_1_losses(power):
    gradients = np.random.default_rng(42).normal(size=(8, 3))
    got = finite.kept_gradient(MASS, seen(percentile(power))(POPULATION), gradients)
    np.testing.assert_allclose(
        got, finite.best_of_n_law(MASS, POPULATION, power + 1) @ gradients / (power + 1), rtol=0, atol=1e-14
    )
    other = finite.best_of_n_law(MASS, POPULATION, power + 2) @ gradients / (power + 2)
    assert not np.allclose(got, other, rtol=0, atol=1e-3)


def test_rules_from_the_past_read_well_in_a_legend():
    assert [str(at_rate(clipped, 0.3)), str(percentile(2))] == [
        "clipped at rejection rate 0.3",
        "percentile ** 2",
    ]
    assert str(random_like(at_rate(above, 0.5))) == "random at the rate of above at rejection rate 0.5"


class Tilt:
    """A family that is an object, and one that is a method of it."""

    def __init__(self, ceiling):
        self.ceiling = ceiling

    def __call__(self, beta):
        return tilted(beta, self.ceiling)

    def steep(self, beta):
        return tilted(beta / 2, self.ceiling)


class Nameless:
    """A rule of somebody's own, without a text."""

    def log_probability(self, criterion):
        return np.minimum(np.asarray(criterion), 0.0)


def halved(k):
    return clipped(k / 2)


TEXTS = {
    "ours": (lambda: easy, "easy"),
    "partial": (lambda: partial(tilted, ceiling=1.0), "tilted(ceiling=1.0)"),
    "partial, two": (
        lambda: partial(tilted, clip=True, ceiling=2.5),
        "tilted(ceiling=2.5, clip=True)",
    ),
    "partial of a partial": (
        lambda: partial(partial(tilted, 0.5), clip=True),
        "tilted(0.5, clip=True)",
    ),
    "partial of nothing": (lambda: partial(clipped), "clipped"),
    "lambda": (lambda: lambda beta: tilted(beta, 1.0), "exp((r - 1) / k)"),
    "partial of a lambda": (
        lambda: partial(lambda beta, top: tilted(beta, top), top=3.0),
        "exp((r - 3) / k)",
    ),
    "function": (lambda: halved, "halved: min(1, loss / 0.617285) at k = 1.23457"),
    "object": (lambda: Tilt(4.0), "Tilt: exp((r - 4) / k)"),
    "method": (lambda: Tilt(4.0).steep, "steep: exp((r - 4) / 0.617285) at k = 1.23457"),
    "rule without a text": (
        lambda: lambda k: Nameless(),
        "<test_adaptive.Nameless object> at k = 1.23457",
    ),
}


@pytest.mark.parametrize("make, text", TEXTS.values(), ids=TEXTS)
def test_the_text_of_a_family_says_what_it_is_and_holds_no_address(make, text):
    one, other = at_rate(make(), 0.5), random_like(at_rate(make(), 0.5))
    assert str(one) == f"{text} at rejection rate 0.5"
    assert str(other) == f"random at the rate of {one}"


def test_families_that_hold_other_numbers_have_other_texts():
    for make in (
        Tilt,
        lambda top: Tilt(top).steep,
        lambda top: partial(tilted, ceiling=top),
        lambda top: lambda beta: tilted(beta, top),
    ):
        assert str(at_rate(make(1.0), 0.5)) == str(at_rate(make(1.0), 0.5)) != str(at_rate(make(2.0), 0.5))


def test_the_text_of_a_family_is_the_same_in_another_process():
    code = (
        "from functools import partial; from rsf.rules import at_rate, clipped, tilted\n"
        "for family in (partial(tilted, ceiling=1.0), lambda k: tilted(k, 1.0), clipped): print(at_rate(family, 0.5))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = (at_rate(f, 0.5) for f in (partial(tilted, ceiling=1.0), lambda k: tilted(k, 1.0), clipped))
    assert run.stdout.splitlines() == [str(rule) for rule in here]


ERRORS = {
    "rate 1": (lambda: at_rate(clipped, 1), r"\[0, 1\), got 1"),
    "rate negative": (lambda: at_rate(clipped, -0.1), r"\[0, 1\), got -0.1"),
    "a rule, not a family": (
        lambda: at_rate(clipped(0.5), 0.3),
        r"like clipped \(not clipped\(0.5\)\), got min",
    ),
    "no family": (lambda: at_rate(0.5, 0.3), "got 0.5"),
    "a family with a largest k": (lambda: at_rate(constant, 0.3), r"must lie in \[0, 1\]"),
    "window": (lambda: at_rate(clipped, 0.3, window=0.5), "at least 1, got 0.5"),
    "power": (lambda: percentile(-1), "at least 0, got -1"),
    "no surrogate, moving k": (
        lambda: at_rate(clipped, 0.3).surrogate(0.5),
        "its k moves with the model.*CVaR",
    ),
    "no surrogate, ranks": (lambda: percentile(2).surrogate(0.5), r"E\[max of 3 losses\] / 3"),
    "NaN observed": (lambda: at_rate(clipped, 0.3).observe([0.1, np.nan]), r"nan at index \(1,\)"),
    "infinity asked": (lambda: percentile(1)([np.inf]), r"inf at index \(0,\)"),
}


@pytest.mark.parametrize("act, message", ERRORS.values(), ids=ERRORS)
def test_an_error_names_what_is_wrong(act, message):
    with pytest.raises(ValueError, match=message):
        act()
