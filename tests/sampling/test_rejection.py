"""Acceptance, rejection sampling, the judge and the exact finite laws, each held against enumeration, integration or scipy."""

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from rsf import checks, finite
from rsf.acceptance import AcceptanceStarved, EnvelopeError, accept, acceptance_probability, log_acceptance
from rsf.sampling import Draws, StripEnvelope, rejection, rejection_sample

P, Q = (
    np.array([0.1, 0.2, 0.3, 0.4, 0.0]),
    np.array([0.4, 0.3, 0.1, 0.1, 0.1]),
)  # a world of five outcomes, sup p/q = 4
BINORM = stats.multivariate_normal([1, -1], [[2, 0.6], [0.6, 1]])
UNIFORM = SimpleNamespace(
    rvs=lambda size, random_state: random_state.random(size), logpdf=lambda x: np.zeros(len(x))
)
ALIKE = stats.multivariate_t([1, -1], [[2, 0.6], [0.6, 1]], df=3)
NO_NUMBER = [0, 0, 0, 0, np.nan]
REFUSED = {
    log_acceptance: [
        (np.nan, 0, 0),
        (np.inf, 0, 0),
        (0, np.nan, 0),
        (0, np.inf, 0),
        (0, 0, np.nan),
        (0, 0, np.inf),
        (0, 0, -np.inf),
    ],
    rejection_sample: [(UNIFORM, UNIFORM, 0.0, size, np.random.default_rng(0)) for size in (-1, 2.5, np.nan)],
    checks.same_law: [([], stats.norm.cdf), ([0.0, np.nan], stats.norm.cdf), ([[0.0]], stats.norm.cdf)],
    checks.same_counts: [
        *(([50, 50], [0.5, 0.6]), ([50, 50], [1.0]), ([5, 4], [0.5, 0.5]), ([-5, 20], [0.5, 0.5])),
        (
            np.eye(1, 100)[0] * 400,
            np.full(100, 0.01),
        ),  # every cell expects 4: pooled into one, nothing could ever fail
    ],
    checks.rate_interval: [(3, 2), (-1, 2), (0, 0)],
    checks.waiting_interval: [(0, 5), (6, 5)],
    checks.paired_difference: [([1.0, 2.0], [1.0]), ([1.0], [1.0]), ([1.0, np.nan, 2.0], [1.0, 1.0, 1.0])],
    finite.accepted_law: [
        (Q, [0, 0, 0, 0, 1.1]),
        (Q, NO_NUMBER),
        (Q, [1.0, 1.0]),
        (P, [0, 0, 0, 0, 1]),
        ([0.5, 0.6], [1, 1]),
    ],
    finite.tilted_law: [(Q, P, 0.0), (Q, NO_NUMBER, 1.0)],
    finite.best_of_n_law: [(Q, P, 0), (Q, P, 1.5), (Q, NO_NUMBER, 2)],
    finite.joint_law: [
        ([1], [[1]], [[0]]),
        ([1], [[1], [1]], [[1], [1]]),
        ([0.5, 0.5], [[1], [1]], [[np.nan], [1]]),
    ],
    finite.kl: [([1.5, -0.5], [0.5, 0.5]), ([0.5, 0.5], [0.5, 0.6])],
}


def log(p):
    return np.log(p, out=np.full(np.shape(p), -np.inf), where=np.asarray(p) > 0)


def world(q):
    return SimpleNamespace(
        rvs=lambda size, random_state: random_state.choice(len(q), size, p=q), logpdf=lambda x: log(q)[x]
    )


def p_of_counts(x, law):
    counts, possible = np.bincount(x, minlength=len(law)), law > 0
    return (
        stats.chisquare(counts[possible], law[possible] * len(x)).pvalue
        if not counts[~possible].any()
        else 0.0
    )


