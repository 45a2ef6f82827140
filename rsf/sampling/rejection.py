"""Draw candidates, keep each with probability A, and say what it cost.

    x ~ q kept with A(x) = min(1, p(x) / (k q(x)))  =>  kept x ~ p, at acceptance rate Z / k  (Z the mass of p; 1 if normalised)

Sampling stops at the `size`-th kept candidate, so the number proposed is negative binomial and the unbiased estimate of the
rate is (accepted - 1) / (proposed - 1), that of inverse sampling.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from rsf.acceptance import (
    ROUNDING,
    AcceptanceStarved,
    EnvelopeError,
    accept,
    first_index,
    log_acceptance,
    rounded_up,
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
    """

    samples: np.ndarray
    proposed: int
    accepted: int
    max_log_ratio: float
    slack: float
    stopped_at_size: bool = True

    @property
    def acceptance_rate(self):
        """Unbiased estimate of the acceptance rate; NaN if nothing was proposed."""
        if self.proposed == 0:
            return float("nan")
        if self.stopped_at_size and self.proposed > 1:
            return (self.accepted - 1) / (self.proposed - 1)
        return self.accepted / self.proposed

    def acceptance_interval(self, level=0.95):
        """Return the exact (low, high) confidence interval of the acceptance rate (Clopper-Pearson, or its inverse-sampling form)."""
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}")
        tail, kept, rejected = (1 - level) / 2, self.accepted, self.proposed - self.accepted
        low = stats.beta.ppf(tail, kept, rejected + 1) if kept else 0.0
        # stopped at size: the last candidate was bound to be a kept one, so one kept fewer was left to chance
        high = stats.beta.ppf(1 - tail, kept + (not self.stopped_at_size), rejected) if rejected else 1.0
        return float(low), float(high)

    def __str__(self):
        low, high = self.acceptance_interval()
        return f"{self.accepted:,} kept of {self.proposed:,}: acceptance rate {self.acceptance_rate:.4f}, 95 % interval [{low:.4f}, {high:.4f}]"


def rejection_sample(log_target, proposal, log_k, size, rng, *, max_proposals=10**8, clip=False):
    """Draw `size` exact samples from a target by rejection.

    Parameters
    ----------
    log_target : callable or frozen scipy.stats distribution
        Log density, vectorised over candidates: (n, ...) -> (n,); its constant may be missing.
    proposal : object with rvs(size=, random_state=) and logpdf
        A frozen scipy.stats distribution, univariate or multivariate with candidates along the first axis, or anything alike.
    log_k : float
        Log of a k with k q >= p everywhere.
    size : int
        How many to keep.
    rng : numpy.random.Generator
        The only source of randomness.
    max_proposals : int
        Budget of candidates.
    clip : bool
        Draw min(p, k q) (normalised) on purpose where k is too small, instead of refusing.

    Returns
    -------
    Draws

    Raises
    ------
    EnvelopeError
        k is too small at a candidate: names it, the ratio there, and the smallest log_k that covers all seen.
    AcceptanceStarved
        Budget spent; carries the Draws so far.
    ValueError
        A density that is NaN or +inf, target mass outside the proposal's support, an argument out of range.
    """
    if not (size >= 0 and float(size).is_integer() and max_proposals >= 1):
        raise ValueError(
            f"size must be a whole number of at least 0 and max_proposals at least 1, got {size} and {max_proposals}"
        )
    if not np.isfinite(log_k):
        raise ValueError(f"log_k must be finite, got {log_k}: k itself must be a positive number")
    _check_support(log_target, proposal)
    log_density = getattr(log_target, "logpdf", log_target)
    kept_blocks, proposed, accepted, max_log_ratio, slack = [], 0, 0, -np.inf, np.inf

    while accepted < size and proposed < max_proposals:
        block = min(_block_size(size - accepted, accepted, proposed), max(2, max_proposals - proposed))
        x, log_p, log_q = _candidates(log_density, proposal, block, rng)
        log_a = log_acceptance(log_p, log_q, log_k)  # (n,)
        if not clip and (log_a > ROUNDING).any():
            worst = int(np.argmax(log_a))
            needed = log_a[worst] + log_k
            raise EnvelopeError(
                f"k is too small: at x = {np.array2string(x[worst], precision=6)} log p - log q = {needed:.6g} exceeds log_k = {log_k:.6g}, so "
                f"min(p, k q) would be drawn instead of p; log_k = {rounded_up(needed):.6f} covers all candidates seen so far (a proven bound is better)"
            )
        kept, block_slack = accept(np.minimum(log_a, 0.0), rng, with_slack=True)
        counted = min(len(x), max_proposals - proposed)
        if kept[:counted].sum() >= size - accepted:  # stop at the candidate that completes the size
            counted = int(np.flatnonzero(kept)[size - accepted - 1]) + 1
        kept[counted:] = False
        kept_blocks.append(x[kept])
        proposed, accepted, slack = proposed + counted, accepted + int(kept.sum()), min(slack, block_slack)
        max_log_ratio = max(max_log_ratio, float(np.max(log_a[:counted]) + log_k))

    samples = np.concatenate(kept_blocks) if kept_blocks else np.empty(0)
    draws = Draws(samples, proposed, accepted, max_log_ratio, slack, stopped_at_size=accepted == size)
    if accepted < size:
        raise AcceptanceStarved(
            f"{max_proposals:,} candidates gave {accepted:,} of {size:,} samples (largest log p - log q seen {max_log_ratio:.6g}, log_k {log_k:.6g}): "
            f"raise max_proposals, lower log_k, or bring the proposal closer; .draws holds what was kept",
            draws,
        )
    return draws


def _block_size(wanted, accepted, proposed):
    """Return how many candidates to draw next: about what is still needed at the rate seen so far."""
    return int(np.clip(wanted * (proposed + 2) / (accepted + 1), 2, BLOCK))


def _candidates(log_density, proposal, n, rng):
    """Return n candidates (n, ...) with log p and log q, both (n,), checked."""
    x = np.asarray(proposal.rvs(size=n, random_state=rng))
    log_q = np.asarray(proposal.logpdf(x), dtype=np.float64)
    log_p = np.asarray(log_density(x), dtype=np.float64)
    if len(x) != n or log_q.shape != (n,) or log_p.shape != (n,):
        raise ValueError(
            f"for {n} candidates of shape {x.shape} the log densities must have shape ({n},), got target {log_p.shape}, proposal {log_q.shape}"
        )
    for name, value in (("target", log_p), ("proposal", log_q)):
        bad = np.isnan(value) | (value == np.inf)
        if bad.any():
            raise ValueError(
                f"the {name}'s log density is {value[bad][0]} at x = {np.array2string(x[first_index(bad)], precision=6)}: it must be a number below +inf"
            )
    if (astray := np.isneginf(log_q) & ~np.isneginf(log_p)).any():
        place = np.array2string(x[first_index(astray)], precision=6)
        raise ValueError(
            f"the proposal drew x = {place}, where its own density is 0 and the target's is not: rvs and logpdf disagree"
        )
    return x, log_p, log_q


def _check_support(target, proposal):
    """Refuse a target with known mass outside the proposal's known support."""
    if not all(hasattr(d, "support") and hasattr(d, "cdf") for d in (target, proposal)):
        return
    low, high = proposal.support()
    missed = float(target.cdf(low) + target.sf(high))
    if missed > 0:
        raise ValueError(
            f"the target has mass {missed:.6g} outside the proposal's support [{low}, {high}]: no k can reach it; widen the proposal"
        )
