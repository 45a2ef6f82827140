"""The oracle against straight loops over every outcome, and against integrals and derivatives that it does not use."""

from itertools import pairwise, product

import numpy as np
import pytest
from scipy import integrate, optimize

from rsf import finite

RNG = np.random.default_rng(20)
X, Y, THETA = RNG.normal(size=(5, 2)), np.array([1, -1, 1, 1, -1]), np.array([0.3, -0.5])
Q = np.array([0.3, 0.1, 0.25, 0.15, 0.2])
L, G = finite.logistic(X, Y, THETA)
A = np.array([0.9, 0.3, 0.5, 0.7, 0.2])
TIED = np.array([1.0, 3.0, 0.0, 3.0, 2.0])  # losses with a tie and a zero


def law_of(batch, q=Q):
    return np.prod([q[i] for i in batch])


def test_logistic_losses_and_gradients_are_those_of_the_model():
    for x, y, loss, gradient in zip(X, Y, L, G, strict=True):
        p = 1 / (1 + np.exp(-x @ THETA))  # of label 1
        assert loss == pytest.approx(-np.log(p if y == 1 else 1 - p), rel=1e-14)
        assert gradient == pytest.approx((p - (y == 1)) * x, rel=1e-13)
    extreme, slope = finite.logistic([[800.0], [-800.0]], [1, 1], [1.0])
    assert extreme.tolist() == [0, 800] and slope.ravel().tolist() == [0, 800]
    assert finite.logistic(np.stack([X, 2 * X]), Y, THETA)[1].shape == (2, 5, 2)


def test_the_kept_gradient_is_the_sum_over_examples_and_both_coins():
    total = sum(q * (a * g + (1 - a) * 0 * g) for q, a, g in zip(Q, A, G, strict=True))
    assert finite.kept_gradient(Q, A, G) == pytest.approx(total, rel=1e-14)
    assert finite.kept_gradient(Q, 0 * A, G).tolist() == [
        0,
        0,
    ]  # a rule that keeps nothing has a gradient: none


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_all_batches_are_all_ordered_ones_with_the_orders_summed(size):
    members, law = finite.all_batches(Q, size)
    found = {tuple(batch): p for batch, p in zip(members.tolist(), law, strict=True)}
    assert len(found) == len(members)
    expected = {}
    for batch in product(range(5), repeat=size):
        key = tuple(sorted(batch))
        expected[key] = expected.get(key, 0) + law_of(batch)
    assert found == pytest.approx(expected, rel=1e-13)


def test_the_gradient_of_batches_is_the_sum_over_all_batches():
    rule = lambda mean: np.minimum(1, mean / 0.9)
    total = sum(
        law_of(b) * rule(L[list(b)].mean()) * G[list(b)].mean(axis=0) for b in product(range(5), repeat=3)
    )
    got = finite.batch_gradient(Q, L, G, 3, rule)
    assert got == pytest.approx(total, rel=1e-13)
    assert finite.batch_gradient(Q, L, G, 1, rule) == pytest.approx(
        finite.kept_gradient(Q, rule(L), G), rel=1e-14
    )
    assert not np.allclose(got, finite.kept_gradient(Q, rule(L), G), rtol=1e-2)  # another algorithm


@pytest.mark.parametrize("divide_by", ["candidates", "kept", "weights"])
def test_the_weighted_gradient_is_the_sum_over_all_batches_and_all_coins(divide_by):
    outcomes = []
    for batch, coins in product(product(range(5), repeat=2), product([0, 1], repeat=2)):
        p = law_of(batch) * np.prod([A[i] if c else 1 - A[i] for i, c in zip(batch, coins, strict=True)])
        w = np.array([c / A[i] for i, c in zip(batch, coins, strict=True)])
        divisor = {"candidates": 2, "kept": sum(coins), "weights": w.sum()}[divide_by]
        outcomes.append((p, w @ G[list(batch)] / divisor if any(coins) else np.zeros(2)))
    mean = sum(p * g for p, g in outcomes)
    got, variance = finite.weighted_gradient(Q, A, G, 2, divide_by)
    assert got == pytest.approx(mean, rel=1e-13)
    assert variance == pytest.approx(sum(p * np.sum((g - mean) ** 2) for p, g in outcomes), rel=1e-13)


