"""What the records say of a claim: the contrasts that the protocol declares, their limits, verdicts by rule.

A section declares its contrast by the keys `contrast` (an arm, and the one or the several that it is held
against), `measure` and `sign`, or several in the list `contrasts`, or in the words "A minus B" of its
`primary`; beside them a `smallest_gain`. Against several, the one counts that validates best. Limits hold
together over the `family`: `level` divided by the number of contrasts that the family declares (Bonferroni).
The rule is `rsf.checks.verdict`; the sections written first keep the one in their `primary`. A verdict is
open until every declared seed is in. That there is no harm by a margin is shown, or refuted, where the limits
lie on one side of it.

Where a contrast has sections `among` which its difference may be another, the largest mean difference is held
against the smallest, paired by seed, at a level divided by the number of pairs (Bonferroni): the pair is
chosen by what is seen, and the limits of every pair hold together.
"""

from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np

from rsf import checks
from rsf.lab import compact, records, validated

POINTS = ("accuracy", "f1", "errors", "bleu")  # measures that are told in points, of 100
# where a record has them of each example; BLEU is of all together
EACH = {"accuracy": "right", **{name: f"{name}_each" for name in ("nll", "f1", "bits", "errors")}}
INTERVALS = {"order statistics": "median", "crossed": "crossed"}  # by words of a section
FIRST_RULE = "else not reproduced"  # words of the sections that are judged by the rule written first


class Contrast(NamedTuple):
    """Two arms of a section and what is claimed of their difference: `arm` minus `against`."""

    experiment: str
    arm: str
    against: str | list[str]
    measure: str = "accuracy"
    smallest_gain: float | None = None
    margin: float | None = None  # in its place: the claim is that `arm` is no lower by more than this
    sign: int = 1  # -1: the claim is a harm, or less is better
    quantifier: str = "general"  # over the sections with this claim; "case": of this section; "may"
    interval: str = "crossed"  # over seeds and examples; "t", over seeds; "median", where runs can collapse
    level: float = 0.05  # of this contrast, the family's divided by the number of its contrasts
    among: tuple[str, ...] = ()  # sections: the claim is that the difference is another in one of them
    claim: str = ""
    scope: str = ""

    @property
    def name(self) -> str:
        """Return what the contrast is called: its section and its arms."""
        return f"{self.experiment}: {self.arm} - {' or '.join(_several(self.against))}"

    @property
    def unit(self) -> str:
        """Return the unit that differences are told in: points of accuracy or F1, or nothing."""
        return " points" if self.measure in POINTS else ""


class Finding(NamedTuple):
    """What the records say of a contrast: the difference, its limits, the sign-flip p and the judgement."""

    contrast: Contrast
    judgement: checks.Judgement
    difference: checks.Verdict | None = None
    p_value: float = float("nan")
    seeds: int = 0
    collapsed: int = 0
    devices: tuple[tuple[str, int, float], ...] = ()  # of each: pairs that ran there, their mean difference

    def __str__(self) -> str:
        contrast, found = self.contrast, self.difference
        text = f"{contrast.name}, {contrast.measure}"
        if found is not None:
            digits = 2 if contrast.unit else 4
            text += f" {found.estimate:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
            text += f"{contrast.unit} at {100 * (1 - contrast.level):.4g} %, {self.seeds} seeds"
            alike = found.low == found.high  # a count, not a sample: no p
            text += ", the same in each" if alike else f", sign-flip p {self.p_value:.4f}"
            text += f", {self.collapsed} runs collapsed" * (contrast.interval == "median")
            each = [f"{name} {mean:+.{digits}f}, {n} seeds" for name, n, mean in self.devices]
            text += f" ({'; '.join(each)})" * (len(each) > 1)
        return f"{text}: {self.judgement}" + (f"; scope: {contrast.scope}" if contrast.scope else "")


def contrasts(experiment: str) -> list[Contrast]:
    """Return the contrasts that a section declares, each with its share of the family's level."""
    section = records.protocol(experiment)
    family = section.get("family", [experiment])
    number = sum(len(_declared(name)) for name in family) if experiment in family else 1
    same = {name: section[name] for name in Contrast._fields if name in section and name != "interval"}
    same |= {"level": section.get("level", 0.05) / max(number, 1), "interval": _interval(section)}
    return [Contrast(**{"experiment": experiment, **same, **one}) for one in _declared(experiment)]