def test_log_acceptance_is_the_unclipped_difference_and_settles_zeros():
    got = log_acceptance([-1.0, 5.0, -np.inf, -np.inf, 0.0], [1.0, 2.0, 0.0, -np.inf, -np.inf], 0.5)
    assert got.tolist() == [-2.5, 2.5, -np.inf, -np.inf, np.inf]
    assert log_acceptance(np.zeros((3, 1)), np.zeros(2), 0.0).shape == (3, 2)
    assert acceptance_probability(np.log([1, 2, 8]), np.log([1, 1, 2]), np.log(3)) == pytest.approx(
        [1 / 3, 2 / 3, 1]
    )


def test_one_coin_per_candidate_in_c_order_whatever_a_is():
    a = np.array([[0.0, 1.0, 0.3], [0.7, 0.5, 0.2]])
    ours, theirs = np.random.default_rng(1), np.random.default_rng(1)
    kept, slack = accept(np.asfortranarray(log(a)), ours, with_slack=True)
    u = theirs.random(6).reshape(2, 3)
    assert (kept == (u < a)).all() and slack == pytest.approx(np.abs(u - a).min(), abs=1e-15)
    assert ours.bit_generator.state == theirs.bit_generator.state
    assert accept(np.empty(0), ours, with_slack=True)[1] == np.inf


@pytest.mark.parametrize("slack", [False, True])
def test_a_coin_of_0_keeps_a_sure_candidate_and_not_an_impossible_one(slack):
    kept = accept([-np.inf, 0.0], SimpleNamespace(random=np.zeros), with_slack=slack)
    assert list(kept[0] if slack else kept) == [False, True]


def test_accept_refuses_a_probability_above_1_and_nan_but_not_rounding():
    rng = np.random.default_rng(0)
    assert accept(5e-10, rng)
    with pytest.raises(EnvelopeError, match=r"exp\(0.25\) > 1 at index \(1, 0\).*larger by 0.25"):
        accept([[-1.0, 0.1], [0.25, 0.0]], rng)
    with pytest.raises(EnvelopeError):
        accept(1e-7, rng)
    with pytest.raises(ValueError, match=r"NaN at index \(0, 1\)"):
        accept([[-1.0, np.nan]], rng)


def test_the_accepted_law_of_a_finite_world_is_p_at_rate_1_over_k():
    law, rate = finite.accepted_law(Q, acceptance_probability(log(P), log(Q), np.log(4)))  # exactly
    assert law == pytest.approx(P) and rate == pytest.approx(1 / 4)
    draws = rejection_sample(lambda x: log(P)[x], world(Q), np.log(4), 20_000, np.random.default_rng(2))
    assert p_of_counts(draws.samples, P) > 1e-3 > p_of_counts(draws.samples, P[[1, 0, 2, 3, 4]])
    assert 5e-4 < stats.nbinom.cdf(draws.proposed - 20_000, 20_000, 1 / 4) < 1 - 5e-4
    assert draws.max_log_ratio == pytest.approx(np.log(4))


def test_clip_draws_the_smaller_of_p_and_kq_and_not_p():
    small = np.minimum(P, 1.5 * Q)
    draws = rejection_sample(
        lambda x: log(P)[x], world(Q), np.log(1.5), 20_000, np.random.default_rng(3), clip=True
    )
    assert p_of_counts(draws.samples, small / small.sum()) > 1e-3 > p_of_counts(draws.samples, P)
    assert 5e-4 < stats.nbinom.cdf(draws.proposed - 20_000, 20_000, small.sum() / 1.5) < 1 - 5e-4
    assert draws.max_log_ratio == pytest.approx(np.log(4))  # what was clipped is reported


