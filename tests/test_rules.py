"""Every rule against what it must be: its formula, the integral that is its surrogate, the law that it keeps."""

import json
import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from rsf.acceptance import accept
from rsf.checks import same_counts
from rsf.finite import best_of_n_law
from rsf.loader import RejectionLoader
from rsf.rules import (
    above,
    at_rate,
    best_of,
    clipped,
    constant,
    easy,
    effective_sample_size,
    inverse_weights,
    percentile,
    random_like,
    tilted,
)

# name: rule, the same acceptance probability in plain Python, where it has kinks or jumps, the range of the criterion
POINTWISE = {
    "clipped": (clipped(0.5), lambda r: min(1.0, r / 0.5), [0.5], (0.0, 3.0)),
    "clipped, large k": (clipped(40.0), lambda r: r / 40.0, [], (0.0, 3.0)),
    "easy": (easy(0.5), lambda r: min(1.0, 0.5 / r) if r else 1.0, [0.5], (0.0, 3.0)),
    "tilted": (tilted(0.7, 2.5), lambda r: math.exp((r - 2.5) / 0.7), [], (-3.0, 2.5)),
    "tilted, clip": (tilted(0.7, 0.4, clip=True), lambda r: math.exp(min(r - 0.4, 0.0) / 0.7), [0.4], (-3.0, 4.0)),
    "above": (above(1.0), lambda r: float(r >= 1.0), [1.0], (-1.0, 3.0)),
    "constant": (constant(0.3), lambda r: 0.3, [], (-1.0, 3.0)),
    "constant 0": (constant(0), lambda r: 0.0, [], (-1.0, 3.0)),
    "constant 1": (constant(1), lambda r: 1.0, [], (-1.0, 3.0)),
}
every_pointwise_rule = pytest.mark.parametrize("rule, formula, kinks, bounds", POINTWISE.values(), ids=POINTWISE)


@every_pointwise_rule
def test_the_acceptance_probability_is_the_formula_and_lies_in_0_1(rule, formula, kinks, bounds):
    r = np.array([np.linspace(*bounds, 62), np.full(62, kinks[0] if kinks else bounds[1])])
    a = rule(r)
    assert a.shape == r.shape and (a >= 0).all() and (a <= 1).all()
    np.testing.assert_allclose(a, np.vectorize(formula, otypes=[float])(r), rtol=1e-13, atol=0)
    np.testing.assert_array_equal(np.exp(rule.log_probability(r)), a)
    np.testing.assert_allclose(rule(float(r[0, 1])), formula(r[0, 1]), rtol=1e-13)


@every_pointwise_rule
def test_probabilities_are_float64_whatever_the_criterion_is_stored_as(rule, formula, kinks, bounds):
    for dtype in (np.float32, np.int64):
        r = np.array([1, 2], dtype)
        assert rule(r).dtype == rule.log_probability(r).dtype == np.float64


@every_pointwise_rule
def test_increments_of_the_surrogate_are_integrals_of_the_acceptance_probability(rule, formula, kinks, bounds):
    points = np.linspace(*bounds, 8)
    for low, high in pairwise(points):
        edges = [low, *(kink for kink in kinks if low < kink < high), high]
        integral = sum(quad(formula, a, b, epsabs=1e-14, epsrel=1e-13)[0] for a, b in pairwise(edges))
        assert abs(float(rule.surrogate(high) - rule.surrogate(low)) - integral) < 1e-12


def test_the_surrogate_of_the_article_is_the_huber_function_of_the_loss():
    losses = np.array([0.0, 0.2, 0.5, 0.7, 0.70001, 3.0, 50.0])
    for k in (0.5, 0.7, 2.0):
        loss = torch.tensor(losses)
        huber = torch.nn.functional.smooth_l1_loss(loss, torch.zeros_like(loss), beta=k, reduction="none").numpy()
        np.testing.assert_allclose(clipped(k).surrogate(losses), huber, rtol=1e-15, atol=0)


# a logistic model small enough to enumerate: 4 inputs, 2 labels, 2 parameters
X = np.array([[1.0, 0.3], [-0.4, 1.1], [0.2, -1.5], [1.3, 0.8]]).repeat(2, axis=0)  # (8, 2)
Y = np.tile([1.0, -1.0], 4)
P = np.array([0.2, 0.05, 0.1, 0.15, 0.05, 0.2, 0.15, 0.1])
THETA = np.array([0.4, -0.6])


