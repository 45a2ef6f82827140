"""Notebook 16: what it says of speculative decoding, of weights, masks and bands on a ratio, and of filters of prompt groups, exactly."""

from itertools import product

import numpy as np
import pytest
from scipy import optimize, special

from rsf import finite

WRONG = ("(n + 1) * z)", "n * z)")  # the data set's own answer is one more candidate
RNG = np.random.default_rng(16)
PAIRS = [RNG.dirichlet(np.full(m, 0.7), 2) for m in (2, 3, 6, 20) for _ in range(5)]


def variation(t, p):
    return np.abs(t - p).sum() / 2


def written(p, drawn, reported):
    """The law of the written token, by adding up all that can happen: (drafted, kept or not, replaced by)."""
    law, kept = np.zeros(len(p)), 0.0
    remainder = np.maximum(p - reported, 0) / np.maximum(p - reported, 0).sum()
    for x, share in enumerate(drawn):
        a = min(1.0, p[x] / reported[x])
        law[x] += share * a
        kept += share * a
        law += share * (1 - a) * remainder
    return law, kept


# ---- speculative decoding


@pytest.mark.parametrize("p, q", PAIRS)
def test_kept_or_from_the_remainder_is_exactly_p_and_kept_is_one_minus_the_total_variation(p, q):
    law, kept = written(p, q, q)
    np.testing.assert_allclose(law, p, rtol=0, atol=1e-12)
    assert kept == pytest.approx(1 - variation(p, q), abs=1e-12)
    sawn_off, rate = finite.accepted_law(q, np.minimum(1, p / q))  # without the remainder: 03, with k = 1
    assert rate == pytest.approx(kept) and variation(sawn_off, p) > 1e-6


@pytest.mark.parametrize("p, q", PAIRS)
def test_a_lost_q_may_be_taken_for_certain(p, q):
    law = np.zeros(len(p))
    for x, share in enumerate(q):
        others = np.where(np.arange(len(p)) == x, 0, p)
        law += share * (p[x] * (np.arange(len(p)) == x) + (1 - p[x]) * others / others.sum())
    np.testing.assert_allclose(law, p, rtol=0, atol=1e-12)
    assert p @ q <= 1 - variation(p, q) + 1e-12


@pytest.mark.parametrize("p, q", [pair for pair in PAIRS if len(pair[0]) > 2])
def test_another_q_reported_than_drawn_from_is_another_law(p, q):
    best = np.where(q > np.sort(q)[0], q, 0)
    law, _ = written(p, best / best.sum(), q)
    assert law.sum() == pytest.approx(1, abs=1e-12)
    likeliest = np.eye(len(q))[q.argmax()]
    certain = written(p, likeliest, q)[0]
    assert variation(certain, p) > 1e-2


def table(scale, seed=3):
    return finite.TablePolicy(scale * np.random.default_rng(seed).normal(size=(13, 3)))


def next_laws(policy):
    """The law of the next digit after each beginning, {beginning: (3,)}, from the law of all strings."""
    law = dict(zip(map(tuple, policy.strings.tolist()), policy.law(), strict=True))
    mass = {
        begin: sum(p for text, p in law.items() if text[: len(begin)] == begin)
        for n in range(4)
        for begin in product(range(3), repeat=n)
    }
    return {
        begin: np.array([mass[(*begin, x)] / mass[begin] for x in range(3)])
        for begin in mass
        if len(begin) < 3
    }


def test_texts_of_several_steps_follow_the_models_law_and_a_run_its_sum():
    """All that a decoder can do with drafts of two digits, until three are written."""
    model, drafter = table(1.0), table(1.5, seed=4)
    p, q = next_laws(model), next_laws(drafter)
    done, runs = {}, np.zeros(3)

    def step(text, mass):
        if len(text) == 3:
            done[text] = done.get(text, 0) + mass
            return
        length = min(2, 2 - len(text))  # drafts; the last digit of a step is the model's own
        for drafts in product(range(3), repeat=length):
            drawn, now = mass, text
            for x in drafts:
                drawn *= q[now][x]
                now = (*now, x)
            now, alive = text, drawn
            for n, x in enumerate(drafts):
                a = min(1, p[now][x] / q[now][x])
                remainder = np.maximum(p[now] - q[now], 0)
                for y in range(3):
                    if remainder[y]:
                        step((*now, y), alive * (1 - a) * remainder[y] / remainder.sum())
                if text == ():
                    runs[n] += alive * (1 - a)
                alive, now = alive * a, (*now, x)
            if text == ():
                runs[length] += alive
            for y in range(3):
                step((*now, y), alive * p[now][y])

    step((), 1.0)
    law = np.array([done[tuple(text)] for text in model.strings.tolist()])
    np.testing.assert_allclose(law, model.law(), rtol=0, atol=1e-12)
    one = np.minimum(p[()], q[()])
    two = sum(one[x] * np.minimum(p[x,], q[x,]).sum() for x in range(3))
    np.testing.assert_allclose(runs, [1 - one.sum(), one.sum() - two, two], rtol=0, atol=1e-12)


# ---- corrections by the ratio