@pytest.mark.parametrize(
    "target, law, proposal, log_k, rate",
    [
        (
            stats.beta(2, 5),
            stats.beta(2, 5),
            stats.uniform(),
            np.log(2.4576),
            1 / 2.4576,
        ),  # k = 30 * 0.2 * 0.8**4
        (stats.triang(0.3), stats.triang(0.3), stats.uniform(), np.log(2), 1 / 2),
        (stats.norm(), stats.norm(), stats.cauchy(), np.log(2 * np.pi / np.e) / 2, np.sqrt(np.e / 2 / np.pi)),
        (stats.norm().logpdf, stats.norm(), stats.t(2), np.log(1.5), 1 / 1.5),  # not the smallest k
        (
            lambda x: np.log(x) - 2000,
            stats.beta(2, 1),
            stats.uniform(),
            -2000,
            1 / 2,
        ),  # a mass of e**-2000 / 2: only logs can hold it
    ],
)
def test_kept_draws_follow_the_density_at_rate_z_over_k(target, law, proposal, log_k, rate):
    draws = rejection_sample(target, proposal, log_k, 4000, np.random.default_rng(5))
    assert (
        stats.kstest(draws.samples, law.cdf).pvalue > 1e-3 > stats.kstest(draws.samples, proposal.cdf).pvalue
    )
    assert 5e-4 < stats.nbinom.cdf(draws.proposed - 4000, 4000, rate) < 1 - 5e-4


def test_a_multivariate_target_is_sampled_in_every_direction():
    white = np.linalg.inv(np.linalg.cholesky(BINORM.cov))
    top = BINORM.mean + np.linalg.solve(
        white, [np.sqrt(2), 0]
    )  # the ratio peaks where the squared distance is 2
    draws = rejection_sample(
        BINORM, ALIKE, BINORM.logpdf(top) - ALIKE.logpdf(top), 4000, np.random.default_rng(7)
    )
    for x, right in ((draws.samples, True), (ALIKE.rvs(4000, random_state=np.random.default_rng(8)), False)):
        y = (x - BINORM.mean) @ white.T
        p_values = [
            stats.kstest(np.sum(y**2, axis=1), stats.chi2(2).cdf).pvalue,
            stats.kstest(y @ [0.6, 0.8], stats.norm.cdf).pvalue,
        ]
        assert (min(p_values) > 1e-3) == right
    assert draws.samples.shape == (4000, 2)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_a_straight_loop_keeps_the_same_and_stops_at_the_same_candidate(monkeypatch, block):
    monkeypatch.setattr(rejection, "_block_size", lambda *_: block)
    draws = rejection_sample(lambda x: np.log(2 * x), UNIFORM, np.log(2), 20, np.random.default_rng(9))
    rng, kept, proposed, slack = np.random.default_rng(9), [], 0, np.inf
    while len(kept) < 20:
        for x, u in zip(rng.random(block), rng.random(block), strict=True):
            proposed, slack = proposed + (len(kept) < 20), min(slack, abs(u - x))
            if u < x and len(kept) < 20:  # A(x) = 2x / 2
                kept.append(x)
    assert draws.samples.tolist() == kept and (draws.proposed, draws.accepted) == (proposed, 20)
    assert (
        draws.slack == pytest.approx(slack, abs=1e-15) or block > 1
    )  # in blocks there are coins beyond the stop


@pytest.mark.parametrize(
    "name, block",
    [("_block_size", lambda *_: 1), ("_block_size", lambda *_: 50), ("BLOCK", 4), ("BLOCK", 2**16)],
)
def test_the_number_proposed_is_negative_binomial_and_the_rate_unbiased_whatever_the_block(
    monkeypatch, name, block
):
    monkeypatch.setattr(rejection, name, block)
    rng, size, rate, runs = np.random.default_rng(10), 3, 0.3, 2000
    draws = [
        rejection_sample(lambda x: np.full(len(x), np.log(rate)), UNIFORM, 0.0, size, rng)
        for _ in range(runs)
    ]
    law = np.append(stats.nbinom.pmf(np.arange(20), size, rate), stats.nbinom.sf(19, size, rate))
    rejected = np.array([d.proposed - size for d in draws])
    assert p_of_counts(np.minimum(rejected, 20), law) > 1e-3 > p_of_counts(np.minimum(rejected + 1, 20), law)
    unbiased, naive = (
        np.array([d.acceptance_rate for d in draws]),
        np.array([size / d.proposed for d in draws]),
    )
    assert stats.ttest_1samp(unbiased, rate).pvalue > 1e-3 > stats.ttest_1samp(naive, rate).pvalue


