"""README's picture and table of the benchmark of sampling, from results/ alone."""

from rsf import plots
from rsf.lab import records
from rsf.lab.bench import sampling as bench


def sampling_figure(file):
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
