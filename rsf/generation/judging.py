"""Sample, judge, keep: what a model wrote itself, kept by a rule, ready to be trained on.

    kept completions of a prompt x follow  q(y | x) A(r(x, y)) / Z(x),   Z(x) = E_q[A]

With a fixed number of samples a prompt the prompts are tilted too, by Z(x); sampled until accepted, they
keep their law, at 1 / Z(x) samples each. Every sample has a Generator of its own: its first coin decides
whether it is kept, the others pick its tokens, so that neither batches nor interruptions change anything.
Known as RFT (Yuan et al. 2023, arXiv 2308.01825), RAFT (Dong et al. 2023, arXiv 2304.06767) and, accepting
by exp((r - ceiling) / beta), RSO (Liu et al. 2023, arXiv 2309.06657).
"""

from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from datasets import Dataset, Features

from rsf.acceptance import accept, refuse_if
from rsf.generation.drafts import (
    Conversation,
    Table,
    as_dataset,
    check_call,
    drafted,
    key_of,
    rows_of,
)
from rsf.rules import BaseRule


class RewardError(ValueError):
    """A reward that cannot be used, or that the rule refuses.

    judged : all that was judged before, a Dataset; completions : those that the reward was asked about
    """


@dataclass
class SamplingReport:
    """Totals of `sample_and_judge`.

    samples : judged, of which `skipped` had no reward and `accepted` passed the rule
    tokens : decoded for all of them
    kept : accepted less `duplicates` and `over_cap`
    slack : min |u - A| over all coins
    without : positions of the prompts that had no sample accepted
    wanted : with `until_accepted`, how many of each prompt
    reached : prompts that had `samples_per_prompt` accepted, with `cost` samples in all
    engine : what a `server_sampler` found out about its engine

    >>> print(SamplingReport(prompts=2, samples=8, accepted=3, tokens=40, without=[1]))
    3 accepted of 8 samples (0.3750); 1 of 2 prompts without any; 0 skipped, 40 tokens decoded
    """

    prompts: int
    samples: int = 0
    skipped: int = 0
    accepted: int = 0
    duplicates: int = 0
    over_cap: int = 0
    tokens: int = 0
    slack: float = np.inf
    wanted: int | None = None
    reached: int = 0
    cost: int = 0
    without: list[int] = field(default_factory=list, repr=False)
    engine: str = ""

    def add(
        self, log_a: np.ndarray, accepted: np.ndarray, tokens: Sequence[int | None], slack: float
    ) -> None:
        """Count a block in."""
        self.samples += len(log_a)
        self.skipped += int(np.isnan(log_a).sum())
        self.accepted += int(accepted.sum())
        self.tokens += sum(n or 0 for n in tokens)
        self.slack = min(self.slack, slack)

    @property
    def kept(self) -> int:
        """Accepted, less duplicates and what was over the cap."""
        return self.accepted - self.duplicates - self.over_cap

    @property
    def acceptance_rate(self) -> float:
        """Accepted per sample that had a reward; NaN if none had.

        With a fixed number of samples it estimates the mean of Z(x), until accepted 1 / (mean of 1 / Z(x)).
        """
        return self.accepted / (self.samples - self.skipped) if self.samples > self.skipped else np.nan

    def __str__(self) -> str:
        less = f", less {self.duplicates:,} duplicates and {self.over_cap:,} over the cap"
        until = (
            f"{self.reached:,} reached {self.wanted:,}, by {self.cost:,} of the samples; "
            if self.wanted
            else ""
        )
        return (
            f"{self.accepted:,} accepted of {self.samples - self.skipped:,} samples "
            f"({self.acceptance_rate:.4f}){less if self.kept < self.accepted else ''}; "
            f"{len(self.without):,} of {self.prompts:,} prompts without any; {until}"
            f"{self.skipped:,} skipped, {self.tokens:,} tokens decoded{self.engine and '; '}{self.engine}"
        )