def _declared(experiment: str) -> list[dict]:
    """Return the contrasts of a section as far as they are its own: none of tuning or superseded ones."""
    section = records.protocol(experiment)
    asks = {"smallest_gain", "margin"} & section.keys()
    if not asks or records.has_rates(section) or records.superseded(experiment):
        return []
    arms = section["arms"]
    if "contrasts" in section:
        found = section["contrasts"]
    elif "contrast" in section:
        found = [dict(zip(("arm", "against"), section["contrast"], strict=True))]
    else:
        found = [
            {"arm": a, "against": b} for a in arms for b in arms if f"{a} minus {b}" in section["primary"]
        ][:1]
    return [one for one in found if {one["arm"], *_several(one["against"])} <= set(arms)]


def _several(against: str | list[str]) -> list[str]:
    return [against] if isinstance(against, str) else against


def _interval(section: dict) -> str:
    """Return the kind of interval that a section's words ask for; those written first have t alone."""
    words = section.get("interval", section["primary"])
    return next((kind for word, kind in INTERVALS.items() if word in words), "t")


def judged(contrast: Contrast) -> Finding:
    """Return what the records say of a contrast; open while a declared seed is missing in one of its arms."""
    section = records.protocol(contrast.experiment)
    several = _several(contrast.against)
    if len(several) > 1:
        scores = [validated.best(contrast.experiment, arm)[1] for arm in several]
        contrast = contrast._replace(
            against=several[int(np.argmax(scores))] if all(scores) else " or ".join(several)
        )
    gains = _gains(contrast)
    arms = list(gains.values()) or [
        of_arm(contrast.experiment, name) for name in (contrast.arm, contrast.against)
    ]
    if missing := sum(not all(seed in runs for runs in arms) for seed in section["seeds"]):
        return Finding(contrast, unasked(f"{missing} of the declared seeds are missing"))
    if gains:
        least, *_, most = sorted(
            gains, key=lambda name: np.mean([*measured(gains[name], contrast.measure).values()])
        )
        arms = [gains[most], gains[least]]
        contrast = contrast._replace(
            arm=most, against=least, interval="t", level=contrast.level / comb(len(gains), 2)
        )
    for name, runs in zip((contrast.arm, contrast.against), arms, strict=True):
        for seed, other in combinations(runs, 2):
            records.must(
                # the floor may learn nothing
                name == "floor" or records.answers(runs[seed]) != records.answers(runs[other]),
                f"{contrast.experiment} {name}: seed {other} is a copy of seed {seed}",
            )
    found = difference(*arms, measure=contrast.measure, interval=contrast.interval, level=contrast.level)
    values = [measured(runs, contrast.measure) for runs in arms]
    of_two = contrast.unit and "half of the arm's median" not in section["primary"]  # where guessing has 50 %
    pairs = {}
    for seed, run in arms[0].items():
        pairs.setdefault(run["machine"].get("device"), []).append(values[0][seed] - values[1][seed])
    return Finding(
        contrast,
        _judgement(contrast, found),
        found,
        p_value=checks.sign_flip(*values),
        seeds=len(section["seeds"]),
        collapsed=sum(checks.collapsed(one, 50.0 if of_two else 0.0) for one in values),
        devices=tuple((name, len(each), float(np.mean(each))) for name, each in pairs.items()),
    )


def _gains(contrast: Contrast) -> dict[str, dict[int, dict]]:
    """Return the difference of the two arms in each of the sections `among`, by seed, in records."""
    what = contrast.measure
    found = {}
    for name in contrast.among:
        runs, others = (of_arm(name, arm) for arm in (contrast.arm, contrast.against))
        found[name] = {
            seed: {
                **run,
                "numbers": run["numbers"] | {what: run["numbers"][what] - others[seed]["numbers"][what]},
            }
            for seed, run in runs.items()
            if seed in others
        }
    return found


def _judgement(contrast: Contrast, found: checks.Verdict) -> checks.Judgement:
    """Return what a difference says of a contrast, by the rule of its section."""
    scale = 100 if contrast.unit else 1
    if contrast.margin is not None:
        side = "lower" if contrast.sign > 0 else "higher"
        low, high = sorted(contrast.sign * end for end in (found.low, found.high))
        most = -scale * contrast.margin
        word = "shown" if low > most else "refuted" if high < most else "not shown"
        return checks.Judgement(word, f"no {side} by {scale * contrast.margin:g}{contrast.unit}: {word}")
    delta = scale * contrast.smallest_gain
    if FIRST_RULE in records.protocol(contrast.experiment)["primary"]:
        word = records.verdict(found, delta, may=contrast.quantifier == "may")
        return checks.Judgement(word, f"{word} (by the rule of its section)")
    return checks.verdict(
        found.estimate,
        found.low,
        found.high,
        delta,
        quantifier="may" if contrast.quantifier == "may" else "general",
        direction="more" if contrast.sign > 0 else {"accuracy": "harm"}.get(contrast.measure, "less"),
        unit=contrast.unit,
    )


