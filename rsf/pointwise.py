"""Fixed rules, pointwise (and best of n): criterion values (losses, errors, rewards) to acceptance probabilities. Import them from `rsf.rules`.

    kept examples give the expected gradient  E[A(l) grad l] = grad E[Phi(l)]  with  Phi' = A

so every fixed, pointwise rule has a surrogate objective Phi (an instance of a known equivalence: Fujimoto et al. 2020,
arXiv 2007.06049; Haimovich et al. 2024, arXiv 2312.13927).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rsf.acceptance import first_index, log_acceptance


@dataclass(frozen=True)
class Rule:
    """A fixed, pointwise rule: what it reads as, log A, its surrogate, and whether it looks at the criterion at all."""

    text: str
    log_a: Callable = field(repr=False)
    phi: Callable = field(repr=False)
    needs_criterion: bool = True
    group: int = 1  # how many candidates it must see at once, along the last axis

    def log_probability(self, criterion):
        """Return log A for criterion values of any shape: what `rsf.acceptance.accept` takes."""
        with np.errstate(divide="ignore"):  # log 0 = -inf: never kept
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
    k = positive("k", k)
    return Rule(
        f"min(1, loss / {k:g})",
        lambda r: np.minimum(log_acceptance(np.log(_non_negative(r)), 0.0, np.log(k)), 0.0),
        lambda r: np.where(_non_negative(r) <= k, r**2 / (2 * k), r - k / 2),
    )


def easy(k):
    """A = min(1, k / r) for losses r >= 0: keeps what the model already fits, so it is robust to wrong labels."""
    k = positive("k", k)
    return Rule(
        f"min(1, {k:g} / loss)",
        lambda r: np.minimum(log_acceptance(np.log(k), np.log(np.maximum(_non_negative(r), k)), 0.0), 0.0),
        lambda r: np.where(_non_negative(r) <= k, r, k + k * np.log(np.maximum(r, k) / k)),
    )


def tilted(beta, ceiling, clip=False):
    """A = exp((r - ceiling) / beta): draws from q exp(r / beta). A reward above the ceiling is an error unless clip=True."""
    beta = positive("beta", beta)
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
    return Rule(f"r >= {threshold:g}", lambda r: np.where(r >= threshold, 0.0, -np.inf), lambda r: np.maximum(r - threshold, 0.0))


def constant(a):
    """A = a whatever the criterion, which is not even computed: keep at random."""
    if not 0 <= a <= 1:
        raise ValueError(f"a constant acceptance probability must lie in [0, 1], got {a}")
    return Rule(f"keep {a:g}", lambda r: np.full(r.shape, np.log(a)), lambda r: a * r, needs_criterion=False)


def best_of(n):
    """Keep the best of n samples of one prompt, along the last axis; the first of equals, which is fair among samples drawn alike."""
    if not (n >= 1 and n == int(n)):
        raise ValueError(f"n must be a whole number of at least 1, got {n}")

    def first_best(r):
        if r.ndim == 0 or r.shape[-1] != n:
            raise ValueError(f"best_of({n}) needs rewards of shape (..., {n}), the samples of a prompt along the last axis, got {r.shape}")
        return np.where(np.arange(n) == np.argmax(r, axis=-1)[..., None], 0.0, -np.inf)

    def no_surrogate(_):
        raise ValueError(
            f"best_of({n}) has no pointwise surrogate: it descends E[max of {n} rewards], whose weight on a sample hangs on the others"
        )

    return Rule(f"best of {n}", first_best, no_surrogate, group=int(n))


def inverse_weights(probability):
    """Return 1 / A: on the kept, divided by the number of *candidates*, these give the mean over all candidates without bias."""
    a = np.asarray(probability, dtype=np.float64)
    if not ((a > 0) & (a <= 1)).all():
        bad = ~((a > 0) & (a <= 1))
        raise ValueError(
            f"A = {a[bad][0]:g} at index {first_index(bad)}: only what can be kept can be weighted back (a threshold cannot be undone)"
        )
    return 1.0 / a


def effective_sample_size(weights):
    """Return (sum w)^2 / sum w^2: how many equally weighted samples would be as good; 0 for none."""
    w = np.asarray(weights, dtype=np.float64)
    return float(w.sum() ** 2 / np.sum(w**2)) if np.any(w) else 0.0


def checked(criterion):
    """Return criterion values as float64, refusing NaN and infinities by index."""
    values = np.asarray(criterion, dtype=np.float64)
    if not np.isfinite(values).all():
        bad = ~np.isfinite(values)
        raise ValueError(f"the criterion is {values[bad][0]} at index {first_index(bad)}: it must be finite")
    return values


def positive(name, value):
    if not (np.isscalar(value) and np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive, finite number, got {value}")
    return float(value)


def _non_negative(r):
    if (r < 0).any():
        raise ValueError(
            f"this rule is for losses, which are not negative; got {r[r < 0][0]:g} at index {first_index(r < 0)} (rewards: use `tilted` or `above`)"
        )
    return r
