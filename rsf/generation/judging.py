"""Sample, judge, keep: what a model wrote itself, kept by a rule, ready to be trained on.

    kept completions of a prompt x follow  q(y | x) A(r(x, y)) / Z(x),   Z(x) = E_q[A]

With a fixed number of samples a prompt the prompts are tilted too, by Z(x); sampled until accepted, they keep their law, at 1 / Z(x)
samples each. Every sample has a Generator of its own: its first coin decides whether it is kept, the others pick its tokens, so that
neither batches nor interruptions change anything. Known as RFT (Yuan et al. 2023, arXiv 2308.01825), RAFT (Dong et al. 2023, arXiv
2304.06767) and, accepting by exp((r - ceiling) / beta), RSO (Liu et al. 2023, arXiv 2309.06657).
"""

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset, Features, Value

from rsf.acceptance import accept
from rsf.generation.drafts import COLUMNS, Table, drafted, key_of


class RewardError(ValueError):
    """A reward that cannot be used, or that the rule refuses; `judged` is all before, `completions` those that it was asked about."""


@dataclass
class SamplingReport:
    """Totals of `sample_and_judge`.

    samples : judged, of which `skipped` had no reward and `accepted` passed the rule; tokens : decoded for all of them
    kept : accepted less `duplicates` and `over_cap`; without : positions of the prompts that had no sample accepted
    slack : min |u - A| over all coins
    """

    prompts: int
    samples: int = 0
    skipped: int = 0
    accepted: int = 0
    duplicates: int = 0
    over_cap: int = 0
    tokens: int = 0
    slack: float = float("inf")
    without: list = field(default_factory=list, repr=False)

    def add(self, log_a, accepted, tokens, slack):
        """Count a block in."""
        self.samples, self.skipped = self.samples + len(log_a), self.skipped + int(np.isnan(log_a).sum())
        self.accepted, self.slack = self.accepted + int(accepted.sum()), min(self.slack, slack)
        self.tokens += sum(n or 0 for n in tokens)

    @property
    def kept(self):
        return self.accepted - self.duplicates - self.over_cap

    @property
    def acceptance_rate(self):
        """Accepted per sample that had a reward: the mean of Z(x), or, until accepted, about 1 / (mean of 1 / Z(x)); NaN if none had."""
        return self.accepted / (self.samples - self.skipped) if self.samples > self.skipped else float("nan")

    def __str__(self):
        removed = (
            f", less {self.duplicates:,} duplicates and {self.over_cap:,} over the cap"
            if self.duplicates or self.over_cap
            else ""
        )
        return (
            f"{self.accepted:,} accepted of {self.samples - self.skipped:,} samples ({self.acceptance_rate:.4f}){removed}; "
            f"{len(self.without):,} of {self.prompts:,} prompts without any; {self.skipped:,} skipped, {self.tokens:,} tokens decoded"
        )


