"""Small imitations of accept-reject code in engines, each right or with one named fault planted, and what they should draw.

They imitate the kind of fault, not anybody's code. `power.py` and `house/test_conformance.py` see how often rsf.checks catches each.
"""

from bisect import bisect
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

from rsf import checks

TARGET = np.array([0.35, 0.30, 0.20, 0.10, 0.05])  # p
PROPOSAL = np.array([0.15, 0.20, 0.25, 0.20, 0.20])  # q
RATIO = TARGET / PROPOSAL
SUP = RATIO.max()  # the smallest valid k, 2.33


def inverse(law):
    """Return a function that draws from a law with one coin."""
    cdf = np.cumsum(law)
    cdf = (cdf / cdf[-1]).tolist()[:-1]  # no coin reaches a place of probability 0 at the end
    return lambda rng: bisect(cdf, rng.random())


DRAW = inverse(PROPOSAL)


def rejection_sampler(rng, k):
    """Yield one sample of the target, by rejection from the proposal; wrong where k is below SUP."""
    while True:
        x = DRAW(rng)
        if rng.random() < RATIO[x] / k:
            return x


# a language model of three tokens, and its drafter: the law of the next token after each beginning
BEGINNINGS = [(), (0,), (1,), (2,)]
MODEL = dict(
    zip(
        BEGINNINGS,
        np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.7, 0.2]]),
        strict=True,
    )
)
DRAFTER = dict(
    zip(
        BEGINNINGS,
        np.array([[0.25, 0.35, 0.4], [0.5, 0.2, 0.3], [0.4, 0.4, 0.2], [0.35, 0.4, 0.25]]),
        strict=True,
    )
)
TEXTS = {(a, b): MODEL[()][a] * MODEL[a,][b] for a, b in product(range(3), repeat=2)}


def best_two(law):
    """Return a law without its least likely token, as a filter of the likeliest leaves it."""
    kept = np.where(law > law.min(), law, 0.0)
    return kept / kept.sum()


DRAWN = {"as reported": {}, "best two": {}}
for text in BEGINNINGS:
    DRAWN["as reported"][text] = inverse(DRAFTER[text])
    DRAWN["best two"][text] = inverse(best_two(DRAFTER[text]))
PLAIN = {text: inverse(law) for text, law in MODEL.items()}
REMAINDER = {text: inverse(np.maximum(MODEL[text] - DRAFTER[text], 0)) for text in BEGINNINGS}
KEPT = {text: (MODEL[text] / DRAFTER[text]).tolist() for text in BEGINNINGS}


def speculative_decoder(rng, drafts="as reported", after=REMAINDER):
    """Yield a text of two tokens: drafted, kept with min(1, p / q), the first rejected one replaced `after` its rejection."""
    text = ()
    while len(text) < 2:
        x = DRAWN[drafts][text](rng)
        kept = rng.random() < KEPT[text][x]
        text += (x if kept else after[text](rng),)
    return text


ROWS, LENGTH = 2, np.array([1.0, 2.0, 3.0, 4.0, 5.0])
ACCEPTANCE = np.minimum(1, RATIO / SUP)


def masked_mean(rng, divide_by="kept"):
    """Yield the mean length of the kept rows of a batch of eight; a batch of which nothing is kept is drawn again."""
    while True:
        x = np.searchsorted(np.cumsum(PROPOSAL), rng.random(8) * 0.999999999)
        kept = rng.random(8) < ACCEPTANCE[x]
        if kept.any():
            return LENGTH[x] @ kept / (kept.sum() if divide_by == "kept" else 8)


def masked_batch(rng, coins="one a row"):
    """Yield a batch of two rows, None where the mask rejected one."""
    rows = [DRAW(rng) for _ in range(ROWS)]
    u = [rng.random() for _ in range(ROWS)] if coins == "one a row" else [rng.random()] * ROWS
    return tuple(x if coin < ACCEPTANCE[x] else None for x, coin in zip(rows, u, strict=True))


def joint_law():
    """Return the law of a masked batch whose rows are independent."""
    row = dict(enumerate(PROPOSAL * ACCEPTANCE)) | {None: 1 - PROPOSAL @ ACCEPTANCE}
    return {rows: float(np.prod([row[x] for x in rows])) for rows in product(row, repeat=ROWS)}


class Case(NamedTuple):
    """A named fault: what one call yields, what it should, the judge, the right imitation and the faulty one."""

    fault: str
    call: str
    judge: Callable
    truth: object
    right: Callable
    faulty: Callable
    calls: int


CASES = [
    Case(
        "k at 85 % of what it must be",
        "a sample of a rejection sampler",
        checks.draws_law,
        TARGET,
        partial(rejection_sampler, k=SUP),
        partial(rejection_sampler, k=0.85 * SUP),
        20_000,
    ),
    Case(
        "another q is reported than was drawn from (the best two tokens)",
        "a text of two tokens of a speculative decoder",
        checks.draws_law,
        TEXTS,
        speculative_decoder,
        partial(speculative_decoder, drafts="best two"),
        5_000,
    ),
    Case(
        "no remainder: after a rejection a token is drawn from p",
        "a text of two tokens of a speculative decoder",
        checks.draws_law,
        TEXTS,
        speculative_decoder,
        partial(speculative_decoder, after=PLAIN),
        5_000,
    ),
    Case(
        "rejected rows stay in the denominator",
        "the mean over the kept rows of a batch of eight",
        checks.estimates,
        float(TARGET @ LENGTH),
        masked_mean,
        partial(masked_mean, divide_by="all"),
        2_500,
    ),
    Case(
        "one coin for a batch",
        "a batch of two rows, None where rejected",
        checks.draws_law,
        joint_law(),
        masked_batch,
        partial(masked_batch, coins="one"),
        5_000,
    ),
]
