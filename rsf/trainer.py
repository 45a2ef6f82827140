"""transformers.Trainer whose batches hold only what a rule keeps, at a budget counted in forward passes.

    spent = scored + 3 x trained     (forward passes of one example; a backward is two)

It overrides where candidates come from, not how a step is taken: with `constant(1)` its weights equal the Trainer's bit for bit
(where a pass is a whole number of steps; elsewhere kept examples fill a batch across passes, and the Trainer takes a short one).
The learning rate is a function of spent / budget, so every arm of a comparison decays fully, just when its budget is spent.
"""

import logging
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from rsf.loader import RejectionLoader
from rsf.losses import as_the_model_does, per_example_error, per_example_loss
from rsf.rejection import AcceptanceStarved
from rsf.rules import constant

logger = logging.getLogger(__name__)
FORWARD, TRAIN = 1, 3  # cost of scoring and of training on one example, in forward passes
CRITERIA = {"loss": per_example_loss, "error": per_example_error}


@dataclass
class RSFConfig(TrainingArguments):
    """TrainingArguments and, all scalars, what rejection needs.

    unit : "example" or "batch" (the published listing: one coin per batch, by its mean criterion)
    scoring_batch_size : candidates decided upon at once, by the same weights; 0: the training batch size
    scoring_dropout : score in train mode, as the listing does; default is eval mode
    twin : train on every example with weight A, without coins (no gradient through A): the same expected gradient, nothing skipped
    compute_budget : forward passes of one example to spend in training; 0: what plain fine-tuning for `max_steps` steps, or
        else for `num_train_epochs` epochs, would spend. A positive `max_steps` stays an upper bound.

    An absolute `warmup_steps` (1 or more) counts steps of plain fine-tuning, a smaller one is a share of the budget.
    """

    unit: str = field(default="example", metadata={"help": 'what one coin decides on: "example" or "batch"'})
    scoring_batch_size: int = field(default=0, metadata={"help": "candidates decided upon at once; 0: the training batch size"})
    scoring_dropout: bool = field(default=False, metadata={"help": "score in train mode (the published listing) instead of eval mode"})
    twin: bool = field(default=False, metadata={"help": "train on every example with weight A instead of keeping with probability A"})
    compute_budget: int = field(default=0, metadata={"help": "forward passes of one example; 0: those of plain fine-tuning"})

    def __post_init__(self):
        super().__post_init__()
        if self.unit not in ("example", "batch"):
            raise ValueError(f'unit must be "example" or "batch", got {self.unit!r}')
        if self.scoring_batch_size < 0 or self.compute_budget < 0:
            raise ValueError(
                f"scoring_batch_size and compute_budget must not be negative, got {self.scoring_batch_size} and {self.compute_budget}"
            )
        if self.unit == "batch" and self.scoring_batch_size not in (0, self.train_batch_size):
            raise ValueError(
                f'with unit="batch" a block is a batch: scoring_batch_size must be 0 or {self.train_batch_size}, got {self.scoring_batch_size}'
            )