@pytest.mark.parametrize("c", [0.3, 1.0, 3.0, 50.0])
def test_truncated_weights_are_the_twin_of_coins_with_k_at_the_limit(c):
    for pi, mu in PAIRS:
        w = pi / mu
        g = RNG.normal(size=(len(w), 3))
        coins = np.minimum(1, w / c)
        np.testing.assert_allclose(
            (mu * np.minimum(w, c)) @ g, c * finite.kept_gradient(mu, coins, g), rtol=0, atol=1e-12 * c
        )
        law, _ = finite.accepted_law(mu, coins)
        np.testing.assert_allclose(
            law, np.minimum(pi, c * mu) / np.minimum(pi, c * mu).sum(), rtol=0, atol=1e-12
        )
        if c >= w.max():
            np.testing.assert_allclose(law, pi, rtol=0, atol=1e-12)


def test_coins_with_the_largest_ratio_are_exact_at_one_in_its_size_and_a_mask_is_the_target_given_the_limit():
    for pi, mu in PAIRS:
        w = pi / mu
        law, rate = finite.accepted_law(mu, w / w.max())
        assert variation(law, pi) < 1e-12 and rate == pytest.approx(1 / w.max())
        inside = w <= 3
        masked = mu * w * inside
        np.testing.assert_allclose(masked / masked.sum(), pi * inside / pi[inside].sum(), rtol=0, atol=1e-12)


def worlds(spread, number=60):
    rng = np.random.default_rng(5)
    for _ in range(number):
        mu = rng.dirichlet(np.ones(200))
        pi = mu * np.exp(spread * rng.standard_normal(200))
        yield mu, pi / pi.sum()


def test_a_band_is_worse_than_nothing_from_a_spread_of_0_3_on_and_no_dropper_beats_the_formula_at_its_price():
    for spread, worse in ((0.1, False), (0.4, True), (0.7, True), (1.2, True)):
        none, band, truncated = [], [], []
        for mu, pi in worlds(spread):
            w = pi / mu
            keep = (w >= 0.5) & (w <= 2)
            law, rate = finite.accepted_law(mu, keep)
            none.append(variation(mu, pi))
            band.append(variation(law, pi))
            truncated.append(variation(finite.accepted_law(mu, np.minimum(1, w / 3))[0], pi))
            for dropper in (keep, w <= 3, w >= 1):
                law, rate = finite.accepted_law(mu, dropper)
                if rate < 1 - 1e-9:
                    c = optimize.brentq(
                        lambda c, w=w, mu=mu, rate=rate: mu @ np.minimum(1, w / c) - rate,
                        1e-9,
                        w.max() / rate,
                    )
                    best, _ = finite.accepted_law(mu, np.minimum(1, w / c))
                    assert variation(best, pi) <= variation(law, pi) + 1e-9
        assert (np.mean(band) > np.mean(none) + 0.01) == worse and np.mean(truncated) <= np.mean(none)


def test_weights_of_tokens_belong_to_a_law_each_and_weights_of_answers_to_one():
    model, drafter = table(1.0), table(1.5, seed=4)
    p, q = next_laws(model), next_laws(drafter)
    laws = []
    for t in range(3):
        ratio = np.array([p[tuple(y[:t])][y[t]] / q[tuple(y[:t])][y[t]] for y in model.strings.tolist()])
        mass = drafter.law() * np.minimum(ratio, 3)
        laws.append(mass / mass.sum())
    assert min(variation(laws[i], laws[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.02
    assert min(variation(law, model.law()) for law in laws) > 0.02
    whole = drafter.law() * (model.law() / drafter.law())
    assert variation(whole, model.law()) < 1e-12


# ---- filters of groups


@pytest.mark.parametrize("n", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("z", [0.01, 0.3, 0.5, 0.9])
def test_what_a_filter_of_groups_keeps_and_what_it_does_not_change(n, z):
    groups = np.array(list(product((0, 1), repeat=n)) if n < 16 else [], dtype=float)
    number = np.arange(n + 1)
    law = special.comb(n, number) * z**number * (1 - z) ** (n - number)
    kept = (number > 0) & (number < n)
    stays = 1 - z**n - (1 - z) ** n
    assert law @ kept == pytest.approx(stays, abs=1e-12)
    right = law @ (kept * number / n) / stays
    assert right == pytest.approx(z * (1 - z ** (n - 1)) / stays, abs=1e-12)
    assert n > 2 or right == pytest.approx(0.5, abs=1e-12)
    step = law @ (number / n * (1 - number / n))
    assert step == pytest.approx(z * (1 - z) * (n - 1) / n, abs=1e-12)
    if len(
        groups
    ):  # the step from its definition: the mean of (r - mean r) times the gradient of log pi in log-odds, r - z
        p = np.prod(np.where(groups == 1, z, 1 - z), axis=1)
        advantage = groups - groups.mean(axis=1, keepdims=True)
        steps = (advantage * (groups - z)).mean(axis=1)
        mixed = (groups.sum(axis=1) > 0) & (groups.sum(axis=1) < n)
        assert p @ steps == pytest.approx(step, abs=1e-12) and p @ (steps * mixed) == pytest.approx(
            step, abs=1e-12
        )
        assert np.abs(steps[~mixed]).max() < 1e-15


def test_the_data_sets_own_answer_is_taken_with_the_share_of_the_formula():
    for n, z in product((1, 2, 8), (0.05, 0.2, 0.9)):
        number = np.arange(n + 1)
        law = special.comb(n, number) * z**number * (1 - z) ** (n - number)
        assert law @ (1 / (1 + number)) == pytest.approx((1 - (1 - z) ** (n + 1)) / ((n + 1) * z), abs=1e-12)
