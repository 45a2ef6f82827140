"""Finding k: a bound on p / q, and a hat so close to a density that nearly no candidate is lost and nearly no density evaluated.

    between two neighbouring extrema f is monotone, so on a strip [a, b] of it  min(f(a), f(b)) <= f <= max(f(a), f(b))

The upper steps are an envelope (the hat), the lower ones a squeeze: a coin below the squeeze accepts without evaluating f.
All strips have the same hat area, so one 64-bit word draws a candidate: its first bits choose the strip, the others are the
coin u; u below the squeeze accepts, and, given that, u is uniform there: it is the position too. (One word for layer, coin and
position: the ziggurat of Marsaglia and Tsang 2000; its layers are horizontal, the strips here are vertical.)
"""

import math
from bisect import bisect_right
from functools import cached_property
from itertools import pairwise

import numpy as np

from rsf.acceptance import ROUNDING, EnvelopeError
from rsf.sampling.bound import NARROW, ends, probes, refuse_growth, turning_points

BLOCK = 2**14  # draws at once: the buffers stay in the cache
MANTISSA, ONE = np.uint64(2**52 - 1), np.uint64(0x3FF0000000000000)
NOISE = 1e-15  # rounding of a density, as a share of its maximum
GROUP = 2**18  # draws after which those above the squeeze are decided, all at once


