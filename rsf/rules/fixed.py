"""A rule maps criterion values (losses, errors, rewards) to acceptance probabilities.

    kept examples give the expected gradient  E[A(l) grad l] = grad E[Phi(l)]  with  Phi' = A

so every fixed, pointwise rule has a surrogate objective Phi (an instance of a known equivalence: Fujimoto et al. 2020,
arXiv 2007.06049; Haimovich et al. 2024, arXiv 2312.13927). Calling a rule changes nothing: it decides from the past;
whoever applies it calls `observe` afterwards. Here are the fixed rules; those with a memory are in `adaptive`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rsf.acceptance import first_index, log_acceptance
from rsf.rules.adaptive import checked


@dataclass(frozen=True)
class Rule:
    """A fixed, pointwise rule: what it reads as, log A, its surrogate, and whether it looks at the criterion at all."""

    text: str
    log_a: Callable = field(repr=False)
    phi: Callable = field(repr=False)
    needs_criterion: bool = True

    def log_probability(self, criterion):
        """Return log A for criterion values of any shape: what `rsf.acceptance.accept` takes."""
        with np.errstate(divide="ignore", over="ignore"):  # -inf: never kept
            return self.log_a(checked(criterion))

    def __call__(self, criterion):
        """Return the acceptance probabilities, same shape as the criterion."""
        return np.exp(self.log_probability(criterion))

    def surrogate(self, criterion):
        """Return Phi, the objective whose gradient the kept examples follow: Phi' = A, up to a constant."""
        with np.errstate(divide="ignore"):
            return self.phi(checked(criterion))

    def observe(self, criterion):
        """Take note of a block of criterion values after it was decided; a fixed rule remembers nothing."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        if state:
            raise ValueError(f"the rule {self} has no state, got {state}")

    def __str__(self):
        return self.text


def clipped(k):
    """The article's rule A = min(1, r / k) for losses r >= 0: min(1, p / (k q)) with p = q r.

    Its surrogate is the Huber function of the loss, divided by k: r^2 / (2 k) up to k, r - k / 2 beyond.
    """
    k = _positive("k", k)
    return Rule(
        f"min(1, loss / {k:g})",
        lambda r: np.minimum(log_acceptance(np.log(_non_negative(r)), 0.0, np.log(k)), 0.0),
        lambda r: np.where(_non_negative(r) <= k, r**2 / (2 * k), r - k / 2),
    )


def easy(k):
    """A = min(1, k / r) for losses r >= 0: keeps what the model already fits, so it is robust to wrong labels."""
    k = _positive("k", k)
    return Rule(
        f"min(1, {k:g} / loss)",
        lambda r: np.minimum(log_acceptance(np.log(k), np.log(np.maximum(_non_negative(r), k)), 0.0), 0.0),
        lambda r: np.where(_non_negative(r) <= k, r, k + k * np.log(np.maximum(r, k) / k)),
    )


def tilted(beta, ceiling, clip=False):
    """A = exp((r - ceiling) / beta): draws from q exp(r / beta). A reward above the ceiling is an error unless clip=True."""
    beta = _positive("beta", beta)
    ceiling = float(checked(ceiling))

    def within(r):
        over = r > ceiling
        if over.any() and not clip:
            raise ValueError(
                f"reward {r[over][0]:g} at index {first_index(over)} exceeds the ceiling {ceiling:g}: raise the ceiling, or clip=True if it is an estimate"
            )
        return r - ceiling

    return Rule(
        f"exp((r - {ceiling:g}) / {beta:g})",
        lambda r: np.minimum(within(r) / beta, 0.0),
        lambda r: beta * np.exp(np.minimum(within(r), 0.0) / beta) + np.maximum(r - ceiling, 0.0),
    )


def above(threshold):
    """A = 1 if r >= threshold else 0: a verifier, or, with the criterion "error" and threshold 1, mistakes only."""
    threshold = float(checked(threshold))
    return Rule(
        f"r >= {threshold:g}",
        lambda r: np.where(r >= threshold, 0.0, -np.inf),
        lambda r: np.maximum(r - threshold, 0.0),
    )


def constant(a):
    """A = a whatever the criterion, which is not even computed: keep at random."""
    if not 0 <= a <= 1:
        raise ValueError(f"a constant acceptance probability must lie in [0, 1], got {a}")
    return Rule(f"keep {a:g}", lambda r: np.full(r.shape, np.log(a)), lambda r: a * r, needs_criterion=False)


class best_of:
    """Of n samples of one prompt, along the last axis, keep exactly one: the best; among m tied for it, each with probability 1/m.

    The samples of a prompt are decided together, so no probabilities with one coin each can say it: with ties they would keep
    none or several. Hence `decide` tosses the coins itself and `log_probability` refuses; calling the rule gives the marginal
    probabilities (1/m for the tied best, 0 for the rest), for its rate, 1/n, and for pictures. Its law: `rsf.finite.best_of_n_law`.
    """

    needs_criterion, joint = True, True  # joint: not for a RejectionLoader, not with until_accepted

    def __init__(self, n):
        if not (n >= 1 and n == int(n)):
            raise ValueError(f"n must be a whole number of at least 1, got {n}")
        self.n = int(n)

    def __call__(self, criterion):
        best = self._best(criterion)
        return best / best.sum(axis=-1, keepdims=True)

    def decide(self, criterion, rng):
        """Return which are kept, booleans of the criterion's shape (..., n); one coin per sample, the tied best with the largest wins."""
        best = self._best(criterion)
        coins = np.where(best, rng.random(best.shape), -1.0)
        return np.arange(self.n) == coins.argmax(axis=-1, keepdims=True)

    def log_probability(self, criterion):
        raise ValueError(
            f"{self} decides over all samples of a prompt together, not by one coin each: use decide(criterion, rng)"
        )

    def surrogate(self, criterion):
        raise ValueError(
            f"{self} has no pointwise surrogate: whether a sample is kept depends on the others of its prompt"
        )

    def _best(self, criterion):
        r = checked(criterion)
        if r.ndim == 0 or r.shape[-1] != self.n:
            raise ValueError(
                f"{self} needs a last axis of {self.n} samples of one prompt, got shape {r.shape}"
            )
        return r == r.max(axis=-1, keepdims=True)

    observe, state_dict, load_state_dict = (
        Rule.observe,
        Rule.state_dict,
        Rule.load_state_dict,
    )  # remembers nothing either

    def __str__(self):
        return f"best of {self.n}"


