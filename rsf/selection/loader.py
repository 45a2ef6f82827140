"""Candidates in, full batches of kept examples out: rejected work never reaches the optimiser.

    for each block of candidates:  score r  ->  A = rule(r)  ->  one coin each  ->  kept examples fill the next batch

With unit="batch" (the published listing) one coin decides for a whole block, by the mean of its criterion. The two are different
algorithms: the first descends the mean of Phi(loss), the second the mean of Phi(mean loss of a batch).
"""

import logging
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace

import numpy as np

from rsf.acceptance import AcceptanceStarved, accept
from rsf.rules import inverse_weights

logger = logging.getLogger(__name__)
READY, NOT_YET, END = (
    2,
    1,
    0,
)  # what a rank has to say: a batch is full; a pass is over, or how far are you?; there will be no more
IDLE = 512  # so many candidates with A = 1 in a row are worth a warning


@dataclass
class LoaderReport:
    """Totals so far, in examples (also with unit="batch").

    candidates : decided upon; scored : those that cost a forward pass; kept : accepted; trained : handed out in batches
    slack : min |u - A| over all coins; weights, squares : sums of 1 / A and 1 / A^2 over the kept
    """

    candidates: int = 0
    scored: int = 0
    kept: int = 0
    trained: int = 0
    batches: int = 0
    slack: float = float("inf")
    weights: float = 0.0
    squares: float = 0.0

    @property
    def acceptance_rate(self):
        """Kept per candidate; NaN before the first."""
        return self.kept / self.candidates if self.candidates else float("nan")

    @property
    def effective_sample_size(self):
        """(sum w)^2 / sum w^2 with w = 1 / A over the kept: what undoing the selection would leave of them."""
        return self.weights**2 / self.squares if self.squares else 0.0

    def __str__(self):
        return f"{self.kept:,} kept of {self.candidates:,} candidates ({self.acceptance_rate:.4f}), {self.scored:,} scored, {self.batches:,} batches"


