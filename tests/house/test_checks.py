"""The judge of evidence, judged: exact values by enumeration and by scipy, levels and power by simulation."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from scipy import stats

from rsf import checks
from rsf.checks import (
    collapsed,
    crossed_difference,
    in_general,
    median_difference,
    paired_difference,
    refused,
    same_counts,
    sign_flip,
    verdict,
)

MOST = int(
    stats.binom.ppf(0.999, 1000, 0.05)
)  # false alarms in 1,000 at a level of 5 %, in all but 1 of 1,000 tries


def test_the_most_false_alarms_allowed_are_73():
    assert MOST == 73


# ---- counts


@pytest.mark.parametrize("n", [200, 5_000])
def test_a_rare_cell_raises_no_more_false_alarms_than_the_level_allows(n):
    """Exactly, over all counts of the rare one of two cells; chi-square alone has 3.5 times the level."""
    for expected in np.append(np.linspace(6, 12, 25), 5.35):
        law, few = np.array([expected, n - expected]) / n, np.arange(60)
        refused = [not same_counts([x, n - x], law) for x in few]
        by_chi2 = stats.chi2.sf((few - expected) ** 2 / (expected * law[1]), 1) < 1e-3
        mass = stats.binom.pmf(few, n, law[0])
        assert mass @ refused < 1.1e-3 and (mass @ refused <= mass @ by_chi2)
    assert mass @ by_chi2 > 3e-3


def test_a_p_value_above_the_level_is_chi_squares_and_one_below_it_the_larger_of_two():
    counts, law = np.array([14, 30, 156]), np.array([0.025, 0.2, 0.775])
    chi2, ratio = (stats.power_divergence(counts, 200 * law, lambda_=power)[1] for power in (1, 0))
    assert chi2 < 1e-3 < ratio
    assert same_counts(counts, law).p_value == pytest.approx(ratio) and same_counts(counts, law)
    assert same_counts(counts, law, level=1e-5).p_value == pytest.approx(chi2)
    found = same_counts(counts, law, level=0.05)
    assert found.p_value == pytest.approx(ratio) and not found


@pytest.mark.parametrize("law", [[0.5, float("nan")], [0.5, 0.6], [1.5, -0.5], [1.0], [0.5, 0.25, 0.25]])
def test_what_is_no_law_of_the_cells_is_refused(law):
    with pytest.raises(ValueError, match="one probability per cell, summing to 1"):
        same_counts([50, 50], law)


# ---- pairs


def test_pairs_are_made_by_seed_and_not_by_position():
    a, b = {3: 0.9, 1: 0.5, 2: 0.7}, {1: 0.4, 2: 0.65, 3: 0.7}
    assert str(paired_difference(a, b)) == str(paired_difference([0.9, 0.5, 0.7], [0.7, 0.4, 0.65]))
    assert str(paired_difference(a, b)) != str(paired_difference(list(a.values()), list(b.values())))
    assert sign_flip(a, b) == sign_flip([0.9, 0.5, 0.7], [0.7, 0.4, 0.65]) == 0.25
    rows = (
        {seed: [value, 1.0] for seed, value in a.items()},
        {seed: [value, 0.0] for seed, value in b.items()},
    )
    by_hand = [[0.9, 1.0], [0.5, 1.0], [0.7, 1.0]], [[0.7, 0.0], [0.4, 0.0], [0.65, 0.0]]
    assert str(crossed_difference(*rows)) == str(crossed_difference(*by_hand))


@pytest.mark.parametrize("compare", [paired_difference, median_difference, sign_flip])
def test_seeds_that_stand_in_one_arm_only_are_named(compare):
    with pytest.raises(ValueError, match=r"the same seeds; in one only: \[4, 5\]"):
        compare({1: 0.5, 4: 0.5, 2: 0.1}, {1: 0.5, 5: 0.5, 2: 0.1})
    with pytest.raises(ValueError, match="the same seeds"):
        compare({1: 0.5, 4: 0.5, 2: 0.1}, [0.5, 0.5, 0.7])


@pytest.mark.parametrize("level", [0, 1, -0.05, 5, 95, float("nan")])
def test_a_level_outside_0_to_1_is_refused(level):
    a, b = np.arange(20.0), np.zeros(20)
    for act in (
        lambda: paired_difference(a, b, level=level),
        lambda: median_difference(a, b, level=level),
        lambda: crossed_difference(a.reshape(4, 5), b.reshape(4, 5), level=level),
        lambda: checks.rate_interval(1, 2, level=level),
        lambda: checks.waiting_interval(1, 2, level=level),
        lambda: same_counts([50, 50], [0.5, 0.5], level=level),
        lambda: checks.same_law([0.5], stats.uniform.cdf, level=level),
    ):
        with pytest.raises(ValueError, match=rf"level must lie in \(0, 1\).*got {level}"):
            act()


def test_where_all_differences_are_0_the_arms_are_identical_and_never_above():
    same = np.linspace(0.1, 0.9, 20)
    found = paired_difference(same, same)
    assert str(found) == "paired difference: identical, n = 20: PASS"
    assert (found.estimate, found.low, found.high) == (0, 0, 0)
    assert (
        str(paired_difference(same, same, above=0)) == "paired difference: identical, n = 20, above 0: FAIL"
    )
    assert paired_difference(same, same, above=-0.5)
    assert str(median_difference(same, same)).startswith("paired median: identical, ranks 6 and 15, n = 20")
    assert str(crossed_difference(np.ones((2, 3)), np.ones((2, 3)))) == (
        "crossed difference: identical, n = 2 seeds x 3 examples: PASS"
    )
    a_width_of_0 = paired_difference([1.5, 2.5], [1.0, 2.0])  # alike, but not 0
    assert str(a_width_of_0) == "paired difference 0.5000, 95 % interval [0.5000, 0.5000], n = 2: PASS"


@pytest.mark.parametrize(
    "a, b, compare",
    [
        ([1.0], [0.0], paired_difference),
        ([1.0, 2.0], [0.0], sign_flip),
        ([1.0, np.nan], [0.0, 1.0], median_difference),
        ([1.0, 2.0], [0.0, 1.0], crossed_difference),
        ([[1.0, 2.0]], [[0.0, 1.0]], crossed_difference),
        ([[1.0], [2.0]], [[0.0], [1.0]], crossed_difference),
    ],
)
def test_what_is_no_pair_of_arms_is_refused(a, b, compare):
    with pytest.raises(ValueError, match="needs finite values of one shape"):
        compare(a, b)


# ---- the sign flip


def by_enumeration(differences):
    """Return the p-value in exact fractions over all signs."""
    d = [Fraction(str(value)) for value in differences]
    sums = [
        abs(sum(s * v for s, v in zip(signs, d, strict=True))) for signs in product((-1, 1), repeat=len(d))
    ]
    return Fraction(sum(value >= abs(sum(d)) for value in sums), len(sums))


@pytest.mark.parametrize(
    "d",
    [
        [0.3, -0.1],
        [0.1, 0.2, -0.3],  # 0.1 + 0.2 and 0.3 are unequal floats, and tied
        [0.1, 0.2, -0.3, 0.6, 0.1, 0.1, -0.2],
        [0.0, 0.0, 0.5, -0.2, 0.0, 0.7],
        [1.0] * 9,
        [1.0, -1.0] * 4,
        [0.7, 0.7, 0.7, -0.7, 0.7, 0.7],
        [1e-7, 3e-7, -2e-7, 4e-7, 5e-7],
        [1e9, 3e9, -2e9, 4e9, 5e9],
        [1e4, 0.25, -0.5],
        [0.52, 0.64, 0.41, 0.61, 0.38, 0.55, 0.47, 0.5, 0.66, -0.1, 0.44],
    ],
    ids=str,
)
def test_the_sign_flip_counts_all_signs_also_with_ties_and_zeros(d):
    assert sign_flip(d, np.zeros(len(d))) == float(by_enumeration(d)) == sign_flip(np.zeros(len(d)), d)


def test_the_sign_flip_of_signed_ranks_is_wilcoxons_exact_test():
    rng = np.random.default_rng(50)
    for n in (5, 11, 20, 40):
        for lean in (0.5, 0.7, 0.9):
            d = rng.permutation(np.arange(1, n + 1)) * np.where(rng.random(n) < lean, 1, -1)
            assert sign_flip(d, np.zeros(n)) == pytest.approx(
                stats.wilcoxon(d, method="exact").pvalue, rel=1e-12
            )


def test_the_sign_flip_is_scipys_exact_permutation_test():
    rng = np.random.default_rng(51)
    for n in (3, 8, 12):
        a, b = rng.normal([[0.4], [0.0]], 1.0, (2, n))
        theirs = stats.permutation_test(
            (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True,
            n_resamples=np.inf,
        )  # fmt: skip
        assert sign_flip(a, b) == pytest.approx(theirs.pvalue, rel=1e-12)


def test_the_ends_of_the_sign_flip():
    assert sign_flip(np.arange(1, 6), np.zeros(5)) == 2 / 32  # five seeds cannot decide
    assert sign_flip(np.arange(1, 21), np.zeros(20)) == 2 / 2**20
    assert sign_flip(np.arange(1, 41), np.zeros(40)) == 2 / 2**40
    assert sign_flip(np.zeros(20), np.zeros(20)) == 1
    with pytest.raises(ValueError, match="at most 40 pairs, got 41"):
        sign_flip(np.arange(41), np.zeros(41))


# ---- the median


def test_the_ranks_of_the_median_are_the_exact_binomial_ones():
    d = np.random.default_rng(52).exponential(size=20) - 0.5
    ordered = np.sort(d)
    for level, r, share in (
        (0.05 / 7, 4, "99.74"),
        (0.05 / 3, 5, "98.8"),
        (0.05, 6, "95.9"),
        (0.005, 4, "99.74"),
    ):
        found = median_difference(d, np.zeros(20), level=level)
        assert (found.low, found.high, found.estimate) == (ordered[r - 1], ordered[-r], np.median(d))
        assert f" {share} % interval" in str(found) and f"ranks {r} and {21 - r}, n = 20" in str(found)
        missed = 2 * sum(Fraction(1, 2**20) * len_choose(20, j) for j in range(r))
        assert float(missed) <= level < float(missed + 2 * Fraction(1, 2**20) * len_choose(20, r))
        theirs = stats.quantile_test(d).confidence_interval(1 - level)
        assert (found.low, found.high) == (theirs.low, theirs.high)
    assert median_difference(d + 2, d, above=1.5) and not median_difference(d, np.zeros(20), above=0)


def len_choose(n, k):
    """Return how many subsets of k there are, by Pascal's rule."""
    return 1 if k in (0, n) else len_choose(n - 1, k - 1) + len_choose(n - 1, k)