def sample_and_judge(
    sample,
    prompts,
    reward,
    rule,
    rng,
    *,
    samples_per_prompt,
    until_accepted=False,
    max_samples=None,
    dedupe=None,
    cap=None,
    folder=None,
    block=1024,
    round=0,
):
    """Return (kept, judged, report): what the rule keeps of completions that `sample` draws, everything judged, and the totals.

    Parameters
    ----------
    sample : callable(prompts, rngs) -> list of str, or dict of lists: "completion" and optionally "log_probability", "tokens", "ended"
        One completion for each of up to `block` prompts (which repeat), drawn by the Generator at its place and no other coins:
        `model_sampler(...)`. With `folder` it needs an attribute `key`, a str (or a function that gives it) that says all that it
        depends on.
    prompts : datasets.Dataset with a str column "prompt", or list of str
    reward : callable(prompts=, completions=, **other columns) -> list of float
        TRL's convention. None: does not apply, the sample is judged, never kept, not counted in the rate.
    rule : rsf.rules rule
        Decides each sample, or with `best_of(n)` each n consecutive samples of a prompt; observes after each block.
    rng : numpy.random.Generator
        Spawns the streams: sample j of prompt i has the same coins whatever else is sampled.
    samples_per_prompt : int
        Drawn for each prompt; with `until_accepted`, accepted of each prompt, out of at most `max_samples` drawn.
    dedupe : callable(completion) -> key
        Of a prompt's accepted samples with one key only the first is kept (`str`: exact duplicates). It and `cap`, the most kept of
        one prompt, thin what was accepted (another law): they cause no further sampling.
    folder : path
        What was sampled is written there, a file a block, before it is judged; a call with the same sampler, rng (made anew from its
        seed), prompts and numbers reads it instead of sampling (rewards and rules may have changed: they are asked again). The result
        lies there too, memory-mapped; without a folder it is held in memory.
    block : int
        Samples that are drawn, judged, decided upon and observed at once; what one prompt is due at a time is not split.

    Raises
    ------
    RewardError
        The reward raised, or gave NaN, an infinity, another number of values, or what the rule refuses (above a ceiling).
    """
    prompts = (
        prompts
        if hasattr(prompts, "features")
        else Dataset.from_dict({"prompt": list(prompts)}, Features({"prompt": Value("string")}))
    )
    limit = _checked(prompts, rule, samples_per_prompt, until_accepted, max_samples)
    seeds, key = rng.bit_generator.seed_seq.spawn(1)[0], folder and key_of(sample)
    if folder and not key:
        raise ValueError(
            "with a folder the sampler needs an attribute `key`, a str that says all that its completions depend on"
        )
    report, judged, places, seen = (
        SamplingReport(len(prompts)),
        Table(prompts.features, folder, f"judged-{round}.arrow"),
        [],
        {},
    )
    prompts, arrow = prompts.with_format(None), prompts.with_format("arrow")
    drawn, accepted = np.zeros((2, len(prompts)), dtype=np.int64)
    for rows in _blocks(drawn, accepted, samples_per_prompt, limit, block):
        table = prompts[[i for i, _ in rows]]  # columns, a row a sample
        rngs = [
            np.random.default_rng(np.random.SeedSequence(seeds.entropy, spawn_key=(*seeds.spawn_key, *row)))
            for row in rows
        ]
        coins = np.array([one.random() for one in rngs])
        drafts = drafted(
            sample,
            table["prompt"],
            rngs,
            folder,
            [key, str(seeds.entropy), seeds.spawn_key, rows, table["prompt"]],
        )
        try:
            rewards = _judged(reward, table, drafts["completion"])
            keep, log_a, slack = _decided(rule, rewards, coins)
        except RewardError as error:
            error.judged, error.completions = judged.close(), drafts["completion"]
            raise
        np.add.at(accepted, [i for (i, _), yes in zip(rows, keep, strict=True) if yes], 1)
        report.add(log_a, keep, drafts["tokens"], slack)
        if dedupe or cap is not None:
            _thin(rows, keep, drafts["completion"], dedupe, cap, seen, report)
            seen = {
                i: keys for i, keys in seen.items() if accepted[i] < samples_per_prompt and drawn[i] < limit
            }
        places.append(report.samples - len(rows) + np.flatnonzero(keep))
        ours = drafts | {
            "reward": rewards,
            "kept": keep,
            "log_acceptance": log_a,
            "round": [round] * len(rows),
        }
        judged.write(arrow[[i for i, _ in rows]], ours)
    report.without = np.flatnonzero(accepted == 0).tolist()
    judged = judged.close()
    return judged.select(np.concatenate(places)).remove_columns("kept"), judged, report


def _blocks(drawn, accepted, wanted, limit, size):
    """Yield lists of (prompt, number of its sample), a prompt again as long as it lacks accepted ones; the counts (prompts,) are kept up to date."""
    waiting, fresh = deque(), iter(range(len(drawn)))
    while True:
        rows = []
        while len(rows) < size and (i := waiting.popleft() if waiting else next(fresh, None)) is not None:
            number = int(min(wanted - accepted[i], limit - drawn[i]))
            rows += [(i, int(drawn[i]) + j) for j in range(number)]
            drawn[i] += number
        if not rows:
            return
        yield rows
        waiting += [i for i in dict.fromkeys(i for i, _ in rows) if accepted[i] < wanted and drawn[i] < limit]


