"""Worlds small enough to know the exact answer: a law here is a sum over all outcomes, nothing is sampled.

    kept law = q A / E_q[A],    tilted law = q exp(r / beta) / Z
    best of n = differences of the n-th power of the distribution function
    kept gradient = sum of q A grad l, and the same over all batches and all coins

This is the oracle that samplers, rules and notebooks are held against, so it imports nothing of rsf. Below, a
law over n listed examples is q (n,); their losses are (n,), the gradients of these (n, d).
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def accepted_law(q: ArrayLike, acceptance: ArrayLike) -> tuple[np.ndarray, float]:
    """Return the law of what is kept from q (m,) with probability `acceptance` (m,), and its rate E_q[A].

    >>> law, rate = accepted_law([0.5, 0.5], [1.0, 0.5])
    >>> law.round(4).tolist(), rate
    ([0.6667, 0.3333], 0.75)
    """
    mass = _law(q) * _acceptance(acceptance, q)
    rate = float(np.sum(mass))
    if rate == 0:
        raise ValueError("nothing is ever kept: q * A is 0 everywhere, so the kept law does not exist")
    return mass / rate, rate


def tilted_law(q: ArrayLike, reward: ArrayLike, beta: float) -> np.ndarray:
    """Return q exp(reward / beta), normalised: the maximiser of E[reward] - beta KL(. | q).

    >>> tilted_law([0.5, 0.5], [0.0, 1.0], 1.0).round(4).tolist()
    [0.2689, 0.7311]
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    q, r = _rewarded(q, reward)
    weight = q * np.exp(np.minimum(r - r[q > 0].max(), 0.0) / beta)  # where q = 0 a larger r changes nothing
    return weight / weight.sum()


def best_of_n_law(q: ArrayLike, reward: ArrayLike, n: int) -> np.ndarray:
    """Return the law of the highest reward among n draws from q; among ties each draw is equally likely.

    >>> best_of_n_law([0.5, 0.5], [0.0, 1.0], 2).tolist()
    [0.25, 0.75]
    """
    if n < 1 or n != int(n):
        raise ValueError(f"n must be a whole number of at least 1, got {n}")
    q, r = _rewarded(q, reward)
    _, level = np.unique(r, return_inverse=True)  # outcomes of equal reward share a level
    mass = np.bincount(level, weights=q)
    at_most = np.cumsum(mass)
    best = at_most**n - (at_most - mass) ** n  # P(best of n has that level)
    return q * np.divide(best, mass, out=np.zeros_like(mass), where=mass > 0)[level]


def joint_law(
    prompts: ArrayLike, completions: ArrayLike, acceptance: ArrayLike, *, until_accepted: bool = False
) -> np.ndarray:
    """Return the joint law (prompts, completions) of what is kept.

    Parameters
    ----------
    prompts : array_like (x,)
        Law of the prompts.
    completions, acceptance : array_like (x, y)
        q(y | x), each row a law, and A(x, y).
    until_accepted : bool
        False: one number of samples per prompt, so prompts are tilted by their acceptance rate. True: sampled
        until one is kept, so the law of the prompts stays.

    Examples
    --------
    >>> joint_law([0.5, 0.5], [[1.0], [1.0]], [[0.9], [0.1]]).round(4).tolist()
    [[0.9], [0.1]]
    >>> joint_law([0.5, 0.5], [[1.0], [1.0]], [[0.9], [0.1]], until_accepted=True).tolist()
    [[0.5], [0.5]]
    """
    rho, a = _law(prompts), np.asarray(acceptance, dtype=np.float64)
    if not len(rho) == len(completions) == len(a):
        raise ValueError(
            f"need a row of completions and of acceptances for each prompt, got {len(rho)} prompts, "
            f"{len(completions)} and {len(a)} rows"
        )
    rows = [
        accepted_law(q, row) if (_law(q) * row != 0).any() else (np.zeros(len(row)), 0.0)
        for q, row in zip(completions, a, strict=True)
    ]
    conditional, rates = (np.array(column) for column in zip(*rows, strict=True))
    if until_accepted:
        if (rates[rho > 0] == 0).any():
            raise ValueError(
                f"prompt {int(np.flatnonzero((rates == 0) & (rho > 0))[0])} has no completion that is ever "
                "kept: sampling until accepted would not end"
            )
        return rho[:, None] * conditional
    if not (rho * rates).sum() > 0:
        raise ValueError("nothing is ever kept: every prompt's acceptance rate is 0")
    return (rho * rates / np.sum(rho * rates))[:, None] * conditional


