"""README's picture and table of the benchmark of generation; and its table of the sums; made by `rsf.lab.report`."""

import numpy as np

from rsf import checks, plots
from rsf.lab import records


def benched():
    """Return ({case: {way: row}}, all numbers) of the stored benchmark."""
    numbers = records.read("bench-generation")["cpu"][0]["numbers"]
    return {
        case: {row["way"]: row for row in rows} for case, rows in numbers.items() if isinstance(rows, list)
    }, numbers


def _span(values, places):
    low, high = (f"{value:.{places}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def generation_figure(file):
    """Draw samples a second in each way of writing, and our share of the floor."""
    cases, _ = benched()
    times = _span([rows["loop"]["ratio"] for rows in cases.values()], 0)
    with plots.figure(f"Sampled and judged in batches: {times} times as fast as one call of generate a prompt", columns=2, width=10, height=4) as (left, right):  # fmt: skip
        shown = (
            ("loop", "one prompt a call", plots.CONTROL),
            ("loop, 4 samples a call", "4 samples a call", "#C08AA6"),
            ("sample_and_judge", "ours", plots.KEPT),
            ("floor", "floor", plots.PROPOSAL),
        )
        for place, rows in enumerate(cases.values()):
            for number, (way, name, colour) in enumerate(shown):
                height, speed = place + 0.2 * (number - 1.5), rows[way]["samples_per_second"]
                left.barh(height, speed, 0.18, color=colour)
                left.text(speed * 1.08, height, f"{name}, {speed:,.0f}", color=colour if colour != plots.PROPOSAL else "#6A6A6A", va="center")  # fmt: skip
            for shift, way, colour in ((-0.12, "floor", plots.KEPT), (0.12, "floor, greedy", "#56A5D8")):
                row = rows[way]
                right.plot([row["least"], row["most"]], [place + shift] * 2, color=colour, linewidth=1)
                right.plot(row["ratio"], place + shift, "o", color=colour)
                if not place:
                    label = "tokens drawn" if way == "floor" else "no draw (greedy)"
                    right.annotate(label, (row["least"], place + shift), (-6, 0), textcoords="offset points", ha="right", va="center", color=colour)  # fmt: skip
        names = [case.replace(", ", ",\n") for case in cases]
        left.set_yticks(range(len(cases)), names)
        left.set(
            xscale="log",
            xlim=(3, 6000),
            xlabel="samples a second",
            title="64 tokens at the most, prompts of 4 to 64",
        )
        right.axvline(1, color="black", linewidth=0.8)
        right.set_yticks(range(len(cases)), [""] * len(cases))
        repeats = records.protocol("bench-generation")["repeats"]
        right.set(
            xlim=(0, 1.25),
            xlabel="samples a second / those of the floor",
            title=f"median, range of {repeats} interleaved pairs",
        )
        for axis in (left, right):
            axis.set_ylim(len(cases) - 0.5, -0.5)
        left.figure.savefig(file, metadata={"Software": None})
        plots.plt.close(left.figure)


def generation_table():
    """Return README's table of the benchmark of generation."""
    cases, numbers = benched()
    rows = [
        "| model, completions | ours, samples/s | times one prompt a call | times 4 samples a call | share of the floor | of the floor without a draw |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for case, ways in cases.items():
        ratio = {way: f"{row['ratio']:.{1 if way.startswith('loop') else 2}f}" for way, row in ways.items()}
        rows.append(
            f"| {case} | {ways['sample_and_judge']['samples_per_second']:.0f} | {ratio['loop']} | {ratio['loop, 4 samples a call']} | {ratio['floor']} | {ratio['floor, greedy']} |"
        )
    settings, (few, many), differ = (
        records.protocol("bench-generation"),
        numbers["peak_mib"].items(),
        numbers["differ"]["float64"],
    )
    sizes = ", ".join(differ)
    return "\n".join(rows) + (
        f"\n\nOne thread, {settings['prompts']:,} prompts of {settings['lengths'][0]} to {settings['lengths'][1]} tokens, up to {settings['new_tokens']} new ones, batches of {settings['batch_size']}, median of {settings['repeats']} interleaved pairs. "
        f"The floor decodes as many tokens in full batches of one length with `generate` and does nothing else. Completions that differ between batches of {sizes} in float64: {sum(differ.values())} of {settings['equal_prompts']}. "
        f"Peak memory, model and libraries included: {few[1]:.0f} MiB for {int(few[0]):,} prompts, {many[1]:.0f} MiB for {int(many[0]):,}."
    )


def _percent(runs, arm, key="accuracy"):
    """Return a number of each seed of the protocol, (seeds,) in percent."""
    return 100 * np.array(
        [runs[arm][seed]["numbers"][key] for seed in records.protocol("arithmetic-200")["seeds"]]
    )


def arithmetic_table():
    """Return README's table of what a small transformer learns from its own verified answers."""
    names = {
        "control": "the sums with answers alone",
        "rejection": "own answers, verified",
        "blind": "own answers, unfiltered",
    }
    names |= {"best-of-4": "best of 4 own answers", "gold": "right answers to the same sums (ceiling)"}
    section = records.protocol("arithmetic-200")
    rows = [
        "| sums with answers | " + " | ".join(names.values()) + " | verified minus alone, points | verdict |",
        "| --- " * (len(names) + 3) + "|",
    ]
    for experiment in section["family"]:
        runs = records.read(experiment)
        value = {arm: _percent(runs, arm) for arm in names}
        gain = checks.paired_difference(
            value["rejection"], value["control"], level=section["level"] / len(section["family"])
        )
        verdict = records.verdict(gain, 100 * section["smallest_gain"])
        numbers = records.protocol(experiment)["numbers"]
        cells = " | ".join(f"{value[arm].mean():.1f}" for arm in names)
        rows.append(
            f"| {numbers} | {cells} | {gain.estimate:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}] | {verdict} |"
        )
    return "\n".join(rows)


def judges_table():
    """Return README's table of what is learned from own answers when their judge errs."""
    names = {
        "rejection": "is always right",
        "noisy": "turns every tenth verdict round",
        "nines": "casts out nines",
    }
    runs = records.read("arithmetic-200-judges") | {"rejection": records.read("arithmetic-200")["rejection"]}
    right = {arm: _percent(runs, arm) for arm in names}
    rows = [
        "| the judge | right, % | minus the right judge's, points, 95 % interval | right by casting out nines, % |",
        "| --- | --- | --- | --- |",
    ]
    for arm, name in names.items():
        gain = checks.paired_difference(right[arm], right["rejection"])
        limits = f"{gain.estimate:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]" if arm != "rejection" else ""
        rows.append(
            f"| {name} | {right[arm].mean():.1f} | {limits} | {_percent(runs, arm, 'nines').mean():.1f} |"
        )
    return "\n".join(rows)
