"""README's picture and table of the benchmark of generation, and its tables of the sums, from results/."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from rsf import checks, plots
from rsf.lab import records, verdicts
from rsf.lab.report.parts import limits, save, span, table

Cases = dict[str, dict[str, dict]]  # {case: {way: row}}
FAINT = "#6A6A6A"  # for text of the proposal's grey


def benched() -> tuple[Cases, dict]:
    """Return ({case: {way: row}}, all numbers) of the stored benchmark."""
    numbers = records.read("bench-generation")["cpu"][0]["numbers"]
    cases = {case: rows for case, rows in numbers.items() if isinstance(rows, list)}
    return {case: {row["way"]: row for row in rows} for case, rows in cases.items()}, numbers


def generation_figure(file: Path) -> None:
    """Draw samples a second in each way of writing, and our share of the floor."""
    cases, _ = benched()
    times = span((rows["loop"]["ratio"] for rows in cases.values()), 0)
    title = f"Sampled and judged in batches: {times} times as fast as one call of generate a prompt"
    with plots.figure(title, columns=2, width=10, height=4) as (left, right):
        _speeds(left, cases)
        _shares(right, cases)
        for axis in (left, right):
            axis.set_ylim(len(cases) - 0.5, -0.5)
        save(left, file)


def _speeds(axis: Axes, cases: Cases) -> None:
    """Draw the samples a second of each way."""
    shown = (
        ("loop", "one prompt a call", plots.CONTROL, plots.CONTROL),
        ("loop, 4 samples a call", "4 samples a call", "#C08AA6", "#C08AA6"),
        ("sample_and_judge", "ours", plots.KEPT, plots.KEPT),
        ("floor", "floor", plots.PROPOSAL, FAINT),
    )
    for place, rows in enumerate(cases.values()):
        for number, (way, name, colour, dark) in enumerate(shown):
            height = place + 0.2 * (number - 1.5)
            speed = rows[way]["samples_per_second"]
            axis.barh(height, speed, 0.18, color=colour)
            axis.text(speed * 1.08, height, f"{name}, {speed:,.0f}", color=dark, va="center")
    axis.set_yticks(range(len(cases)), [case.replace(", ", ",\n") for case in cases])
    axis.set(xscale="log", xlim=(3, 6000), xlabel="samples a second")
    axis.set_title("64 tokens at the most, prompts of 4 to 64")


def _shares(axis: Axes, cases: Cases) -> None:
    """Draw our share of the floor's samples a second, with a draw of each token and without."""
    for place, rows in enumerate(cases.values()):
        for shift, way, label, colour in (
            (-0.12, "floor", "tokens drawn", plots.KEPT),
            (0.12, "floor, greedy", "no draw (greedy)", "#56A5D8"),
        ):
            row = rows[way]
            height = place + shift
            axis.plot([row["least"], row["most"]], [height] * 2, color=colour, linewidth=1)
            axis.plot(row["ratio"], height, "o", color=colour)
            if place == 0:
                where = {"xytext": (-6, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
                axis.annotate(label, (row["least"], height), color=colour, **where)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(range(len(cases)), [""] * len(cases))
    repeats = records.protocol("bench-generation")["repeats"]
    title = f"median, range of {repeats} interleaved pairs"
    axis.set(xlim=(0, 1.25), xlabel="samples a second / those of the floor", title=title)


def generation_table() -> str:
    """Return README's table of the benchmark of generation."""
    cases, numbers = benched()
    rows = []
    for case, ways in cases.items():
        loops = [f"{ways[way]['ratio']:.1f}" for way in ("loop", "loop, 4 samples a call")]
        floors = [f"{ways[way]['ratio']:.2f}" for way in ("floor", "floor, greedy")]
        rows.append((case, f"{ways['sample_and_judge']['samples_per_second']:.0f}", *loops, *floors))
    settings = records.protocol("bench-generation")
    few, many = numbers["peak_mib"].items()
    shortest, longest = settings["lengths"]
    differ = numbers["differ"]["float64"]
    head = ["model, completions", "ours, samples/s", "times one prompt a call", "times 4 samples a call"]
    return table([*head, "share of the floor", "of the floor without a draw"], rows) + (
        f"\n\nOne thread, {settings['prompts']:,} prompts of {shortest} to {longest} tokens, up to "
        f"{settings['new_tokens']} new ones, batches of {settings['batch_size']}, median of "
        f"{settings['repeats']} interleaved pairs. The floor decodes as many tokens in full batches of one "
        "length with `generate` and does nothing else. Completions that differ between batches of "
        f"{', '.join(differ)} in float64: {sum(differ.values())} of {settings['equal_prompts']}. Peak "
        f"memory, model and libraries included: {few[1]:.0f} MiB for {int(few[0]):,} prompts, {many[1]:.0f} "
        f"MiB for {int(many[0]):,}."
    )


def _percent(runs: dict, arm: str, key: str = "accuracy") -> np.ndarray:
    """Return a number of each seed of the protocol, (seeds,) in percent."""
    seeds = records.protocol("arithmetic-200")["seeds"]
    return 100 * np.array([runs[arm][seed]["numbers"][key] for seed in seeds])


def arithmetic_table() -> str:
    """Return README's table of what a small transformer learns from its own verified answers."""
    names = {
        "control": "the sums with answers alone",
        "rejection": "own answers, verified",
        "blind": "own answers, unfiltered",
        "best-of-4": "best of 4 own answers",
        "gold": "right answers to the same sums (ceiling)",
    }
    rows = []
    for experiment in records.protocol("arithmetic-200")["family"]:
        runs = records.read(experiment)
        (contrast,) = verdicts.contrasts(experiment)
        finding = verdicts.judged(contrast)
        means = [f"{_percent(runs, arm).mean():.1f}" for arm in names]
        number = records.protocol(experiment)["numbers"]
        rows.append((number, *means, limits(finding.difference), finding.judgement.word))
    return table(["sums with answers", *names.values(), "verified minus alone, points", "verdict"], rows)


def shares(key: str = "accuracy") -> dict[str, np.ndarray]:
    """Return a number in percent of each seed (seeds,), by the judge of what was learned from."""
    runs = records.read("arithmetic-200-judges") | {"rejection": records.read("arithmetic-200")["rejection"]}
    return {arm: _percent(runs, arm, key) for arm in ("rejection", "noisy", "nines")}


def judges_table() -> str:
    """Return README's table of what is learned from own answers when their judge errs."""
    names = {
        "rejection": "is always right",
        "noisy": "turns every tenth verdict round",
        "nines": "casts out nines",
    }
    right = shares()
    nines = shares("nines")
    rows = []
    for arm, name in names.items():
        gain = checks.paired_difference(right[arm], right["rejection"])
        against = limits(gain) if arm != "rejection" else ""
        rows.append((name, f"{right[arm].mean():.1f}", against, f"{nines[arm].mean():.1f}"))
    minus = "minus the right judge's, points, 95 % interval"
    return table(["the judge", "right, %", minus, "right by casting out nines, %"], rows)
