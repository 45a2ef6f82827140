"""A rule maps criterion values (losses, errors, rewards) to acceptance probabilities.

    kept examples give the expected gradient  E[A(l) grad l] = grad E[Phi(l)]  with  Phi' = A

so every fixed, pointwise rule has a surrogate objective Phi (an instance of a known equivalence: Fujimoto et
al. 2020, arXiv 2007.06049; Haimovich et al. 2024, arXiv 2312.13927). Here are the rules that remember
nothing; those with a memory are in `adaptive`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rsf.acceptance import log_acceptance, refuse_if, refuse_where, whole


class BaseRule:
    """What every rule offers to whoever applies it.

    Calling a rule changes nothing: it decides from the past. Whoever applies it calls `observe` after each
    decision. `load_state_dict` of a new rule's `state_dict` sets a rule back to its beginning.
    """

    needs_criterion: bool = True  # where it does not look at the criterion, that need not be computed
    no_surrogate = "no surrogate"  # what it has instead of one, for the error

    def __call__(self, criterion: ArrayLike) -> np.ndarray:
        """Return the acceptance probabilities A, same shape as the criterion."""
        return np.exp(self.log_probability(criterion))

    @np.errstate(divide="ignore")  # log 0 = -inf: never kept
    def log_probability(self, criterion: ArrayLike) -> np.ndarray:
        """Return log A for criterion values of any shape: what `rsf.acceptance.accept` takes."""
        return np.log(self(criterion))

    def surrogate(self, criterion: ArrayLike) -> np.ndarray:
        """Return Phi, the objective whose gradient the kept examples follow: Phi' = A, up to a constant."""
        raise ValueError(f"{self} has {self.no_surrogate}")

    def observe(self, criterion: ArrayLike) -> None:
        """Take note of a block of criterion values after it was decided. A fixed rule remembers nothing."""

    def state_dict(self) -> dict:
        """Return all that is remembered, fit for JSON, exactly."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state; from the state of a new rule, begin."""
        refuse_if(state, f"the rule {self} has no state, got {state}")

    def __str__(self) -> str:
        """Return the rule's `text`, for legends and messages."""
        return self.text if hasattr(self, "text") else repr(self)


@dataclass(frozen=True)
class Rule(BaseRule):
    """A fixed, pointwise rule, made from its text, log A and surrogate Phi (functions of a float64 array).

    >>> squared = Rule("loss^2 / 4", lambda r: 2 * np.log(r / 2), lambda r: r**3 / 12)
    >>> squared([0.0, 1.0, 2.0]).round(6).tolist()
    [0.0, 0.25, 1.0]
    """

    text: str
    log_a: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    phi: Callable[[np.ndarray], np.ndarray] | None = field(repr=False, default=None)
    needs_criterion: bool = True

    @np.errstate(divide="ignore", over="ignore")  # log 0 = -inf: never kept
    def log_probability(self, criterion: ArrayLike) -> np.ndarray:
        """Return log A for criterion values of any shape: what `rsf.acceptance.accept` takes."""
        return self.log_a(checked(criterion))

    @np.errstate(divide="ignore")
    def surrogate(self, criterion: ArrayLike) -> np.ndarray:
        """Return Phi, the objective whose gradient the kept examples follow: Phi' = A, up to a constant."""
        refuse_if(
            self.phi is None,
            f"the rule {self} was made without a surrogate: give Rule a phi with phi' = A",
        )
        return self.phi(checked(criterion))


def clipped(k: float) -> Rule:
    """Return the article's rule A = min(1, r / k) for losses r >= 0: min(1, p / (k q)) with p = q r.

    Its surrogate is the Huber function of the loss, divided by k: r^2 / (2 k) up to k, r - k / 2 beyond.

    >>> clipped(0.5)([0.0, 0.25, 2.0]).tolist()
    [0.0, 0.5, 1.0]
    """
    k = _positive("k", k)
    return Rule(
        f"min(1, loss / {k:g})",
        lambda r: np.minimum(log_acceptance(np.log(_non_negative(r)), 0.0, np.log(k)), 0.0),
        lambda r: np.where(_non_negative(r) <= k, r**2 / (2 * k), r - k / 2),
    )