def loss_of(theta):
    return np.log1p(np.exp(-Y * (X @ theta)))  # (8,)


def gradient_of_mean(phi):
    """Return the gradient of E[phi(loss)] at THETA by a five-point difference: error far below 1e-10."""
    mean, step = (lambda theta: float(P @ phi(loss_of(theta)))), 1e-3 * np.eye(2)
    return np.array([(mean(THETA - 2 * h) - 8 * mean(THETA - h) + 8 * mean(THETA + h) - mean(THETA + 2 * h)) / 0.012 for h in step])


def kept_gradient(rule):
    """Return E[A grad loss] at THETA, analytic."""
    slope = -Y / (1 + np.exp(Y * (X @ THETA)))  # d loss / d (x theta)
    return (P * rule(loss_of(THETA)) * slope) @ X


@every_pointwise_rule
def test_the_kept_gradient_is_the_gradient_of_the_mean_surrogate(rule, formula, kinks, bounds):
    losses = loss_of(THETA)
    assert all(np.abs(losses - kink).min() > 0.005 for kink in kinks) and losses.max() < 2.5  # smooth where differences are taken
    np.testing.assert_allclose(kept_gradient(rule), gradient_of_mean(rule.surrogate), rtol=0, atol=1e-10)


def test_the_surrogate_of_another_rule_has_another_gradient():
    rules = [clipped(0.5), clipped(1.0), easy(0.5), tilted(0.7, 2.5), above(1.0), constant(0.3)]
    for rule, other in product(rules, rules):
        same = np.allclose(kept_gradient(rule), gradient_of_mean(other.surrogate), rtol=0, atol=1e-3)
        assert same == (rule is other)


@every_pointwise_rule
def test_what_is_kept_follows_the_exact_law(rule, formula, kinks, bounds):
    values, q, n = np.array([0.05, 0.3, 0.5, 0.9, 1.4, 2.4]), np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.1]), 40_000
    rng = np.random.default_rng(0)
    candidates = rng.choice(6, size=n, p=q)
    kept = accept(rule.log_probability(values[candidates]), rng)
    mass = q * [formula(r) for r in values]
    assert stats.binomtest(int(kept.sum()), n, mass.sum()).pvalue > 1e-3
    there = mass > 0
    counts = np.bincount(candidates[kept], minlength=6)
    assert counts[~there].sum() == 0
    if not there.any():
        return  # constant(0): nothing was kept, as above
    assert stats.chisquare(counts[there], counts.sum() * mass[there] / mass.sum()).pvalue > 1e-3
    wrong = q * (1 + values)  # the counter-check: another law
    assert stats.chisquare(counts, counts.sum() * wrong / wrong.sum()).pvalue < 1e-3


def test_k_is_handled_in_log_space():
    assert clipped(1e200).log_probability(1e-200) == pytest.approx(-400 * math.log(10), rel=1e-15)  # r / k would underflow
    assert easy(1e-200).log_probability(1e200) == pytest.approx(-400 * math.log(10), rel=1e-15)


def test_the_smallest_and_the_largest_probability_are_exactly_0_and_1():
    assert clipped(0.3)(0.0) == 0 and clipped(0.3)(0.3) == 1 and easy(0.3)(0.0) == easy(0.3)(0.3) == 1
    assert above(0.3)(0.3) == 1 and above(0.3)(np.nextafter(0.3, 0)) == 0 and tilted(0.1, 0.3)(0.3) == 1


def test_only_constant_needs_no_criterion():
    assert {name for name, case in POINTWISE.items() if not case[0].needs_criterion} == {"constant", "constant 0", "constant 1"}


def test_a_fixed_rule_remembers_nothing():
    for rule, *_ in POINTWISE.values():
        before = rule(np.array([0.1, 1.2]))
        rule.observe(np.array([0.2, 2.0]))
        np.testing.assert_array_equal(rule(np.array([0.1, 1.2])), before)
        assert rule.state_dict() == {}
        rule.load_state_dict({})


