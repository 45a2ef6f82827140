"""Pictures and tables of the benchmarks of sampling and of generation, from results/ alone."""

from pathlib import Path

from matplotlib.axes import Axes

from rsf import plots
from rsf.lab import records
from rsf.lab.bench import sampling as bench
from rsf.lab.report.parts import save, span, table

SAMPLERS = (
    ("StripEnvelope", "strip hat", plots.KEPT),
    ("NumericalInversePolynomial", "inversion (polynomial)", plots.TARGET),
    ("TransformedDensityRejection", "transformed density", "#6A6A6A"),
    ("SimpleRatioUniforms", "ratio of uniforms", plots.REJECTED),
    ("uniform (floor)", "plain uniform", plots.PROPOSAL),
)
Cases = dict[str, dict[str, dict]]  # {case: {way: row}}


def sampling_figure(file: Path) -> None:
    """Draw the sampling benchmark: draws a second at each size, and how much longer scipy's fastest takes."""
    found = bench.benched()
    best = [bench.fastest(rows, size)["ratio"] for rows in found.values() for size in (10**6, 10**7)]
    with plots.figure(
        f"A hat of strips, in NumPy alone, draws {span(best, 1)} times as fast as scipy's fastest "
        "from a density alone",
        columns=2,
        width=10,
        height=4,
    ) as (left, right):
        _speeds(left, found["normal"])
        _ratios(right, found)
        save(left, file)


def _speeds(axis: Axes, found: list[dict]) -> None:
    """Draw the draws a second of each sampler at each size."""
    for sampler, name, colour in SAMPLERS:
        rows = [row for row in found if row["sampler"] == sampler and row["size"]]
        sizes = [row["size"] for row in rows]
        speed = [row["size"] / row["seconds"] for row in rows]
        axis.plot(sizes, speed, "o-", color=colour, markersize=4)
        align = "top" if sampler == "TransformedDensityRejection" else "center"
        axis.text(sizes[-1] * 1.3, speed[-1], name, color=colour, va=align)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="draws",
        ylabel="draws a second",
        title="the normal, one thread",
        xlim=(700, 1.5e9),
    )


def _ratios(axis: Axes, found: dict[str, list[dict]]) -> None:
    """Draw how many times as long scipy's fastest takes, with the range of the pairs."""
    for place, rows in enumerate(found.values()):
        for shift, size, colour in ((-0.15, 10**6, plots.KEPT), (0.15, 10**7, "#56A5D8")):
            row = bench.fastest(rows, size)
            axis.plot([row["least"], row["most"]], [place + shift] * 2, color=colour, linewidth=1)
            axis.plot(row["ratio"], place + shift, "o", color=colour)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(range(len(found)), list(found))
    axis.invert_yaxis()
    axis.set(
        xlabel="time of scipy's fastest / time of the strip hat",
        xlim=(0, None),
        title="10⁶ (upper) and 10⁷ draws: median, range of "
        f"{records.protocol('bench-sampling')['repeats']} pairs",
    )


def sampling_table() -> str:
    """Return the table of the sampling benchmark."""

    def hat(found, size):
        return next(row for row in found if row["size"] == size and row["sampler"] == "StripEnvelope")

    runs = bench.benched()
    rows = []
    for density, found in runs.items():
        best = bench.fastest(found, 10**6)
        bad = [
            f"{row['sampler']} ({row['law'].split(':')[0]})"
            for row in found
            if row["size"] == 0 and row["sampler"] in bench.ALONE and row["law"] != "right"
        ]
        rows.append(
            (
                density,
                f"{1 / hat(found, 10**6)['seconds']:.0f}",
                f"{1 / best['seconds']:.0f} ({best['sampler']})",
                f"{best['ratio']:.2f}, {bench.fastest(found, 10**7)['ratio']:.2f}",
                ", ".join(bad),
            )
        )
    small = span((bench.fastest(found, 10**3)["ratio"] for found in runs.values()), 2)
    ready = span((1000 * hat(found, 0)["setup_seconds"] for found in runs.values()), 0)
    (record,) = records.read("bench-sampling")["cpu"].values()
    return table(
        [
            "density",
            "strip hat, 10⁶ draws, M/s",
            "scipy's fastest from a density alone, M/s",
            "times faster at 10⁶, 10⁷",
            "wrong or refused",
        ],
        rows,
    ) + (
        f"\n\nOne thread, the median of {record['settings']['repeats']} interleaved pairs. For 1,000 draws "
        f"scipy's fastest takes {small} of the strip hat's time. Setting up the hat takes {ready} ms; "
        f"drawing 10⁷ needs {record['numbers']['extra_mib']:.1f} MiB beyond the output."
    )


def written() -> tuple[Cases, dict]:
    """Return ({case: {way: row}}, all numbers) of the stored benchmark."""
    numbers = records.read("bench-generation")["cpu"][0]["numbers"]
    return {
        case: {row["way"]: row for row in rows} for case, rows in numbers.items() if isinstance(rows, list)
    }, numbers


def generation_table() -> str:
    """Return the table of the benchmark of generation."""
    cases, numbers = written()
    rows = [
        (
            case,
            f"{ways['sample_and_judge']['samples_per_second']:.0f}",
            *(f"{ways[way]['ratio']:.1f}" for way in ("loop", "loop, 4 samples a call")),
            *(f"{ways[way]['ratio']:.2f}" for way in ("floor", "floor, greedy")),
        )
        for case, ways in cases.items()
    ]
    settings = records.protocol("bench-generation")
    few, many = numbers["peak_mib"].items()
    shortest, longest = settings["lengths"]
    differ = numbers["differ"]["float64"]
    return table(
        [
            "model, completions",
            "ours, samples/s",
            "times one prompt a call",
            "times 4 samples a call",
            "share of the floor",
            "of the floor without a draw",
        ],
        rows,
    ) + (
        f"\n\nOne thread, {settings['prompts']:,} prompts of {shortest} to {longest} tokens, up to "
        f"{settings['new_tokens']} new ones, batches of {settings['batch_size']}, median of "
        f"{settings['repeats']} interleaved pairs. The floor decodes as many tokens in full batches of one "
        "length with `generate` and does nothing else. Completions that differ between batches of "
        f"{', '.join(differ)} in float64: {sum(differ.values())} of {settings['equal_prompts']}. Peak "
        f"memory, model and libraries included: {few[1]:.0f} MiB for {int(few[0]):,} prompts, {many[1]:.0f} "
        f"MiB for {int(many[0]):,}."
    )


def growth_table() -> str:
    """Return the table of what grows with the prompts."""
    return table(
        ["prompts", "samples", "seconds", "microseconds a sample", "more memory, MiB", "files"],
        [
            (
                f"{row['prompts']:,}",
                f"{row['samples']:,}",
                f"{row['seconds']:.2f}",
                f"{1e6 * row['seconds'] / row['samples']:.0f}",
                f"{row['more_mib']:.0f}",
                row["files"],
            )
            for row in records.read("bench-growth")["cpu"][0]["numbers"]["growth"]
        ],
    )