def easy(k: float) -> Rule:
    """Return the rule A = min(1, k / r) for losses r >= 0.

    It keeps what the model already fits, so it is robust to wrong labels.

    >>> easy(0.5)([0.25, 2.0]).tolist()
    [1.0, 0.25]
    """
    k = _positive("k", k)
    return Rule(
        f"min(1, {k:g} / loss)",
        lambda r: np.minimum(log_acceptance(np.log(k), np.log(np.maximum(_non_negative(r), k)), 0.0), 0.0),
        lambda r: np.where(_non_negative(r) <= k, r, k + k * np.log(np.maximum(r, k) / k)),
    )


def tilted(beta: float, ceiling: float, clip: bool = False) -> Rule:
    """Return the rule A = exp((r - ceiling) / beta), which draws from q exp(r / beta).

    A reward above the ceiling is an error, unless `clip` keeps it for certain: for an estimated ceiling.

    >>> tilted(1.0, 2.0)([2.0, 1.0]).round(4).tolist()
    [1.0, 0.3679]
    """
    beta = _positive("beta", beta)
    ceiling = float(checked(ceiling))

    def within(r: np.ndarray) -> np.ndarray:
        refuse_where(
            (r > ceiling) & (not clip),
            f"reward {{r:g}} at index {{place}} exceeds the ceiling {ceiling:g}: raise the ceiling, "
            "or clip=True if it is an estimate",
            r=r,
        )
        return r - ceiling

    return Rule(
        f"exp((r - {ceiling:g}) / {beta:g})",
        lambda r: np.minimum(within(r) / beta, 0.0),
        lambda r: beta * np.exp(np.minimum(within(r), 0.0) / beta) + np.maximum(r - ceiling, 0.0),
    )


def above(threshold: float) -> Rule:
    """Return the rule A = 1 if r >= threshold else 0: a verifier; of errors, with threshold 1, mistakes only.

    >>> above(1)([0.0, 1.0, 2.0]).tolist()
    [0.0, 1.0, 1.0]
    """
    threshold = float(checked(threshold))
    return Rule(
        f"r >= {threshold:g}",
        lambda r: np.where(r >= threshold, 0.0, -np.inf),
        lambda r: np.maximum(r - threshold, 0.0),
    )


def constant(a: float) -> Rule:
    """Return the rule A = a whatever the criterion, which is not even computed: keep at random.

    >>> constant(0.25)([0.0, 9.0]).tolist()
    [0.25, 0.25]
    """
    refuse_if(not 0 <= a <= 1, f"a constant acceptance probability must lie in [0, 1], got {a}")
    return Rule(f"keep {a:g}", lambda r: np.full(r.shape, np.log(a)), lambda r: a * r, needs_criterion=False)