def _checked(prompts, rule, samples_per_prompt, until_accepted, max_samples):
    """Return the most samples that one prompt may get, once all arguments are seen to fit together."""
    if "prompt" not in prompts.column_names or getattr(prompts.features["prompt"], "dtype", None) not in (
        "string",
        "large_string",
    ):
        raise ValueError(
            f"prompts need a column 'prompt' of strings (a chat: apply its template first), got {prompts.features}"
        )
    if taken := sorted(set(prompts.column_names) & set(COLUMNS)):
        raise ValueError(f"the prompts' columns {taken} would be overwritten: rename or remove them")
    if len(prompts) == 0 or samples_per_prompt < 1:
        raise ValueError(
            f"need prompts and samples_per_prompt of at least 1, got {len(prompts)} prompts and {samples_per_prompt}"
        )
    if getattr(rule, "joint", False) and (until_accepted or samples_per_prompt % rule.n):
        raise ValueError(
            f"{rule} chooses among {rule.n} samples of a prompt: samples_per_prompt must be a multiple of it, got {samples_per_prompt}, and until_accepted=False"
        )
    if until_accepted != (max_samples is not None) or (until_accepted and max_samples < samples_per_prompt):
        raise ValueError(
            f"until_accepted, and nothing else, needs max_samples, the most to draw for one prompt (at least {samples_per_prompt}); got {max_samples}"
        )
    return max_samples if until_accepted else samples_per_prompt


def _judged(reward, table, completions):
    """Return the rewards (n,), NaN where they do not apply."""
    others = {name: values for name, values in table.items() if name != "prompt"}
    try:
        given = list(reward(prompts=table["prompt"], completions=completions, **others))
        values = np.array([math.nan if value is None else float(value) for value in given])
    except Exception as error:
        raise RewardError(f"the reward raised {type(error).__name__}: {error}") from error
    if len(values) != len(completions):
        raise RewardError(f"the reward gave {len(values)} values for {len(completions)} completions")
    for value, prompt, completion in zip(given, table["prompt"], completions, strict=True):
        if value is not None and not math.isfinite(value):
            raise RewardError(
                f"the reward is {value} for {completion!r:.80} after {prompt!r:.80} (None would say: does not apply)"
            )
    return values


def _decided(rule, values, coins):
    """Return (kept, log A, slack) for a block; log A is NaN where nothing was decided."""
    decided = ~np.isnan(values)
    kept, log_a, slack = np.zeros(len(values), dtype=bool), np.full(len(values), np.nan), math.inf
    if getattr(rule, "joint", False):
        decided = np.repeat(
            decided.reshape(-1, rule.n).all(axis=1), rule.n
        )  # a group that lacks a reward has no best
        criterion = values[decided].reshape(-1, rule.n)
        kept[decided] = rule.decide(criterion, _Tossed(coins[decided])).ravel()
        with np.errstate(divide="ignore"):
            log_a[decided] = np.log(rule(criterion)).ravel()
    else:
        criterion = values[decided]
        try:
            log_a[decided] = rule.log_probability(criterion)
        except ValueError as error:
            raise RewardError(f"the rule {rule} refuses a reward: {error}") from error
        kept[decided], slack = accept(log_a[decided], _Tossed(coins[decided]), with_slack=True)
    if decided.any():
        rule.observe(criterion)
    return kept, log_a, slack


def _thin(rows, kept, completions, dedupe, cap, seen, report):
    """Take back, in place, what is a prompt's duplicate or beyond its cap; seen: {prompt: keys kept so far}."""
    for place in np.flatnonzero(kept):
        i, number = rows[place]
        keys, key = seen.setdefault(i, set()), dedupe(completions[place]) if dedupe else number
        duplicate = key in keys
        kept[place] = not duplicate and (cap is None or len(keys) < cap)
        report.duplicates, report.over_cap = (
            report.duplicates + duplicate,
            report.over_cap + (not duplicate and not kept[place]),
        )
        if kept[place]:
            keys.add(key)


class _Tossed:
    """Coins that were tossed already, in the place of a Generator."""

    def __init__(self, coins):
        self.coins = coins

    def random(self, shape):
        return self.coins.reshape(shape)
