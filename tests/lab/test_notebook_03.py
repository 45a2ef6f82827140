"""Notebook 03: the sawn-off law and its bias; min(1, p / (c q)) is the nearest law at its price."""

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from rsf import checks, finite
from rsf.sampling import rejection_sample

WRONG = ("stats.uniform.cdf", "target.cdf")  # for a k near 0 the target is drawn: it is not
BETA, PEAK = stats.beta(2, 5), stats.beta(2, 5).pdf(0.2)
GRID = np.linspace(0, 1, 20_001)


@pytest.mark.parametrize("fraction", [0.4, 0.6, 0.8, 1.0, 1.3])
def test_a_k_too_small_draws_the_sawn_off_law_at_its_rate_and_with_its_bias(fraction):
    k = fraction * PEAK
    draws = rejection_sample(BETA, stats.uniform(), np.log(k), 20_000, np.random.default_rng(3), clip=True)
    height = np.minimum(BETA.pdf(GRID), k)
    area = integrate.cumulative_trapezoid(height, GRID, initial=0)
    assert checks.same_law(draws.samples, lambda x: np.interp(x, GRID, area / area[-1]))
    assert checks.waiting_interval(draws.accepted, draws.proposed, expected=area[-1] / k)
    bias = np.trapezoid(GRID * height, GRID) / area[-1] - BETA.mean()
    error = 3.3 * stats.sem(draws.samples)
    assert abs(draws.samples.mean() - BETA.mean() - bias) <= error
    assert (fraction > 0.6) or bias > error


def test_the_next_candidate_exceeds_the_largest_of_64_with_probability_one_in_65():
    rng = np.random.default_rng(3)
    for drawn in (BETA.pdf(rng.random((20_000, 65))), np.exp(rng.standard_normal((20_000, 65)))):
        exceeded = (drawn[:, 64] > drawn[:, :64].max(axis=1)).sum()
        assert checks.rate_interval(exceeded, 20_000, expected=1 / 65)


def test_four_hundred_candidates_are_enough_for_eight_kept_ones_at_any_estimate():
    assert stats.binom.cdf(7, 400, 1 / PEAK) < 1e-30


DIVERGENCES = {  # of a law t from p, each convex in t; with its slope
    "KL(t|p)": (
        lambda t, p: special.rel_entr(t, p).sum(),
        lambda t, p: np.log(np.maximum(t, 1e-300) / p) + 1,
    ),
    "KL(p|t)": (lambda t, p: special.rel_entr(p, t).sum(), lambda t, p: -p / np.maximum(t, 1e-300)),
    "chi-square": (lambda t, p: ((t - p) ** 2 / p).sum(), lambda t, p: 2 * (t - p) / p),
    "Hellinger": (
        lambda t, p: ((np.sqrt(t) - np.sqrt(p)) ** 2).sum(),
        lambda t, p: 1 - np.sqrt(p / np.maximum(t, 1e-300)),
    ),
}


def at_budget(p, q, alpha):
    """The law of min(1, p / (c q)) with the c that keeps a share alpha."""
    c = optimize.brentq(
        lambda c: q @ np.minimum(1, p / (c * q)) - alpha, 1e-12, (p / q).max() / alpha, xtol=1e-15
    )
    law, rate = finite.accepted_law(q, np.minimum(1, p / (c * q)))
    assert abs(rate - alpha) < 1e-9
    return law


def worlds(count):
    """Random worlds: p, q, a rate between what a valid k keeps and 1, and the formula's law at that rate."""
    rng = np.random.default_rng(3)
    for _ in range(count):
        p, q = rng.dirichlet(np.ones(8), 2)
        lowest = 1 / (p / q).max()
        alpha = lowest + (1 - lowest) * rng.uniform(0.05, 0.95)
        yield p, q, alpha, at_budget(p, q, alpha)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_no_law_that_keeps_as_much_is_nearer_than_the_formula(name):
    divergence, slope = DIVERGENCES[name]
    for p, q, alpha, law in worlds(20):
        total = {"type": "eq", "fun": lambda t: t.sum() - 1, "jac": np.ones_like}
        found = optimize.minimize(
            divergence,
            q,
            args=(p,),
            jac=slope,
            bounds=[(1e-5 * limit, limit) for limit in q / alpha],
            constraints=total,
            method="SLSQP",
            options={"maxiter": 1_000, "ftol": 1e-14},
        )
        assert divergence(found.x, p) == pytest.approx(divergence(law, p), abs=1e-7)
        # and by first order, which holds for any law: the formula's cannot be left downhill
        gradient = slope(law, p)
        best = optimize.linprog(
            gradient, A_eq=np.ones((1, 8)), b_eq=[1], bounds=[(0, limit) for limit in q / alpha]
        )
        assert best.fun >= gradient @ law - 1e-7 * np.abs(gradient).max()


def test_no_law_that_keeps_as_much_is_nearer_in_total_variation():
    for p, q, alpha, law in worlds(40):
        ones, zeros, same = np.ones(8), np.zeros(8), np.eye(8)  # minimise the sum of d with -d <= t - p <= d
        found = optimize.linprog(
            np.concatenate([zeros, ones / 2]),
            A_ub=np.block([[same, -same], [-same, -same]]),
            b_ub=np.concatenate([p, -p]),
            A_eq=[np.concatenate([ones, zeros])],
            b_eq=[1],
            bounds=[(0, limit) for limit in q / alpha] + [(0, None)] * 8,
        )
        assert found.fun == pytest.approx(np.abs(law - p).sum() / 2, abs=1e-9)


def test_other_ways_to_spend_the_budget_leave_more():
    for p, q, _, _ in worlds(20):
        for n in (2, 3):
            best = finite.best_of_n_law(q, p / q, n)
            assert (best <= n * q + 1e-12).all()  # one of n candidates: the price of 1 / n
            assert finite.kl(at_budget(p, q, 1 / n), p) <= finite.kl(best, p) + 1e-12
        hard, rate = finite.accepted_law(q, p / q >= np.median(p / q))
        assert finite.kl(at_budget(p, q, rate), p) <= finite.kl(hard, p) + 1e-12