class StripEnvelope:
    """A hat of strips of equal area over a density, with its squeeze: an exact sampler from the density alone.

    Promise, to be kept by the density: it is bounded, monotone between the extrema stated or found, and its tails are no
    heavier than a Cauchy's. This is audited at set-up (four points inside each strip, tails out to where they vanish) and at every
    later evaluation; what violates it is refused with the place. Exact otherwise, up to the 52 bits of coin and position (51 with
    8,192 strips, ...): places are multiples of 2**-52 of a strip's width, probabilities of 2**-52, tails end at 2**53 times their scale.

    Parameters
    ----------
    pdf : callable or frozen scipy.stats distribution
        Density, vectorised over (n,); its constant may be missing.
    support : (low, high), may be infinite; default that of the distribution
    extrema : sequence of float
        Where the density has local extrema, minima too, as far as known; others are looked for, as in `log_k_bound`.
    strips : int
        A power of two.

    Attributes
    ----------
    acceptance_bounds : (low, high), certain bounds of the acceptance rate: squeeze area and step area over the hat's
    proposed, accepted, evaluations : counts so far; evaluations of the density include those of the set-up
    """

    def __init__(self, pdf, support=None, *, extrema=(), strips=4096):
        if strips < 64 or strips & (strips - 1) or strips > 2**16:
            raise ValueError(f"strips must be a power of two from 64 to {2**16:,}, got {strips}")
        self.low, self.high = ends(pdf.support() if support is None and hasattr(pdf, "support") else support)
        self._raw, self._scale = getattr(pdf, "pdf", pdf), 1.0
        self.proposed = self.accepted = self.evaluations = 0
        grid = probes(self.low, self.high, extrema, [pdf])
        value = self._pdf(grid, probing=True)
        there = np.flatnonzero(
            np.isfinite(value)
        )  # far out on an infinite side a density may overflow to NaN: probed no further
        first, last = (
            there[0] if np.isinf(self.low) else 0,
            there[-1] + 1 if np.isinf(self.high) else len(grid),
        )
        grid, value = grid[first:last], value[first:last]
        if np.isnan(value).any():
            raise ValueError(
                f"the density is NaN at x = {grid[np.isnan(value)][0]:.6g}: it must be a number of at least 0"
            )
        if not value.max() > 0:
            raise ValueError(
                f"the density is 0 at all {len(grid):,} points tried on [{self.low}, {self.high}]: state extrema, or a narrower support"
            )
        refuse_growth(
            grid,
            np.log(value, where=value > 0, out=np.full_like(value, -np.inf)),
            (self.low, self.high),
            "the density",
        )
        found = turning_points(self._pdf, grid, value, NARROW * value)
        self._knots = np.unique(np.concatenate([np.asarray(extrema, dtype=np.float64).ravel(), found]))
        self._scale = max(value.max(), self._pdf(self._knots).max(initial=0.0))
        near = probes(grid[0], grid[-1], self._knots, [])  # geometric around what was found, too
        grid = np.unique(np.concatenate([grid, near]))
        height = self._pdf(grid, probing=True)
        self._grid, self._height = grid[np.isfinite(height)], height[np.isfinite(height)]
        self._sides = [
            self._outwards(side) for side, end in ((-1, self.low), (1, self.high)) if np.isinf(end)
        ]
        self._lay(strips)

    def rvs(self, size=1, rng=None, *, random_state=None):
        """Draw samples of shape `size` with a numpy Generator (`random_state` as in scipy: a Generator or a seed)."""
        if (rng is None) == (random_state is None):
            raise TypeError("pass a numpy Generator: rvs(size, rng), or rvs(size=..., random_state=...)")
        rng = np.random.default_rng(random_state if rng is None else rng)
        out = np.empty(size)
        flat = out.reshape(-1)
        for start in range(0, flat.size, GROUP):
            self._fill(flat[start : start + GROUP], rng)
        return out

    def logpdf(self, x):
        """Return the log density at x, normalised by Gauss-Legendre quadrature over the strips; -inf outside the support."""
        x = np.asarray(x, dtype=np.float64)
        inside = (x >= self.low) & (x <= self.high)
        with np.errstate(divide="ignore"):
            return np.where(
                inside,
                np.log(self._pdf(np.where(inside, x, self._left[0]).ravel()).reshape(x.shape) / self._mass),
                -np.inf,
            )

    def refine(self):
        """Double the number of strips; may be called at any time between draws, which stay exact."""
        self._lay(2 * len(self._squeeze))

    @property
    def acceptance_rate(self):
        """Accepted per candidate so far; NaN before the first."""
        return self.accepted / self.proposed if self.proposed else float("nan")

    def __str__(self):
        low, high = self.acceptance_bounds
        return f"{len(self._squeeze):,} strips: acceptance rate between {low:.4f} and {high:.4f}"

    def _fill(self, out, rng):
        """Fill out (n,) with independent draws: the fast path in blocks, then what lay above the squeeze."""
        position, strip, coin = [], [], []
        buffer, above = np.empty(min(BLOCK, len(out))), np.empty(min(BLOCK, len(out)), dtype=bool)
        bits = len(self._squeeze).bit_length() - 1
        index_shift, spare = np.uint64(64 - bits), np.uint64(max(0, bits - 12))
        for start in range(0, len(out), BLOCK):
            x = out[start : start + BLOCK]
            other, over = buffer[: len(x)], above[: len(x)]
            word = rng.integers(0, 2**64, len(x), dtype=np.uint64)
            index = (word >> index_shift).view(np.int64)
            if spare:
                word <<= spare
            word &= MANTISSA  # bits that did not choose the strip, as the mantissa of a float64 in [1, 2)
            word |= ONE
            u = word.view(np.float64)
            u -= 1.0
            self._slope.take(index, out=x, mode="wrap")
            x *= u
            self._left.take(index, out=other, mode="wrap")
            x += other
            self._squeeze.take(index, out=other, mode="wrap")
            np.greater_equal(u, other, out=over)
            if len(wedge := over.nonzero()[0]):
                position.append(wedge + start), strip.append(index[wedge]), coin.append(u[wedge])
        self.proposed, self.accepted = self.proposed + len(out), self.accepted + len(out)
        if position:
            self._decide(out, *map(np.concatenate, (position, strip, coin)), rng)

    def _decide(self, out, position, strip, coin, rng):
        """Give candidates whose coin lay above the squeeze a place in their strip, and evaluate the density there."""
        u, side = rng.random(len(strip)), self._side[strip]
        reach = self._width[strip] * np.where(
            side == 0, u, side * u / (1.0 - u)
        )  # a tail's hat falls as (s / (s + distance))**2
        x, fall = self._left[strip] + reach, np.where(side == 0, 1.0, (1.0 - u) ** 2)
        hat, value = self._hat[strip] * fall, self._pdf(x)
        self._audit(x, value, self._bottom[strip], self._top[strip] * fall + NOISE * (side == 0))
        kept = coin * hat < value
        out[position[kept]] = x[kept]
        lost = position[~kept]
        self.accepted -= len(lost)
        if len(lost):
            again = np.empty(len(lost))
            self._fill(again, rng)
            out[lost] = again

    def _pdf(self, x, probing=False):
        """Return the density (n,), in units of its largest value once that is known."""
        with np.errstate(all="ignore"):
            value = np.asarray(self._raw(x), dtype=np.float64) / self._scale
        self.evaluations += x.size
        if value.shape != x.shape:
            raise ValueError(
                f"the density must be vectorised: for points of shape {x.shape} it gave shape {value.shape}"
            )
        if (value == np.inf).any():
            raise EnvelopeError(
                f"the density is infinite at x = {x[value == np.inf][0]:.6g}: no hat of finite height covers it"
            )
        if (value < 0).any() or (np.isnan(value).any() and not probing):
            bad = (value < 0) | np.isnan(value)
            raise ValueError(
                f"the density is {value[bad][0] * self._scale:g} at x = {x[bad][0]:.6g}: it must not be negative or NaN"
            )
        return value

    def _audit(self, x, value, bottom, top):
        """Refuse density values that are not between those at the ends of their strip."""
        bad = (value > top * (1 + ROUNDING)) | (value < bottom * (1 - ROUNDING) - NOISE)
        if bad.any():
            at, low, high = (array[bad][0] for array in (x, bottom, top))
            raise EnvelopeError(
                f"at x = {at:.9g} the density {value[bad][0] * self._scale:.6g} is not between {low * self._scale:.6g} and {high * self._scale:.6g}, "
                "its bounds there: an extremum is missing (state it in `extrema`), or the tail is heavier than a Cauchy's"
            )

    def _lay(self, strips):
        """Lay strips of equal hat area: cut the tails, then move the edges until the areas agree."""
        known, height = self._grid, self._height
        area = np.sum(np.maximum(height[1:], height[:-1]) * np.diff(known)) / strips
        spare = max(3, strips // 400)
        for attempt in range(60):
            tails = self._tails(area)
            low, high = (
                next((tail[1] for tail in tails if tail[0] == side), end)
                for side, end in ((-1, known[0]), (1, known[-1]))
            )
            bounds = np.unique([low, *self._knots[(self._knots > low) & (self._knots < high)], high])
            edges = np.unique(
                np.concatenate([_steps(known, height, a, b, area, 4 * strips) for a, b in pairwise(bounds)])
            )
            number = len(edges) - 1 + len(tails)
            if attempt > 2 and strips - spare <= number <= strips:
                break
            area *= number / (strips - spare / 2)
            new = np.setdiff1d(edges, known)
            known, height = np.append(known, new), np.append(height, self._pdf(new))
            order = np.argsort(known)
            known, height = known[order], height[order]
        if number > strips:
            raise ValueError(
                f"{strips} strips do not suffice for {len(bounds) - 2} extrema: give more strips"
            )
        a, b, value = edges[:-1], edges[1:], self._pdf(edges)
        side, start, scale, foot = (
            (np.array([tail[i] for tail in tails]) for i in (0, 1, 3, 4)) if tails else [np.empty(0)] * 4
        )
        self._edges, blank = (
            edges,
            np.zeros(strips - len(a) - len(tails)),
        )  # where floats lie too coarse for more: never kept
        self._left = np.concatenate([a, start, blank + a[0]])
        self._width = np.concatenate(
            [np.nextafter(b - a, 0), scale, blank]
        )  # never past the edge by rounding
        self._side = np.concatenate([np.zeros(len(a)), side, blank])
        self._bottom = np.concatenate([np.minimum(value[1:], value[:-1]), 0 * side, blank])
        self._top = np.concatenate([np.maximum(value[1:], value[:-1]), foot, blank + np.inf])
        step = np.where(self._width > 0, self._top, 0) * self._width
        with np.errstate(divide="ignore"):
            self._hat = step.max() / self._width  # all have the area of the largest
        self._squeeze = (
            np.floor(self._bottom / self._hat * 2.0**44) / 2.0**44
        )  # a value that u can take, whatever the bits
        self._slope = np.divide(self._width, self._squeeze, out=np.zeros(strips), where=self._squeeze > 0)
        self.acceptance_bounds = tuple(
            float(part.sum() / (strips * step.max()))
            for part in (np.minimum(self._bottom, self._top) * self._width, step)
        )
        if self.acceptance_bounds[1] < 0.1:
            raise ValueError(
                f"{strips} strips keep at most {self.acceptance_bounds[1]:.3g} of the candidates: give more strips"
            )
        inner = np.concatenate([a + (b - a) * part for part in (0.2, 0.4, 0.6, 0.8)])
        for x, value in ((inner, self._pdf(inner)), (known, height)):
            x, value = x[inside := (x > edges[0]) & (x < edges[-1])], value[inside]
            strip = np.searchsorted(edges, x, side="right") - 1
            self._audit(x, value, self._bottom[strip], self._top[strip] + NOISE)

    def _outwards(self, side):
        """Return (side, distance, x, height) of the points probed beyond the last extremum, outwards; refuse a tail that is too heavy."""
        inner = [*self._knots, *(end for end in (self.low, self.high) if np.isfinite(end))]
        if not inner:
            raise EnvelopeError(
                "no mode was found: the density does not fall at both ends; state its extrema"
            )
        anchor = min(inner) if side < 0 else max(inner)
        beyond = self._grid * side > anchor * side
        x, height = self._grid[beyond][::side], self._height[beyond][::side]
        far = np.flatnonzero(height)[-41:]  # up to 20 octaves
        mass = np.log(height[far]) + 2 * np.log(
            np.abs(x[far] - anchor)
        )  # of f x**2: bounded in a tail like a Cauchy's
        if len(far) > 40 and mass[-1] > mass[0] + 0.01 and (np.diff(mass) > 0).all():
            raise EnvelopeError(
                f"the tail beyond x = {x[far[0]]:.6g} is heavier than a Cauchy's: no hat like 1 / x**2 covers it"
            )
        return side, np.abs(x - anchor), x, height

    def _tails(self, area):
        """Return (side, start, area, s, height) of each infinite tail: the hat height (s / (s + distance))**2, not above `area`."""
        tails = []
        for side, distance, x, height in self._sides:
            low, high = 0, len(x) - 1
            while low < high:  # the first point whose tail is small enough
                middle = (low + high) // 2
                s = self._tail_scale(side, middle, distance, x, height)
                low, high = (low, middle) if height[middle] * s <= area else (middle + 1, high)
            s = self._tail_scale(side, low, distance, x, height)
            tails.append((side, x[low], height[low] * s, s, height[low]))
        return tails

    def _tail_scale(self, side, i, distance, x, height):
        """Return an s with f <= height (s / (s + |x - t|))**2 at all points probed beyond t = x[i], 5 % to spare; inf on a plateau."""
        if height[i] == 0:
            return 0.0
        near = x[i] + side * distance[i] * 2.0 ** np.arange(-20, 1, 0.5)
        beyond, value = np.concatenate([near, x[i + 1 :]]), np.concatenate([self._pdf(near), height[i + 1 :]])
        root = np.sqrt(value / height[i])
        if (root > 1 + ROUNDING).any():
            raise EnvelopeError(
                f"the density rises again at x = {beyond[root > 1 + ROUNDING][0]:.6g}, beyond its last extremum known: state the others in `extrema`"
            )
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 where a probe rounds to t
            s = np.abs(beyond - x[i]) * root / np.maximum(1 - root, 0.0)
        return 1.05 * np.nanmax(s)

    @cached_property
    def _mass(self):
        """The density's integral, in the units of `_pdf`."""
        node, weight = np.polynomial.legendre.leggauss(8)
        a, w = self._edges[:-1, None], np.diff(self._edges)[:, None]
        mass = float(np.sum(w / 2 * weight * self._pdf((a + w * (node + 1) / 2).ravel()).reshape(len(a), -1)))
        node, weight = np.polynomial.legendre.leggauss(64)
        u = (node + 1) / 2
        for i in np.flatnonzero(self._side):
            s = self._width[i]
            mass += float(
                np.sum(
                    weight / 2 * s / (1 - u) ** 2 * self._pdf(self._left[i] + self._side[i] * s * u / (1 - u))
                )
            )
        return mass


def _steps(known, height, low, high, area, most):
    """Return edges of steps of equal area from low to high, where f is monotone; between the points known f is taken as linear."""
    first, last = np.interp([low, high], known, height)
    flip = (
        -1 if last > first else 1
    )  # from the higher end down: a step's height is then known before its width
    x, f = (
        (known.tolist(), height.tolist()) if flip == 1 else ((-known[::-1]).tolist(), height[::-1].tolist())
    )
    at, end = (low, high) if flip == 1 else (-high, -low)
    edges = [at]
    while at < end and len(edges) <= most:
        i = min(bisect_right(x, at), len(x) - 1)
        top = f[i - 1]
        if f[i] > 0.9 * top:  # else a jump may lie between
            top += (f[i] - top) * (at - x[i - 1]) / (x[i] - x[i - 1])
        at = min(max(at + area / top, math.nextafter(at, end)), end) if top > 0 else end
        edges.append(at)
    return flip * np.array(edges)
