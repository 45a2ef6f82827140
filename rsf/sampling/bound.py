"""Where does a function of one variable turn, and how high does it get, as far as point evaluations can tell?

It is tried on a grid (linear, geometric around every finite end and known extremum, and at known quantiles); every change of direction
is then narrowed down to neighbouring floats. A spike between the points of the grid stays unseen: it must be stated.
"""

import numpy as np

from rsf.acceptance import EnvelopeError, log_acceptance

OCTAVES = 2.0 ** np.arange(-996, 996, 0.5)  # distances at which the grid probes around a point
NARROW, ZOOM = 1e-12, np.linspace(0, 1, 33)


def log_k_bound(log_target, proposal, support, *, extrema=()):
    """Return a log k with k q >= p on the support: the largest log p - log q found, plus 1e-3.

    Point evaluations cannot exclude a spike between the points, so this is proven only if the ratio p / q is monotone between
    the extrema stated; unstated ones are looked for on a grid (linear, and geometric around every end and extremum).

    Parameters
    ----------
    log_target : callable or frozen scipy.stats distribution
        Log density, vectorised; its constant may be missing.
    proposal : object with logpdf
    support : (low, high), may be infinite
    extrema : where p / q has local extrema, as far as known

    Raises
    ------
    EnvelopeError
        p / q is unbounded (it still grows at an end of the support), or q = 0 where p > 0.
    """
    log_p = getattr(log_target, "logpdf", log_target)

    def log_ratio(x):
        with np.errstate(all="ignore"):  # far probes overflow: log densities of -inf there are right
            p, q = np.asarray(log_p(x), dtype=np.float64), np.asarray(proposal.logpdf(x), dtype=np.float64)
        missed = (p == np.inf) | (
            np.isneginf(q) & (p > top - 700.0)
        )  # further down q may have underflowed only
        if missed.any():
            raise EnvelopeError(
                f"no k is large enough: at x = {x[missed][0]:.6g} the ratio p / q is infinite; the proposal must cover the target"
            )
        return log_acceptance(np.where(np.isneginf(q), -np.inf, p), q, 0.0)

    low, high = ends(support)
    grid = probes(low, high, extrema, [log_target, proposal])
    with np.errstate(all="ignore"):
        top = np.max(np.asarray(log_p(grid), dtype=np.float64))
    value = log_ratio(grid)
    if not (value > -np.inf).any():
        raise ValueError(
            f"the target is 0 at all {len(grid):,} points tried on [{low}, {high}]: state extrema, or a narrower support"
        )
    refuse_growth(grid, value, (low, high), "p / q")
    tolerance = NARROW * np.maximum(1.0, np.abs(np.where(np.isfinite(value), value, 1.0)))
    tops = [log_ratio(np.array([point]))[0] for point in turning_points(log_ratio, grid, value, tolerance)]
    return float(max([value.max(), *tops])) + 1e-3


def ends(support):
    low, high = (float(end) for end in (support if support is not None else (np.nan, np.nan)))
    if not low < high:
        raise ValueError(f"support must be (low, high) with low < high, got {support}")
    return low, high


def probes(low, high, extrema, distributions):
    """Return sorted points of the support: linear, geometric around every finite end and extremum, and known quantiles."""
    extrema = np.asarray(extrema, dtype=np.float64).ravel()
    if not ((extrema >= low) & (extrema <= high)).all():
        raise ValueError(f"extrema must lie in the support [{low}, {high}], got {extrema}")
    finite = [end for end in (low, high) if np.isfinite(end)]
    centres = [*extrema, *finite] or [0.0]
    parts = [np.array([*extrema, *finite])] + [
        centre + sign * OCTAVES for centre in centres for sign in (-1, 1)
    ]
    if len(finite) == 2:
        parts.append(np.linspace(low, high, 4097))
    parts += [d.ppf(np.linspace(0, 1, 1025)[1:-1]) for d in distributions if hasattr(d, "ppf")]
    points = np.unique(np.concatenate(parts))
    return points[(points >= low) & (points <= high)]


def refuse_growth(grid, log_value, support, what):
    """Refuse what is largest at the outermost points of the grid and grows there by as much an octave as before."""
    there = np.isfinite(log_value)
    for order, end in ((slice(None, None, -1), support[0]), (slice(None), support[1])):
        x, value = grid[there][order][-9:], log_value[there][order][-9:]
        distance = np.abs(x - end) if np.isfinite(end) else 1 / np.abs(x)
        x, value, distance = (array[distance > 0] for array in (x, value, distance))
        if len(x) > 3 and value[-1] >= np.max(log_value[there]) - NARROW:
            slope = np.diff(value) / -np.diff(
                np.log(distance)
            )  # of a bounded function it falls with the distance
            if (slope > 1e-9).all() and slope[-1] > slope.max() / 2:
                raise EnvelopeError(
                    f"{what} seems unbounded: it still grows at the last points tried, towards x = {x[-1]:.6g}"
                )


def turning_points(f, grid, value, tolerance):
    """Return where f has local extrema between points of the grid, each found by zooming in; differences within tolerance are none."""
    with np.errstate(invalid="ignore"):
        step = np.diff(value)
    moves = np.flatnonzero(np.abs(step) > np.maximum(tolerance[1:], tolerance[:-1]))
    turns = np.flatnonzero(np.diff(np.sign(step[moves])) != 0)
    if len(turns) > 200:
        raise ValueError(
            f"{len(turns):,} local extrema were found: is the function noisy? It must be piecewise monotone"
        )
    points = []
    for i in turns:
        a, b, sign = grid[moves[i]], grid[moves[i + 1] + 1], np.sign(step[moves[i]])
        for _ in range(100):
            x = a + (b - a) * ZOOM
            best = int(np.argmax(sign * f(x)))
            a, b, before = x[max(best - 1, 0)], x[min(best + 1, 32)], b - a
            if not b - a < before:
                break
        points.append(x[best])
    return np.array(points)
