"""README's first picture and findings, and what is stored beside the records: what set-up takes, what the
judges catch."""

import json
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from rsf import plots
from rsf.acceptance import acceptance_probability
from rsf.lab import notebooks, records, verdicts
from rsf.lab.bench import sampling as bench
from rsf.lab.report.parts import limits, save, span, table
from rsf.lab.report.whole_model import MAIN

ENGLISH = (
    "- Keeping batches by their loss, as published (whole MiniLM, all of IMDb, {passes} passes' compute, "
    "{seeds} seeds): **{rule} points** against plain fine-tuning; better probabilities (exploratory; "
    "NLL {article:.3f}, plain {plain:.3f}).\n"
    "- Learning from own verified answers (tiny transformer, {sums_seeds} seeds, against the better of two "
    "controls, one schedule-matched): with 50, 200, 800 sums answered **{gains}** points.\n"
    "- A million exact draws from a density alone: **{times} times** as fast as scipy's fastest.\n"
    "\n"
)
CHINESE = (
    "- 按损失取舍批次（原文的做法；完整的 MiniLM，全部 IMDb，三遍的计算量，{seeds} 个种子）："
    "准确率相对于普通微调为 **{rule} 个百分点**，"
    "而概率更好（探索性结果；负对数似然 {article:.3f}，普通微调 {plain:.3f}）。\n"
    "- 从自己写出并通过验证的答案中学习（加法题上的小 Transformer，{sums_seeds} 个种子；"
    "计算量相同，与两个对照中较好的一个相比，其中一个对照的轮次安排也相同）："
    "有 50、200、800 道带答案的题时，相对于对照为 **{gains}** 个百分点。\n"
    "- 只凭密度函数精确抽样（一百万个）：条带包络的速度是 scipy 中最快方法的 **{times} 倍**。"
)


def overview_figure(file: Path) -> None:
    """Draw the picture on README's first screen: the idea, and what it did to a whole model."""
    runs = {arm: verdicts.of_arm(MAIN, arm) for arm in ("plain", "article", "twin")}
    accuracy = {arm: list(verdicts.measured(found, "accuracy").values()) for arm, found in runs.items()}
    found = verdicts.judged(verdicts.contrasts(MAIN)[0]).difference
    sure = "no difference to be seen"
    if found.low > 0 or found.high < 0:
        sure = "more right answers" if found.low > 0 else "fewer right answers"
    title = f"Keeping batches by their loss: {sure} at equal compute, {limits(found, 2, ' points')}"
    with plots.figure(title, columns=2, width=10, height=4) as (left, right):
        _idea(left)
        plots.dots_with_intervals(right, {arm: (accuracy[arm], plots.ARMS[arm]) for arm in runs})
        title = f"MiniLM on all of IMDb: {len(accuracy['plain'])} seeds, mean with 95 % interval"
        right.set(title=title, ylabel="test accuracy, %")
        save(left, file)


def _idea(axis: Axes) -> None:
    """Draw candidates below and above a density."""
    rng = np.random.default_rng(0)
    target = stats.beta(2, 5)
    k = target.pdf(0.2)
    x = rng.random(700)
    u = rng.random(700)
    kept = u < acceptance_probability(target.logpdf(x), 0.0, np.log(k))
    for mask, colour in ((kept, plots.KEPT), (~kept, plots.REJECTED)):
        axis.plot(x[mask], (u * k)[mask], ".", color=colour, markersize=4)
    grid = np.linspace(0, 1, 200)
    axis.plot(grid, target.pdf(grid), color=plots.TARGET)
    axis.axhline(k, color=plots.PROPOSAL, linewidth=3)
    for place, height, text, colour in (
        (0.14, 0.6, "kept", plots.KEPT),
        (0.7, 1.6, "rejected", plots.REJECTED),
        (0.52, 1.05, "p(x)", plots.TARGET),
    ):
        axis.text(place, height, text, color=colour, weight="bold", backgroundcolor="white")
    axis.text(0.99, k + 0.07, "k q(x)", color="#6A6A6A", ha="right")
    axis.set(
        title="the idea: keep what falls under p",
        xlabel="candidate x",
        ylabel="height of the coin, u k q(x)",
        xlim=(0, 1),
        ylim=(0, 2.75),
    )