def test_a_level_that_is_exactly_reached_is_reached_and_fewer_pairs_are_too_few():
    assert median_difference(np.arange(6), np.zeros(6), level=2 / 64).low == 0  # smallest and largest
    assert median_difference(np.arange(5), np.zeros(5), level=2 / 32).high == 4
    with pytest.raises(ValueError, match=r"5 pairs are too few for level 0.05: .* probability 0.9375"):
        median_difference(np.arange(5), np.zeros(5))
    with pytest.raises(ValueError, match="2 pairs are too few"):
        median_difference([1, 2], [0, 0])


def test_collapsed_runs_lie_below_the_middle_of_floor_and_median():
    runs = [0.9, 0.8, 0.85, 0.3, 0.425, 0.0]  # median 0.6125
    assert collapsed(runs) == 2 and collapsed(dict(enumerate(runs))) == 2
    assert collapsed(runs, floor=0.5) == 3  # below 0.55625
    assert (
        collapsed([0.8, 0.8, 0.8]) == 0 and collapsed([1.0, 1.0, 0.5]) == 0 and collapsed([1, 1, 0.4999]) == 1
    )


def with_collapses(rng, gain=0.0, seeds=20):
    """Return the accuracies of two arms: shared seed effects, noise, and one run in seven that collapses."""
    seed = rng.normal(0, 0.03, (1000, 1, seeds))
    values = 0.8 + seed + rng.normal(0, 0.02, (1000, 2, seeds))
    values[:, 0] += gain
    return np.where(rng.random(values.shape) < 1 / 7, 0.1 + 0.02 * rng.random(values.shape), values)


