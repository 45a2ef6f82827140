"""Notebook 09: its laws are the oracle's, samples and coins follow them, and its inequalities hold."""

import re

import matplotlib
import numpy as np
import pytest

import rsf.acceptance
from rsf import checks, finite, rules
from rsf.lab import notebooks

matplotlib.use("Agg")
WRONG = ("rules.tilted(1.0, 6)(higher)", "rules.tilted(1.0, 3, clip=True)(higher)")  # the ceiling stayed


@pytest.fixture(scope="module")
def world():
    """The names of the notebook's code cells, and `slack`, that of each toss."""
    found = {"slack": []}

    def accept(log_probability, rng):
        kept, slack = toss(log_probability, rng, with_slack=True)
        found["slack"].append(slack)
        return kept

    toss = rsf.acceptance.accept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsf.acceptance, "accept", accept)
        for cell in notebooks.from_text(notebooks.names(["09"])[0]).cells:
            if cell.cell_type == "code":
                exec(re.sub(r"^    %pip .*$", "    raise", cell.source, flags=re.MULTILINE), found)
    matplotlib.pyplot.close("all")
    return found


def test_no_coin_lies_so_close_that_another_processor_could_decide_otherwise(world):
    assert len(world["slack"]) == 3
    assert min(world["slack"]) > 1e-12


def test_every_law_falls_short_of_the_optimum_by_beta_times_its_divergence(world):
    q, reward = world["q"], world["reward"]
    for beta, (law, _) in world["kept"].items():
        most = beta * np.log(q @ np.exp(reward / beta))
        for p in np.random.default_rng(9).dirichlet(np.ones(256), 200):
            worth = p @ reward - beta * finite.kl(p, q)
            assert worth == pytest.approx(most - beta * finite.kl(p, law), abs=1e-10)


def test_what_real_coins_keep_has_the_tilted_law_at_its_rate(world):
    q, reward, rng = world["q"], world["reward"], np.random.default_rng(9)
    drawn = world["model"].sample(100_000, rng)
    coins = rsf.acceptance.accept(rules.tilted(1.0, 3).log_probability(reward[drawn]), rng)
    counts = np.bincount(drawn[coins], minlength=256)
    law, rate = world["kept"][1.0]
    assert checks.same_counts(counts, law)
    assert not checks.same_counts(counts, finite.tilted_law(q, reward, 1.2))
    assert checks.rate_interval(coins.sum(), len(coins), expected=rate)


def test_rounds_multiply_their_rates_and_a_verifier_is_idempotent(world):
    laws, rates = world["runs"]["tilt, beta 2"]
    np.testing.assert_allclose(np.prod(rates), world["kept"][0.5][1], rtol=1e-12)
    assert 3 * np.sum(1 / rates) < 1 / np.prod(rates)  # "less than a third"
    laws, rates = world["runs"]["verifier"]
    np.testing.assert_allclose(laws[1:], laws[:-1], rtol=1e-12, atol=0)
    np.testing.assert_allclose(rates[1:], 1, rtol=1e-12)


def test_divergence_is_log_1_over_z_for_thresholds_and_less_for_tilts(world):
    q, reward = world["q"], world["reward"]
    for threshold in np.unique(reward):
        law, rate = world["keep"](q, reward >= threshold)
        assert finite.kl(law, q) == pytest.approx(-np.log(rate), abs=1e-12)
    for law, rate in world["kept"].values():
        assert finite.kl(law, q) < -np.log(rate) - 0.1


def test_both_readings_are_the_oracles_joint_laws_and_what_is_simulated(world):
    d, answers, right = world["d"], world["answers"], world["right"]
    np.testing.assert_allclose(world["fixed"], finite.joint_law(d, answers, right), rtol=1e-12)
    until = finite.joint_law(d, answers, right, until_accepted=True)
    np.testing.assert_allclose(world["until"], until, rtol=1e-12)
    prompt, first = world["prompt"], world["first"]
    once = 3 * prompt + world["answer"][:, 0]
    counts = np.bincount(once[first == 0][right.ravel()[once[first == 0]] == 1], minlength=6)
    assert checks.same_counts(counts, world["fixed"])
    assert not checks.same_counts(counts, world["until"])
    for x in (0, 1):
        waits = first[prompt == x] + 1
        assert checks.waiting_interval(len(waits), int(waits.sum()), expected=world["z"][x])
    for most in (1, 4, 16, 64):
        met = first < most
        share, price = world["limited"](most)
        assert checks.rate_interval(prompt[met].sum(), met.sum(), expected=share)
        assert np.minimum(first + 1, most).sum() / met.sum() == pytest.approx(price, rel=0.03)


def test_a_step_is_the_oracles_kept_gradient(world):
    model, accepted = world["model"], world["accepted"]
    q, score = model.law(), model.score()
    parts = np.array([finite.kept_gradient(q, a, score) for a in accepted])
    np.testing.assert_allclose(world["step"](model, False)[0], parts.mean(axis=0), atol=1e-15)
    np.testing.assert_allclose(
        world["step"](model, True)[0], (parts / (accepted @ q)[:, None]).mean(axis=0), atol=1e-14
    )


def test_the_two_climbs_end_as_told(world):
    fixed, until = (world["paths"][way] for way in (False, True))
    assert fixed[-1, 2] < fixed[0, 2] < 0.01  # the third prompt: less than at the start
    assert (until[-1] > 0.32).all() and abs(fixed[-1].mean() - until[-1].mean()) < 0.01


def test_best_of_n_is_the_packages_and_both_quoted_formulas_are_bounds(world):
    q, reward, untied, best_of = world["q"], world["reward"], world["untied"], world["best_of"]
    for n in (1, 2, 4, 8, 64, 1024):
        for r in (reward, untied):
            law = best_of(n, r)
            np.testing.assert_allclose(law, finite.best_of_n_law(q, r, n), rtol=1e-7, atol=1e-12)
            beaten = np.array([q[r < one].sum() + q[r == one].sum() / 2 for one in r])
            assert n == 1 or law @ beaten < n / (n + 1)
            assert n == 1 or finite.kl(law, q) < np.log(n) - (n - 1) / n


def test_best_of_four_draws_that_law(world):
    reward, rng = world["reward"], np.random.default_rng(9)
    four = world["model"].sample(80_000, rng).reshape(-1, 4)
    counts = np.bincount(four[rules.best_of(4).decide(reward[four], rng)], minlength=256)
    assert checks.same_counts(counts, world["best_of"](4, reward))
    assert not checks.same_counts(counts, world["best_of"](3, reward))


def test_nobody_in_one_pass_goes_further_than_log_1_over_rate(world):
    for name in ("tilt", "threshold", "best of n"):
        far, _, price = world["curves"][name].T
        assert (far <= np.log(price) + 1e-10).all()