@pytest.mark.parametrize("size, rate", [(1, 0.3), (2, 0.7), (12, 0.15)])
def test_rate_and_interval_are_unbiased_and_covering_by_summing_over_all_outcomes(size, rate):
    n = np.arange(size, size + 400)
    stopped = stats.nbinom.pmf(n - size, size, rate), [Draws(None, int(m), size, 0.0, 1.0) for m in n]
    spent = (
        stats.binom.pmf(np.arange(41), 40, rate),
        [Draws(None, 40, m, 0.0, 1.0, stopped_at_size=False) for m in range(41)],
    )
    for law, draws in (stopped, spent):
        assert law @ [d.acceptance_rate for d in draws] == pytest.approx(rate, abs=1e-9)
        for level, most in ((0.95, 0.995), (0.5, 0.87)):  # exact intervals may cover more, not much more
            inside = [low <= rate <= high for low, high in (d.acceptance_interval(level) for d in draws)]
            assert level <= law @ inside + 1e-9 and law @ inside <= most


def test_the_ends_of_both_intervals_leave_exactly_their_tails():
    low, high = Draws(None, 50, 8, 0.0, 1.0).acceptance_interval(0.9)
    assert stats.nbinom.cdf(42, 8, low) == pytest.approx(0.05) == stats.nbinom.sf(41, 8, high)
    exact = stats.binomtest(8, 50).proportion_ci(0.9, method="exact")
    assert Draws(None, 50, 8, 0.0, 1.0, stopped_at_size=False).acceptance_interval(0.9) == pytest.approx(
        (exact.low, exact.high)
    )
    for check, ends, estimate in (
        (checks.waiting_interval, (low, high), 7 / 49),
        (checks.rate_interval, (exact.low, exact.high), 8 / 50),
    ):
        got = check(8, 50, level=0.1)
        assert got and (got.low, got.high, got.estimate) == pytest.approx((*ends, estimate))
        verdicts = [
            bool(check(8, 50, expected=e, level=0.1))
            for e in (ends[0] - 1e-6, ends[0] + 1e-6, ends[1] - 1e-6, ends[1] + 1e-6)
        ]
        assert verdicts == [False, True, True, False]


@pytest.mark.parametrize(
    "ratio", [0.7123456, 0.7123454]
)  # one is printed too large, the other must not be printed too small
def test_envelope_error_names_the_point_the_ratio_and_a_log_k_that_works(ratio):
    log_p = np.log([0.3, 0.3, 0.4]) + np.array([0.1, ratio, 0.6])
    with pytest.raises(EnvelopeError) as error:
        rejection_sample(lambda x: log_p[x], world([0.3, 0.3, 0.4]), 0.5, 5, np.random.default_rng(11))
    found = re.search(
        r"x = (\d) log p - log q = ([\d.]+) exceeds log_k = 0.5\b.* log_k = ([\d.]+) covers", str(error.value)
    )
    assert (
        found[1] == "1"
        and float(found[2]) == pytest.approx(ratio, abs=2e-6)
        and float(found[3]) < ratio + 0.01
    )
    assert (
        rejection_sample(
            lambda x: log_p[x], world([0.3, 0.3, 0.4]), float(found[3]), 5, np.random.default_rng(11)
        ).accepted
        == 5
    )


def test_mass_where_the_proposal_has_none_is_an_error_that_suggests_no_infinite_k():
    proposal = SimpleNamespace(rvs=UNIFORM.rvs, logpdf=lambda x: log(2.0 * (x > 0.5)))
    for clip in (False, True):  # where q = 0, min(p, k q) is 0: clipping cannot keep it either
        with pytest.raises(ValueError) as error:
            rejection_sample(
                lambda x: np.zeros(len(x)), proposal, 1.0, 50, np.random.default_rng(0), clip=clip
            )
        assert "log_k = inf" not in str(error.value)


