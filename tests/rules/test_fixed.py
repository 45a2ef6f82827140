"""Every rule against what it must be: its formula, the integral that is its surrogate, the law that it keeps."""

import json
import math
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from rsf import finite
from rsf.acceptance import accept
from rsf.rules import (
    BaseRule,
    Rule,
    above,
    best_of,
    clipped,
    constant,
    easy,
    effective_sample_size,
    inverse_weights,
    random_like,
    tilted,
)
from rsf.selection import RejectionLoader

# name: rule, the same acceptance probability in plain Python, where it has kinks or jumps, the range of the criterion
POINTWISE = {
    "clipped": (clipped(0.5), lambda r: min(1.0, r / 0.5), [0.5], (0.0, 3.0)),
    "clipped, large k": (clipped(40.0), lambda r: r / 40.0, [], (0.0, 3.0)),
    "easy": (easy(0.5), lambda r: min(1.0, 0.5 / r) if r else 1.0, [0.5], (0.0, 3.0)),
    "tilted": (tilted(0.7, 2.5), lambda r: math.exp((r - 2.5) / 0.7), [], (-3.0, 2.5)),
    "tilted, clip": (
        tilted(0.7, 0.4, clip=True),
        lambda r: math.exp(min(r - 0.4, 0.0) / 0.7),
        [0.4],
        (-3.0, 4.0),
    ),
    "above": (above(1.0), lambda r: float(r >= 1.0), [1.0], (-1.0, 3.0)),
    "constant": (constant(0.3), lambda r: 0.3, [], (-1.0, 3.0)),
    "constant 0": (constant(0), lambda r: 0.0, [], (-1.0, 3.0)),
    "constant 1": (constant(1), lambda r: 1.0, [], (-1.0, 3.0)),
}
every_pointwise_rule = pytest.mark.parametrize(
    "rule, formula, kinks, bounds", POINTWISE.values(), ids=POINTWISE
)


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
def test_increments_of_the_surrogate_are_integrals_of_the_acceptance_probability(
    rule, formula, kinks, bounds
):
    points = np.unique(
        [*np.linspace(*bounds, 6), *kinks]
    )  # steps that end at kinks and jumps, and steps across
    for low, high in combinations(points, 2):
        edges = [low, *(kink for kink in kinks if low < kink < high), high]
        integral = sum(quad(formula, a, b, epsabs=1e-14, epsrel=1e-13)[0] for a, b in pairwise(edges))
        assert abs(float(rule.surrogate(high) - rule.surrogate(low)) - integral) < 1e-12


def test_the_surrogate_of_the_article_is_the_huber_function_of_the_loss():
    import torch  # here, so that the other tests of rules stay quick

    losses = np.array([0.0, 0.2, 0.5, 0.7, 0.70001, 3.0, 50.0])
    for k in (0.5, 0.7, 2.0):
        loss = torch.tensor(losses)
        huber = torch.nn.functional.smooth_l1_loss(
            loss, torch.zeros_like(loss), beta=k, reduction="none"
        ).numpy()
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
    return np.array(
        [
            (mean(THETA - 2 * h) - 8 * mean(THETA - h) + 8 * mean(THETA + h) - mean(THETA + 2 * h)) / 0.012
            for h in step
        ]
    )


def kept_gradient(rule):
    """Return E[A grad loss] at THETA, analytic."""
    slope = -Y / (1 + np.exp(Y * (X @ THETA)))  # d loss / d (x theta)
    return (P * rule(loss_of(THETA)) * slope) @ X


@every_pointwise_rule
def test_the_kept_gradient_is_the_gradient_of_the_mean_surrogate(rule, formula, kinks, bounds):
    losses = loss_of(THETA)
    assert (
        all(np.abs(losses - kink).min() > 0.005 for kink in kinks) and losses.max() < 2.5
    )  # smooth where differences are taken
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
    assert clipped(1e200).log_probability(1e-200) == pytest.approx(
        -400 * math.log(10), rel=1e-15
    )  # r / k would underflow
    assert easy(1e-200).log_probability(1e200) == pytest.approx(-400 * math.log(10), rel=1e-15)


def test_the_smallest_and_the_largest_probability_are_exactly_0_and_1():
    assert clipped(0.3)(0.0) == 0 and clipped(0.3)(0.3) == 1 and easy(0.3)(0.0) == easy(0.3)(0.3) == 1
    assert above(0.3)(0.3) == 1 and above(0.3)(np.nextafter(0.3, 0)) == 0 and tilted(0.1, 0.3)(0.3) == 1