def inverse_weights(log_probability, kept):
    """Return 1 / A for the kept and 0 for the rejected: what undoes a selection.

    mean(inverse_weights * g) over all *candidates* estimates the plain mean of g without bias. Over the kept alone it would be the mean
    divided by the acceptance rate; divided by the sum of the weights it is biased in small batches.

    Parameters
    ----------
    log_probability : array_like
        log A of every candidate, as it was decided by (a rule that moves has moved since).
    kept : array_like of bool, same shape

    Raises
    ------
    ValueError
        A candidate has A = 0: no weight brings back what is never kept. A threshold cannot be undone.
    """
    log_a, kept = np.asarray(log_probability, dtype=np.float64), np.asarray(kept, dtype=bool)
    if log_a.shape != kept.shape:
        raise ValueError(
            f"need a decision for each candidate, got log probabilities {log_a.shape} and decisions {kept.shape}"
        )
    if not np.isfinite(log_a).all():
        where = first_index(~np.isfinite(log_a))
        raise ValueError(
            f"the candidate at index {where} has log A = {log_a[where]}: no weight brings back what is never kept"
        )
    return np.where(kept, np.exp(-log_a), 0.0)


def effective_sample_size(weights):
    """Return (sum w)^2 / sum w^2: how many equally weighted examples have the variance of these; 0 if all weights are 0."""
    w = checked(weights)
    if (w < 0).any():
        raise ValueError(f"weights must not be negative, got {w[w < 0][0]:g} at index {first_index(w < 0)}")
    w = w / max(
        w.max(initial=0.0), np.finfo(np.float64).tiny
    )  # weights of 1e200 must not overflow when squared
    return float(w.sum() ** 2 / (w**2).sum()) if w.any() else 0.0


def _positive(name, value):
    if not (np.isscalar(value) and np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive, finite number, got {value}")
    return float(value)


def _non_negative(r):
    if (r < 0).any():
        raise ValueError(
            f"this rule is for losses, which are not negative; got {r[r < 0][0]:g} at index {first_index(r < 0)} (rewards: use `tilted` or `above`)"
        )
    return r