def sample_and_judge(
    sample: Callable[
        [list[str | Conversation], list[np.random.Generator]], Sequence[str] | Mapping[str, Sequence]
    ],
    prompts: Iterable,
    reward: Callable[..., Iterable[float | None]],
    rule: BaseRule,
    rng: np.random.Generator,
    *,
    samples_per_prompt: int,
    until_accepted: bool = False,
    max_samples: int | None = None,
    dedupe: Callable[[str], Hashable] | None = None,
    cap: int | None = None,
    folder: str | Path | None = None,
    block: int = 1024,
    round: int = 0,
) -> tuple[Dataset, Dataset, SamplingReport]:
    """Draw completions, judge them, and return (kept, judged, report): what the rule keeps, all, the totals.

    Parameters
    ----------
    sample : callable(prompts, rngs) -> list of str, or dict of lists
        One completion for each of up to `block` prompts (which repeat), drawn by the Generator at its place
        and no other coins: `model_sampler(...)`. A dict has "completion" and, if it likes,
        "log_probability", "tokens", "ended" and, for rewards, "completion_ids". With `folder` it needs an
        attribute `key`, a str (or a function that gives it) that says all that it depends on. A method
        `check(prompts, to_train=False)`, if it has one, may refuse prompts first.
    prompts : datasets.Dataset with a column "prompt", or a list of rows or of prompts
        Texts, or conversations as TRL has them, whose completions are conversations, too: one message, the
        assistant's. See `rsf.generation.drafts.as_dataset`.
    reward : callable(prompts=, completions=, **other columns) -> list of float
        TRL's convention; one that takes `completion_ids` is given them, if the sampler tells them. None:
        does not apply, the sample is judged, never kept, not counted in the rate. Not supported: lists of
        rewards and async ones (docs/how-to.md makes one of them), names of reward models, and what only TRL's
        trainer has (`trainer_state`, `log_extra`, `log_metric`, `environments`). `tools` and
        `chat_template_kwargs` are columns like others: no template sees them.
    rule : rsf.rules rule
        Decides each sample, or with `best_of(n)` each n consecutive samples of a prompt; observes each block.
    rng : numpy.random.Generator
        Spawns the streams: sample j of prompt i has the same coins whatever else is sampled.
    samples_per_prompt : int
        Drawn for each prompt; with `until_accepted`, accepted of each, out of at most `max_samples` drawn.
    dedupe : callable(completion) -> key
        Of a prompt's accepted samples with one key only the first is kept (`str`: exact duplicates). It and
        `cap`, the most kept of one prompt, thin what was accepted (another law): they cause no further
        sampling.
    folder : path
        What was sampled is written there, a file a block, before it is judged; a call with the same
        sampler, rng (made anew from its seed), prompts and numbers reads it instead of sampling (rewards
        and rules may have changed: they are asked again). The result lies there too, memory-mapped; without
        a folder it is held in memory.
    block : int
        Samples that are drawn, judged, decided upon and observed at once; what one prompt is due at a time
        is not split.

    Returns
    -------
    kept : datasets.Dataset
        The prompts' columns, completion, reward, log_acceptance, log_probability, tokens, ended and round.
        To train on it with TRL's SFTTrainer, `kept.map(encode, fn_kwargs={"tokenizer": tokenizer})`: of the
        texts as they are it would learn an end also where the model wrote none (`ended` is False).
    judged : datasets.Dataset
        All samples, with the column `kept`.
    report : SamplingReport

    Raises
    ------
    ValueError
        The arguments do not fit together; nothing was sampled.
    RewardError
        The reward raised, or gave NaN, an infinity, a text, another number of values, or what the rule
        refuses (above a ceiling). This and any other error on the way has what was judged before as its
        `judged`.
    """
    prompts = as_dataset(prompts, "prompts")
    numbers = (samples_per_prompt, until_accepted, max_samples, dedupe, cap, block)
    check_call(sample, prompts, reward, rule, rng, *numbers)
    key = key_of(sample) if folder else None
    refuse_if(
        folder and not key, "with a folder the sampler needs an attribute `key`, all that it depends on"
    )
    seeds = rng.bit_generator.seed_seq.spawn(1)[0]
    report = SamplingReport(len(prompts), wanted=samples_per_prompt if until_accepted else None)
    chats = not isinstance(prompts[0]["prompt"], str)
    judged = Table(prompts.features, chats, folder and Path(folder) / f"judged-{round}.arrow")
    prompts, arrow = prompts.with_format(None), prompts.with_format("arrow")
    drawn, accepted = np.zeros((2, len(prompts)), dtype=np.int64)
    most = max_samples or samples_per_prompt
    keys = {}  # of what was kept, for each prompt whose turn may come again
    for rows in _blocks(drawn, accepted, samples_per_prompt, most, block):
        chosen = [i for i, _ in rows]
        table = prompts[chosen]  # columns, a row a sample
        drafts = {}
        try:
            drafts, coins = drafted(sample, table["prompt"], rows, seeds, folder, key)
            texts = drafts["completion"]
            said = [[{"role": "assistant", "content": text}] for text in texts] if chats else texts
            rewards = _judged(reward, table, said, drafts.get("completion_ids"))
            keep, log_a, slack = _decided(rule, rewards, coins)
            np.add.at(accepted, [i for (i, _), yes in zip(rows, keep, strict=True) if yes], 1)
            report.add(log_a, keep, drafts["tokens"], slack)
            _thin(rows, keep, texts, dedupe, cap, keys, report)
            keys = {i: keys[i] for i in keys if accepted[i] < samples_per_prompt and drawn[i] < most}
            decided = {"completion": said, "reward": rewards, "kept": keep, "log_acceptance": log_a}
            judged.write(arrow[chosen], drafts | decided | {"round": [round] * len(rows)})
        except BaseException as error:
            error.judged = judged.close(whole=False)
            error.completions = drafts.get("completion")
            raise
    enough = accepted >= samples_per_prompt
    report.reached, report.cost = int(enough.sum()), int(drawn[enough].sum())
    report.engine = getattr(sample, "engine", "")
    report.without = np.flatnonzero(accepted == 0).tolist()
    judged = judged.close()
    kept = judged.select(np.flatnonzero(judged.data["kept"].to_numpy()))
    return kept.remove_columns("kept"), judged, report


