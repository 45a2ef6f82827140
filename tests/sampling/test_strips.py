"""Bounds on p / q, and the strip hat: exact draws, certain bounds, promises that are audited."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import interpolate, special, stats

from rsf.acceptance import EnvelopeError
from rsf.checks import same_counts, same_law
from rsf.sampling import StripEnvelope, log_k_bound, rejection_sample
from rsf.sampling.strips import GROUP

REALS = (-np.inf, np.inf)


def two_bumps(x):
    return 0.3 * stats.norm.pdf(x, -3, 0.5) + 0.7 * stats.norm.pdf(x, 2, 1)


def two_bumps_cdf(x):
    return 0.3 * stats.norm.cdf(x, -3, 0.5) + 0.7 * stats.norm.cdf(x, 2, 1)


CASES = {
    "normal": (stats.norm(), None, stats.norm.cdf),
    "gamma": (stats.gamma(2.5), None, stats.gamma(2.5).cdf),
    "beta": (stats.beta(2, 5), None, stats.beta(2, 5).cdf),
    "half-Cauchy": (stats.halfcauchy(), None, stats.halfcauchy.cdf),
    "Cauchy, no constant": (lambda x: 7 / (1 + x * x), REALS, stats.cauchy.cdf),
    "two bumps": (two_bumps, REALS, two_bumps_cdf),
    "kink": (stats.laplace(3, 2), None, stats.laplace(3, 2).cdf),
    "jump": (stats.uniform(5, 2), (0, 10), stats.uniform(5, 2).cdf),
    "touches zero": (
        lambda x: np.sin(x) ** 2,
        (0, 2 * np.pi),
        lambda x: (x - np.sin(2 * x) / 2) / (2 * np.pi),
    ),
    "far from zero": (stats.norm(1e6, 1), None, stats.norm(1e6, 1).cdf),
    "increasing": (lambda x: x**2, (0, 1), lambda x: x**3),
    "plateau": (lambda x: np.clip(2 - np.abs(x), 0, 1), (-5, 5), stats.trapezoid(0.25, 0.75, -2, 4).cdf),
}


@pytest.mark.parametrize("name", CASES)
def test_draws_follow_the_law_within_certain_bounds_of_acceptance(name):
    pdf, support, cdf = CASES[name]
    hat = StripEnvelope(pdf, support)
    sample = hat.rvs(100_000, np.random.default_rng(9))
    assert same_law(sample, cdf) and not same_law(sample + 0.05 * stats.iqr(sample), cdf)
    low, high = hat.acceptance_bounds
    slack = 5 * np.sqrt(high * (1 - high) / hat.proposed) + 1e-4
    assert low - slack <= hat.acceptance_rate <= high + slack and low > 0.98
    assert hat.accepted == 100_000


def test_a_million_normal_draws_fit_400_cells_with_their_tails():
    edges = np.concatenate([[-np.inf], np.linspace(-5, 5, 399), [np.inf]])
    counts = np.histogram(StripEnvelope(stats.norm()).rvs(10**6, np.random.default_rng(1)), edges)[0]
    assert same_counts(counts, np.diff(stats.norm.cdf(edges)))
    assert not same_counts(counts, np.diff(stats.norm.cdf(edges, scale=1.01)))


@pytest.mark.parametrize("strips", [64, 4096, 16384])
def test_places_within_one_strip_are_uniform_and_independent_of_which_strip(strips):
    x = StripEnvelope(stats.uniform(), strips=strips).rvs(400_000, np.random.default_rng(2)) * strips
    strip, place = (np.floor(x) % 8).astype(int), np.floor(x % 1 * 8).astype(int)
    assert same_counts(np.bincount(8 * strip + place, minlength=64), np.full(64, 1 / 64))


def test_coarse_strips_evaluate_often_and_stay_exact_and_refining_helps():
    hat = StripEnvelope(stats.norm(), strips=64)
    rng, bounds, start = np.random.default_rng(3), hat.acceptance_bounds, hat.evaluations
    sample = hat.rvs(200_000, rng)
    assert same_law(sample, stats.norm.cdf)
    # a coin above the squeeze costs an evaluation: 1 - squeeze / hat of all candidates
    assert hat.evaluations - start == pytest.approx((1 - bounds[0]) * hat.proposed, rel=0.05)
    hat.refine()
    assert hat.acceptance_bounds[0] > bounds[0] and same_law(hat.rvs(200_000, rng), stats.norm.cdf)


def test_the_same_seed_draws_the_same_in_each_calling_habit_and_shape():
    hat = StripEnvelope(stats.norm())
    first = hat.rvs((2, 3), np.random.default_rng(5))
    assert (first == hat.rvs(size=(2, 3), random_state=5)).all() and first.shape == (2, 3)
    assert hat.rvs(0, np.random.default_rng(5)).shape == (0,)
    with pytest.raises(TypeError, match="Generator"):
        hat.rvs(3)


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.Philox])
def test_bit_generators_of_32_bits_do_as_well(bits):
    assert same_law(
        StripEnvelope(stats.gamma(2.5)).rvs(100_000, np.random.Generator(bits(6))), stats.gamma(2.5).cdf
    )


def test_it_is_a_proposal_for_rejection_sampling_with_a_normalised_density():
    hat = StripEnvelope(lambda x: 3 * np.exp(-np.abs(x)), REALS)
    x = np.linspace(-30, 30, 101)
    assert np.allclose(hat.logpdf(x), stats.laplace.logpdf(x), rtol=0, atol=1e-8)
    assert np.isneginf(StripEnvelope(stats.beta(2, 5)).logpdf(np.array([-0.1, 1.1]))).all()
    log_k = log_k_bound(stats.norm(), hat, REALS)
    assert same_law(
        rejection_sample(stats.norm(), hat, log_k, 20_000, np.random.default_rng(7)).samples, stats.norm.cdf
    )


def test_extra_memory_stays_bounded_at_any_size():
    hat, rng = StripEnvelope(stats.norm()), np.random.default_rng(8)
    hat.rvs(GROUP, rng)
    tracemalloc.start()
    hat.rvs(3_000_000, rng)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - 8 * 3_000_000 < 16 * 2**20


def spiked(place, width, height):
    return lambda x: np.exp(-0.5 * x * x) + height * np.exp(-0.5 * ((x - place) / width) ** 2)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.floats(-8, 8), st.floats(-9, -3), st.floats(1, 5))
def test_a_narrow_spike_whose_extremum_is_stated_gets_its_share(place, log_width, log_height):
    width, height = 10**log_width, 10**log_height
    x = StripEnvelope(spiked(place, width, height), REALS, extrema=(0, place)).rvs(
        20_000, np.random.default_rng(0)
    )
    near = np.abs(x - place) < 6 * width
    beside = stats.norm.cdf(place + 6 * width) - stats.norm.cdf(place - 6 * width)
    share = (height * width + beside) / (1 + height * width)
    assert stats.binomtest(int(near.sum()), len(x), min(share, 1.0)).pvalue > 1e-5


def test_a_spike_that_an_evaluation_shows_is_refused_and_one_unseen_is_caught_while_drawing():
    class Late:
        """A density that shows a spike only once it is looked at while drawing, as a spike between all points tried would."""

        drawing = False

        def __call__(self, x):
            return np.exp(-0.5 * x * x) + 9.0 * (self.drawing & (np.abs(x - 1.0) < 0.2))

    density = Late()
    hat = StripEnvelope(density, REALS)
    density.drawing = True
    with pytest.raises(EnvelopeError, match="an extremum is missing") as caught:
        hat.rvs(10**6, np.random.default_rng(0))
    assert 0.8 < float(str(caught.value).split("x = ")[1].split()[0]) < 1.2


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.floats(-290, 290), st.floats(-290, 290), st.floats(-3, 3))
def test_any_scale_of_place_and_of_height(log_scale, log_height, shift):
    scale, height = 10**log_scale, 10**log_height
    hat = StripEnvelope(
        lambda x: height * np.exp(-0.5 * (x / scale - shift) ** 2), REALS, extrema=(shift * scale,)
    )
    assert same_law(hat.rvs(5_000, np.random.default_rng(0)) / scale - shift, stats.norm.cdf, level=1e-4)
    assert hat.acceptance_bounds[0] > 0.98


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.floats(-1e12, 1e12), st.floats(0.5, 100))
def test_supports_far_from_zero(start, width):
    hat = StripEnvelope(lambda x: np.exp(-(x - start)), (start, start + width))
    x = hat.rvs(5_000, np.random.default_rng(0))
    assert (x >= start).all() and (x <= start + width).all()
    assert same_law(x, lambda x: np.expm1(start - x) / np.expm1(-width), level=1e-4) or np.spacing(
        abs(start)
    ) > 1e-4 * min(width, 1)


@pytest.mark.parametrize("place", [0.0, 1.0])
@pytest.mark.parametrize("power", [0.1, 0.5, 0.9])
def test_a_pole_at_the_border_is_refused_whatever_the_border_itself_says(place, power):
    def pole(x):
        away = np.abs(x - place)
        return np.where(away > 0, np.maximum(away, 1e-320) ** -power, 0.0)

    with pytest.raises(EnvelopeError, match="unbounded"):
        StripEnvelope(pole, (0, 1))
    with pytest.raises(EnvelopeError, match="infinite at x"):
        StripEnvelope(stats.beta(0.5, 0.5))


@pytest.mark.parametrize("power", [1.1, 1.5, 1.9])
def test_a_tail_heavier_than_a_cauchys_is_refused(power):
    with pytest.raises(EnvelopeError, match="heavier"):
        StripEnvelope(lambda x: 1 / (1 + np.abs(x) ** power), REALS)


@pytest.mark.parametrize(
    ("pdf", "support", "message"),
    [
        (lambda x: x, (-1, 1), "-1 at x = -1"),
        (np.sqrt, (-1, 1), "NaN at x = -1"),
        (lambda x: 1.0, (0, 1), "vectorised"),
        (lambda x: 0 * x, (0, 1), "is 0 at all"),
        (lambda x: 1 + 0.1 * np.sin(1e6 * x), (0, 1), "local extrema were found"),
        (np.exp, (1, 0), "low < high"),
        (np.exp, None, "low < high"),
        (np.exp, (0, np.inf), r"grows|infinite"),
        (lambda x: 1 + 0 * x, REALS, r"heavier|no mode"),
    ],
)
def test_bad_densities_are_refused_with_the_reason(pdf, support, message):
    with pytest.raises(ValueError, match=message):
        StripEnvelope(pdf, support)


def test_rounding_at_a_zero_of_the_density_is_no_violation():
    knots = interpolate.PchipInterpolator(np.arange(11), [0.0, 1, 3, 2, 2.5, 4, 1, 0.5, 0.7, 0.1, 0])
    area = knots.antiderivative()
    sample = StripEnvelope(lambda x: np.maximum(knots(x), 0), (0, 10)).rvs(100_000, np.random.default_rng(4))
    assert same_law(sample, lambda x: area(x) / area(10))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="power of two"):
        StripEnvelope(stats.norm(), strips=100)
    with pytest.raises(ValueError, match="extrema must lie in the support"):
        StripEnvelope(np.exp, (0, 1), extrema=(2,))


@pytest.mark.parametrize(
    ("target", "proposal", "support", "k"),
    [
        (stats.norm(), stats.cauchy(), REALS, np.sqrt(2 * np.pi / np.e)),
        (stats.beta(2, 5), stats.uniform(), (0, 1), stats.beta(2, 5).pdf(0.2)),
        (stats.norm(), stats.norm(0, 2), REALS, 2.0),
        (stats.cauchy(0, 2), stats.cauchy(), REALS, 2.0),  # reached only at infinity
        (
            stats.laplace(),
            stats.t(3),
            REALS,
            stats.laplace.pdf(1) / stats.t(3).pdf(1),
        ),  # at a kink or a stationary point
    ],
)
def test_log_k_bound_is_never_below_the_supremum_and_at_most_one_percent_above(target, proposal, support, k):
    exact = max(
        k,
        np.max(
            target.pdf(x := np.linspace(-20, 20, 400_001))
            / np.maximum(proposal.pdf(x), 1e-300)
            * (proposal.pdf(x) > 0)
        ),
    )
    assert np.log(exact) <= log_k_bound(target, proposal, support) <= np.log(1.01 * exact)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.floats(-9, 9), st.floats(-9, -2))
def test_log_k_bound_of_a_stated_spike_is_right(place, log_width):
    width = 10**log_width
    log_target = lambda x: np.log(spiked(place, width, 100.0)(x) + 1e-300)
    exact = np.log(100.0 + np.exp(-0.5 * place * place))
    assert (
        exact
        <= log_k_bound(log_target, stats.uniform(-10, 20), (-10, 10), extrema=(place,)) - np.log(20)
        <= exact + 0.01
    )


@pytest.mark.parametrize(
    ("target", "proposal", "support"),
    [
        (stats.cauchy(), stats.norm(), REALS),
        (stats.t(1.1), stats.t(1.2), REALS),
        (stats.beta(0.5, 2), stats.uniform(), (0, 1)),
        (stats.uniform(0, 2), stats.uniform(), (0, 2)),
    ],
)
def test_an_unbounded_ratio_is_refused(target, proposal, support):
    with pytest.raises(EnvelopeError, match=r"infinite|unbounded"):
        log_k_bound(target, proposal, support)


# ---- far peaks: seen, or said where that ends


def far_mixture(place, weight=0.5, width=1.0):
    """Return (density, cdf) of a standard normal law and another one at a place."""
    parts = ((1 - weight, 0.0, 1.0), (weight, place, width))
    return tuple(
        lambda x, name=name: sum(w * getattr(stats.norm, name)(x, mean, sd) for w, mean, sd in parts)
        for name in ("pdf", "cdf")
    )


@pytest.mark.parametrize(
    ("place", "weight", "width", "support"),
    [
        *((place, 0.5, 1.0, REALS) for place in (50, 300, -777, 1e4, 4e4)),
        (300, 1e-3, 1.0, REALS),
        (2000, 0.1, 0.2, REALS),
        (5000, 0.5, 300.0, REALS),
        (300, 0.5, 1.0, (-1e6, 1e6)),
        (2000, 0.5, 1.0, (-5, np.inf)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_far_peak_is_found_and_drawn(place, weight, width, support):
    pdf, cdf = far_mixture(place, weight, width)
    sample = StripEnvelope(pdf, support).rvs(50_000, np.random.default_rng(12))
    far = np.abs(sample - place) < np.abs(sample)
    assert same_law(sample, cdf) and same_counts([(~far).sum(), far.sum()], [1 - weight, weight])


@pytest.mark.filterwarnings("error")
def test_several_far_peaks_are_found_whatever_their_shapes():
    places = np.array([-700.0, 40.0, 0.0, 900.0])
    for pdf, cdf in (
        (lambda x: np.abs(x - places) < 0.5, lambda x: np.clip(x - places + 0.5, 0, 1)),
        (lambda x: stats.laplace.pdf(x - places), lambda x: stats.laplace.cdf(x - places)),
        (lambda x: stats.cauchy.pdf(x - places), lambda x: stats.cauchy.cdf(x - places)),
    ):
        hat = StripEnvelope(lambda x, pdf=pdf: pdf(x[:, None]).mean(axis=1), REALS)
        sample = hat.rvs(20_000, np.random.default_rng(13))
        assert same_law(sample, lambda x, cdf=cdf: cdf(x[:, None]).mean(axis=1))


@pytest.mark.parametrize(
    "parts",
    [
        [(0.25, stats.laplace(-700, 0.5)), (0.25, stats.norm(40, 3)), (0.5, stats.cauchy())],
        [(0.2, stats.laplace(-7000, 20)), (0.3, stats.norm(40, 3)), (0.5, stats.t(3, 3000, 5))],
        [(0.3, stats.gamma(3, 500)), (0.4, stats.semicircular(-300, 2)), (0.3, stats.norm())],
        [(0.5, stats.uniform(899, 2)), (0.4, stats.triang(0.5, -60, 3)), (0.1, stats.norm(0, 0.5))],
    ],
)
@pytest.mark.filterwarnings("error")
def test_far_peaks_of_unlike_shapes_are_found_together(parts):
    def mixture(name):
        return lambda x: sum(weight * getattr(law, name)(x) for weight, law in parts)

    sample = StripEnvelope(mixture("pdf"), REALS).rvs(20_000, np.random.default_rng(13))
    assert same_law(sample, mixture("cdf"))


@pytest.mark.parametrize(("place", "width"), [(1e6, 1.0), (-1e9, 1.0), (300, 1e-4)])
def test_the_promise_ends_at_peaks_further_away_or_narrower_but_set_up_warns(place, width):
    pdf, cdf = far_mixture(place, 0.5, width)
    with pytest.warns(UserWarning, match=r"integrates to 0.50.* state its extrema"):
        hat = StripEnvelope(pdf, REALS)
    assert not same_law(hat.rvs(2000, np.random.default_rng(0)), cdf)  # the limit that its docstring names
    stated = StripEnvelope(pdf, REALS, extrema=(0, place))
    assert same_law(stated.rvs(20_000, np.random.default_rng(0)), cdf)


@pytest.mark.filterwarnings("error")
def test_without_the_constant_a_peak_too_far_away_is_lost_in_silence_and_a_whole_law_never_warns():
    lost = StripEnvelope(lambda x: np.exp(-0.5 * x * x) + np.exp(-0.5 * (x - 1e7) ** 2), REALS)
    assert same_law(lost.rvs(2000, np.random.default_rng(0)), stats.norm.cdf)
    for pdf, support in ((stats.norm.pdf, REALS), (stats.norm(), (1, np.inf)), (lambda x: x**2, (0, 1))):
        StripEnvelope(pdf, support)


# ---- open ends, ends inside the support, tails that are wrong


@pytest.mark.parametrize(
    ("law", "support", "cdf"),
    [
        *((law, None, law.cdf) for law in (stats.wald(), stats.wald(5, 3), stats.invgauss(1), stats.levy())),
        *((law, None, law.cdf) for law in (stats.levy_l(), stats.alpha(3.57), stats.burr(10.5, 4.3))),
        *((law, None, law.cdf) for law in (stats.fisk(3.1), stats.fisk(1.2), stats.invweibull(10.6))),
        (lambda x: x**-4.0 * np.exp(-1 / x), (0, np.inf), stats.invgamma(3).cdf),
        (lambda x: x**-100.0 * np.exp(-1 / x), (0, np.inf), stats.invgamma(99).cdf),
        (
            lambda x: (2 - x) ** -4.0 * np.exp(-1 / (2 - x)),
            (-np.inf, 2),
            lambda x: stats.invgamma(3).sf(2 - x),
        ),
        (lambda x: x**-2.0 * np.exp(-1 / x), (0, 1), lambda x: np.exp(1 - 1 / x)),
        (lambda x: -np.log(x) * x, (0, 1), lambda x: x * x * (1 - 2 * np.log(x))),  # 0 * inf at 0 alone
    ],
)
def test_nan_where_a_formula_overflows_at_an_open_end_is_no_hindrance(law, support, cdf):
    with np.errstate(all="ignore"):
        hat = StripEnvelope(law, support)
        sample = hat.rvs(20_000, np.random.default_rng(14))
        assert same_law(sample, cdf) and np.isfinite(hat.logpdf(sample)).all()


@pytest.mark.parametrize(
    ("pdf", "place"),
    [
        (lambda x: np.sqrt(x - 0.05), "0"),  # a twentieth of the support
        (lambda x: np.sqrt(0.999 - x), "0.999"),
        (lambda x: np.where(np.abs(x - 0.3) < 0.01, np.nan, 1.0), "0.29"),
        (lambda x: np.where(x == 0.5, np.nan, 1.0), "0.5"),
    ],
)
def test_nan_anywhere_else_is_refused_with_the_place(pdf, place):
    with pytest.raises(ValueError, match=f"the density is NaN at x = {place}"), np.errstate(all="ignore"):
        StripEnvelope(pdf, (0, 1))


def sine_integral(x):
    return special.sici(x)[0] / special.sici(2)[0]


@pytest.mark.parametrize(
    ("pdf", "support", "cdf"),
    [
        (lambda x: np.sin(x - 5) / (x - 5), (5, 7), lambda x: sine_integral(x - 5)),
        (lambda x: np.sin(3 - x) / (3 - x), (1, 3), lambda x: 1 - sine_integral(3 - x)),
        (lambda x: np.sin(1e6 - x) / (1e6 - x), (1e6 - 2, 1e6), lambda x: 1 - sine_integral(1e6 - x)),
        (lambda x: np.power(x / 3 - 0.1, 1.5), (0.3, 1), lambda x: ((x - 0.3) / 0.7) ** 2.5),  # 0.3 / 3 < 0.1
        (lambda x: np.exp(0 * np.log(x) + 0 * np.log(1 - x)), (0, 1), stats.uniform.cdf),
    ],
)
def test_nan_at_an_end_alone_is_no_hindrance_wherever_it_lies(pdf, support, cdf):
    with np.errstate(all="ignore"):
        assert same_law(StripEnvelope(pdf, support).rvs(20_000, np.random.default_rng(14)), cdf)
        log_k = log_k_bound(lambda x: np.log(pdf(x)), stats.uniform(support[0], np.ptp(support)), support)
    inside = np.linspace(*support, 10_002)[1:-1]
    assert log_k == pytest.approx(np.log(np.ptp(support) * pdf(inside).max()), abs=2e-3)


@pytest.mark.parametrize("radius", [1.3, 50.0])
def test_nan_beyond_where_the_density_is_not_small_is_refused_on_the_reals_too(radius):
    with np.errstate(all="ignore"):
        with pytest.raises(ValueError, match=r"the density is NaN at x = .* or the support narrower"):
            StripEnvelope(lambda x: np.sqrt(radius**2 - x * x), REALS)
        with pytest.raises(ValueError, match="log density or q's is NaN at x = "):
            log_k_bound(lambda x: 0.5 * np.log(radius**2 - x * x), stats.cauchy(0, radius), REALS)


@pytest.mark.parametrize("far", [1e60, 1e200])
def test_nan_with_mass_beyond_it_is_refused(far):
    def density(x):
        return np.select([np.abs(x) > far * 1e9, np.abs(x) > far], [1e-9, np.nan], np.exp(-np.abs(x)))

    with pytest.raises(ValueError, match="the density is NaN at x = "):
        StripEnvelope(density, REALS)


def test_nan_between_all_points_tried_is_refused_by_the_audit():
    def density(x):
        return np.where(np.abs(x - 1 / np.pi) < 1e-5, np.nan, 1.0)

    with pytest.raises(EnvelopeError, match=r"at x = 0\.3183.* the density nan is not between"):
        StripEnvelope(density, (0, 1)).rvs(10**7, np.random.default_rng(0))


@pytest.mark.parametrize(
    "density",
    [
        lambda x: (1 - np.abs(x) / np.sqrt(12 + x * x)) ** 2,
        lambda x: (1 - np.abs(x) / np.sqrt(1 + x * x)) ** 4,
        lambda x: np.exp(-np.abs(x)) + 1e-9 * (np.abs(x) > 1e30),
        stats.jf_skew_t(8, 4),
        stats.jf_skew_t(2, 3),
    ],
)
def test_a_formula_that_does_not_vanish_far_out_is_refused_at_set_up(density):
    with pytest.raises(
        EnvelopeError, match=r"heavier than a Cauchy's \(the density there is .*state the support"
    ):
        StripEnvelope(density, REALS)


@pytest.mark.parametrize("density", [lambda x: 1 / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 1.01])
def test_a_density_without_a_finite_integral_is_refused(density):
    with pytest.raises(EnvelopeError, match="heavier"):
        StripEnvelope(density, REALS)


@pytest.mark.parametrize(
    ("pdf", "support", "law"),
    [
        (lambda x: np.abs(x) < 1, REALS, stats.uniform(-1, 2)),
        (lambda x: (x > 5) & (x < 7), REALS, stats.uniform(5, 2)),
        (lambda x: x < 1, (0, np.inf), stats.uniform()),
        (lambda x: np.sqrt(np.maximum(1 - x * x, 0)), REALS, stats.semicircular()),
        (lambda x: np.maximum(1 - np.abs(x), 0), REALS, stats.triang(0.5, -1, 2)),
        (lambda x: np.where((x > 0) & (x < 3), 5 * np.exp(-x), 0), REALS, stats.truncexpon(3)),
        (lambda x: np.where(x > 1e3, x**-3.0, 0) * 1e9, REALS, stats.pareto(2, scale=1e3)),
    ],
)
def test_a_density_that_ends_somewhere_on_an_infinite_support_is_drawn(pdf, support, law):
    with np.errstate(all="ignore"):
        sample = StripEnvelope(pdf, support).rvs(20_000, np.random.default_rng(15))
    assert same_law(sample, law.cdf)


def kernel_sums(name):
    rng = np.random.default_rng(0)
    return {
        "normal": (rng.normal(size=1000), None),
        "skewed": (rng.exponential(size=300), None),
        "with outliers": (rng.standard_cauchy(size=100), None),
        "far from zero": (rng.normal(100, 1, 100), None),
        "two groups": (np.append(rng.normal(size=50), rng.normal(3000, 1, 50)), None),
        "many modes": (rng.normal(size=100), 0.05),
    }[name]


@pytest.mark.parametrize(
    "name", ["normal", "skewed", "with outliers", "far from zero", "two groups", "many modes"]
)
def test_kernel_density_estimates_on_the_reals_are_drawn(name):
    data, width = kernel_sums(name)
    kernels = stats.gaussian_kde(data, width)
    sample = StripEnvelope(kernels.pdf, REALS).rvs(5000, np.random.default_rng(16))
    sd = np.sqrt(kernels.covariance.item())
    assert same_law(sample, lambda x: stats.norm.cdf(x[:, None], data, sd).mean(axis=1))


@pytest.mark.parametrize(("place", "width"), [(1e6, 1.0), (-3e8, 0.1), (5e4, 10.0)])
def test_a_kernel_density_estimate_far_from_zero_is_refused_unless_it_is_said_where(place, width):
    data = np.random.default_rng(0).normal(place, width, 100)
    kernels = stats.gaussian_kde(data, 0.5)  # one mode
    sd = np.sqrt(kernels.covariance.item())
    with pytest.raises(ValueError, match=r"the density is 0 at all .* state extrema, or a narrower support"):
        StripEnvelope(kernels.pdf, REALS)
    for support, extrema in (((place - 30 * width, place + 40 * width), ()), (REALS, (place,))):
        sample = StripEnvelope(kernels.pdf, support, extrema=extrema).rvs(5000, np.random.default_rng(16))
        assert same_law(sample, lambda x: stats.norm.cdf(x[:, None], data, sd).mean(axis=1))


def test_extrema_that_were_stated_are_not_looked_for_again_but_audited():
    data = np.random.default_rng(0).normal(size=100)
    with pytest.raises(EnvelopeError, match="state"):
        StripEnvelope(stats.gaussian_kde(data, 0.05).pdf, REALS, extrema=(0.0,))


# ---- many pieces


def histogram(heights, low, high):
    """Return (density, support, cdf, edges)."""
    edges = np.linspace(low, high, len(heights) + 1)
    area = np.append(0, np.cumsum(heights) / np.sum(heights))

    def density(x):
        return heights[np.clip(np.searchsorted(edges, x, "right") - 1, 0, len(heights) - 1)]

    return density, (low, high), lambda x: np.interp(x, edges, area), edges


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize(
    "heights",
    [
        np.random.default_rng(0).random(200),
        np.random.default_rng(1).integers(1, 9, 200) / 1.0,
        np.tile([1.0, 2.0], 100),
        np.histogram(np.random.default_rng(2).normal(size=100_000), 200)[0] / 1.0,
    ],
)
def test_a_histogram_of_200_bins_takes_seconds(heights, stated):
    density, support, cdf, edges = histogram(heights, -4.0, 4.5)
    hat = StripEnvelope(density, support, extrema=edges if stated else ())
    assert hat.evaluations < 10**6 and hat.acceptance_bounds[0] > 0.85
    assert same_law(hat.rvs(20_000, np.random.default_rng(17)), cdf)


@pytest.mark.parametrize("bins", [300, 2000])
@pytest.mark.parametrize("kind", ["function", "function with its edges", "rv_histogram"])
def test_a_histogram_of_thousands_of_bins_is_drawn_in_seconds(bins, kind):
    counts, edges = np.histogram(np.random.default_rng(1).normal(size=100_000), bins)
    density, support, cdf, _ = histogram(counts / 1.0, edges[0], edges[-1])
    law = stats.rv_histogram((counts, edges)) if kind == "rv_histogram" else density
    hat = StripEnvelope(law, support, extrema=edges if "edges" in kind else ())
    assert hat.evaluations < 3e6 and hat.acceptance_bounds[0] > 0.4
    assert same_law(hat.rvs(20_000, np.random.default_rng(17)), cdf)


@pytest.mark.parametrize(
    ("density", "support"),
    [
        (lambda x: np.exp(-x * x / 2) * (1 + 0.9 * np.cos(20 * x)), (-39, 39)),
        (lambda x: 2.5 * np.exp(-x) * np.sin(x) ** 2, (0, np.inf)),
    ],
)
def test_hundreds_of_waves_down_to_the_smallest_numbers_are_drawn(density, support):
    x = np.linspace(max(support[0], -9), 40, 400_001)
    below = np.append(0, np.cumsum((density(x)[1:] + density(x)[:-1]) / 2))
    sample = StripEnvelope(density, support).rvs(20_000, np.random.default_rng(18))
    assert same_law(sample, lambda at: np.interp(at, x, below / below[-1]))


@pytest.mark.parametrize("periods", [10, 40])
def test_equal_pieces_that_gain_a_strip_all_at_once_are_laid(periods):
    half = periods / 2

    def cdf(x):
        wave = np.cos(np.pi * periods) - np.cos(2 * np.pi * x)
        return (0.5 * (x + half) + 0.45 * wave / (2 * np.pi)) / (0.5 * periods)

    hat = StripEnvelope(lambda x: 0.05 + 0.45 * (1 + np.sin(2 * np.pi * x)), (-half, half))
    assert same_law(hat.rvs(20_000, np.random.default_rng(18)), cdf)
    with pytest.raises(ValueError, match=r"64 strips do not suffice for \d+ extrema"):
        StripEnvelope(lambda x: 1.1 + np.sin(2 * np.pi * x), (0, 80), strips=64)


# ---- what keeps the last bits right


@pytest.mark.parametrize("strips", [64, 4096, 65536])
def test_a_squeeze_is_a_value_that_the_coin_can_take(strips):
    hat = StripEnvelope(stats.norm(), strips=strips)
    bits = min(52, 64 - (strips.bit_length() - 1))  # the coin is a multiple of 2**-bits
    steps = hat._squeeze * 2.0**bits
    assert (steps == np.floor(steps)).all()  # so as many coins lie below it as its probability says
    assert (steps > 0).mean() > 0.9


def test_places_stay_in_their_strip_for_the_largest_coins():
    hat = StripEnvelope(lambda x: np.exp(-x), (0.1, 7.3), strips=64)
    widths = np.diff(hat._edges)
    assert (hat._width[: len(widths)] < widths).all()  # by a float: no product rounds up to the edge
    largest = (hat._squeeze * 2.0**52 - 1).clip(0).astype(np.uint64)
    words = (np.arange(64, dtype=np.uint64) << np.uint64(58)) | largest
    hat._decide = lambda *_: None
    out = np.empty(64)
    hat._fill(out, SimpleNamespace(integers=lambda *_, **__: words.copy()))
    low, high = hat._edges[:-1], hat._edges[1:]
    body = hat._squeeze[: len(low)] > 0
    assert (out[: len(low)] >= low)[body].all() and (out[: len(low)] <= high)[body].all()


@pytest.mark.parametrize("power", [1.7, 1.75, 1.8])
def test_a_tails_hat_has_room_for_what_lies_between_the_points_tried(power):
    end = 1e4  # the density jumps to 0 there, between two points: just before, it is nearest to its hat

    def cdf(x):
        return (1 - (1 + x) ** (1 - power)) / (1 - (1 + end) ** (1 - power))

    hat = StripEnvelope(lambda x: np.where(x < end, (1 + x) ** -power, 0), (0, np.inf), strips=64)
    assert same_law(hat.rvs(200_000, np.random.default_rng(0)), cdf)


# ---- the bound


@pytest.mark.parametrize("power", [2, 3])
def test_log_k_bound_passes_over_what_overflows_far_out(power):
    exact = log_k_bound(lambda x: 2 * x**2 - x ** (2 * power), stats.norm(0, 2), (-50, 50))
    found = log_k_bound(lambda x: 2 * x**2 - x ** (2 * power), stats.norm(0, 2), REALS)
    assert found == pytest.approx(exact, abs=1e-9)


def test_log_k_bound_passes_over_nan_at_an_open_end():
    def log_target(x):
        return -4 * np.log(x) - 1 / x

    proposal = stats.fisk(2.0)  # its formula, too, overflows near 0
    with np.errstate(all="ignore"):
        found = log_k_bound(log_target, proposal, (0, np.inf))
    x = np.geomspace(1e-3, 1e3, 100_001)
    assert found == pytest.approx(np.max(log_target(x) - proposal.logpdf(x)) + 1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("log_target", "support", "place"),
    [
        (lambda x: np.where(np.abs(x - 1) < 0.3, np.nan, -x * x), REALS, "0.7"),
        (lambda x: 0.5 * np.log(x), (-1, 1), "-1"),
        (lambda x: np.full(x.shape, np.nan), (0, 1), "0"),
    ],
)
def test_log_k_bound_refuses_other_nan_with_the_place(log_target, support, place):
    with pytest.raises(ValueError, match=f"is NaN at x = {place}"), np.errstate(all="ignore"):
        log_k_bound(log_target, stats.norm(), support)


# log densities that are huge and nearly equal: e**-1e300 over e**-1e300
HUGE = {
    "one law by two formulas": (
        lambda x: -3.5 * np.log(x) - 1 / x,
        stats.invgamma(2.5),
        (0, np.inf),
        special.gammaln(2.5),
    ),
    "wald and inverse normal": (stats.wald(), stats.invgauss(2), (0, np.inf), 0.5),
    "at the other end": (
        lambda x: 2 * np.log(2 - x) - 1 / (2 - x),
        lambda x: np.log(2 - x) - 1 / (2 - x),
        (0, 2),
        np.log(2),
    ),
    "small": (lambda x: -3.5 * np.log(x) - 1e-8 / x, stats.invgamma(2.5, scale=1e-8), (0, np.inf), None),
    "large": (lambda x: -3.5 * np.log(x) - 1e8 / x, stats.invgamma(2.5, scale=1e8), (0, np.inf), None),
    "far out": (lambda x: -(x**4) + np.tanh(x), lambda x: -(x**4), REALS, 1.0),
    "at both ends": (lambda x: x - 1 / x - 1 / (1 - x), lambda x: -1 / x - 1 / (1 - x), (0, 1), 1.0),
}


@pytest.mark.parametrize("name", HUGE)
def test_the_difference_of_two_huge_logarithms_is_rounding_and_no_ratio(name):
    target, proposal, support, exact = HUGE[name]
    with np.errstate(all="ignore"):
        found = log_k_bound(target, proposal, support)
        if exact is None:
            exact = target(proposal.median()) - proposal.logpdf(proposal.median())
    assert exact - 1e-6 <= found <= exact + 0.002


def test_a_ratio_that_grows_until_rounding_hides_it_is_unbounded():
    for target, proposal in (
        (stats.invgamma(3), stats.invgamma(2)),
        (stats.norm(0, 1), stats.norm(0, 0.999)),
    ):
        with pytest.raises(EnvelopeError, match="unbounded"):
            log_k_bound(target, proposal, target.support())


@pytest.mark.parametrize(
    ("target", "proposal", "exact"),
    [
        (stats.beta(0.5, 2), stats.beta(0.5, 0.5), None),  # both infinite at 0
        (stats.beta(0.5, 0.5), stats.beta(0.4, 0.3), None),
        (lambda x: -0.5 * np.log(x), lambda x: -0.5 * np.log(x) - np.log(2), np.log(2)),
        (lambda x: np.where(x > 0, 0.0, np.nan), lambda x: np.zeros(len(x)), 0.0),
        (lambda x: np.where(x > 0, 0.0, np.inf), lambda x: np.where(x > 0, 0.0, np.inf), 0.0),
        (stats.uniform(), stats.powerlaw(0.7), -np.log(0.7)),  # the proposal alone is infinite at 0
        (stats.uniform(), lambda x: np.where(x > 0, 0.0, -np.inf), 0.0),  # one point of the border
    ],
)
def test_poles_that_the_proposal_shares_are_no_hindrance(target, proposal, exact):
    if exact is None:
        x = np.linspace(0, 1, 100_001)[1:-1]
        exact = np.max(target.logpdf(x) - proposal.logpdf(x))
    with np.errstate(all="ignore"):
        assert log_k_bound(target, proposal, (0, 1)) == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize("target", [stats.gamma(2), stats.rayleigh()])
def test_a_proposal_that_underflows_beside_an_end_is_no_hindrance(target):
    proposal = stats.fisk(2.0)  # its formula is 0 at x = 1e-200
    x = np.geomspace(1e-6, 1e3, 100_001)
    with np.errstate(all="ignore"):
        exact = np.max(target.logpdf(x) - proposal.logpdf(x))
        assert log_k_bound(target, proposal, (0, np.inf)) == pytest.approx(exact, abs=2e-3)


def test_nan_between_the_points_of_the_grid_is_named_with_its_place():
    def log_target(x):
        return np.where(np.abs(x - 1 / np.pi) < 1e-5, np.nan, -np.abs(x - 1 / np.pi))

    with pytest.raises(ValueError, match=r"log density or q's is NaN at x = 0\.3183"):
        log_k_bound(log_target, stats.uniform(), (0, 1))
