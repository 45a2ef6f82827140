"""Keep a candidate with probability A = min(1, p / (k q)): the ten lines that everything else here calls.

    log A = log p - log q - log k,    kept  <=>  u < A,   u uniform on [0, 1)

Candidates from q kept this way follow p exactly if k q >= p everywhere: classical rejection sampling (von
Neumann 1951). Decisions are made in NumPy float64 on the CPU, whatever computed the densities, so one seed
gives the same coins everywhere.
"""

import logging
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

ROUNDING = 1e-9  # log A may exceed 0 by this much: noise of float64, a relative error of 1e-9 in A

logger = logging.getLogger("rsf")


class EnvelopeError(ValueError):
    """An acceptance probability above 1: k is too small, and what would be kept does not follow p."""


class AcceptanceStarved(RuntimeError):
    """The budget of candidates ran out, or a pass over them kept nothing.

    `draws` holds what was kept until then, so that nothing is lost.
    """

    def __init__(self, message: str, draws: object = None) -> None:
        super().__init__(message)
        self.draws = draws


def refuse_if(wrong: object, message: str, error: type[Exception] = ValueError) -> None:
    """Raise an error with this message if something is wrong.

    >>> refuse_if(1 > 2, "1 is larger than 2")
    """
    if wrong:
        raise error(message)


def warn_if(doubtful: object, message: str) -> None:
    """Log a warning with this message if something is doubtful, but may be meant."""
    if doubtful:
        logger.warning(message)


def refuse_where(
    wrong: np.ndarray, message: str, error: type[Exception] = ValueError, **values: np.ndarray
) -> None:
    """Raise an error if something is wrong anywhere, its message filled in with the first place.

    `values` are arrays of the same shape, or with more axes behind; the message gets theirs at that place.

    >>> refuse_where(np.array([False, False]), "{r} at index {place} is wrong", r=np.array([1.0, 2.0]))
    """
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise error(message.format(place=place, **{name: at[place] for name, at in values.items()}))


def whole(name: str, number: object, least: int = 1) -> int:
    """Return a number as an int; refuse what is no whole number, or below the least one allowed.

    >>> whole("size", 2.0)
    2
    """
    refuse_if(
        not (isinstance(number, Real) and float(number).is_integer() and number >= least),
        f"{name} must be a whole number of at least {least}, got {number!r}",
    )
    return int(number)


@np.errstate(invalid="ignore")  # -inf - (-inf), where p = q = 0: np.where settles it
def log_acceptance(log_p: ArrayLike, log_q: ArrayLike, log_k: ArrayLike) -> np.ndarray:
    """Return log p - log q - log k, not clipped: a value above 0 betrays a k that is too small.

    Parameters
    ----------
    log_p, log_q : array_like
        Log densities of target and proposal at the candidates, any shapes that broadcast. log_p may lack its
        constant.
    log_k : array_like
        Log of the envelope constant: finite.

    Returns
    -------
    ndarray of float64, the broadcast shape. -inf where p = 0, also where q = 0 too; +inf where only q = 0.

    Raises
    ------
    ValueError
        For NaN anywhere, log_p = +inf, or a log_k that is not finite.

    Examples
    --------
    >>> log_acceptance([-1.0, -2.0], [-1.0, -1.0], 0.5).tolist()
    [-0.5, -1.5]
    """
    log_p, log_q, log_k = (np.asarray(value, dtype=np.float64) for value in (log_p, log_q, log_k))
    refuse_where(
        ~np.isfinite(log_k), "log_k must be finite, got {k}: k itself must be a positive number", k=log_k
    )
    for name, value in (("log_p", log_p), ("log_q", log_q)):
        refuse_where(
            np.isnan(value) | (value == np.inf),
            name + " is {value} at index {place}: a log density must be a number below +inf",
            value=value,
        )
    return np.where(np.isneginf(log_p), -np.inf, log_p - log_q - log_k)


def acceptance_probability(log_p: ArrayLike, log_q: ArrayLike, log_k: ArrayLike) -> np.ndarray:
    """Return min(1, p / (k q)), for formulas and pictures; same arguments and shape as `log_acceptance`.

    >>> acceptance_probability(np.log([1, 2, 8]), np.log([1, 1, 2]), np.log(4)).round(6).tolist()
    [0.25, 0.5, 1.0]
    """
    return np.exp(np.minimum(log_acceptance(log_p, log_q, log_k), 0.0))


def accept(
    log_probability: ArrayLike, rng: np.random.Generator, *, with_slack: bool = False
) -> np.ndarray | tuple[np.ndarray, float]:
    """Toss one coin per candidate: True where u < A.

    Parameters
    ----------
    log_probability : array_like
        log A, any shape; -inf never passes, 0 always does.
    rng : numpy.random.Generator
        Gives one float64 per candidate, in C order, whatever A is.
    with_slack : bool
        Return also min |u - A|: how far the closest decision was from falling the other way (inf if there
        was none).

    Raises
    ------
    EnvelopeError
        If any log A exceeds 0 beyond rounding.
    ValueError
        If any log A is NaN.

    Examples
    --------
    >>> accept([0.0, -np.inf, np.log(0.5)], np.random.default_rng(0)).tolist()
    [True, False, True]
    """
    log_a = np.asarray(log_probability, dtype=np.float64)
    refuse_where(np.isnan(log_a), "the acceptance probability is NaN at index {place}")
    if (log_a > ROUNDING).any():
        worst = np.unravel_index(np.argmax(log_a), log_a.shape)
        raise EnvelopeError(
            f"acceptance probability exp({log_a[worst]:.6g}) > 1 at index {tuple(map(int, worst))}: "
            f"k is too small; a log_k larger by {rounded_up(log_a[worst]):.6f} would do for this candidate"
        )
    a = np.exp(np.minimum(log_a, 0.0))
    u = rng.random(log_a.shape)
    kept = u < a
    return (kept, float(np.min(np.abs(u - a), initial=np.inf))) if with_slack else kept


def rounded_up(log_k: float) -> float:
    """Return log_k rounded up to six decimals, so that the number printed in a message would really do.

    >>> rounded_up(0.25000010000000003)
    0.250001
    """
    return float(np.ceil(float(log_k) * 1e6) / 1e6)
