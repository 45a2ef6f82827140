"""What the selection benchmark and the short runs say: table and picture, from results/ alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsf import plots
from rsf.lab import records, verdicts
from rsf.lab.report.parts import limits, save, table

SHORT = ("imdb-short", "imdb-short-again")
RATES = ("keep 0.25", "keep 0.5", "keep 0.75")
NAMES = {  # of the ratios, as the table has them
    "scoring over training": "scoring one candidate, over training on one (float32)",
    "the same, scoring in bfloat16": 'the same, with `scoring_dtype="bfloat16"`',
    "the same, dropout off": "scoring in float32, over training with dropout off",
    "a pass over its parts": (
        "a pass that keeps 0.25, 0.5 or 0.75, over scoring and that share of training (the worst)"
    ),
    "keep all over plain": "a pass of `constant(1)`, over plain `Trainer`",
    "memory over plain": "peak memory of the process, over plain `Trainer`'s",
    "candidates a second over the listing, 0.3": (
        "candidates a second, over the repaired listing's, keeping 0.3"
    ),
    "candidates a second over the listing, 1": "the same, keeping all",
}


class Ratio(NamedTuple):
    """A ratio of the protocol: over all slices, its range over them, the bound that the worst must hold."""

    value: float
    least: float
    most: float
    bound: float
    at_least: bool

    @property
    def held(self) -> bool:
        """Return whether the worst slice holds the bound."""
        return self.least >= self.bound if self.at_least else self.most <= self.bound


def stored(arm: str = "cpu") -> tuple[dict[str, np.ndarray], dict]:
    """Return the passes of the stored benchmark and its record.

    The passes are {name: array (slices, 3)}: seconds (of the processor on a CPU), tokens decided on, tokens
    trained on.
    """
    record = records.read("bench-selection")[arm][0]
    seconds = 1 if arm == "cpu" else 0
    found = {name: np.array(rows)[:, [seconds, 2, 3]] for name, rows in record["numbers"]["passes"].items()}
    every = records.protocol("bench-selection")["listing_every"]
    return {name: rows * (every if name.startswith("listing") else 1) for name, rows in found.items()}, record


def parts(found: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Return what a pass should cost (slices,): its scoring, and its share of a plain pass's training."""
    share = found[name][:, 2] / found[name][:, 1]
    return found["score"][:, 0] + share * found["plain"][:, 0]


def ratios(arm: str = "cpu") -> dict[str, Ratio]:
    """Return the ratios that the protocol names, with their bounds."""
    found, record = stored(arm)
    section = records.protocol("bench-selection")
    memory = {name: after for name, (_, after) in record["numbers"]["memory"].items()}
    cost = {name: rows[:, 0] for name, rows in found.items()}
    worst = max(RATES, key=lambda name: cost[name].sum() / parts(found, name).sum())
    largest = max(memory["keep 0.5"], memory["batches, 1"])
    pairs = {
        "scoring over training": (cost["score"], cost["plain"]),
        "the same, scoring in bfloat16": (cost["score, bfloat16"], cost["plain"]),
        "the same, dropout off": (cost["score"], cost["plain, no dropout"]),
        "a pass over its parts": (cost[worst], parts(found, worst)),
        "keep all over plain": (cost["keep all"], cost["plain"]),
        "memory over plain": (np.array([largest]), np.array([memory["plain"]])),
    }
    for share in (0.3, 1):
        what = f"candidates a second over the listing, {share:g}"
        pairs[what] = cost[f"listing, {share:g}"], cost[f"batches, {share:g}"]
    rows = {}
    for what, (one, other) in pairs.items():
        each = one / other
        at_least = what in section["least"]
        bound = section["least" if at_least else "bounds"][what]
        rows[what] = Ratio(
            float(one.sum() / other.sum()), float(each.min()), float(each.max()), bound, at_least
        )
    return rows