def kl(p: ArrayLike, q: ArrayLike) -> float:
    """Return KL(p | q) in nats; inf where p has mass that q lacks.

    >>> round(kl([1.0, 0.0], [0.5, 0.5]), 6)
    0.693147
    """
    p, q = _law(p), _law(q)
    if p.shape != q.shape:
        raise ValueError(f"both laws must be on the same outcomes, got shapes {p.shape} and {q.shape}")
    there = p > 0
    if (q[there] == 0).any():
        return float("inf")
    return float(np.sum(p[there] * np.log(p[there] / q[there])))


def logistic(x: ArrayLike, y: ArrayLike, theta: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return losses (n,) and gradients (n, d) of log(1 + exp(-y x.theta)).

    The inputs are x (n, d), the labels y (n,) are -1 or 1, and theta is (d,).

    >>> loss, gradient = logistic([[2.0]], [1], [0.0])
    >>> loss.round(4).tolist(), gradient.tolist()
    ([0.6931], [[-1.0]])
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not (np.abs(y) == 1).all():
        raise ValueError(f"labels must be -1 or 1, got {np.unique(y)}")
    score = y * (x @ theta)
    slope = -y * np.exp(-np.logaddexp(0.0, score))  # d loss / d (x.theta) = -y / (1 + exp(score))
    return np.logaddexp(0.0, -score), slope[..., None] * x


def kept_gradient(q: ArrayLike, acceptance: ArrayLike, gradients: ArrayLike) -> np.ndarray:
    """Return E[A grad l] (d,): the expected gradient of a candidate, rejected ones counted as zero.

    Another dropout mask for scoring: pass A and the gradients each averaged over its masks. The same mask:
    list every pair of example and mask as an example of its own.

    >>> kept_gradient([0.5, 0.5], [1.0, 0.5], [[2.0], [4.0]]).tolist()
    [2.0]
    """
    return (_law(q) * _acceptance(acceptance, q)) @ np.asarray(gradients, dtype=np.float64)


def all_batches(q: ArrayLike, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all batches of `size` examples drawn from q, order ignored: indices (m, size), law (m,).

    >>> members, law = all_batches([0.5, 0.5], 2)
    >>> members.tolist(), law.tolist()
    ([[0, 0], [0, 1], [1, 1]], [0.25, 0.5, 0.25])
    """
    q = _law(q)
    if size < 1 or size != int(size) or math.comb(len(q) + size - 1, size) > 10**6:
        raise ValueError(
            f"cannot list all batches of {size} of {len(q)} examples: there must be 1 to 10**6 of them"
        )
    members = np.array(list(itertools.combinations_with_replacement(range(len(q)), size)))
    times = (members[:, :, None] == np.arange(len(q))).sum(axis=1)  # (m, n)
    orders = np.array([math.factorial(size) / math.prod(map(math.factorial, row)) for row in times.tolist()])
    return members, orders * np.prod(q**times, axis=1)


def batch_gradient(
    q: ArrayLike,
    losses: ArrayLike,
    gradients: ArrayLike,
    size: int,
    acceptance: Callable[[np.ndarray], ArrayLike],
) -> np.ndarray:
    """Return E[A(mean loss of a batch) grad (mean loss)] (d,): one coin decides for a batch.

    `acceptance` is a function of the batches' mean losses (m,).

    >>> batch_gradient([0.5, 0.5], [0.0, 1.0], [[2.0], [4.0]], 2, lambda mean: mean)
    array([1.75])
    """
    members, law = all_batches(q, size)
    losses, gradients = np.asarray(losses, dtype=np.float64), np.asarray(gradients, dtype=np.float64)
    return kept_gradient(law, acceptance(losses[members].mean(axis=1)), gradients[members].mean(axis=1))


def weighted_gradient(
    q: ArrayLike, acceptance: ArrayLike, gradients: ArrayLike, size: int, divide_by: str = "candidates"
) -> tuple[np.ndarray, float]:
    """Return mean (d,) and variance of the gradient of a batch whose kept examples have weights 1 / A.

    They are over all batches and all coins; the variance is E|gradient - mean|^2. A batch of `size`
    candidates gives the sum of g / A over the kept, divided by `size` ("candidates"), by their number
    ("kept") or by the sum of 1 / A ("weights"); by 1 where nothing was kept.

    >>> mean, variance = weighted_gradient([1.0], [0.5], [[3.0]], 1)
    >>> mean.tolist(), variance
    ([3.0], 9.0)
    """
    q, g = _law(q), np.asarray(gradients, dtype=np.float64)
    a = _acceptance(acceptance, q)
    members, probability = all_batches(np.append(q * a, q @ (1 - a)), size)  # outcome n: rejected
    w = np.append(np.divide(1.0, a, out=np.zeros_like(a), where=a > 0), 0.0)
    divisors = {
        "candidates": np.full(len(members), size),
        "kept": (members < len(q)).sum(axis=1),
        "weights": w[members].sum(axis=1),
    }
    if divide_by not in divisors:
        raise ValueError(f"divide_by must be one of {sorted(divisors)}, got {divide_by!r}")
    total = (w[:, None] * np.vstack([g, np.zeros(g.shape[1])]))[members].sum(axis=1)  # (m, d)
    estimate = total / np.where(divisors[divide_by] > 0, divisors[divide_by], 1)[:, None]
    mean = probability @ estimate
    return mean, float(probability @ ((estimate - mean) ** 2).sum(axis=1))


def expected_max(q: ArrayLike, values: ArrayLike, n: int) -> float:
    """Return E[max of n values drawn from q].

    >>> expected_max([0.5, 0.5], [0.0, 1.0], 2)
    0.75
    """
    return float(best_of_n_law(q, values, n) @ values)


def tail_law(q: ArrayLike, losses: ArrayLike, rate: float) -> np.ndarray:
    """Return the law of the worst 1 - rate share; tied examples share what is left of it.

    Its mean loss is the CVaR, its mean gradient the CVaR's.

    >>> tail_law([0.25, 0.25, 0.25, 0.25], [1.0, 2.0, 3.0, 4.0], 0.5).tolist()
    [0.0, 0.0, 0.5, 0.5]
    """
    q, losses = _law(q), np.asarray(losses, dtype=np.float64)
    if not 0 <= rate < 1:
        raise ValueError(f"rate must lie in [0, 1), got {rate}")
    worse = np.array([q[losses > loss].sum() for loss in losses])
    tied = np.array([q[losses == loss].sum() for loss in losses])
    share = np.clip(np.divide(1 - rate - worse, tied, out=np.zeros_like(q), where=tied > 0), 0.0, 1.0)
    return q * share / (1 - rate)


def cvar(q: ArrayLike, losses: ArrayLike, rate: float) -> float:
    """Return CVaR_rate: the mean of the worst 1 - rate share of the losses.

    >>> cvar([0.25, 0.25, 0.25, 0.25], [1.0, 2.0, 3.0, 4.0], 0.5)
    3.5
    """
    return float(tail_law(q, losses, rate) @ losses)


def clip_level(q: ArrayLike, losses: ArrayLike, rate: float) -> float:
    """Return the k with E[min(1, loss / k)] = 1 - rate.

    Between two losses that is k = E[loss; loss <= k] / (1 - rate - P(loss > k)).

    >>> clip_level([0.5, 0.5], [1.0, 3.0], 0.5)
    4.0
    """
    q, losses = _law(q), np.asarray(losses, dtype=np.float64)
    levels = np.unique(losses[(losses > 0) & (q > 0)])
    mean_a = np.array([q @ np.minimum(1.0, losses / k) for k in levels])  # falls as k rises
    reached = levels[mean_a >= 1 - rate - 1e-15]
    if not 0 <= rate < 1 or not len(reached):
        raise ValueError(
            f"no k rejects {rate} of these losses: at the most {mean_a.max(initial=0.0)} can be kept"
        )
    below = losses <= reached[-1]
    return float(q[below] @ losses[below] / (1 - rate - q[~below].sum()))


def jacobian(field: Callable[[np.ndarray], ArrayLike], theta: ArrayLike, step: float = 1e-3) -> np.ndarray:
    """Return d field_i / d theta_j (..., d) by five-point differences; of a scalar function, its gradient.

    The error is of order step^4. The functions must be smooth within two steps of theta: no kink or jump may
    lie there.

    >>> jacobian(lambda t: t[0] * t[1], [2.0, 3.0]).round(9).tolist()
    [3.0, 2.0]
    """
    theta = np.asarray(theta, dtype=np.float64)
    columns = []
    for h in step * np.eye(len(theta)):
        far, near = (np.asarray(field(theta + m * h)) - np.asarray(field(theta - m * h)) for m in (2, 1))
        columns.append((8 * near - far) / (12 * step))
    return np.stack(columns, axis=-1)


def asymmetry(matrix: ArrayLike) -> float:
    """Return |M - M^T| / (2 |M|), Frobenius: 0 for the Jacobian of a gradient, 1 for a pure rotation.

    >>> asymmetry([[0.0, 1.0], [-1.0, 0.0]])
    1.0
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    return float(np.linalg.norm(matrix - matrix.T) / (2 * np.linalg.norm(matrix)))


class TablePolicy:
    """An autoregressive model small enough to list: its prefix chooses the row that a symbol is drawn from.

    Parameters
    ----------
    logits : array_like (prefixes, m)
        A row for each prefix of length 0, 1, ..., length - 1, shorter ones first, then in dictionary order:
        1 + m + m^2 + ... rows.

    Attributes
    ----------
    strings : ndarray of int (m^length, length)
        All strings, in dictionary order; laws, samples and weights refer to this order.

    Examples
    --------
    >>> policy = TablePolicy(np.log([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]))
    >>> policy.strings.tolist(), policy.law().round(4).tolist()
    ([[0, 0], [0, 1], [1, 0], [1, 1]], [0.45, 0.05, 0.1, 0.4])
    """

    def __init__(self, logits: ArrayLike) -> None:
        self.logits = np.asarray(logits, dtype=np.float64)
        rows, m = self.logits.shape if self.logits.ndim == 2 else (0, 0)
        length = next((n for n in range(1, rows + 1) if sum(m**t for t in range(n)) >= rows), 0)
        if m < 2 or not rows or sum(m**t for t in range(length)) != rows:
            raise ValueError(
                "a table needs 1, 1 + m, 1 + m + m^2, ... rows of m >= 2 logits, "
                f"got shape {self.logits.shape}"
            )
        if not (self.logits < np.inf).all() or np.isneginf(self.logits).all(axis=1).any():
            raise ValueError("logits must be numbers below +inf, not all -inf in a row")
        self.strings = np.indices((m,) * length).reshape(length, -1).T
        self._rows = np.zeros_like(self.strings)  # the row that each symbol of each string is drawn from
        for t in range(1, length):
            self._rows[:, t] = self._next(self._rows[:, t - 1], self.strings[:, t - 1])

    def log_law(self) -> np.ndarray:
        """Return the log-probability of each string (m^length,)."""
        return self._log_p()[self._rows, self.strings].sum(axis=1)

    def law(self) -> np.ndarray:
        """Return the probability of each string (m^length,)."""
        return np.exp(self.log_law())

    def sample(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Return indices into `strings` (size,), drawn symbol by symbol, by inversion of each row's cdf."""
        cdf = np.cumsum(np.exp(self._log_p()), axis=1)
        below = (cdf / cdf[:, -1:])[:, :-1]  # ends at exactly 1: no coin reaches a symbol of probability 0
        row = np.zeros(size, dtype=int)
        for _ in range(self.strings.shape[1]):
            row = self._next(row, (rng.random(size)[:, None] >= below[row]).sum(axis=1))
        return row - len(self.logits)  # full strings would be the next rows of the table

    def score(self) -> np.ndarray:
        """Return the gradient of `log_law` with respect to the logits, (m^length, prefixes * m)."""
        p = np.exp(self._log_p())
        out = np.zeros((len(self.strings), *self.logits.shape))
        every = np.arange(len(self.strings))[:, None]
        out[every, self._rows] = -p[self._rows]
        out[every, self._rows, self.strings] += 1.0
        return out.reshape(len(self.strings), -1)

    def fitted(self, weights: ArrayLike) -> "TablePolicy":
        """Return the policy with the largest sum of weights * log_law; rows that no weight reaches stay.

        The weights (m^length,) must be >= 0.
        """
        w = np.asarray(weights, dtype=np.float64)
        if w.shape != (len(self.strings),) or not (w >= 0).all() or not 0 < w.sum() < np.inf:
            raise ValueError(
                f"need {len(self.strings)} finite weights >= 0, not all 0, got shape {w.shape}, sum {w.sum()}"
            )
        counts = np.zeros_like(self.logits)
        np.add.at(counts, (self._rows, self.strings), w[:, None])
        with np.errstate(divide="ignore"):  # log 0 = -inf: never drawn
            return TablePolicy(np.where(counts.sum(axis=1, keepdims=True) > 0, np.log(counts), self.logits))

    def _log_p(self) -> np.ndarray:
        return self.logits - np.logaddexp.reduce(self.logits, axis=1, keepdims=True)

    def _next(self, row: np.ndarray, symbol: np.ndarray) -> np.ndarray:
        """Return the row of a prefix extended by a symbol: they are numbered as the nodes of a heap."""
        return self.logits.shape[1] * row + 1 + symbol


def _law(q: ArrayLike) -> np.ndarray:
    q = np.asarray(q, dtype=np.float64)
    if not (q >= 0).all() or not np.isclose(q.sum(), 1.0, rtol=0, atol=1e-9):
        raise ValueError(f"a law must be non-negative and sum to 1, got a sum of {q.sum()}")
    return q


def _acceptance(acceptance: ArrayLike, q: ArrayLike) -> np.ndarray:
    a = np.asarray(acceptance, dtype=np.float64)
    if a.shape != np.shape(q) or not ((a >= 0) & (a <= 1)).all():
        raise ValueError(
            f"acceptance must be {np.shape(q)} probabilities in [0, 1], got shape {a.shape}, "
            f"range [{a.min()}, {a.max()}]"
        )
    return a


def _rewarded(q: ArrayLike, reward: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    q, r = _law(q), np.asarray(reward, dtype=np.float64)
    if r.shape != q.shape or np.isnan(r).any() or (r == np.inf).any():
        raise ValueError(f"rewards must be {q.shape} numbers below +inf, got {r}")
    return q, r
