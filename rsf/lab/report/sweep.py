"""Does it help? The seven primary contrasts of the sweep (sections imdb-last-*), from results/ alone.

Of a section that lacks a run nothing is shown but that it is not complete: nobody looks before all are in.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from rsf import plots
from rsf.lab import records, verdicts
from rsf.lab.report.parts import limits, save, table

NAMES = {
    "imdb-last-limited": "limited: 2,000 reviews, 0.75 passes",
    "imdb-last-ample": "ample: 2,000 reviews, 6 passes",
    "imdb-last-whole": "whole: 22,877 reviews, 3 passes",
    "imdb-last-updates": "updates: 750, whatever they cost",
    "imdb-last-few": "few: 200 reviews, 20 passes",
    "imdb-last-few-nll": "few, by negative log-likelihood",
    "imdb-last-wrong": "wrong: 30 % of the labels flipped",
}


def findings() -> dict[str, verdicts.Finding]:
    """Return what the records say of each contrast."""
    return {name: verdicts.judged(*verdicts.contrasts(name)) for name in NAMES}


def values(section: str, arm: str, measure: str = "accuracy") -> list[float]:
    """Return a number of each seed of an arm, accuracy in percent; none while its section lacks a run."""
    runs = {} if records.missing(section) else verdicts.of_arm(section, arm)
    return list(verdicts.measured(runs, measure).values())


def size(finding: verdicts.Finding) -> str:
    """Return the smallest gain worth having with its unit."""
    value = finding.contrast.smallest_gain * (100 if finding.contrast.unit else 1)
    return f"{value:g}{finding.contrast.unit.removesuffix('s' * (value == 1))}"


def claimed(finding: verdicts.Finding) -> list[float]:
    """Return low, estimate and high in the direction of the claim, in smallest gains; nothing while open."""
    if finding.difference is None:
        return []
    contrast = finding.contrast
    found = finding.difference
    unit = contrast.sign * contrast.smallest_gain * (100 if contrast.unit else 1)
    return sorted(value / unit for value in (found.low, found.estimate, found.high))


def sweep_table() -> str:
    """Return the table of the contrasts."""
    rows = []
    for name, finding in findings().items():
        contrast = finding.contrast
        shown = [NAMES[name], f"{contrast.arm} - {contrast.against}"]
        shown.append(limits(finding.difference, 2 if contrast.unit else 3) if finding.difference else "")
        rows.append((*shown, size(finding), finding.judgement.word))
    return table(
        [
            "condition",
            "contrast",
            f"difference, limits at {100 * (1 - contrast.level):.1f} %",
            "worth having",
            "verdict",
        ],
        rows,
    )


def sweep_figure(file: Path | None = None) -> None:
    """Draw the contrasts in units of the smallest gain worth having; shown where no file is named."""
    found = findings()
    words = Counter(finding.judgement.word for finding in found.values())
    title = f"Seven contrasts: {', '.join(f'{number} {word}' for word, number in words.items())}"
    with plots.figure(title, width=9, height=3.8) as axis:
        for place, finding in enumerate(found.values()):
            ends = claimed(finding)
            axis.plot(ends[::2], [place] * len(ends[::2]), color=plots.KEPT)
            axis.plot(ends[1:2], [place] * len(ends[1:2]), "o", color=plots.KEPT)
            axis.text(1.02, place, finding.judgement.word, transform=axis.get_yaxis_transform(), va="center")
        axis.axvline(0, color=plots.TARGET, linewidth=1)
        axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set_yticks(range(len(found)), [NAMES[name] for name in found])
        left, right = axis.get_xlim()
        axis.set(
            xlim=(min(-1.5, left), max(1.5, right)),
            ylim=(len(found) - 0.5, -0.5),
            xlabel="difference in the direction of its claim; dotted: the smallest worth having",
            title=f"limits hold together at {100 * (1 - 7 * finding.contrast.level):g} %",
        )
        save(axis, file) if file else plots.plt.show()


def sums_table() -> str:
    """Return the table of both maps of the sums; of a section that lacks a run nothing but its name."""
    arms = (
        *("control", "control-in-rounds", "rejection", "blind", "best-of-4", "gold"),
        *("policy-gradient", "policy-gradient-kl"),
    )
    rows = []
    for name in ("sums-50", "sums-200", "sums-800", "arithmetic-50", "arithmetic-200", "arithmetic-800"):
        there = {name, f"{name}-others", f"{name}-policy"} & records.sections().keys()  # an arm is in one
        found = [[value for one in there for value in values(one, arm)] for arm in arms]
        (finding,) = map(verdicts.judged, verdicts.contrasts(name))
        shown = [f"{np.median(of_arm):.1f}" if of_arm else "" for of_arm in found]
        shown.append(limits(finding.difference) if finding.difference else "")
        rows.append((name, *shown, finding.judgement.word))
    return table(["section", *arms, "rejection minus the better control, points", "verdict"], rows)
