"""README's picture and tables, and the corpus card's, made from results/ by one command: python -m rsf figures."""

import json
import re

import numpy as np
from scipy import stats

from rsf import checks, plots
from rsf.acceptance import acceptance_probability
from rsf.lab import data, records
from rsf.lab.bench import sampling as bench
from rsf.lab.report.generation import arithmetic_table, generation, generation_table, judges_table
from rsf.lab.report.selection import selection, selection_table

ARMS = {
    "plain": "plain fine-tuning",
    "article": "the article's rule, min(1, loss / 0.5)",
    "random": "random, at the rule's rate",
}


def make(root=records.ROOT):
    """Write every generated file below `root`, and yield their names."""
    (root / "figures").mkdir(exist_ok=True)
    overview(root / "figures" / "overview.png")
    yield "figures/overview.png"
    sampling(root / "figures" / "sampling.png")
    yield "figures/sampling.png"
    selection(root / "figures" / "selection.png")
    yield "figures/selection.png"
    generation(root / "figures" / "bench_generation.png")
    yield "figures/bench_generation.png"
    for name, tables in (
        (
            "README.md",
            (
                setup_line,
                sampling_table,
                imdb_table,
                arithmetic_table,
                judges_table,
                selection_table,
                generation_table,
            ),
        ),
        ("rsf/embedded/README.md", (corpus_table, transfer_table)),
    ):
        text = (records.ROOT / name).read_text(encoding="utf-8")
        for table in tables:
            text = fill(text, table.__name__, table())
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
        yield name


def fill(text, name, content):
    """Return the text with what stands between the marks of a generated part replaced."""
    pattern = rf"(<!-- made by rsf\.evidence\.{name} -->\n).*?(<!-- end -->)"
    if not re.search(pattern, text, re.DOTALL):
        raise ValueError(f"the text has no place for {name}")
    return re.sub(pattern, lambda match: match[1] + content + "\n" + match[2], text, flags=re.DOTALL)


def accuracies(experiment):
    """Return {arm: accuracies (seeds,)} of an experiment, in order of the seeds."""
    return {
        arm: np.array([runs[seed]["numbers"]["accuracy"] for seed in sorted(runs)])
        for arm, runs in records.read(experiment).items()
    }


def overview(file):
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


def sampling(file):
    """Draw the sampling benchmark: draws a second at each size, and how much longer scipy's fastest takes."""
    found = bench.benched()
    best = [bench.fastest(rows, size)["ratio"] for rows in found.values() for size in (10**6, 10**7)]
    title = f"A hat of strips, in NumPy alone, draws {min(best):.1f} to {max(best):.1f} times as fast as scipy's fastest from a density alone"
    with plots.figure(title, columns=2, width=10, height=4) as (left, right):
        shown = (
            ("StripEnvelope", "strip hat", plots.KEPT),
            ("NumericalInversePolynomial", "inversion (polynomial)", plots.TARGET),
            ("TransformedDensityRejection", "transformed density", "#6A6A6A"),
            ("SimpleRatioUniforms", "ratio of uniforms", plots.REJECTED),
            ("uniform (floor)", "plain uniform", plots.PROPOSAL),
        )
        for sampler, name, colour in shown:
            rows = [row for row in found["normal"] if row["sampler"] == sampler and row["size"]]
            sizes, speed = [row["size"] for row in rows], [row["size"] / row["seconds"] for row in rows]
            left.plot(sizes, speed, "o-", color=colour, markersize=4)
            left.text(
                sizes[-1] * 1.3,
                speed[-1],
                name,
                color=colour,
                va="top" if sampler.startswith("Trans") else "center",
            )
        left.set(
            xscale="log",
            yscale="log",
            xlabel="draws",
            ylabel="draws a second",
            title="the normal, one thread",
            xlim=(700, 1.5e9),
        )
        for place, rows in enumerate(found.values()):
            for shift, size, colour in ((-0.15, 10**6, plots.KEPT), (0.15, 10**7, "#56A5D8")):
                row = bench.fastest(rows, size)
                right.plot([row["least"], row["most"]], [place + shift] * 2, color=colour, linewidth=1)
                right.plot(row["ratio"], place + shift, "o", color=colour)
        right.axvline(1, color="black", linewidth=0.8)
        right.set_yticks(range(len(found)), list(found))
        right.invert_yaxis()
        right.set(
            xlabel="time of scipy's fastest / time of the strip hat",
            title=f"10⁶ (upper) and 10⁷ draws: median, range of {records.protocol('bench-sampling')['repeats']} pairs",
            xlim=(0, None),
        )
        left.figure.savefig(file, metadata={"Software": None})
        plots.plt.close(left.figure)