def pairs(judged: Dataset) -> Dataset:
    """Return rows of prompt, chosen and rejected, for DPO or a reward model, from what was judged.

    Of each prompt the first sample that was kept beside the first that was not, the second beside the second,
    and so on, as long as there are both; what was not kept must have a smaller reward than all that was.
    """
    refuse_if("kept" not in judged.column_names, f"need all that was judged, got {judged.column_names}")
    of = {}
    for row in rows_of(judged):
        of.setdefault(repr(row["prompt"]), ([], []))[row["kept"]].append(row)
    found = []
    for rejected, kept in of.values():
        least = min((row["reward"] for row in kept), default=-np.inf)
        # NaN is not, and a file of JSON has None in its place
        worse = [row for row in rejected if row["reward"] is not None and row["reward"] < least]
        found += [
            {"prompt": yes["prompt"], "chosen": yes["completion"], "rejected": no["completion"]}
            for yes, no in zip(kept, worse, strict=False)
        ]
    features = Features(
        prompt=judged.features["prompt"],
        chosen=judged.features["completion"],
        rejected=judged.features["completion"],
    )
    return Dataset.from_dict({name: [pair[name] for pair in found] for name in features}, features)


def _blocks(
    drawn: np.ndarray, accepted: np.ndarray, wanted: int, most: int, size: int
) -> Iterator[list[tuple[int, int]]]:
    """Yield blocks of (prompt, number of its sample), a prompt again as long as it lacks accepted ones.

    drawn, accepted : (prompts,), how many samples each had so far; the caller keeps the second up to date
    """
    waiting = deque()
    fresh = iter(range(len(drawn)))
    while True:
        rows = []
        while len(rows) < size and (i := waiting.popleft() if waiting else next(fresh, None)) is not None:
            number = int(min(wanted - accepted[i], most - drawn[i]))
            rows += [(i, int(drawn[i]) + j) for j in range(number)]
            drawn[i] += number
        if not rows:
            return
        yield rows
        waiting += [i for i in dict.fromkeys(i for i, _ in rows) if accepted[i] < wanted and drawn[i] < most]


