"""What a run may spend, and where it ends: at the first step at which that is spent, or where its rule
starves.

    spent = scored + 3 x trained     (forward passes of one example; a backward is two)
"""

import logging
import math
import time

from transformers import TrainerCallback

from rsf.acceptance import AcceptanceStarved, refuse_if
from rsf.accounts import FORWARD, TRAIN
from rsf.selection.loader import RejectionLoader

logger = logging.getLogger(__name__)
ENOUGH = 8  # after so many steps without a single label a warning is due


class Plan:
    """What an `RSFConfig` lets a run spend on so many examples, in batches of a size on each process.

    block : candidates that each process decides upon at once
    candidates : that a pass brings, to all processes
    batches : in a pass of plain fine-tuning, on each process
    per_step : forward passes of a full step, of all processes
    budget : forward passes to spend; infinite where updates count
    steps : updates at most
    passes : that plain fine-tuning would make
    """

    def __init__(self, args, examples: int, batch_size: int):
        self.args = args
        own = args.unit == "example" and (args.block_size or args.scoring_batch_size)
        self.block = own or batch_size  # which memory, or a search, may have changed
        self.candidates = _in_a_pass(args, examples, self.block)
        plain = _in_a_pass(args, examples, batch_size)
        self.batches = math.ceil(plain / (batch_size * args.world_size))
        self.per_step = TRAIN * batch_size * args.world_size * args.gradient_accumulation_steps
        if args.progress == "updates":
            self.budget = math.inf
            a_pass = math.ceil(self.batches / args.gradient_accumulation_steps)
            most = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * a_pass)
        else:
            self.budget = args.compute_budget or (
                args.max_steps * self.per_step
                if args.max_steps > 0
                else math.ceil(args.num_train_epochs * TRAIN * plain)
            )
            most = math.ceil(self.budget / self.per_step)
            if args.unit == "batch":
                most += math.ceil(self.budget / (TRAIN * plain))  # each pass ends with a batch that is short
        self.steps = min(most, args.max_steps) if args.max_steps > 0 else most
        self.passes = math.ceil(min(self.budget, self.steps * self.per_step) / (TRAIN * plain))

    def is_spent(self, loader: RejectionLoader) -> bool:
        """Return whether all is spent, if all processes are as busy as this one; never within a step."""
        spent = loader.total.forward_passes + FORWARD * loader.pending * self.args.world_size
        return spent >= self.budget and loader.report.batches % self.args.gradient_accumulation_steps == 0


def _in_a_pass(args, examples, size):
    """Return how many examples a DataLoader hands out in a pass, on all processes, in batches of a size."""
    whole = size * args.world_size
    if args.dataloader_drop_last:
        refuse_if(
            examples < whole,
            f"dataloader_drop_last drops all {examples} candidates: a pass needs {whole} of them "
            f"({args.world_size} process(es) take {size} at once)",
        )
        return examples - examples % whole
    # several processes get as many each, by going on from the beginning
    return examples if args.world_size == 1 else math.ceil(examples / whole) * whole


def is_true(record: logging.LogRecord) -> bool:
    """Return whether a line of the Trainer's log is true: a pass in which scoring spent the rest had samples.

    Of data that are empty the loader itself speaks.
    """
    return "not to be a single sample" not in str(record.msg)


class AtTheBudget(TrainerCallback):
    """Ends training where the plan ends, as the Trainer at its last step; shows the rate beside the bar."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_):
        trainer = self.trainer
        self.begun = time.monotonic()
        self.before, self.ended = trainer.loader.total.candidates, False
        state.num_train_epochs = trainer.plan.passes
        if trainer._state and trainer._state["logged"]:
            loss, trainer._globalstep_last_logged = trainer._state["logged"]  # since the last row of the log
            trainer._tr_loss += loss
            trainer._total_loss_scalar -= loss  # the Trainer's summary is of the present call

    def on_step_end(self, args, state, control, **_):
        trainer = self.trainer
        state.epoch = trainer.loader.total.candidates / trainer.plan.candidates  # the Trainer knows no passes
        self.show(state)
        over = trainer.is_over(state.global_step)
        if over or state.global_step >= ENOUGH:
            if trainer._unlabelled:
                logger.warning(
                    f"not one of the first {trainer._unlabelled} examples has a label: their loss is 0, and "
                    "nothing can be learned from them (does the collator make the labels?)"
                )
            if trainer._weightless:
                logger.warning(
                    f"{trainer.rule} gives each of the first {trainer._weightless} examples the weight 0: "
                    "nothing can be learned from them (loosen the rule)"
                )
            trainer._unlabelled = trainer._weightless = None
        if over and not self.ended:  # the Trainer itself stops a pass that was starved
            self.ended = control.should_training_stop = True
            evaluated = [row["step"] for row in state.log_history if "eval_runtime" in row]
            if state.global_step < state.max_steps:  # else the Trainer has seen to it
                control.should_save |= args.save_strategy == "steps"
                if args.eval_delay <= state.global_step not in evaluated:
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
            if bar := getattr(callback, "training_bar", None):
                bar.set_postfix(shown, refresh=False)
            table = getattr(callback, "training_tracker", None)
            if table and table.value == table.last_value:  # in a notebook, just drawn
                epoch = f"Epoch {state.epoch:.2f}/{state.num_train_epochs}"
                table.comment = ", ".join([epoch, *map("=".join, shown.items())])
                table.update_bar(table.value)


class UntilStarved:
    """The loader as the Trainer iterates it, an epoch a pass, with the length of plain fine-tuning's.

    A pass goes on into the next until gradient accumulation has its batches for a whole step. A rule that
    keeps nothing ends training, with the reason, and the model stays.
    """

    def __init__(self, trainer, loader):
        sharing = trainer.args.accelerator_config
        refuse_if(
            sharing.dispatch_batches or (sharing.split_batches and trainer.args.world_size > 1),
            "accelerator_config's dispatch_batches and split_batches share out batches that are collated, "
            "but candidates are collated once they are kept: to train, leave both as they are by default",
        )
        self.trainer, self.loader = trainer, loader
        self.dataset = loader.candidates.loader.dataset
        self.batch_size = loader.batch_size
        self.total_batch_size = loader.batch_size * trainer.args.world_size

    def __len__(self):
        return self.trainer.plan.batches

    def __iter__(self):
        try:
            yield from self.loader
            while self.loader.report.batches % self.trainer.args.gradient_accumulation_steps:
                yield from self.loader
        except AcceptanceStarved as reason:
            self.trainer.stopped = str(reason)
            logger.warning("training stopped: %s", reason)