def unasked(why: str = "the protocol does not ask it") -> checks.Judgement:
    """Return the judgement of what nobody ran, with the reason."""
    return checks.Judgement("open", f"open ({why})")


def ran(cells: list[str], *, contrary: bool = False) -> checks.Judgement:
    """Return what checks in the stored outputs of cells say of a claim, or of its contrary.

    Each check comes with a counter-check that was refused; "" stands for one that is in no stored output.
    """
    if not all(cells):
        return unasked("a check that it rests on is in no stored output")
    return checks.Judgement(*(("refuted", "refuted (its contrary is shown)") if contrary else ("shown",) * 2))


def of_arm(experiment: str, arm: str) -> dict[int, dict]:
    """Return the records of an arm by seed, those of the declared seeds, none if none is there."""
    return {record["seed"]: record for record in records.runs(experiment) if record["arm"] == arm}


def measured(runs: dict[int, dict], measure: str) -> dict[int, float]:
    """Return a number of each run by seed, those told in points in percent."""
    return {seed: run["numbers"][measure] * (100 if measure in POINTS else 1) for seed, run in runs.items()}


def difference(
    runs: dict[int, dict],
    others: dict[int, dict],
    *,
    measure: str = "accuracy",
    interval: str = "crossed",
    level: float = 0.05,
) -> checks.Verdict:
    """Return the paired difference of two arms over the seeds that both have, of accuracy in points.

    Parameters
    ----------
    runs, others : {seed: record}
    measure : name of a number
    interval : "crossed" | "t" | "median"
        crossed: for other seeds and other test examples, where the measure of each example is stored, or t
        where that is wider or it is not; t: over the seeds alone; median: order statistics.
    level : float
    """
    one, other = ({seed: arm[seed] for seed in runs if seed in others} for arm in (runs, others))
    if interval == "crossed":
        examples = [{seed: of_each(run, measure) for seed, run in arm.items()} for arm in (one, other)]
        if all(each is not None for arm in examples for each in arm.values()):
            return checks.crossed_difference(*examples, level=level)
    compare = checks.median_difference if interval == "median" else checks.paired_difference
    return compare(measured(one, measure), measured(other, measure), level=level)


def of_each(record: dict, measure: str) -> np.ndarray | None:
    """Return a measure of each test example, as `measured`, or None where it is not stored."""
    stored = record["numbers"].get(EACH.get(measure))
    if not isinstance(stored, str):
        return None
    if measure == "accuracy":
        return 100.0 * compact.unpack(stored, records.protocol(record["experiment"])["test"])
    return (100 if measure in POINTS else 1) * compact.unpack_values(stored)


def means(experiment: str) -> list[str]:
    """Return what a section's arms reached on the mean of their seeds, a line a measure, of grids by rate.

    Nothing while a verdict is open: nobody looks before all declared seeds are in.
    """
    if contrasts(experiment) and records.missing(experiment):
        return []
    lines = []
    percent = [(measure, 100, 2, " %") for measure in POINTS]
    for measure, scale, digits, unit in (*percent, ("nll", 1, 3, ""), ("bits", 1, 4, "")):
        arms = {}
        for run in (run for run in records.runs(experiment) if measure in run["numbers"]):
            name = f"{run['arm']} at {run['rate']:g}" if "rate" in run else run["arm"]
            arms.setdefault(name, []).append(run["numbers"][measure])
        shown = [f"{name} {scale * np.mean(values):.{digits}f}{unit}" for name, values in arms.items()]
        lines += [f"{measure}: {', '.join(shown)}"] * bool(shown)
    return lines


def overall(experiments: list[str]) -> dict[str, checks.Judgement]:
    """Return the judgement in general of each claim that the sections are cases of, over all its cases."""
    every = [contrast for name in records.sections() for contrast in contrasts(name) if contrast.claim]
    found = {}
    for claim in dict.fromkeys(contrast.claim for contrast in every if contrast.experiment in experiments):
        cases = [one for one in every if one.claim == claim and one.quantifier == "general"]
        findings = [judged(case) for case in cases if len(cases) > 1]
        if findings:
            found[claim] = checks.in_general({one.contrast.name: one.judgement for one in findings})
    return found
