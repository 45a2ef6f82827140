"""Statistical verdicts of samples, rates and differences, and what an interval says of a claim."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

LEVEL = 1e-3


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check: a stable line as `str`, truth as `bool`, and its numbers.

    The line is the text with PASS or FAIL, or `line` where that is given; `cell` is what was most off, of the
    checks that have cells.
    """

    text: str
    passed: bool
    estimate: float
    low: float = float("nan")
    high: float = float("nan")
    p_value: float = float("nan")
    line: str = ""
    cell: object = None

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.line or f"{self.text}: {'PASS' if self.passed else 'FAIL'}"


def same_law(sample: ArrayLike, cdf: Callable[[np.ndarray], np.ndarray], *, level: float = LEVEL) -> Verdict:
    """Kolmogorov-Smirnov test of a one-dimensional sample (n,) against a continuous cdf.

    The estimate is the distance D between the distribution functions.

    >>> print(same_law([0.1, 0.35, 0.6, 0.85], stats.uniform.cdf))
    same law (KS): D = 0.1500, p = 0.9999, n = 4, level 0.001: PASS
    """
    sample = np.asarray(sample, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0 or not np.isfinite(sample).all():
        raise ValueError(
            f"same_law needs a one-dimensional, finite, non-empty sample, got shape {sample.shape}"
        )
    test = stats.kstest(sample, cdf)
    text = (
        f"same law (KS): D = {test.statistic:.4f}, p = {test.pvalue:.4f}, n = {len(sample):,}, "
        f"level {_valid(level):g}"
    )
    return Verdict(text, bool(test.pvalue >= level), float(test.statistic), p_value=float(test.pvalue))


def same_counts(counts: ArrayLike, law: ArrayLike, *, level: float = LEVEL) -> Verdict:
    """Chi-square test of counts (m,) against cell probabilities (m,); the estimate is chi2.

    The smallest cells are pooled until they, and all others, expect 5 counts. One count in a cell of
    probability 0 is enough to fail. Where cells are rare, chi-square alone would raise up to four times the
    false alarms that the level allows: below the level p is the larger of its and the likelihood ratio's,
    2 sum counts log(counts / expected).

    >>> print(same_counts([60, 40], [0.5, 0.5]))
    same law (chi2): 4.0 on 1 degrees of freedom, p = 0.0455, n = 100, level 0.001: PASS
    """
    counts, law = (np.asarray(values, dtype=np.float64).ravel() for values in (counts, law))
    enough = (counts >= 0).all() and counts.sum() >= 10
    if counts.shape != law.shape or (law < 0).any() or not abs(law.sum() - 1) <= 1e-9 or not enough:
        raise ValueError(
            "counts are judged by one probability per cell, summing to 1, and need to be 10 or more; got "
            f"{len(counts)} cells, {len(law)} probabilities summing to {law.sum()}, {counts.sum():g} counts"
        )
    n = counts.sum()
    expected = n * law
    order = np.argsort(expected, kind="stable")
    small = (expected < 5).sum()
    pooled = max(small, np.searchsorted(np.cumsum(expected[order]), 5.0) + 1) if small else 1
    group = np.maximum(
        np.arange(len(law)) - pooled + 1, 0
    )  # of the cells in that order; the pooled are group 0
    observed, expected = (np.bincount(group, cells[order]) for cells in (counts, expected))
    chi2 = float(np.sum((observed - expected) ** 2 / expected))
    freedom = len(expected) - 1
    if freedom == 0 and np.sum(law > 0) > 1:
        raise ValueError(
            f"{n:g} counts are too few for {len(law)} cells: pooled until each expects 5, one cell is left, "
            "and nothing could fail"
        )
    p_value = float(stats.chi2.sf(chi2, max(freedom, 1)))  # of a single cell chi2 is 0, and p is 1
    if p_value < level:
        ratio = 2 * np.sum(special.xlogy(observed, observed / expected))
        p_value = max(p_value, float(stats.chi2.sf(ratio, freedom)))
    if counts[law == 0].any():
        p_value = 0.0
    text = (
        f"same law (chi2): {chi2:.1f} on {freedom} degrees of freedom, p = {p_value:.4f}, n = {n:,.0f}, "
        f"level {_valid(level):g}"
    )
    return Verdict(text, p_value >= level, chi2, p_value=p_value)


def rate_interval(kept: int, total: int, *, expected: float | None = None, level: float = LEVEL) -> Verdict:
    """Exact (Clopper-Pearson) interval of a rate at confidence 1 - level; passes if `expected` lies inside.

    >>> print(rate_interval(3, 10, expected=0.5, level=0.05))
    rate 0.3000, 95 % interval [0.0667, 0.6525], n = 10, expected 0.5000: PASS
    """
    if not 0 <= kept <= total or total < 1:
        raise ValueError(f"need 0 <= kept <= total and total >= 1, got kept {kept}, total {total}")
    low = stats.beta.ppf(_valid(level) / 2, kept, total - kept + 1) if kept else 0.0
    high = stats.beta.ppf(1 - level / 2, kept + 1, total - kept) if kept < total else 1.0
    return _interval("rate", kept / total, (low, high), level, f"n = {total:,}", expected=expected)


def waiting_interval(
    kept: int, proposed: int, *, expected: float | None = None, level: float = LEVEL
) -> Verdict:
    """Exact interval of a rate when drawing stopped at the `kept`-th success; passes if `expected` is inside.

    >>> print(waiting_interval(3, 10, level=0.05))
    rate 0.2222, 95 % interval [0.0667, 0.6001], n = 10: PASS
    """
    if not 1 <= kept <= proposed:
        raise ValueError(f"need 1 <= kept <= proposed, got kept {kept}, proposed {proposed}")
    low = stats.beta.ppf(_valid(level) / 2, kept, proposed - kept + 1)
    high = stats.beta.ppf(1 - level / 2, kept, proposed - kept) if kept < proposed else 1.0
    estimate = (kept - 1) / (proposed - 1) if proposed > 1 else 1.0
    return _interval("rate", estimate, (low, high), level, f"n = {proposed:,}", expected=expected)


def paired_difference(
    a: ArrayLike | Mapping, b: ArrayLike | Mapping, *, above: float | None = None, level: float = 0.05
) -> Verdict:
    """t interval of the mean of a - b at confidence 1 - level; passes if its lower limit exceeds `above`.

    Parameters
    ----------
    a, b : array_like (n,), pair by pair, or mappings {seed: value}, which are paired by seed
    above : float, optional
    level : float
        In (0, 1). Where m contrasts are to hold together, level / m for each of them (Bonferroni).

    Examples
    --------
    >>> print(paired_difference({7: 3.0, 8: 1.0, 9: 2.0}, {9: 1.0, 8: 0.5, 7: 1.5}))
    paired difference 1.0000, 95 % interval [-0.2421, 2.2421], n = 3: PASS
    """
    d = _differences(a, b)
    half = stats.t.ppf(1 - _valid(level) / 2, len(d) - 1) * stats.sem(d)
    ends = d.mean() + np.array([-half, half])
    return _interval("paired difference", d.mean(), ends, level, f"n = {len(d)}", above=above, of=d)


def crossed_difference(
    a: ArrayLike | Mapping, b: ArrayLike | Mapping, *, above: float | None = None, level: float = 0.05
) -> Verdict:
    """Interval of the mean of a - b for other seeds *and* other test examples than those at hand.

    Parameters are those of `paired_difference`, but each seed has a value for each of the same examples:
    (S, N), or {seed: (N,)}, such as 1 for right and 0 for wrong. In the two-way analysis of variance of a - b

        variance of the mean = (MS_seeds + MS_examples - MS_rest) / (S N)

    with degrees of freedom by Satterthwaite (1946), 1 at the least. Where t over the seeds alone is wider,
    that is taken.

    >>> print(crossed_difference([[1, 1, 0, 1], [1, 0, 1, 1]], [[0, 1, 0, 0], [0, 0, 1, 0]]))
    crossed difference 0.5000, 95 % interval [-0.4187, 1.4187], n = 2 seeds x 4 examples: PASS
    """
    d = _differences(a, b, dimensions=2)  # (S, N)
    seeds, examples = d.shape
    of_seed = d.mean(axis=1, keepdims=True) - d.mean()  # (S, 1)
    of_example = d.mean(axis=0) - d.mean()  # (N,)
    rest = d - d.mean() - of_seed - of_example
    freedoms = np.array([seeds - 1, examples - 1, (seeds - 1) * (examples - 1)])
    squares = np.array([examples * np.sum(of_seed**2), seeds * np.sum(of_example**2), np.sum(rest**2)])
    half = stats.t.ppf(1 - _valid(level) / 2, seeds - 1) * np.sqrt(squares[0] / freedoms[0] / d.size)
    crossed = squares / freedoms @ [1, 1, -1]
    if crossed > 0:
        freedom = max(crossed**2 / np.sum((squares / freedoms) ** 2 / freedoms), 1.0)
        half = max(half, stats.t.ppf(1 - level / 2, freedom) * np.sqrt(crossed / d.size))
    ends = d.mean() + np.array([-half, half])
    n = f"n = {seeds} seeds x {examples:,} examples"
    return _interval("crossed difference", d.mean(), ends, level, n, above=above, of=d)


def median_difference(
    a: ArrayLike | Mapping, b: ArrayLike | Mapping, *, above: float | None = None, level: float = 0.05
) -> Verdict:
    """Order-statistic interval of the median of a - b, for runs that can collapse, whatever their law.

    Parameters are those of `paired_difference`. The limits are the r-th smallest and the r-th largest of the
    n differences, with the largest r for which they hold the median with probability 1 - level or more:

        1 - 2 P(Binomial(n, 1/2) < r)

    This probability is printed as it is: of 20 pairs the 4th have 99.74 %, the 5th 98.8 %.

    >>> print(median_difference(range(1, 21), [0] * 20, level=0.05 / 3))
    paired median 10.5000, 98.8 % interval [5.0000, 16.0000], ranks 5 and 16, n = 20: PASS
    """
    d = np.sort(_differences(a, b))
    n = len(d)
    missed = 2 * stats.binom.cdf(np.arange(n // 2), n, 0.5)  # 1 - that probability, for r = 1, 2, ...
    r = int(np.sum(missed <= _valid(level) * (1 + 1e-9)))
    if r == 0:
        raise ValueError(
            f"{n} pairs are too few for level {level:g}: the smallest and the largest difference hold the "
            f"median with probability {1 - missed[0]:.4g}, and no others with more"
        )
    exact = float(f"{missed[r - 1]:.2g}")
    where = f"ranks {r} and {n + 1 - r}, n = {n}"
    return _interval("paired median", np.median(d), d[[r - 1, n - r]], exact, where, above=above, of=d)


def sign_flip(a: ArrayLike | Mapping, b: ArrayLike | Mapping) -> float:
    """Return the exact two-sided p-value of the sign-flip test of a - b, paired as in `paired_difference`.

    It is the share of all 2^n ways to give each difference a sign whose sum is as far from 0 as the one seen.
    Sums that differ by 1e-9 of the sum of all sizes are taken for equal, so that rounding breaks no tie. For
    at most 40 pairs: the sums of one half are sorted, each of the other half finds its place among them.

    >>> sign_flip([3, 1, 2, 2, 5], [0, 0, 0, 0, 0])
    0.0625
    """
    d = _differences(a, b)
    n = len(d)
    if n > 40:
        raise ValueError(f"sign_flip counts all 2^n signs of at most 40 pairs, got {n}")
    left, right = np.sort(_signed_sums(d[: n // 2])), _signed_sums(d[n // 2 :])
    least = abs(d.sum()) - 1e-9 * np.abs(d).sum()
    smaller = int(np.searchsorted(left, least - right).sum())  # sums below `least`; by symmetry above -least
    return min(2 * (1 - smaller / 2**n), 1.0)


def collapsed(values: ArrayLike | Mapping, floor: float = 0.0) -> int:
    """Return how many runs of an arm ended below the middle between the floor and the arm's median.

    With a floor of 0: below half of the median. Where guessing has a value of its own, that is the floor.

    >>> collapsed([0.9, 0.8, 0.85, 0.3])
    1
    """
    values = np.asarray(list(values.values()) if isinstance(values, Mapping) else values, dtype=np.float64)
    return int(np.sum(values < (floor + np.median(values)) / 2))


@dataclass(frozen=True)
class Judgement:
    """What an interval says of a claim: a word, and the line that must be printed with it."""

    word: str
    text: str

    def __str__(self) -> str:
        return self.text


def verdict(
    estimate: float | None,
    low: float | None,
    high: float | None,
    delta: float,
    *,
    quantifier: str = "general",
    direction: str = "more",
    missing: int = 0,
    unit: str = "",
) -> Judgement:
    """Return what an estimate and its limits say of a claim, by one rule.

        reproduced: low > 0 and estimate >= delta        refuted: high < delta        undecided: every other
        open: not run, or a declared seed is missing

    Parameters
    ----------
    estimate, low, high : float
        Of the difference that the claim is about; the limits hold together over the declared family.
    delta : float
        The smallest gain worth having, positive, in the same unit.
    quantifier : "general" | "may"
        A "may" cannot be refuted by one case: it is "not reproduced here".
    direction : "more" | "less" | "harm"
        "less": less is better; "harm": the claim is that it harms. Both turn the signs.
    missing : int
        How many declared seeds are not there; then no number is looked at.
    unit : str
        Printed after delta, such as " points".

    Examples
    --------
    >>> print(verdict(-0.52, -0.64, -0.41, 0.5, unit=" points"))
    refuted (no gain of 0.5 points, in this scope)
    >>> print(verdict(0.2, 0.1, 0.3, 0.5, quantifier="may"))
    not reproduced here (no gain of 0.5, in this scope; a gain, smaller than 0.5)
    >>> print(verdict(-0.08, -0.1, -0.06, 0.05, direction="less"))
    reproduced (a gain, estimated at 0.05 or more, in this scope)
    """
    if quantifier not in ("general", "may") or direction not in ("more", "less", "harm"):
        raise ValueError(
            "quantifier must be general or may, direction more, less or harm; "
            f"got {quantifier!r} and {direction!r}"
        )
    if missing:
        return Judgement("open", f"open ({missing} of the declared seeds are missing)")
    if direction != "more":
        estimate, low, high = -estimate, -high, -low
    if not (low <= estimate <= high and 0 < delta < np.inf):
        raise ValueError(
            f"need low <= estimate <= high and delta > 0, got {low}, {estimate}, {high} and {delta}"
        )
    what = "harm" if direction == "harm" else "gain"
    size = f"{delta:g}{unit}"
    if low > 0 and estimate >= delta:
        return Judgement("reproduced", f"reproduced (a {what}, estimated at {size} or more, in this scope)")
    if high < delta:
        word = "refuted" if quantifier == "general" else "not reproduced here"
        but = f"; a {what}, smaller than {size}" if low > 0 else ""
        return Judgement(word, f"{word} (no {what} of {size}, in this scope{but})")
    any_at_all = "a" if low > 0 else "perhaps no"
    return Judgement("undecided", f"undecided ({any_at_all} {what}, perhaps one of {size}, in this scope)")


def in_general(cases: Mapping[str, Judgement]) -> Judgement:
    """Return what the judgements of all declared cases say of a claim in general.

    Reproduced if every case is, refuted if at least one is, open if any is open, else undecided.

    >>> print(in_general({"few": verdict(2, 1, 3, 1), "ample": verdict(0, -1, 0.5, 1)}).word)
    refuted
    """
    words = {case.word for case in cases.values()}
    if not words:
        raise ValueError("a claim in general needs one declared case or more, got none")
    otherwise = "reproduced" if words == {"reproduced"} else "undecided"
    word = next((decisive for decisive in ("refuted", "open") if decisive in words), otherwise)
    return Judgement(word, f"{word} in general ({'; '.join(f'{name}: {cases[name]}' for name in cases)})")


def must_fail(verdict: Verdict) -> Verdict:
    """Turn a counter-check round: it passes if the check, done on something wrong, fails."""
    return replace(
        verdict, text=f"counter-check, must fail: {verdict.text}", passed=not verdict.passed, line=""
    )


def refused(verdict: Verdict, what: str, *, plural: bool = True) -> Verdict:
    """Turn a counter-check round, as `must_fail`, with a line that says what was wrong on purpose.

    >>> print(refused(same_counts([70, 30], [0.5, 0.5]), "biased coins"))
    counter-check: biased coins are REFUSED, as they must be
    """
    if verdict:
        return replace(verdict, passed=False, line=f"counter-check FAILED, {what} passed: {verdict.text}")
    are, they = ("are", "they") if plural else ("is", "it")
    return replace(verdict, passed=True, line=f"counter-check: {what} {are} REFUSED, as {they} must be")


def _valid(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), such as 0.05 for a confidence of 95 %, got {level}")
    return level


def _differences(a: ArrayLike | Mapping, b: ArrayLike | Mapping, dimensions: int = 1) -> np.ndarray:
    """Return a - b, pair by pair, or seed by seed where both are mappings {seed: value}."""
    if isinstance(a, Mapping) or isinstance(b, Mapping):
        if set(a) != set(b):
            raise ValueError(
                f"both arms need the same seeds; in one only: {sorted(set(a) ^ set(b), key=str)}"
            )
        a, b = list(a.values()), [b[seed] for seed in a]
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != dimensions or min(a.shape) < 2 or not np.isfinite([a, b]).all():
        raise ValueError(
            f"a paired comparison needs finite values of one shape in {dimensions} dimension(s), 2 or more "
            f"along each; got shapes {a.shape} and {b.shape}"
        )
    return a - b


def _signed_sums(d: np.ndarray) -> np.ndarray:
    """Return the sums of d (n,) with every choice of signs (2^n,)."""
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def _interval(
    what: str,
    estimate: float,
    ends: Iterable[float],
    level: float,
    n: str,
    *,
    expected: float | None = None,
    above: float | None = None,
    of: np.ndarray | None = None,
) -> Verdict:
    """Return the verdict on an estimate with its interval; `of`: the differences that it is made from.

    It passes if `expected`, where given, lies inside and the lower limit exceeds `above`, where given.
    """
    low, high = map(float, ends)
    text = f"{what} {estimate:z.4f}, {100 * (1 - level):g} % interval [{low:z.4f}, {high:z.4f}], {n}"
    if of is not None and not of.any():
        text = f"{what}: identical, {n}"
    if expected is not None:
        text += f", expected {expected:.4f}"
    if above is not None:
        text += f", above {above:g}"
    passed = (expected is None or low <= expected <= high) and (above is None or low > above)
    return Verdict(text, bool(passed), float(estimate), low, high)