def test_a_starved_run_keeps_its_draws_with_a_binomial_rate(monkeypatch):
    monkeypatch.setattr(rejection, "_block_size", lambda *_: 2000)
    with pytest.raises(AcceptanceStarved, match=r"50 candidates gave \d+ of 1,000") as error:
        rejection_sample(
            lambda x: np.log(2 * x), UNIFORM, np.log(2), 1000, np.random.default_rng(12), max_proposals=50
        )
    draws, (x, u) = (
        error.value.draws,
        np.random.default_rng(12).random((2, 50)),
    )  # one block: the budget's candidates, then their coins
    assert draws.samples.tolist() == x[u < x].tolist() and draws.proposed == 50 and not draws.stopped_at_size
    assert draws.acceptance_rate == draws.accepted / 50 == len(draws.samples) / 50


@pytest.mark.parametrize("block", [1, 8, 500])
def test_the_budget_may_be_used_up_but_not_exceeded(monkeypatch, block):
    monkeypatch.setattr(rejection, "_block_size", lambda *_: block)
    assert rejection_sample(
        UNIFORM, UNIFORM, 0.0, 50, np.random.default_rng(0), max_proposals=50
    ).stopped_at_size
    with pytest.raises(AcceptanceStarved, match="50 candidates gave 50 of 51"):
        rejection_sample(UNIFORM, UNIFORM, 0.0, 51, np.random.default_rng(0), max_proposals=50)


@pytest.mark.parametrize("k, low", [(0.5, -0.5), (0.5, -2.0), (3.0, -2.0)])
def test_clipping_draws_the_smaller_of_p_and_kq_where_the_proposal_misses_some_of_p(k, low):
    proposal = stats.uniform(low, 3.0)  # q = 1 / 3 on (low, low + 3), which misses mass of the normal law
    x = np.linspace(low, low + 3, 30_001)
    density = np.minimum(stats.norm.pdf(x), k / 3)
    below = np.append(0, np.cumsum((density[1:] + density[:-1]) / 2))
    draws = rejection_sample(stats.norm(), proposal, np.log(k), 20_000, np.random.default_rng(21), clip=True)
    assert checks.same_law(draws.samples, lambda at: np.interp(at, x, below / below[-1]))
    assert not checks.same_law(draws.samples, stats.truncnorm(low, low + 3).cdf) or k == 3.0
    assert draws.acceptance_rate == pytest.approx(np.mean(density) * 3 / k, rel=0.03)
    with pytest.raises(ValueError, match="outside the proposal's support"):
        rejection_sample(stats.norm(), proposal, np.log(k), 20, np.random.default_rng(21))


def test_a_strip_hat_narrower_than_the_target_is_refused_as_a_proposal():
    hat = StripEnvelope(lambda x: 1 + 0 * x, (-1, 1), strips=64)
    with pytest.raises(ValueError, match=r"mass 0.317311 outside the proposal's support \[-1.0, 1.0\]"):
        rejection_sample(stats.norm(), hat, 1.0, 20, np.random.default_rng(0))
    gamma = StripEnvelope(
        stats.wald()
    )  # its own support is cut where the density overflows to NaN: nothing is lost
    draws = rejection_sample(stats.wald(), gamma, 1e-6, 2000, np.random.default_rng(0))
    assert checks.same_law(draws.samples, stats.wald.cdf) and draws.acceptance_rate > 0.99


@pytest.mark.parametrize(
    "target, proposal",
    [
        (stats.uniform(0.1, 0.2), stats.uniform(0, 0.3)),  # 0.1 + 0.2 > 0.3
        (stats.uniform(1e6 + 0.3, 0.2), stats.uniform(1e6, 0.5)),
        (stats.uniform(-0.3, 0.2), stats.uniform(-0.3, 0.3)),
        (stats.truncnorm(-1, 0.3 / 0.1 - 2, 0.2, 0.1), stats.uniform(0.1, 0.2)),
        (stats.beta(2, 2, 0.1, 0.2), stats.uniform(0.1, 0.2)),
    ],
)
def test_supports_that_differ_by_rounding_are_one(target, proposal):
    draws = rejection_sample(target, proposal, 3.0, 2000, np.random.default_rng(22))
    assert checks.same_law(draws.samples, target.cdf)


