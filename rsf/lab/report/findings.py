"""The findings on the first screens of README and README.zh, a line each, from results/."""

from rsf.lab import verdicts
from rsf.lab.bench import sampling as bench
from rsf.lab.report import overview
from rsf.lab.report.parts import limits, span
from rsf.lab.report.whole_model import MAIN

ENGLISH = (
    "- Keeping batches by their loss, as published (whole MiniLM, all of IMDb, equal compute, {seeds} seeds): "
    "**{rule} points** against plain fine-tuning; better probabilities (exploratory; NLL {article:.3f}, "
    "plain {plain:.3f}).\n"
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


def findings() -> str:
    """Return README's three findings: what selection does, what own samples bring, how fast the hat draws; then
    what its commands cost."""
    return ENGLISH.format(**_numbers()) + overview.setup_line()


def findings_zh() -> str:
    """Return the same in Chinese."""
    return CHINESE.format(**_numbers()).replace(" to ", " 至 ")


def _numbers() -> dict[str, object]:
    finding = verdicts.judged(verdicts.contrasts(MAIN)[0])
    nll = {arm: verdicts.measured(verdicts.of_arm(MAIN, arm), "nll") for arm in ("article", "plain")}
    sums = [verdicts.judged(verdicts.contrasts(f"sums-{n}")[0]) for n in (50, 200, 800)]
    fastest = [bench.fastest(rows, 10**6)["ratio"] for rows in bench.benched().values()]
    return {
        **{arm: sum(values.values()) / len(values) for arm, values in nll.items()},
        "seeds": finding.seeds,
        "rule": limits(finding.difference, 2),
        "sums_seeds": sums[0].seeds,
        "gains": "; ".join(limits(one.difference) if one.difference else "open" for one in sums),
        "times": span(fastest, 1),
    }