def test_a_rule_reads_as_its_parameters():
    read = {clipped(0.5): "0.5", easy(0.25): "0.25", tilted(0.7, 2.5): "2.5) / 0.7", above(3): "3", constant(0.1): "0.1"}
    assert all(number in str(rule) and str(rule) in str(random_like(rule)) for rule, number in read.items())


BLOCKS = [np.array([0.1, 0.6, 1.0, 0.3]), np.array([0.05, 0.02, 0.2]), np.array([0.7, 0.0, 0.1, 0.4]), np.array([1.1, 0.15])]


def watching(blocks, window):
    control = random_like(clipped(1.0), window)
    for block in blocks:
        control.observe(block)
    return control


def test_the_control_keeps_everything_before_it_observed_anything():
    assert (random_like(clipped(1.0))(np.array([0.0, 0.01, 5.0])) == 1).all()


@pytest.mark.parametrize("window, remembered", [(1, 1), (2, 1), (3, 2), (6, 2), (7, 3), (9, 3), (10, 4), (512, 4)])
def test_the_control_keeps_at_the_rate_of_the_rule_over_its_window_in_whole_blocks(window, remembered):
    rate = np.minimum(np.concatenate(BLOCKS[-remembered:]), 1.0).mean()
    np.testing.assert_allclose(watching(BLOCKS, window)([9.0, 0.0]), [rate, rate], rtol=1e-14)


def test_the_control_is_blind_to_the_values_it_decides_on():
    a = watching(BLOCKS, 6)(np.array([[0.0, 1e-9, 0.4], [1.0, 7.0, 1e9]]))
    assert a.shape == (2, 3) and len(np.unique(a)) == 1 and 0 < a[0, 0] < 1


def test_asking_the_control_changes_nothing():
    control = watching(BLOCKS, 6)
    state, before = json.dumps(control.state_dict()), control([0.5])
    control(np.full(100, 0.9))
    control.log_probability(np.zeros(100))
    assert json.dumps(control.state_dict()) == state and control([0.5]) == before


def test_the_control_survives_json_exactly_and_goes_on_alike():
    control = watching(BLOCKS[:3], 6)
    control.observe(np.array([1, 2, 3]) / 7)
    other = random_like(clipped(1.0), 6)
    other.load_state_dict(json.loads(json.dumps(control.state_dict())))
    assert other.state_dict() == control.state_dict()
    for block in [np.zeros(0), *BLOCKS]:
        control.observe(block)
        other.observe(block)
        assert other([0.5]) == control([0.5])


def test_a_control_of_a_control_lets_the_inner_one_observe_after_it_was_asked():
    outer, fresh = (random_like(random_like(clipped(1.0), 4), 4) for _ in range(2))
    outer.observe(np.full(4, 0.2))  # the inner one had seen nothing: it kept all
    assert outer([0.0]) == 1
    fresh.load_state_dict(json.loads(json.dumps(outer.state_dict())))
    fresh.observe(np.full(4, 0.6))  # now it keeps at 0.2
    assert fresh([0.0]) == pytest.approx(0.2)


def test_the_control_counts_exactly_in_large_blocks():
    control = random_like(above(1.0), 100_000)
    control.observe(np.repeat([1.0, 0.0], [70_001, 29_999]))
    assert control([0.0]) == pytest.approx(0.70001, abs=1e-12)


@pytest.mark.parametrize("bad", [0, -1.5, float("nan"), float("inf"), None])
@pytest.mark.parametrize("make", [clipped, easy, lambda beta: tilted(beta, 1.0)], ids=["clipped", "easy", "tilted"])
def test_a_parameter_that_is_not_positive_and_finite_is_named(make, bad):
    with pytest.raises(ValueError, match=f"must be a positive, finite number, got {bad}"):
        make(bad)


