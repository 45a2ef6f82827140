"""transformers.Trainer whose batches hold only what a rule keeps, at a budget counted in forward passes.

    spent = scored + 3 x trained    (forward passes of one example, of all processes; a backward is two)

It overrides where candidates come from, not how a step is taken: with `constant(1)` its weights equal the
Trainer's bit for bit (where a pass is a whole number of steps, and so are all epochs; elsewhere kept examples
fill a batch across passes, and the Trainer takes a short one). The learning rate is a function of spent /
budget, so every arm of a comparison decays fully, just when its budget is spent; with progress="updates" it
is one of the updates, as the Trainer's.
"""

import copy
import logging
from collections.abc import Callable

import numpy as np
import torch
from transformers.trainer import PreTrainedModel, Trainer, TrainOutput

from rsf.acceptance import refuse_if
from rsf.rules import BaseRule, constant
from rsf.selection import checkpoints, losses
from rsf.selection.budget import AtTheBudget, Plan, RSFConfig, UntilStarved, refuse, swapped
from rsf.selection.loader import RejectionLoader
from rsf.selection.scoring import copies, is_random, joined, score

LOGGED = ("acceptance_rate", "candidates", "kept", "effective_sample_size", "forward_passes")
LOOKS = 20  # so many batches of weighed examples are run once more, the later half only where losses differ