def test_only_constant_needs_no_criterion():
    assert {name for name, case in POINTWISE.items() if not case[0].needs_criterion} == {
        "constant",
        "constant 0",
        "constant 1",
    }


def test_a_fixed_rule_remembers_nothing():
    for rule, *_ in POINTWISE.values():
        before = rule(np.array([0.1, 1.2]))
        rule.observe(np.array([0.2, 2.0]))
        np.testing.assert_array_equal(rule(np.array([0.1, 1.2])), before)
        assert rule.state_dict() == {}
        rule.load_state_dict({})


def test_a_rule_of_ones_own_needs_a_text_and_log_a_and_has_a_surrogate_if_it_was_given_one():
    own = Rule("loss^2 / 4", lambda r: 2 * np.log(r / 2))
    assert own([0.0, 1.0, 2.0]) == pytest.approx([0, 0.25, 1]) and str(own) == "loss^2 / 4"
    with pytest.raises(ValueError, match=r"loss\^2 / 4 was made without a surrogate: give Rule a phi"):
        own.surrogate([1.0])
    assert isinstance(own, BaseRule) and isinstance(best_of(2), BaseRule)


def test_a_rule_reads_as_its_parameters():
    read = {
        clipped(0.5): "0.5",
        easy(0.25): "0.25",
        tilted(0.7, 2.5): "2.5) / 0.7",
        above(3): "3",
        constant(0.1): "0.1",
    }
    assert all(number in str(rule) and str(rule) in str(random_like(rule)) for rule, number in read.items())


RNG = np.random.default_rng(21)
G = RNG.normal(size=(3, 2))  # gradients of three candidates


def all_coins(a):
    """Yield (probability, decisions) for all outcomes of one coin each."""
    for kept in product([True, False], repeat=len(a)):
        yield np.prod(np.where(kept, a, 1 - a)), np.array(kept)


@pytest.mark.parametrize("rule", [clipped(0.8), easy(0.3), tilted(0.5, 1.2), constant(0.4)], ids=str)
def test_inverse_weights_undo_the_selection_when_divided_by_the_candidates(rule):
    criterion = np.array([0.2, 0.5, 1.1])
    log_a = rule.log_probability(criterion)
    undone, by_kept = np.zeros(2), np.zeros(2)
    for probability, kept in all_coins(rule(criterion)):
        total = inverse_weights(log_a, kept)[:, None] * G  # (3, 2)
        undone += probability * np.mean(total, axis=0)
        by_kept += probability * total.sum(axis=0) / max(kept.sum(), 1)
    assert undone == pytest.approx(G.mean(axis=0), rel=1e-13)
    assert not np.allclose(by_kept, G.mean(axis=0), rtol=0.05)  # the counter-check


def test_the_rejected_have_weight_0_and_a_threshold_cannot_be_undone():
    log_a = np.log([[0.5, 0.25], [1.0, 0.1]])
    assert inverse_weights(log_a, [[True, False], [False, True]]) == pytest.approx(
        np.array([[2, 0], [0, 10]])
    )
    with pytest.raises(ValueError, match=r"index \(1,\) has log A = -inf: no weight brings back"):
        inverse_weights(above(1.0).log_probability([2.0, 0.5]), [True, False])
    with pytest.raises(ValueError, match=r"\(2,\) and decisions \(3,\)"):
        inverse_weights(np.zeros(2), np.ones(3, bool))


def test_the_effective_sample_size_is_what_the_variance_of_a_weighted_mean_says():
    w = np.array([0.5, 1.0, 3.0, 0.0])
    shares = w / w.sum()
    assert effective_sample_size(w) == pytest.approx(
        1 / np.sum(shares**2)
    )  # var of sum(shares * g) = var g * sum(shares ** 2)
    assert effective_sample_size(np.full(7, 1e200)) == pytest.approx(7) and effective_sample_size(
        [1e-300] * 3
    ) == pytest.approx(3)
    assert effective_sample_size([]) == effective_sample_size([0.0, 0.0]) == 0
    with pytest.raises(ValueError, match=r"-0.5 at index \(1,\)"):
        effective_sample_size([1.0, -0.5])


REWARDS = np.array([[1.0, 3.0, 2.0], [2.0, 0.0, 2.0], [1.0, 1.0, 1.0]])  # one best, two tied, all tied


