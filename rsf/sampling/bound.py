"""Where does a function of one variable turn, and how high does it get, as far as point evaluations can tell?

    log k = 0.001 + the largest log p - log q at any point tried

It is tried on a grid (linear, geometric around finite ends and known extrema, and at known quantiles); every
change of direction is then narrowed down to neighbouring floats. A spike between the points of the grid stays
unseen: it must be stated.

What may be passed as a law, and how it is asked (a function, or a distribution by its names for things):

    log p: logpdf, logpmf   quantiles: ppf, icdf   mass beyond a point: cdf, sf, ccdf   draws: rvs, sample

scipy.stats has two generations of distributions, and they name these differently; a density written with
PyTorch returns tensors, which may carry gradients and have fewer digits than float64.
"""

from collections.abc import Iterator

import numpy as np

from rsf.acceptance import EnvelopeError, refuse_if, refuse_where

NO_NUMBER = " is NaN at x = {x}: it must be a number, or the support narrower"
NARROW = 1e-12  # relative differences up to this are rounding
ZOOM = np.linspace(0, 1, 33)
OCTAVES = 2.0 ** np.arange(-996, 996, 0.5)  # distances at which the grid probes around a point
# distances, in half-widths of the highest peak, at which others are looked for
FAR = np.concatenate([np.arange(8, 2000, 0.9), np.arange(2000, 40_000, 10.0)])


def log_k_bound(
    log_target: object,
    proposal: object,
    support: tuple[float, float],
    *,
    extrema: np.ndarray | list[float] | tuple[float, ...] = (),
) -> float:
    """Return a log k with k q >= p on the support: the largest log p - log q found, plus 1e-3.

    Point evaluations cannot exclude a spike between the points, so this is proven only if the ratio p / q is
    monotone between the extrema stated; unstated ones are looked for on a grid (linear, and geometric around
    every end and extremum).

    Parameters
    ----------
    log_target : callable or scipy.stats distribution
        Log density, vectorised; its constant may be missing.
    proposal : object with logpdf, or callable
    support : (low, high), may be infinite
    extrema : where p / q has local extrema, as far as known

    Raises
    ------
    EnvelopeError
        p / q is unbounded (it still grows at an end of the support), or q = 0 where p > 0.
    ValueError, TypeError
        A log density that is missing, NaN or not vectorised, a target that is 0 at all points tried.

    Examples
    --------
    >>> from scipy import stats
    >>> round(log_k_bound(stats.norm(), stats.cauchy(), (-np.inf, np.inf)), 3)  # log(2 pi / e) / 2 = 0.419
    0.42
    """
    laws = {"the target's log density": part(log_target, "logpdf"), "that of q": part(proposal, "logpdf")}
    what = "the target's log density or q's"

    @np.errstate(all="ignore")  # far probes overflow: log densities of -inf there are right
    def logs(x):
        log_p, log_q = (evaluate(law, x, name) for name, law in laws.items())
        rounding = digits(log_p) * np.abs(log_p) + digits(log_q) * np.abs(log_q)
        # a ratio of two infinite densities is no number either
        no_number = np.isnan(log_q) | ((log_p == np.inf) & (log_q == np.inf))
        return np.where(no_number, np.nan, log_p), log_q, rounding

    @np.errstate(all="ignore")
    def log_ratio(x):
        log_p, log_q, rounding = logs(x)
        refuse_where(np.isnan(log_p), what + NO_NUMBER, x=x)
        # where p is below e**-700 of its largest value, or its mass beside an end is, q may underflow to 0
        beside = np.log(np.minimum(np.minimum(x - support[0], support[1] - x), 1.0))
        refuse_where(
            (log_p == np.inf) | (np.isneginf(log_q) & (log_p > top - 700.0 - beside)),
            "no k is large enough: at x = {x} the ratio p / q is infinite; "
            "the proposal must cover the target",
            EnvelopeError,
            x=x,
        )
        # nothing is ever drawn where p is so small, and rounding would decide there: that of the logs, or of
        # the subnormal numbers, between e**-746 and e**-708, that they may be the logs of
        coarse = (rounding > 1e-4) | (np.abs(log_p + 727) < 19) | (np.abs(log_q + 727) < 19)
        unseen = np.isinf(log_q) | (coarse & (log_p < top - 700.0))
        return np.where(unseen, -np.inf, log_p - np.where(unseen, 0.0, log_q))

    support = ends(support)
    grid = probes(*support, extrema, [log_target, proposal])
    log_p, _, rounding = logs(grid)
    used = numbers(grid, log_p, support, what)
    top = np.max(log_p[used])
    grid = grid[used]
    value = log_ratio(grid)
    refuse_if(
        not (np.max(value) > -np.inf),
        f"the target is 0 at all {len(grid):,} points tried on {support}: "
        "state extrema, or a narrower support",
    )
    refuse_growth(grid, value, support, "p / q")
    tolerance = np.where(
        np.isfinite(value), np.maximum(NARROW * np.maximum(1.0, np.abs(value)), rounding[used]), NARROW
    )
    highest = max(
        value.max(),
        *(log_ratio(np.array([x]))[0] for x in turning_points(log_ratio, grid, value, tolerance)),
        -np.inf,
    )
    refuse_if(
        not (highest < value[log_p[used] > top - 700.0].max() + 700.0),
        f"p / q seems unbounded: it reaches e**{highest:.6g} where p is nearly 0",
        EnvelopeError,
    )
    return float(highest) + 1e-3