def sampling_table():
    """Return README's table of the sampling benchmark."""
    rows = [
        "| density | strip hat, 10⁶ draws, M/s | scipy's fastest from a density alone, M/s | times faster at 10⁶, 10⁷ | wrong or refused |",
        "| --- | --- | --- | --- | --- |",
    ]
    runs = bench.benched()
    for density, found in runs.items():
        best, more = bench.fastest(found, 10**6), bench.fastest(found, 10**7)
        ours = next(row for row in found if row["size"] == 10**6 and row["sampler"] == "StripEnvelope")
        bad = [
            f"{row['sampler']} ({row['law'].split(':')[0]})"
            for row in found
            if row["size"] == 0 and row["law"] != "right" and row["sampler"] in bench.ALONE
        ]
        rows.append(
            f"| {density} | {1 / ours['seconds']:.0f} | {1 / best['seconds']:.0f} ({best['sampler']}) | {best['ratio']:.2f}, {more['ratio']:.2f} | {', '.join(bad)} |"
        )
    small = [bench.fastest(found, 10**3)["ratio"] for found in runs.values()]
    ready = [
        row["setup_seconds"]
        for found in runs.values()
        for row in found
        if row["size"] == 0 and row["sampler"] == "StripEnvelope"
    ]
    memory = records.read("bench-sampling")["cpu"][0]["numbers"]["extra_mib"]
    rows += [
        "",
        f"One thread, the median of {records.protocol('bench-sampling')['repeats']} interleaved pairs. For 1,000 draws scipy's fastest takes {min(small):.2f} to {max(small):.2f} of the strip hat's time. Setting up the hat takes {1000 * min(ready):.0f} to {1000 * max(ready):.0f} ms; drawing 10⁷ needs {memory:.1f} MiB beyond the output.",
    ]
    return "\n".join(rows)


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


def corpus_table():
    """Return the corpus card's table: how many reviews of each kind, and how TF-IDF with logistic regression does on them."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    reviews = data.load("imdb", source="embedded")
    baseline = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    right = baseline.fit(reviews.train["text"], reviews.train["label"]).predict(
        reviews.test["text"]
    ) == np.array(reviews.test["label"])
    kinds, train_kinds = np.array(reviews.test["kind"]), np.array(reviews.train["kind"])
    rows = [
        "| kind | train | test | TF-IDF with logistic regression, test accuracy, % |",
        "| --- | --- | --- | --- |",
    ]
    for kind in dict.fromkeys(sorted(kinds)):
        rows.append(
            f"| {kind} | {np.sum(train_kinds == kind)} | {np.sum(kinds == kind)} | {100 * right[kinds == kind].mean():.0f} |"
        )
    rows.append(f"| all | {len(train_kinds)} | {len(kinds)} | {100 * right.mean():.0f} |")
    return "\n".join(rows)


def transfer_table():
    """Return the corpus card's lines on real reviews."""
    rows = []
    for experiment, kinds in (
        ("mini-reviews-plain", "of the kind `plain`"),
        ("mini-reviews", "of all kinds"),
    ):
        accuracy, section = 100 * accuracies(experiment)["plain"], records.protocol(experiment)
        each = ", ".join(f"{value:.1f}" for value in accuracy)
        rows.append(
            f"| {section['train']} training reviews {kinds} | {len(accuracy)} | {accuracy.mean():.1f} ({each}) |"
        )
    head = f"| fine-tuned on | seeds | accuracy on {section['test']:,} real IMDb test reviews, % |"
    return "\n".join([head, "| --- | --- | --- |", *rows])
