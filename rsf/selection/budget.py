"""How much a run may spend, and where it ends: at the first step at which that is spent, or where its rule keeps nothing.

spent = scored + 3 x trained     (forward passes of one example; a backward is two)
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from transformers import TrainerCallback

from rsf.acceptance import AcceptanceStarved
from rsf.accounts import FORWARD, TRAIN

logger = logging.getLogger(__name__)
ENOUGH = 8  # after so many steps without a single label a warning is due


@dataclass(frozen=True)
class Plan:
    """What a run may spend, and what plain fine-tuning would do with it.

    candidates : that a pass brings, to all processes
    batches : in a pass of plain fine-tuning, on each process
    per_step : forward passes of a full step, of all processes
    budget : forward passes to spend; infinite where updates count
    steps : updates at most
    passes : that plain fine-tuning would make
    """

    candidates: int
    batches: int
    per_step: int
    budget: float
    steps: int
    passes: int


def plan_of(args, examples: int, batch_size: int, block_size: int) -> Plan:
    """Return what an `RSFConfig` lets a run spend on so many examples, with these sizes on each process."""
    candidates, plain = (_in_a_pass(args, examples, size) for size in (block_size, batch_size))
    batches = math.ceil(plain / (batch_size * args.world_size))
    per_step = TRAIN * batch_size * args.world_size * args.gradient_accumulation_steps
    steps = args.max_steps
    if args.progress == "updates":
        if steps <= 0:
            steps = math.ceil(args.num_train_epochs * math.ceil(batches / args.gradient_accumulation_steps))
        passes = math.ceil(steps * per_step / (TRAIN * plain))
        return Plan(candidates, batches, per_step, math.inf, steps, passes)
    if args.compute_budget:
        budget = args.compute_budget
    elif steps > 0:
        budget = steps * per_step
    else:
        budget = math.ceil(args.num_train_epochs * TRAIN * plain)
    passes = math.ceil(budget / (TRAIN * plain))
    most = math.ceil(budget / per_step)
    if args.unit == "batch":
        most += passes  # each ends with a batch that is short
    return Plan(candidates, batches, per_step, budget, min(most, steps) if steps > 0 else most, passes)


def _in_a_pass(args, examples, size):
    """Return how many examples a DataLoader hands out in a pass, on all processes, in batches of a size."""
    whole = size * args.world_size
    if args.dataloader_drop_last:
        if examples < whole:
            raise ValueError(
                f"dataloader_drop_last drops all {examples} candidates: a pass needs {whole} of them "
                f"({args.world_size} process(es) take {size} at once)"
            )
        return examples - examples % whole
    # several processes get as many each, by going on from the beginning
    return examples if args.world_size == 1 else math.ceil(examples / whole) * whole


def cost(report) -> int:
    """Return the forward passes of one example that a `LoaderReport` stands for."""
    return FORWARD * report.scored + TRAIN * report.trained


class AtTheBudget(TrainerCallback):
    """Ends training where the plan ends, as the Trainer does at its last step; shows the rate beside the bar."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_):
        trainer = self.trainer
        self.begun = time.monotonic()
        self.before = trainer.loader.total.candidates
        self.ended = False
        self.evaluated = None
        state.num_train_epochs = trainer.plan.passes
        if trainer._state and trainer._state["logged"]:
            loss, trainer._globalstep_last_logged = trainer._state["logged"]  # since the last row of the log
            trainer._tr_loss += loss
            trainer._total_loss_scalar -= loss  # the Trainer's summary is of the present call

    def on_evaluate(self, args, state, control, **_):
        self.evaluated = state.global_step

    def on_step_end(self, args, state, control, **_):
        trainer = self.trainer
        state.epoch = trainer.loader.total.candidates / len(
            trainer.train_dataset
        )  # the Trainer's has no passes
        self.show(state)
        over = trainer.is_over(state.global_step)
        if trainer._unlabelled and (over or state.global_step >= ENOUGH):
            logger.warning(
                f"not one of the first {trainer._unlabelled} examples has a label: their loss is 0, and nothing can be "
                "learned from them (does the collator make the labels?)"
            )
            trainer._unlabelled = None
        if over and not self.ended:
            self.ended = True
            control.should_training_stop = True
            control.should_save |= args.save_strategy == "steps"
            if args.eval_delay <= state.global_step != self.evaluated:
                control.should_evaluate |= args.eval_strategy == "steps"

    on_epoch_end = on_step_end  # where scoring spends the rest, or a rule starves

    def show(self, state):
        """Write the rate of acceptance, and the speed, beside the bars that the Trainer draws."""
        total = self.trainer.loader.total
        seconds = max(time.monotonic() - self.begun, 1e-9)
        shown = {
            "kept": f"{total.acceptance_rate:.1%}",
            "candidates/s": f"{(total.candidates - self.before) / seconds:.1f}",
        }
        for callback in self.trainer.callback_handler.callbacks:
            bar = getattr(callback, "training_bar", None)
            if bar:
                bar.set_postfix(shown, refresh=False)
            table = getattr(callback, "training_tracker", None)
            if table and table.value == table.last_value:  # in a notebook, just drawn
                words = [f"Epoch {state.epoch:.2f}/{state.num_train_epochs}", *map("=".join, shown.items())]
                table.comment = ", ".join(words)
                table.update_bar(table.value)


class UntilStarved:
    """The loader as the Trainer iterates it, an epoch a pass, with the length of plain fine-tuning's.

    A pass goes on into the next until gradient accumulation has its batches for a whole step. A rule that keeps nothing
    ends training, with the reason, and the model stays.
    """

    def __init__(self, trainer, loader, blocks):
        self.trainer = trainer
        self.loader = loader
        self.blocks = blocks
        self.dataset = blocks.loader.dataset
        self.batch_size = loader.batch_size

    def __len__(self):
        return self.trainer.plan.batches

    def __iter__(self) -> Iterator:
        try:
            yield from self.loader
            while self.loader.report.batches % self.trainer.args.gradient_accumulation_steps:
                yield from self.loader
        except AcceptanceStarved as reason:
            self.trainer.stopped = str(reason)
            logger.warning("training stopped: %s", reason)


@contextmanager
def not_called_empty():
    """Keep the Trainer from calling the data empty after a pass in which scoring spent the rest of the budget.

    Of data that are empty the loader itself speaks.
    """
    trainers = logging.getLogger("transformers.trainer")

    def true(record):
        return "not to be a single sample" not in str(record.msg)

    trainers.addFilter(true)
    try:
        yield
    finally:
        trainers.removeFilter(true)
