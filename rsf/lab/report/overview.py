"""README's first picture, its table of the runs on IMDb, and what set-up takes."""

import json

import numpy as np
from scipy import stats

from rsf import checks, plots
from rsf.acceptance import acceptance_probability
from rsf.lab import records

ARMS = {
    "plain": "plain fine-tuning",
    "article": "the article's rule, min(1, loss / 0.5)",
    "random": "random, at the rule's rate",
}


def accuracies(experiment):
    """Return {arm: accuracies (seeds,)} of an experiment, in order of the seeds."""
    return {
        arm: np.array([runs[seed]["numbers"]["accuracy"] for seed in sorted(runs)])
        for arm, runs in records.read(experiment).items()
    }


def overview_figure(file):
    """Draw the picture on README's first screen: the idea, and what it did to a model on real reviews."""
    rng, target, k = np.random.default_rng(0), stats.beta(2, 5), stats.beta(2, 5).pdf(0.2)
    x, u = rng.random(700), rng.random(700)
    kept = u < acceptance_probability(target.logpdf(x), 0.0, np.log(k))
    accuracy = {arm: 100 * values for arm, values in accuracies("imdb-small").items()}
    gain = checks.paired_difference(accuracy["article"], accuracy["plain"])
    sure = "no gain to be seen" if gain.low <= 0 <= gain.high else "a gain" if gain.low > 0 else "a loss"
    title = f"Keeping batches by their loss: {sure} at equal compute, {gain.estimate:+.1f} points [{gain.low:+.1f}, {gain.high:+.1f}]"
    with plots.figure(title, columns=2, width=10, height=4) as (left, right):
        for mask, colour in ((kept, plots.KEPT), (~kept, plots.REJECTED)):
            left.plot(x[mask], (u * k)[mask], ".", color=colour, markersize=4)
        grid = np.linspace(0, 1, 200)
        left.plot(grid, target.pdf(grid), color=plots.TARGET)
        left.axhline(k, color=plots.PROPOSAL, linewidth=3)
        for place, height, text, colour in (
            (0.14, 0.6, "kept", plots.KEPT),
            (0.7, 1.6, "rejected", plots.REJECTED),
            (0.52, 1.05, "p(x)", plots.TARGET),
        ):
            left.text(place, height, text, color=colour, weight="bold", backgroundcolor="white")
        left.text(0.99, k + 0.07, "k q(x)", color="#6A6A6A", ha="right")
        left.set(
            title="the idea: keep what falls under p",
            xlabel="candidate x",
            ylabel="height of the coin, u k q(x)",
            xlim=(0, 1),
            ylim=(0, 2.75),
        )
        plots.dots_with_intervals(right, {arm: (accuracy[arm], plots.ARMS[arm]) for arm in ARMS})
        title = f"MiniLM on real IMDb: {len(accuracy['plain'])} seeds, mean with 95 % interval"
        right.set(title=title, ylabel="test accuracy, %")
        left.figure.savefig(file, metadata={"Software": None})
        plots.plt.close(left.figure)


def setup_line():
    """Return README's measured costs of its two commands, from results/setup.json."""
    cost = json.loads((records.RESULTS / "setup.json").read_text(encoding="utf-8"))
    return (
        f"Measured on {cost['machine']}, from a fresh clone: `python3 run.py` {cost['run_minutes']:.0f} min ({cost['install_minutes']:.1f} min of them once, for the "
        f"environment), then `python3 run.py test` {cost['test_minutes']:.0f} min; {cost['memory_gib']:.1f} GiB of memory at the most, {cost['disk_gib']:.1f} GiB of disk."
    )


def imdb_table():
    """Return the table of the real IMDb runs."""
    runs, accuracy = records.read("imdb-small"), accuracies("imdb-small")
    rows = [
        "| arm | test accuracy, % | minus plain, points, 95 % interval | acceptance rate | steps | forward passes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arm, name in ARMS.items():
        numbers = {
            key: np.mean([run["numbers"][key] for run in runs[arm].values()])
            for key in ("acceptance_rate", "steps", "forward_passes")
        }
        gain = checks.paired_difference(100 * accuracy[arm], 100 * accuracy["plain"])
        against = "" if arm == "plain" else f"{gain.estimate:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
        rows.append(
            f"| {name} | {100 * accuracy[arm].mean():.1f} | {against} | {numbers['acceptance_rate']:.2f} | {numbers['steps']:.0f} | {numbers['forward_passes']:,.0f} |"
        )
    return "\n".join(rows)