@pytest.mark.parametrize("beyond", [1e-9, 1e-6])
def test_supports_that_differ_by_more_are_not(beyond):
    with pytest.raises(ValueError, match="outside the proposal's support") as error:
        rejection_sample(stats.uniform(0, 1 + beyond), stats.uniform(), 0.1, 9, np.random.default_rng(0))
    assert float(str(error.value).split("mass ")[1].split()[0]) == pytest.approx(beyond, rel=1e-3)


@pytest.mark.parametrize("shift", [0.0, -2000.0, 3e4])
def test_float32_log_densities_may_exceed_the_exact_k_by_their_own_rounding(shift):
    def log_target(x):
        return (stats.norm.logpdf(x) + shift).astype(np.float32)

    proposal, log_k = stats.norm(0, 2), np.log(2) + shift
    draws = rejection_sample(log_target, proposal, log_k, 100_000, np.random.default_rng(23))
    assert draws.max_log_ratio > log_k + 1e-9  # by rounding alone
    assert checks.same_law(draws.samples, stats.norm.cdf) or shift == 3e4  # steps of 0.002 in log p show
    with pytest.raises(EnvelopeError, match="k is too small"):
        rejection_sample(
            log_target, proposal, log_k - 1e-6 * abs(shift) - 1e-4, 100_000, np.random.default_rng(23)
        )


def test_numbers_that_differ_are_printed_with_the_digits_that_differ():
    with pytest.raises(EnvelopeError) as error:
        rejection_sample(
            lambda x: stats.norm.logpdf(x) + 1e-8,
            stats.norm(0, 2),
            np.log(2),
            10**5,
            np.random.default_rng(0),
        )
    seen, bound = re.search(r"log q = ([\d.]+) exceeds log_k = ([\d.]+),", str(error.value)).groups()
    assert float(seen) > float(bound) and float(bound) == pytest.approx(np.log(2), abs=1e-8)


def test_the_interval_holds_the_estimate_whatever_the_counts_and_the_level():
    for proposed in range(1, 40):
        for kept in range(1, proposed + 1):
            for stopped in (True, False):
                draws = Draws(np.empty(kept), proposed, kept, 0.0, 1.0, stopped_at_size=stopped)
                for level in (0.05, 0.5, 0.95):
                    low, high = draws.acceptance_interval(level)
                    assert 0 <= low <= draws.acceptance_rate <= high <= 1
    text = str(Draws(np.empty(1), 2, 1, 0.0, 1.0))
    assert text == "1 kept of 2: acceptance rate 0.0000, 95 % interval [0.0000, 0.9750]"


@pytest.mark.parametrize(
    "target, log_k, words",
    [
        (lambda x: np.where(x > 0.5, np.nan, 0.0), 0.0, "target's log density is nan at x = 0.[5-9]"),
        (lambda x: np.where(x > 0.5, np.inf, 0.0), 0.0, "target's log density is inf at x = 0.[5-9]"),
        (lambda x: np.zeros((len(x), 1)), 0.0, "must have shape"),
        (stats.uniform(), np.nan, "k itself must be a positive number"),
        (stats.norm(0.5, 0.5), 5.0, "mass 0.317311 outside the proposal's support"),  # both sides
    ],
)
def test_bad_densities_and_constants_are_named(target, log_k, words):
    with pytest.raises(ValueError, match=words):
        rejection_sample(target, stats.uniform(), log_k, 20, np.random.default_rng(0))


def test_size_0_costs_nothing_and_a_level_outside_0_and_1_is_refused():
    rng = np.random.default_rng(0)
    draws = rejection_sample(stats.uniform(), stats.uniform(), 0.0, 0, rng)
    assert (
        len(draws.samples) == draws.proposed == 0
        and np.isnan(draws.acceptance_rate)
        and draws.acceptance_interval() == (0, 1)
    )
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state
    with pytest.raises(ValueError, match="level"):
        draws.acceptance_interval(95)
    assert (
        str(Draws(None, 5, 5, 0.0, 1.0))
        == "5 kept of 5: acceptance rate 1.0000, 95 % interval [0.4782, 1.0000]"
    )  # 0.025 ** (1 / 5)