class RejectionLoader:
    """An iterable of collated batches of kept examples.

    Parameters
    ----------
    candidates : re-iterable of lists of examples
        The blocks, not collated (batches of unlike width could not be repacked). One iteration is one pass.
    score : callable(list of examples) -> array (n,)
        The criterion of each example under the current model; not called for a rule that needs none.
    rule : rsf.rules rule
    batch_size : int
        Kept examples per batch; with unit="batch" a batch is a block.
    rng : numpy.random.Generator
        The coins: one per example, or per block.
    collate : callable(list of examples) -> batch
    unit : "example" or "batch"
    prepare : callable(list of examples) -> list
        Made once of each block before it is scored, its results are what `score` and `collate` get: the place for what is random.
    weighting : "none" or "inverse"
        With "inverse", add the column "weight" to each batch (a dict): with it, the mean over a batch is without bias the mean over the candidates.
        1 / A, times (B - 1) / (C - 1) where B kept ones were found among C candidates: the acceptance rate, although a kept one ends it.
    stop : callable() -> bool
        Asked before each block, and again when the totals of all ranks are known; True ends the iteration (a budget).
    on_decision : callable(block, criterion, kept)
        Told each decision: criterion and kept are (n,), or (1,) with unit="batch".
    all_ranks : callable(array of numbers) -> array (ranks, numbers)
        Gathers the numbers of all processes that train together. All call it once a batch (and once a pass), and all act alike: a
        batch is handed out when every rank has one, an iteration ends when every rank is through its pass, and for good when one is
        to stop. So none waits for another forever, however unlike their acceptance is.

    One iteration makes one pass over the candidates, or more if a pass fills no batch. What a pass leaves over opens the first batch of
    the next. A whole pass that keeps nothing raises `AcceptanceStarved`. `report` has the totals of this rank, `total` those of all.
    """

    def __init__(
        self,
        candidates,
        score,
        rule,
        batch_size,
        rng,
        *,
        collate,
        unit="example",
        prepare=list,
        weighting="none",
        stop=lambda: False,
        on_decision=lambda block, criterion, kept: None,
        all_ranks=lambda numbers: numbers[None],
    ):
        if unit not in ("example", "batch"):
            raise ValueError(f'unit must be "example" or "batch", got {unit!r}')
        if batch_size < 1 or batch_size != int(batch_size):
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size}")
        if getattr(rule, "joint", False):
            raise ValueError(
                f"{rule} chooses among the samples of one prompt, a loader decides on each example: take above or tilted here"
            )
        if weighting not in ("none", "inverse"):
            raise ValueError(
                f'weighting must be "none" or "inverse" (the twin weighs in the training loop), got {weighting!r}'
            )
        if weighting == "inverse" and (unit == "batch" or batch_size < 2):
            raise ValueError(
                f'weighting="inverse" needs unit="example" and batches of at least 2, got {unit!r} and {batch_size}'
            )
        self.candidates, self.score, self.rule, self.batch_size, self.rng = (
            candidates,
            score,
            rule,
            batch_size,
            rng,
        )
        self.collate, self.unit, self.prepare, self.weighting = collate, unit, prepare, weighting
        self.stop, self.on_decision, self.all_ranks = stop, on_decision, all_ranks
        self.on_resume = lambda: None  # told when the place of a loaded state is reached
        self.report, self.total, self.pending = (
            LoaderReport(),
            LoaderReport(),
            0,
        )  # pending: scored since `total` was told
        self._ready, self._blocks, self._idle = (
            [],
            None,
            0,
        )  # ready, not yet handed out: [example, 1 / A, number of the candidate]
        # passes, and blocks of the next one, behind it; passes behind all ranks, and their totals then; who filled the last batch
        self._place = SimpleNamespace(passes=0, block=0, epoch=0, before=[0, 0], last=0)

    def __iter__(self):
        begun = self.report.batches
        while True:
            states, passes, sizes = self._exchange(self._advance())
            if END in states:
                return
            if passes.min() > self._place.epoch:
                self._end_epoch(int(passes.min()))
                if self.report.batches > begun:
                    return
            elif (states == READY).all():
                self.total.trained, self.total.batches = (
                    self.total.trained + int(sizes.sum()),
                    self.total.batches + len(sizes),
                )
                yield self._next_batch()

    def close(self):
        """Let go of the pass that was begun, and of its workers; iterating again goes on behind its last block."""
        self._blocks = None

    def state_dict(self):
        """Return all that the next batches hang on: the place, what waits, coins, the rule's memory, totals."""
        return {
            "report": vars(self.report).copy(),
            "total": vars(self.total).copy(),
            "ready": [list(waiting) for waiting in self._ready],
            "place": vars(self._place).copy(),
            "coins": self.rng.bit_generator.state,
            "rule": self.rule.state_dict(),
        }

    def load_state_dict(self, state):
        """Go on from a state: the candidates must come in the same order as then (same data, seed and block size)."""
        self.report, self.total, self.pending = (
            LoaderReport(**state["report"]),
            LoaderReport(**state["total"]),
            0,
        )
        self._place, self._blocks, self._ready = (
            SimpleNamespace(**state["place"]),
            None,
            [list(waiting) for waiting in state["ready"]],
        )
        self.rng.bit_generator.state = state["coins"]
        self.rule.load_state_dict(state["rule"])

    def _size(self):
        """Return how many of those that wait make the next batch, 0 if they are too few."""
        waiting = len(self._ready)
        return waiting if self.unit == "batch" else self.batch_size * (waiting >= self.batch_size)

    def _advance(self):
        """Decide on blocks until a batch is full, or the pass is over, or it is to stop."""
        while True:
            if self._blocks is None and (
                self._place.block or not self._size()
            ):  # in a loaded state that has full batches, too
                self._begin_pass()
            if self._size():
                return READY
            if self.stop():
                return NOT_YET if self.pending else END  # ask how far the others are before it ends for all
            block = next(self._blocks, None)
            if block is None:
                self._blocks, self._place.block, self._place.passes = None, 0, self._place.passes + 1
                return NOT_YET
            self._place.block += 1
            self._decide(block)

    def _begin_pass(self):
        if hasattr(self.candidates, "set_epoch"):  # where the shuffling wants to know the pass
            self.candidates.set_epoch(self._place.passes)
        self._blocks = iter(self.candidates)
        if behind := self._place.block:
            if sum(1 for _ in islice(self._blocks, behind)) < behind:
                raise ValueError(
                    f"the state has {behind} blocks of a pass behind it, there are fewer now: take the same data and blocks"
                )
            self.on_resume()

    def _exchange(self, state):
        """Tell all ranks the totals and the state of this one; return everyone's (states, passes, sizes of the next batch), each (ranks,)."""
        own = np.array(
            [*vars(self.report).values(), state, self._place.passes, self._size()], dtype=np.float64
        )
        everyone = np.asarray(self.all_ranks(own))  # (ranks, numbers)
        *counts, slack, weights, squares = everyone[:, :-3].T
        self.total = LoaderReport(
            *(int(n.sum()) for n in counts), float(slack.min()), float(weights.sum()), float(squares.sum())
        )
        self.pending = 0
        return everyone[:, -3:].T

    def _end_epoch(self, passes):
        candidates, kept = (
            self.total.candidates - self._place.before[0],
            self.total.kept - self._place.before[1],
        )
        self._place.epoch, self._place.before = passes, [self.total.candidates, self.total.kept]
        if not candidates:
            raise ValueError(
                "a pass had no candidates: the data set is empty, or smaller than one block, or can be iterated only once"
            )
        if not kept:
            remedy = "loosen the rule (a smaller k or threshold), or stop here"
            raise AcceptanceStarved(
                f"{self.rule} kept none of {candidates:,} candidates in a whole pass: {remedy}"
            )

    def _decide(self, block):
        """Score a block, toss its coins, and put what is kept into the waiting line."""
        n, report, rows = len(block), self.report, self.prepare(block)
        scored = n if getattr(self.rule, "needs_criterion", True) else 0
        criterion = np.asarray(self.score(rows), dtype=np.float64) if scored else np.zeros(n)  # (n,)
        self._check(criterion, block)
        criterion = criterion.mean(keepdims=True) if self.unit == "batch" else criterion  # (1,) or (n,)
        log_a = np.asarray(self.rule.log_probability(criterion))
        if log_a.shape != criterion.shape:
            raise ValueError(
                f"the rule {self.rule} must return a probability for each criterion {criterion.shape}, got {log_a.shape}"
            )
        try:
            kept, slack = accept(log_a, self.rng, with_slack=True)
        except ValueError as error:
            raise ValueError(
                f"the rule {self.rule} returned a probability that is not in [0, 1]: {error}"
            ) from error
        self.rule.observe(criterion)
        self.on_decision(block, criterion, kept)
        before, self._idle = self._idle, self._idle + n if scored and (log_a == 0).all() else 0
        if self._idle >= IDLE > before:
            why = f"the smallest criterion in the last block is {criterion.min():.4g}: is k below every loss?"
            logger.warning(
                f"{self.rule} rejects nothing: the last {self._idle} candidates all had A = 1, scoring them is in vain ({why})"
            )

        kept, log_a = np.broadcast_to(kept, n), np.broadcast_to(log_a, n)  # one coin may decide for all
        weights = (
            inverse_weights(log_a, kept)
            if self.weighting == "inverse"
            else np.exp(np.where(kept, -log_a, -np.inf))
        )
        self._ready += [
            [rows[i], float(weights[i]), report.candidates + i + 1] for i in np.flatnonzero(kept).tolist()
        ]
        report.candidates, report.scored, self.pending = (
            report.candidates + n,
            report.scored + scored,
            self.pending + scored,
        )
        report.kept, report.slack = report.kept + int(kept.sum()), min(report.slack, slack)
        report.weights, report.squares = (
            report.weights + float(weights.sum()),
            report.squares + float((weights**2).sum()),
        )

    def _check(self, criterion, block):
        if criterion.shape != (len(block),):
            raise ValueError(
                f"score must give one number for each of {len(block)} examples, got shape {criterion.shape}"
            )
        if (bad := np.flatnonzero(~np.isfinite(criterion))).size:
            named = "; ".join(
                f"candidate {self.report.candidates + i + 1:,}: {str(block[i])[:200]}" for i in bad[:3]
            )
            raise ValueError(
                f"the criterion of {bad.size} of {len(block)} examples is not finite ({criterion[bad[0]]}), {named}"
            )

    def _next_batch(self):
        rows, weights, numbers = zip(*self._ready[: (size := self._size())], strict=True)
        del self._ready[:size]
        self.report.trained, self.report.batches = self.report.trained + size, self.report.batches + 1
        taken, self._place.last = numbers[-1] - self._place.last, numbers[-1]
        collated = self.collate(list(rows))
        if self.weighting == "inverse":
            collated["weight"] = np.array(weights) * (size - 1) / (taken - 1)
        return collated