def selection_table() -> str:
    """Return the tables of what selection costs, and of whether its fast form is as accurate."""
    rows = [
        (
            NAMES[name],
            f"{ratio.value:.2f}" + f" ({ratio.least:.2f} to {ratio.most:.2f})" * (ratio.most > ratio.least),
            f"at {'least' if ratio.at_least else 'most'} {ratio.bound:.2f}",
            "held" if ratio.held else "**missed**",
        )
        for name, ratio in ratios().items()
    ]
    costs = table(["what", "measured (range of the slices)", "bound, for the worst slice", ""], rows)
    return f"{costs}\n\n{_line()}\n\n{_accuracies()}"


def _line() -> str:
    """Return what was measured on, and how fast it was."""
    found, record = stored()
    plain, score = (found[name][:, 1].sum() / found[name][:, 0].sum() for name in ("plain", "score"))
    floor = record["numbers"]["floor"]["flops"] / record["numbers"]["floor"]["flops_per_second"]
    of_scoring, of_training = (floor / found[name][0, 0] for name in ("score", "plain"))
    return (
        f"{len(found['plain'])} slices of {record['data']}, {found['plain'][:, 1].sum():,.0f} tokens, "
        f"reviews cut at {record['settings']['tokens']}; MiniLM in float32, {record['machine']['device']}, "
        f"processor seconds. Plain training takes {plain:,.0f} tokens a second, scoring {score:,.0f}; the "
        f"matrix products of scoring alone would take {of_scoring:.2f} of its time, {of_training:.2f} of "
        "training's."
    )


def _accuracies() -> str:
    """Return the table of the fast form's accuracy beside the listing's."""
    rows = []
    for experiment in SHORT:
        section = records.protocol(experiment)
        finding = verdicts.judged(*verdicts.contrasts(experiment))
        rows.append(
            (
                f"[`{experiment}`]({experiment})",
                f"{len(section['seeds'])}, {section['test']:,}",
                f"{limits(finding.difference)}, {100 * (1 - finding.contrast.level):g} %",
                f"by {100 * finding.contrast.margin:g} points: {finding.judgement.word}",
            )
        )
    return table(
        [
            "accuracy of the fast form minus the listing's, after the same number of forward passes",
            "seeds, test reviews",
            "points",
            "no lower",
        ],
        rows,
    )


def selection_figure(file: Path) -> None:
    """Draw the time of a pass, over plain fine-tuning's, against the share trained on; a line: its parts."""
    found, _ = stored()
    title = f"A pass takes up to {ratios()['a pass over its parts'].value:.2f} times its scoring and training"
    with plots.figure(title, width=6, height=4) as axis:
        plain = found["plain"][:, 0]
        line = np.array([0, 1])
        score = found["score"][:, 0].sum() / plain.sum()
        axis.plot(line, score + line, color="black", linewidth=0.8)
        for name in ("score", *RATES):
            axis.plot(found[name][:, 2] / found[name][:, 1], found[name][:, 0] / plain, "o", color=plots.KEPT)
        axis.plot([1] * len(plain), found["keep all"][:, 0] / plain, "o", color=plots.KEPT)
        half = found["score, bfloat16"][:, 0] / plain
        axis.plot([0] * len(plain), half, "o", color=plots.KEPT, fillstyle="none")
        axis.axhline(1, color=plots.CONTROL, linestyle="--", linewidth=1)
        for text, place, shift, colour, side in (
            ("scoring + a × training", (0.3, score + 0.3), (8, -14), "black", "left"),
            ("scoring in bfloat16", (0, half.mean()), (8, -4), plots.KEPT, "left"),
            ("constant(1):\nnothing scored", (1, 1), (4, -36), plots.KEPT, "right"),
            ("plain fine-tuning", (0, 1), (2, 4), plots.CONTROL, "left"),
        ):
            axis.annotate(text, place, shift, textcoords="offset points", color=colour, ha=side)
        axis.set(
            xlabel="share of the tokens trained on, a",
            ylabel="time of a pass / plain",
            xlim=(-0.03, 1.05),
            ylim=(0, None),
            title=f"{len(plain)} slices of reviews",
        )
        save(axis, file)
