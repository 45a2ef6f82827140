"""When may one believe a sample? Statistical verdicts, each printed as one line that is the same on every machine.

A test of level 1e-3 raises a false alarm once in a thousand seeds; the seed is fixed beforehand, so a check that passes
passes always. Each check is worth something only beside a counter-check: the same check on something wrong must fail.
Nothing of rsf is imported here: the judge is not the judged.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

LEVEL = 1e-3


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check: a stable line as `str`, truth as `bool`, and its numbers."""

    text: str
    passed: bool
    estimate: float
    low: float = float("nan")
    high: float = float("nan")
    p_value: float = float("nan")

    def __bool__(self):
        return self.passed

    def __str__(self):
        return f"{self.text}: {'PASS' if self.passed else 'FAIL'}"


def same_law(sample, cdf, *, level=LEVEL):
    """Kolmogorov-Smirnov test of a one-dimensional sample (n,) against a continuous cdf; estimate is the distance D."""
    sample = np.asarray(sample, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0 or not np.isfinite(sample).all():
        raise ValueError(
            f"same_law needs a one-dimensional, finite, non-empty sample, got shape {sample.shape}"
        )
    test = stats.kstest(sample, cdf)
    text = f"same law (KS): D = {test.statistic:.4f}, p = {test.pvalue:.4f}, n = {len(sample):,}, level {level:g}"
    return Verdict(text, bool(test.pvalue >= level), float(test.statistic), p_value=float(test.pvalue))


def same_counts(counts, law, *, level=LEVEL):
    """Chi-square test of counts (m,) against cell probabilities (m,), cells expecting fewer than 5 pooled; estimate is chi2.

    One count in a cell of probability 0 is enough to fail.
    """
    counts, law = np.asarray(counts, dtype=np.float64).ravel(), np.asarray(law, dtype=np.float64).ravel()
    if (
        counts.shape != law.shape
        or (law < 0).any()
        or abs(law.sum() - 1) > 1e-9
        or not ((counts >= 0).all() and counts.sum() >= 10)
    ):
        raise ValueError(
            f"same_counts needs one probability per cell, summing to 1, and 10 counts or more; got {len(counts)} cells, {len(law)} probabilities summing to {law.sum()}, {counts.sum():g} counts"
        )
    n, expected = counts.sum(), counts.sum() * law
    impossible = counts[law == 0].sum()
    order = np.argsort(
        expected, kind="stable"
    )  # the smallest cells are pooled until they and all others expect 5
    pooled = (
        max((expected < 5).sum(), np.searchsorted(np.cumsum(expected[order]), 5.0) + 1)
        if (expected < 5).any()
        else 1
    )
    groups = np.maximum(np.arange(len(law)) - pooled + 1, 0)
    observed, expected = np.bincount(groups, counts[order]), np.bincount(groups, expected[order])
    chi2, freedom = float(np.sum((observed - expected) ** 2 / expected)), len(expected) - 1
    if freedom == 0 and np.sum(law > 0) > 1:
        raise ValueError(
            f"{n:g} counts are too few for {len(law)} cells: pooled until each expects 5, one cell is left, and nothing could fail"
        )
    p_value = 0.0 if impossible else float(stats.chi2.sf(chi2, freedom)) if freedom else 1.0
    text = f"same law (chi2): {chi2:.1f} on {freedom} degrees of freedom, p = {p_value:.4f}, n = {n:,.0f}, level {level:g}"
    return Verdict(text, p_value >= level, chi2, p_value=p_value)


def rate_interval(kept, total, *, expected=None, level=LEVEL):
    """Exact (Clopper-Pearson) interval of a rate at confidence 1 - level; passes if `expected`, where given, lies inside."""
    if not 0 <= kept <= total or total < 1:
        raise ValueError(f"need 0 <= kept <= total and total >= 1, got kept {kept}, total {total}")
    low = stats.beta.ppf(level / 2, kept, total - kept + 1) if kept else 0.0
    high = stats.beta.ppf(1 - level / 2, kept + 1, total - kept) if kept < total else 1.0
    return _inside(f"rate {kept / total:.4f}", kept / total, low, high, expected, f"n = {total:,}", level)


def waiting_interval(kept, proposed, *, expected=None, level=LEVEL):
    """Exact interval of a rate when drawing stopped at the `kept`-th success; passes if `expected`, where given, lies inside."""
    if not 1 <= kept <= proposed:
        raise ValueError(f"need 1 <= kept <= proposed, got kept {kept}, proposed {proposed}")
    low = stats.beta.ppf(level / 2, kept, proposed - kept + 1)
    high = stats.beta.ppf(1 - level / 2, kept, proposed - kept) if kept < proposed else 1.0
    estimate = (kept - 1) / (proposed - 1) if proposed > 1 else 1.0
    return _inside(f"rate {estimate:.4f}", estimate, low, high, expected, f"n = {proposed:,}", level)


def paired_difference(a, b, *, above=None, level=0.05):
    """t interval of the mean of a - b, pair by pair (n,), at confidence 1 - level; passes if its lower limit exceeds `above`."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2 or not np.isfinite([a, b]).all():
        raise ValueError(
            f"paired_difference needs two one-dimensional, finite arrays of one length, 2 or more; got shapes {a.shape} and {b.shape}"
        )
    difference = a - b
    mean, half = difference.mean(), stats.t.ppf(1 - level / 2, len(a) - 1) * stats.sem(difference)
    text = f"paired difference {mean:z.4f}, {100 * (1 - level):g} % interval [{mean - half:z.4f}, {mean + half:z.4f}], n = {len(a)}"
    if above is not None:
        text += f", above {above:g}"
    return Verdict(
        text, bool(above is None or mean - half > above), float(mean), float(mean - half), float(mean + half)
    )


def must_fail(verdict):
    """Turn a counter-check round: it passes if the check, done on something wrong, fails."""
    return replace(verdict, text=f"counter-check, must fail: {verdict.text}", passed=not verdict.passed)


def _inside(what, estimate, low, high, expected, n, level):
    text = f"{what}, {100 * (1 - level):g} % interval [{low:.4f}, {high:.4f}], {n}"
    if expected is not None:
        text += f", expected {expected:.4f}"
    return Verdict(
        text, bool(expected is None or low <= expected <= high), float(estimate), float(low), float(high)
    )
