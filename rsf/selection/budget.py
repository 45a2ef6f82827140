"""What a run is told, what it may spend, and where it ends: at the first step at which that is spent, or
where its rule starves.

    spent = scored + 3 x trained     (forward passes of one example; a backward is two)
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from transformers import TrainerCallback, TrainingArguments

from rsf.acceptance import AcceptanceStarved, logger, refuse_if, warn_if
from rsf.accounts import FORWARD, TRAIN
from rsf.rules import BaseRule
from rsf.selection.loader import RejectionLoader
from rsf.selection.losses import CRITERIA, refuse_virtual_tokens

ENOUGH = 8  # after so many steps without a single label a warning is due


def _option(default, text):
    return field(default=default, metadata={"help": text})


@dataclass
class RSFConfig(TrainingArguments):
    """TrainingArguments and what rejection needs.

    Parameters
    ----------
    unit : "example" or "batch"
        With "batch" one coin decides for a whole batch, by its mean criterion (the published listing).
    weighting : "none", "acceptance" or "inverse"
        "acceptance" is the twin: train on every example with weight A, without coins (no gradient through A);
        the same expected gradient, nothing skipped. "inverse" gives what is kept the weight 1 / A, which
        undoes the selection without bias, at the price of variance.
    progress : "compute" or "updates"
        By "compute" the run ends when `compute_budget` is spent, and the learning rate is a function of
        spent / budget. By "updates" it ends after `max_steps` updates (or those of plain fine-tuning for
        `num_train_epochs`), the learning rate follows them, as in the Trainer, and forward passes are only
        counted.
    compute_budget : int
        Forward passes of one example to spend in training, by all processes together; 0: what plain
        fine-tuning for `max_steps` steps, or else for `num_train_epochs` epochs, would spend. A positive
        `max_steps` stays an upper bound.
    block_size : int
        Candidates that a process decides upon at once, by the same weights; 0: `scoring_batch_size`, or else
        the training batch size. Larger blocks score faster (their chunks are sorted by length) by weights
        that are a few steps older.
    scoring_batch_size : int
        Candidates in one forward pass of scoring, the longest first; 0: the block.
    scoring_dropout : bool
        Score in train mode, as the listing does; default is eval mode.
    scoring_dtype : "", "bfloat16" or "float16"
        Score under autocast; default: as training does.
    random_collator : bool, optional
        Whether the collator draws (masks, crops, noise), so that each candidate must be collated once and for
        all before it is scored. None: found out by collating the first block several times.

    Notes
    -----
    A schedule counts in steps of plain fine-tuning (`warmup_steps`, `lr_scheduler_kwargs`), however many are
    taken. For batches of kept examples of like length take train_sampling_strategy="group_by_length", as in
    plain fine-tuning.
    """

    unit: str = _option("example", 'what one coin decides on: "example" or "batch"')
    weighting: str = _option(
        "none", 'weight "acceptance" (A, on every example: the twin) or "inverse" (1 / A, on what is kept)'
    )
    progress: str = _option(
        "compute", 'what ends the run and moves the schedule: "compute" (forward passes) or "updates"'
    )
    compute_budget: int = _option(0, "forward passes of one example; 0: those of plain fine-tuning")
    block_size: int = _option(
        0, "candidates decided upon at once; 0: scoring_batch_size or else the training batch size"
    )
    scoring_batch_size: int = _option(0, "candidates in one forward pass of scoring; 0: the block")
    scoring_dropout: bool = _option(False, "score in train mode (the published listing) instead of eval mode")
    scoring_dtype: str = _option(
        "", 'score under autocast in "bfloat16" or "float16"; empty: as training does'
    )
    random_collator: bool | None = _option(None, "whether the collator draws; None: found out")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (
            ("unit", ("example", "batch")),
            ("weighting", ("none", "acceptance", "inverse")),
            ("progress", ("compute", "updates")),
            ("scoring_dtype", ("", "bfloat16", "float16")),
        ):
            value = getattr(self, name)
            refuse_if(value not in allowed, f"{name} must be one of {allowed}, got {value!r}")
        for name in ("block_size", "scoring_batch_size", "compute_budget"):
            value = getattr(self, name)
            refuse_if(value < 0, f"{name} must not be negative, got {value}")
            refuse_if(
                self.unit == "batch" and name != "compute_budget" and value not in (0, self.train_batch_size),
                f'with unit="batch" a block is a batch: {name} must be 0 or {self.train_batch_size}, '
                f"got {value}",
            )
        refuse_if(
            self.progress == "updates" and self.compute_budget,
            'with progress="updates" max_steps ends the run and forward passes are only counted: '
            f"compute_budget must be 0, got {self.compute_budget}",
        )
        refuse_if(
            self.weighting != "none" and self.label_smoothing_factor,
            "weighting weighs the model's own loss, label_smoothing_factor must be 0, "
            f"got {self.label_smoothing_factor}",
        )


@contextmanager
def swapped(target: object, **values: object) -> Iterator[None]:
    """Set attributes for the time of a with block."""
    before = {name: getattr(target, name) for name in values}
    vars(target).update(values)
    try:
        yield
    finally:
        vars(target).update(before)


def refuse(trainer, own_loss: bool) -> None:
    """Refuse what an `RSFTrainer` cannot take, or not together; say what its criterion or its scheduler does
    not see.

    Parameters
    ----------
    trainer : RSFTrainer
    own_loss : whether what is trained on is not simply the loss that the model reports
    """
    args = trainer.args
    refuse_if(
        not isinstance(args, RSFConfig),
        f"args must be an RSFConfig, which takes all that TrainingArguments takes, got {type(args).__name__}",
        TypeError,
    )
    refuse_if(
        not isinstance(trainer.rule, BaseRule),
        f"rule must be one of rsf.rules, such as clipped(0.5), or a rsf.rules.Rule, got {trainer.rule!r:.80}",
        TypeError,
    )
    refuse_if(
        not callable(trainer.criterion),
        f"criterion must be one of {sorted(CRITERIA)} or a callable, got {trainer.criterion!r}",
    )
    refuse_if(
        args.n_gpu > 1 or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled,
        "RSFTrainer scores on a whole model in each process: start one per device with torchrun (DDP)",
        NotImplementedError,
    )
    refuse_if(
        trainer.compute_loss_func and args.weighting != "none",
        f"weighting={args.weighting!r} weighs the model's own loss: it does not go with compute_loss_func",
    )
    judged = trainer.criterion in CRITERIA.values() and trainer.rule.needs_criterion
    if judged or args.weighting != "none":
        refuse_virtual_tokens(trainer.model)
    warn_if(
        judged and own_loss,
        "candidates are judged by what the model itself reports, not by a loss of your own: "
        "to judge by that, pass criterion=callable(model, inputs, outputs)",
    )
    warn_if(
        trainer.lr_scheduler is not None and args.progress == "compute",
        f"your own {type(trainer.lr_scheduler).__name__} follows updates, while the run ends with its "
        'budget of forward passes, after fewer of them if candidates are scored: take progress="updates"',
    )


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
        return (
            loader.total.forward_passes + FORWARD * loader.pending * self.args.world_size >= self.budget
            and loader.report.batches % self.args.gradient_accumulation_steps == 0
        )


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
            warn_if(
                trainer._unlabelled,
                f"not one of the first {trainer._unlabelled} examples has a label: their loss is 0, and "
                "nothing can be learned from them (does the collator make the labels?)",
            )
            warn_if(
                trainer._weightless,
                f"{trainer.rule} gives each of the first {trainer._weightless} examples the weight 0: "
                "nothing can be learned from them (loosen the rule)",
            )
            trainer._unlabelled = trainer._weightless = None
        if over and not self.ended:  # the Trainer itself stops a pass that was starved
            self.ended = control.should_training_stop = True
            if state.global_step < state.max_steps:  # else the Trainer has seen to it
                control.should_save |= args.save_strategy == "steps"
                evaluated = [row["step"] for row in state.log_history if "eval_runtime" in row]
                control.should_evaluate |= (
                    args.eval_strategy == "steps" and args.eval_delay <= state.global_step not in evaluated
                )

    on_epoch_end = on_step_end  # where scoring spends the rest, or a rule starves

    def show(self, state):
        """Write the rate of acceptance, and the speed, beside the bars that the Trainer draws."""
        total = self.trainer.loader.total
        speed = (total.candidates - self.before) / max(time.monotonic() - self.begun, 1e-9)
        shown = {"kept": f"{total.acceptance_rate:.1%}", "candidates/s": f"{speed:.1f}"}
        for callback in self.trainer.callback_handler.callbacks:
            if bar := getattr(callback, "training_bar", None):
                bar.set_postfix(shown, refresh=False)
            table = getattr(callback, "training_tracker", None)
            if table and table.value == table.last_value:  # in a notebook, just drawn
                table.comment = ", ".join(
                    [f"Epoch {state.epoch:.2f}/{state.num_train_epochs}", *map("=".join, shown.items())]
                )
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
        self.trainer.control.should_epoch_stop = True  # or the Trainer asks on, up to max_steps times