def test_weights_undo_a_selection_only_when_divided_by_the_candidates():
    plain, rate = Q @ G, Q @ A
    for size in (1, 3):
        some = 1 - (1 - rate) ** size  # P(anything is kept)
        assert finite.weighted_gradient(Q, A, G, size)[0] == pytest.approx(plain, rel=1e-13)
        assert finite.weighted_gradient(Q, A, G, size, "kept")[0] == pytest.approx(
            some * plain / rate, rel=1e-12
        )
        assert not np.allclose(finite.weighted_gradient(Q, A, G, size, "weights")[0], plain * some, rtol=0.02)
    spread = Q @ np.sum(G**2, axis=1) - plain @ plain
    assert finite.weighted_gradient(Q, np.ones(5), G, 4)[1] == pytest.approx(
        spread / 4, rel=1e-12
    )  # keeping all: of a mean of 4
    assert finite.weighted_gradient(Q, A, G, 4)[1] > spread / 4


def test_self_normalised_weights_are_less_biased_in_larger_batches():
    bias = [
        np.linalg.norm(finite.weighted_gradient(Q, A, G, size, "weights")[0] - Q @ G) for size in (4, 8, 12)
    ]
    assert bias[0] > bias[1] > bias[2] > 0 and bias[0] > 2 * bias[2]
    one = finite.weighted_gradient(Q, A, G, 1, "weights")[
        0
    ]  # a single weight cancels: the selection is not undone at all
    assert one == pytest.approx(finite.kept_gradient(Q, A, G), rel=1e-13)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_expected_maximum_is_the_sum_over_all_tuples(n):
    total = sum(law_of(b) * TIED[list(b)].max() for b in product(range(5), repeat=n))
    assert finite.expected_max(Q, TIED, n) == pytest.approx(total, rel=1e-13)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.25, 0.5, 0.7, 0.95])
def test_cvar_is_the_minimum_of_rockafellar_and_uryasev_and_the_tail_has_its_mass(rate):
    # CVaR = min over t of t + E[max(0, loss - t)] / (1 - rate), attained at one of the losses
    least = min(t + Q @ np.maximum(TIED - t, 0) / (1 - rate) for t in TIED)
    assert finite.cvar(Q, TIED, rate) == pytest.approx(least, rel=1e-13)
    law = finite.tail_law(Q, TIED, rate)
    assert law.sum() == pytest.approx(1) and (law <= Q / (1 - rate) + 1e-15).all()
    assert law[1] / law[3] == pytest.approx(Q[1] / Q[3])  # the tied share alike


def test_the_clip_level_keeps_the_share_asked_for():
    for losses, rate in product((L, TIED), (0.3, 0.5, 0.62, 0.9)):
        k = finite.clip_level(Q, losses, rate)
        assert Q @ np.minimum(1, losses / k) == pytest.approx(1 - rate, abs=1e-14)
        root = optimize.brentq(
            lambda t, losses=losses, rate=rate: Q @ np.minimum(1, losses / t) - 1 + rate,
            1e-6,
            1e3,
            xtol=1e-14,
        )
        assert k == pytest.approx(root, abs=1e-11)
    assert finite.clip_level(Q, L, 0) == pytest.approx(L.min())
    assert finite.clip_level(Q, TIED, 0.25) == pytest.approx(
        1.0
    )  # all but the zero: the smallest positive loss
    with pytest.raises(ValueError, match=r"no k rejects 0.2 .* 0.75 can be kept"):
        finite.clip_level(Q, TIED, 0.2)


