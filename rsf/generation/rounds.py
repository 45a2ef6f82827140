"""The article's loop in its own words: sample, keep what is acceptable, fine-tune on it, and again.

    spent = tokens read or written in sampling + 3 x tokens trained on

in forward passes of one token (a backward is two). Training is that of the ordinary transformers.Trainer, and
so of accelerate and of LoRA. Known as RAFT (Dong et al. 2023, arXiv 2304.06767), which goes on from the last
round's model, and, restarting from the base, as ReST-EM (arXiv 2312.06585).
"""

import copy
import json
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from rsf.acceptance import refuse_if, whole
from rsf.accounts import TRAIN, write_json, write_whole
from rsf.generation.drafts import as_dataset, check_call, key_of, rows_of
from rsf.generation.encoding import encode, tokens_of
from rsf.generation.engines import on_one
from rsf.generation.judging import SamplingReport, sample_and_judge
from rsf.generation.sampler import digest, model_sampler, positions
from rsf.rules import BaseRule

TRAINING = (  # the settings that must stay as they are to go on
    *("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "optim", "lr_scheduler_type", "warmup_steps", "weight_decay"),
    *("max_grad_norm", "seed", "bf16", "fp16"),
)


@dataclass
class RoundReport:
    """One round: what was sampled with the model as it came in, and what was trained then.

    reward : mean reward of all that was sampled, with the model before training
    examples : kept and supervised, trained on
    steps, loss : of the Trainer (of several processes each has its own loss, the file the first one's)
    spent : forward passes of one token, all rounds so far
    stopped : why no further round was begun, None if there was one
    """

    round: int
    sampling: SamplingReport
    reward: float
    spent: int
    examples: int = 0
    steps: int = 0
    loss: float = float("nan")
    stopped: str | None = None

    def __str__(self) -> str:
        trained = (
            f"trained {self.steps:,} steps on {self.examples:,} examples" if self.steps else "not trained"
        )
        end = f"; stopped: {self.stopped}" if self.stopped else ""
        return (
            f"round {self.round}: {self.sampling}; mean reward {self.reward:z.4f}; {trained}; "
            f"{self.spent:,} forward passes{end}"
        )


def rsf_rounds(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable,
    reward: Callable[..., Iterable[float | None]],
    rule: BaseRule,
    args: TrainingArguments,
    rng: np.random.Generator,
    *,
    rounds: int,
    samples_per_prompt: int,
    until_accepted: bool = False,
    max_samples: int | None = None,
    dedupe: Callable[[str], Hashable] | None = None,
    cap: int | None = None,
    supervised: Iterable | None = None,
    restart: bool = True,
    target_reward: float | None = None,
    saturation: float | None = None,
    budget: int | None = None,
    sampler: Callable[[PreTrainedModel, PreTrainedTokenizerBase], Callable] | None = None,
    on_round: Callable[[RoundReport], object] | None = None,
) -> list[RoundReport]:
    """Train `model` in place on what it writes and the rule keeps; return a RoundReport for each round.

    Called in each of the processes that torchrun started, it samples and trains on all of their devices;
    the first of them judges, and what is kept is what one process would keep. Only its rule remembers.

    Parameters
    ----------
    model, tokenizer : as for transformers.Trainer; with LoRA, the model that `peft` made
    prompts, reward, rule, rng, samples_per_prompt, until_accepted, max_samples, dedupe, cap
        As for `sample_and_judge`.
    args : transformers.TrainingArguments
        Of each round's training (a new optimiser and schedule each). `args.output_dir` gets a folder a
        round: the model, what was sampled and a report. Called again with the same arguments, it goes on
        from there (a training cut off starts its round anew). All processes must see the folder.
    rounds : int
        The most rounds.
    supervised : datasets.Dataset, or rows, with "prompt" and "completion", optional
        Mixed in, in every round.
    restart : bool
        Each round trains from the weights that the model came with (ReST-EM), not from the last round's
        (RAFT).
    target_reward : float, optional
        Stop once the mean reward of all samples reaches it.
    saturation : float, optional
        Stop once the acceptance rate rises by less than this from one round to the next.
    budget : int, optional
        Forward passes of one token; no round is begun once they are spent.
    sampler : callable(model, tokenizer) -> sample, optional
        `model_sampler`, or such as `functools.partial(model_sampler, max_new_tokens=8)`.
    on_round : callable(report), optional
        Called after each round's training, in every process, to measure the model.

    Raises
    ------
    ValueError
        The arguments do not fit together, or the folder holds another run; nothing was sampled.

    Of several processes only the first raises what happens while it samples: let it end the script, for the
    others wait for it. Started again, it goes on.
    """
    drawing = {
        "samples_per_prompt": samples_per_prompt,
        "until_accepted": until_accepted,
        "max_samples": max_samples,
        "cap": cap,
    }
    prompts = as_dataset(prompts, "prompts")
    supervised = as_dataset([] if supervised is None else supervised, "supervised", ("prompt", "completion"))
    refuse_if(not callable(on_round or str), f"on_round must be a function of a report, got {on_round!r:.80}")
    limits = [target_reward, saturation, budget]
    refuse_if(
        not all(one is None or (isinstance(one, Real) and one == one) for one in limits),
        f"target_reward, saturation and budget must be numbers, got {limits}",
    )
    rounds = whole("rounds", rounds)
    sampler = sampler or model_sampler
    sample = sampler(model.to(args.device), tokenizer)
    check_call(sample, prompts, reward, rule, rng, dedupe=dedupe, to_train=True, **drawing)
    learner = Learner(model, tokenizer, args, supervised, restart)
    coins = rng.spawn(rounds)
    settings = {
        "restart": restart,
        "samples": drawing,
        "rule": re.sub(" at 0x[0-9a-fA-F]+", "", str(rule)),  # an object's address is another in each process
        "coins": str(coins[0].bit_generator.seed_seq),
        "weights": digest(learner.start.items()),
        "prompts": digest(enumerate(rows_of(prompts))),
        "sampler": key_of(sample),
        "supervised": digest(enumerate(rows_of(supervised))),
        "training": [str(getattr(args, name)) for name in TRAINING],
    }
    learner.claim(settings, rounds)
    draw = partial(sample_and_judge, prompts=prompts, reward=reward, rule=rule, dedupe=dedupe, **drawing)
    return _loop(learner, rule, coins, draw, sample, sampler, target_reward, saturation, budget, on_round)


def _loop(
    learner: "Learner",
    rule: BaseRule,
    coins: list[np.random.Generator],
    draw: Callable,
    sample: Callable,
    sampler: Callable,
    target_reward: float | None,
    saturation: float | None,
    budget: int | None,
    on_round: Callable[[RoundReport], object] | None,
) -> list[RoundReport]:
    """Go through the rounds; `sample` writes in the first, what `sampler` makes in the others."""
    reports = []
    for r, rng in enumerate(coins, start=1):
        if learner.report(r).exists():  # done in an earlier call
            reports.append(learner.resume(r, rule))
            continue
        spent = reports[-1].spent if reports else 0
        if budget is not None and reports and spent >= budget:
            reports[-1].stopped = f"the budget of {budget:,} forward passes is spent"
            break
        sample = sample if r == 1 else sampler(learner.model, learner.tokenizer)
        kept, report = on_one(sample, partial(_sampled, learner, draw, r, rng), learner.args.world_size)
        report.spent += spent
        before = reports[-1].sampling.acceptance_rate if reports else -np.inf
        reports.append(report)
        if target_reward is not None and report.reward >= target_reward:
            report.stopped = f"the mean reward reached {target_reward:g}"
        elif saturation is not None and report.sampling.acceptance_rate - before < saturation:
            report.stopped = (
                f"the acceptance rate rose by less than {saturation:g}, "
                f"from {before:.4f} to {report.sampling.acceptance_rate:.4f}"
            )
        elif not len(kept) and not learner.gold:
            report.stopped = "nothing was kept, so there is nothing to train on"
        if report.stopped:
            break
        learner.train(kept, report)
        with learner.args.main_process_first(local=False):  # none goes on before the report lies there
            if learner.args.process_index == 0:
                learner.save(report, rule)
        if on_round:
            on_round(report)
    reports[-1].stopped = reports[-1].stopped or f"{len(coins)} rounds are done"
    return reports


def _sampled(learner: "Learner", draw: Callable, r: int, rng: object, sample: Callable) -> tuple:
    """Return what a round is to train on, and its report so far."""
    folder = learner.report(r).parent if getattr(sample, "key", None) else None
    kept, judged, sampling = draw(sample, rng=rng, folder=folder, round=r)
    mean = float(judged.data["reward"].to_pandas().mean())  # of those that have one; NaN if none has
    return kept, RoundReport(r, sampling, mean, tokens_of(judged, learner.tokenizer))


class Learner:
    """The model that learns: what it came with, what is mixed in, and the folder of its rounds."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        args: TrainingArguments,
        supervised: Dataset,
        restart: bool,
    ) -> None:
        self.model = model.to(args.device)
        self.tokenizer, self.args, self.restart = tokenizer, args, restart
        self.seq2seq = model.config.is_encoder_decoder
        self.home = Path(args.output_dir)
        for value in self.model.parameters():
            value.data = value.data.contiguous()  # or it could not be saved
        self.start = self.weights()
        refuse_if(not self.start, "the model has nothing to train: none of its parameters has requires_grad")
        self.gold = self.examples(supervised)
        trainer = self.trainer(self.gold, self.home)  # what it refuses, it refuses before anything is sampled
        refuse_if(
            trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled,
            "rsf_rounds samples with a whole model in each process: start one per device with torchrun (DDP)",
            NotImplementedError,
        )

    def report(self, r: int) -> Path:
        """Return where the report of a round lies, which is written last."""
        return self.home / f"round-{r:02}" / "report.json"

    def trained(self, r: int) -> Path:
        """Return where the weights after a round lie, to go on from bit for bit."""
        return self.home / f"trained-{r:02}.safetensors"

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of what is trained."""
        return {
            name: value.detach().to("cpu", copy=True)
            for name, value in self.model.named_parameters()
            if value.requires_grad
        }

    def examples(self, rows: Dataset) -> list[dict[str, list[int]]]:
        """Return rows as token ids and labels, once the model is seen to have positions for them."""
        encoded = [encode(row, self.tokenizer, self.seq2seq) for row in rows_of(rows)]
        longest = max((len(ids) for one in encoded for ids in one.values()), default=0)
        refuse_if(
            longest > positions(self.model),
            f"an example to train on has {longest} tokens, the model has {positions(self.model)} positions",
        )
        return encoded

    def trainer(self, examples: list[dict[str, list[int]]], folder: Path) -> Trainer:
        """Return the Trainer of a round; padding stands on the right, wherever the tokenizer puts it."""
        padding = copy.deepcopy(self.tokenizer)
        padding.padding_side = "right"
        padding.pad_token = padding.pad_token or padding.convert_ids_to_tokens(0)
        args = copy.copy(self.args)
        args.output_dir = str(folder)
        args.remove_unused_columns = False
        trainer = Trainer(
            self.model, args, train_dataset=examples, data_collator=DataCollatorForSeq2Seq(padding)
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def train(self, kept: Dataset, report: RoundReport) -> None:
        """Train by the ordinary Trainer, and fill in the report."""
        if self.restart:
            self.model.load_state_dict(self.start, strict=False)
        examples = self.examples(kept) + self.gold
        trainer = self.trainer(examples, self.report(report.round).parent)
        result = trainer.train()
        trainer.save_model()
        # mixed precision wraps the model; it would do so once more in each round
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        report.examples, report.steps = len(examples), result.global_step
        report.loss = result.training_loss
        tokens = sum(len(one["input_ids"]) + self.seq2seq * len(one["labels"]) for one in examples)
        report.spent += TRAIN * round(trainer.state.epoch * tokens)

    def save(self, report: RoundReport, rule: BaseRule) -> None:
        """Write the weights, to go on from bit for bit, and last the report: the round is done."""
        self.tokenizer.save_pretrained(self.report(report.round).parent)
        write_whole(self.trained(report.round), lambda part: save_file(self.weights(), part))
        write_json(self.report(report.round), asdict(report) | {"rule": rule.state_dict()})
        self.trained(report.round - 1).unlink(missing_ok=True)

    def resume(self, r: int, rule: BaseRule) -> RoundReport:
        """Return the report of a round that is done, and bring back the rule and, of the last, the model."""
        record = json.loads(self.report(r).read_text(encoding="utf-8"))
        rule.load_state_dict(record.pop("rule"))
        if not self.report(r + 1).exists():
            self.model.load_state_dict(load_file(self.trained(r)), strict=False)
        return RoundReport(**record | {"sampling": SamplingReport(**record["sampling"])})

    def claim(self, settings: dict, rounds: int) -> None:
        """Take the folder for this run, or see that it is this run's."""
        file = self.home / "run.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else settings
        other = ", ".join(name for name in settings if found.get(name) != settings[name])
        refuse_if(
            other,
            f"{self.home} holds the rounds of another run, which differs in {other}: take another output_dir",
        )
        refuse_if(
            self.report(rounds + 1).exists(),
            f"{self.home} holds more than {rounds} rounds: ask for as many at least, or another output_dir",
        )
        if self.args.process_index == 0:
            write_json(file, settings)