def findings() -> str:
    """Return README's three findings: what selection does, what own samples bring, how fast the hat draws;
    then what its commands cost."""
    return ENGLISH.format(**_found()) + setup_line()


def findings_zh() -> str:
    """Return the same in Chinese."""
    return CHINESE.format(**_found()).replace(" to ", " 至 ")


def _found() -> dict[str, object]:
    finding = verdicts.judged(verdicts.contrasts(MAIN)[0])
    nll = {arm: verdicts.measured(verdicts.of_arm(MAIN, arm), "nll") for arm in ("article", "plain")}
    sums = [verdicts.judged(verdicts.contrasts(f"sums-{n}")[0]) for n in (50, 200, 800)]
    return {
        **{arm: sum(values.values()) / len(values) for arm, values in nll.items()},
        "passes": records.protocol(MAIN)["passes"],
        "seeds": finding.seeds,
        "rule": limits(finding.difference, 2),
        "sums_seeds": sums[0].seeds,
        "gains": "; ".join(limits(one.difference) if one.difference else "open" for one in sums),
        "times": span((bench.fastest(rows, 10**6)["ratio"] for rows in bench.benched().values()), 1),
    }


def setup_line() -> str:
    """Return README's measured costs of its two commands, from results/setup.json."""
    cost = json.loads((records.RESULTS / "setup.json").read_text(encoding="utf-8"))
    return (
        f"On {cost['machine']}, a fresh clone: run {cost['run_minutes']:.0f} min "
        f"({cost['install_minutes']:.1f} to set up), test {cost['test_minutes']:.0f} min; "
        f"memory {cost['memory_gib']:.1f} GiB, disk {cost['disk_gib']:.1f} GiB."
    )


def environments_table() -> str:
    """Return where all notebooks were compared strictly, and what differed (tests/environments.py)."""
    return table(
        ("environment", "verdict", "cells that differ", "versions, Python first", "minutes", "commit, day"),
        [
            (
                name,
                f"{one['verdict']}, {len(one['notebooks'])} of {len(notebooks.names())} notebooks",
                ", ".join(
                    f"{found['notebook'][:3].strip('_')} {found['cell']}" for found in one["differences"]
                ),
                ", ".join(f"{key} {version}" for key, version in list(one["versions"].items())[:8]),
                f"{one['minutes']:.0f}",
                f"{one['commit'][:7]}, {one['date'][:10]}",
            )
            for name, one in json.loads((records.RESULTS / "environments.json").read_text("utf-8")).items()
        ],
    )


def power_table() -> str:
    """Return the table of planted faults, and what the judges said of the installed transformers."""
    stored = json.loads((records.RESULTS / "checks-power.json").read_text(encoding="utf-8"))
    rows = [
        (
            row["fault"],
            f"{row['call']}: `{row['judge']}`",
            f"{row['calls']:,}",
            f"{row['caught']} of {row['repeats']}",
            f"{row['enough']:,}",
            f"{row['alarms']} of {row['twins']:,}",
        )
        for row in stored["faults"]
    ]
    told = [
        f"{what}: " + (f"p = {found['p']:.2f}" if found["passed"] else "refused")
        for what, found in stored["transformers"].items()
    ]
    return table(
        ["fault", "one call yields", "calls", "caught", "enough", "its right twin accused"], rows
    ) + (
        f"\n\nLevel {stored['level']:g}; *enough*: the least number of calls tried that "
        f"caught 198 of 200. Assisted generation of transformers {stored['versions']['transformers']}, tiny "
        f"models, {stored['transformers_calls']:,} calls each: {'; '.join(told)}."
    )
