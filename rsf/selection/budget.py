"""A run ends at the first step at which its budget is spent, or where its rule keeps nothing any more.

spent = scored + 3 x trained     (forward passes of one example; a backward is two)
"""

import logging
import math
import time

from transformers import TrainerCallback

from rsf.acceptance import AcceptanceStarved
from rsf.accounts import TRAIN

logger = logging.getLogger(__name__)


class AtTheBudget(TrainerCallback):
    """Ends training at the first step at which the budget is spent, as the Trainer does at its last; shows the rate beside the bar."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_):
        trainer = self.trainer
        self.begun, self.before, self.ended = time.monotonic(), trainer.loader.total.candidates, False
        state.num_train_epochs = math.ceil(
            trainer.budget / (TRAIN * len(trainer.train_dataset))
        )  # of plain fine-tuning
        if trainer._resumed and trainer._state["logged"]:
            loss, trainer._globalstep_last_logged = trainer._state[
                "logged"
            ]  # of the steps since the last row of the log
            trainer._tr_loss += loss
            trainer._total_loss_scalar -= loss  # the Trainer's summary is of the present call

    def on_step_end(self, args, state, control, **_):
        total, seconds = self.trainer.loader.total, max(time.monotonic() - self.begun, 1e-9)
        state.epoch = total.candidates / len(self.trainer.train_dataset)  # the Trainer's own knows no passes
        shown = {
            "kept": f"{total.acceptance_rate:.1%}",
            "candidates/s": f"{(total.candidates - self.before) / seconds:.1f}",
        }
        for callback in self.trainer.callback_handler.callbacks:
            if bar := getattr(callback, "training_bar", None):
                bar.set_postfix(shown, refresh=False)
            if (
                table := getattr(callback, "training_tracker", None)
            ) and table.value == table.last_value:  # in a notebook, just drawn
                table.comment = ", ".join(
                    [f"Epoch {state.epoch:.2f}/{state.num_train_epochs}", *map("=".join, shown.items())]
                )
                table.update_bar(table.value)
        over = (
            self.trainer.stopped
            or self.trainer.spent >= self.trainer.budget
            or state.global_step >= state.max_steps
        )
        if over and not self.ended:
            self.ended = control.should_training_stop = True
            control.should_save |= args.save_strategy == "steps"
            control.should_evaluate |= args.eval_strategy == "steps"

    on_epoch_end = on_step_end  # where scoring spends the rest, or a rule starves


class UntilStarved:
    """The loader as the Trainer iterates it, an epoch a pass.

    A pass goes on into the next until gradient accumulation has its batches for a whole step. A rule that keeps nothing ends
    training, with the reason, and the model stays.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def __iter__(self):
        trainer = self.trainer
        try:
            yield from trainer.loader
            while trainer.loader.report.batches % trainer.args.gradient_accumulation_steps:
                yield from trainer.loader
        except AcceptanceStarved as reason:
            trainer.stopped = str(reason)
            logger.warning("training stopped: %s", reason)