def _judged(
    reward: Callable, table: Mapping[str, list], completions: list, ids: list[list[int]] | None
) -> np.ndarray:
    """Return the rewards (n,), NaN where they do not apply; a reward that takes them is given the tokens."""
    others = {name: values for name, values in table.items() if name != "prompt"}
    if ids is not None and _takes(reward, "completion_ids"):
        others["completion_ids"] = ids
    try:
        given = reward(prompts=table["prompt"], completions=completions, **others)
        if isinstance(given, Coroutine):  # or Python would warn that it was never awaited
            given.close()
            raise TypeError(
                "'coroutine' object is not iterable: of an async reward make one as in docs/how-to.md"
            )
        rewards = list(islice(given, len(completions) + 1))  # it need not end
    except Exception as error:
        raise RewardError(f"the reward raised {type(error).__name__}: {error}") from error
    refuse_if(
        len(rewards) != len(completions) or isinstance(given, (Mapping, set)),
        f"the reward gave {len(rewards)} values for {len(completions)} completions, in a "
        f"{type(given).__name__}: it must give a list, one for each (no more than one too many is read)",
        RewardError,
    )
    values = np.array([_number(value) for value in rewards])
    for i in np.flatnonzero(~np.isfinite(values)):
        if rewards[i] is not None:
            raise RewardError(
                f"the reward is {rewards[i]!r:.80} for {completions[i]!r:.80} after "
                f"{table['prompt'][i]!r:.80}: it must be a finite number, or None where it does not apply"
            )
    return values


def _takes(function: Callable, name: str) -> bool:
    """Return whether a function has a parameter of this name, or takes any."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):  # a compiled one need not tell
        return False
    return any(one.name == name or one.kind is one.VAR_KEYWORD for one in parameters)


def _number(value: object) -> float:
    """Return a number of any library as a float; NaN for what is none, a text that reads like one, too."""
    try:
        return np.nan if isinstance(value, (str, bytes, bytearray)) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return np.nan


@np.errstate(divide="ignore")  # log 0 = -inf: never kept
def _decided(rule: BaseRule, rewards: np.ndarray, coins: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (kept, log A, slack) for a block; log A is NaN where nothing was decided."""
    decided = ~np.isnan(rewards)
    if joint := getattr(rule, "joint", False):  # a group that lacks a reward has no best
        decided = np.repeat(decided.reshape(-1, rule.n).all(axis=1), rule.n)
    criterion = rewards[decided].reshape(-1, rule.n) if joint else rewards[decided]
    tossed = SimpleNamespace(random=coins[decided].reshape)  # in the place of a Generator
    kept = np.zeros(len(rewards), dtype=bool)
    log_a = np.full(len(rewards), np.nan)
    slack = np.inf
    if joint:
        kept[decided] = rule.decide(criterion, tossed).ravel()
        log_a[decided] = np.log(rule(criterion)).ravel()
    else:
        try:
            log_a[decided] = rule.log_probability(criterion)
        except ValueError as error:
            raise RewardError(f"the rule {rule} refuses a reward: {error}") from error
        kept[decided], slack = accept(log_a[decided], tossed, with_slack=True)
    if decided.any():
        rule.observe(criterion)
    return kept, log_a, slack


def _thin(
    rows: list[tuple[int, int]],
    kept: np.ndarray,
    completions: list[str],
    dedupe: Callable[[str], Hashable] | None,
    cap: int | None,
    keys: dict[int, set],
    report: SamplingReport,
) -> None:
    """Take back, in place, duplicates and what is beyond the cap; keys: of what each prompt kept so far."""
    for place in np.flatnonzero(kept):
        i, number = rows[place]
        own = keys.setdefault(i, set())
        key = dedupe(completions[place]) if dedupe else number
        duplicate = key in own
        kept[place] = not duplicate and (cap is None or len(own) < cap)
        report.duplicates += duplicate
        report.over_cap += not duplicate and not kept[place]
        if kept[place]:
            own.add(key)
