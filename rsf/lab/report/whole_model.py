"""README's first finding and 07's main table and picture: the whole model on all of IMDb, from results/."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsf import checks, plots
from rsf.lab import records, verdicts
from rsf.lab.report.parts import limits, save, table

MAIN, ONE = "imdb-whole-model", "imdb-whole-model-1"
NAMES = {
    "plain": "plain fine-tuning",
    "article": "the article's rule, min(1, loss / 0.5)",
    "twin": "its twin: every batch, weighed by A",
    "random": "random, at the rule's rate",
}


class Row(NamedTuple):
    """An arm at a budget: its runs by seed, and its accuracy minus plain's in points, None of plain."""

    passes: int
    arm: str
    runs: dict[int, dict]
    minus_plain: checks.Verdict | None
    word: str  # the verdict, or that the contrast is exploratory

    def mean(self, measure: str) -> float:
        """Return the mean of a number over the seeds, accuracy in percent."""
        return float(np.mean(list(verdicts.measured(self.runs, measure).values())))


def rows() -> list[Row]:
    """Return the arms at three passes and at one; the declared contrast at its level, the others at 95 %."""
    found = []
    for section in (MAIN, ONE):
        passes = records.protocol(section)["passes"]
        judged = {
            finding.contrast.arm: finding for finding in map(verdicts.judged, verdicts.contrasts(section))
        }
        plain = verdicts.of_arm(section, "plain")
        found.append(Row(passes, "plain", plain, None, ""))
        others = [(section, arm) for arm in records.protocol(section)["arms"] if arm != "plain"]
        others += [(f"{MAIN}-random", "random")] if section == MAIN else []
        for name, arm in others:
            runs = verdicts.of_arm(name, arm)
            if arm in judged:
                found.append(Row(passes, arm, runs, judged[arm].difference, judged[arm].judgement.word))
            else:
                found.append(Row(passes, arm, runs, verdicts.difference(runs, plain), "exploratory"))
    return found


def sure_mistakes(row: Row) -> float:
    """Return the share of an arm's mistakes that it made with a confidence above 0.9, over all its seeds."""
    numbers = [run["numbers"] for run in row.runs.values()]
    size = records.protocol(MAIN)["test"]
    return sum(one["confident_wrong"] for one in numbers) / sum(
        round((1 - one["accuracy"]) * size) for one in numbers
    )


def whole_model_table() -> str:
    """Return the table of the whole model on all of IMDb, and what it shows beside the declared contrasts."""
    found = rows()
    lines = [
        (
            row.passes,
            NAMES[row.arm],
            f"{row.mean('accuracy'):.2f}",
            limits(row.minus_plain, 2) if row.minus_plain else "",
            row.word,
            f"{row.mean('acceptance_rate'):.2f}",
            f"{row.mean('steps'):,.0f}",
            f"{row.mean('nll'):.3f}",
            f"{100 * sure_mistakes(row):.0f}",
        )
        for row in found
    ]
    head = ["passes", "arm", "right, %", "minus plain, points", "verdict", "kept", "steps", "NLL"]
    return f"{table([*head, 'mistakes surer than 0.9, %'], lines)}\n\n{_beside(found)}"


def _beside(found: list[Row]) -> str:
    """Return on what the table rests, and the differences that it does not have."""
    (contrast,) = verdicts.contrasts(MAIN)
    article, twin, random = (row.runs for row in found if row.passes == 3 and row.arm != "plain")
    to_twin, to_article = (
        limits(verdicts.difference(*pair), 2) for pair in ((article, twin), (random, article))
    )
    return (
        f"{len(article)} paired seeds ({len(random)} of random, which was added after the others had begun), "
        f"{records.protocol(MAIN)['test']:,} test reviews; each arm at its own tuned rate; limits hold for "
        f"other seeds and other reviews, at {100 * (1 - contrast.level):g} % where a verdict stands "
        f"(smallest gain worth having: {100 * contrast.smallest_gain:g} points), else at 95 %. Exploratory "
        f"as well: article minus twin {to_twin}, random minus article {to_article}."
    )


def whole_model_figure(file: Path | None = None) -> None:
    """Draw the arms' accuracy minus plain's, and their NLL; shown where no file is named."""
    found = rows()
    (article,) = (row for row in found if row.passes == 3 and row.arm == "article")
    with plots.figure(
        "The article's rule, all of IMDb, three passes: fewer right answers "
        f"({article.minus_plain.estimate:+.2f} points), better probabilities",
        columns=2,
        width=10,
        height=4,
        sharey=True,
    ) as (left, right):
        for place, row in enumerate(found):
            colour = plots.ARMS[row.arm]
            _seeds(right, place, verdicts.measured(row.runs, "nll"), colour)
            nll = np.array(list(verdicts.measured(row.runs, "nll").values()))
            _interval(right, place, checks.paired_difference(nll, 0 * nll), colour, f"{nll.mean():.3f}")
            if row.minus_plain:
                plain = next(one for one in found if one.passes == row.passes)
                accuracy, base = (verdicts.measured(one.runs, "accuracy") for one in (row, plain))
                _seeds(left, place, {seed: accuracy[seed] - base[seed] for seed in accuracy}, colour)
                _interval(left, place, row.minus_plain, colour, f"{row.minus_plain.estimate:+.2f}")
            else:
                left.text(0.03, place, f"{row.mean('accuracy'):.2f} % right", color=colour, va="center")
        left.axvline(0, color=plots.TARGET, linewidth=1)
        gain = 100 * records.protocol(MAIN)["smallest_gain"]
        left.axvline(gain, color="black", linewidth=0.8, linestyle=":")
        left.text(gain - 0.02, 1, "smallest gain\nworth having", ha="right", va="center")
        left.set_yticks(
            range(len(found)), [f"{row.arm}, {row.passes} pass{'es' * (row.passes > 1)}" for row in found]
        )
        left.set(
            ylim=(len(found) - 0.4, -0.6),
            xlabel="test accuracy minus plain's, points",
            xlim=(-0.95, 0.65),
            title=f"{len(article.runs)} seeds (random: 5); limits at 97.5 % for article, else 95 %",
        )
        right.set(
            xlabel="negative log-likelihood of a test review (less is better)",
            title="mean and 95 % interval over the seeds",
        )
        save(left, file) if file else plots.plt.show()


def _seeds(axis, place: int, values: dict[int, float], colour: str) -> None:
    axis.plot(
        list(values.values()), [place + 0.16] * len(values), "o", color=colour, alpha=0.35, markersize=4
    )


def _interval(axis, place: int, found: checks.Verdict, colour: str, label: str) -> None:
    axis.plot([found.low, found.high], [place] * 2, color=colour, linewidth=2)
    axis.plot(found.estimate, place, "o", color=colour, markersize=6)
    axis.annotate(
        label, (found.estimate, place), (0, 5), textcoords="offset points", ha="center", color=colour
    )
