"""The ups and downs of a density of one variable, as far as they are known, and strips of equal area over them.

between two neighbouring extrema f is monotone, so on [a, b] the step max(f(a), f(b)) covers it
beyond a place t in a tail  f(x) <= f(t) (s / (s + |x - t|))**2,  of area f(t) s
"""

import math
import time
from bisect import bisect_right
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rsf.acceptance import ROUNDING, EnvelopeError
from rsf.sampling.bound import NARROW, ends, islands, merged, numbers, probes, refuse_growth, turning_points
from rsf.sampling.densities import density, evaluate, quantile

JUMP = 1e-250  # a density that is 0 beyond a point with more than this has an end there: it did not underflow
EVALUATIONS = 12  # that a set-up needs for each strip, about


class Tail(NamedTuple):
    """An infinite tail and its hat: `height` (scale / (scale + distance))**2 beyond `start`."""

    side: int  # -1 or 1
    start: float
    scale: float
    height: float


class Landscape:
    """What is known of a density: points, heights there, extrema.

    low, high : the ends of the support, less a stretch at a finite end where the density overflows to NaN
    grid, height : points (n,), sorted, and the density there, in units of its largest value
    knots : extrema, sorted
    evaluations : of the density, so far
    is_function : whether nothing but the density is given
    """

    def __init__(self, law: Any, support: Any, extrema: ArrayLike, strips: int, patience: float) -> None:
        self.low, self.high = ends(law.support() if support is None and hasattr(law, "support") else support)
        self.scale = 1.0
        self.evaluations = 0
        self.is_function = quantile(law) is None
        self._raw = density(law)
        self._extrema = np.asarray(extrema, dtype=np.float64).ravel()
        if not self.is_function:
            start = time.process_time()
            typical = quantile(law)(np.arange(1, 16) / 16)
            all_quantiles = 1023 / 15 * (time.process_time() - start)
            self._refuse_slow(typical, strips, patience, all_quantiles)
        grid = probes(self.low, self.high, extrema, [law])
        value = self.probe(grid)
        if self.is_function:
            self._refuse_slow(grid[np.argsort(np.nan_to_num(value))[-15:]], strips, patience, 0.0)
        self._explore(grid, value)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the density at x (n,), in units of its largest value."""
        value = self.probe(x)
        if np.isnan(value).any():
            raise ValueError(f"the density is NaN at x = {x[np.isnan(value)][0]:.6g}: it must be a number")
        return value

    def probe(self, x: np.ndarray) -> np.ndarray:
        """Return the density where it may be NaN."""
        with np.errstate(all="ignore"):
            value = np.asarray(evaluate(self._raw, x, "the density"), dtype=np.float64) / self.scale
        self.evaluations += x.size
        if (value == np.inf).any():
            place = x[value == np.inf][0]
            raise EnvelopeError(
                f"the density is infinite at x = {place:.6g}: no hat of finite height covers it"
            )
        if (value < 0).any():
            bad = value < 0
            raise ValueError(
                f"the density is {value[bad][0] * self.scale:g} at x = {x[bad][0]:.6g}: "
                "it must not be negative (of a log density, pass the exponential)"
            )
        return value

    def body(self) -> tuple[float, float]:
        """Return the outermost points known at which the density is above 1e-4 of its maximum."""
        inside = self.grid[self.height > 1e-4]
        return inside[0], inside[-1]

    def look_closer(self) -> None:
        """Look again for extrema, on a grid where most of the density is: there are some that were missed."""
        grid = np.union1d(self.grid, np.linspace(*self.body(), 4097))
        self.scale = 1.0
        self._explore(grid, self.probe(grid))

    def _refuse_slow(self, x: np.ndarray, strips: int, patience: float, spent: float) -> None:
        """Refuse a set-up that would take too long, by the time that the density takes at typical points."""
        start = time.process_time()
        self.probe(x)
        each = (time.process_time() - start) / len(x)
        needed = spent + EVALUATIONS * strips * each
        if needed > patience:
            raise ValueError(
                f"the density takes {1e3 * each:.3g} ms a point, so a set-up with {strips:,} strips would take about "
                f"{needed:.0f} s: give fewer strips, a faster density, or a patience above {patience:g} s"
            )

    def _explore(self, grid: np.ndarray, value: np.ndarray) -> None:
        """Find the extrema and probe geometrically around them; value (n,) is in the density's own units."""
        with np.errstate(divide="ignore"):
            log_value = np.log(value)
        used = numbers(grid, log_value, (self.low, self.high), "the density")
        grid = grid[used]
        value = value[used]
        if not value.max() > 0:
            raise ValueError(
                f"the density is 0 at all {len(grid):,} points tried on [{self.low}, {self.high}]: "
                "state extrema, or a narrower support"
            )
        refuse_growth(grid, log_value[used], (self.low, self.high), "the density")
        self.low = float(grid[0]) if np.isfinite(self.low) else self.low
        self.high = float(grid[-1]) if np.isfinite(self.high) else self.high
        stated = self._extrema
        while True:
            found = turning_points(self, grid, value, NARROW * value)
            self.knots = np.unique(np.concatenate([stated, found]))
            x, height = merged(grid, value, probes(grid[0], grid[-1], self.knots, []), self.probe)
            new = islands(self.probe, x, height, self.knots) if self.is_function else ()
            if not len(new):
                break
            stated = np.append(stated, new)
            grid, value = merged(x, height, probes(grid[0], grid[-1], new, []), self.probe)
        there = ~np.isnan(height)
        self.grid = x[there]
        self.scale = max(value.max(), self(self.knots).max(initial=0.0))
        self.height = height[there] / self.scale
        infinite = [side for side, end in ((-1, self.low), (1, self.high)) if np.isinf(end)]
        self._sides = [self._outwards(side) for side in infinite]

    def _outwards(self, side: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """Return (side, distance, x, height) of the points known beyond the last extremum, outwards.

        A tail that is too heavy is refused: the density times the distance squared must not rise to the last.
        """
        inner = [*self.knots, *(end for end in (self.low, self.high) if np.isfinite(end))]
        if not inner:
            raise EnvelopeError(
                "no mode was found: the density does not fall at both ends; state its extrema, or a finite support"
            )
        anchor = min(inner) if side < 0 else max(inner)
        beyond = self.grid * side > anchor * side
        x = self.grid[beyond][::side]
        height = self.height[beyond][::side]
        far = np.flatnonzero(height)[-41:]  # up to 20 octaves
        mass = np.log(height[far]) + 2 * np.log(np.abs(x[far] - anchor))
        # a heavy tail falls to 0 by underflow only: what drops from above that has an end
        has_end = len(far) and far[-1] + 1 < len(x) and height[far[-1]] > JUMP
        if len(far) > 40 and not has_end and mass[-1] > mass[0] + 0.01 and (np.diff(mass) > 0).all():
            raise EnvelopeError(
                f"the tail beyond x = {x[far[0]]:.6g} is heavier than a Cauchy's: no hat like 1 / x**2 covers it; "
                "if it ends somewhere, state the support"
            )
        return side, np.abs(x - anchor), x, height

    # ---- strips

    def cut(self, strips: int) -> tuple[np.ndarray, list[Tail]]:
        """Return the edges (n + 1,) of n strips of nearly equal hat area and the tails beyond, in all `strips` or a few less."""
        known, height = self.grid, self.height
        area = np.sum(np.maximum(height[1:], height[:-1]) * np.diff(known)) / strips
        spare = max(3, strips // 400)
        best = 0
        for attempt in range(60):
            tails = self._tails(area)
            low = next((tail.start for tail in tails if tail.side < 0), known[0])
            high = next((tail.start for tail in tails if tail.side > 0), known[-1])
            inside = (self.knots > low) & (self.knots < high)
            bounds = np.unique([low, *self.knots[inside], high])
            pieces = [_steps(known, height, a, b, area, 4 * strips) for a, b in pairwise(bounds)]
            edges = np.unique(np.concatenate(pieces))
            number = len(edges) - 1 + len(tails)
            if attempt > 2 and best < number <= strips:  # the first attempts know too few heights
                best = number
                found = (edges, tails)
            if best >= strips - spare:
                break
            area *= number / (strips - spare / 2)
            known, height = merged(known, height, edges, self)
        # a best below that: pieces of equal area gain a strip all at the same time, so the number jumped over the wanted one
        if not best:
            raise ValueError(f"{strips} strips do not suffice for {len(bounds) - 2} extrema: give more strips")
        self.known = (known, height)
        return found

    def _tails(self, area: float) -> list[Tail]:
        """Return the infinite tails, each from the first point known beyond which its hat has no more than this area."""
        tails = []
        for side, distance, x, height in self._sides:
            low, high = 0, len(x) - 1
            while low < high:
                middle = (low + high) // 2
                if height[middle] * self._tail_scale(side, middle, distance, x, height) <= area:
                    high = middle
                else:
                    low = middle + 1
            scale = self._tail_scale(side, low, distance, x, height)
            if not np.isfinite(scale):
                raise EnvelopeError(
                    f"the density does not fall beyond x = {x[low]:.6g}, where it is {height[low] * self.scale:.6g}: "
                    "no hat like 1 / x**2 covers it; if its formula overflows there, state a narrower support"
                )
            tails.append(Tail(side, x[low], scale, height[low]))
        return tails

    def _tail_scale(
        self, side: int, i: int, distance: np.ndarray, x: np.ndarray, height: np.ndarray
    ) -> float:
        """Return s with f <= height (s / (s + |x - t|))**2 at all points known beyond t = x[i], and 5 % to spare.

        It is infinite where the density does not fall, and where it ends with a jump so close that none of them is above 0.
        """
        if height[i] == 0:
            return 0.0
        near = x[i] + side * distance[i] * 2.0 ** np.arange(-20, 1, 0.5)
        beyond = np.concatenate([near, x[i + 1 :]])
        root = np.sqrt(np.concatenate([self(near), height[i + 1 :]]) / height[i])
        rises = root > 1 + ROUNDING
        if rises.any():
            raise EnvelopeError(
                f"the density rises again at x = {beyond[rises][0]:.6g}, beyond its last extremum known: "
                "state the others in `extrema`"
            )
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 where a probe rounds to t
            s = np.abs(beyond - x[i]) * root / np.maximum(1 - root, 0.0)
        s = np.nanmax(s)
        return np.inf if s == 0 and height[i] > JUMP else 1.05 * s


def _steps(
    known: np.ndarray, height: np.ndarray, low: float, high: float, area: float, most: int
) -> np.ndarray:
    """Return edges, about `most` at the most, of steps of equal area from low to high, between which f is monotone.

    Between the points known f is taken as linear.
    """
    piece = slice(np.searchsorted(known, low), np.searchsorted(known, high) + 1)
    x = known[piece]
    f = height[piece]
    # from the higher end down: a step's height is then known before its width
    flip = -1 if f[-1] > f[0] else 1
    x = (flip * x)[::flip].tolist()
    f = f[::flip].tolist()
    at = x[0]
    edges = [at]
    while at < x[-1] and len(edges) <= most:
        i = min(bisect_right(x, at), len(x) - 1)
        top = f[i - 1]
        if f[i] > 0.9 * top:  # else a jump may lie between
            top += (f[i] - top) * (at - x[i - 1]) / (x[i] - x[i - 1])
        at = min(max(at + area / top, math.nextafter(at, x[-1])), x[-1]) if top > 0 else x[-1]
        edges.append(at)
    return flip * np.array(edges)
