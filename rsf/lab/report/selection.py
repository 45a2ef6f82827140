"""What the selection benchmark and the short runs say: README's table and picture, from results/ alone."""

import numpy as np

from rsf import checks, plots
from rsf.lab import records

SHORT = ("imdb-short", "imdb-short-again")
RATES, SHARES = ("keep 0.25", "keep 0.5", "keep 0.75"), (0.3, 1)


def stored(arm="cpu"):
    """Return the passes of the stored benchmark and its record.

    The passes are {name: array (slices, 3)}: seconds (of the processor on a CPU), tokens decided on, tokens
    trained on.
    """
    record, every = (
        records.read("bench-selection")[arm][0],
        records.protocol("bench-selection")["listing_every"],
    )
    found = {
        name: np.array(rows)[:, [1 if arm == "cpu" else 0, 2, 3]]
        for name, rows in record["numbers"]["passes"].items()
    }
    return {
        name: rows * every if name.startswith("listing") else rows for name, rows in found.items()
    }, record


def parts(found, name):
    """Return what a pass should cost (slices,): its scoring, and the share that it trained on of a plain pass."""
    share = found[name][:, 2] / found[name][:, 1]
    return found["score"][:, 0] + share * found["plain"][:, 0]


def ratios(arm="cpu"):
    """Return {what: (over all slices, least, most, bound, whether the bound holds)}, named as in the protocol."""
    (found, record), section = stored(arm), records.protocol("bench-selection")
    memory = {name: after for name, (_, after) in record["numbers"]["memory"].items()}
    cost = {name: rows[:, 0] for name, rows in found.items()}
    worst = max(RATES, key=lambda name: cost[name].sum() / parts(found, name).sum())
    pairs = {
        "scoring over training": (cost["score"], cost["plain"]),
        "the same, scoring in bfloat16": (cost["score, bfloat16"], cost["plain"]),
        "the same, dropout off": (cost["score"], cost["plain, no dropout"]),
        "a pass over its parts": (cost[worst], parts(found, worst)),
        "keep all over plain": (cost["keep all"], cost["plain"]),
        "memory over plain": (
            np.array([max(memory["keep 0.5"], memory["batches, 1"])]),
            np.array([memory["plain"]]),
        ),
    }
    pairs |= {
        f"candidates a second over the listing, {a:g}": (cost[f"listing, {a:g}"], cost[f"batches, {a:g}"])
        for a in SHARES
    }
    rows = {}
    for what, (one, other) in pairs.items():
        value, each = float(one.sum() / other.sum()), one / other
        least = section["least"].get(what)
        holds = value >= least if least else value <= section["bounds"][what]
        rows[what] = value, float(each.min()), float(each.max()), least or section["bounds"][what], holds
    return rows


def short(experiment):
    """Return the Verdict of article minus listing in a section of short runs: is the lower limit above minus the margin?"""
    runs, section = records.read(experiment), records.protocol(experiment)
    article, listing = (
        [runs[arm][seed]["numbers"]["accuracy"] for seed in section["seeds"]]
        for arm in ("article", "listing")
    )
    return checks.paired_difference(
        article, listing, above=-section["margin"], level=section.get("level", 0.05)
    )


def reached():
    """Return {arm: seconds (seeds,) until the watched accuracy was reached, NaN where it was not}."""
    runs, section = records.read("imdb-short"), records.protocol("imdb-short")
    curves = {
        arm: [runs[arm][seed]["numbers"]["curve"] for seed in section["seeds"]] for arm in section["arms"]
    }
    first = lambda curve: next((t for t, value in curve if value >= section["reached"]), np.nan)  # noqa: E731
    return {arm: np.array([first(curve) for curve in rows]) for arm, rows in curves.items()}