class best_of(BaseRule):
    """Of n samples of one prompt, along the last axis, keep exactly one: the best, among ties one at random.

    The samples of a prompt are decided together, so no probabilities with one coin each can say it: with ties
    they would keep none or several. Hence `decide` tosses the coins itself and `log_probability` refuses.
    Calling the rule gives the marginal probabilities (1/m for each of m tied for the best, 0 for the rest),
    for its rate, 1/n, and for pictures. Its law: `rsf.finite.best_of_n_law`.

    >>> best_of(3)([[0.0, 2.0, 2.0]]).tolist()
    [[0.0, 0.5, 0.5]]
    >>> best_of(3).decide([[0.0, 2.0, 2.0]], np.random.default_rng(0)).tolist()
    [[False, True, False]]
    """

    no_surrogate = "no pointwise surrogate: whether a sample is kept depends on the others of its prompt"
    joint = True  # decides over several samples at once: not for a RejectionLoader, not with until_accepted

    def __init__(self, n: int) -> None:
        self.n = whole("n", n)
        self.text = f"best of {self.n}"

    def __call__(self, criterion: ArrayLike) -> np.ndarray:
        """Return the probability that it is kept for each sample, same shape as the criterion (..., n)."""
        best = self._best(criterion)
        return best / best.sum(axis=-1, keepdims=True)

    def decide(self, criterion: ArrayLike, rng: np.random.Generator) -> np.ndarray:
        """Return which are kept, booleans (..., n): of the tied best the one with the largest coin."""
        best = self._best(criterion)
        coins = np.where(best, rng.random(best.shape), -1.0)
        return np.arange(self.n) == coins.argmax(axis=-1, keepdims=True)

    def log_probability(self, criterion: ArrayLike) -> np.ndarray:
        """Refuse: no coin of its own decides for a sample."""
        raise ValueError(
            f"{self} decides over all samples of a prompt together, not by one coin each: "
            "use decide(criterion, rng)"
        )

    def _best(self, criterion: ArrayLike) -> np.ndarray:
        """Return where the best samples are, booleans (..., n)."""
        r = checked(criterion)
        refuse_if(
            r.ndim == 0 or r.shape[-1] != self.n,
            f"{self} needs a last axis of {self.n} samples of one prompt, got shape {r.shape}",
        )
        return r == r.max(axis=-1, keepdims=True)


def inverse_weights(log_probability: ArrayLike, kept: ArrayLike) -> np.ndarray:
    """Return 1 / A for the kept and 0 for the rejected: what undoes a selection.

    mean(inverse_weights * g) over all *candidates* estimates the plain mean of g without bias. Over the kept
    alone it would be the mean divided by the acceptance rate; divided by the sum of the weights it is biased
    in small batches.

    Parameters
    ----------
    log_probability : array_like
        log A of every candidate, as it was decided by (a rule that moves has moved since).
    kept : array_like of bool, same shape

    Raises
    ------
    ValueError
        A candidate has A = 0: no weight brings back what is never kept. A threshold cannot be undone.

    Examples
    --------
    >>> inverse_weights(np.log([0.5, 0.25]), [True, False]).tolist()
    [2.0, 0.0]
    """
    log_a = np.asarray(log_probability, dtype=np.float64)
    kept = np.asarray(kept, dtype=bool)
    refuse_if(
        log_a.shape != kept.shape,
        f"need a decision for each candidate, got log probabilities {log_a.shape} and decisions {kept.shape}",
    )
    refuse_where(
        ~np.isfinite(log_a),
        "the candidate at index {place} has log A = {log_a}: no weight brings back what is never kept",
        log_a=log_a,
    )
    return np.where(kept, np.exp(-log_a), 0.0)


def effective_sample_size(weights: ArrayLike) -> float:
    """Return (sum w)^2 / sum w^2: how many equally weighted examples have the variance of these.

    If all weights are 0, it is 0.

    >>> effective_sample_size([1.0, 1.0, 1.0, 0.0])
    3.0
    """
    w = checked(weights)
    refuse_where(w < 0, "weights must not be negative, got {w:g} at index {place}", w=w)
    w = w / max(w.max(initial=0.0), np.finfo(np.float64).tiny)  # squares of 1e200 would overflow
    return float(w.sum() ** 2 / (w**2).sum()) if w.any() else 0.0


def checked(criterion: ArrayLike) -> np.ndarray:
    """Return criterion values as float64, refusing NaN and infinities by index."""
    values = np.asarray(criterion, dtype=np.float64)
    refuse_where(~np.isfinite(values), "the criterion is {r} at index {place}: it must be finite", r=values)
    return values


def _positive(name: str, value: float) -> float:
    refuse_if(
        not (np.isscalar(value) and np.isfinite(value) and value > 0),
        f"{name} must be a positive, finite number, got {value}",
    )
    return float(value)


def _non_negative(r: np.ndarray) -> np.ndarray:
    refuse_where(
        r < 0,
        "this rule is for losses, which are not negative; got {r:g} at index {place} "
        "(rewards: use `tilted` or `above`)",
        r=r,
    )
    return r