def test_best_of_keeps_exactly_one_of_each_prompt_and_the_tied_equally_often():
    rng, rule, n = np.random.default_rng(22), best_of(3), 3000
    kept = np.array([rule.decide(REWARDS, rng) for _ in range(n)])  # (n, 3, 3)
    assert (kept.sum(axis=-1) == 1).all()
    counts = kept.sum(axis=0)
    assert counts[0].tolist() == [0, n, 0] and counts[1, 1] == 0
    assert stats.chisquare(counts[1, [0, 2]]).pvalue > 1e-3 and stats.chisquare(counts[2]).pvalue > 1e-3
    assert stats.chisquare(counts[2], n * np.array([0.4, 0.3, 0.3])).pvalue < 1e-3  # the counter-check
    assert rule(REWARDS) == pytest.approx(np.array([[0, 1, 0], [0.5, 0, 0.5], [1 / 3] * 3]))  # the marginals


def test_the_best_of_n_samples_follow_the_exact_law_also_with_ties():
    q, reward, rng = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 1.0, 1.0, 0.5]), np.random.default_rng(23)
    y = rng.choice(4, size=(20_000, 3), p=q)
    kept = y[best_of(3).decide(reward[y], rng)]
    counts, law = np.bincount(kept, minlength=4), finite.best_of_n_law(q, reward, 3)
    assert counts.sum() == 20_000 and stats.chisquare(counts, 20_000 * law).pvalue > 1e-3
    assert stats.chisquare(counts, 20_000 * finite.best_of_n_law(q, reward, 2)).pvalue < 1e-3


def test_best_of_tosses_one_coin_per_sample_and_on_a_constant_reward_it_is_its_own_blind_control():
    ours, theirs = np.random.default_rng(24), np.random.default_rng(24)
    kept, u = best_of(4).decide(np.zeros((50, 2, 4)), ours), theirs.random((50, 2, 4))
    assert (
        kept.argmax(axis=-1) == u.argmax(axis=-1)
    ).all() and ours.bit_generator.state == theirs.bit_generator.state
    control = random_like(best_of(4))
    control.observe(RNG.normal(size=(10, 4)))
    assert control([[0.0, 9.0]]) == pytest.approx(np.full((1, 2), 1 / 4))


def test_best_of_refuses_one_coin_each_and_a_loader_refuses_best_of():
    rule = best_of(2)
    with pytest.raises(ValueError, match=r"all samples of a prompt together.* use decide\(criterion, rng\)"):
        rule.log_probability([[1.0, 2.0]])
    with pytest.raises(
        ValueError, match=r"best of 2 chooses among the samples of one prompt.*above or tilted"
    ):
        RejectionLoader([[1, 2]], len, rule, 1, RNG, collate=list)
    assert rule.state_dict() == {} and rule.observe([[1.0, 2.0]]) is None


BLOCKS = [
    np.array([0.1, 0.6, 1.0, 0.3]),
    np.array([0.05, 0.02, 0.2]),
    np.array([0.7, 0.0, 0.1, 0.4]),
    np.array([1.1, 0.15]),
]


def watching(blocks, window):
    control = random_like(clipped(1.0), window)
    for block in blocks:
        control.observe(block)
    return control


def test_the_control_keeps_everything_before_it_observed_anything():
    assert (random_like(clipped(1.0))(np.array([0.0, 0.01, 5.0])) == 1).all()


@pytest.mark.parametrize(
    "window, remembered", [(1, 1), (2, 1), (3, 2), (6, 2), (7, 3), (9, 3), (10, 4), (512, 4)]
)
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
@pytest.mark.parametrize(
    "make", [clipped, easy, lambda beta: tilted(beta, 1.0)], ids=["clipped", "easy", "tilted"]
)
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
    "best of none": (lambda: best_of(0), "at least 1, got 0"),
    "best of another number": (
        lambda: best_of(4)(np.zeros((2, 3))),
        r"last axis of 4 samples of one prompt, got shape \(2, 3\)",
    ),
    "best of has no surrogate": (lambda: best_of(2).surrogate([0.5, 0.6]), "depends on the others"),
    "best of NaN": (lambda: best_of(2)([0.5, float("nan")]), r"nan at index \(1,\)"),
    "state of another rule": (lambda: clipped(1).load_state_dict({"past": [7]}), "past.*7"),
}


@pytest.mark.parametrize("act, message", ERRORS.values(), ids=ERRORS)
def test_an_error_names_what_is_wrong(act, message):
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "rule", [case[0] for case in POINTWISE.values()] + [random_like(clipped(1))], ids=str
)
def test_a_criterion_that_is_not_finite_is_named(rule, value):
    with pytest.raises(ValueError, match=rf"{value} at index \(0, 1\)"):
        rule(np.array([[1.0, value]]))
