"""A hat so close to a density that nearly no candidate is lost and nearly no density evaluated.

    between two neighbouring extrema f is monotone: on a strip [a, b]  min(f(a), f(b)) <= f <= max(f(a), f(b))

The upper steps are an envelope (the hat), the lower ones a squeeze: a coin below the squeeze accepts without
evaluating f. All strips have the same hat area, so one 64-bit word draws a candidate: its first bits choose
the strip, the others are the coin u; u below the squeeze accepts, and, given that, u is uniform there: it is
the position too. (One word for layer, coin and position: the ziggurat of Marsaglia and Tsang 2000; its layers
are horizontal, the strips here are vertical.)
"""

import warnings
from functools import cached_property

import numpy as np

from rsf.acceptance import ROUNDING, EnvelopeError, refuse_if, refuse_where
from rsf.sampling.landscape import Landscape

# draws at once, so that the buffers stay in the cache; those after which all above the squeeze are decided
BLOCK, GROUP = 2**14, 2**18
MANTISSA, ONE = np.uint64(2**52 - 1), np.uint64(0x3FF0000000000000)  # of a float64, and the bits of 1.0
NOISE = 1e-15  # rounding of a density, as a share of its maximum


class StripEnvelope(Landscape):
    """A hat of strips of equal area over a density, and a squeeze: an exact sampler from the density alone.

    Promise, to be kept by the density: it is bounded, monotone between the extrema stated or found, and
    its tails, if nothing but a function is known, are no heavier than a Cauchy's. This is audited at set-
    up (four points inside each strip, tails out to where they vanish) and at every later evaluation; what
    violates it is refused with the place. Exact otherwise, up to the 52 bits of coin and position (51
    with 8,192 strips, ...): places are multiples of 2**-52 of a strip's width, probabilities of 2**-52,
    tails end at 2**53 times their scale.

    The promise has a limit: a density that is 0 at all points tried is taken to be 0 between them. A
    spike between two points is lost in silence, and so is a second peak far away: state them in
    `extrema`. Far peaks are looked for, and found if they are as wide as the highest and not further away
    than 2,000 of its half-widths, or 40,000 (47,000 standard deviations) for a normal density's. If a
    function integrates to less than 1 where it was seen, on a wide support, set-up warns: if it is
    normalised, something was not seen.

    Parameters
    ----------
    pdf : callable or scipy.stats distribution
        Density, vectorised over (n,); its constant may be missing.
    support : (low, high), may be infinite; default that of the distribution
    extrema : sequence of float
        Where the density has local extrema, minima too, as far as known; others are looked for, as in
        `log_k_bound`, and once more on a finer grid if the audit misses some and none was stated.
    strips : int
        A power of two.
    patience : float
        Seconds that the set-up may take; it needs about 12 evaluations for each strip, more for many extrema.
        A distribution that a few evaluations show to be slower is refused, and one that takes twice as long.

    Attributes
    ----------
    acceptance_bounds : (low, high), certain bounds of the acceptance rate: area of squeeze and steps over hat
    proposed, accepted, evaluations : counts so far; evaluations of the density include those of the set-up

    Examples
    --------
    >>> hat = StripEnvelope(lambda x: np.exp(-np.abs(x)), (-np.inf, np.inf))
    >>> print(hat)
    4,096 strips: acceptance rate between 0.9937 and 0.9978
    >>> hat.rvs(3, np.random.default_rng(0)).shape
    (3,)
    """

    def __init__(
        self,
        pdf: object,
        support: tuple[float, float] | None = None,
        *,
        extrema: np.ndarray | list[float] | tuple[float, ...] = (),
        strips: int = 4096,
        patience: float = 10.0,
    ) -> None:
        refuse_if(
            strips not in {2**n for n in range(6, 17)},
            f"strips must be a power of two from 64 to {2**16:,}, got {strips}",
        )
        self.proposed = self.accepted = 0
        super().__init__(pdf, support, extrema, strips, patience)
        try:
            self._lay(strips)
        except EnvelopeError:
            if np.size(extrema):
                raise
            # extrema were missed: look for them again where most of the density is
            self._explore(np.union1d(self.grid, np.linspace(*self._body(), 4097)))
            self._lay(strips)
        self._most = np.inf
        if (
            self._is_function
            and self.high - self.low > 100 * np.ptp(self._body())
            and 1e-3 < self._most_mass < 0.99
        ):
            warnings.warn(
                f"the density integrates to {self._most_mass:.4g} where it was seen: if it is meant to be "
                "normalised, the rest lies where it looked empty; state its extrema, or a narrower support",
                stacklevel=2,
            )

    def rvs(
        self,
        size: int | tuple[int, ...] | None = 1,
        rng: np.random.Generator | None = None,
        *,
        random_state: object = None,
    ) -> np.ndarray | float:
        """Draw samples of shape `size`, one number if it is None, with a numpy Generator.

        `random_state` is for those who call it as scipy's: a Generator or a seed.
        """
        refuse_if(
            (rng is None) == (random_state is None),
            "pass a numpy Generator: rvs(size, rng), or rvs(size=..., random_state=...)",
            TypeError,
        )
        rng = np.random.default_rng(random_state if rng is None else rng)
        out = np.empty(() if size is None else size)
        for start in range(0, out.size, GROUP):
            self._fill(out.reshape(-1)[start : start + GROUP], rng)
        self.accepted += out.size
        return out[()]

    @np.errstate(divide="ignore")
    def logpdf(self, x: np.ndarray | float) -> np.ndarray:
        """Return the log density at x, -inf outside the support; normalised by Gauss-Legendre quadrature."""
        x = np.asarray(x, dtype=np.float64)
        inside = (x >= self.low) & (x <= self.high)
        value = self._pdf(np.where(inside, x, self._left[0]).ravel()).reshape(x.shape)
        return np.where(inside, np.log(value / self._mass), -np.inf)

    def support(self) -> tuple[float, float]:
        """Return (low, high)."""
        return self.low, self.high

    def refine(self) -> None:
        """Double the number of strips; may be called at any time between draws, which stay exact."""
        self._lay(2 * len(self._squeeze))

    @property
    def acceptance_rate(self) -> float:
        """Accepted per candidate so far; NaN before the first."""
        return self.accepted / self.proposed if self.proposed else float("nan")

    def __str__(self) -> str:
        return "{:,} strips: acceptance rate between {:.4f} and {:.4f}".format(
            len(self._squeeze), *self.acceptance_bounds
        )

    # ---- drawing

    def _fill(self, out: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Fill out (n,) with independent draws and return it: fast ones, then what lay above the squeeze."""
        undecided = []
        bits = len(self._squeeze).bit_length() - 1
        for start in range(0, len(out), BLOCK):
            x = out[start : start + BLOCK]
            word = rng.integers(0, 2**64, len(x), dtype=np.uint64)
            strip = (word >> np.uint64(64 - bits)).view(np.int64)
            # the bits that did not choose the strip become the mantissa of a float64 in [1, 2)
            word <<= np.uint64(max(0, bits - 12))
            word &= MANTISSA
            word |= ONE
            coin = word.view(np.float64) - 1.0
            np.multiply(self._slope.take(strip, mode="wrap"), coin, out=x)
            x += self._left.take(strip, mode="wrap")
            wedge = np.flatnonzero(coin >= self._squeeze.take(strip, mode="wrap"))
            undecided.append((wedge + start, strip[wedge], coin[wedge]))
        self.proposed += len(out)
        position, strip, coin = (np.concatenate(parts) for parts in zip(*undecided, strict=True))
        if len(position):
            self._decide(out, position, strip, coin, rng)
        return out

    def _decide(
        self,
        out: np.ndarray,
        position: np.ndarray,
        strip: np.ndarray,
        coin: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Place candidates whose coin lay above the squeeze, and evaluate the density there."""
        u = rng.random(len(strip))
        side = self._side[strip]
        in_body = side == 0
        x = self._left[strip] + self._width[strip] * np.where(in_body, u, side * u / (1.0 - u))
        # in a tail the hat falls as (s / (s + distance))**2
        fall = np.where(in_body, 1.0, (1.0 - u) ** 2)
        value = self._pdf(x)
        self._audit(x, value, self._bottom[strip], self._top[strip] * fall, in_body)
        kept = coin * (self._hat[strip] * fall) < value
        out[position[kept]] = x[kept]
        lost = position[~kept]
        if len(lost):
            out[lost] = self._fill(np.empty(len(lost)), rng)

    def _audit(
        self,
        x: np.ndarray,
        value: np.ndarray,
        bottom: np.ndarray,
        top: np.ndarray,
        in_body: np.ndarray | bool = True,
    ) -> None:
        """Refuse density values that are not between those at the ends of their strip."""
        rounding, noise = max(ROUNDING, self._rounding), max(NOISE, self._rounding / 8)
        fits = (value <= top * (1 + rounding) + noise * in_body) & (value >= bottom * (1 - rounding) - noise)
        refuse_where(
            ~fits,
            "at x = {x} the density {f:.6g} is not between {low:.6g} and {high:.6g}, its bounds there: "
            "an extremum is missing (state it in `extrema`), or the tail is heavier than a Cauchy's",
            EnvelopeError,
            x=x,
            f=value * self._scale,
            low=bottom * self._scale,
            high=top * self._scale,
        )

    # ---- set-up

    @np.errstate(divide="ignore")
    def _lay(self, strips: int) -> None:
        """Lay strips of equal hat area, and tails, over the density."""
        edges, tails, known, known_height = self._cut(strips)
        a, b = edges[:-1], edges[1:]
        value = self._pdf(edges)
        low, high = np.minimum(value[1:], value[:-1]), np.maximum(value[1:], value[:-1])
        # a column for each strip: left end, width (never past the edge by rounding), side of a tail, heights
        body = [a, np.nextafter(b - a, 0), np.zeros_like(a), low, high]
        # strips are missing if the areas agree only nearly; in their place come some that keep nothing
        blanks = [[a[0], 0, 0, 0, np.inf]] * (strips - len(a) - len(tails))
        self._edges = edges
        self._left, self._width, self._side, self._bottom, self._top = np.hstack(
            [body, np.reshape(tails + blanks, (-1, 5)).T]
        )
        step = np.where(self._width > 0, self._top, 0) * self._width
        self._hat = step.max() / self._width  # all have the area of the largest
        # rounded down to a value that u can take, whatever the number of its bits
        self._squeeze = np.floor(self._bottom / self._hat * 2.0**44) / 2.0**44
        self._slope = np.divide(self._width, self._squeeze, out=np.zeros(strips), where=self._squeeze > 0)
        self._most_mass = float(step.sum()) * float(self._scale)  # inf where it overflows
        self.acceptance_bounds = tuple(
            float(area.sum() / (strips * step.max()))
            for area in (np.minimum(self._bottom, self._top) * self._width, step)
        )
        refuse_if(
            not (self.acceptance_bounds[1] >= 0.1),
            f"{strips} strips keep at most {self.acceptance_bounds[1]:.3g} of the candidates: give more",
            EnvelopeError,
        )
        inner = np.concatenate([a + (b - a) * part for part in (0.2, 0.4, 0.6, 0.8)])
        for x, height in ((inner, self._pdf(inner)), (known, known_height)):
            inside = (x > edges[0]) & (x < edges[-1])
            strip = np.searchsorted(edges, x[inside], side="right") - 1
            self._audit(x[inside], height[inside], self._bottom[strip], self._top[strip])

    @cached_property
    def _mass(self):
        """The density's integral, in the units of `_pdf`."""
        node, weight = np.polynomial.legendre.leggauss(8)
        width = np.diff(self._edges)[:, None]
        x = self._edges[:-1, None] + width * (node + 1) / 2  # (strips, 8)
        parts = [np.sum(width / 2 * weight * self._pdf(x.ravel()).reshape(x.shape))]
        node, weight = np.polynomial.legendre.leggauss(64)
        u = (node + 1) / 2
        for i in np.flatnonzero(self._side):
            value = self._pdf(self._left[i] + self._side[i] * self._width[i] * u / (1 - u))
            parts.append(np.sum(weight / 2 * self._width[i] / (1 - u) ** 2 * value))
        return float(sum(parts))
