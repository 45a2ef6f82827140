"""Keep a candidate with probability A = min(1, p / (k q)): the ten lines that everything else here calls.

    log A = log p - log q - log k,    kept  <=>  u < A,   u uniform on [0, 1)

Candidates from q kept this way follow p exactly if k q >= p everywhere: classical rejection sampling. Decisions are
made in NumPy float64 on the CPU, whatever computed the densities, so one seed gives the same coins everywhere.
"""

import numpy as np

ROUNDING = (
    1e-9  # log p - log q - log k may exceed 0 by this much: float64 noise, a relative error of 1e-9 in A
)


class EnvelopeError(ValueError):
    """An acceptance probability above 1: k is too small, and what would be kept follows another law than p."""


class AcceptanceStarved(RuntimeError):
    """The budget of candidates ran out, or a pass over them kept nothing. `draws` holds what was kept until then: nothing is lost."""

    def __init__(self, message, draws=None):
        super().__init__(message)
        self.draws = draws


def log_acceptance(log_p, log_q, log_k):
    """Return log p - log q - log k, not clipped: a value above 0 betrays a k that is too small.

    Parameters
    ----------
    log_p, log_q : array_like
        Log densities of target and proposal at the candidates, any shapes that broadcast. log_p may lack its constant.
    log_k : array_like
        Log of the envelope constant: finite.

    Returns
    -------
    ndarray of float64, the broadcast shape. -inf where p = 0, also where q = 0 too; +inf where only q = 0.

    Raises
    ------
    ValueError
        For NaN anywhere, log_p = +inf, or a log_k that is not finite.
    """
    log_p, log_q, log_k = (np.asarray(value, dtype=np.float64) for value in (log_p, log_q, log_k))
    if not np.isfinite(log_k).all():
        raise ValueError(f"log_k must be finite, got {log_k}: k itself must be a positive number")
    for name, value in (("log_p", log_p), ("log_q", log_q)):
        bad = np.isnan(value) | (value == np.inf)
        if bad.any():
            raise ValueError(
                f"{name} is {value[bad][0]} at index {first_index(bad)}: a log density must be a number below +inf"
            )
    log_p, log_q = np.broadcast_arrays(log_p, log_q)
    with np.errstate(invalid="ignore"):  # -inf - (-inf): p = q = 0, settled by the mask
        return np.where(np.isneginf(log_p), -np.inf, log_p - log_q - log_k)


def acceptance_probability(log_p, log_q, log_k):
    """Return min(1, p / (k q)), for formulas and pictures; same arguments and shape as `log_acceptance`."""
    return np.exp(np.minimum(log_acceptance(log_p, log_q, log_k), 0.0))


def accept(log_probability, rng, *, with_slack=False):
    """Toss one coin per candidate: True where u < A.

    Parameters
    ----------
    log_probability : array_like
        log A, any shape; -inf never passes, 0 always does.
    rng : numpy.random.Generator
        Gives one float64 per candidate, in C order, whatever A is.
    with_slack : bool
        Return also min |u - A|: how far the closest decision was from falling the other way (inf if there was none).

    Raises
    ------
    EnvelopeError
        If any log A exceeds 0 beyond rounding.
    ValueError
        If any log A is NaN.
    """
    log_a = np.asarray(log_probability, dtype=np.float64)
    if np.isnan(log_a).any():
        raise ValueError(f"the acceptance probability is NaN at index {first_index(np.isnan(log_a))}")
    if (log_a > ROUNDING).any():
        worst = np.unravel_index(np.argmax(log_a), log_a.shape)
        raise EnvelopeError(
            f"acceptance probability exp({log_a[worst]:.6g}) > 1 at index {tuple(map(int, worst))}: "
            f"k is too small; a log_k larger by {rounded_up(log_a[worst]):.6f} would do for this candidate"
        )
    a = np.exp(np.minimum(log_a, 0.0))
    u = rng.random(log_a.shape)
    return (u < a, float(np.min(np.abs(u - a), initial=np.inf))) if with_slack else u < a


def rounded_up(log_k):
    """Return log_k rounded up to six decimals, so that the number printed in a message would really do."""
    return np.ceil(float(log_k) * 1e6) / 1e6


def first_index(mask):
    """Return the index of the first True of a boolean array as a tuple of int (for messages)."""
    return tuple(int(i) for i in np.argwhere(mask)[0])
