"""Worlds small enough to know the exact answer: every law here is a sum over all outcomes, nothing is sampled.

    kept law = q A / E_q[A],   tilted law = q exp(r / beta) / Z,   best of n = differences of the n-th power of the cdf
    kept gradient = sum of q A grad l,   and the same over all batches, all coins

This is the oracle that samplers, rules and notebooks are held against, so it imports nothing of rsf. Below, a law over n listed
examples is q (n,); their losses are (n,), the gradients of these (n, d).
"""

import itertools
import math

import numpy as np


def accepted_law(q, acceptance):
    """Return (law, rate): the law of what is kept from q (m,) with probability `acceptance` (m,), and E_q[A]."""
    mass = _law(q) * _acceptance(acceptance, q)
    rate = float(np.sum(mass))
    if rate == 0:
        raise ValueError("nothing is ever kept: q * A is 0 everywhere, so the kept law does not exist")
    return mass / rate, rate


def tilted_law(q, reward, beta):
    """Return q exp(reward / beta), normalised: the maximiser of E[reward] - beta KL(. | q)."""
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    q = _law(q)
    r = _rewards(reward, q)
    weight = q * np.exp(
        np.minimum(r - r[q > 0].max(), 0.0) / beta
    )  # where q = 0 a larger reward changes nothing
    return weight / weight.sum()


def best_of_n_law(q, reward, n):
    """Return the law of the highest reward among n draws from q; draws of equal reward are equally likely to be taken."""
    if n < 1 or n != int(n):
        raise ValueError(f"n must be a whole number of at least 1, got {n}")
    q = _law(q)
    r = _rewards(reward, q)
    _, level = np.unique(r, return_inverse=True)  # outcomes of equal reward share a level
    mass = np.bincount(level, weights=q)
    at_most = np.cumsum(mass)
    best = at_most**n - (at_most - mass) ** n  # P(best of n has that level)
    return q * np.divide(best, mass, out=np.zeros_like(mass), where=mass > 0)[level]


def joint_law(prompts, completions, acceptance, *, until_accepted=False):
    """Return the joint law (prompts, completions) of what is kept.

    Parameters
    ----------
    prompts : array_like (x,)
        Law of the prompts.
    completions, acceptance : array_like (x, y)
        q(y | x), each row a law, and A(x, y).
    until_accepted : bool
        False: one number of samples per prompt, so prompts are tilted by their acceptance rate. True: sampled until one is
        kept, so the law of the prompts stays.
    """
    rho, a = _law(prompts), np.asarray(acceptance, dtype=np.float64)
    if not len(rho) == len(completions) == len(a):
        raise ValueError(
            f"need a row of completions and of acceptances for each prompt, got {len(rho)} prompts, {len(completions)} and {len(a)} rows"
        )
    nothing = np.zeros(a.shape[1]), 0.0
    rows = [
        nothing if (_law(q) * row == 0).all() else accepted_law(q, row)
        for q, row in zip(completions, a, strict=True)
    ]
    conditional, rates = np.array([law for law, _ in rows]), np.array([rate for _, rate in rows])
    if until_accepted:
        if (rates[rho > 0] == 0).any():
            raise ValueError(
                f"prompt {int(np.flatnonzero((rates == 0) & (rho > 0))[0])} has no completion that is ever kept: sampling until accepted would not end"
            )
        return rho[:, None] * conditional
    if not (rho * rates).sum() > 0:
        raise ValueError("nothing is ever kept: every prompt's acceptance rate is 0")
    return (rho * rates / np.sum(rho * rates))[:, None] * conditional


def kl(p, q):
    """Return KL(p | q) in nats; inf where p has mass that q lacks."""
    p, q = _law(p), _law(q)
    if p.shape != q.shape:
        raise ValueError(f"both laws must be on the same outcomes, got shapes {p.shape} and {q.shape}")
    there = p > 0
    if (q[there] == 0).any():
        return float("inf")
    return float(np.sum(p[there] * np.log(p[there] / q[there])))


