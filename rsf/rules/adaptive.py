"""Rules that decide from the recent past: the matched control, a k that follows a rate, ranks.

    random_like:  A = mean of the rule's A over the past
    at_rate:      A = A_k, with the k that gives E[A_k] = 1 - rate on the past
    percentile:   A = (rank in the past) ** power    (Selective-Backprop: Jiang et al. 2019, arXiv 1910.00762)

What a block is decided by moves with the model, so none of them has a fixed surrogate, and each says what
there is instead.
"""

import re
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from rsf.acceptance import refuse_if, whole
from rsf.rules.fixed import BaseRule, Rule, checked, constant

SPEED = 8  # at_rate makes up for an error within about window / SPEED candidates

# at_rate bisects over the floats themselves. The bits of a float that is not negative, read as an integer,
# are its place among them: 0.0 has place 0, the smallest positive float place 1, and so on up to the largest
# finite one; -x has the place of x with a minus sign. So 65 halvings find k to the last bit, at any scale.
LARGEST = int(np.finfo(np.float64).max.view(np.int64))
_SOME_K = 1.23457  # a k that the text of a rule does not hold by chance


class _FromThePast(BaseRule):
    """What these rules share: the last blocks, the fewest that hold at least `window` criterion values."""

    def __init__(self, window: int) -> None:
        self.window = whole("window", window)
        self._past = deque()  # for each block: how many values it had, and what is remembered of them

    def _remember(self, number: int, what: object) -> None:
        self._past.append((number, what))
        while len(self._past) > 1 and sum(n for n, _ in self._past) - self._past[0][0] >= self.window:
            self._past.popleft()

    def _values(self) -> np.ndarray:
        """Return the values remembered (n,), where a block's memory is its values."""
        return np.concatenate([block for _, block in self._past] or [[]])

    def state_dict(self) -> dict:
        """Return all that is remembered, fit for JSON, exactly."""
        return {"past": [list(block) for block in self._past]}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state; from the state of a new rule, begin."""
        self._past = deque(tuple(block) for block in state["past"])


class random_like(_FromThePast):
    """The matched control of any rule: accepts blindly, at the rate that the rule had on the recent past.

    Before anything was observed it keeps everything. `window`: how many criterion values are remembered (in
    whole blocks). Of `best_of(n)` the exact control is `best_of(n)` itself on a constant reward.

    >>> from rsf.rules import clipped
    >>> control = random_like(clipped(1.0))
    >>> control.observe([0.25, 0.75])
    >>> control([0.0, 9.0]).tolist()
    [0.5, 0.5]
    """

    no_surrogate = "no fixed surrogate: its rate moves with the model; at one moment it is rate * criterion"

    def __init__(self, rule: BaseRule, window: int = 512) -> None:
        super().__init__(window)
        self.rule = rule
        self.text = f"random at the rate of {rule}"

    def __call__(self, criterion: ArrayLike) -> np.ndarray:
        """Return the rule's recent rate for each value, same shape as the criterion."""
        number = sum(n for n, _ in self._past)
        rate = sum(total for _, total in self._past) / number if number else 1.0
        return np.full(checked(criterion).shape, min(rate, 1.0))

    def observe(self, criterion: ArrayLike) -> None:
        """Remember how many of a block the rule would have kept, and let the rule observe it."""
        a = self.rule(criterion)
        self.rule.observe(criterion)
        self._remember(int(np.size(a)), float(np.sum(a)))

    def state_dict(self) -> dict:
        """Return all that is remembered, the rule's memory included, fit for JSON, exactly."""
        return super().state_dict() | {"rule": self.rule.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state; from the state of a new rule, begin."""
        super().load_state_dict(state)
        self.rule.load_state_dict(state["rule"])


class at_rate(_FromThePast):
    """A rule whose k follows a rejection rate: the k with mean A = 1 - rate on a window of the past.

    Parameters
    ----------
    family : callable k -> rule
        `clipped`, `easy`, `above`, `partial(tilted, ceiling=1.0)`, ... Its mean A must rise, or fall, with
        k, over all k > 0 (over all k, if it takes a negative one). It need not be continuous: at a jump (ties
        at a threshold) the two neighbours are mixed.
    rate : float
        The share to be rejected, in [0, 1).
    window : int
        How many criterion values are remembered (in whole blocks).

    Notes
    -----
    Before anything was observed it keeps at 1 - rate, blindly. Where no k gives the rate, the most generous
    rule of the family is mixed with keeping everything, or the stingiest with keeping nothing: with all
    losses zero it accepts at 1 - rate.

    The window lags behind a model that learns. So the mean A asked of it, `level`, is not quite 1 - rate: it
    moves by

        level += gain (1 - rate - mean A of the block just decided)

    with gain = SPEED / window for each value of the block, 1 at the most. The sum over any stretch
    telescopes: with blocks of one size the mean A differs from 1 - rate by at most (change of level) /
    (gain x length), whatever the criterion does. `k` is the present k (NaN before the first). Each block
    costs some 70 evaluations of the family on the window.

    Examples
    --------
    >>> from rsf.rules import clipped
    >>> rule = at_rate(clipped, 0.5)
    >>> rule.observe([0.2, 0.4, 0.6, 0.8])
    >>> rule([0.2, 0.4, 0.6, 0.8]).round(3).tolist(), round(rule.k, 3)
    ([0.2, 0.4, 0.6, 0.8], 1.0)
    """

    no_surrogate = (
        "no fixed surrogate: its k moves with the model, so what it follows is no mean over single examples, "
        "and for most families no gradient at all (`above`, at the exact k: the gradient of (1 - rate) CVaR)"
    )

    def __init__(self, family: Callable[[float], BaseRule], rate: float, window: int = 512) -> None:
        super().__init__(window)
        refuse_if(not 0 <= rate < 1, f"the rejection rate must lie in [0, 1), got {rate}")
        refuse_if(
            not callable(family) or not hasattr(family(_float_at(LARGEST)), "log_probability"),
            f"family must make a rule from k, like clipped (not clipped(0.5)), got {family}",
        )
        self.family = family
        self.rate = float(rate)
        self.level = 1 - self.rate
        self.text = f"{_text_of(family)} at rejection rate {self.rate:g}"
        try:
            family(-1.0)
            self._first = -LARGEST  # a threshold: any k
        except ValueError:
            self._first = 1  # a scale: from the smallest positive k
        self._solve()

    def __call__(self, criterion: ArrayLike) -> np.ndarray:
        """Return the acceptance probabilities at the present k, same shape as the criterion."""
        values = checked(criterion)
        return np.minimum(
            (1 - self._share) * self._stingy(values) + self._share * self._generous(values), 1.0
        )

    def observe(self, criterion: ArrayLike) -> None:
        """Remember a block that was just decided, correct the level by its error, and solve for k."""
        values = checked(criterion).ravel()
        gain = min(SPEED * len(values) / self.window, 1.0)
        error = 1 - self.rate - float(np.mean(self(values))) if len(values) else 0.0
        self.level = float(np.clip(self.level + gain * error, -gain, 1 + gain))
        self._remember(len(values), values.tolist())
        self._solve()

    def _solve(self) -> None:
        """Find two neighbouring rules whose mean A encloses the level, and the share of the generous one.

        All rules stand in a line along which the mean A rises: step 0 keeps nothing, then comes the family, a
        step for each float k from its stingy end to its generous one, and the last step keeps everything.
        """
        values = self._values()
        if not len(values):  # the beginning
            self._stingy, self._generous = constant(0), constant(1)
            self._share, self.k = self.level, float("nan")
            return

        def mean_a(rule: BaseRule) -> float:
            return float(np.mean(rule(values)))

        last = LARGEST - self._first + 2
        rising = mean_a(self.family(_float_at(LARGEST))) >= mean_a(self.family(_float_at(self._first)))

        def k_at(step: int) -> float:
            return _float_at(self._first + step - 1 if rising else LARGEST - step + 1)

        def rule_at(step: int) -> BaseRule:
            return self.family(k_at(step)) if 0 < step < last else constant(float(step > 0))

        low, high = 0, last
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if mean_a(rule_at(middle)) <= self.level else (low, middle)
        self._stingy, self._generous = rule_at(low), rule_at(high)
        a_low, a_high = mean_a(self._stingy), mean_a(self._generous)
        self._share = min(max((self.level - a_low) / (a_high - a_low), 0.0), 1.0) if a_high > a_low else 1.0
        self.k = k_at(min(high, last - 1))

    def state_dict(self) -> dict:
        """Return all that is remembered and the level, fit for JSON, exactly."""
        return super().state_dict() | {"level": self.level}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state; from the state of a new rule, begin."""
        super().load_state_dict(state)
        self.level = state["level"]
        self._solve()


class percentile(_FromThePast):
    """Selective-Backprop: A = (share of the recent past that lies below r) ** power.

    Values equal to r share the ranks that they span: A is the mean of u ** power over those. So the rate is
    1 / (power + 1) also with constant losses, and before anything was observed. Differences from the released
    code: there the block that is decided is already part of the past, only strictly lower losses count, and a
    floor keeps every probability positive.

    >>> rule = percentile(1)
    >>> rule.observe([0.1, 0.2, 0.3, 0.4])
    >>> rule([0.0, 0.25, 9.0]).tolist()
    [0.0, 0.5, 1.0]
    """

    def __init__(self, power: float, window: int = 512) -> None:
        super().__init__(window)
        refuse_if(
            not (np.isscalar(power) and 0 <= power < np.inf),
            f"power must be a finite number of at least 0, got {power}",
        )
        self.power = float(power)
        self.text = f"percentile ** {self.power:g}"
        self.no_surrogate = (
            "no pointwise surrogate: a rank depends on all other losses; what is kept descends "
            f"E[max of {self.power + 1:g} losses] / {self.power + 1:g}, which is no mean over single examples"
        )

    def __call__(self, criterion: ArrayLike) -> np.ndarray:
        """Return the mean of u ** power over the ranks that each value spans, same shape as the criterion."""
        values = checked(criterion)
        m = self.power
        past = np.sort(self._values())
        if not len(past):
            return np.full(values.shape, 1 / (m + 1))
        # the share of the past below each value, and the share that is not above it
        low, high = (np.searchsorted(past, values, side) / len(past) for side in ("left", "right"))
        width = (m + 1) * np.where(high > low, high - low, 1.0)
        return np.where(high > low, np.minimum((high ** (m + 1) - low ** (m + 1)) / width, 1.0), low**m)

    def observe(self, criterion: ArrayLike) -> None:
        """Remember a block that was just decided."""
        values = checked(criterion).ravel()
        self._remember(len(values), values.tolist())


def _float_at(place: int) -> float:
    """Return the float at a place in the order of all floats.

    >>> _float_at(0), _float_at(1), _float_at(-1), _float_at(LARGEST)
    (0.0, 5e-324, -5e-324, 1.7976931348623157e+308)
    """
    return float(np.copysign(np.int64(abs(place)).view(np.float64), place))


def _text_of(family: Callable[[float], BaseRule]) -> str:
    """Return what a family is, in words that are the same in every process: whoever resumes compares them.

    A function of ours reads as its name, with what `partial` holds for it. The name of any other says little
    (a lambda's nothing), so its text is that of the rule which it makes from one k, with the letter k in the
    place of that number.
    """
    given = family if isinstance(family, partial) else partial(family)
    name = getattr(given.func, "__name__", type(given.func).__name__)
    if getattr(given.func, "__module__", None) == Rule.__module__:
        held = [*map(str, given.args), *(f"{key}={value}" for key, value in sorted(given.keywords.items()))]
        return f"{name}({', '.join(held)})" if held else name
    made = re.sub(r" at 0x[0-9a-fA-F]+", "", str(family(_SOME_K)))  # the address of a rule without a text
    made = made.replace(f"{_SOME_K:g}", "k") if f"{_SOME_K:g}" in made else f"{made} at k = {_SOME_K:g}"
    return made if name == "<lambda>" else f"{name}: {made}"
