"""What may be passed as a law, and how it is asked: a function, or a distribution by whatever names it has for its parts.

    log p: logpdf, logpmf      p: pdf      quantiles: ppf, icdf      mass beyond a point: cdf, sf, ccdf      draws: rvs, sample

scipy.stats has two generations of distributions, and they name these differently; a density written with PyTorch returns
tensors, which may carry gradients and have fewer digits than float64.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from rsf.acceptance import ROUNDING


def log_density(law: Any) -> Callable:
    """Return the function of an array that gives the law's log density, or the log of its probabilities if it is discrete."""
    if hasattr(law, "logpdf") and not is_discrete(law):
        return law.logpdf
    if hasattr(law, "logpmf"):
        return law.logpmf
    if callable(law):
        return law
    hint = " (for torch: lambda x: law.log_prob(torch.as_tensor(x)))" if hasattr(law, "log_prob") else ""
    raise TypeError(
        f"{type(law).__name__} has no logpdf and is no function: pass its log density as one{hint}"
    )


def density(law: Any) -> Callable:
    """Return the function of an array that gives the law's density."""
    if is_discrete(law):
        raise ValueError(f"{type(law).__name__} is discrete, it has no density: draw it by rejection_sample")
    if hasattr(law, "pdf"):
        return law.pdf
    if hasattr(law, "logpdf"):
        return lambda x: np.exp(law.logpdf(x))
    if callable(law):
        return law
    raise TypeError(f"{type(law).__name__} has no pdf and is no function: pass its density as one")


def is_discrete(law: Any) -> bool:
    """Return whether a distribution has probabilities of points instead of a density."""
    if not hasattr(law, "pmf"):
        return False
    # scipy's new distributions have a pdf in any case; that of a discrete one is infinite where it has mass
    return not hasattr(law, "pdf") or bool(np.all(np.isposinf(law.pdf(law.median()))))


def quantile(law: Any) -> Callable | None:
    """Return the law's quantile function, or None if it has none."""
    return getattr(law, "ppf", None) or getattr(law, "icdf", None)


def mass_outside(law: Any, low: float, high: float) -> float:
    """Return how much mass the law has outside [low, high], rounding of the ends forgiven; 0.0 where it cannot tell."""
    above = getattr(law, "sf", None) or getattr(law, "ccdf", None)
    if not (hasattr(law, "cdf") and above):
        return 0.0
    rounding = 4 * np.spacing(max(abs(end) for end in (low, high, 0.0) if np.isfinite(end)))
    missed = float(law.cdf(low - rounding) + above(high + rounding))
    return missed if missed > 1e-15 else 0.0


def draw(law: Any, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n draws, (n, ...)."""
    if hasattr(law, "rvs"):
        x = np.asarray(law.rvs(size=n, random_state=rng))
    elif hasattr(law, "sample"):
        x = np.asarray(law.sample(n, rng=rng))
    else:
        raise TypeError(f"{type(law).__name__} cannot be drawn from: it needs rvs(size=, random_state=)")
    if x.shape[:1] != (n,):
        raise ValueError(f"{n} draws of {type(law).__name__} must have shape ({n}, ...), got {x.shape}")
    return x


def evaluate(function: Callable, x: np.ndarray, name: str) -> np.ndarray:
    """Return function(x) for points x (n, ...) as an array (n,), in its own precision."""
    try:
        value = function(x)
        value = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError) as error:
        if isinstance(error, ValueError) and "truth value" not in str(error):
            raise
        raise TypeError(
            f"{name} cannot be evaluated at an array of {len(x)} points: {error}; "
            "np.vectorize lets a function of one number take one"
        ) from error
    if value.shape != x.shape[:1]:
        raise ValueError(
            f"{name} must be vectorised: for points of shape {x.shape} "
            f"it must have shape ({len(x)},), got {value.shape}"
        )
    return value


def rounding_of(value: np.ndarray) -> np.ndarray | float:
    """Return how far log densities may be off by rounding: 1e-9 in float64, a few of the last digits if they have fewer."""
    if value.dtype not in (np.float32, np.float16):
        return ROUNDING
    return 8 * np.finfo(value.dtype).eps * np.maximum(1.0, np.abs(value.astype(np.float64)))