def logistic(x, y, theta):
    """Return losses (n,) and gradients (n, d) of log(1 + exp(-y x.theta)): x (n, d), labels y (n,) -1 or 1, theta (d,)."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not (np.abs(y) == 1).all():
        raise ValueError(f"labels must be -1 or 1, got {np.unique(y)}")
    score = y * (x @ theta)
    slope = -y * np.exp(-np.logaddexp(0.0, score))  # d loss / d (x.theta) = -y / (1 + exp(score))
    return np.logaddexp(0.0, -score), slope[..., None] * x


def kept_gradient(q, acceptance, gradients):
    """Return E[A grad l] (d,): the expected gradient of a candidate, rejected ones counted as zero.

    Another dropout mask for scoring: pass A and the gradients each averaged over its masks. The same mask: list every pair of
    example and mask as an example of its own.
    """
    return (_law(q) * _acceptance(acceptance, q)) @ np.asarray(gradients, dtype=np.float64)


def all_batches(q, size):
    """Return all batches of `size` examples drawn from q, order ignored: members (m, size) as indices, and their law (m,)."""
    q = _law(q)
    if size < 1 or size != int(size) or math.comb(len(q) + size - 1, size) > 10**6:
        raise ValueError(
            f"cannot list all batches of {size} of {len(q)} examples: there must be 1 to 10**6 of them"
        )
    members = np.array(list(itertools.combinations_with_replacement(range(len(q)), size)))
    times = (members[:, :, None] == np.arange(len(q))).sum(axis=1)  # (m, n)
    orders = np.array([math.factorial(size) / math.prod(map(math.factorial, row)) for row in times.tolist()])
    return members, orders * np.prod(q**times, axis=1)


def batch_gradient(q, losses, gradients, size, acceptance):
    """Return E[A(mean loss of a batch) grad (mean loss)] (d,): one coin decides for a batch; `acceptance` is a function of means (m,)."""
    members, law = all_batches(q, size)
    losses, gradients = np.asarray(losses, dtype=np.float64), np.asarray(gradients, dtype=np.float64)
    return kept_gradient(law, acceptance(losses[members].mean(axis=1)), gradients[members].mean(axis=1))


def weighted_gradient(q, acceptance, gradients, size, divide_by="candidates"):
    """Return (mean (d,), variance) of the gradient of one batch whose kept examples have weights 1 / A, over all batches and coins.

    The variance is E|gradient - mean|^2. A batch of `size` candidates gives sum of g / A over the kept, divided by `size`
    ("candidates"), by their number ("kept") or by the sum of 1 / A ("weights"); by 1 where nothing was kept.
    """
    q, a, g = _law(q), _acceptance(acceptance, q), np.asarray(gradients, dtype=np.float64)
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


def expected_max(q, values, n):
    """Return E[max of n values drawn from q]."""
    return float(best_of_n_law(q, values, n) @ values)


def tail_law(q, losses, rate):
    """Return the law of the worst 1 - rate share: its mean loss is the CVaR, its mean gradient the CVaR's; ties share what is left."""
    q, losses = _law(q), np.asarray(losses, dtype=np.float64)
    if not 0 <= rate < 1:
        raise ValueError(f"rate must lie in [0, 1), got {rate}")
    worse = np.array([q[losses > loss].sum() for loss in losses])
    tied = np.array([q[losses == loss].sum() for loss in losses])
    share = np.clip(np.divide(1 - rate - worse, tied, out=np.zeros_like(q), where=tied > 0), 0.0, 1.0)
    return q * share / (1 - rate)


def cvar(q, losses, rate):
    """Return CVaR_rate: the mean of the worst 1 - rate share of the losses."""
    return float(tail_law(q, losses, rate) @ losses)


def clip_level(q, losses, rate):
    """Return the k with E[min(1, loss / k)] = 1 - rate: between two losses that is k = E[loss; loss <= k] / (1 - rate - P(loss > k))."""
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


def jacobian(field, theta, step=1e-3):
    """Return d field_i / d theta_j (..., d) by five-point differences, error of order step^4; of a scalar function its gradient.

    The functions must be smooth within two steps of theta: no kink or jump may lie there.
    """
    theta = np.asarray(theta, dtype=np.float64)
    columns = []
    for h in step * np.eye(len(theta)):
        far, near = (np.asarray(field(theta + m * h)) - np.asarray(field(theta - m * h)) for m in (2, 1))
        columns.append((8 * near - far) / (12 * step))
    return np.stack(columns, axis=-1)


