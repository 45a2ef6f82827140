"""Does somebody's accept-reject code draw the law, or estimate the value, that it should?

A black box is called many times in a world small enough to know the answer; one verdict names the cell that
is most off.

    draws_law: what the calls yield, counted, against its exact law (chi-square)
    estimates: the mean of what the calls yield against the exact value (t)

What one call yields is one cell: hand in a whole batch, group or step, since a fault of shared coins shows
only in what comes out together.
"""

from collections import Counter
from collections.abc import Callable, Mapping
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
    """Call a black box and test what it yields against the law that it should draw.

    Parameters
    ----------
    sampler : callable
        `sampler(rng)` yields one outcome: a number, a text, None, or a tuple of such; lists, arrays and
        tensors are read as tuples.
    law : mapping or array_like
        The probability of each outcome. Of an array, the outcomes are its indices: numbers, or tuples of
        them. One outcome that the law does not have is enough to fail.
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
    if not isinstance(law, Mapping):
        places = np.ndenumerate(np.asarray(law, dtype=np.float64))
        law = {place if len(place) > 1 else place[0]: p for place, p in places}
    law = {_cell(outcome): p for outcome, p in law.items()}
    seen = Counter(_cell(sampler(rng)) for _ in range(calls))
    cells = [*law, *(outcome for outcome in seen if outcome not in law)]
    p = np.array([law.get(cell, 0.0) for cell in cells], dtype=np.float64)
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

    Parameters are those of `draws_law`, but `estimator(rng)` yields an estimate of `value`: a number, or an
    array of its shape. The verdict's interval is that of the component that is most off, its `cell`, at a
    level for all components together (Bonferroni). It is a t interval, so an estimate that is rarely far off
    needs many calls.

    >>> rng = np.random.default_rng(0)
    >>> print(estimates(lambda rng: rng.random(10).sum() / 9, 0.5, rng, calls=1_000))
    estimates 0.5000: mean 0.5549, 99.9 % interval [0.5446, 0.5652], n = 1,000: FAIL
    """
    value = np.asarray(value, dtype=np.float64)
    seen = np.array([estimator(rng) for _ in range(calls)], dtype=np.float64)
    if calls < 2 or seen.shape[1:] != value.shape or not np.isfinite(seen).all():
        raise ValueError(
            f"estimates needs 2 calls or more that yield finite numbers of the value's shape {value.shape}; "
            f"got {calls} calls of shape {seen.shape[1:]}, {np.sum(~np.isfinite(seen))} numbers not finite"
        )
    mean, error = seen.mean(axis=0), seen.std(axis=0, ddof=1) / np.sqrt(calls)
    off = np.where(np.isclose(mean, value, rtol=1e-9, atol=1e-12), 0.0, mean - value)  # beyond rounding
    worst = _most_off(off, error)
    off, error, target = (float(np.ravel(values)[worst]) for values in (off, error, value))
    half = stats.t.ppf(1 - _valid(level) / value.size / 2, calls - 1) * error
    p_value = 2 * value.size * stats.t.sf(abs(off) / error, calls - 1) if error else float(off == 0)
    ends = (target + off - half, target + off + half)
    found = _interval("mean", target + off, ends, level, f"n = {calls:,}")
    cell = tuple(map(int, np.unravel_index(worst, value.shape))) if value.ndim else None
    text = f"estimates {target:.4f}{f' at {cell}' if value.ndim else ''}: {found.text}"
    return replace(found, text=text, passed=bool(abs(off) <= half), p_value=float(min(p_value, 1)), cell=cell)


def _cell(outcome: object) -> object:
    """Return an outcome as a cell: arrays, tensors and lists as tuples, scalars of NumPy as plain numbers."""
    outcome = outcome.tolist() if hasattr(outcome, "tolist") else outcome
    return tuple(map(_cell, outcome)) if isinstance(outcome, (list, tuple)) else outcome


def _most_off(off: np.ndarray, error: np.ndarray) -> int:
    """Return the place of the difference of most standard errors, infinitely many where there is no error."""
    off, error = np.abs(np.ravel(off)), np.ravel(error)
    sizes = np.divide(off, error, out=np.where(off > 0, np.inf, 0.0), where=error > 0)
    return int(np.argmax(sizes))
