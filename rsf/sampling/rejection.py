"""Draw candidates, keep each with probability A, and say what it cost.

    x ~ q kept with A(x) = min(1, p(x) / (k q(x)))  =>  kept x ~ p, at acceptance rate Z / k
    (Z the mass of p; 1 if it is normalised)

Sampling stops at the `size`-th kept candidate, so the number proposed is negative binomial and the unbiased
estimate of the rate is (accepted - 1) / (proposed - 1), that of inverse sampling (Haldane 1945).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from rsf.acceptance import (
    ROUNDING,
    AcceptanceStarved,
    EnvelopeError,
    accept,
    log_acceptance,
    refuse_if,
    refuse_where,
    rounded_up,
    whole,
)
from rsf.sampling.bound import (
    digits,
    draw,
    evaluate,
    is_discrete,
    mass_outside,
    part,
)

BLOCK = 2**16  # most candidates evaluated at once: bounds the memory


@dataclass(frozen=True)
class Draws:
    """What was kept, and what it cost.

    samples : ndarray (accepted, ...), in the order drawn
    proposed, accepted : candidates up to and including the last one counted, and how many of them were kept
    max_log_ratio : largest log p - log q seen among them: log_k must not lie below it
    slack : min |u - A|, the narrowest decision of all coins tossed, those after the last one counted too
    stopped_at_size : True if drawing ended at the wanted size, False if at the budget

    >>> print(Draws(np.empty(8), proposed=50, accepted=8, max_log_ratio=0.0, slack=0.01))
    8 kept of 50: acceptance rate 0.1429, 95 % interval [0.0717, 0.2724]
    """

    samples: np.ndarray
    proposed: int
    accepted: int
    max_log_ratio: float
    slack: float
    stopped_at_size: bool = True

    @property
    def acceptance_rate(self) -> float:
        """Unbiased estimate of the acceptance rate; NaN if nothing was proposed."""
        if self.stopped_at_size and self.proposed > 1:
            return (self.accepted - 1) / (self.proposed - 1)
        return self.accepted / self.proposed if self.proposed else float("nan")

    def acceptance_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return a (low, high) interval that covers the acceptance rate with at least this probability.

        It is Clopper and Pearson's, or its form for sampling that stopped at the size, widened where
        needed to hold the estimate: if the second candidate is the first one kept, the unbiased estimate
        is 0.
        """
        refuse_if(not (0 < level < 1), f"level must lie between 0 and 1, got {level}")
        tail = (1 - level) / 2
        rejected = self.proposed - self.accepted
        low = stats.beta.ppf(tail, self.accepted, rejected + 1) if self.accepted else 0.0
        # stopped at size: the last candidate was bound to be a kept one, so one kept fewer was left to chance
        by_chance = self.accepted + (not self.stopped_at_size)
        high = stats.beta.ppf(1 - tail, by_chance, rejected) if rejected else 1.0
        return float(np.fmin(low, self.acceptance_rate)), float(np.fmax(high, self.acceptance_rate))

    def __str__(self) -> str:
        low, high = self.acceptance_interval()
        return (
            f"{self.accepted:,} kept of {self.proposed:,}: "
            f"acceptance rate {self.acceptance_rate:.4f}, 95 % interval [{low:.4f}, {high:.4f}]"
        )


def rejection_sample(
    log_target: object,
    proposal: object,
    log_k: float,
    size: int,
    rng: np.random.Generator,
    *,
    max_proposals: int = 10**8,
    clip: bool = False,
) -> Draws:
    """Draw `size` exact samples from a target by rejection.

    Parameters
    ----------
    log_target : callable or scipy.stats distribution
        Log density, vectorised over candidates: (n, ...) -> (n,); its constant may be missing.
    proposal : object with rvs(size=, random_state=) and logpdf or logpmf
        A frozen scipy.stats distribution, univariate or multivariate with candidates along the first
        axis, one of scipy's newer kind (`scipy.stats.Normal()`), a StripEnvelope, or anything alike.
    log_k : float
        Log of a k with k q >= p everywhere.
    size : int
        How many to keep.
    rng : numpy.random.Generator
        The only source of randomness.
    max_proposals : int
        Budget of candidates.
    clip : bool
        Draw min(p, k q) (normalised) on purpose where k is too small, or q is 0, instead of refusing.

    Returns
    -------
    Draws

    Raises
    ------
    EnvelopeError
        k is too small at a candidate: names it, the ratio there, and the smallest log_k that covers all seen.
    AcceptanceStarved
        Budget spent; carries the Draws so far.
    ValueError, TypeError
        A density that is NaN, +inf or not vectorised, target mass outside the proposal's support, an argument
        out of range.

    Examples
    --------
    >>> log_k = np.log(2 * np.pi / np.e) / 2  # the largest log p - log q, at x = 1 and x = -1
    >>> draws = rejection_sample(stats.norm(), stats.cauchy(), log_k, 1000, np.random.default_rng(0))
    >>> draws.samples.shape, round(draws.acceptance_rate, 2)
    ((1000,), 0.65)
    """
    size = whole("size (how many to keep; reshape .samples afterwards)", size, 0)
    max_proposals = whole("max_proposals", max_proposals)
    log_k = np.asarray(log_k, dtype=np.float64)
    refuse_if(
        not (log_k.size == 1 and np.isfinite(log_k).all()),
        f"log_k must be one finite number, got {log_k}: k itself must be a positive number",
    )
    log_k = log_k.item()
    refuse_if(
        not isinstance(rng, np.random.Generator | np.random.RandomState),
        f"rng must be a numpy.random.Generator, such as default_rng(0), got {rng!r}",
        TypeError,
    )
    parts = _log_densities(log_target, proposal, clip)
    kept_blocks = []
    proposed = accepted = 0
    max_log_ratio, slack = -np.inf, np.inf

    while accepted < size and proposed < max_proposals:
        block = min(_block_size(size - accepted, accepted, proposed), max(2, max_proposals - proposed))
        x = draw(proposal, block, rng)
        log_a = _log_acceptance(x, *parts, log_k, clip)  # (block,)
        kept, block_slack = accept(np.minimum(log_a, 0.0), rng, with_slack=True)
        counted = min(len(x), max_proposals - proposed)
        if kept[:counted].sum() >= size - accepted:  # stop at the candidate that completes the size
            counted = int(np.flatnonzero(kept)[size - accepted - 1]) + 1
        kept[counted:] = False
        kept_blocks.append(x[kept])
        proposed += counted
        accepted += int(kept.sum())
        max_log_ratio = max(max_log_ratio, float(np.max(log_a[:counted]) + log_k))
        slack = min(slack, block_slack)

    draws = Draws(
        np.concatenate(kept_blocks) if kept_blocks else np.empty(0),
        proposed,
        accepted,
        max_log_ratio,
        slack,
        stopped_at_size=accepted == size,
    )
    if accepted < size:
        raise AcceptanceStarved(
            f"{max_proposals:,} candidates gave {accepted:,} of {size:,} samples "
            f"(largest log p - log q seen {max_log_ratio:.6g}, log_k {log_k:.6g}): "
            "raise max_proposals, lower log_k, or bring the proposal closer; .draws holds what was kept",
            draws,
        )
    return draws


