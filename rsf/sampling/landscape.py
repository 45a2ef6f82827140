"""The ups and downs of a density of one variable, as far as they are known, and steps of equal area over them.

between two neighbouring extrema f is monotone, so on [a, b] the step max(f(a), f(b)) covers it
beyond a place t in a tail  f(x) <= f(t) (s / (s + |x - t|))**2,  of area f(t) s
"""

import math
import time
from bisect import bisect_right
from functools import partial
from itertools import pairwise

import numpy as np

from rsf.acceptance import ROUNDING, EnvelopeError
from rsf.sampling.bound import NARROW, ends, islands, merged, numbers, probes, refuse_growth, turning_points
from rsf.sampling.densities import evaluate, part, quantile, refuse

JUMP = 1e-250  # a density that is 0 beyond a point with more than this has an end there: it did not underflow


class Landscape:
    """What is known of a density: points, heights there, extrema.

    low, high : the ends of the support, less a stretch at a finite end where the density overflows to NaN
    grid, height : points (n,), sorted, and the density there, in units of its largest value
    knots : extrema, sorted
    evaluations : of the density, so far
    """

    def __init__(self, law: object, support: object, extrema: object, strips: int, patience: float) -> None:
        self.low, self.high = ends(law.support() if support is None and hasattr(law, "support") else support)
        self.evaluations = 0
        self._scale = 1.0
        self._raw = part(law, "pdf")
        self._is_function = quantile(law) is None
        self._stated = np.asarray(extrema, dtype=np.float64).ravel()
        if not self._is_function:
            x = quantile(law)(np.arange(1, 16) / 16)
            start = time.process_time()
            self._pdf(x)
            needed = 12 * strips * (time.process_time() - start) / len(x)
            if needed > patience:
                raise ValueError(
                    f"the density is slow: a set-up with {strips:,} strips would take about {needed:.0f} s; "
                    f"give fewer strips, a faster density, or a patience above {patience:g} s"
                )
        self._explore(probes(self.low, self.high, self._stated, [law]))

    def _pdf(self, x: np.ndarray, probing: bool = False) -> np.ndarray:
        """Return the density (n,) in units of its largest value, once that is known; NaN is accepted while probing."""
        with np.errstate(all="ignore"):
            value = np.asarray(evaluate(self._raw, x, "the density"), dtype=np.float64) / self._scale
        self.evaluations += x.size
        text = "the density is infinite at x = {x}: no hat of finite height covers it"
        refuse(value == np.inf, x, text, EnvelopeError)
        text = "the density is {f:g} at x = {x}: it must not be negative or NaN (of a log density, pass exp)"
        refuse((value < 0) | (np.isnan(value) & (not probing)), x, text, f=value * self._scale)
        return value

    def _explore(self, grid: np.ndarray) -> None:
        """Find the extrema between the points of a grid, and probe geometrically around them."""
        self._scale = 1.0
        probe = partial(self._pdf, probing=True)
        value = probe(grid)
        with np.errstate(divide="ignore"):
            log_value = np.log(value)
        used = numbers(grid, log_value, (self.low, self.high), "the density")
        grid, value = grid[used], value[used]
        if not value.max() > 0:
            raise ValueError(
                f"the density is 0 at all {len(grid):,} points tried on [{self.low}, {self.high}]: "
                "state extrema, or a narrower support"
            )
        refuse_growth(grid, log_value[used], (self.low, self.high), "the density")
        support = ((self.low, grid[0]), (self.high, grid[-1]))
        self.low, self.high = (float(point if np.isfinite(end) else end) for end, point in support)
        known = self._stated
        while True:
            found = turning_points(self._pdf, grid, value, NARROW * value)
            self.knots = np.unique(np.concatenate([known, found]))
            x, height = merged(grid, value, probes(grid[0], grid[-1], self.knots, []), probe)
            new = islands(probe, x, height, self.knots) if self._is_function else ()
            if not len(new):
                break
            known = np.append(known, new)
            grid, value = merged(x, height, probes(grid[0], grid[-1], new, []), probe)
        self._scale = max(value.max(), self._pdf(self.knots).max(initial=0.0))
        self.grid, self.height = x[height >= 0], height[height >= 0] / self._scale  # without NaN
        self._sides = [self._outwards(end, np.sign(end)) for end in (self.low, self.high) if np.isinf(end)]

    def _outwards(self, end: float, side: float) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Return (side, distance, x, height) of the points known beyond the last extremum, towards an infinite end.

        A tail that is too heavy is refused: the density times the distance squared must not rise to the last.
        """
        inner = [*self.knots, *(end for end in (self.low, self.high) if np.isfinite(end))]
        if not inner:
            raise EnvelopeError(
                f"no mode was found: the density does not fall towards {end}; state its extrema"
            )
        anchor = side * max(side * place for place in inner)
        beyond = self.grid * side > anchor * side
        order = slice(None, None, int(side))
        x, height = self.grid[beyond][order], self.height[beyond][order]
        far = np.flatnonzero(height)[-41:]  # up to 20 octaves
        mass = np.log(height[far]) + 2 * np.log(np.abs(x[far] - anchor))
        has_end = len(far) and far[-1] + 1 < len(x) and height[far[-1]] > JUMP
        if len(far) > 40 and not has_end and mass[-1] > mass[0] + 0.01 and (np.diff(mass) > 0).all():
            raise EnvelopeError(
                f"the tail beyond x = {x[far[0]]:.6g} is heavier than a Cauchy's: no hat like 1 / x**2 covers it; "
                "if it ends somewhere, state the support"
            )
        return side, np.abs(x - anchor), x, height

    def _cut(self, strips: int) -> tuple[np.ndarray, list[tuple]]:
        """Return the edges of strips of nearly equal hat area, and the tails beyond: together `strips` or a few less."""
        known, height = self.grid, self.height
        area = np.sum(np.maximum(height[1:], height[:-1]) * np.diff(known)) / strips
        best = 0
        for attempt in range(60):
            tails = self._tails(area)
            low = next((start for side, start, *_ in tails if side < 0), known[0])
            high = next((start for side, start, *_ in tails if side > 0), known[-1])
            bounds = np.unique([low, *self.knots[(self.knots > low) & (self.knots < high)], high])
            steps = [_steps(known, height, a, b, area, 4 * strips) for a, b in pairwise(bounds)]
            edges = np.unique(np.concatenate(steps))
            number = len(edges) - 1 + len(tails)
            if attempt > 2 and best < number <= strips:  # the first attempts know too few heights
                best, found = number, (edges, tails)
            if best >= strips - max(3, strips // 400):
                break
            area *= number / (strips - max(3, strips // 400) / 2)
            known, height = merged(known, height, edges, self._pdf)
        # a best below that: pieces of equal area gain a strip all at the same time, so the number jumped over the one wanted
        if not best:
            raise ValueError(
                f"{strips} strips do not suffice for {len(bounds) - 2} extrema: give more strips"
            )
        self._known = known, height
        return found

    def _tails(self, area: float) -> list[tuple]:
        """Return (side, start, s, height) of the tails, each from the first point known where its hat has no more than an area."""
        tails = []
        for side, distance, x, height in self._sides:
            low, high = 0, len(x) - 1
            while low < high:
                middle = (low + high) // 2
                fits = height[middle] * self._tail_scale(side, middle, distance, x, height) <= area
                low, high = (low, middle) if fits else (middle + 1, high)
            scale = self._tail_scale(side, low, distance, x, height)
            tails.append((side, x[low], scale, height[low]))
            if not np.isfinite(scale):
                raise EnvelopeError(
                    f"the density does not fall beyond x = {x[low]:.6g}, where it is {height[low] * self._scale:.6g}: "
                    "no hat like 1 / x**2 covers it; if its formula overflows there, state a narrower support"
                )
        return tails

    def _tail_scale(
        self, side: float, i: int, distance: np.ndarray, x: np.ndarray, height: np.ndarray
    ) -> float:
        """Return s with f <= height (s / (s + |x - t|))**2 at all points known beyond t = x[i], and 5 % to spare.

        It is infinite where the density does not fall, and where it ends with a jump so close that none of them is above 0.
        """
        if height[i] == 0:
            return 0.0
        near = x[i] + side * distance[i] * 2.0 ** np.arange(-20, 1, 0.5)
        beyond = np.concatenate([near, x[i + 1 :]])
        root = np.sqrt(np.concatenate([self._pdf(near), height[i + 1 :]]) / height[i])
        text = "the density rises again at x = {x}, beyond its last extremum known: state the others in `extrema`"
        refuse(root > 1 + ROUNDING, beyond, text, EnvelopeError)
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 where a probe rounds to t
            s = np.nanmax(np.abs(beyond - x[i]) * root / np.maximum(1 - root, 0.0))
        return np.inf if s == 0 and height[i] > JUMP else 1.05 * s


def _steps(
    known: np.ndarray, height: np.ndarray, low: float, high: float, area: float, most: int
) -> np.ndarray:
    """Return edges of steps of equal area from low to high, where f is monotone; between the points known f is taken as linear."""
    piece = slice(np.searchsorted(known, low), np.searchsorted(known, high) + 1)
    # from the higher end down: a step's height is then known before its width
    flip = -1 if height[piece][-1] > height[piece][0] else 1
    x = (flip * known[piece])[::flip].tolist()
    f = height[piece][::flip].tolist()
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