def selection_table():
    """Return README's table of what selection costs."""
    what = {
        "scoring over training": "scoring one candidate, over training on one (float32)",
        "the same, scoring in bfloat16": 'the same, with `scoring_dtype="bfloat16"`',
        "the same, dropout off": "scoring in float32, over training with dropout off",
        "a pass over its parts": "a pass that keeps 0.25, 0.5 or 0.75, over scoring and that share of training (the worst)",
        "keep all over plain": "a pass of `constant(1)`, over plain `Trainer`",
        "memory over plain": "peak memory of the process, over plain `Trainer`'s",
        "candidates a second over the listing, 0.3": "candidates a second, over the repaired listing's, keeping 0.3",
        "candidates a second over the listing, 1": "the same, keeping all",
    }
    section, rows = (
        records.protocol("bench-selection"),
        ["| what | measured (range) | bound | |", "| --- | --- | --- | --- |"],
    )
    for name, (value, least, most, bound, holds) in ratios().items():
        spread = f" ({least:.2f} to {most:.2f})" if most > least else ""
        sign = "at least" if name in section["least"] else "at most"
        rows.append(
            f"| {what[name]} | {value:.2f}{spread} | {sign} {bound:.2f} | {'held' if holds else '**missed**'} |"
        )
    found, record = stored()
    plain, score = (found[name][:, 1].sum() / found[name][:, 0].sum() for name in ("plain", "score"))
    floor = record["numbers"]["floor"]["flops"] / record["numbers"]["floor"]["flops_per_second"]
    times = ", ".join(
        f"{arm} {np.nanmedian(t):.0f} s in {np.sum(~np.isnan(t))} of {len(t)} seeds"
        for arm, t in reached().items()
    )
    rows += [
        "",
        f"{len(found['plain'])} slices of {record['data']}, {found['plain'][:, 1].sum():,.0f} tokens, reviews cut at {section['tokens']}; MiniLM in float32, {record['machine']['device']}, "
        f"processor seconds. Plain training takes {plain:,.0f} tokens a second, scoring {score:,.0f}; the matrix products of scoring alone would take {floor / found['score'][0, 0]:.2f} of its time, {floor / found['plain'][0, 0]:.2f} of training's. "
        f"Median time until {100 * records.protocol('imdb-short')['reached']:.0f} % were right in `imdb-short`: {times}.",
        "",
        "| accuracy of the fast form minus the listing's, after the same number of forward passes | seeds, test reviews | points | no lower |",
        "| --- | --- | --- | --- |",
    ]
    for experiment in SHORT:
        part, gain = records.protocol(experiment), short(experiment)
        limits = f"{100 * gain.estimate:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}], {100 * (1 - part.get('level', 0.05)):g} %"
        said = f"by {100 * part['margin']:g} points: {'shown' if gain.passed else 'not shown'}"
        rows.append(
            f"| [`{experiment}`](results/{experiment}) | {len(part['seeds'])}, {part['test']:,} | {limits} | {said} |"
        )
    return "\n".join(rows)


def selection_figure(file):
    """Draw what a pass costs by acceptance rate, measured and predicted, and the listing beside the loader."""
    (found, _), rows = stored(), ratios()
    plain = found["plain"][:, 0]
    times = rows["candidates a second over the listing, 0.3"][0]
    worst = rows["a pass over its parts"][0]
    title = f"A pass takes up to {worst:.2f} times its scoring and training; the repaired listing {times:.1f} times the trainer's time"
    with plots.figure(title, columns=2, width=10, height=4) as (left, right):
        line = np.array([0, 1])
        score = found["score"][:, 0].sum() / plain.sum()
        left.plot(line, score + line, color="black", linewidth=0.8)
        left.annotate("scoring + a × training", (0.3, score + 0.3), (8, -14), textcoords="offset points")
        for name in ("score", *RATES):
            cost, a = found[name][:, 0] / plain, found[name][:, 2] / found[name][:, 1]
            left.plot(a, cost, "o", color=plots.KEPT)
        left.plot([1] * len(plain), found["keep all"][:, 0] / plain, "o", color=plots.KEPT)
        left.plot(
            [0] * len(plain),
            half := found["score, bfloat16"][:, 0] / plain,
            "o",
            color=plots.KEPT,
            fillstyle="none",
        )
        left.annotate(
            "scoring in bfloat16", (0, half.mean()), (8, -4), textcoords="offset points", color=plots.KEPT
        )
        left.annotate(
            "constant(1):\nnothing scored",
            (1, 1),
            (4, -36),
            textcoords="offset points",
            ha="right",
            color=plots.KEPT,
        )
        left.axhline(1, color=plots.CONTROL, linestyle="--", linewidth=1)
        left.annotate("plain fine-tuning", (0, 1), (2, 4), textcoords="offset points", color=plots.CONTROL)
        left.set(
            xlabel="share of the tokens trained on, a",
            ylabel="time of a pass / plain",
            xlim=(-0.03, 1.05),
            ylim=(0, None),
        )
        left.set_title(f"{len(plain)} slices of reviews")
        for place, a in enumerate(SHARES):
            for shift, name, colour in ((-0.18, "listing", plots.REJECTED), (0.18, "batches", plots.KEPT)):
                seconds = found[f"{name}, {a:g}"][:, 0] / plain
                right.barh(place + shift, seconds.mean(), 0.32, color=colour)
                label = "repaired listing" if name == "listing" else "RSFTrainer, same unit and rate"
                right.text(seconds.mean() + 0.03, place + shift, label, va="center", color=colour)
        right.set(
            yticks=range(len(SHARES)),
            yticklabels=[f"keep {a:g}" for a in SHARES],
            xlabel="time of a pass / plain fine-tuning",
        )
        right.set_xlim(0, 1.45 * max(found["listing, 1"][:, 0] / plain))
        left.figure.savefig(file, metadata={"Software": None})
        plots.plt.close(left.figure)
