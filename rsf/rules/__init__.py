"""From a criterion (a loss, an error, a reward) to the probability that a candidate is kept.

Fixed rules, each with its surrogate objective, and rules that decide from the recent past.
"""

from rsf.rules.adaptive import at_rate, percentile, random_like
from rsf.rules.fixed import (
    BaseRule,
    Rule,
    above,
    best_of,
    clipped,
    constant,
    easy,
    effective_sample_size,
    inverse_weights,
    tilted,
)

__all__ = [
    "BaseRule",
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
