"""What may be passed as a law: all continuous laws of scipy.stats through the strip hat, discrete ones, scipy's newer ones, tensors."""

import copy
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from rsf.acceptance import AcceptanceStarved, EnvelopeError
from rsf.checks import same_counts, same_law
from rsf.sampling import StripEnvelope, landscape, log_k_bound, rejection_sample

parameters = pytest.importorskip(
    "scipy.stats._distr_params"
)  # scipy's own test parameters, read where it lies

REALS = (-np.inf, np.inf)
LAWS = [(name if isinstance(name, str) else name.name, shapes) for name, shapes in parameters.distcont]
REFUSED = {  # {law: (the reason, for which parameters: None for all)}
    "arcsine": ("infinite at x", None),
    "beta": ("infinite at x", None),
    "jf_skew_t": ("heavier than a Cauchy's", None),  # its formula gives a positive constant beyond 1e154
    "kstwo": ("the density is slow", None),  # it jumps at 1 / n, and is noisy there
    "pearson3": ("unbounded", lambda skew: skew <= -2),
    "powerlaw": ("unbounded", lambda a: a < 1),
    "rdist": ("infinite at x", None),
    "studentized_range": ("the density is slow", None),
    "vonmises": ("periodic", None),  # on the reals; drawn on (-pi, pi)
}
COARSE = {"ksone", "levy_stable"}  # half a millisecond a point


@pytest.mark.parametrize(("name", "shapes"), LAWS)
def test_scipys_continuous_laws_are_drawn_or_refused_for_a_stated_reason(name, shapes):
    law = getattr(stats, name)(*shapes)
    reason, only = REFUSED.get(name, ("", lambda *_: False))
    if only is None or only(*shapes):
        with pytest.raises(ValueError, match=reason):
            StripEnvelope(law)
        return
    hat = StripEnvelope(law, strips=64 if name in COARSE else 4096)
    sample = hat.rvs(150 if name in COARSE else 2000, np.random.default_rng(11))
    below = law.cdf(sample)
    assert same_law(below, stats.uniform.cdf) and not same_law(np.sqrt(below), stats.uniform.cdf)


def test_what_is_refused_for_its_support_is_drawn_on_a_better_one():
    for law, support in (
        (stats.vonmises(2.0), (-np.pi, np.pi)),
        (stats.jf_skew_t(8, 4), (-1e100, 1e100)),
    ):
        sample = StripEnvelope(law, support).rvs(20_000, np.random.default_rng(0))
        assert same_law(sample, law.cdf)


@pytest.mark.parametrize(
    "law", [stats.levy(1, 3), stats.pareto(0.2), stats.t(0.3), stats.lognorm(9), stats.betaprime(2, 0.1)]
)
def test_a_distribution_may_have_any_tail_that_floats_can_hold(law):
    assert same_law(StripEnvelope(law).rvs(20_000, np.random.default_rng(1)), law.cdf)


def test_a_slow_distribution_is_refused_by_what_a_few_points_take_unless_there_is_patience(monkeypatch):
    class Slow:
        """The normal law, at a millisecond of a simulated clock a point; and now and then a call is held up."""

        seconds = 0.0
        calls = 0
        ppf = staticmethod(stats.norm.ppf)

        def pdf(self, x):
            Slow.calls += 1
            Slow.seconds += 1e-3 * len(x) + (Slow.calls % 3 == 1)
            return stats.norm.pdf(x)

    monkeypatch.setattr(landscape, "process_time", lambda: Slow.seconds)
    with pytest.raises(ValueError, match=r"4,096 strips would take about 49 s.*patience above 20 s"):
        StripEnvelope(Slow(), REALS, patience=20)
    assert Slow.calls == 3 and Slow.seconds < 2
    assert StripEnvelope(Slow(), REALS, patience=50).evaluations < 60_000
    StripEnvelope(Slow(), REALS, strips=1024, patience=20)


