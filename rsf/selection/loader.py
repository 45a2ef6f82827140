"""Candidates in, full batches of kept examples out: rejected work never reaches the optimiser.

    for each block of candidates:  score r -> A = rule(r) -> one coin each -> the kept fill the next batch

With unit="batch" (the published listing) one coin decides for a whole block, by the mean of its criterion.
These are two algorithms: the first descends the mean of Phi(loss), the other that of Phi(mean loss).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from rsf.acceptance import AcceptanceStarved, accept, refuse_if, warn_if, whole
from rsf.accounts import FORWARD, TRAIN
from rsf.rules import Rule

IDLE = 512  # so many candidates with A = 1 in a row are worth a warning

# What a process tells the others whenever there is nothing left that it can do alone:
# END, it is to stop, and knows of everybody's work, so no batch follows on any process;
# NOT_YET, it has no full batch, for its pass is over, or it may have to stop once all work is counted;
# READY, it has a full batch.
END, NOT_YET, READY = 0, 1, 2


@dataclass
class LoaderReport:
    """Totals so far, in examples (also with unit="batch").

    candidates : decided upon; scored : those that cost a forward pass; kept : accepted
    trained : handed out in batches
    slack : min |u - A| over all coins; weights, squares : sums of 1 / A and 1 / A^2 over the kept

    >>> print(LoaderReport(candidates=1000, scored=1000, kept=250, batches=31))
    250 kept of 1,000 candidates (0.2500), 1,000 scored, 31 batches
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
    def acceptance_rate(self) -> float:
        """Kept per candidate; NaN before the first."""
        return self.kept / self.candidates if self.candidates else float("nan")

    @property
    def forward_passes(self) -> int:
        """Of one example: what scoring and training cost."""
        return FORWARD * self.scored + TRAIN * self.trained

    @property
    def effective_sample_size(self) -> float:
        """(sum w)^2 / sum w^2 with w = 1 / A over the kept: what undoing the selection leaves of them."""
        return self.weights**2 / self.squares if self.squares else 0.0

    def __str__(self) -> str:
        return (
            f"{self.kept:,} kept of {self.candidates:,} candidates ({self.acceptance_rate:.4f}), "
            f"{self.scored:,} scored, {self.batches:,} batches"
        )


@dataclass
class Place:
    """How far the passes over the candidates have come."""

    passes: int = 0  # that this process has behind it
    block: int = 0  # blocks that it has behind it in the pass after these; 0 between two passes
    epoch: int = 0  # passes that all processes have behind them
    candidates: int = 0  # of all processes, when the last of these passes ended
    kept: int = 0  # of all processes, then
    last: int = 0  # the number of the candidate that filled the last batch of this process


