"""A chat model learns from its own verified answers, beside its controls: the sections gsm8k-* of the
protocol, one run at a time.

    verified        rounds of k samples a question, kept if the reward is 1 blind           the same sampling,
    each sample kept by a coin, as many as `verified` kept: what the judge is worth supervised      the data
    set's own answers, at the compute of `verified`; supervised-3: three passes, whatever they cost zero-shot,
    few-shot    the model as it came

python -m rsf experiment gsm8k-chat          every arm and seed, a result file each; goes on where it stopped
"""

import copy
import tempfile
import time
from functools import partial

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainingArguments
from transformers.generation import TopKLogitsWarper

from rsf.accounts import TRAIN
from rsf.generation import model_sampler, rsf_rounds, sample_and_judge
from rsf.lab import arms, data, models, records
from rsf.lab.tasks import answers
from rsf.rules import above, constant


def ask(rows, tokenizer, shots=()):
    """Return problems as a Dataset of prompt and answer: what `sample_and_judge` and `rsf_rounds` take with
    `answers.verify`."""
    return Dataset.from_dict(
        {
            "prompt": [answers.prompt(one, tokenizer, shots) for one in rows["question"]],
            "answer": list(rows["answer"]),
        }
    )


def fitting(rows, checkpoint, tokens, shots=()):
    """Return the problems whose prompt, with these shots, leaves the model room for `tokens` more."""
    room = checkpoint.model.config.max_position_embeddings - tokens
    encoded = checkpoint.tokenizer(list(ask(rows, checkpoint.tokenizer, shots)["prompt"]))["input_ids"]
    return rows.select([i for i, ids in enumerate(encoded) if len(ids) <= room])


def score(model, tokenizer, problems, reward, settings, rng):
    """Return the rewards (problems, samples) of fresh answers; a single one is the likeliest."""
    number = settings["test_samples"]
    sample = model_sampler(
        model,
        tokenizer,
        max_new_tokens=settings["tokens"],
        warpers=([TopKLogitsWarper(1)] if number == 1 else []),
        batch_size=settings["sampling_batch_size"],
    )
    _, judged, _ = sample_and_judge(sample, problems, reward, constant(1), rng, samples_per_prompt=number)
    return np.array(judged["reward"]).reshape(len(problems), number)


