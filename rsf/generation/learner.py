"""The model that learns in `rsf_rounds`: trained by the ordinary Trainer, saved so that a kill loses nothing.

spent in training = 3 x tokens trained on     (forward passes of one token; a backward is two)
"""

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path

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

from rsf.acceptance import refuse_if
from rsf.accounts import TRAIN, write_json, write_whole
from rsf.generation.drafts import rows_of
from rsf.generation.encoding import encode
from rsf.generation.judging import SamplingReport
from rsf.generation.sampler import positions
from rsf.rules import BaseRule


@dataclass
class RoundReport:
    """One round: what was sampled with the model as it came in, and what was trained then.

    reward : mean reward of all that was sampled, with the model before training
    examples : kept and supervised, trained on
    steps, loss : of the Trainer
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
        self.trainer(self.gold, self.home)  # what it refuses, it refuses before anything is sampled

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
        self.tokenizer.save_pretrained(trainer.args.output_dir)
        # mixed precision wraps the model; it would do so once more in each round
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        report.examples, report.steps = len(examples), result.global_step
        report.loss = result.training_loss
        tokens = sum(len(one["input_ids"]) + self.seq2seq * len(one["labels"]) for one in examples)
        report.spent += TRAIN * round(trainer.state.epoch * tokens)

    def save(self, report: RoundReport, rule: BaseRule) -> None:
        """Write the weights, to go on from bit for bit, and then the report: the round is done."""
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
        write_json(file, settings)
