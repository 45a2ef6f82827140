"""The ups and downs of a density of one variable, as far as they are known, and steps of equal area over it.

    between two neighbouring extrema f is monotone, so on [a, b] the step max(f(a), f(b)) covers it
    beyond a place t in a tail  f(x) <= f(t) (s / (s + |x - t|))**2,  of area f(t) s

What is known comes from evaluations at points (`bound.py`); StripEnvelope audits it.
"""

from bisect import bisect_left, bisect_right
from itertools import pairwise
from math import nextafter
from time import process_time
from timeit import repeat

import numpy as np

from rsf.acceptance import ROUNDING, EnvelopeError, refuse_if, refuse_where
from rsf.sampling.bound import (
    NARROW,
    digits,
    ends,
    evaluate,
    far_points,
    merged,
    numbers,
    part,
    probes,
    quantile,
    refuse_growth,
    turning_points,
    turns,
)


class Landscape:
    """What is known of a density: points, heights there, extrema.

    low, high : the ends of the support, less a stretch at a finite end where the density overflows to NaN
    grid, height : points (n,), sorted, and the density there, in units of its largest value
    knots : extrema, sorted
    evaluations : of the density, so far
    """

    def __init__(
        self,
        law: object,
        support: tuple[float, float] | None,
        extrema: np.ndarray | list[float] | tuple[float, ...],
        strips: int,
        patience: float,
    ) -> None:
        self.low, self.high = ends(law.support() if support is None and hasattr(law, "support") else support)
        self.evaluations = 0
        self._scale = 1.0
        self._raw = part(law, "pdf")
        self._is_function = quantile(law) is None
        self._stated = np.asarray(extrema, dtype=np.float64).ravel()
        self._most = np.inf  # evaluations of a distribution that the patience allows
        if not self._is_function:
            x = np.tile(quantile(law)(np.arange(1, 16) / 16), 10)  # so many that a call itself costs little
            seconds = min(repeat(lambda: self._pdf(x), timer=process_time, number=1, repeat=3)) / len(x)
            refuse_if(
                not (max(12 * strips, 10_000) * seconds <= patience),
                f"the density is slow: a set-up with {strips:,} strips would take about "
                f"{12 * strips * seconds:.0f} s; give fewer strips, a faster density, "
                f"or a patience above {patience:g} s",
            )
            self._most = 2 * patience / max(seconds, 1e-12)
        self._explore(probes(self.low, self.high, self._stated, [law]))

    @np.errstate(all="ignore")
    def _pdf(self, x: np.ndarray) -> np.ndarray:
        """Return the density at x (n,), in units of its largest value once that is known."""
        refuse_if(
            not (self.evaluations + len(x) <= self._most),
            f"the density is slow: {self.evaluations:,} evaluations do not suffice, and more would take "
            "twice as long as there is patience; give fewer strips, a faster density, or more patience",
        )
        value = evaluate(self._raw, x, "the density")
        self._rounding = digits(value)
        value = np.asarray(value, dtype=np.float64) / self._scale
        self.evaluations += x.size
        refuse_where(
            value == np.inf,
            "the density is infinite at x = {x}: no hat of finite height covers it",
            EnvelopeError,
            x=x,
        )
        refuse_where(
            value < 0,
            "the density is {f:g} at x = {x}: it must not be negative (pass exp of a log density)",
            x=x,
            f=value * self._scale,
        )
        return value

    @np.errstate(divide="ignore")
    def _explore(self, grid: np.ndarray) -> None:
        """Find the extrema between the points of a grid, and probe geometrically around them."""
        self._scale = 1.0
        value = self._pdf(grid)
        log_value = np.log(value)
        used = numbers(grid, log_value, (self.low, self.high), "the density")
        grid, value = grid[used], value[used]
        refuse_if(
            not (value.max() > 0),
            f"the density is 0 at all {len(grid):,} points tried on [{self.low}, {self.high}]: "
            "state extrema, or a narrower support",
        )
        refuse_growth(grid, log_value[used], (self.low, self.high), "the density")
        self.low, self.high = np.where(
            np.isinf([self.low, self.high]), [self.low, self.high], grid[[0, -1]]
        ).tolist()
        while True:
            tolerance = max(NARROW, self._rounding) * value
            self.knots = np.unique([*self._stated, *turning_points(self._pdf, grid, value, tolerance)])
            x, height = merged(grid, value, probes(grid[0], grid[-1], self.knots, []), self._pdf)
            wide, seen = merged(x, height, far_points(x, height) if self._is_function else [], self._pdf)
            if self._peaks(wide, seen) <= self._peaks(x, height):
                break
            grid, value = wide, seen
        self._scale = max(value.max(), self._pdf(self.knots).max(initial=0.0))
        self.grid, self.height = x[height >= 0], height[height >= 0] / self._scale  # without NaN
        self._sides = [self._outwards(np.sign(end)) for end in (self.low, self.high) if np.isinf(end)]

    def _peaks(self, x: np.ndarray, value: np.ndarray) -> int:
        """Return how often a function turns, where rounding of its largest value is none."""
        return len(turns(x, value, np.full(len(x), max(NARROW, self._rounding) * np.nanmax(value))))

    def _body(self) -> np.ndarray:
        """Return the outermost two points known at which the density is above 1e-4 of its maximum."""
        return self.grid[self.height > 1e-4][[0, -1]]

    def _outwards(self, side: float) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Return (side, distance, x, height) of the points known beyond the last extremum, outwards.

        Refuse a tail that falls hardly faster than 1 / distance, and of a function one that is heavier than a
        Cauchy's: the density times distance**2 must not rise at each of the last points.
        """
        inner = [*self.knots, *(end for end in (self.low, self.high) if np.isfinite(end))]
        refuse_if(
            not inner,
            "no mode was found: the density does not fall at both ends; state extrema",
            EnvelopeError,
        )
        anchor = side * max(side * place for place in inner)
        beyond = np.flatnonzero(self.grid * side > anchor * side)[:: int(side)]
        x, height = self.grid[beyond], self.height[beyond]
        distance = np.abs(x - anchor)
        far = np.flatnonzero(height)[-41:]
        # what is 0 beyond a height above 1e-250 has an end there: it has not underflowed
        has_end = height[-1] == 0 and height[far].min(initial=1.0) > 1e-250
        if len(far) > 40 and not has_end:
            ends = [np.searchsorted(distance, distance[far[-1]] / 2**20), far[-1]]  # of the last 20 octaves
            power = np.diff(np.log(height[ends])) / np.diff(np.log(distance[ends]))
            mass = np.log(height[far]) + 2 * np.log(distance[far])
            rises = self._is_function and mass[-1] > mass[0] + 0.01 and (np.diff(mass) > 0).all()
            refuse_if(
                not (power < -1.02 and not rises),
                f"the tail towards x = {x[far[-1]]:.6g} is heavier than a Cauchy's (the density there is "
                f"{height[far[-1]] * self._scale:.3g}): no hat like 1 / x**2 covers it; "
                "if it ends somewhere, or its formula overflows, state the support",
                EnvelopeError,
            )
        return side, distance, x, height

    def _cut(self, strips: int) -> tuple[np.ndarray, list[list[float]], np.ndarray, np.ndarray]:
        """Return the edges of strips of nearly equal hat area and the tails, together `strips` or a few less.

        Also returned are all points known by then, and the heights there.
        """
        known, height = self.grid, self.height
        area = float(np.sum(np.maximum(height[1:], height[:-1]) * np.diff(known)) / strips)
        spare = max(3, strips // 400)
        best = 0
        for attempt in range(60):
            tails = [self._tail(area, *known_side) for known_side in self._sides]
            low = next((start for start, _, side, *_ in tails if side < 0), known[0])
            high = next((start for start, _, side, *_ in tails if side > 0), known[-1])
            bounds = np.unique([low, *self.knots[(self.knots > low) & (self.knots < high)], high])
            edges = np.unique(
                np.concatenate([_steps(known, height, a, b, area, 4 * strips) for a, b in pairwise(bounds)])
            )
            number = len(edges) - 1 + len(tails)
            if attempt > 2 and best < number <= strips:  # the first attempts know too few heights
                best, found = number, (edges, tails)
            if best >= strips - spare:
                break
            area *= number / (strips - spare / 2)
            known, height = merged(known, height, edges, self._pdf)
        # a best below that: pieces of equal area gain a strip all at the same time, and the number jumps
        refuse_if(not best, f"{strips} strips do not suffice for {len(bounds) - 2} extrema: give more strips")
        return *found, known, height

    def _tail(
        self, area: float, side: float, distance: np.ndarray, x: np.ndarray, height: np.ndarray
    ) -> list[float]:
        """Return a tail from the first point where its hat is small enough: start, s, side, 0, height."""
        i = bisect_left(
            range(len(x) - 1),
            True,
            key=lambda i: height[i] * self._tail_scale(side, distance[i], x[i:], height[i:]) <= area,
        )
        return [x[i], self._tail_scale(side, distance[i], x[i:], height[i:]), side, 0.0, height[i]]

    @np.errstate(divide="ignore", invalid="ignore")  # 0 / 0 where a probe rounds to t
    def _tail_scale(self, side: float, distance: float, x: np.ndarray, height: np.ndarray) -> float:
        """Return s with f <= height (s / (s + |x - t|))**2 at all points known from t = x[0], 5 % to spare.

        It is infinite where the density does not fall, or jumps to 0 so close to t that no point is between.
        """
        if height[0] == 0:
            return 0.0
        near = x[0] + side * distance * 2.0 ** np.arange(-20, 1, 0.5)
        beyond = np.concatenate([near, x[1:]])
        root = np.sqrt(np.concatenate([self._pdf(near), height[1:]]) / height[0])
        refuse_where(
            root > 1 + max(ROUNDING, self._rounding),
            "the density rises again at x = {x}, beyond its last extremum known: "
            "state the others in `extrema`",
            EnvelopeError,
            x=beyond,
        )
        s = np.nanmax(np.abs(beyond - x[0]) * root / np.maximum(1 - root, 0.0))
        return np.inf if s == 0 and height[0] > 1e-250 else 1.05 * s


def _steps(
    known: np.ndarray, height: np.ndarray, low: float, high: float, area: float, most: int
) -> np.ndarray:
    """Return edges of steps of equal area over a monotone piece, taken as linear between the points known."""
    piece = slice(np.searchsorted(known, low), np.searchsorted(known, high) + 1)
    # from the higher end down: a step's height is then known before its width
    flip = -1 if height[piece][-1] > height[piece][0] else 1
    x = (flip * known[piece])[::flip].tolist()
    f = height[piece][::flip].tolist()
    edges = x[:1]
    while edges[-1] < x[-1] and len(edges) <= most:
        at = edges[-1]
        i = min(bisect_right(x, at), len(x) - 1)
        top = f[i - 1]
        if f[i] > 0.9 * top:  # else a jump may lie between
            top += (f[i] - top) * (at - x[i - 1]) / (x[i] - x[i - 1])
        edges.append(min(max(at + area / top, nextafter(at, x[-1])), x[-1]) if top > 0 else x[-1])
    return flip * np.array(edges)