def learn(model, tokenizer, train, reward, arm, settings, rng, folder, *, learning_rate, seed, verified=None):
    """Train a model in place by one arm and return (reports, forward passes of one token that it spent).

    Parameters
    ----------
    train : datasets.Dataset with prompt and answer
    settings : see results/protocol.toml
    verified : numbers of the arm "verified", from which blind takes its rate and supervised its budget
    """
    how = {
        "rule": above(1),
        "dedupe": str,
        "cap": settings["cap"],
        "rounds": settings["rounds"],
        "samples_per_prompt": settings["samples"],
        "sampler": partial(
            model_sampler,
            max_new_tokens=settings["tokens"],
            temperature=settings["temperature"],
            batch_size=settings["sampling_batch_size"],
        ),
    }
    passes = settings["passes"]
    read = 0
    if arm == "blind":
        how |= {"rule": constant(verified["kept"] / verified["samples"]), "dedupe": None, "cap": None}
    elif arm != "verified":  # one round in which each "sample" is the data set's own answer
        own = dict(zip(train["prompt"], map(answers.rationale, train["answer"]), strict=True))
        how = {
            "rule": constant(1),
            "rounds": 1,
            "samples_per_prompt": 1,
            "sampler": lambda *_: lambda prompts, rngs: [own[x] for x in prompts],
        }
        read = sum(map(len, tokenizer([*train["prompt"], *map(own.get, train["prompt"])])["input_ids"]))
        one_pass = TRAIN * (read + len(train))  # an answer has one token more: its end
        passes = float(arm.partition("-")[2] or verified["forward_passes"] / one_pass)
    args = TrainingArguments(
        output_dir=folder,
        seed=seed,
        num_train_epochs=passes,
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=learning_rate,
        lr_scheduler_type=settings["schedule"],
        optim=settings["optimizer"],
        bf16=settings["bf16"],
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    reports = rsf_rounds(model, tokenizer, train, reward, how.pop("rule"), args, rng, **how)
    return reports, reports[-1].spent - read  # nothing was decoded to read the data set's own answers


def split(problems, checkpoint, settings, seed):
    """Return (shots, validation, train, test): pairs that few-shot shows, and problems that fit the model.

    The seed draws disjoint parts of the training set; the test questions are the same for every arm.
    """
    ends = np.cumsum([settings[part] for part in ("shots", "validation", "questions")])
    parts = np.split(np.random.default_rng(seed).permutation(len(problems.train)), ends)[:3]
    shots, *others = map(problems.train.select, parts)
    shots = list(zip(shots["question"], shots["answer"], strict=True))
    tokens = settings["tokens"]
    validation, train = (ask(fitting(rows, checkpoint, tokens), checkpoint.tokenizer) for rows in others)
    test = problems.test.select(range(min(settings["test"], len(problems.test))))
    return shots, validation, train, fitting(test, checkpoint, tokens, shots)


def measure(arm, checkpoint, problems, reward, settings, seed, verified=None):
    """Run one arm with one seed and return its numbers.

    The learning rate is the one of the grid that does best on a part of train.

    Parameters
    ----------
    checkpoint, problems : from `models.load("chat", ...)` and `data.load("gsm8k")`
    reward : callable, as for `rsf.generation.sample_and_judge`
    """
    started = time.perf_counter()
    shots, validation, train, test = split(problems, checkpoint, settings, seed)
    tokenizer = checkpoint.tokenizer
    test = ask(test, tokenizer, shots if arm == "few-shot" else ())
    tuned = {}
    best = None
    for rate in settings["learning_rates"] if not arm.endswith("-shot") else (0.0,):
        model = copy.deepcopy(checkpoint.model).to(
            "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, settings["dtype"])
        )
        reports = []
        spent = 0
        if rate:
            model = models.with_lora(model, settings["rank"], np.random.default_rng([seed, 1]))
            rng = np.random.default_rng([seed, 2])
            with tempfile.TemporaryDirectory() as folder:
                reports, spent = learn(
                    model,
                    tokenizer,
                    train,
                    reward,
                    arm,
                    settings,
                    rng,
                    folder,
                    learning_rate=rate,
                    seed=seed,
                    verified=verified,
                )
            rng = np.random.default_rng([seed, 3])
            tuned[str(rate)] = float(score(model, tokenizer, validation, reward, settings, rng).mean())
        if best is None or tuned[str(rate)] > tuned[str(best[0])]:
            best = rate, model, reports, spent
    rate, model, reports, spent = best
    right = score(model, tokenizer, test, reward, settings, np.random.default_rng([seed, 4])).mean(axis=1)
    samples = sum(one.sampling.samples for one in reports)
    return {
        "accuracy": float(right.mean()),
        "acceptance_rate": sum(one.sampling.accepted for one in reports) / samples if samples else 0.0,
        "forward_passes": spent,
        "samples": samples,
        "kept": sum(one.sampling.kept for one in reports),
        "learning_rate": rate,
        "validation": tuned,
        "rounds": [
            [one.sampling.acceptance_rate, one.reward, one.examples, one.steps, one.spent] for one in reports
        ],
        "right": [round(float(value), 4) for value in right],
        "seconds": round(time.perf_counter() - started, 1),
    }


def run(experiment: str, arm: str, seed: int) -> records.Run:
    """Run one arm with one seed of a gsm8k section of the protocol."""
    settings = records.protocol(experiment)
    problems = data.load("gsm8k", source="hub,local")  # published numbers come from real data
    checkpoint = models.load("chat", None, np.random.default_rng(seed), source=settings["model"])
    file = records.path(experiment, "verified", seed)
    verified = records.load(file)[0]["numbers"] if arm in ("blind", "supervised") else None
    return records.Run(
        problems.source,
        checkpoint.source,
        arms.device_name(),
        measure(arm, checkpoint, problems, answers.verify, settings, seed, verified),
    )
