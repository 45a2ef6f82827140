"""The page and the figure of an audit: each number beside what chance alone would make of it. See `rsf.audit`."""

from dataclasses import dataclass, field

import numpy as np

LEVEL = 0.95  # of the intervals
SOME = "a fixed number each"


@dataclass(frozen=True)
class Clipping:
    """What a ceiling cut off a target q exp(r / beta), or q r: the kept follow min(p, k q) instead, over all samples.

    above : share of the samples above the ceiling; mass : of the target's mass that is cut away; distance : total variation of the
    two laws; bias : mean reward of the kept's law less the target's; estimated : the ceiling is the largest reward seen
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

    names, asked, taken : prompts, their samples and their kept (prompts,); skipped : rows without a reward, counted nowhere else
    way : how it was sampled, "a fixed number each", "until accepted" or "best of n"
    interval : of the rate for these prompts (Wilson); interval_prompts : for others like them (a prompt is the unit)
    prompt_kl : KL(kept prompts | prompts) in nats; kl_by_chance, vanished_by_chance : expected if all prompts had one rate
    moved : the rates differ beyond chance; kl_bound >= KL(kept | sampled); kl : that KL, where A is known
    effective : size of the kept once the prompts are weighted back; undone : once all is, by 1 / A; None where A is not known
    never : share of samples with A = 0, overruled : of those with A = 1 that are not kept (duplicates, a cap, another rule)
    duplicates, log_probability : (among the kept, among all); rounds : {round: (samples, rate, mean reward)}
    """

    names: list = field(repr=False)
    asked: np.ndarray = field(repr=False)
    taken: np.ndarray = field(repr=False)
    skipped: int
    way: str
    interval: tuple
    interval_prompts: tuple
    prompt_kl: float
    kl_by_chance: float
    vanished_by_chance: float
    moved: bool
    kl_bound: float
    effective: float
    histogram: tuple = field(repr=False)  # edges (bins + 1,), all (bins,), kept (bins,)
    kl: float | None = None
    undone: float | None = None
    never: float | None = None
    overruled: float | None = None
    clipping: Clipping | None = None
    duplicates: tuple | None = None
    log_probability: tuple | None = None
    rounds: dict = field(default_factory=dict)

    @property
    def control(self):
        """What to compare a model against that was trained on the kept: it separates what the rule chose from everything else."""
        if self.way != SOME:
            return f"of each prompt's samples one at random (the prompts are those of the kept by {self.way})"
        same = "of each prompt as many at random as were kept: what the choice of completions does; "
        return (
            same * self.moved
            + f"every sample with probability {self.acceptance_rate:.4f}: what the rule does as a whole"
        )

    @property
    def acceptance_rate(self):
        return float(self.taken.sum() / self.asked.sum())

    @property
    def vanished(self):
        """The prompts of which nothing was kept."""
        return [self.names[i] for i in np.flatnonzero(self.taken == 0)]

    def __str__(self):
        kept, asked, m, gone = self.taken.sum(), self.asked.sum(), len(self.names), self.vanished
        spread = " / ".join(
            f"{rate:.4f}" for rate in np.quantile(self.taken / self.asked, (0, 0.25, 0.5, 0.75, 1))
        )
        page = [
            (
                "samples",
                f"{kept:,} kept of {asked:,}, of {m:,} prompts, {self.way}; {self.skipped:,} without a reward left out",
            ),
            (
                "acceptance rate",
                f"{self.acceptance_rate:.4f}; {LEVEL:.0%} interval for these prompts {_span(self.interval)}",
            ),
            ("", f"for other prompts like them {_span(self.interval_prompts)}"),
            ("rate of a prompt", f"{spread} (least, quartiles, most)"),
            (
                "prompts vanished",
                f"{len(gone):,} of {m:,}; by chance, at one rate for all, {self.vanished_by_chance:,.1f}",
            ),
            (
                "law of the prompts",
                f"moved by KL {self.prompt_kl:.4f} nats; by chance {self.kl_by_chance:.4f}",
            ),
            (
                "",
                "their rates differ beyond chance"
                if self.moved
                else "no difference in their rates beyond chance",
            ),
            (
                "law of all",
                f"KL(kept | sampled) at most {self.kl_bound:.4f} nats"
                + ("" if self.kl is None else f", here {self.kl:.4f}"),
            ),
            ("effective size", f"{self.effective:,.1f} of {kept:,} kept once the prompts are weighted back"),
        ]
        if self.never is not None:
            undo = (
                f"{self.undone:,.1f} once all is undone by 1 / A"
                if not self.never
                else f"no undoing: A = 0 for {self.never:.4f} of the samples"
            )
            page += [
                ("", undo),
                (
                    "overruled",
                    f"{self.overruled:.4f} of the samples with A = 1 are not kept (duplicates, a cap, another rule)",
                ),
            ]
        if c := self.clipping:
            page += [
                (
                    f"ceiling {c.ceiling:g}",
                    f"{c.above:.4f} of the samples above it, {c.mass:.4f} of the target's mass cut off",
                ),
                (
                    "",
                    f"the kept's law is {c.distance:.4f} from the target (total variation), its mean reward off by {c.bias:z.4f}",
                ),
            ]
        if self.clipping and self.clipping.estimated:
            page += [
                (
                    "",
                    f"it is the largest reward seen: the next is larger with probability {1 / (asked + 1):.2g}",
                )
            ]
        for what, pair in (("duplicates", self.duplicates), ("log probability", self.log_probability)):
            page += [(what, f"{pair[0]:z.4f} among the kept, {pair[1]:z.4f} among all")] if pair else []
        page += [
            (f"round {r}", f"{rate:.4f} of {n:,} kept, mean reward {mean:z.4f}")
            for r, (n, rate, mean) in self.rounds.items()
        ]
        page += zip(("controls to take", ""), self.control.split("; "), strict=False)
        return "\n".join(f"{what:20}{text}" for what, text in page)

    def figure(self):
        """Draw the rates of the prompts and the rewards before and after; return the matplotlib figure."""
        from rsf import plots

        m, gone = len(self.names), len(self.vanished)
        title = f"{self.acceptance_rate:.1%} of the samples were kept, none from {gone:,} of {m:,} prompts"
        with plots.figure(title, columns=2) as (left, right):
            rates, prompts = np.unique(self.taken / self.asked, return_counts=True)
            left.stairs(
                rates,
                np.concatenate([[0], np.cumsum(prompts) / m]),
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
            edges, *both = self.histogram
            tops = [int(number.argmax()) for number in both]
            sides = ["right", "left"] if tops[0] <= tops[1] else ["left", "right"]
            sides = [
                "left" if top < 6 else "right" if top > 19 else side
                for top, side in zip(tops, sides, strict=True)
            ]  # of 25 bins
            for number, top, side, colour, label in zip(
                both, tops, sides, (plots.PROPOSAL, plots.KEPT), ("all samples", "kept"), strict=True
            ):
                height = number / max(number.sum(), 1)
                right.stairs(
                    height,
                    edges,
                    color=colour,
                    linewidth=2,
                    fill=label != "kept",
                    alpha=1 if label == "kept" else 0.5,
                )
                place = (edges[top + (side == "right")], height[top])
                up = 16 if label == "kept" and tops[0] == tops[1] else 4
                right.annotate(label, place, (0, up), textcoords="offset points", color=colour, ha=side)
            right.set(
                xlabel="reward",
                ylabel="share of the samples",
                ylim=(0, 1.15 * max(n.max() / max(n.sum(), 1) for n in both)),
            )
        return left.figure


def _span(interval):
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]"