class RejectionLoader:
    """An iterable of collated batches of kept examples.

    One iteration makes one pass over the candidates, or more if a pass fills no batch. What a pass leaves
    over opens the first batch of the next. `report` has the totals of this process, `total` those of all.

    Parameters
    ----------
    candidates : re-iterable of lists of examples
        The blocks, not collated (batches of unlike width could not be repacked). One iteration is one pass.
        If it has a method `set_epoch`, it is told the number of each pass.
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
        Called once with each block before it is scored; `score` and `collate` get what it returns. The place
        for what is random. Default: the examples as they are.
    weighting : "none" or "inverse"
        With "inverse", each batch (a dict) gets a column "weight", with which the mean over a batch is
        without bias the mean over the candidates: 1 / A, times (B - 1) / (C - 1) where B kept ones were
        found among C candidates. That is the acceptance rate, although a kept one ends the count.
    stop : callable() -> bool
        Asked before each block, and again when the totals of all processes are known; True ends the
        iteration (a budget). Default: never.
    on_decision : callable(block, criterion, kept)
        Told each decision: criterion and kept are (n,), or (1,) with unit="batch".
    all_ranks : callable(array of numbers) -> array (processes, numbers)
        Gathers the numbers of all processes that train together. All call it once a batch (and once a pass),
        and all act alike: a batch is handed out when every process has one, an iteration ends when every
        process is through its pass, and for good when one is to stop. So none waits for another forever,
        however unlike their acceptance is. Default: there is one process.

    Raises
    ------
    AcceptanceStarved
        While iterating: a whole pass kept nothing.
    ValueError
        While iterating: a pass without candidates; criteria that are not finite, or not one for each
        example; a rule that gives no probabilities or, with weighting="inverse", an A of 0.

    Examples
    --------
    >>> from rsf.rules import clipped
    >>> loss = np.array([0.1, 0.9, 0.4, 0.7, 0.0, 0.8])
    >>> blocks = [[0, 1, 2], [3, 4, 5]]
    >>> rng = np.random.default_rng(1)
    >>> loader = RejectionLoader(blocks, lambda rows: loss[rows], clipped(0.5), 2, rng, collate=list)
    >>> list(loader)
    [[1, 2], [3, 5]]
    >>> print(loader.report)
    4 kept of 6 candidates (0.6667), 6 scored, 2 batches
    """

    def __init__(
        self,
        candidates: Iterable[list],
        score: Callable[[list], np.ndarray],
        rule: Rule,
        batch_size: int,
        rng: np.random.Generator,
        *,
        collate: Callable[[list], object],
        unit: str = "example",
        prepare: Callable[[list], list] | None = None,
        weighting: str = "none",
        stop: Callable[[], bool] | None = None,
        on_decision: Callable[[list, np.ndarray, np.ndarray], object] | None = None,
        all_ranks: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        batch_size = whole("batch_size", batch_size)
        refuse_if(unit not in ("example", "batch"), f'unit must be "example" or "batch", got {unit!r}')
        refuse_if(
            getattr(rule, "joint", False),
            f"{rule} chooses among the samples of one prompt, a loader decides on each example: "
            "take above or tilted here",
        )
        refuse_if(
            weighting != "none" and (weighting != "inverse" or unit == "batch" or batch_size < 2),
            'weighting must be "none" or "inverse" (the twin weighs in the training loop), and '
            'weighting="inverse" needs unit="example" and batches of at least 2: '
            f"got {weighting!r}, {unit!r} and {batch_size}",
        )
        self.candidates, self.score, self.rule, self.rng = candidates, score, rule, rng
        self.batch_size, self.unit, self.weighting = batch_size, unit, weighting
        self.collate, self.prepare = collate, prepare
        self.stop, self.on_decision, self.all_ranks = stop, on_decision, all_ranks
        self.report, self.total = LoaderReport(), LoaderReport()
        self._waiting = []  # kept, not yet handed out: (example, 1 / A, number of the candidate)
        # the pass that is open, and the owner's function, called where the place of a loaded state is reached
        self._blocks = self.on_resume = None
        self._place = Place()
        # scored by this process since `total` was told; candidates in a row that had A = 1
        self.pending = self._idle = 0

    def __iter__(self) -> Iterator[object]:
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
                self.total.trained += int(sizes.sum())
                self.total.batches += len(sizes)
                yield self._next_batch()

    def close(self) -> None:
        """Let go of the open pass and its workers; iterating again goes on behind its last block."""
        self._blocks = None

    def state_dict(self) -> dict[str, object]:
        """Return what the next batches hang on: totals, what waits, the place, coins, the rule's memory."""
        return {
            "report": vars(self.report).copy(),
            "total": vars(self.total).copy(),
            "ready": [list(waiting) for waiting in self._waiting],
            "place": vars(self._place).copy(),
            "coins": self.rng.bit_generator.state,
            "rule": self.rule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a state; the candidates must come as they did then (same data, seed and block size)."""
        self.report, self.total = LoaderReport(**state["report"]), LoaderReport(**state["total"])
        self.pending = 0
        self._waiting = [tuple(waiting) for waiting in state["ready"]]
        self._place = Place(**state["place"])
        self._blocks = None
        self.rng.bit_generator.state = state["coins"]
        self.rule.load_state_dict(state["rule"])

    def _size(self) -> int:
        """Return how many of those that wait make the next batch, 0 if they are too few."""
        full = len(self._waiting) if self.unit == "batch" else self.batch_size
        return full if len(self._waiting) >= full else 0

    def _advance(self) -> int:
        """Decide on blocks until a batch is full, or the pass is over, or it is to stop."""
        while True:
            # The pass that a loaded state was in is opened at once, even if full batches wait: finding the
            # place may draw from the global generators, which `on_resume` sets right before any training.
            if self._blocks is None and (self._place.block or not self._size()):
                self._begin_pass()
            if self._size():
                return READY
            if self.stop is not None and self.stop():
                # As long as the others do not know of its latest work, it asks once more when they do.
                return NOT_YET if self.pending else END
            block = next(self._blocks, None)
            if block is None:
                self.close()
                self._place.passes += 1
                self._place.block = 0
                return NOT_YET
            self._place.block += 1
            self._decide(block)

    def _begin_pass(self) -> None:
        """Open a pass, behind the blocks of it that a loaded state has decided upon."""
        if hasattr(self.candidates, "set_epoch"):  # where the shuffling wants to know the pass
            self.candidates.set_epoch(self._place.passes)
        self._blocks = iter(self.candidates)
        for _ in range(self._place.block):
            refuse_if(
                next(self._blocks, None) is None,
                f"the state has {self._place.block} blocks of a pass behind it, there are fewer now: "
                "take the same data and blocks",
            )
        if self._place.block and self.on_resume is not None:
            self.on_resume()

    def _exchange(self, state: int) -> np.ndarray:
        """Tell all processes the totals and the state of this one, and set `total`.

        Return everyone's states, passes and sizes of the next batch, (3, processes).
        """
        own = np.array([*vars(self.report).values(), state, self._place.passes, self._size()], np.float64)
        everyone = own[None] if self.all_ranks is None else np.asarray(self.all_ranks(own))
        *counts, slack, weights, squares = everyone[:, :-3].T
        self.total = LoaderReport(
            *(int(n.sum()) for n in counts), float(slack.min()), float(weights.sum()), float(squares.sum())
        )
        self.pending = 0
        return everyone[:, -3:].T

    def _end_epoch(self, passes: int) -> None:
        """Note that all processes are through a pass; raise if it had no candidates, or kept none."""
        candidates = self.total.candidates - self._place.candidates
        kept = self.total.kept - self._place.kept
        self._place.epoch = passes
        self._place.candidates, self._place.kept = self.total.candidates, self.total.kept
        refuse_if(
            not candidates,
            "a pass had no candidates: the data set is empty, or smaller than one block, "
            "or can be iterated only once",
        )
        refuse_if(
            not kept,
            f"{self.rule} kept none of {candidates:,} candidates in a whole pass: "
            "loosen the rule (a smaller k or threshold), or stop here",
            AcceptanceStarved,
        )

    def _decide(self, block: list) -> None:
        """Score a block, toss its coins, and put what is kept into the waiting line."""
        n = len(block)
        rows = block if self.prepare is None else self.prepare(block)
        scored = n if getattr(self.rule, "needs_criterion", True) else 0
        criterion = np.asarray(self.score(rows), dtype=np.float64) if scored else np.zeros(n)  # (n,)
        refuse_if(
            criterion.shape != (n,),
            f"score must give one number for each of {n} examples, got shape {criterion.shape}",
        )
        self._refuse(
            ~np.isfinite(criterion),
            "the criterion of {number} examples is not finite ({at}), {named}",
            block,
            criterion,
        )
        criterion = criterion.mean(keepdims=True) if self.unit == "batch" else criterion  # (1,) or (n,)
        log_a = np.asarray(self.rule.log_probability(criterion))
        refuse_if(
            log_a.shape != criterion.shape,
            f"the rule {self.rule} must return probabilities of shape {criterion.shape}, got {log_a.shape}",
        )
        self._refuse(
            np.isneginf(log_a) & (self.weighting == "inverse"),
            'weighting="inverse" cannot undo {rule}, for A = 0 at {at:.4g}, and no weight brings back what '
            'is never kept: take a rule with A > 0 there (tilted, easy), or weighting="none" ({named})',
            block,
            criterion,
        )
        try:
            kept, slack = accept(log_a, self.rng, with_slack=True)
        except ValueError as error:
            raise ValueError(
                f"the rule {self.rule} returned a probability that is not in [0, 1]: {error}"
            ) from error
        self.rule.observe(criterion)
        if self.on_decision is not None:
            self.on_decision(block, criterion, kept)
        before = self._idle
        self._idle = before + scored if scored and (log_a == 0).all() else 0
        warn_if(
            self._idle >= IDLE > before,  # once in a row
            f"{self.rule} rejects nothing: the last {self._idle} candidates all had A = 1, scoring them "
            f"is in vain (the smallest criterion in the last block is {criterion.min(initial=np.inf):.4g}: "
            "is k below every loss?)",
        )

        kept = np.broadcast_to(kept, n)  # one coin may decide for all
        weights = np.exp(np.where(kept, -log_a, -np.inf))  # (n,): 1 / A, 0 where rejected
        self._waiting += [
            (rows[i], float(weights[i]), self.report.candidates + i + 1)
            for i in np.flatnonzero(kept).tolist()
        ]
        self.pending += scored
        self.report.candidates += n
        self.report.scored += scored
        self.report.kept += int(kept.sum())
        self.report.slack = min(self.report.slack, slack)
        self.report.weights += float(weights.sum())
        self.report.squares += float((weights**2).sum())

    def _refuse(self, wrong: np.ndarray, message: str, block: list, criterion: np.ndarray) -> None:
        """Raise ValueError if anything is wrong (n,), with the first candidates, and how they begin."""
        bad = np.flatnonzero(wrong)
        if bad.size:
            first = self.report.candidates + 1
            named = "; ".join(f"candidate {first + i:,}: {str(block[i])[:200]}" for i in bad[:3])
            number = f"{bad.size} of {len(block)}"
            raise ValueError(message.format(number=number, at=criterion[bad[0]], rule=self.rule, named=named))

    def _next_batch(self) -> object:
        """Take the next batch out of the waiting line, and return it collated."""
        size = self._size()
        rows, weights, numbers = zip(*self._waiting[:size], strict=True)
        del self._waiting[:size]
        self.report.trained += size
        self.report.batches += 1
        taken = numbers[-1] - self._place.last  # candidates among which they were found
        self._place.last = numbers[-1]
        batch = self.collate(list(rows))
        if self.weighting == "inverse":
            batch["weight"] = np.array(weights) * (size - 1) / (taken - 1)
        return batch
