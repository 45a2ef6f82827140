"""The findings on README's first screen, a line each, from results/."""

from rsf.lab import verdicts
from rsf.lab.bench import sampling as bench
from rsf.lab.report.parts import limits, span
from rsf.lab.report.whole_model import MAIN


def findings() -> str:
    """Return README's three findings: what selection does, what a judge is worth, how fast the hat draws."""
    finding = verdicts.judged(verdicts.contrasts(MAIN)[0])
    nll = {arm: verdicts.measured(verdicts.of_arm(MAIN, arm), "nll") for arm in ("article", "plain")}
    mean = {arm: sum(values.values()) / len(values) for arm, values in nll.items()}
    judges = (("arithmetic-200-judges", "noisy"), ("arithmetic-200", "rejection"))
    noisy, perfect = (verdicts.of_arm(*one) for one in judges)
    cost = verdicts.difference(noisy, perfect)
    fastest = [bench.fastest(rows, 10**6)["ratio"] for rows in bench.benched().values()]
    lines = (
        "Keeping batches by their loss, as published (a whole MiniLM on all of IMDb, at the compute of three "
        f"passes, {finding.seeds} seeds): **{limits(finding.difference, 2)} points** of accuracy against "
        f"plain fine-tuning, and better probabilities (negative log-likelihood {mean['article']:.3f} against "
        f"{mean['plain']:.3f}).",
        f"Learning from own verified answers (a tiny transformer on sums, {len(noisy)} seeds): a judge that "
        f"turns every tenth verdict round costs **{limits(cost)} points**.",
        f"Drawing exactly from a density alone: a hat of strips is **{span(fastest, 1)} times** as fast as "
        "scipy's fastest.",
    )
    return "\n".join(f"- {line}" for line in lines)