def test_p_values_are_uniform_under_the_truth_and_only_then():
    rng, law = np.random.default_rng(13), np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.0996, 0.0004])
    tables = rng.multinomial(5000, law, size=400)
    wrong = law + np.eye(7)[0] / 50 - np.eye(7)[1] / 50
    for make, right in (
        (lambda t: checks.same_counts(t, law), True),
        (lambda t: checks.same_counts(t, wrong), False),
    ):
        assert (stats.kstest([make(t).p_value for t in tables], "uniform").pvalue > 1e-3) == right
    samples = rng.normal(size=(400, 150))
    for sd, right in ((1.0, True), (1.2, False)):
        assert (
            stats.kstest(
                [checks.same_law(s, stats.norm(0, sd).cdf).p_value for s in samples], "uniform"
            ).pvalue
            > 1e-3
        ) == right


def test_verdicts_turn_at_their_level_and_must_fail_turns_them_round():
    verdict = checks.same_counts([60, 40], [0.5, 0.5])  # chi2 = 4, p = 0.0455
    assert (
        verdict
        and verdict.p_value == pytest.approx(stats.chi2.sf(4, 1))
        and not checks.same_counts([60, 40], [0.5, 0.5], level=0.05)
    )
    assert (
        str(verdict) == "same law (chi2): 4.0 on 1 degrees of freedom, p = 0.0455, n = 100, level 0.001: PASS"
    )
    assert str(checks.must_fail(verdict)) == "counter-check, must fail: " + verdict.text + ": FAIL"
    assert checks.must_fail(
        checks.same_law([0.1, 0.2, 0.15], stats.uniform.cdf, level=0.05)
    ) and not checks.must_fail(verdict)
    assert str(checks.rate_interval(0, 1)).endswith(
        "rate 0.0000, 99.9 % interval [0.0000, 0.9995], n = 1: PASS"
    )
    assert "-0.0" not in str(checks.paired_difference([0.0, 0.0], [1e-9, 3e-9]))


def test_small_cells_are_pooled_until_they_expect_5_in_any_order():
    law, counts = (
        np.array([0.5, 0.4, 0.06, 0.03, 0.008, 0.002]),
        np.array([52, 35, 7, 4, 2, 0]),
    )  # expected 50 40 6 3 .8 .2
    want = stats.chisquare([52, 35, 13], [50, 40, 10])  # .2 + .8 + 3 < 5: the 6 goes with them
    for order in (np.arange(6), np.random.default_rng(0).permutation(6)):
        got = checks.same_counts(counts[order], law[order])
        assert (got.estimate, got.p_value) == pytest.approx((want.statistic, want.pvalue))


def test_one_count_in_an_impossible_cell_fails():
    assert checks.same_counts([50, 50, 0], [0.5, 0.5, 0]) and not checks.same_counts(
        [50, 49, 1], [0.5, 0.5, 0]
    )


def test_paired_difference_is_the_paired_t_interval():
    a, b = np.random.default_rng(14).normal([[2.0], [0.0]], 1.0, size=(2, 12))
    want, got = stats.ttest_rel(a, b).confidence_interval(0.95), checks.paired_difference(a, b, above=0)
    assert (got.low, got.high, got.estimate) == pytest.approx((want.low, want.high, np.mean(a - b)))
    assert (
        got
        and not checks.paired_difference(b, a, above=0)
        and not checks.paired_difference(a, b, above=got.low + 1e-9)
    )


@pytest.mark.parametrize("n", [1, 2, 4])
def test_best_of_n_is_the_sum_over_all_n_tuples(n):
    q, reward, law = np.array([0.2, 0.3, 0.1, 0.4, 0.0]), np.array([1.0, 0.0, 1.0, -2.0, 5.0]), np.zeros(5)
    for draws in itertools.product(range(5), repeat=n):
        best = [y for y in draws if reward[y] == reward[list(draws)].max()]
        for y in best:  # each of the tied draws is as likely to be taken
            law[y] += np.prod(q[list(draws)]) / len(best)
    got = finite.best_of_n_law(q, reward, n)
    assert got == pytest.approx(law) and finite.kl(got, q) <= np.log(n) - (n - 1) / n + 1e-12


