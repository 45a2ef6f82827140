"""The article's loop in its own words: sample, keep what is acceptable, fine-tune on it, and again until a stop condition holds.

    spent = tokens read or written in sampling + 3 x tokens trained on     (forward passes of one token; a backward is two)

Training is that of the ordinary transformers.Trainer, and so of accelerate and of LoRA. Known as RAFT (Dong et al. 2023, arXiv
2304.06767), which goes on from the last round's model, and, restarting from the base, as ReST-EM (arXiv 2312.06585).
"""

import copy
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, Trainer

from rsf.accounts import TRAIN
from rsf.generation.drafts import key_of
from rsf.generation.encoding import encode
from rsf.generation.judging import SamplingReport, sample_and_judge
from rsf.generation.sampler import model_sampler

TRAINING = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
)
TRAINING += (
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "bf16",
    "fp16",
)  # what must stay to go on


@dataclass
class RoundReport:
    """One round: what was sampled with the model as it came in, and what was trained then.

    reward : mean reward of all that was sampled, with the model before training; examples : kept and supervised, trained on
    steps, loss : of the Trainer; spent : forward passes of one token, all rounds so far
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

    def __str__(self):
        trained = (
            f"trained {self.steps:,} steps on {self.examples:,} examples" if self.steps else "not trained"
        )
        end = f"; stopped: {self.stopped}" if self.stopped else ""
        return f"round {self.round}: {self.sampling}; mean reward {self.reward:z.4f}; {trained}; {self.spent:,} forward passes{end}"


def rsf_rounds(
    model,
    tokenizer,
    prompts,
    reward,
    rule,
    args,
    rng,
    *,
    rounds,
    samples_per_prompt,
    until_accepted=False,
    max_samples=None,
    dedupe=None,
    cap=None,
    supervised=None,
    restart=True,
    target_reward=None,
    saturation=None,
    budget=None,
    sampler=model_sampler,
    on_round=lambda report: None,
):
    """Train `model` in place on what it writes and the rule keeps, round by round, and return a RoundReport for each.

    Parameters
    ----------
    model, tokenizer : as for transformers.Trainer; with LoRA, the model that `peft` made
    prompts, reward, rule, rng, samples_per_prompt, until_accepted, max_samples, dedupe, cap
        As for `sample_and_judge`.
    args : transformers.TrainingArguments
        Of each round's training (a new optimiser and schedule each). `args.output_dir` gets a folder a round: the model, what was
        sampled and a report. Called again with the same arguments, it goes on from there (a training cut off starts its round anew).
    rounds : int
        The most rounds.
    supervised : datasets.Dataset with "prompt" and "completion", optional
        Mixed in, in every round.
    restart : bool
        Each round trains from the weights that the model came with (ReST-EM), not from the last round's (RAFT).
    target_reward : float, optional
        Stop once the mean reward of all samples reaches it.
    saturation : float, optional
        Stop once the acceptance rate rises by less than this from one round to the next.
    budget : int, optional
        Forward passes of one token; no round is begun once they are spent.
    sampler : callable(model, tokenizer) -> sample
        Such as `functools.partial(model_sampler, max_new_tokens=8)`.
    on_round : callable(report)
        Called after each round's training, to measure the model.
    """
    if args.world_size > 1:
        raise NotImplementedError(
            f"rsf_rounds samples on one device for now, found {args.world_size}: show it one"
        )
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    drawing = {
        "samples_per_prompt": samples_per_prompt,
        "until_accepted": until_accepted,
        "max_samples": max_samples,
        "cap": cap,
    }
    model.to(args.device)
    home, start, reports, coins = Path(args.output_dir), _trainable(model), [], rng.spawn(rounds)
    rows = prompts if hasattr(prompts, "features") else list(prompts)
    settings = {"restart": restart, "samples": drawing, "rule": str(rule)}
    settings |= {
        "coins": str(coins[0].bit_generator.seed_seq),
        "weights": _digest(start.items()),
        "prompts": _digest(enumerate(rows)),
    }
    settings |= {
        "sampler": key_of(sample := sampler(model, tokenizer)),
        "supervised": _digest(enumerate(supervised or [])),
    }
    _claim(home, settings | {"training": [str(getattr(args, name)) for name in TRAINING]})
    if (home / f"round-{rounds + 1:02}" / "report.json").exists():
        raise ValueError(
            f"{home} holds more than {rounds} rounds: ask for as many at least, or take another output_dir"
        )
    for r in range(1, rounds + 1):
        folder, spent = home / f"round-{r:02}", reports[-1].spent if reports else 0
        if (folder / "report.json").exists():
            reports.append(_read(folder, rule))
            if not (home / f"round-{r + 1:02}" / "report.json").exists():
                _restore(model, load_file(home / f"trained-{r:02}.safetensors"))
                sample = None
            continue
        if budget is not None and reports and spent >= budget:
            reports[-1].stopped = f"the budget of {budget:,} forward passes is spent"
            break
        sample = sample or sampler(model, tokenizer)
        drafts = folder if hasattr(sample, "key") else None
        kept, judged, sampling = sample_and_judge(
            sample, prompts, reward, rule, coins[r - 1], **drawing, dedupe=dedupe, folder=drafts, round=r
        )
        report = RoundReport(
            r, sampling, _mean(judged.data["reward"].to_numpy()), spent + _tokens(judged, tokenizer)
        )
        before = reports[-1].sampling.acceptance_rate if reports else -np.inf
        reports.append(report)
        data = [rows for rows in (kept, supervised) if rows]
        if target_reward is not None and report.reward >= target_reward:
            report.stopped = f"the mean reward reached {target_reward:g}"
        elif saturation is not None and sampling.acceptance_rate - before < saturation:
            report.stopped = f"the acceptance rate rose by less than {saturation:g}, from {before:.4f} to {sampling.acceptance_rate:.4f}"
        elif not data:
            report.stopped = "nothing was kept, so there is nothing to train on"
        if report.stopped:
            break
        if restart:
            _restore(model, start)
        _train(model, tokenizer, _rows(data), args, folder, report)
        save_file(_trainable(model), home / f"trained-{r:02}.safetensors")  # to go on from, bit for bit
        _write(folder / "report.json", asdict(report) | {"rule": rule.state_dict()})  # the round is done
        (home / f"trained-{r - 1:02}.safetensors").unlink(missing_ok=True)
        sample = None
        on_round(report)
    reports[-1].stopped = reports[-1].stopped or f"{rounds} rounds are done"
    return reports


def _train(model, tokenizer, rows, args, folder, report):
    """One training by the ordinary Trainer; fills in the report."""
    seq2seq, pad = model.config.is_encoder_decoder, tokenizer.pad_token_id or 0
    examples = [
        {name: np.array(ids) for name, ids in encode(row, tokenizer, seq2seq).items()} for row in rows
    ]

    def collate(batch):
        ids, labels = ([torch.tensor(one[name]) for one in batch] for name in ("input_ids", "labels"))
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
            "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        }

    args = copy.copy(args)
    args.output_dir, args.remove_unused_columns = str(folder), False
    trainer = Trainer(model, args, train_dataset=examples, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    result = trainer.train()
    trainer.save_model(str(folder))
    trainer.accelerator.unwrap_model(
        trainer.model_wrapped, keep_fp32_wrapper=False
    )  # or mixed precision would wrap it once a round
    report.examples, report.steps, report.loss = len(examples), result.global_step, result.training_loss
    tokens = sum(len(one["input_ids"]) + seq2seq * len(one["labels"]) for one in examples)
    report.spent += TRAIN * round(trainer.state.epoch * tokens)
    tokenizer.save_pretrained(folder)


def _tokens(judged, tokenizer):
    """Return how many tokens were read and written in sampling; where the sampler did not count, the text is tokenized."""
    total = 0
    for part in judged.iter(1000):
        written = (
            part["tokens"]
            if None not in part["tokens"]
            else [len(ids) for ids in tokenizer(part["completion"])["input_ids"]]
        )
        total += sum(written) + sum(len(ids) for ids in tokenizer(part["prompt"])["input_ids"])
    return total


def _rows(tables):
    for part in (part for table in tables for part in table.iter(1000)):
        yield from (dict(zip(part, row, strict=True)) for row in zip(*part.values(), strict=True))


def _mean(rewards):
    there = rewards[~np.isnan(rewards)]
    return float(np.mean(there)) if len(there) else float("nan")


def _trainable(model):
    return {
        name: value.detach().to("cpu", copy=True)
        for name, value in model.named_parameters()
        if value.requires_grad
    }


def _restore(model, values):
    parameters = dict(model.named_parameters())
    for name, value in values.items():
        parameters[name].data.copy_(value)


def _digest(pairs):
    """Return the SHA-256 of named tensors, or of numbered rows."""
    digest = hashlib.sha256()
    for name, value in pairs:
        data = (
            value.contiguous().flatten().view(torch.uint8).numpy()
            if isinstance(value, torch.Tensor)
            else json.dumps(value, default=lambda other: type(other).__name__).encode()
        )
        digest.update(f"{name} {len(data)} ".encode())
        digest.update(data)
    return digest.hexdigest()


def _write(file, record):
    """Write a file whole or not at all."""
    file.with_suffix(".part").write_text(json.dumps(record), encoding="utf-8")
    os.replace(file.with_suffix(".part"), file)


def _claim(home, settings):
    """Take a folder for a run, or see that it is this run's."""
    file = home / "run.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else settings
    if other := [name for name in settings if found.get(name) != settings[name]]:
        raise ValueError(
            f"{home} holds the rounds of another run, which differs in {', '.join(other)}: take another output_dir"
        )
    home.mkdir(parents=True, exist_ok=True)
    _write(file, settings)


def _read(folder, rule):
    """Return the report of a round that was done, and bring the rule to where it was then."""
    record = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    rule.load_state_dict(record.pop("rule"))
    return RoundReport(**record | {"sampling": SamplingReport(**record["sampling"])})