ERRORS = {
    "constant above 1": (lambda: constant(1.2), r"\[0, 1\], got 1.2"),
    "constant NaN": (lambda: constant(float("nan")), "got nan"),
    "ceiling": (lambda: tilted(1.0, float("nan")), "nan"),
    "threshold": (lambda: above(float("inf")), "inf"),
    "window": (lambda: random_like(above(1), 0), "at least 1, got 0"),
    "negative loss": (lambda: clipped(1)([[0.1, 0.2], [0.3, -0.25]]), r"-0.25 at index \(1, 1\)"),
    "negative loss, easy": (lambda: easy(1)([0.1, -0.25]), r"-0.25 at index \(1,\)"),
    "negative loss, surrogate": (lambda: clipped(1).surrogate([-0.25]), "-0.25"),
    "negative loss, surrogate of easy": (lambda: easy(1).surrogate([-0.25]), "-0.25"),
    "above the ceiling": (lambda: tilted(1, 2)([1.0, 2.75]), r"2.75 at index \(1,\) exceeds the ceiling 2"),
    "above the ceiling, surrogate": (lambda: tilted(1, 2).surrogate([1.0, 2.75]), "2.75"),
    "the control has no surrogate": (lambda: random_like(clipped(1)).surrogate([0.5]), "no fixed surrogate"),
    "state of another rule": (lambda: clipped(1).load_state_dict({"past": [7]}), "past.*7"),
}


@pytest.mark.parametrize("act, message", ERRORS.values(), ids=ERRORS)
def test_an_error_names_what_is_wrong(act, message):
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rule", [case[0] for case in POINTWISE.values()] + [random_like(clipped(1))], ids=str)
def test_a_criterion_that_is_not_finite_is_named(rule, value):
    with pytest.raises(ValueError, match=rf"{value} at index \(0, 1\)"):
        rule(np.array([[1.0, value]]))


def falling_losses(rng, n=32_000, fall=100.0):
    """Losses (n,) that fall by `fall`, exponentially, over a run, and vary by much at each time."""
    return rng.gamma(1.5, 1.0, n) * fall ** -np.linspace(0, 1, n)


FAMILIES = {"clipped": clipped, "above": above, "easy": easy, "tilted": lambda beta: tilted(beta, 100.0)}


