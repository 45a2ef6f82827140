"""A rule maps criterion values (losses, errors, rewards) to acceptance probabilities: all rules, fixed (`rsf.pointwise`) or from the past.

    rule(criterion) -> A      rule.log_probability(criterion) -> what `accept` takes      rule.surrogate(criterion) -> Phi, Phi' = A

Calling a rule changes nothing: it decides from the past; whoever applies it calls `observe` after each block. Rules that look at the
past move with the model, so they have no fixed surrogate, and say so.
"""

from collections import deque

import numpy as np

from rsf.pointwise import (
    Rule,
    above,
    best_of,
    checked,
    clipped,
    constant,
    easy,
    effective_sample_size,
    inverse_weights,
    positive,
    tilted,
)

__all__ = [
    "Rule",
    "above",
    "at_rate",
    "best_of",
    "clipped",
    "constant",
    "easy",
    "effective_sample_size",
    "inverse_weights",
    "percentile",
    "random_like",
    "tilted",
]


class _FromThePast:
    """A rule that decides from the last `window` criterion values observed, and says why it has no fixed surrogate."""

    needs_criterion, group = True, 1

    def __init__(self, window):
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.window, self._past = window, deque(maxlen=window)

    def __call__(self, criterion):
        return np.exp(self.log_probability(criterion))

    def log_probability(self, criterion):
        with np.errstate(divide="ignore"):
            return np.log(self._probability(checked(criterion)))

    def observe(self, criterion):
        self._past.extend(checked(criterion).ravel().tolist())

    def state_dict(self):
        return {"past": list(self._past)}

    def load_state_dict(self, state):
        self._past = deque(state["past"], maxlen=self.window)
        self.observe([])


class percentile(_FromThePast):
    """Selective-Backprop: A = (share of the recent past that is not above r) ** power. Before anything was observed it keeps everything.

    It has no pointwise surrogate; on a fixed law of losses it descends E[max of power + 1 losses] / (power + 1).
    (Jiang et al. 2019, arXiv 1910.00762.)
    """

    def __init__(self, power, window=512):
        super().__init__(window)
        self.power = positive("power", power)

    def _probability(self, r):
        past = np.sort(self._past)
        return (np.searchsorted(past, r, side="right") / len(past)) ** self.power if len(past) else np.ones(r.shape)

    def surrogate(self, criterion):
        raise ValueError(
            f"{self} has no pointwise surrogate: it looks at ranks; it descends E[max of {self.power + 1:g} losses] / {self.power + 1:g}"
        )

    def __str__(self):
        return f"percentile^{self.power:g}"


class at_rate(_FromThePast):
    """A family of rules, family(k), at a rejection rate: k solves mean A = 1 - rate on the recent past.

    Where no k does (a jump, such as equal losses under `above`), two neighbours are mixed so that the rate holds; with all losses zero under
    `clipped` that is a blind coin of 1 - rate. Before anything was observed it keeps at 1 - rate. Mean A must be monotone in k.
    """

    def __init__(self, family, rate, window=256):
        super().__init__(window)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must lie in [0, 1), got {rate}")
        self.family, self.rate = family, float(rate)
        self._more, self._fewer, self._share = constant(1 - self.rate), constant(0), 1.0

    def observe(self, criterion):
        super().observe(criterion)
        if self._past:
            self._solve(np.array(self._past))

    def _solve(self, past):
        wanted = 1 - self.rate
        try:  # a threshold may be any number, a clip level must be positive
            self.family(-1.0)
            scale = np.ptp(past) or 1.0
            at = lambda t: self.family(past.mean() + scale * t)  # noqa: E731
        except ValueError:
            scale = past[past > 0].mean() if (past > 0).any() else 1.0
            at = lambda t: self.family(scale * 2.0**t)  # noqa: E731
        kept = lambda t: float(np.mean(at(t)(past)))  # noqa: E731
        most, least = (-60.0, 60.0) if kept(-60.0) >= kept(60.0) else (60.0, -60.0)
        for _ in range(40):  # what is left, the mixture below makes exact
            middle = (most + least) / 2
            most, least = (middle, least) if kept(middle) >= wanted else (most, middle)
        more, fewer = at(most), at(least)
        if kept(most) < wanted:  # out of the family's reach
            more, fewer = constant(1), more
        elif kept(least) > wanted:
            more, fewer = fewer, constant(0)
        self._more, self._fewer = more, fewer
        high, low = (float(np.mean(rule(past))) for rule in (more, fewer))
        self._share = (wanted - low) / (high - low) if high > low else 1.0

    def _probability(self, r):
        return self._share * self._more(r) + (1 - self._share) * self._fewer(r)

    def surrogate(self, criterion):
        raise ValueError(f"{self} has no fixed surrogate: its k moves with the model; `{self.family(1.0)}` has one for each k")

    def __str__(self):
        now = self._more if self._past else self.family(1.0)
        return f"{now} at rejection rate {self.rate:g}"


class random_like:
    """The matched control of any rule: accepts blindly, at the rate that the rule had on the recent past.

    Before anything was observed it keeps everything. `window`: how many criterion values are remembered (in whole blocks).
    """

    needs_criterion = True

    def __init__(self, rule, window=512):
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.rule, self.window, self._past, self.group = (
            rule,
            window,
            deque(),
            getattr(rule, "group", 1),
        )  # past: (sum of A, number) per block

    def log_probability(self, criterion):
        number = sum(n for _, n in self._past)
        rate = sum(total for total, _ in self._past) / number if number else 1.0
        with np.errstate(divide="ignore"):
            return np.full(checked(criterion).shape, np.log(min(rate, 1.0)))

    def __call__(self, criterion):
        return np.exp(self.log_probability(criterion))

    def surrogate(self, criterion):
        raise ValueError(f"{self} has no fixed surrogate: its rate moves with the model; at one moment it is rate * criterion")

    def observe(self, criterion):
        a = self.rule(criterion)
        self.rule.observe(criterion)
        self._past.append((float(np.sum(a)), int(np.size(a))))
        while len(self._past) > 1 and sum(n for _, n in self._past) - self._past[0][1] >= self.window:
            self._past.popleft()

    def state_dict(self):
        return {"past": [list(block) for block in self._past], "rule": self.rule.state_dict()}

    def load_state_dict(self, state):
        self._past = deque(tuple(block) for block in state["past"])
        self.rule.load_state_dict(state["rule"])

    def __str__(self):
        return f"random at the rate of {self.rule}"