def ends(support) -> tuple[float, float]:
    """Return the ends of a support as floats."""
    refuse_if(
        not (np.shape(support) == (2,) and support[0] < support[1]),
        f"support must be (low, high) with low < high, got {support}",
    )
    return float(support[0]), float(support[1])


def probes(low: float, high: float, extrema, laws: list) -> np.ndarray:
    """Return points of the support, sorted: linear, geometric around ends and extrema, quantiles of laws."""
    extrema = np.asarray(extrema, dtype=np.float64).ravel()
    refuse_if(
        not ((extrema >= low) & (extrema <= high)).all(),
        f"extrema must lie in the support [{low}, {high}], got {extrema}",
    )
    finite = [end for end in (low, high) if np.isfinite(end)]
    linear = np.linspace(low, high, 4097) if len(finite) == 2 else []
    centres = [*extrema, *finite] or [0.0]
    # where there are many, fewer points around each
    parts = [centre + sign * OCTAVES[:: 1 + len(centres) // 203] for centre in centres for sign in (-1, 1)]
    parts += [quantile(law)(np.linspace(0, 1, 1025)[1:-1]) for law in laws if quantile(law)]
    points = np.unique(np.concatenate([extrema, finite, linear, *parts]))
    return points[(points >= low) & (points <= high)]


@np.errstate(all="ignore")
def numbers(x: np.ndarray, log_f: np.ndarray, support: tuple[float, float], what: str) -> slice:
    """Return the part of the points x, sorted, at which a log density is a number; refuse NaN in the middle.

    Formulas overflow to NaN far out, and at an open end: inf * 0 for x**-4 * exp(-1 / x) at x = 1e-80.
    Such a stretch is left out if all numbers beyond it are 0 and its mass is negligible, below 1e-15 of the
    whole, judged by the densities up to twice as far from a finite end, or in the last half octave before an
    infinite one. It may also be a finite end alone, up to rounding.
    """
    is_nan = np.isnan(log_f)
    top = np.argmax(np.where(is_nan, -np.inf, log_f))
    bad = np.flatnonzero(is_nan)
    used = slice(max(bad[bad < top], default=-1) + 1, min(bad[bad > top], default=len(x)))
    lost = is_nan[top] or (np.delete(log_f, used) > -np.inf).any()
    for end, cut, is_cut in zip(support, x[used][[0, -1]], (used.start > 0, used.stop < len(x)), strict=True):
        centre = end if np.isfinite(end) else 0.0
        distance, stretch = np.abs(x[used] - centre), np.abs(cut - centre)
        beside = distance <= 2 * stretch if np.isfinite(end) else distance >= 0.7 * stretch
        log_mass = log_f[used] + np.log(distance)
        lost |= (
            is_cut
            and stretch > 4 * np.spacing(np.abs(centre))
            and log_mass[beside].max() > log_mass.max() - 35
        )
    refuse_where(is_nan & lost, what + NO_NUMBER, x=x)
    return used


@np.errstate(all="ignore")  # points may lie closer than their distances tell apart
def refuse_growth(grid: np.ndarray, log_value: np.ndarray, support: tuple[float, float], what: str) -> None:
    """Refuse what is largest at the last points of a grid and grows there by as much an octave as before."""
    there = np.isfinite(log_value)
    for order, end in ((slice(None, None, -1), support[0]), (slice(None), support[1])):
        x, value = (array[there][order][-9:] for array in (grid, log_value))
        distance = np.abs(x - end) if np.isfinite(end) else 1 / np.maximum(np.abs(x), 1e-300)
        x, value, distance = (array[distance > 0] for array in (x, value, distance))
        if len(x) > 3 and value[-1] >= np.max(log_value[there]) - NARROW:
            # by how much it grows while the distance to the end halves: less and less if it is bounded
            slope = np.diff(value) / -np.diff(np.log(distance))
            refuse_if(
                (slope > 1e-9).all() and slope[-1] > slope.max() / 2,
                f"{what} seems unbounded: it still grows at the last points tried, towards x = {x[-1]:.6g}",
                EnvelopeError,
            )


@np.errstate(invalid="ignore")
def turns(grid: np.ndarray, value: np.ndarray, tolerance: np.ndarray) -> list[tuple[float, float, float]]:
    """Return (left, right, 1 for a maximum or -1) of each turn of a function beyond a tolerance."""
    step = np.diff(value)
    moves = np.flatnonzero(np.abs(step) > np.maximum(tolerance[1:], tolerance[:-1]))
    at = np.flatnonzero(np.diff(np.sign(step[moves])) != 0)
    return list(zip(grid[moves[at]], grid[moves[at + 1] + 1], np.sign(step[moves[at]]), strict=True))


def turning_points(f, grid: np.ndarray, value: np.ndarray, tolerance: np.ndarray) -> Iterator[float]:
    """Give where f has local extrema between points of the grid, zooming in until floats are neighbours."""
    found = turns(grid, value, tolerance)
    refuse_if(
        len(found) > 2000,
        f"{len(found):,} local extrema were found: is the function noisy, or periodic? "
        "It must be piecewise monotone",
    )
    for low, high, sign in found:
        for _ in range(100):
            x = low + (high - low) * ZOOM
            best = int(np.argmax(sign * f(x)))
            width = high - low
            low, high = x[max(best - 1, 0)], x[min(best + 1, 32)]
            if not high - low < width:
                break
        yield x[best]


def merged(x: np.ndarray, value: np.ndarray, new: np.ndarray, f) -> tuple[np.ndarray, np.ndarray]:
    """Return points x, sorted, and their values with new points added, at which f is evaluated."""
    new = np.setdiff1d(new, x)
    at = np.searchsorted(x, new)
    return np.insert(x, at, new), np.insert(value, at, f(new))


def far_points(x: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return points far from the highest one, at which other peaks may be seen.

    They are 0.9 of its half-widths apart up to 2,000 of them, which hits any peak as wide, and 10 apart up to
    40,000, where a normal density as wide is still above 1e-8 of its maximum at one of them.
    """
    top = int(np.nanargmax(value))
    lower = np.flatnonzero(value < value[top] / 2)
    sides = [np.abs(x[side] - x[top]) for side in (lower[lower < top], lower[lower > top])]
    width = max((distance.min() for distance in sides if len(distance)), default=0.0)
    points = x[top] + width * np.concatenate([-FAR, FAR])
    return points[(points > x[0]) & (points < x[-1])]


def part(law: object, name: str):
    """Return the law's method of this name, or the law itself if it is a function."""
    found = getattr(law, name, law)
    refuse_if(
        not callable(found),
        f"{type(law).__name__} has no {name} and is no function: pass a function of an array of points, such "
        f"as lambda x: {'np.exp(law.logpdf(x))' if name == 'pdf' else 'law.log_prob(torch.as_tensor(x))'}",
        TypeError,
    )
    return found


def is_discrete(law: object) -> bool:
    """Return whether a distribution has probabilities of points instead of a density."""
    # scipy's newer discrete distributions have a pdf all the same; it is infinite at their points
    return hasattr(law, "pmf") and (not hasattr(law, "pdf") or bool(np.all(law.pdf(law.median()) == np.inf)))


def quantile(law: object):
    """Return the law's quantile function, or None if it has none."""
    return getattr(law, "ppf", None) or getattr(law, "icdf", None)


def mass_outside(law: object, low: float, high: float) -> float:
    """Return the law's mass outside [low, high], rounding of the ends forgiven; 0.0 where it cannot tell."""
    above = getattr(law, "sf", None) or getattr(law, "ccdf", None)
    if not (hasattr(law, "cdf") and above):
        return 0.0
    rounding = 4 * np.spacing(max(abs(end) for end in (low, high, 0.0) if np.isfinite(end)))
    ends = (low - 1, high) if is_discrete(law) else (low - rounding, high + rounding)
    missed = law.cdf(ends[0]) + above(ends[1])
    refuse_if(
        np.ndim(missed) != 0,
        f"{type(law).__name__} stands for laws of shape {np.shape(missed)}: pass one law at a time",
    )
    return float(missed) if missed > 1e-15 else 0.0


def draw(law: object, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n draws, (n, ...)."""
    x = np.atleast_1d(law.rvs(size=n, random_state=rng) if hasattr(law, "rvs") else law.sample(n, rng=rng))
    refuse_if(
        len(x) != n,
        f"{type(law).__name__} drew an array of shape {x.shape} where {n} candidates were asked for: "
        "they must lie along the first axis",
    )
    return x


def evaluate(function, x: np.ndarray, name: str) -> np.ndarray:
    """Return function(x) for points x (n, ...) as an array (n,), in its own precision."""
    try:
        # a copy of x: a function may write into its argument
        value = function(x.copy()) if len(x) else np.empty(0)
        value = np.asanyarray(value.detach().cpu() if hasattr(value, "detach") else value)
        value = np.ma.filled(value, np.nan)  # what is masked has no value
        value = value.astype(np.float64) if value.dtype == object else value
    except (TypeError, ValueError, ArithmeticError) as error:
        raise type(error)(
            f"{name} cannot be evaluated at an array of {len(x)} points: {error} "
            "(np.vectorize lets a function of one number take an array)"
        ) from error
    refuse_if(
        not (value.shape == x.shape[:1] and value.dtype.kind in "biuf"),
        f"{name} must be vectorised: for points of shape {x.shape} it must have shape ({len(x)},) "
        f"and hold real numbers, got {value.shape} of {value.dtype}",
    )
    return value


def digits(value: np.ndarray) -> float:
    """Return a few of the last digits of an array's numbers, as a share of them: 1e-6 for float32."""
    return 8 * float(np.finfo(value.dtype).eps) if value.dtype.kind == "f" else 0.0
