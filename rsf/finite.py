"""Worlds small enough to know the exact answer: every law here is a sum over all outcomes, nothing is sampled.

    kept law = q A / E_q[A],   tilted law = q exp(r / beta) / Z,   best of n = differences of the n-th power of the cdf

This is the oracle that samplers are held against, so it imports nothing of rsf.
"""

import numpy as np


def accepted_law(q, acceptance):
    """Return (law, rate): the law of what is kept from q (m,) with probability `acceptance` (m,), and E_q[A]."""
    q, a = _law(q), np.asarray(acceptance, dtype=np.float64)
    if a.shape != q.shape or not ((a >= 0) & (a <= 1)).all():
        raise ValueError(f"acceptance must be {q.shape} probabilities in [0, 1], got shape {a.shape}, range [{a.min()}, {a.max()}]")
    rate = float(np.sum(q * a))
    if rate == 0:
        raise ValueError("nothing is ever kept: q * A is 0 everywhere, so the kept law does not exist")
    return q * a / rate, rate


def tilted_law(q, reward, beta):
    """Return q exp(reward / beta), normalised: the maximiser of E[reward] - beta KL(. | q)."""
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    q = _law(q)
    r = _rewards(reward, q)
    weight = q * np.exp(np.minimum(r - r[q > 0].max(), 0.0) / beta)  # where q = 0 a larger reward changes nothing
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
    rows = [nothing if (_law(q) * row == 0).all() else accepted_law(q, row) for q, row in zip(completions, a, strict=True)]
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


def _law(q):
    q = np.asarray(q, dtype=np.float64)
    if not (q >= 0).all() or not np.isclose(q.sum(), 1.0, rtol=0, atol=1e-9):
        raise ValueError(f"a law must be non-negative and sum to 1, got a sum of {q.sum()}")
    return q


def _rewards(reward, q):
    r = np.asarray(reward, dtype=np.float64)
    if r.shape != q.shape or np.isnan(r).any() or (r == np.inf).any():
        raise ValueError(f"rewards must be {q.shape} numbers below +inf, got {r}")
    return r