def test_a_set_up_that_takes_twice_the_patience_is_given_up(monkeypatch):
    seconds = [0.0]

    def comb(x):
        seconds[0] += 1e-4 * len(x)
        return 2 + np.sign(np.sin(3000 * x))

    monkeypatch.setattr(landscape, "process_time", lambda: seconds[0])
    law = SimpleNamespace(pdf=comb, ppf=stats.uniform.ppf)
    with pytest.raises(ValueError, match=r"slow: [\d,]+ evaluations do not suffice.*patience"):
        StripEnvelope(law, (0, 1), patience=6)
    assert 10 < seconds[0] < 12.1
    hat = StripEnvelope(law, (0, 1), patience=100)
    assert len(hat.rvs(300_000, np.random.default_rng(0))) == 300_000
    hat.logpdf(np.zeros(2_000_000))  # what is set up may be used for ever


# ---- discrete laws

DISCRETE = [
    (stats.poisson(3), stats.geom(0.2, loc=-1)),
    (stats.binom(10, 0.3), stats.randint(0, 11)),
    (stats.nbinom(4, 0.5), stats.geom(0.2, loc=-1)),
    (stats.hypergeom(20, 7, 12), stats.randint(0, 8)),
    (stats.logser(0.6), stats.geom(0.3)),
    (stats.skellam(2, 1), stats.dlaplace(0.3)),
    (stats.betabinom(8, 2, 3), stats.Binomial(n=8, p=0.4)),
    (stats.Binomial(n=8, p=0.4), stats.randint(0, 9)),
]


@pytest.mark.parametrize(("target", "proposal"), DISCRETE)
def test_discrete_laws_are_drawn_through_their_probabilities(target, proposal):
    points = np.arange(-30, 31)
    p, q = (law.logpmf(points) for law in (target, proposal))
    log_k = np.max(p[np.isfinite(p)] - q[np.isfinite(p)])
    for log_target in (target, target.logpmf):
        draws = rejection_sample(log_target, proposal, log_k, 5000, np.random.default_rng(2))
        counts = np.bincount(draws.samples.astype(int) + 30, minlength=61)
        assert same_counts(counts, np.exp(p) / np.exp(p).sum())
        assert not same_counts(counts[::-1], np.exp(p) / np.exp(p).sum())
        assert draws.acceptance_rate == pytest.approx(np.exp(-log_k), rel=0.1)


@pytest.mark.parametrize(
    ("target", "proposal", "mass"),
    [
        (stats.poisson(3), stats.geom(0.2), stats.poisson.pmf(0, 3)),
        (stats.binom(10, 0.3), stats.randint(0, 10), 0.3**10),
        (stats.Binomial(n=8, p=0.4), stats.randint(1, 9), 0.6**8),
    ],
)
def test_a_point_outside_the_proposals_is_mass_that_is_missed(target, proposal, mass):
    with pytest.raises(ValueError, match=f"has mass {mass:.6g} outside the proposal's support"):
        rejection_sample(target, proposal, 5.0, 10, np.random.default_rng(0))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    ("target", "proposal"),
    [
        (stats.halfnorm(), stats.poisson(3)),
        (stats.poisson(3), stats.expon(0, 3)),
        (stats.Binomial(n=8, p=0.4), stats.Uniform(a=0.0, b=9.0)),
        (stats.Uniform(a=0.0, b=8.0), stats.Binomial(n=8, p=0.4)),
    ],
)
def test_a_discrete_law_and_a_density_are_not_drawn_from_each_other(target, proposal, clip):
    with pytest.raises(ValueError, match="both must be discrete, or neither"):
        rejection_sample(target, proposal, 5.0, 10, np.random.default_rng(0), clip=clip)


def test_a_discrete_law_has_no_density():
    for law in (stats.poisson(3), stats.Binomial(n=8, p=0.4)):
        with pytest.raises((TypeError, ValueError), match=r"has no pdf|infinite"):
            StripEnvelope(law)
        with pytest.raises((TypeError, ValueError), match=r"has no logpdf|infinite|\+inf"):
            log_k_bound(law, stats.norm(), (0, 9))


# ---- scipy's newer distributions, tensors, and what is not a law


