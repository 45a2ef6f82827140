"""The article's loop in its own words: sample, keep what is acceptable, fine-tune on it, and again.

    spent = tokens read or written in sampling + 3 x tokens trained on

in forward passes of one token (a backward is two). Training is that of the ordinary transformers.Trainer, and
so of accelerate and of LoRA. Known as RAFT (Dong et al. 2023, arXiv 2304.06767), which goes on from the last
round's model, and, restarting from the base, as ReST-EM (arXiv 2312.06585).
"""

import re
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from numbers import Integral, Real

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from rsf.acceptance import refuse_if
from rsf.generation.drafts import as_dataset, check_call, key_of, rows_of
from rsf.generation.encoding import prompt_ids
from rsf.generation.judging import sample_and_judge
from rsf.generation.learner import Learner, RoundReport
from rsf.generation.sampler import digest, model_sampler
from rsf.rules import BaseRule

TRAINING = (  # the settings that must stay as they are to go on
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "bf16",
    "fp16",
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

    Parameters
    ----------
    model, tokenizer : as for transformers.Trainer; with LoRA, the model that `peft` made
    prompts, reward, rule, rng, samples_per_prompt, until_accepted, max_samples, dedupe, cap
        As for `sample_and_judge`.
    args : transformers.TrainingArguments
        Of each round's training (a new optimiser and schedule each). `args.output_dir` gets a folder a
        round: the model, what was sampled and a report. Called again with the same arguments, it goes on
        from there (a training cut off starts its round anew).
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
        Called after each round's training, to measure the model.

    Raises
    ------
    ValueError
        The arguments do not fit together, or the folder holds another run; nothing was sampled.
    """
    drawing = {
        "samples_per_prompt": samples_per_prompt,
        "until_accepted": until_accepted,
        "max_samples": max_samples,
        "cap": cap,
    }
    prompts = as_dataset(prompts, "prompts")
    supervised = as_dataset([] if supervised is None else supervised, "supervised", ("prompt", "completion"))
    _check_loop(args, rounds, on_round, [target_reward, saturation, budget])
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
    learner: Learner,
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
        folder = learner.report(r).parent if hasattr(sample, "key") else None
        kept, judged, sampling = draw(sample, rng=rng, folder=folder, round=r)
        rewards = judged.data["reward"].to_pandas().dropna().to_numpy()
        mean = float(np.mean(rewards)) if len(rewards) else np.nan
        report = RoundReport(r, sampling, mean, spent + _tokens(judged, learner.tokenizer))
        before = reports[-1].sampling.acceptance_rate if reports else -np.inf
        reports.append(report)
        if target_reward is not None and mean >= target_reward:
            report.stopped = f"the mean reward reached {target_reward:g}"
        elif saturation is not None and sampling.acceptance_rate - before < saturation:
            report.stopped = (
                f"the acceptance rate rose by less than {saturation:g}, "
                f"from {before:.4f} to {sampling.acceptance_rate:.4f}"
            )
        elif not len(kept) and not learner.gold:
            report.stopped = "nothing was kept, so there is nothing to train on"
        if report.stopped:
            break
        learner.train(kept, report)
        learner.save(report, rule)
        if on_round:
            on_round(report)
    reports[-1].stopped = reports[-1].stopped or f"{len(coins)} rounds are done"
    return reports


def _check_loop(args: TrainingArguments, rounds: object, on_round: object, limits: list) -> None:
    """Refuse what `rsf_rounds` cannot use, before anything is sampled."""
    refuse_if(
        args.world_size > 1,
        f"rsf_rounds samples on one device, found {args.world_size}: show it one",
        NotImplementedError,
    )
    refuse_if(
        not (isinstance(rounds, Integral) and rounds >= 1), f"rounds must be at least 1, got {rounds!r:.80}"
    )
    refuse_if(not callable(on_round or str), f"on_round must be a function of a report, got {on_round!r:.80}")
    refuse_if(
        not all(one is None or (isinstance(one, Real) and one == one) for one in limits),
        f"target_reward, saturation and budget must be numbers, got {limits}",
    )


def _tokens(judged: Dataset, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many tokens were read and written; where the sampler did not count, a text is tokenized."""
    total = 0
    for row in rows_of(judged):
        said = row["completion"]
        text = said if isinstance(said, str) else said[0]["content"]
        written = len(tokenizer(text)["input_ids"]) if row["tokens"] is None else row["tokens"]
        total += len(prompt_ids(tokenizer, row["prompt"], encoder=True)) + written
    return total
