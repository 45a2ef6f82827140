"""The findings on README's first screen, a line each, from results/."""

from rsf.lab import verdicts
from rsf.lab.bench import sampling as bench
from rsf.lab.report.parts import limits, span
from rsf.lab.report.whole_model import MAIN


def findings() -> str:
    """Return README's three findings: what selection does, what own samples bring, how fast the hat draws."""
    finding = verdicts.judged(verdicts.contrasts(MAIN)[0])
    nll = {arm: verdicts.measured(verdicts.of_arm(MAIN, arm), "nll") for arm in ("article", "plain")}
    mean = {arm: sum(values.values()) / len(values) for arm, values in nll.items()}
    sums = [verdicts.judged(verdicts.contrasts(f"sums-{n}")[0]) for n in (50, 200, 800)]
    gains = [limits(one.difference) if one.difference else "open" for one in sums]
    fastest = [bench.fastest(rows, 10**6)["ratio"] for rows in bench.benched().values()]
    lines = (
        "Keeping batches by their loss, as published (a whole MiniLM on all of IMDb, at the compute of three "
        f"passes, {finding.seeds} seeds): **{limits(finding.difference, 2)} points** of accuracy against "
        f"plain fine-tuning, and better probabilities (negative log-likelihood {mean['article']:.3f} against "
        f"{mean['plain']:.3f}).",
        f"Learning from own verified answers (a tiny transformer on sums, {sums[0].seeds} seeds, against the "
        "better of two controls at the same compute, one of them in the same rounds): with 50, 200 and 800 "
        f"sums answered, **{'; '.join(gains)}** points.",
        f"Drawing exactly from a density alone: a hat of strips is **{span(fastest, 1)} times** as fast as "
        "scipy's fastest.",
    )
    return "\n".join(f"- {line}" for line in lines)