def test_scipys_newer_distributions_are_targets_proposals_and_densities():
    target, proposal = stats.Normal(mu=1.0), stats.Normal(sigma=3.0)
    log_k = log_k_bound(target, proposal, REALS)
    assert log_k == pytest.approx(log_k_bound(stats.norm(1), stats.norm(0, 3), REALS), abs=1e-9)
    sample = rejection_sample(target, proposal, log_k, 5000, np.random.default_rng(3)).samples
    assert same_law(sample, stats.norm(1).cdf) and not same_law(sample, stats.norm().cdf)
    mixture = stats.Mixture([stats.Normal(), stats.Normal(mu=300)], weights=[0.3, 0.7])
    for law in (target, mixture, stats.truncate(target, lb=0.5)):
        assert same_law(StripEnvelope(law).rvs(20_000, np.random.default_rng(4)), law.cdf)
    for missed in (stats.Normal(mu=1.5, sigma=0.5), stats.norm(1.5, 0.5)):
        with pytest.raises(ValueError, match=r"mass 0.317311 outside the proposal's support \[1.0, 2.0\]"):
            rejection_sample(missed, stats.Uniform(a=1.0, b=2.0), 5.0, 9, np.random.default_rng(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torch_densities_may_carry_gradients_and_be_in_float32(dtype):
    law = torch.distributions.Normal(torch.tensor(0.0, dtype=dtype, requires_grad=True), 1.0)

    def log_density(x):
        return law.log_prob(torch.as_tensor(x, dtype=dtype))

    rng = np.random.default_rng(5)
    draws = rejection_sample(log_density, stats.norm(0, 2), np.log(2), 100_000, rng)  # the smallest k
    assert same_law(draws.samples, stats.norm.cdf)
    sample = StripEnvelope(lambda x: log_density(x).exp(), REALS).rvs(20_000, rng)
    assert same_law(sample, stats.norm.cdf)


@pytest.mark.parametrize(
    ("density", "support", "law"),
    [
        (lambda x: 1.7 * x**0.7 * np.exp(-(x**1.7)), (0, np.inf), stats.weibull_min(1.7)),
        (lambda x: x**1.5 * np.exp(-x), (0, np.inf), stats.gamma(2.5)),
        (lambda x: x * (1 - x) ** 4, (0, 1), stats.beta(2, 5)),
        (lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2, REALS, stats.logistic()),  # NaN beyond 88
        (lambda x: np.exp(1.5 * np.log(x) - x), (0, np.inf), stats.gamma(2.5)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_densities_of_few_digits_are_held_to_those(density, support, law, dtype):
    def of_few_digits(x):
        with np.errstate(all="ignore"):
            return density(np.asarray(x, dtype=np.float32)).astype(dtype)

    sample = StripEnvelope(of_few_digits, support).rvs(20_000, np.random.default_rng(5))
    assert same_law(sample, law.cdf)


def test_a_density_that_writes_into_its_points_moves_none():
    def log_density(x):
        x -= 3.0
        x *= x
        return -0.5 * x

    draws = rejection_sample(log_density, stats.norm(3, 2), 1.7, 5000, np.random.default_rng(6))
    assert same_law(draws.samples, stats.norm(3).cdf)
    sample = StripEnvelope(lambda x: np.exp(log_density(x)), REALS).rvs(5000, np.random.default_rng(6))
    assert same_law(sample, stats.norm(3).cdf)
    assert log_k_bound(log_density, stats.norm(3, 2), REALS) == pytest.approx(
        np.log(2 * np.sqrt(2 * np.pi)), abs=2e-3
    )


@pytest.mark.parametrize(
    "form", [list, lambda f: f.astype(object), lambda f: f[:, None][:, 0], np.ma.array, np.longdouble]
)
def test_numbers_may_come_in_other_forms(form):
    draws = rejection_sample(
        lambda x: form(stats.norm.logpdf(x)), stats.norm(0, 2), 1.0, 2000, np.random.default_rng(7)
    )
    assert same_law(draws.samples, stats.norm.cdf)
    sample = StripEnvelope(lambda x: form(stats.norm.pdf(x)), REALS).rvs(2000, np.random.default_rng(7))
    assert same_law(sample, stats.norm.cdf)


def drawing(make):
    """Return a proposal whose draws are not what is asked for."""
    return SimpleNamespace(
        rvs=lambda size, random_state: make(size, random_state), logpdf=lambda x: np.zeros(len(x))
    )


NORMAL = SimpleNamespace(logpdf=stats.norm().logpdf)
NOT_VECTORISED = r"cannot be evaluated at an array of \d+ points: .*np.vectorize"


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda rng: rejection_sample(lambda x: -math.exp(x), stats.norm(), 3.0, 9, rng), NOT_VECTORISED),
        (lambda rng: log_k_bound(lambda x: -math.exp(x), stats.norm(), REALS), NOT_VECTORISED),
        (lambda rng: StripEnvelope(lambda x: math.exp(-x * x), REALS), NOT_VECTORISED),
        (lambda rng: StripEnvelope(lambda x: 1.0 if abs(x) < 1 else 0.0, REALS), NOT_VECTORISED),
        (lambda rng: StripEnvelope(lambda: 1.0, REALS), "takes 0 positional arguments"),
        (lambda rng: StripEnvelope(lambda x: [], REALS), "vectorised: for points of shape"),
        (lambda rng: StripEnvelope(NORMAL, REALS), r"no pdf and is no function.*np.exp\(law.logpdf"),
        (lambda rng: StripEnvelope(NORMAL.logpdf, REALS), r"not be negative \(pass exp of a log density"),
        (lambda rng: StripEnvelope(torch.distributions.Normal(0.0, 1.0), REALS), "has no pdf"),
        (lambda rng: log_k_bound(torch.distributions.Normal(0.0, 1.0), NORMAL, REALS), "law.log_prob"),
        (lambda rng: rejection_sample(NORMAL, NORMAL, 0.0, 9, rng), "cannot be drawn from: it needs rvs"),
        (lambda rng: rejection_sample(7, stats.norm(), 0.0, 9, rng), "int has no logpdf"),
        *(
            (
                lambda rng, make=make: rejection_sample(
                    lambda x: np.zeros(len(x)), drawing(make), 0.0, 9, rng
                ),
                f"drew an array of shape {shape} where 18 candidates",
            )
            for make, shape in (
                (lambda n, rng: rng.random(n // 2), r"\(9,\)"),
                (lambda n, rng: rng.random((1, n)), r"\(1, 18\)"),
                (lambda n, rng: rng.random(), r"\(1,\)"),
                (lambda n, rng: [], r"\(0,\)"),
            )
        ),
        *(
            (
                lambda rng, form=form: rejection_sample(
                    lambda x: form(stats.norm.logpdf(x)), stats.norm(0, 2), 1.0, 9, rng
                ),
                words,
            )
            for form, words in (
                (lambda f: f + 0j, "hold real numbers, got .* of complex128"),
                (lambda f: f.astype(str), "hold real numbers, got .* of <U"),
                (lambda f: np.ma.masked_less(f, -1), "target's log density is nan at x"),
                (lambda f: f[:, None], r"got \(18, 1\)"),
                (lambda f: 0.0, r"got \(\) of float64"),
                (lambda f: None, r"got \(\)"),
                (lambda f: [math.exp(800 + value) for value in f], "cannot be evaluated .* math range error"),
            )
        ),
        *(
            (lambda rng, law=law: rejection_sample(law, stats.norm(0, 2), 1.0, 9, rng), "laws of shape")
            for law in (stats.norm([0.0, 1.0]), stats.Normal(mu=[0.0, 1.0]))
        ),
        *(
            (lambda rng, size=size: rejection_sample(NORMAL, stats.norm(), 1.0, size, rng), "whole number")
            for size in ("9", None, 2.5, [9], np.inf)
        ),
        *(
            (
                lambda rng, most=most: rejection_sample(
                    NORMAL, stats.norm(), 1.0, 9, rng, max_proposals=most
                ),
                "max_proposals must be a whole number",
            )
            for most in (0, None, 2.5, np.inf, np.nan)
        ),
        (lambda rng: rejection_sample(NORMAL, stats.norm(), None, 9, rng), "log_k must be one"),
        (lambda rng: rejection_sample(NORMAL, stats.norm(), 1.0, 9, 0), "Generator, such as .* got 0"),
        (lambda rng: rejection_sample(NORMAL, stats.norm(), 1.0, 9, None), "Generator, such as .* got None"),
        (lambda rng: rejection_sample(NORMAL, stats.norm(), 1.0, (9, 2), rng), r"got \(9, 2\)"),
        (
            lambda rng: rejection_sample(NORMAL, stats.norm(), np.ones(2), 9, rng),
            r"log_k must be one .*\[1. 1.\]",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(attempt, words):
    with pytest.raises((TypeError, ValueError, ArithmeticError), match=words) as refused:
        attempt(np.random.default_rng(0))
    assert "\n" not in str(refused.value)


def test_a_function_of_one_number_works_once_it_is_vectorised():
    density = np.vectorize(lambda x: math.exp(-abs(x)) if abs(x) < 700 else 0.0)
    for support, law in ((REALS, stats.laplace), ((0, np.inf), stats.expon)):  # one has no extremum
        hat = StripEnvelope(density, support, strips=256)
        assert same_law(hat.rvs(5000, np.random.default_rng(6)), law.cdf)


def test_log_k_may_be_an_array_of_one_and_rng_a_random_state():
    one, other = (
        rejection_sample(stats.norm(), stats.norm(0, 2), log_k, 50, np.random.default_rng(0)).samples
        for log_k in (np.log(2), np.array([np.log(2)]))
    )
    assert (one == other).all()
    old = rejection_sample(stats.norm(), stats.norm(0, 2), 1.0, 5000, np.random.RandomState(0))
    assert same_law(old.samples, stats.norm.cdf)


def test_whole_numbers_may_be_floats_and_log_k_a_tensor():
    def draw(size, most, log_k):
        return rejection_sample(
            stats.norm(), stats.norm(0, 2), log_k, size, np.random.default_rng(0), max_proposals=most
        )

    assert (draw(20.0, 1e6, torch.tensor(1.0)).samples == draw(20, 10**6, 1.0).samples).all()
    with pytest.raises(AcceptanceStarved, match="100 candidates gave"):
        draw(np.float64(50), 1e2, 9)


# ---- what scipy asks of its own samplers


@pytest.mark.parametrize(
    "support", [(2, 1), (1, 1), (1, 2, 3), (), (0, np.nan), (np.inf, np.inf), (np.inf, -np.inf), 3, None]
)
def test_a_support_that_is_none_is_refused(support):
    with pytest.raises(ValueError, match="low < high"):
        StripEnvelope(lambda x: np.exp(-x * x), support)


@pytest.mark.parametrize("size", [None, 0, (0,), 1, (10, 3), (2, 3, 4, 5), (0, 0), (0, 1)])
def test_samples_have_the_shape_asked_for(size):
    sample = StripEnvelope(stats.norm(), strips=64).rvs(size, np.random.default_rng(0))
    assert np.isscalar(sample) if size is None else sample.shape == np.empty(size).shape


def test_one_seed_gives_one_sample_in_each_form_and_from_each_copy():
    hat = StripEnvelope(stats.gamma(2.5))
    first = hat.rvs(1000, np.random.default_rng(123))
    for twin in (pickle.loads(pickle.dumps(hat)), copy.deepcopy(hat), StripEnvelope(stats.gamma(2.5))):
        assert (twin.rvs(1000, np.random.default_rng(123)) == first).all()
        assert (twin.rvs(1000, random_state=np.random.Generator(np.random.PCG64(123))) == first).all()


@pytest.mark.parametrize(
    "name", ["norm", "gamma", "beta", "gumbel_r", "laplace", "semicircular", "argus", "moyal"]
)
def test_moments_and_the_cramer_von_mises_test_agree(name):
    law = getattr(stats, name)(*dict(LAWS)[name]) if name != "beta" else stats.beta(2, 5)
    sample = StripEnvelope(law).rvs(100_000, np.random.default_rng(8))
    assert sample.mean() == pytest.approx(law.mean(), abs=5 * law.std() / np.sqrt(100_000))
    assert sample.var() == pytest.approx(law.var(), rel=0.05)
    assert stats.cramervonmises(sample[:500], law.cdf).pvalue > 1e-3


def test_an_error_of_the_densitys_own_comes_through():
    def density(x):
        raise NameError("name 'foo' is not defined")

    with pytest.raises(NameError, match="foo"):
        StripEnvelope(density, REALS)
    with pytest.raises(EnvelopeError, match="infinite at x"):
        StripEnvelope(lambda x: np.full(x.shape, np.inf), REALS)
    with pytest.raises(ValueError, match="NaN at x"):
        StripEnvelope(lambda x: np.full(x.shape, np.nan), REALS)
