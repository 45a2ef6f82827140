"""transformers.Trainer whose batches hold only what a rule keeps, at a budget counted in forward passes.

    spent = scored + 3 x trained     (forward passes of one example; a backward is two; summed over all processes)

It overrides where candidates come from, not how a step is taken: with `constant(1)` its weights equal the Trainer's bit for bit
(where a pass is a whole number of steps; elsewhere kept examples fill a batch across passes, and the Trainer takes a short one).
The learning rate is a function of spent / budget, so every arm of a comparison decays fully, just when its budget is spent.
"""

import math
from contextlib import contextmanager

import numpy as np
import torch
from transformers import Trainer

from rsf.accounts import FORWARD, TRAIN
from rsf.rules import constant
from rsf.selection import checkpoints
from rsf.selection.budget import AtTheBudget, UntilStarved
from rsf.selection.config import RSFConfig
from rsf.selection.loader import RejectionLoader
from rsf.selection.losses import as_the_model_does, check_against_own, per_example_error, per_example_loss
from rsf.selection.scoring import copies, is_random, joined, score

CRITERIA = {"loss": per_example_loss, "error": per_example_error}


class RSFTrainer(Trainer):
    """Fine-tune on the candidates that a rule keeps.

    Parameters
    ----------
    rule : rsf.rules rule
        Default keeps everything: plain fine-tuning.
    criterion : "loss", "error" or callable(model, inputs, outputs) -> tensor (batch,)
    on_decision : callable(block, criterion, kept)
        Told each decision, see `RejectionLoader`.
    All others as in transformers.Trainer; `args` is an `RSFConfig`. The coins derive from `args.seed` and the process.

    After training, `loader.report` has the totals (`loader.total`: of all processes), `spent` the forward passes, and `stopped` the
    reason, if a rule starved. A rule with a memory remembers what its own process saw.
    """

    def __init__(
        self,
        model=None,
        args=None,
        *,
        rule=None,
        criterion="loss",
        on_decision=lambda block, criterion, kept: None,
        **trainer_arguments,
    ):
        if not isinstance(args, RSFConfig):
            raise TypeError(f"args must be an RSFConfig, got {type(args).__name__}")
        if criterion not in CRITERIA and not callable(criterion):
            raise ValueError(f"criterion must be one of {sorted(CRITERIA)} or a callable, got {criterion!r}")
        super().__init__(model=model, args=args, **trainer_arguments)
        if args.n_gpu > 1 or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise NotImplementedError(
                "RSFTrainer scores on a whole model in each process: start one per device with torchrun (DDP)"
            )
        if self.compute_loss_func and args.weighting != "none":
            raise ValueError(
                f"weighting={args.weighting!r} weighs the model's own loss: it does not go with compute_loss_func"
            )
        self.rule, self.criterion, self.on_decision = (
            rule or constant(1),
            CRITERIA.get(criterion, criterion),
            on_decision,
        )
        self.loader, self.stopped, self._resumed, self._steps_wanted = None, None, None, args.max_steps
        self._random, self._checked = (
            None,
            False,
        )  # does the collator draw? are the losses of examples what the model's is made of?
        self._per_step = (
            TRAIN * self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        )  # cost of a step, at the least
        self.add_callback(AtTheBudget(self))

    @property
    def spent(self):
        """Forward passes of one example so far, of all processes."""
        return FORWARD * self.loader.total.scored + TRAIN * self.loader.total.trained if self.loader else 0

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
            resume_from_checkpoint = checkpoints.last_whole(self.args.output_dir, self.args.world_size)
        self._steps_wanted, self.loader, self.stopped = self.args.max_steps, None, None
        self._resumed = resume_from_checkpoint or None
        self._state = checkpoints.load(self._resumed, self.args.process_index) if self._resumed else None
        # the most steps that the budget can pay: full batches, and with unit="batch" the short one that ends a pass
        most = math.ceil(self.budget / self._per_step) + math.ceil(
            self.budget / (TRAIN * len(self.train_dataset))
        )
        self.args.max_steps = min(most, self._steps_wanted) if self._steps_wanted > 0 else most
        try:
            with _swapped(self.args, ignore_data_skip=True):  # the loader knows its place itself
                return super().train(self._resumed, trial, ignore_keys_for_eval)
        finally:
            self.args.max_steps = self._steps_wanted
            if self.loader:
                self.loader.close()

    def get_train_dataloader(self):
        """Return the loader: the Trainer's own batches, not collated, are its blocks."""
        size = self.args.block_size or self.args.scoring_batch_size or self._train_batch_size
        with _swapped(self, data_collator=list, _train_batch_size=size):
            self._blocks = checkpoints.Blocks(
                super().get_train_dataloader(), self.args.seed, self.args.world_size
            )
        self.loader = RejectionLoader(
            self._blocks,
            self._score,
            constant(1) if self.args.weighting == "acceptance" else self.rule,
            self._train_batch_size,
            np.random.default_rng([self.args.seed, self.args.process_index]),
            collate=self._collate,
            unit=self.args.unit,
            prepare=self._prepare,
            weighting="inverse" if self.args.weighting == "inverse" else "none",
            stop=self._stop,
            on_decision=self.on_decision,
            all_ranks=self._all_ranks,
        )
        if self._resumed:
            self._load_state()
        return UntilStarved(self)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the Trainer's own loss; for the twin the same with each example's weighed by A, on request by 1 / A."""
        if not model.training or self.args.weighting == "none":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        weight = inputs.pop("weight", None)
        own, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss = per_example_loss(self.model, inputs, outputs)  # (batch,)
        if self.args.weighting == "acceptance":
            self._check_twin(inputs)
            criterion = self.criterion(self.model, inputs, outputs).detach().double().cpu().numpy()
            criterion = criterion.mean(keepdims=True) if self.args.unit == "batch" else criterion
            weight = self.rule(criterion)
            self.rule.observe(criterion)
        weight = torch.as_tensor(weight, dtype=loss.dtype, device=loss.device)
        plain = as_the_model_does(self.model, inputs, loss).detach().clamp(min=torch.finfo(loss.dtype).tiny)
        loss = as_the_model_does(self.model, inputs, weight * loss) * (
            own.detach() / plain
        )  # scaled as the Trainer has its own
        return (loss, outputs) if return_outputs else loss

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Create the Trainer's own schedule, as a function of what was spent, counted in steps of plain fine-tuning."""
        if self.lr_scheduler is None:
            schedule = super().create_scheduler(self.budget / self._per_step, optimizer)
            if not hasattr(schedule, "lr_lambdas"):
                raise ValueError(
                    f"lr_scheduler_type {self.args.lr_scheduler_type.value} is not a function of progress: take linear, cosine or constant"
                )
            schedule.lr_lambdas = [
                lambda _, at=at: at(self.spent / self._per_step) for at in schedule.lr_lambdas
            ]
        return self.lr_scheduler

    def log(self, logs, start_time=None):
        """Log what the Trainer logs, and what was kept by all processes."""
        if self.loader and self.is_in_train:
            report = self.loader.total
            names = ("acceptance_rate", "candidates", "kept", "effective_sample_size")
            logs |= {name: getattr(report, name) for name in names} | {"forward_passes": self.spent}
            if np.isfinite(getattr(self.rule, "k", np.nan)):
                logs["k"] = self.rule.k
        super().log(logs, start_time)

    def _stop(self):
        """Whether the budget is spent, as if all processes were as busy as this one; never within a step of several batches."""
        spent = self.spent + FORWARD * self.loader.pending * self.args.world_size
        return (
            spent >= self.budget and self.loader.report.batches % self.args.gradient_accumulation_steps == 0
        )

    def _all_ranks(self, numbers):
        """Return the numbers of all processes (ranks, numbers)."""
        if self.args.world_size == 1:
            return numbers[None]
        return self.accelerator.gather(torch.as_tensor(numbers[None], device=self.args.device)).cpu().numpy()

    def _prepare(self, block):
        """Return the examples of a block; where the collator is random and they are to be scored, as batches of one each."""
        if self._random is None:
            self._random = getattr(self.loader.rule, "needs_criterion", True) and is_random(
                self.data_collator, block
            )
        return [dict(self.data_collator(copies([example]))) for example in block] if self._random else block

    def _collate(self, rows):
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        return joined(rows, tokenizer) if self._random else self.data_collator(copies(rows))

    def _score(self, rows):
        """Return the criterion (n,) of a block, on the model that is not wrapped."""
        dtype, device = self.args.scoring_dtype, self.args.device.type

        def criterion(model, inputs, outputs):
            values = self.criterion(model, inputs, outputs)
            self._check_once(inputs, outputs, values)
            return values

        return score(
            self.model,
            rows,
            criterion,
            lambda rows: self._prepare_inputs(self._collate(rows)),
            self.args.scoring_batch_size,
            dropout=self.args.scoring_dropout,
            autocast=lambda: (
                torch.autocast(device, getattr(torch, dtype))
                if dtype
                else self.compute_loss_context_manager()
            ),
        )

    def _check_once(self, inputs, outputs, values):
        """Hold the first losses of examples against the model's own."""
        if not self._checked and self.criterion is per_example_loss:
            check_against_own(self.model, inputs, outputs, values)
        self._checked = True

    def _check_twin(self, inputs):
        """Do the same for the twin, which scores nothing, at its first batch (`own` is scaled by then)."""
        if not self._checked:
            with torch.no_grad():
                outputs = self.model.eval()(**inputs)
                self._check_once(inputs, outputs, per_example_loss(self.model, inputs, outputs))
            self.model.train()

    def _save_rng_state(self, output_dir):
        """Save the loader's state with those of the generators, before the file that makes a checkpoint whole, on all ranks."""
        state = {
            "loader": self.loader.state_dict(),
            "rule": self.rule.state_dict(),
            "random": self._random,
            "began": self._blocks.began,
        }
        state["collator"] = checkpoints.coins(self.data_collator)
        state["logged"] = hasattr(self, "_tr_loss") and [
            self._tr_loss.item(),
            self._globalstep_last_logged,
        ]  # not in early transformers 5
        checkpoints.save(state | {"setting": self._setting()}, output_dir, self.args.process_index)
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _load_state(self):
        state = self._state
        if (was := state["setting"]) != (now := self._setting()):
            unlike = {name: (was[name], now[name]) for name in now if was[name] != now[name]}
            raise ValueError(f"resume with the settings of the checkpoint: (then, now) are {unlike}")
        self.loader.load_state_dict(state["loader"])
        self.rule.load_state_dict(state["rule"])
        self._random, self._blocks.begin_from = state["random"], state["began"]
        checkpoints.load_coins(self.data_collator, state["collator"])
        self.loader.on_resume = lambda: self._load_rng_state(
            self._resumed
        )  # finding the place has drawn from the global generator

    def _setting(self):
        """Return what must be as it was for the same candidates to come in the same order, and meet the same coins."""
        args, size = self.args, self._blocks.loader.total_batch_size
        order = {
            name: str(getattr(args, name))
            for name in ("seed", "data_seed", "train_sampling_strategy", "unit", "weighting")
        }
        return order | {
            "candidates": len(self.train_dataset),
            "processes": args.world_size,
            "block": size,
            "batch": self._train_batch_size,
        }


@contextmanager
def _swapped(target, **values):
    """Set attributes for the time of a with block."""
    before = {name: getattr(target, name) for name in values}
    vars(target).update(values)
    try:
        yield
    finally:
        vars(target).update(before)