class RSFTrainer(Trainer):
    """Fine-tune on the candidates that a rule keeps.

    Parameters
    ----------
    rule : rsf.rules rule
        Default keeps everything: plain fine-tuning.
    criterion : "loss", "error" or callable(model, inputs, outputs) -> tensor (batch,)
    on_decision : callable(block, criterion, kept)
        Told each decision, see `RejectionLoader`.
    All others as in transformers.Trainer; `args` is an `RSFConfig`. The coins derive from `args.seed`.

    After training, `loader.report` has the totals, `spent` the forward passes, and `stopped` the reason, if a rule starved.
    """

    def __init__(
        self, model=None, args=None, *, rule=None, criterion="loss", on_decision=lambda block, criterion, kept: None, **trainer_arguments
    ):
        if not isinstance(args, RSFConfig):
            raise TypeError(f"args must be an RSFConfig, got {type(args).__name__}")
        if criterion not in CRITERIA and not callable(criterion):
            raise ValueError(f"criterion must be one of {sorted(CRITERIA)} or a callable, got {criterion!r}")
        super().__init__(model=model, args=args, **trainer_arguments)
        if args.world_size > 1 or args.n_gpu > 1:
            raise NotImplementedError(f"RSFTrainer decides on one device for now, found {max(args.world_size, args.n_gpu)}: show it one")
        self.rule, self.criterion, self.on_decision = rule or constant(1), CRITERIA.get(criterion, criterion), on_decision
        self.loader, self.stopped, self._resumed, self._steps_wanted = None, None, None, args.max_steps
        self._per_step = TRAIN * self._train_batch_size * args.gradient_accumulation_steps  # what a step costs at the least
        if args.twin:
            self.loss_is_scaled_for_ga = False  # it is a mean over the batch
        self.add_callback(_StopAtBudget(self))

    @property
    def spent(self):
        """Forward passes of one example so far."""
        return FORWARD * self.loader.report.scored + TRAIN * self.loader.report.trained if self.loader else 0

    @property
    def budget(self):
        """Forward passes of one example to spend."""
        if self.args.compute_budget:
            return self.args.compute_budget
        if self._steps_wanted > 0:
            return self._steps_wanted * self._per_step
        return math.ceil(self.args.num_train_epochs * len(self.train_dataset) * TRAIN)

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        """Train until the budget is spent; arguments and result as in transformers.Trainer."""
        if not hasattr(self.train_dataset, "__len__") or len(self.train_dataset) == 0:
            raise ValueError(
                f"there are no candidates: train_dataset must have a length, and not 0; got {type(self.train_dataset).__name__}"
            )
        if resume_from_checkpoint is True:
            resume_from_checkpoint = _last_whole_checkpoint(self.args.output_dir, self._state_file)
        if resume_from_checkpoint and not (Path(resume_from_checkpoint) / self._state_file).is_file():
            raise FileNotFoundError(f"{resume_from_checkpoint} has no {self._state_file}: it was not written by RSFTrainer on this rank")
        self._steps_wanted, self.loader, self.stopped = self.args.max_steps, None, None
        self._resumed = resume_from_checkpoint or None
        # the most steps that the budget can pay: full batches, and with unit="batch" the short one that ends a pass
        most = math.ceil(self.budget / self._per_step) + math.ceil(self.budget / (TRAIN * len(self.train_dataset)))
        self.args.max_steps = min(most, self._steps_wanted) if self._steps_wanted > 0 else most
        try:
            with _swapped(self.args, ignore_data_skip=True):  # the loader knows its place itself
                return super().train(self._resumed, trial, ignore_keys_for_eval)
        finally:
            self.args.max_steps = self._steps_wanted

    def get_train_dataloader(self):
        """Return the loader: the Trainer's own batches, not collated, are its blocks."""
        with _swapped(self, data_collator=list, _train_batch_size=self.args.scoring_batch_size or self._train_batch_size):
            candidates = super().get_train_dataloader()
        self.loader = RejectionLoader(
            candidates,
            self._score,
            constant(1) if self.args.twin else self.rule,
            self._train_batch_size,
            np.random.default_rng([self.args.seed, self.args.process_index]),
            collate=self.data_collator,
            unit=self.args.unit,
            stop=lambda: self.spent >= self.budget,
            on_decision=self.on_decision,
        )
        if self._resumed:
            state = torch.load(Path(self._resumed) / self._state_file, weights_only=True)
            self.loader.load_state_dict(state["loader"])
            self.rule.load_state_dict(state["rule"])
            self.loader.on_resume = lambda: self._load_rng_state(self._resumed)  # finding the place has drawn from the global generator
        return _UntilStarved(self)

    def _save_checkpoint(self, model, trial):
        """Save the loader's state first: a checkpoint that has its last file, the Trainer's state, has this one too."""
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"loader": self.loader.state_dict(), "rule": self.rule.state_dict()}, folder / self._state_file)
        super()._save_checkpoint(model, trial)

    @property
    def _state_file(self):
        return f"rejection_{self.args.process_index}.pt"

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the Trainer's own loss; for the twin, in training, that of the examples' A x loss, with A from the same forward pass."""
        if not (self.args.twin and self.model.training):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**inputs)
        inner = self.accelerator.unwrap_model(model)
        values = self.criterion(inner, inputs, outputs).detach().double().cpu().numpy()  # (batch,)
        if self.args.unit == "batch":
            values = values.mean(keepdims=True)  # (1,): one A for all
        losses = per_example_loss(inner, inputs, outputs)
        a = torch.as_tensor(self.rule(values), dtype=losses.dtype, device=losses.device)
        loss = as_the_model_does(inner, inputs, a * losses)
        self.rule.observe(values)
        return (loss, outputs) if return_outputs else loss

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Create the Trainer's own schedule, as a function of spent / budget instead of steps."""
        if self.lr_scheduler is None:
            warmup = self.args.warmup_steps
            with _swapped(self.args, warmup_steps=warmup if warmup < 1 else warmup * self._per_step):
                schedule = super().create_scheduler(self.budget, optimizer)
            if not hasattr(schedule, "lr_lambdas"):
                raise ValueError(
                    f"lr_scheduler_type {self.args.lr_scheduler_type.value} is not a function of progress: take linear, cosine or constant"
                )
            schedule.lr_lambdas = [lambda _, at=at: at(self.spent) for at in schedule.lr_lambdas]
        return self.lr_scheduler

    def log(self, logs, start_time=None):
        """Log what the Trainer logs, and what was kept."""
        if self.loader and self.is_in_train:
            report = self.loader.report
            # passes over the candidates: the Trainer's own count restarts on resuming
            self.state.epoch = report.candidates / len(self.train_dataset)
            logs |= {
                "acceptance_rate": report.acceptance_rate,
                "candidates": report.candidates,
                "kept": report.kept,
                "effective_sample_size": report.effective_sample_size,
                "forward_passes": self.spent,
            } | ({"k": self.rule.k} if np.isfinite(getattr(self.rule, "k", np.nan)) else {})
        super().log(logs, start_time)

    def _score(self, block):
        """Return the criterion (n,) of a block under the current weights, one host transfer."""
        model, training = self.model, self.model.training
        model.train(self.args.scoring_dropout)
        try:
            with torch.inference_mode(), self.compute_loss_context_manager():
                inputs = self._prepare_inputs(self.data_collator(block))
                return self.criterion(model, inputs, model(**inputs)).double().cpu().numpy()
        finally:
            model.train(training)


def _last_whole_checkpoint(folder, state_file):
    """Return the newest checkpoint of a folder that was written to its end."""
    whole = [file.parent for file in Path(folder).glob("checkpoint-*/trainer_state.json") if (file.parent / state_file).is_file()]
    if not whole:
        raise FileNotFoundError(f"no whole checkpoint of RSFTrainer is in {folder}: nothing to resume from")
    return str(max(whole, key=lambda path: int(path.name.split("-")[1])))


class _StopAtBudget(TrainerCallback):
    """Ends training at the first step at which the budget is spent."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= self.trainer.spent >= self.trainer.budget


class _UntilStarved:
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


@contextmanager
def _swapped(target, **values):
    """Set attributes for the time of a with block."""
    before = {name: getattr(target, name) for name in values}
    vars(target).update(values)
    try:
        yield
    finally:
        vars(target).update(before)
