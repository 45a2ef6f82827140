"""The page and the figure of an audit: each number stands beside what chance alone would make of it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

LEVEL = 0.95  # of the intervals
SOME = "a fixed number each"
SPAN, AMONG = "[{:.4f}, {:.4f}]", "{:z.4f} among the kept, {:z.4f} among all"


@dataclass(frozen=True)
class Clipping:
    """What a ceiling cut off a target q exp(r / beta), or q r: the kept follow min(p, k q) instead.

    above : share of the samples above the ceiling
    mass : of the target's mass that is cut away
    distance : total variation of the two laws, over all samples
    bias : mean reward of the kept's law less the target's
    estimated : the ceiling is the largest reward seen
    """

    ceiling: float
    above: float
    mass: float
    distance: float
    bias: float
    estimated: bool


@dataclass(frozen=True)
class AuditReport:
    """What `audit` finds; `str` is the page, `figure` the picture.

    names, asked, taken : prompts, their samples and their kept (prompts,)
    skipped : rows without a reward, or without a decision, counted nowhere else
    way : how it was sampled, "a fixed number each", "until accepted" or "best of n"
    interval : of the rate for these prompts (Wilson)
    interval_prompts : of the rate for others like them (a prompt is the unit)
    prompt_kl : KL(kept prompts | prompts) in nats
    kl_by_chance, vanished_by_chance : expected if all prompts had one rate
    moved : the rates of the prompts differ beyond chance
    kl_bound, kl : KL(kept | sampled) is at most, and is where A is known
    effective : size of the kept once the prompts are weighted back
    histogram : edges (bins + 1,), all (bins,), kept (bins,)
    undone : effective size once all is weighted back by 1 / A, where A is known
    never : share of the samples with A = 0
    overruled : share of those with A = 1 that are not kept (duplicates, a cap, another rule)
    duplicates, log_probability : (among the kept, among all)
    rounds : {round: (samples, rate, mean reward)}
    instead : what the reward is, and kept, where the table has no column of that name, else ""
    origins : {whose completions they are: (samples, kept)}
    """

    names: list[str] = field(repr=False)
    asked: np.ndarray = field(repr=False)
    taken: np.ndarray = field(repr=False)
    skipped: int
    way: str
    interval: tuple[float, float]
    interval_prompts: tuple[float, float]
    prompt_kl: float
    kl_by_chance: float
    vanished_by_chance: float
    moved: bool
    kl_bound: float
    effective: float
    histogram: tuple[np.ndarray, np.ndarray, np.ndarray] = field(repr=False)
    kl: float | None = None
    undone: float | None = None
    never: float | None = None
    overruled: float | None = None
    clipping: Clipping | None = None
    duplicates: tuple[float, float] | None = None
    log_probability: tuple[float, float] | None = None
    rounds: dict[float, tuple[int, float, float]] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)
    origins: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def control(self) -> str:
        """What to compare a model with that learns from the kept: it shows what the rule's choice does."""
        if self.way != SOME:
            return f"of each prompt's samples one at random (the prompts are those of the kept by {self.way})"
        return (
            "of each prompt as many at random as were kept: what the choice of completions does; "
            * self.moved
            + f"every sample with probability {self.acceptance_rate:.4f}: what the rule does as a whole"
        )

    @property
    def acceptance_rate(self) -> float:
        """The kept share of all samples."""
        return float(self.taken.sum() / self.asked.sum())

    @property
    def vanished(self) -> list[str]:
        """The prompts of which nothing was kept."""
        return [self.names[prompt] for prompt in np.flatnonzero(self.taken == 0)]

    def __str__(self) -> str:
        """Return the page: a line for each finding that applies."""
        kept, asked, prompts = self.taken.sum(), self.asked.sum(), len(self.names)
        cut = self.clipping
        page = [
            f"samples | {kept:,} kept of {asked:,}, of {prompts:,} prompts, {self.way}; "
            f"{self.skipped:,} without a reward left out",
            *(what and f"{name} | {what}" for name, what in self.instead.items()),
            *(
                f"origin {origin} | {taken:,} kept of {samples:,}"
                for origin, (samples, taken) in sorted(self.origins.items())
            ),
            *(
                f" | a {origin} is the data set's: what is kept is not sampled from the model alone"
                for origin in ("reference", "dataset", "ground truth", "ground_truth")
                if self.origins.get(origin, (0, 0))[1]
            ),
            f"acceptance rate | {self.acceptance_rate:.4f}; "
            f"{LEVEL:.0%} interval for these prompts {SPAN.format(*self.interval)}",
            f" | for other prompts like them {SPAN.format(*self.interval_prompts)}",
            "rate of a prompt | "
            + " / ".join(map("{:.4f}".format, np.quantile(self.taken / self.asked, (0, 0.25, 0.5, 0.75, 1))))
            + " (least, quartiles, most)",
            f"prompts vanished | {len(self.vanished):,} of {prompts:,}; "
            f"by chance, at one rate for all, {self.vanished_by_chance:,.1f}",
            f"law of the prompts | moved by KL {self.prompt_kl:.4f} nats; by chance {self.kl_by_chance:.4f}",
            f" | {'their rates differ' if self.moved else 'no difference in their rates'} beyond chance",
            f"law of all | KL(kept | sampled) at most {self.kl_bound:.4f} nats"
            + ("" if self.kl is None else f", here {self.kl:.4f}"),
            f"effective size | {self.effective:,.1f} of {kept:,} kept once the prompts are weighted back",
            self.never == 0 and f" | {self.undone:,.1f} once all is undone by 1 / A",
            self.never and f" | no undoing: A = 0 for {self.never:.4f} of the samples",
            self.overruled is not None
            and f"overruled | {self.overruled:.4f} of the samples with A = 1 are not kept "
            "(duplicates, a cap, another rule)",
            cut
            and f"ceiling {cut.ceiling:g} | {cut.above:.4f} of the samples above it, "
            f"{cut.mass:.4f} of the target's mass cut off",
            cut
            and f" | the kept's law is {cut.distance:.4f} from the target (total variation), "
            f"its mean reward off by {cut.bias:z.4f}",
            cut
            and cut.estimated
            and " | it is the largest reward seen: "
            f"the next is larger with probability {1 / (asked + 1):.2g}",
            self.duplicates and "duplicates | " + AMONG.format(*self.duplicates),
            self.log_probability and "log probability | " + AMONG.format(*self.log_probability),
            *(
                f"round {number:.15g} | {rate:.4f} of {samples:,} kept, mean reward {reward:z.4f}"
                for number, (samples, rate, reward) in self.rounds.items()
            ),
            "controls to take | " + self.control.replace("; ", f"\n{'':20}"),
        ]
        return "\n".join("{:20}{}".format(*line.split(" | ", 1)) for line in page if line)

    def figure(self) -> Any:
        """Draw the rates of the prompts, and the rewards before and after; return the matplotlib figure."""
        from rsf import plots

        rates, prompts = np.unique(self.taken / self.asked, return_counts=True)
        edges, *numbers = self.histogram
        asked, kept = (number / max(number.sum(), 1) for number in numbers)
        with plots.figure(
            f"{self.acceptance_rate:.1%} of the samples were kept, "
            f"none from {len(self.vanished):,} of {len(self.names):,} prompts",
            columns=2,
        ) as (left, right):
            left.stairs(
                rates,
                [0, *(np.cumsum(prompts) / len(self.names))],
                baseline=None,
                color=plots.KEPT,
                linewidth=2,
            )
            left.axhline(self.acceptance_rate, color="black", linewidth=0.8)
            left.annotate(
                "one rate for all", (0.02, self.acceptance_rate), (0, 4), textcoords="offset points"
            )
            left.set(
                xlabel="share of the prompts, by rate",
                ylabel="acceptance rate of a prompt",
                xlim=(0, 1),
                ylim=(-0.03, 1.05),
            )
            right.stairs(asked, edges, color=plots.PROPOSAL, linewidth=2, fill=True, alpha=0.5)
            right.stairs(kept, edges, color=plots.KEPT, linewidth=2)
            right.set(xlabel="reward", ylabel="share of the samples", ylim=(0, 1.3 * max(*asked, *kept)))
            right.text(0.02, 0.97, "kept", transform=right.transAxes, va="top", color=plots.KEPT)
            right.text(0.02, 0.90, "all samples", transform=right.transAxes, va="top", color=plots.PROPOSAL)
        return left.figure
