"""A run ends at the first step at which its budget is spent, or where its rule keeps nothing any more.

spent = scored + 3 x trained     (forward passes of one example; a backward is two)
"""

import logging
import time

from transformers import TrainerCallback

from rsf.rejection import AcceptanceStarved

logger = logging.getLogger(__name__)
FORWARD, TRAIN = 1, 3  # cost of scoring and of training on one example, in forward passes


class AtTheBudget(TrainerCallback):
    """Ends training at the first step at which the budget is spent, as the Trainer does at its last; shows the rate beside the bar."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_):
        self.begun, self.before, self.ended = time.monotonic(), self.trainer.loader.total.candidates, False

    def on_step_end(self, args, state, control, **_):
        total, seconds = self.trainer.loader.total, max(time.monotonic() - self.begun, 1e-9)
        for bar in filter(None, (getattr(callback, "training_bar", None) for callback in self.trainer.callback_handler.callbacks)):
            bar.set_postfix(
                {"kept": f"{total.acceptance_rate:.1%}", "candidates/s": f"{(total.candidates - self.before) / seconds:.1f}"}, refresh=False
            )
        over = self.trainer.stopped or self.trainer.spent >= self.trainer.budget or state.global_step >= state.max_steps
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
            while trainer.loader.report.batches % trainer.args.gradient_accumulation_steps and trainer.spent < trainer.budget:
                yield from trainer.loader
        except AcceptanceStarved as reason:
            trainer.stopped = str(reason)
            logger.warning("training stopped: %s", reason)