def asymmetry(matrix):
    """Return |M - M^T| / (2 |M|), Frobenius: 0 for the Jacobian of a gradient, 1 for a pure rotation."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return float(np.linalg.norm(matrix - matrix.T) / (2 * np.linalg.norm(matrix)))


class TablePolicy:
    """An autoregressive model small enough to list: `length` symbols, each drawn from the row of a table that the prefix chooses.

    Parameters
    ----------
    logits : array_like (prefixes, m)
        A row for each prefix of length 0, 1, ..., length - 1, shorter ones first, then in dictionary order: 1 + m + m^2 + ... rows.

    Attributes
    ----------
    strings : ndarray of int (m^length, length), all of them in dictionary order; laws, samples and weights refer to this order
    """

    def __init__(self, logits):
        self.logits = np.asarray(logits, dtype=np.float64)
        rows, m = self.logits.shape if self.logits.ndim == 2 else (0, 0)
        length = next((n for n in range(1, rows + 1) if sum(m**t for t in range(n)) >= rows), 0)
        if m < 2 or not rows or sum(m**t for t in range(length)) != rows:
            raise ValueError(
                f"a table needs 1, 1 + m, 1 + m + m^2, ... rows of m >= 2 logits, got shape {self.logits.shape}"
            )
        if not (self.logits < np.inf).all() or np.isneginf(self.logits).all(axis=1).any():
            raise ValueError("logits must be numbers below +inf, not all -inf in a row")
        self.strings = np.indices((m,) * length).reshape(length, -1).T
        self._rows = np.zeros_like(self.strings)  # the row that each symbol of each string is drawn from
        for t in range(1, length):
            self._rows[:, t] = self._next(self._rows[:, t - 1], self.strings[:, t - 1])

    def log_law(self):
        """Return the log-probability of each string (m^length,)."""
        return self._log_p()[self._rows, self.strings].sum(axis=1)

    def law(self):
        """Return the probability of each string (m^length,)."""
        return np.exp(self.log_law())

    def sample(self, size, rng):
        """Return indices into `strings` (size,): symbol by symbol, each by inversion of its row's distribution function."""
        cdf, row = np.cumsum(np.exp(self._log_p()), axis=1), np.zeros(size, dtype=int)
        below = (cdf / cdf[:, -1:])[:, :-1]  # ends at exactly 1: no coin reaches a symbol of probability 0
        for _ in range(self.strings.shape[1]):
            row = self._next(row, (rng.random(size)[:, None] >= below[row]).sum(axis=1))
        return row - len(self.logits)  # full strings would be the next rows of the table

    def score(self):
        """Return the gradient of `log_law` with respect to the logits, (m^length, prefixes * m)."""
        p, out = np.exp(self._log_p()), np.zeros((len(self.strings), *self.logits.shape))
        every = np.arange(len(self.strings))[:, None]
        out[every, self._rows] = -p[self._rows]
        out[every, self._rows, self.strings] += 1.0
        return out.reshape(len(self.strings), -1)

    def fitted(self, weights):
        """Return the policy with the largest sum of weights * log_law, weights (m^length,) >= 0; rows that no weight reaches stay."""
        w, counts = np.asarray(weights, dtype=np.float64), np.zeros_like(self.logits)
        if w.shape != (len(self.strings),) or not (w >= 0).all() or not 0 < w.sum() < np.inf:
            raise ValueError(
                f"need {len(self.strings)} finite weights >= 0, not all 0, got shape {w.shape}, sum {w.sum()}"
            )
        np.add.at(counts, (self._rows, self.strings), w[:, None])
        with np.errstate(divide="ignore"):  # log 0 = -inf: never drawn
            return TablePolicy(np.where(counts.sum(axis=1, keepdims=True) > 0, np.log(counts), self.logits))

    def _log_p(self):
        return self.logits - np.logaddexp.reduce(self.logits, axis=1, keepdims=True)

    def _next(self, row, symbol):
        return (
            self.logits.shape[1] * row + 1 + symbol
        )  # the row of a prefix extended by a symbol, as in a heap


def _law(q):
    q = np.asarray(q, dtype=np.float64)
    if not (q >= 0).all() or not np.isclose(q.sum(), 1.0, rtol=0, atol=1e-9):
        raise ValueError(f"a law must be non-negative and sum to 1, got a sum of {q.sum()}")
    return q


def _acceptance(acceptance, q):
    a = np.asarray(acceptance, dtype=np.float64)
    if a.shape != np.shape(q) or not ((a >= 0) & (a <= 1)).all():
        raise ValueError(
            f"acceptance must be {np.shape(q)} probabilities in [0, 1], got shape {a.shape}, range [{a.min()}, {a.max()}]"
        )
    return a


def _rewards(reward, q):
    r = np.asarray(reward, dtype=np.float64)
    if r.shape != q.shape or np.isnan(r).any() or (r == np.inf).any():
        raise ValueError(f"rewards must be {q.shape} numbers below +inf, got {r}")
    return r
