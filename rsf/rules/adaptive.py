"""Rules that decide from the recent past: the matched control, a k that follows a rate, ranks.

    random_like:  A = mean of the rule's A over the past
    at_rate:      A = A_k, with the k that gives E[A_k] = 1 - rate on the past
    percentile:   A = (rank in the past) ** power        (Selective-Backprop: Jiang et al. 2019, arXiv 1910.00762)

Calling one changes nothing; whoever applies it calls `observe` after each decision. What a block is decided by moves with the
model, so none of them has a fixed surrogate, and each says what there is instead. All are imported from `rsf.rules`.
"""

from collections import deque

import numpy as np

from rsf.acceptance import first_index

SPEED = 8  # at_rate makes up for an error within about window / SPEED candidates
LARGEST = int(
    np.finfo(np.float64).max.view(np.int64)
)  # the floats 0 ... max, counted: the same order as the integers 0 ... LARGEST


class _FromThePast:
    """What these rules share: the last blocks, the fewest that hold at least `window` criterion values, and log A."""

    needs_criterion = True

    def __init__(self, window):
        if not (window >= 1 and window == int(window)):
            raise ValueError(f"window must be a whole number of at least 1, got {window}")
        self.window, self._past = (
            int(window),
            deque(),
        )  # past: (number of values, what is remembered of them) per block

    def log_probability(self, criterion):
        with np.errstate(divide="ignore"):
            return np.log(self(criterion))

    def _remember(self, number, what):
        self._past.append((number, what))
        while len(self._past) > 1 and sum(n for n, _ in self._past) - self._past[0][0] >= self.window:
            self._past.popleft()

    def _values(self):
        """Return the values remembered (n,), where a block's memory is its values."""
        return np.concatenate([block for _, block in self._past] or [[]])

    def state_dict(self):
        """Return all that is remembered, fit for JSON, exactly."""
        return {"past": [list(block) for block in self._past]}

    def load_state_dict(self, state):
        self._past = deque(tuple(block) for block in state["past"])


class random_like(_FromThePast):
    """The matched control of any rule: accepts blindly, at the rate that the rule had on the recent past.

    Before anything was observed it keeps everything. `window`: how many criterion values are remembered (in whole blocks).
    (Of `best_of(n)` the exact control is `best_of(n)` itself on a constant reward: one of n at random, for every prompt.)
    """

    def __init__(self, rule, window=512):
        super().__init__(window)
        self.rule = rule

    def __call__(self, criterion):
        number = sum(n for n, _ in self._past)
        rate = sum(total for _, total in self._past) / number if number else 1.0
        return np.full(checked(criterion).shape, min(rate, 1.0))

    def surrogate(self, criterion):
        raise ValueError(
            f"{self} has no fixed surrogate: its rate moves with the model; at one moment it is rate * criterion"
        )

    def observe(self, criterion):
        a = self.rule(criterion)
        self.rule.observe(criterion)
        self._remember(int(np.size(a)), float(np.sum(a)))

    def state_dict(self):
        return super().state_dict() | {"rule": self.rule.state_dict()}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.rule.load_state_dict(state["rule"])

    def __str__(self):
        return f"random at the rate of {self.rule}"


