"""What `RSFTrainer` can be told beyond TrainingArguments: scalars only, so that they become JSON with the
others."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from transformers import TrainingArguments

from rsf.acceptance import refuse_if
from rsf.rules import BaseRule
from rsf.selection.losses import CRITERIA, refuse_virtual_tokens

logger = logging.getLogger(__name__)


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
        choices = {
            "unit": ("example", "batch"),
            "weighting": ("none", "acceptance", "inverse"),
            "progress": ("compute", "updates"),
            "scoring_dtype": ("", "bfloat16", "float16"),
        }
        for name, allowed in choices.items():
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
    if judged and own_loss:
        logger.warning(
            "candidates are judged by what the model itself reports, not by a loss of your own: "
            "to judge by that, pass criterion=callable(model, inputs, outputs)"
        )
    if trainer.lr_scheduler is not None and args.progress == "compute":
        logger.warning(
            f"your own {type(trainer.lr_scheduler).__name__} follows updates, while the run ends with its "
            "budget of forward passes, after fewer of them if candidates are scored: "
            'take progress="updates"'
        )