class RSFTrainer(Trainer):
    """Fine-tune on the candidates that a rule keeps.

    Parameters
    ----------
    rule : rsf.rules rule
        Default keeps everything: plain fine-tuning. A training that does not resume begins with the rule as
        it was given: what it remembers of an earlier one is forgotten.
    criterion : "loss", "error" or callable(model, inputs, outputs) -> tensor or array (batch,)
        "loss" is the one that the model itself reports, also under a `compute_loss` of one's own.
    on_decision : callable(block, criterion, kept)
        Told each decision, see `RejectionLoader`.

    Notes
    -----
    All others as in transformers.Trainer; `args` is an `RSFConfig`. The coins derive from `args.seed` and the
    process. After training, `loader.report` has the totals (`loader.total`: of all processes), `spent` the
    forward passes, and `stopped` the reason, if a rule starved. A rule with a memory remembers what its own
    process saw.

    Where it differs from the Trainer, also with a rule that keeps everything:

    1. Batches are full, except with unit="batch": what a pass leaves over opens the first batch of the next.
    2. An epoch is a pass over the candidates, and there are as many as the budget pays:
       `state.num_train_epochs` has those of plain fine-tuning, `state.max_steps` the most updates possible.
       A callback that ends an epoch ends neither the pass nor the budget: training goes on behind it.
    3. A run resumes only with the settings that order the candidates (seed, sizes, number of processes). It
       goes on bit for bit; if the data set itself draws as it is read, only where workers read it.
    4. It makes its batches itself, of data with a length: no stream, no `get_train_dataloader` of one's own
       (a sampler of one's own is welcome), no batches that one process shares out among others.
    5. Several processes that group by length begin each pass from the seed and the number of the pass.
    6. Schedules that follow a metric need progress="updates".
    """

    def __init__(
        self,
        model: PreTrainedModel | torch.nn.Module | None = None,
        args: RSFConfig | None = None,
        *arguments: object,
        rule: BaseRule | None = None,
        criterion: str | Callable[..., torch.Tensor] = "loss",
        on_decision: Callable[[list, np.ndarray, np.ndarray], object] | None = None,
        **more_arguments: object,
    ):
        args = RSFConfig("tmp_trainer") if args is None else args  # as the Trainer
        super().__init__(model, args, *arguments, **more_arguments)
        self.rule = constant(1) if rule is None else rule
        self.criterion = losses.CRITERIA.get(criterion, criterion)
        self.on_decision = on_decision
        # the plan is fixed while it trains; random: each candidate is collated once, since the collator draws
        self.loader = self.stopped = self._plan = self._random = None
        self._first_states = {}  # id of a rule -> the rule, and its state when its first training began
        self._looks = LOOKS  # that are left; 0: what is made of the losses of examples is the model's own
        # examples trained on, as long as none had a label, or a weight above 0, then None
        self._unlabelled = self._weightless = 0
        refuse(self, self.compute_loss_func or type(self).compute_loss is not RSFTrainer.compute_loss)
        self.add_callback(AtTheBudget(self))

    @property
    def plan(self) -> Plan:
        """What the present settings let a run spend; while it trains, what they were when it began."""
        if self._plan:
            return self._plan
        data = self.train_dataset
        own = type(self)._get_train_sampler is not Trainer._get_train_sampler  # which may draw more, or fewer
        drawn = (self._get_train_sampler(data) if own else None) or data
        return Plan(self.args, len(drawn), self._train_batch_size)

    @property
    def spent(self) -> int:
        """Forward passes of one example so far, of all processes."""
        return self.loader.total.forward_passes if self.loader else 0

    @property
    def budget(self) -> float:
        """Forward passes of one example to spend; infinite with progress="updates"."""
        return self.plan.budget

    def is_over(self, steps: int) -> bool:
        """Return whether training ends after so many updates: all is spent, or a rule starved."""
        return bool(self.stopped) or self.spent >= self.budget or steps >= self.plan.steps

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: object | None = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train until the budget is spent; arguments and result as in transformers.Trainer."""
        data = self.train_dataset
        refuse_if(
            isinstance(data, torch.utils.data.IterableDataset)
            or not hasattr(data, "__len__")
            or not len(data),
            "there are no candidates that could be met again in the same order: train_dataset must have "
            f"a length, not 0, and an index, got {type(data).__name__}",
        )
        self._checkpoint = (
            checkpoints.last_whole(self.args.output_dir, self.args.world_size)
            if resume_from_checkpoint is True
            else resume_from_checkpoint or None
        )
        self._state = self._checkpoint and checkpoints.load(self._checkpoint, self.args.process_index)
        logging.getLogger("transformers.trainer").addFilter(is_true)
        try:
            return super().train(self._checkpoint, trial, ignore_keys_for_eval)
        finally:
            logging.getLogger("transformers.trainer").removeFilter(is_true)
            if self.loader:
                self.loader.close()

    def _inner_training_loop(
        self, batch_size=None, args=None, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None
    ):
        """Train, with the plan worked out anew: a search changes the settings, and memory the batch size."""
        self._train_batch_size = batch_size
        # with the rule itself, or another gets its id
        _, first = self._first_states.setdefault(
            id(self.rule), (self.rule, copy.deepcopy(self.rule.state_dict()))
        )
        self.rule.load_state_dict(copy.deepcopy(first))
        self.stopped = None
        now = self.plan
        # the loader knows its place itself
        with swapped(args, max_steps=max(now.steps, 1), ignore_data_skip=True), swapped(self, _plan=now):
            return super()._inner_training_loop(
                batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval
            )

    def set_initial_training_values(
        self, args: RSFConfig, dataloader: UntilStarved, *more: object, **named: object
    ) -> tuple:
        """Take up the loader, at its place if the training resumes; a run that is over has no epochs left."""
        if not self._plan:  # asked from elsewhere
            return super().set_initial_training_values(args, dataloader, *more, **named)
        refuse_if(
            not isinstance(dataloader, UntilStarved),
            f"get_train_dataloader returned a {type(dataloader).__name__}, but RSFTrainer makes its batches "
            "of train_dataset: leave the method as it is, or use RejectionLoader in a loop of your own",
            TypeError,
        )
        self.loader = dataloader.loader
        if self._state:
            checkpoints.go_on(self, self._state)
        # the Trainer would count passes by the length, so it is shown nothing that has one
        epochs, *others = super().set_initial_training_values(args, iter(()), *more, **named)
        steps = self.loader.report.batches // args.gradient_accumulation_steps
        return (0 if self.is_over(steps) else epochs, *others)

    def get_train_dataloader(self) -> UntilStarved:
        """Return the loader: the Trainer's own batches, not collated, are its blocks."""
        with swapped(self, data_collator=list, _train_batch_size=self.plan.block):
            blocks = checkpoints.Blocks(super().get_train_dataloader(), self.args.seed, self.args.world_size)
        loader = RejectionLoader(
            blocks,
            self._score,
            constant(1) if self.args.weighting == "acceptance" else self.rule,
            self._train_batch_size,
            np.random.default_rng([self.args.seed, self.args.process_index]),
            collate=self._batch,
            unit=self.args.unit,
            prepare=self._prepare,
            weighting="inverse" if self.args.weighting == "inverse" else "none",
            stop=lambda: self.plan.is_spent(loader),
            on_decision=self.on_decision,
            all_ranks=self._all_ranks if self.args.world_size > 1 else None,
        )
        return UntilStarved(self, loader)

    def training_step(
        self, model: torch.nn.Module, inputs: dict, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Take the Trainer's step; refuse a `compute_loss` of one's own under which the weights get lost."""
        self._weight = inputs.pop("weight") if self.args.weighting == "inverse" else None
        self._weighed = self.args.weighting == "none"
        loss = super().training_step(model, inputs, num_items_in_batch)
        refuse_if(
            not self._weighed,
            f"weighting={self.args.weighting!r} weighs the model's own loss: it does not go with a "
            'compute_loss of your own, take weighting="none" or weigh there',
        )
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, object]:
        """Compute the Trainer's own loss; on request each example's is weighed by A (the twin) or 1 / A."""
        if not model.training or self.args.weighting == "none":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        own, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss = losses.per_example_loss(self.model, inputs, outputs)  # (batch,)
        if self._looks > LOOKS / 2 or (self._looks and loss.max() > 1.05 * loss.min()):
            self._look_again(inputs)
        if self.args.weighting == "acceptance":
            criterion = (
                torch.as_tensor(self.criterion(self.model, inputs, outputs)).detach().cpu().double().numpy()
            )
            criterion = criterion.mean(keepdims=True) if self.args.unit == "batch" else criterion
            self._weight = self.rule(criterion)
            self.rule.observe(criterion)
            if self._weightless is not None:
                self._weightless = None if self._weight.any() else self._weightless + len(loss)
        self._weighed = True
        weight = torch.as_tensor(self._weight, dtype=loss.dtype).to(loss.device)
        plain = losses.as_the_model_does(self.model, inputs, loss).clamp(min=torch.finfo(loss.dtype).tiny)
        # scaled as the Trainer has scaled its own, which is NaN where each answer's end is cut off
        scale = torch.where(own.isnan(), 1.0, own / plain).detach()
        loss = losses.as_the_model_does(self.model, inputs, weight * loss) * scale
        return (loss, outputs) if return_outputs else loss

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Create the Trainer's schedule, as a function of what was spent, in steps of plain fine-tuning."""
        if not self._plan or self.args.progress == "updates" or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        step = self.plan.per_step
        schedule = super().create_scheduler(self.budget / step, optimizer)
        refuse_if(
            not hasattr(schedule, "lr_lambdas"),
            f"a {type(schedule).__name__} is not a function of progress: take the lr_scheduler_type linear, "
            'cosine or constant, or progress="updates"',
        )
        schedule.lr_lambdas = [lambda _, at=at: at(self.spent / step) for at in schedule.lr_lambdas]
        return schedule

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log what the Trainer logs, and what was kept by all processes, which is not written into `logs`."""
        ours = {}
        if self.loader and self.is_in_train:
            ours = {name: getattr(self.loader.total, name) for name in LOGGED}
            if np.isfinite(getattr(self.rule, "k", np.nan)):
                ours["k"] = self.rule.k
        row = logs | ours | logs
        super().log(row, start_time)
        logs |= {name: row[name] for name in row.keys() - ours.keys()}  # the Trainer adds the epoch

    def _all_ranks(self, numbers):
        """Return the numbers of all processes (ranks, numbers)."""
        return self.accelerator.gather(torch.as_tensor(numbers[None], device=self.args.device)).cpu().numpy()

    def _prepare(self, block):
        """Return the examples of a block; if they are scored and the collator draws, as batches of one
        each."""
        if self._random is None:
            draws = self.args.random_collator
            self._random = (
                self.rule.needs_criterion
                and self.args.weighting != "acceptance"
                and (is_random(self.data_collator, block) if draws is None else draws)
            )
        return [dict(self.data_collator(copies([example]))) for example in block] if self._random else block

    def _collate(self, rows):
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        return joined(rows, tokenizer) if self._random else self.data_collator(copies(rows))

    def _batch(self, rows):
        """Return the batch of kept examples that is trained on."""
        batch = self._collate(rows)
        if self._unlabelled is not None:
            self._unlabelled = (
                self._unlabelled + len(rows) if losses.is_unlabelled(self.model, batch) else None
            )
        labels = batch.get("labels", rows)
        refuse_if(
            self.args.weighting != "none" and len(labels) != len(rows),
            f"{type(self.data_collator).__name__} packs {len(rows)} examples into {len(labels)} row(s), "
            "so none can be given a weight of its own: take a collator that pads",
        )
        return batch

    def _score(self, rows):
        """Return the criterion (n,) of a block, on the model that is not wrapped."""

        def criterion(model, inputs, outputs):
            values = self.criterion(model, inputs, outputs)
            if self._looks and self.criterion is losses.per_example_loss:
                self._looks *= not losses.check_against_own(model, inputs, outputs, values)
            return values

        return score(
            self.model,
            rows,
            criterion,
            lambda rows: self._prepare_inputs(self._collate(rows)),
            self.args.scoring_batch_size,
            dropout=self.args.scoring_dropout,
            autocast=lambda: (
                torch.autocast(self.args.device.type, getattr(torch, self.args.scoring_dtype))
                if self.args.scoring_dtype
                else self.compute_loss_context_manager()
            ),
        )

    @torch.no_grad()
    def _look_again(self, inputs):
        """Hold the losses of examples against the model's own, which the Trainer scales while it trains."""
        outputs = self.model.eval()(**inputs)
        self.model.train()
        loss = losses.per_example_loss(self.model, inputs, outputs)
        self._looks = 0 if losses.check_against_own(self.model, inputs, outputs, loss) else self._looks - 1

    def _save_rng_state(self, output_dir):
        """Save the loader's state with the generators', on all ranks, before what ends a checkpoint."""
        super()._save_rng_state(output_dir)  # which makes the folder
        checkpoints.save(checkpoints.state_of(self), output_dir, self.args.process_index)
        self.accelerator.wait_for_everyone()


def is_true(record: logging.LogRecord) -> bool:
    """Return whether a line of the Trainer's log is true: a pass in which scoring spent the rest had samples.

    Of data that are empty the loader itself speaks.
    """
    return "not to be a single sample" not in str(record.msg)
