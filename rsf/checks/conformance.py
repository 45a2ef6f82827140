"""Does somebody's accept-reject code draw the law, or estimate the value, that it should?

A black box is called many times in a world small enough to know the answer; one verdict names the cell that
is most off.

    draws_law: what the calls return, counted, against its exact law (chi-square)
    estimates: the mean of what the calls return against the exact value (t)

What one call returns is one cell: hand in a whole batch, group or step, since a fault of shared coins shows
only in what comes out together. The calls themselves are taken for independent of one another.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rsf.checks.statistics import LEVEL, Verdict, _interval, _valid, same_counts


def draws_law(
    sampler: Callable[[np.random.Generator], object],
    law: Mapping | ArrayLike,
    rng: np.random.Generator,
    *,
    calls: int = 20_000,
    level: float = LEVEL,
) -> Verdict:
    """Call a black box and test what it returns against the law that it should draw.

    Parameters
    ----------
    sampler : callable
        `sampler(rng)` returns one outcome: a number, a text, None, or a tuple of such; lists, arrays and
        tensors are read as tuples. What a sampler keeps between calls makes them dependent: then let one
        call return all of it.
    law : mapping or array_like
        The probability of each outcome. Of an array, the outcomes are its indices: numbers, or tuples of
        them. One outcome that the law does not have is enough to fail. A sum that is 1 up to float32's
        rounding is made 1.
    rng : numpy.random.Generator
    calls : int
    level : float
        In (0, 1), fixed beforehand.

    Returns
    -------
    Verdict
        Its `cell` is the outcome that is most off, in standard errors. Outcomes that expect fewer than 5
        calls are tested together: where there are many of them, their faults are hidden.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> print(draws_law(lambda rng: rng.random() < 0.3, {True: 0.3, False: 0.7}, rng, calls=1_000))
    draws the law: p = 0.1125, n = 1,000, level 0.001; most off True, 0.2770 for 0.3000: PASS
    """
    if not hasattr(law, "items"):
        places = np.ndenumerate(np.atleast_1d(np.asarray(_cell(law), dtype=np.float64)))
        law = {place if len(place) > 1 else place[0]: p for place, p in places}
    law = {_cell(outcome): p for outcome, p in law.items()}
    p = np.array(list(law.values()), dtype=np.float64)
    if abs(p.sum() - 1) < 1e-5:
        p /= p.sum()
    # what is no law, or too fine for so many calls, is refused before the first of them
    same_counts(np.full(p.shape, calls / max(p.size, 1)), p, level=level)
    seen = Counter(_called(sampler, rng, calls))
    beyond = [outcome for outcome in seen if outcome not in law]
    cells = [*law, *beyond]
    p = np.append(p, np.zeros(len(beyond)))
    counts = np.array([seen[cell] for cell in cells])
    found = same_counts(counts, p, level=level)
    worst = _most_off(counts - calls * p, np.sqrt(calls * p * (1 - p)))
    text = (
        f"draws the law: p = {found.p_value:.4f}, n = {calls:,}, level {level:g}; most off {cells[worst]!r}, "
        f"{counts[worst] / calls:.4f} for {p[worst]:.4f}"
    )
    return replace(found, text=text, cell=cells[worst])


def estimates(
    estimator: Callable[[np.random.Generator], ArrayLike],
    value: ArrayLike,
    rng: np.random.Generator,
    *,
    calls: int = 20_000,
    level: float = LEVEL,
) -> Verdict:
    """Call a black box and test whether it gives the value on average: for denominators and baselines.

    Parameters are those of `draws_law`, but `estimator(rng)` returns an estimate of `value`: a number, or an
    array or tensor of its shape. The verdict's interval is that of the component that is most off, its
    `cell`, at a level for all components together (Bonferroni). It is a t interval, so an estimate that is
    rarely far off needs many calls: for the rate of a rare event take `draws_law` with True and False. Calls
    that all return the same are taken for a constant, which must equal the value to one in a million.

    >>> rng = np.random.default_rng(0)
    >>> print(estimates(lambda rng: rng.random(10).sum() / 9, 0.5, rng, calls=1_000))
    estimates 0.5000: mean 0.5549, 99.9 % interval [0.5446, 0.5652], n = 1,000: FAIL
    """
    value = np.asarray(_cell(value), dtype=np.float64)
    if calls < 2 or not value.size or not np.isfinite(value).all():
        raise ValueError(f"estimates needs 2 calls or more and a finite value; got {calls} calls and {value}")
    _valid(level)
    seen = _called(estimator, rng, calls)
    shapes = {np.shape(estimate) for estimate in seen}
    if shapes != {value.shape}:
        raise ValueError(
            f"estimates needs calls that return numbers of the value's shape {value.shape}; got the shapes "
            f"{sorted(shapes)}"
        )
    seen = np.array(seen, dtype=np.float64)
    if not np.isfinite(seen).all():
        raise ValueError(
            f"estimates needs finite numbers; of those that {calls} calls returned, "
            f"{np.sum(~np.isfinite(seen))} are not finite"
        )
    mean, error = seen.mean(axis=0), seen.std(axis=0, ddof=1) / np.sqrt(calls)
    rounding = np.isclose(mean, value, rtol=1e-6, atol=1e-12)  # float32's
    off = np.where(rounding, 0.0, mean - value)
    worst = _most_off(off, error)
    off, error, target = (float(np.ravel(values)[worst]) for values in (off, error, value))
    half = stats.t.ppf(1 - level / value.size / 2, calls - 1) * error
    p_value = 2 * value.size * stats.t.sf(abs(off) / error, calls - 1) if error else float(off == 0)
    ends = (target + off - half, target + off + half)
    found = _interval("mean", target + off, ends, level, f"n = {calls:,}")
    cell = tuple(map(int, np.unravel_index(worst, value.shape))) if value.ndim else None
    text = f"estimates {target:.4f}{f' at {cell}' if value.ndim else ''}: {found.text}"
    return replace(found, text=text, passed=bool(abs(off) <= half), p_value=float(min(p_value, 1)), cell=cell)


def _called(function: Callable[[np.random.Generator], object], rng: np.random.Generator, calls: int) -> list:
    """Return what each call returned, as cells."""
    seen = []
    for call in range(calls):
        try:
            seen.append(_cell(function(rng)))
        except StopIteration:
            raise ValueError(
                f"call {call + 1:,} of {calls:,} had nothing left to return (StopIteration); "
                f"calls={call} would do"
            ) from None
    return seen


def _cell(outcome: object) -> object:
    """Return an outcome as a cell: arrays and lists as tuples, scalars as plain numbers, NaN as math.nan."""
    outcome = outcome.tolist() if hasattr(outcome, "tolist") else outcome
    if isinstance(outcome, (list, tuple)):
        return tuple(map(_cell, outcome))
    if isinstance(outcome, Iterator) or not isinstance(outcome, Hashable):
        raise TypeError(
            f"one call must return a number, a text, None or a tuple of such, got {outcome!r}; a dict can be "
            "returned as tuple(sorted(items)), and a function that yields must return instead"
        )
    return math.nan if isinstance(outcome, float) and math.isnan(outcome) else outcome


def _most_off(off: np.ndarray, error: np.ndarray) -> int:
    """Return the place of the difference of most standard errors, infinitely many where there is no error."""
    off, error = np.abs(np.ravel(off)), np.ravel(error)
    sizes = np.divide(off, error, out=np.where(off > 0, np.inf, 0.0), where=error > 0)
    return int(np.argmax(sizes))