def test_equal_arms_with_collapses_are_called_different_at_the_level_and_a_gain_is_found():
    rng = np.random.default_rng(53)
    off, flips = 0, 0
    for a, b in with_collapses(rng):
        found = median_difference(a, b)
        off += not found.low <= 0 <= found.high
        flips += sign_flip(a, b) <= 0.05
    assert 0 < off <= MOST and 0 < flips <= MOST
    found = sum(median_difference(a, b, above=0).passed for a, b in with_collapses(rng, gain=0.04))
    ahead = 36 / 49 * stats.norm.cdf(0.04 / np.sqrt(2 * 0.02**2)) + 6 / 49 + 0.5 / 49  # P(a > b) of one pair
    power = stats.binom.sf(14, 20, ahead)  # the 6th smallest difference is positive
    assert power > 0.8 and abs(found / 1000 - power) < 0.04


# ---- seeds crossed with examples


def crossed_by_hand(d, level):
    """Return mean and half width: the variance of the mean is mean^2 without E of d_ij d_km of other seed and example."""
    s, n = d.shape
    everything = product(range(s), range(n), range(s), range(n))
    variance = d.mean() ** 2 - np.mean([d[i, j] * d[k, m] for i, j, k, m in everything if i != k and j != m])
    rest = [(d[i, j] - d[i].mean() - d[:, j].mean() + d.mean()) ** 2 for i, j in product(range(s), range(n))]
    freedoms = s - 1, n - 1, (s - 1) * (n - 1)
    of_means = n * np.var(d.mean(axis=1), ddof=1), s * np.var(d.mean(axis=0), ddof=1)
    squares = *of_means, sum(rest) / freedoms[2]
    freedom = (variance * s * n) ** 2 / sum(ms**2 / df for ms, df in zip(squares, freedoms, strict=True))
    if variance <= 0:
        return d.mean(), 0.0
    return d.mean(), stats.t.ppf(1 - level / 2, max(freedom, 1)) * np.sqrt(variance)


