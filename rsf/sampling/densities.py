"""What may be passed as a law, and how it is asked: a function, or a distribution by its names for things.

    log p: logpdf, logpmf   quantiles: ppf, icdf   mass beyond a point: cdf, sf, ccdf   draws: rvs, sample

scipy.stats has two generations of distributions, and they name these differently; a density written with
PyTorch returns tensors, which may carry gradients and have fewer digits than float64.
"""

import numpy as np

from rsf.acceptance import ROUNDING, refuse_if


def part(law: object, name: str):
    """Return the law's method of this name, or the law itself if it is a function."""
    found = getattr(law, name, law)
    refuse_if(
        not callable(found),
        f"{type(law).__name__} has no {name} and is no function: pass a function of an array of points, such "
        f"as lambda x: {'np.exp(law.logpdf(x))' if name == 'pdf' else 'law.log_prob(torch.as_tensor(x))'}",
        TypeError,
    )
    return found


def is_discrete(law: object) -> bool:
    """Return whether a distribution has probabilities of points instead of a density."""
    # scipy's newer discrete distributions have a pdf all the same; it is infinite at their points
    return hasattr(law, "pmf") and (not hasattr(law, "pdf") or bool(np.all(law.pdf(law.median()) == np.inf)))


def quantile(law: object):
    """Return the law's quantile function, or None if it has none."""
    return getattr(law, "ppf", None) or getattr(law, "icdf", None)


def mass_outside(law: object, low: float, high: float) -> float:
    """Return the law's mass outside [low, high], rounding of the ends forgiven; 0.0 where it cannot tell."""
    above = getattr(law, "sf", None) or getattr(law, "ccdf", None)
    if not (hasattr(law, "cdf") and above):
        return 0.0
    rounding = 4 * np.spacing(max(abs(end) for end in (low, high, 0.0) if np.isfinite(end)))
    ends = (low - 1, high) if is_discrete(law) else (low - rounding, high + rounding)
    missed = law.cdf(ends[0]) + above(ends[1])
    refuse_if(
        np.ndim(missed) != 0,
        f"{type(law).__name__} stands for laws of shape {np.shape(missed)}: pass one law at a time",
    )
    return float(missed) if missed > 1e-15 else 0.0


def draw(law: object, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n draws, (n, ...)."""
    x = np.atleast_1d(law.rvs(size=n, random_state=rng) if hasattr(law, "rvs") else law.sample(n, rng=rng))
    refuse_if(
        len(x) != n,
        f"{type(law).__name__} drew an array of shape {x.shape} where {n} candidates were asked for: "
        "they must lie along the first axis",
    )
    return x


def evaluate(function, x: np.ndarray, name: str) -> np.ndarray:
    """Return function(x) for points x (n, ...) as an array (n,), in its own precision."""
    try:
        # a copy of x: a function may write into its argument
        value = function(x.copy()) if len(x) else np.empty(0)
        value = np.asanyarray(value.detach().cpu() if hasattr(value, "detach") else value)
        value = np.ma.filled(value, np.nan)  # what is masked has no value
        value = value.astype(np.float64) if value.dtype == object else value
    except (TypeError, ValueError, ArithmeticError) as error:
        raise type(error)(
            f"{name} cannot be evaluated at an array of {len(x)} points: {error} "
            "(np.vectorize lets a function of one number take an array)"
        ) from error
    refuse_if(
        not (value.shape == x.shape[:1] and value.dtype.kind in "biuf"),
        f"{name} must be vectorised: for points of shape {x.shape} it must have shape ({len(x)},) "
        f"and hold real numbers, got {value.shape} of {value.dtype}",
    )
    return value


def rounding_of(value: np.ndarray) -> np.ndarray:
    """Return how far log densities may be off by rounding: 1e-9, or a few of the last digits they have."""
    return np.maximum(ROUNDING, digits(value) * np.abs(value, dtype=np.float64))


def digits(value: np.ndarray) -> float:
    """Return a few of the last digits of an array's numbers, as a share of them: 1e-6 for float32."""
    return 8 * float(np.finfo(value.dtype).eps) if value.dtype.kind == "f" else 0.0


def refuse(bad: np.ndarray, x: np.ndarray, text: str, error: type[Exception] = ValueError, **at) -> None:
    """Raise an error if any point x (n, ...) is bad (n,), its text filled in with the first one's values."""
    if bad.any():
        place = np.array2string(x[bad][0], precision=6).removesuffix(".")
        raise error(text.format(x=place, **{name: value[bad][0] for name, value in at.items()}))