def test_the_tilted_law_maximises_reward_minus_beta_kl():
    rng, q, reward, beta = (
        np.random.default_rng(15),
        np.array([0.5, 0.3, 0.2]),
        np.array([3.0, -1.0, 0.5]),
        0.7,
    )
    law, best = (
        finite.tilted_law(q, reward, beta),
        beta * np.log(q @ np.exp(reward / beta)),
    )  # the optimum is beta log Z
    assert law @ reward - beta * stats.entropy(law, q) == pytest.approx(best)
    for other in np.concatenate(
        [law * np.exp(step * rng.normal(size=(200, 3))) for step in (1e-3, 0.1, 1.0)]
    ):
        assert other / other.sum() @ reward - beta * stats.entropy(other, q) < best  # scipy normalises
    assert finite.tilted_law(law, reward, beta) == pytest.approx(
        finite.tilted_law(q, reward, beta / 2)
    )  # two rounds: beta / 2


def test_a_reward_that_is_never_drawn_changes_no_tilt():
    assert finite.tilted_law([0.5, 0.5, 0], [0, 1, 700], 0.7) == pytest.approx(
        finite.tilted_law([0.5, 0.5, 0], [0, 1, 0], 0.7)
    )


def test_fixed_samples_tilt_the_prompts_and_sampling_until_accepted_does_not():
    rho, q, a = (
        [0.2, 0.5, 0.3],
        np.array([[0.5, 0.5], [0.1, 0.9], [1.0, 0.0]]),
        np.array([[0.2, 1.0], [0.6, 0.3], [0.4, 0.9]]),
    )
    fixed, until = np.zeros((3, 2)), np.zeros((3, 2))
    for x, y in itertools.product(range(3), range(2)):
        fixed[x, y] = rho[x] * q[x, y] * a[x, y]
        for tries in range(500):
            until[x, y] += rho[x] * (1 - sum(q[x] * a[x])) ** tries * q[x, y] * a[x, y]
    assert finite.joint_law(rho, q, a) == pytest.approx(fixed / fixed.sum())
    assert finite.joint_law(rho, q, a, until_accepted=True) == pytest.approx(until)
    tilted, kept = (
        finite.joint_law([0.5, 0.5], [[1.0], [1.0]], [[0.9], [0.1]], until_accepted=u).sum(axis=1)
        for u in (False, True)
    )
    assert tilted == pytest.approx([0.9, 0.1]) and kept == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("a", [[[0.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]]])
def test_a_prompt_that_never_keeps_anything_drops_out_or_is_an_error(a):
    q = [[1.0, 0.0], [0.5, 0.5]]
    with pytest.raises(ValueError, match="prompt 0"):
        finite.joint_law([0.5, 0.5], q, a, until_accepted=True)
    assert finite.joint_law([0.0, 1.0], q, a, until_accepted=True).tolist() == [[0, 0], [0.5, 0.5]]
    assert finite.joint_law([0.5, 0.5], q, a).tolist() == [[0, 0], [0.5, 0.5]]


def test_kl_is_scipys_and_bounds_the_acceptance_rate():
    rng = np.random.default_rng(16)
    for p, q in rng.dirichlet(np.ones(5), size=(50, 2)):
        assert finite.kl(p, q) == pytest.approx(stats.entropy(p, q)) and finite.kl(p, q) > 0 == finite.kl(
            p, p
        )
        assert finite.kl(p, q) < np.log(np.max(p / q))  # log(1 / acceptance rate) at the smallest k
    law, rate = finite.accepted_law(Q, [0, 1, 1, 0, 1])  # a verifier: equality
    assert finite.kl(law, Q) == pytest.approx(np.log(1 / rate))
    assert finite.kl([0.5, 0.5, 0], [0.5, 0, 0.5]) == np.inf and finite.kl(
        [1, 0], [0.5, 0.5]
    ) == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    "function, args", [(function, args) for function, cases in REFUSED.items() for args in cases]
)
def test_what_is_no_density_no_law_and_no_sample_is_refused(function, args):
    with pytest.raises(ValueError):
        function(*args)
