"""Candidates in, full batches of kept examples out: rejected work never reaches the optimiser.

    for each block of candidates:  score r  ->  A = rule(r)  ->  one coin each  ->  kept examples fill the next batch

With unit="batch" (the published listing) one coin decides for a whole block, by the mean of its criterion. The two are different
algorithms: the first descends the mean of Phi(loss), the second the mean of Phi(mean loss of a batch).
"""

from dataclasses import dataclass

import numpy as np

from rsf.acceptance import accept, first_index
from rsf.rejection import AcceptanceStarved


@dataclass
class LoaderReport:
    """Totals so far, in examples (also with unit="batch").

    candidates : decided upon; scored : those that cost a forward pass; kept : accepted; trained : handed out in batches
    margin : min |u - A| over all coins; weights, squares : sums of 1 / A and 1 / A^2 over the kept
    """

    candidates: int = 0
    scored: int = 0
    kept: int = 0
    trained: int = 0
    batches: int = 0
    margin: float = float("inf")
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
    stop : callable() -> bool
        Asked before each block; True ends the iteration (a budget).
    on_decision : callable(block, criterion, kept)
        Told each decision: criterion and kept are (n,), or (1,) with unit="batch".

    One iteration makes one pass over the candidates, or more if a pass fills no batch. What a pass leaves over (fewer than
    batch_size) opens the first batch of the next. A whole pass that keeps nothing raises `AcceptanceStarved`.
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
        stop=lambda: False,
        on_decision=lambda block, criterion, kept: None,
    ):
        if unit not in ("example", "batch"):
            raise ValueError(f'unit must be "example" or "batch", got {unit!r}')
        if batch_size < 1 or batch_size != int(batch_size):
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size}")
        if getattr(rule, "joint", False):
            raise ValueError(f"{rule} chooses among the samples of one prompt, a loader decides on each example: take above or tilted here")
        self.candidates, self.score, self.rule, self.batch_size, self.rng = candidates, score, rule, batch_size, rng
        self.collate, self.unit, self.stop, self.on_decision = collate, unit, stop, on_decision
        self.report, self.on_resume = LoaderReport(), lambda: None  # on_resume: told when the place of a loaded state is reached
        self._ready, self._passes, self._block, self._before = [], 0, 0, (0, 0)  # kept, not yet handed out; passes and blocks begun
        self._skip = None  # blocks of this pass that a loaded state has behind it

    def __iter__(self):
        batches = self.report.batches
        if self._skip is not None:
            yield from self._full_batches(self.batch_size)
        while self.report.batches == batches:
            if self._skip is None:
                self._passes, self._before = self._passes + 1, (self.report.kept, self.report.candidates)
            if hasattr(self.candidates, "set_epoch"):  # where the shuffling wants to know the pass
                self.candidates.set_epoch(self._passes - 1)
            for place, block in enumerate(self.candidates, start=1):
                if self._skip is not None:
                    if place <= self._skip:
                        continue
                    self._skip = None
                    self.on_resume()
                if self.stop():
                    return
                self._block = place
                self._decide(block)
                yield from self._full_batches(len(block) if self.unit == "batch" else self.batch_size)
            self._skip = None
            kept, seen = self._before
            if self.report.candidates == seen:
                raise ValueError("there are no candidates: the data set is empty")
            if self.report.kept == kept:
                raise AcceptanceStarved(
                    f"{self.rule} kept none of {self.report.candidates - seen:,} candidates in a whole pass: "
                    "there is nothing to train on; loosen the rule (a smaller k or threshold), or stop here"
                )

    def state_dict(self):
        """Return all that the next batches hang on: the place, what waits, coins, the rule's memory, totals."""
        return {
            "report": vars(self.report).copy(),
            "ready": list(self._ready),
            "place": [self._passes, self._block, *self._before],
            "coins": self.rng.bit_generator.state,
            "rule": self.rule.state_dict(),
        }

    def load_state_dict(self, state):
        """Go on from a state: the candidates must come in the same order as then (same data, seed and block size)."""
        self.report, self._ready = LoaderReport(**state["report"]), list(state["ready"])
        self._passes, self._block, *before = state["place"]
        self._skip, self._before = self._block, tuple(before)
        self.rng.bit_generator.state = state["coins"]
        self.rule.load_state_dict(state["rule"])

    def _decide(self, block):
        """Score a block, toss its coins, and put what is kept into the waiting line."""
        criterion = np.zeros(len(block))
        if getattr(self.rule, "needs_criterion", True):
            criterion = np.asarray(self.score(block), dtype=np.float64)  # (n,)
            self.report.scored += len(block)
        if criterion.shape != (len(block),) or not np.isfinite(criterion).all():
            bad = first_index(~np.isfinite(criterion)) if criterion.shape == (len(block),) else criterion.shape
            raise ValueError(f"score must give one finite number for each of {len(block)} examples; position or shape at fault: {bad}")
        if self.unit == "batch":
            criterion = criterion.mean(keepdims=True)  # (1,)
        log_a = np.asarray(self.rule.log_probability(criterion))
        if log_a.shape != criterion.shape:
            raise ValueError(
                f"the rule {self.rule} must return one probability per criterion value {criterion.shape}, got shape {log_a.shape}"
            )
        try:
            kept, margin = accept(log_a, self.rng, with_margin=True)
        except ValueError as error:
            raise ValueError(f"the rule {self.rule} returned a probability that is not in [0, 1]: {error}") from error
        self.rule.observe(criterion)
        self.on_decision(block, criterion, kept)

        kept, log_a = np.broadcast_to(kept, len(block)), np.broadcast_to(log_a, len(block))  # one coin may decide for all
        self._ready += [example for example, keep in zip(block, kept, strict=True) if keep]
        weights, report = np.exp(-log_a[kept]), self.report
        report.candidates, report.kept, report.margin = (
            report.candidates + len(block),
            report.kept + len(weights),
            min(report.margin, margin),
        )
        report.weights, report.squares = report.weights + float(weights.sum()), report.squares + float((weights**2).sum())

    def _full_batches(self, size):
        while len(self._ready) >= size:
            batch, self._ready = self._ready[:size], self._ready[size:]
            self.report.trained, self.report.batches = self.report.trained + size, self.report.batches + 1
            yield self.collate(batch)