def rates_of(rule, losses, block=32):
    """Mean acceptance probability of each block, each observed after it was decided."""
    rates = []
    for start in range(0, len(losses), block):
        rates.append(rule(losses[start : start + block]).mean())
        rule.observe(losses[start : start + block])
    return np.array(rates)


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("family", ["clipped", "above", "easy"])
def test_at_rate_holds_its_rate_while_losses_fall_a_hundredfold(family, rate):
    rates = rates_of(at_rate(FAMILIES[family], rate), falling_losses(np.random.default_rng(3)))[8:]
    for part in np.split(rates[: len(rates) // 4 * 4], 4):
        assert abs(part.mean() - (1 - rate)) < 0.02


def test_a_fixed_k_does_not_hold_its_rate_on_the_same_run():
    rates = rates_of(clipped(1.5), falling_losses(np.random.default_rng(3)))
    assert rates[:100].mean() > 0.5 > 0.1 > rates[-100:].mean()


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_at_rate_holds_with_constant_losses_all_zero_ones_too(family, rate, value):
    rule = at_rate(FAMILIES[family], rate)
    assert np.allclose(rates_of(rule, np.full(512, value)), 1 - rate, rtol=0, atol=1e-9)


def test_at_rate_holds_with_more_zeros_than_it_may_reject():
    losses = np.random.default_rng(0).permutation(np.r_[np.zeros(600), np.ones(400)])
    rule = at_rate(clipped, 0.3)
    assert rates_of(rule, np.tile(losses, 3))[32:].mean() == pytest.approx(0.7, abs=0.02)
    assert rule([1.0])[0] == pytest.approx(1.0, abs=1e-9)  # all of the positive ones, and some of the zeros at random


@pytest.mark.parametrize("family", ["clipped", "above", "easy"])
def test_at_rate_is_back_one_window_after_a_jump(family):
    rng, rule = np.random.default_rng(5), at_rate(FAMILIES[family], 0.5)
    losses = np.r_[rng.gamma(2, 1.0, 4_000), 30 * rng.gamma(2, 1.0, 4_256)]
    after = rates_of(rule, losses)[(4_000 + 256) // 32 :]
    assert abs(after.mean() - 0.5) < 0.02


def test_at_rate_decides_from_the_past_only_and_before_it_at_one_minus_rate():
    rule = at_rate(clipped, 0.25)
    assert (rule([0.1, 9.0]) == 0.75).all()
    rule.observe([1.0, 2.0, 3.0])
    assert np.array_equal(rule([1.5, 50.0])[:1], rule([1.5, 0.0])[:1])
    # k solves mean min(1, r / k) = 3/4 on {1, 2, 3}: (1 + 2 + k) / 3k = 3/4 for 2 <= k <= 3
    assert rule([1.2])[0] == pytest.approx(1.2 / 2.4, rel=1e-9)
    assert str(rule) == "min(1, loss / 2.4) at rejection rate 0.25"


@pytest.mark.parametrize("make", [lambda: at_rate(clipped, 0.5, 40), lambda: percentile(2, 40), lambda: random_like(percentile(2, 40), 40)])
def test_rules_of_the_past_are_saved_and_restored_exactly(make):
    rng, one, other = np.random.default_rng(6), make(), make()
    one.observe(rng.gamma(2, size=100))
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for _ in range(3):
        losses = rng.gamma(2, size=16)
        assert np.array_equal(one(losses), other(losses))
        one.observe(losses), other.observe(losses)


def test_percentile_is_the_share_of_the_past_not_above_to_a_power():
    rule = percentile(2, window=4)
    assert (rule([5.0, 0.0]) == 1).all()
    rule.observe([9.0, 1.0, 2.0, 3.0, 4.0])  # the window forgets the 9
    assert np.allclose(rule([0.5, 1.0, 2.5, 4.0]), [0, 1 / 16, 1 / 4, 1], rtol=1e-14, atol=0)
    with pytest.raises(ValueError, match="max of 3 losses"):
        rule.surrogate(1.0)


def test_percentile_descends_the_mean_of_the_largest_of_several():
    # d/dr of E[max of m + 1 draws from a grid, one of them moved] by enumeration: the weight on the rank-i loss is ((i / n)^(m+1) - ((i-1) / n)^(m+1))
    n, m = 2_000, 2
    losses, rule = np.arange(1.0, n + 1), percentile(m, window=n)
    rule.observe(losses)
    exact = np.diff((np.arange(n + 1) / n) ** (m + 1)) * n / (m + 1)
    assert np.allclose(rule(losses), exact, rtol=0, atol=2 / n)


def test_best_of_keeps_one_of_each_prompt_and_draws_the_exact_law():
    assert np.array_equal(best_of(3)([[1, 3, 2], [5, 5, 0]]), [[0, 1, 0], [1, 0, 0]])
    q, reward, rng = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 1.0]), np.random.default_rng(8)
    y = rng.choice(3, (40_000, 4), p=q)
    counts = np.bincount(y[accept(best_of(4).log_probability(reward[y]), rng)], minlength=3)
    assert same_counts(counts, best_of_n_law(q, reward, 4)) and not same_counts(counts, best_of_n_law(q, reward, 5))


def test_best_of_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"shape \(..., 3\)"):
        best_of(3)([1.0, 2.0])
    with pytest.raises(ValueError, match="no pointwise surrogate"):
        best_of(3).surrogate([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="compares 3 samples"):
        RejectionLoader([[1]], len, best_of(3), 1, np.random.default_rng(0), collate=list)


def test_weights_undo_a_rule_only_if_divided_by_the_candidates():
    losses, rng = np.array([0.1, 0.2, 0.4, 2.0]), np.random.default_rng(9)
    a = clipped(0.5)(losses)
    kept = accept(np.log(np.tile(a, (50_000, 1))), rng)
    weighted = np.where(kept, inverse_weights(a) * losses, 0)
    assert abs(weighted.mean() - losses.mean()) < 4 * weighted.mean(axis=1).std() / np.sqrt(50_000)
    self_made = weighted.sum(axis=1) / kept.sum(axis=1).clip(1)  # divided by the kept: E[g] / E[A] and worse
    assert self_made.mean() > 1.5 * losses.mean()
    assert effective_sample_size([1, 1, 1]) == 3 and effective_sample_size([1, 3]) == 1.6 and effective_sample_size([]) == 0
    with pytest.raises(ValueError, match="cannot be undone"):
        inverse_weights([0.5, 0.0])
