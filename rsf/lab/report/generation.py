"""Tables of the benchmark of generation and of the sums, from results/."""

import numpy as np

from rsf.lab import records, verdicts
from rsf.lab.report.parts import limits, table
from rsf.lab.report.sweep import values

Cases = dict[str, dict[str, dict]]  # {case: {way: row}}


def benched() -> tuple[Cases, dict]:
    """Return ({case: {way: row}}, all numbers) of the stored benchmark."""
    numbers = records.read("bench-generation")["cpu"][0]["numbers"]
    cases = {case: rows for case, rows in numbers.items() if isinstance(rows, list)}
    return {case: {row["way"]: row for row in rows} for case, rows in cases.items()}, numbers


def generation_table() -> str:
    """Return the table of the benchmark of generation."""
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


def sums_table() -> str:
    """Return the table of both maps of the sums; of a section that lacks a run nothing but its name."""
    arms = (
        *("control", "control-in-rounds", "rejection", "blind", "best-of-4", "gold"),
        *("policy-gradient", "policy-gradient-kl"),
    )
    rows = []
    for name in ("sums-50", "sums-200", "sums-800", "arithmetic-50", "arithmetic-200", "arithmetic-800"):
        there = {name, f"{name}-others", f"{name}-policy"} & records.sections().keys()  # an arm is in one
        found = [[value for one in there for value in values(one, arm)] for arm in arms]
        (finding,) = map(verdicts.judged, verdicts.contrasts(name))
        shown = [f"{np.median(of_arm):.1f}" if of_arm else "" for of_arm in found]
        shown.append(limits(finding.difference) if finding.difference else "")
        rows.append((name, *shown, finding.judgement.word))
    return table(["section", *arms, "rejection minus the better control, points", "verdict"], rows)


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