def _log_densities(target: object, proposal: object, clip: bool) -> list:
    """Return the two log densities; refuse laws that cannot be drawn from, or not one from the other."""
    refuse_if(
        not (hasattr(proposal, "rvs") or hasattr(proposal, "sample")),
        f"{type(proposal).__name__} cannot be drawn from: it needs rvs(size=, random_state=)",
        TypeError,
    )
    kinds = ["logpmf" if is_discrete(law) else "logpdf" for law in (target, proposal)]
    parts = [part(law, kind) for law, kind in zip((target, proposal), kinds, strict=True)]
    refuse_if(
        not (kinds[0] == kinds[1] or parts[0] is target),
        f"the target has a {kinds[0]}, the proposal a {kinds[1]}: both must be discrete, or neither",
    )
    low, high = proposal.support() if callable(getattr(proposal, "support", None)) else (-np.inf, np.inf)
    missed = 0.0 if clip or np.ndim(low) else mass_outside(target, low, high)
    refuse_if(
        missed != 0,
        f"the target has mass {missed:.6g} outside the proposal's support [{low}, {high}]: "
        "no k can reach it; widen the proposal",
    )
    return parts


def _block_size(wanted: int, accepted: int, proposed: int) -> int:
    """Return how many candidates to draw next: about what is still needed at the rate seen so far."""
    return int(np.clip(wanted * (proposed + 2) / (accepted + 1), 2, BLOCK))


def _log_acceptance(
    x: np.ndarray, log_p_of: object, log_q_of: object, log_k: float, clip: bool
) -> np.ndarray:
    """Return log A (n,) of candidates x (n, ...), above 0 only if clipped on purpose, or by rounding."""
    log_p = evaluate(log_p_of, x, "the target's log density")
    log_q = evaluate(log_q_of, x, "the proposal's log density")
    for name, value in (("target", log_p), ("proposal", log_q)):
        refuse_where(
            np.isnan(value) | (value == np.inf),
            f"the {name}'s log density is {{value}} at x = {{x}}: it must be a number below +inf",
            x=x,
            value=value,
        )
    refuse_where(
        np.isneginf(log_q) & ~np.isneginf(log_p),
        "the proposal drew x = {x}, where its own density is 0, the target's not: rvs and logpdf disagree",
        x=x,
    )
    log_a = log_acceptance(log_p, log_q, log_k)
    # the logs may be off by a few of the last digits they have
    rounding = [digits(value) * np.abs(value, dtype=np.float64) for value in (log_p, log_q)]
    too_large = log_a > np.maximum(ROUNDING, np.maximum(*rounding))
    if too_large.any() and not clip:
        worst = np.argmax(np.where(too_large, log_a, -np.inf))
        needed = log_a[worst] + log_k
        # six digits, or as many as it takes to see a difference
        shown = next((n for n in range(6, 17) if f"{needed:.{n}g}" != f"{log_k:.{n}g}"), 17)
        raise EnvelopeError(
            f"k is too small: at x = {np.array2string(x[worst], precision=6)} log p - log q = "
            f"{needed:.{shown}g} exceeds log_k = {log_k:.{shown}g}, "
            "so min(p, k q) would be drawn instead of p; "
            f"log_k = {rounded_up(needed):.6f} covers all candidates seen so far (a proven bound is better)"
        )
    return log_a