class at_rate(_FromThePast):
    """A rule whose k follows a rejection rate: the k with mean A = 1 - rate on a window of the past.

    Parameters
    ----------
    family : callable k -> rule
        `clipped`, `easy`, `above`, `lambda beta: tilted(beta, 1.0)`, ... Its mean A must rise, or fall, with k, over all k > 0 (over
        all k, if it takes a negative one). It need not be continuous: at a jump (ties at a threshold) the two neighbours are mixed.
    rate : float
        The share to be rejected, in [0, 1).
    window : int
        How many criterion values are remembered (in whole blocks).

    Before anything was observed it keeps at 1 - rate, blindly. Where no k gives the rate, the most generous rule of the family is
    mixed with keeping everything, or the stingiest with keeping nothing: with all losses zero it accepts at 1 - rate.

    The window lags behind a model that learns. So the mean A asked of it, `level`, is not quite 1 - rate: it moves by

        level += gain (1 - rate - mean A of the block just decided),    gain = SPEED / window per value, at most 1 per block

    The sum over any stretch telescopes: with blocks of one size the mean A differs from 1 - rate by at most
    (change of level) / (gain x length), whatever the criterion does. `k` is the present k (NaN before the first).
    Each block costs some 65 evaluations of the family on the window.
    """

    def __init__(self, family, rate, window=512):
        super().__init__(window)
        if not 0 <= rate < 1:
            raise ValueError(f"the rejection rate must lie in [0, 1), got {rate}")
        if not callable(family) or not hasattr(family(_float_at(LARGEST)), "log_probability"):
            raise ValueError(f"family must make a rule from k, like clipped (not clipped(0.5)), got {family}")
        self.family, self.rate, self.level, self.k = family, float(rate), 1 - float(rate), float("nan")
        self._stingy, self._generous, self._share = _keep_none, _keep_all, self.level
        try:
            family(-1.0)
            self._first = -LARGEST  # a threshold: any k
        except ValueError:
            self._first = 1  # a scale: from the smallest positive k

    def __call__(self, criterion):
        values = checked(criterion)
        return np.minimum(
            (1 - self._share) * self._stingy(values) + self._share * self._generous(values), 1.0
        )

    def surrogate(self, criterion):
        raise ValueError(
            f"{self} has no fixed surrogate: its k moves with the model, so what it follows is no mean over single examples, and for most "
            "families no gradient at all (`above`, at the exact k: the gradient of (1 - rate) CVaR)"
        )

    def observe(self, criterion):
        values = checked(criterion).ravel()
        gain = min(SPEED * len(values) / self.window, 1.0)
        error = 1 - self.rate - float(np.mean(self(values))) if len(values) else 0.0
        self.level = float(np.clip(self.level + gain * error, -gain, 1 + gain))
        self._remember(len(values), values.tolist())
        self._solve()

    def _solve(self):
        """Find the two neighbours on the way from keeping nothing to keeping everything between which the level lies, and the share."""
        values = self._values()
        if not len(values):
            return

        def mean_a(rule):
            return float(np.mean(rule(values)))

        rising = mean_a(self.family(_float_at(LARGEST))) >= mean_a(self.family(_float_at(self._first)))
        steps = (
            LARGEST - self._first + 2
        )  # 0: nothing is kept; then the family, from its stingy end to the generous one; last: everything

        def k_at(step):
            return _float_at(self._first + step - 1 if rising else LARGEST - step + 1)

        low, stingy, a_low, high, generous, a_high = 0, _keep_none, 0.0, steps, _keep_all, 1.0
        while high - low > 1:  # 65 halvings: exact to the last bit, at any scale
            middle = (low + high) // 2
            rule = self.family(k_at(middle))
            if (a := mean_a(rule)) <= self.level:
                low, stingy, a_low = middle, rule, a
            else:
                high, generous, a_high = middle, rule, a
        share = (self.level - a_low) / (a_high - a_low) if a_high > a_low else 1.0
        self._stingy, self._generous, self._share = stingy, generous, min(max(share, 0.0), 1.0)
        self.k = k_at(min(high, steps - 1))

    def state_dict(self):
        return super().state_dict() | {"level": self.level}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.level = state["level"]
        self._solve()

    def __str__(self):
        return f"{getattr(self.family, '__name__', self.family)} at rejection rate {self.rate:g}"


class percentile(_FromThePast):
    """Selective-Backprop: A = (share of the recent past that lies below r) ** power.

    Values equal to r share the ranks that they span: A is the mean of u ** power over those. So the rate is 1 / (power + 1) also
    with constant losses, and before anything was observed. Differences from the released code: there the block that is decided
    is already part of the past, only strictly lower losses count, and a floor keeps every probability positive.
    """

    def __init__(self, power, window=512):
        super().__init__(window)
        if not (np.isscalar(power) and 0 <= power < np.inf):
            raise ValueError(f"power must be a finite number of at least 0, got {power}")
        self.power = float(power)

    def __call__(self, criterion):
        values, m = checked(criterion), self.power
        past = np.sort(self._values())
        if not len(past):
            return np.full(values.shape, 1 / (m + 1))
        low, high = (
            np.searchsorted(past, values, side) / len(past) for side in ("left", "right")
        )  # shares below, and not above
        spread = np.where(high > low, high - low, 1.0)
        return np.where(
            high > low, np.minimum((high ** (m + 1) - low ** (m + 1)) / ((m + 1) * spread), 1.0), low**m
        )

    def surrogate(self, criterion):
        raise ValueError(
            f"{self} has no pointwise surrogate: a rank depends on all other losses; what is kept descends "
            f"E[max of {self.power + 1:g} losses] / {self.power + 1:g}, which is no mean over single examples"
        )

    def observe(self, criterion):
        values = checked(criterion).ravel()
        self._remember(len(values), values.tolist())

    def __str__(self):
        return f"percentile ** {self.power:g}"


def checked(criterion):
    """Return criterion values as float64, refusing NaN and infinities by index."""
    values = np.asarray(criterion, dtype=np.float64)
    if not np.isfinite(values).all():
        bad = ~np.isfinite(values)
        raise ValueError(f"the criterion is {values[bad][0]} at index {first_index(bad)}: it must be finite")
    return values


def _float_at(position):
    """Return the float at a position on the line of all floats: 0 is 0.0, 1 the smallest positive one, -1 its negative."""
    return float(np.copysign(np.int64(abs(position)).view(np.float64), position))


def _keep_none(values):
    return np.zeros(values.shape)


def _keep_all(values):
    return np.ones(values.shape)
