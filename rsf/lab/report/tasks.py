"""Everywhere the article says it applies: a line a task, from results/ alone (notebook 12)."""

import numpy as np

from rsf.lab import records, verdicts
from rsf.lab.report.parts import limits, table

TASKS = {
    "topics": "topics: AG News, accuracy",
    "questions-one-pass": "questions: SQuAD 1.1, F1",
    "images": "images: digits, accuracy",
    "language": "language model: IMDb, bits per character",
    "speech": "speech: spoken digits, errors in %",
    "translation": "translation: Multi30k, BLEU",
}
HEAD = (
    "task, measure",
    "floor",
    "plain",
    "article",
    "twin",
    "article minus plain, points or bits",
    "better than the floor",
    "no worse by the margin",
    "gain",
    "rejected, %",
    "updates, of plain's",
    "ended early",
)


def tasks_table() -> str:
    """Return the table of the tasks; of one that lacks a run nothing is shown but that it is open."""
    rows = []
    for name, shown in TASKS.items():
        measure = records.protocol(name)["measure"]
        found = [verdicts.judged(contrast) for contrast in verdicts.contrasts(name)]
        words = [finding.judgement.word for finding in found]
        if "open" in words:
            rows.append([shown, *[""] * 5, *words, *[""] * 3])
            continue
        runs = {arm: verdicts.of_arm(name, arm) for arm in ("floor", "plain", "article", "twin")}
        digits = 2 if measure in verdicts.POINTS else 3
        means = [np.mean(list(verdicts.measured(one, measure).values())) for one in runs.values()]
        kept, steps, most = (
            np.mean(list(verdicts.measured(runs[arm], number).values()))
            for arm, number in (("article", "acceptance_rate"), ("article", "steps"), ("plain", "steps"))
        )
        rows.append(
            [
                shown,
                *(f"{mean:.{digits}f}" for mean in means),
                limits(found[-1].difference, digits),
                *words,
                f"{100 * (1 - kept):.0f}",
                f"{steps / most:.2f}",
                sum("stopped" in run["numbers"] for run in runs["article"].values()),
            ]
        )
    return table(HEAD, rows)