def test_the_jacobian_is_that_of_an_analytic_field_and_its_asymmetry_tells_a_gradient_from_a_rotation():
    def field(t):
        return np.array([np.sin(t[0] * t[1]), np.exp(t[0]) + t[1] ** 3])

    a, b = THETA
    exact = np.array([[b * np.cos(a * b), a * np.cos(a * b)], [np.exp(a), 3 * b**2]])
    np.testing.assert_allclose(finite.jacobian(field, THETA), exact, rtol=0, atol=1e-11)
    np.testing.assert_allclose(
        finite.jacobian(lambda t: np.sum(t**3), THETA), 3 * THETA**2, rtol=0, atol=1e-12
    )
    assert finite.asymmetry([[2, 1], [1, 5]]) == 0 and finite.asymmetry([[0, 1], [-1, 0]]) == 1
    assert finite.asymmetry([[1, 1], [0, 1]]) == pytest.approx(np.sqrt(2) / (2 * np.sqrt(3)))


# keeping by loss, on this model: the identity that notebooks 04 and 05 show, and what breaks it
def phi(r, k=0.7):
    return np.where(r <= k, r**2 / (2 * k), r - k / 2)


def clipped_gradient(theta, k=0.7):
    losses, gradients = finite.logistic(X, Y, theta)
    return finite.kept_gradient(Q, np.minimum(1, losses / k), gradients)


def test_the_clipped_field_is_the_gradient_of_its_surrogate_and_symmetric():
    for low, high in pairwise((0.0, 0.4, 0.7, 2.0)):
        assert phi(high) - phi(low) == pytest.approx(
            integrate.quad(lambda r: min(1, r / 0.7), low, high)[0], abs=1e-13
        )
    assert np.abs(L - 0.7).min() > 0.01  # no kink near
    descended = finite.jacobian(lambda t: Q @ phi(finite.logistic(X, Y, t)[0]), THETA)
    np.testing.assert_allclose(clipped_gradient(THETA), descended, rtol=0, atol=1e-11)
    assert finite.asymmetry(finite.jacobian(clipped_gradient, THETA)) < 1e-10


def test_a_k_that_follows_the_rate_is_no_gradient_but_the_worst_share_is_that_of_cvar():
    def moving(theta):
        return clipped_gradient(theta, finite.clip_level(Q, finite.logistic(X, Y, theta)[0], 0.5))

    def worst(theta):
        losses, gradients = finite.logistic(X, Y, theta)
        return finite.tail_law(Q, losses, 0.5) @ gradients

    assert finite.asymmetry(finite.jacobian(moving, THETA)) > 0.01
    assert finite.asymmetry(finite.jacobian(worst, THETA)) < 1e-10
    np.testing.assert_allclose(
        worst(THETA),
        finite.jacobian(lambda t: finite.cvar(Q, finite.logistic(X, Y, t)[0], 0.5), THETA),
        atol=1e-11,
    )


def test_the_batch_field_is_the_gradient_of_the_mean_surrogate_of_batch_means():
    def objective(theta):
        members, law = finite.all_batches(Q, 2)
        return law @ phi(finite.logistic(X, Y, theta)[0][members].mean(axis=1))

    got = finite.batch_gradient(Q, L, G, 2, lambda mean: np.minimum(1, mean / 0.7))
    members, _ = finite.all_batches(Q, 2)
    assert np.abs(L[members].mean(axis=1) - 0.7).min() > 0.01
    np.testing.assert_allclose(got, finite.jacobian(objective, THETA), rtol=0, atol=1e-11)


REFUSED = [
    lambda: finite.logistic(X, Y + 1, THETA),
    lambda: finite.kept_gradient(Q, A[:4], G),
    lambda: finite.kept_gradient(Q, A + 0.2, G),
    lambda: finite.all_batches(Q, 0),
    lambda: finite.all_batches(Q, 1.5),
    lambda: finite.all_batches(np.full(100, 0.01), 8),
    lambda: finite.all_batches(2 * Q, 2),
    lambda: finite.weighted_gradient(Q, A, G, 2, "rejected"),
    lambda: finite.tail_law(Q, L, 1.0),
    lambda: finite.tail_law(Q, L, -0.1),
    lambda: finite.clip_level(Q, 0 * L, 0.5),
    lambda: finite.clip_level(Q, L, 1.0),
    lambda: finite.expected_max(Q, L, 0),
]


@pytest.mark.parametrize("act", REFUSED)
def test_what_is_no_world_is_refused(act):
    with pytest.raises(ValueError):
        act()
