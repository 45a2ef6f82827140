"""When may one believe a sample, or a difference? Statistical verdicts, each a line, alike on every machine.

A test of level 1e-3 raises a false alarm once in a thousand seeds; the seed is fixed beforehand, so a check
that passes passes always. Each check is worth something only beside a counter-check: the same check on
something wrong must fail. Nothing else of rsf is imported here: the judge is not the judged. `draws_law` and
`estimates` take anybody's code.

>>> print(same_counts([60, 40], [0.5, 0.5]))
same law (chi2): 4.0 on 1 degrees of freedom, p = 0.0455, n = 100, level 0.001: PASS
"""

from rsf.checks.conformance import draws_law, estimates
from rsf.checks.statistics import LEVEL as LEVEL
from rsf.checks.statistics import (
    Judgement,
    Verdict,
    collapsed,
    crossed_difference,
    in_general,
    median_difference,
    must_fail,
    paired_difference,
    rate_interval,
    refused,
    same_counts,
    same_law,
    sign_flip,
    verdict,
    waiting_interval,
)

__all__ = [
    "Judgement",
    "Verdict",
    "collapsed",
    "crossed_difference",
    "draws_law",
    "estimates",
    "in_general",
    "median_difference",
    "must_fail",
    "paired_difference",
    "rate_interval",
    "refused",
    "same_counts",
    "same_law",
    "sign_flip",
    "verdict",
    "waiting_interval",
]