@pytest.mark.parametrize("spread", [0.0, 0.2, 1.0])
def test_the_crossed_interval_is_satterthwaites_or_that_of_t_over_the_seeds_if_it_is_wider(spread):
    rng = np.random.default_rng(54)
    of_t = 0
    for _ in range(30):
        d = 0.3 * rng.normal(size=(4, 1)) + spread * rng.normal(size=7) + rng.normal(size=(4, 7)) + 0.3
        mean, half = crossed_by_hand(d, 0.01)
        over_seeds = paired_difference(d.mean(axis=1), np.zeros(4), level=0.01)
        found = crossed_difference(d + 0.25, np.full((4, 7), 0.25), level=0.01)
        of_t += over_seeds.high - mean > half
        half = max(half, over_seeds.high - mean)
        assert (found.estimate, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert "99 % interval" in str(found) and "n = 4 seeds x 7 examples" in str(found)
    assert of_t < 30 and (of_t > 0 or spread == 1)


def test_a_variance_that_is_estimated_below_0_gives_no_number_that_is_none():
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    found = crossed_difference(opposite, np.zeros((2, 2)))
    assert (found.low, found.high) == (0, 0) and "identical" not in str(found)


def outcomes(rng, seeds, reviews, seed, review, gain=0.0):
    """Return right or wrong (2, seeds, reviews) of two arms whose seeds and reviews have effects of their own."""
    difficulty = rng.normal(1.2, 1.0, reviews)
    effects = rng.normal(0, seed, (2, seeds, 1)) + rng.normal(0, review, (2, 1, reviews))
    logit = difficulty + effects + np.array([gain, 0.0])[:, None, None]
    return (rng.random(logit.shape) < 1 / (1 + np.exp(-logit))).astype(np.float64)


WORLDS = {"seed": (0.6, 0.0), "review": (0.0, 1.2), "both": (0.5, 1.2), "neither": (0.0, 0.0)}


@pytest.mark.parametrize("seed, review", WORLDS.values(), ids=WORLDS)
def test_two_equal_arms_are_called_different_in_at_most_73_of_1000(seed, review):
    rng = np.random.default_rng(56)
    crossed, over_seeds, over_reviews = 0, 0, 0
    for _ in range(1000):
        a, b = outcomes(rng, 20, 100, seed, review)
        found = crossed_difference(a, b)
        crossed += not found.low <= 0 <= found.high
        found = paired_difference(a.mean(axis=1), b.mean(axis=1))
        over_seeds += not found.low <= 0 <= found.high
        found = paired_difference(a.mean(axis=0), b.mean(axis=0))
        over_reviews += not found.low <= 0 <= found.high
    assert crossed <= MOST
    assert (over_seeds > MOST) == (review > 0)  # the counter-check: one source alone misses the other
    assert (over_reviews > MOST) == (seed > 0)


def test_a_planted_gain_is_found_as_often_as_its_size_says():
    """The power of a t test of that spread: with a gain of 4 standard errors, about 95 of 100."""
    rng = np.random.default_rng(57)
    equal = [np.subtract(*outcomes(rng, 10, 200, 0.15, 0.6)).mean() for _ in range(300)]
    spread = np.std(equal)  # the true standard error
    gain = 0.9
    found, true = 0, []
    for _ in range(300):
        a, b = outcomes(rng, 10, 200, 0.15, 0.6, gain)
        true.append((a - b).mean())
        found += crossed_difference(a, b, above=0).passed
    size = np.mean(true) / spread
    expected = stats.nct.sf(stats.t.ppf(0.975, 30), 30, size)
    assert size > 3 and abs(found / 300 - expected) < 0.07


# ---- what an interval says of a claim

RULE = {
    "reproduced": ((0.7, 0.2, 1.2), {}, "reproduced", "reproduced (a gain, estimated at 0.5 or more, in this scope)"),
    "reproduced, at the limit": ((0.5, 1e-9, 1.0), {}, "reproduced", None),
    "limit at 0": ((0.7, 0.0, 1.4), {}, "undecided", "undecided (perhaps no gain, perhaps one of 0.5, in this scope)"),
    "a gain, too small": ((0.2, 0.1, 0.3), {}, "refuted", "refuted (no gain of 0.5, in this scope; a gain, smaller than 0.5)"),
    "no gain": ((-0.1, -0.5, 0.3), {}, "refuted", "refuted (no gain of 0.5, in this scope)"),
    "a loss": ((-0.52, -0.64, -0.41), {"unit": " points"}, "refuted", "refuted (no gain of 0.5 points, in this scope)"),
    "upper limit at delta": ((0.2, -0.1, 0.5), {}, "undecided", None),
    "upper limit at delta, a gain": ((0.3, 0.1, 0.5), {}, "undecided", "undecided (a gain, perhaps one of 0.5, in this scope)"),
    "wide": ((0.7, -0.2, 1.6), {}, "undecided", None),
    "may, no gain": ((-0.1, -0.5, 0.3), {"quantifier": "may"}, "not reproduced here", "not reproduced here (no gain of 0.5, in this scope)"),
    "may, too small": ((0.2, 0.1, 0.3), {"quantifier": "may"}, "not reproduced here", "not reproduced here (no gain of 0.5, in this scope; a gain, smaller than 0.5)"),
    "may": ((0.7, 0.2, 1.2), {"quantifier": "may"}, "reproduced", None),
    "may, wide": ((0.7, -0.2, 1.6), {"quantifier": "may"}, "undecided", None),
    "less": ((-0.7, -1.2, -0.2), {"direction": "less"}, "reproduced", None),
    "less, but more": ((0.7, 0.2, 1.2), {"direction": "less"}, "refuted", "refuted (no gain of 0.5, in this scope)"),
    "harm": ((-0.7, -1.2, -0.2), {"direction": "harm"}, "reproduced", "reproduced (a harm, estimated at 0.5 or more, in this scope)"),
    "harm, small": ((-0.2, -0.3, -0.1), {"direction": "harm"}, "refuted", "refuted (no harm of 0.5, in this scope; a harm, smaller than 0.5)"),
    "harm, none": ((0.7, 0.2, 1.2), {"direction": "harm"}, "refuted", "refuted (no harm of 0.5, in this scope)"),
    "harm, wide": ((-0.7, -1.6, 0.2), {"direction": "harm"}, "undecided", "undecided (perhaps no harm, perhaps one of 0.5, in this scope)"),
    "not run": ((None, None, None), {"missing": 20}, "open", "open (20 of the declared seeds are missing)"),
    "a seed is missing": ((0.7, 0.2, 1.2), {"missing": 1}, "open", "open (1 of the declared seeds are missing)"),
}  # fmt: skip


@pytest.mark.parametrize("numbers, options, word, text", RULE.values(), ids=RULE)
def test_the_verdict_follows_the_rule(numbers, options, word, text):
    found = verdict(*numbers, 0.5, **options)
    assert found.word == word and str(found) == (text or str(found)) and str(found).startswith(word)


def test_turning_the_signs_turns_more_into_less():
    rng = np.random.default_rng(58)
    for low, estimate, high in np.sort(rng.normal(0, 0.6, (300, 3))):
        assert verdict(estimate, low, high, 0.5) == verdict(-estimate, -high, -low, 0.5, direction="less")


@pytest.mark.parametrize(
    "numbers, options",
    [
        ((0.5, 0.6, 0.7, 0.5), {}),
        ((0.5, 0.1, 0.4, 0.5), {}),
        ((float("nan"), 0.1, 0.4, 0.5), {}),
        ((0.2, 0.1, 0.4, 0.0), {}),
        ((0.2, 0.1, 0.4, -0.5), {}),
        ((0.2, 0.1, 0.4, float("nan")), {}),
        ((0.2, 0.1, 0.4, 0.5), {"quantifier": "always"}),
        ((0.2, 0.1, 0.4, 0.5), {"direction": "up"}),
    ],
)
def test_what_is_no_interval_and_no_claim_is_refused(numbers, options):
    with pytest.raises(ValueError, match=r"need low <= estimate <= high|quantifier must be"):
        verdict(*numbers, **options)


def test_a_claim_in_general_needs_every_case_and_one_refutes_it():
    yes, no = verdict(2, 1, 3, 1), verdict(0, -1, 0.5, 1)
    perhaps, unrun = verdict(1, -1, 3, 1), verdict(None, None, None, 1, missing=3)
    for cases, word in (
        ([yes, yes], "reproduced"),
        ([yes, no], "refuted"),
        ([yes, perhaps], "undecided"),
        ([yes, unrun], "open"),
        ([perhaps, unrun], "open"),
        ([no, unrun, perhaps], "refuted"),
    ):
        found = in_general({f"case {i}": case for i, case in enumerate(cases)})
        assert found.word == word and all(f"case {i}: {case}" in str(found) for i, case in enumerate(cases))
    assert str(in_general({"few": no})) == "refuted in general (few: refuted (no gain of 1, in this scope))"
    with pytest.raises(ValueError, match="one declared case or more, got none"):
        in_general({})


# ---- counter-checks


def test_a_counter_check_says_what_was_refused():
    wrong, right = same_counts([70, 30], [0.5, 0.5]), same_counts([50, 50], [0.5, 0.5])
    line = "counter-check: uniform candidates are REFUSED, as they must be"
    assert refused(wrong, "uniform candidates") and str(refused(wrong, "uniform candidates")) == line
    assert (
        str(refused(wrong, "the coin", plural=False)) == "counter-check: the coin is REFUSED, as it must be"
    )
    assert refused(wrong, "uniform candidates").p_value == wrong.p_value
    failed = refused(right, "uniform candidates")
    assert not failed and str(failed) == f"counter-check FAILED, uniform candidates passed: {right.text}"
    assert str(checks.must_fail(wrong)) == f"counter-check, must fail: {wrong.text}: PASS"
