"""What did rejection do to a data set? The table that any tool leaves behind goes in, a page and a figure come out.

    kept prompts follow rho(x) Z(x) / E[Z],    KL(kept | sampled) <= log(1 / acceptance rate), equal for a verifier

A row is a sample: prompt, reward, kept, and optionally completion, log_probability, log_acceptance (log A as decided) and round.
NumPy only; `python -m rsf audit FILE` reads a file and prints the page.
"""

from dataclasses import replace
from statistics import NormalDist

import numpy as np

from rsf.audit.columns import read_columns
from rsf.audit.report import LEVEL, SOME, AuditReport, Clipping

CHANCE = 1e-3  # what chance does more often than this is called chance


def audit(table, rule=None, *, until_accepted=None):
    """Return the AuditReport of a table of samples, in the order in which they were drawn.

    Parameters
    ----------
    table : mapping of columns (n,), list of dicts, or datasets.Dataset
        prompt, reward (None or NaN: no decision was made) and kept; optionally the other columns.
    rule : rsf.rules rule, optional
        The rule that decided: its A (unless there is a column log_acceptance), and what its ceiling cut off.
    until_accepted : bool, optional
        How the prompts were sampled; None: it is seen from the table.

    Raises
    ------
    ValueError
        A column is missing or cannot be read, or a row was kept to which the rule gives A = 0.
    """
    columns = read_columns(table)
    reward, kept, index = columns["reward"], columns["kept"], {}
    prompt = np.array(
        [
            index.setdefault(one if isinstance(one, str) else repr(one), len(index))
            for one in columns["prompt"]
        ],
        dtype=np.int64,
    )
    log_a = columns.get("log_acceptance", np.zeros(len(reward)))
    there = ~(np.isnan(reward) | np.isnan(log_a))  # where something was decided
    if not there.any() or np.isinf(reward).any():
        raise ValueError(
            f"there must be rewards, all of them finite: of {len(reward):,} rows {there.sum():,} have one, {np.isinf(reward).sum():,} have an infinite reward"
        )
    skipped, prompt, reward, kept = int((~there).sum()), prompt[there], reward[there], kept[there]
    used, prompt = np.unique(prompt, return_inverse=True)
    names = list(index)
    n, k = np.bincount(prompt), np.bincount(prompt, kept).astype(np.int64)  # (prompts,)
    rate, some, way = float(k.sum() / n.sum()), k > 0, _way(prompt, reward, kept, n, k)
    if until_accepted is not None:
        way = "until accepted" if until_accepted else SOME
    fixed = way == SOME
    rho = np.full(len(n), 1 / len(n)) if way == "until accepted" else n / n.sum()
    bound = -np.log(rate) if rate else np.inf
    edges = np.histogram_bin_edges(reward, 25)
    report = AuditReport(
        names=[names[i] for i in used],
        asked=n,
        taken=k,
        skipped=skipped,
        way=way,
        interval=_wilson(rate, n.sum()),
        interval_prompts=_by_prompts(n, k, rate),
        prompt_kl=float(np.sum(k[some] / k.sum() * np.log(k[some] / k.sum() / rho[some])))
        if rate
        else np.inf,
        kl_by_chance=_kl_by_chance(n, rate) if fixed else 0.0,
        vanished_by_chance=float(((1 - rate) ** n).sum()) if fixed else 0.0,
        moved=fixed and _uneven(n, k, rate),
        kl_bound=float(bound if not way.startswith("best") else np.log(n[0]) - (n[0] - 1) / n[0]),
        effective=float(rho[some].sum() ** 2 / np.sum(rho[some] ** 2 / k[some])) if rate else 0.0,
        histogram=(edges, np.histogram(reward, edges)[0], np.histogram(reward[kept], edges)[0]),
        clipping=_clipping(rule, reward),
        rounds=_rounds(columns["round"][there], reward, kept) if "round" in columns else {},
    )
    pointwise = rule is not None and not getattr(rule, "joint", False)
    if not way.startswith("best") and ("log_acceptance" in columns or pointwise):
        log_a = log_a[there] if "log_acceptance" in columns else np.asarray(rule.log_probability(reward))
        report = replace(report, **_known(log_a, kept, reward, fixed))
    if "completion" in columns:
        pairs = np.array(
            [index.setdefault(text, len(index)) for text in columns["completion"]], dtype=np.int64
        )[there]
        pairs = prompt * len(index) + pairs
        report = replace(
            report,
            duplicates=tuple(1 - len(np.unique(some)) / max(len(some), 1) for some in (pairs[kept], pairs)),
        )
    log_q = columns.get("log_probability", np.full(len(there), np.nan))[there]
    if np.isfinite(log_q[kept]).any():
        report = replace(report, log_probability=(float(np.nanmean(log_q[kept])), float(np.nanmean(log_q))))
    return report


def _way(prompt, reward, kept, n, k):
    """Tell from the table how it was sampled."""
    best, last = np.full(len(n), -np.inf), np.zeros(len(n), dtype=bool)
    np.maximum.at(best, prompt, reward)
    last[prompt] = kept  # of a prompt's rows the last one stands
    if (
        len(n) > 1
        and (k == 1).all()
        and np.ptp(n) == 0 < n[0] - 1
        and (reward[kept] == best[prompt[kept]]).all()
    ):
        return f"best of {n[0]}"
    ends = np.ptp(n) > 0 and k.any() and np.ptp(k[k > 0]) == 0 and (last == (k > 0)).all()
    return "until accepted" if ends else SOME


def _wilson(rate, n):
    """Wilson's interval of a rate seen on n samples."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle, half = rate + z * z / (2 * n), z * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return float(max((middle - half) / (1 + z * z / n), 0.0)), float(
        min((middle + half) / (1 + z * z / n), 1.0)
    )


def _by_prompts(n, k, rate):
    """Interval of the ratio of two sums over prompts, which are what was drawn at random."""
    if len(n) < 2:
        return 0.0, 1.0
    half = (
        NormalDist().inv_cdf((1 + LEVEL) / 2)
        * np.sqrt(len(n) / (len(n) - 1) * np.sum((k - rate * n) ** 2))
        / n.sum()
    )
    return float(max(rate - half, 0.0)), float(min(rate + half, 1.0))


def _kl_by_chance(n, rate):
    """Mean of the prompts' KL as it is computed here, if every prompt kept at one rate: E[k log(k / (rate n))] over Binomial(n, rate)."""
    total = -(1 - rate) / 2  # the rate itself is estimated
    for size, prompts in zip(*np.unique(n, return_counts=True), strict=True):
        each = (1 - rate) / 2  # its limit
        if size * rate * (1 - rate) < 100 and 0 < rate < 1:
            k = np.arange(1, size + 1)
            log_law = np.cumsum(np.log((size - k + 1) / k)) + k * np.log(rate) + (size - k) * np.log1p(-rate)
            each = np.sum(np.exp(log_law) * k * np.log(k / (rate * size)))
        total += prompts * each
    return float(max(total, 0.0) / (rate * n.sum())) if 0 < rate < 1 else 0.0


def _uneven(n, k, rate):
    """Whether the prompts' rates differ beyond chance: Pearson's sum against its own mean and variance, exact for few samples each."""
    spread = n * rate * (1 - rate)
    if not rate * (1 - rate) or not (variance := np.sum(2 + (1 - 6 * rate * (1 - rate)) / spread)) > 0:
        return False
    z = (np.sum((k - rate * n) ** 2 / spread) - (len(n) - 1)) / np.sqrt(variance)
    return bool(z > NormalDist().inv_cdf(1 - CHANCE))


def _known(log_a, kept, reward, fixed):
    """What follows once log A is known for each sample."""
    wrong = np.flatnonzero(kept & (log_a == -np.inf))
    if len(wrong):
        raise ValueError(
            f"a sample of reward {reward[wrong[0]]:g} was kept although its A is 0: another rule has decided"
        )
    a = np.exp(log_a)
    w, sure = np.exp(-log_a[kept]), log_a == 0
    return {
        "kl": float(np.sum(a[a > 0] * log_a[a > 0]) / a.sum() - np.log(a.mean()))
        if a.any() and fixed
        else None,
        "never": float(np.mean(a == 0)),
        "undone": float(w.sum() ** 2 / np.sum(w**2)) if len(w) else 0.0,
        "overruled": float(np.mean(~kept[sure])) if sure.any() else 0.0,
    }


def _clipping(rule, reward):
    """What the rule's ceiling cut off, if below it A grows as exp(r / beta), or as r; else None."""
    if rule is None or getattr(rule, "joint", False):
        return None
    log_a = np.asarray(rule.log_probability(reward))
    below = np.isfinite(log_a) & (log_a < 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        for scale, back in ((np.asarray, float), (np.log, np.exp)):
            x, y = scale(reward)[below], log_a[below]
            if len(x) < 2 or not np.isfinite(x).all() or np.ptp(x) == 0:
                continue
            slope = np.ptp(y) / np.ptp(x)
            top = x[y.argmax()] - y.max() / slope  # where A reaches 1
            if np.allclose(y, slope * (x - top), rtol=0, atol=1e-9):
                log_p = slope * (scale(reward) - top)  # over k q, not cut off
                p, kept = np.exp(log_p - log_p.max()), np.exp(np.minimum(log_p, 0))
                target, law, ceiling = p / p.sum(), kept / kept.sum(), float(back(top))
                return Clipping(
                    ceiling=ceiling,
                    above=float(np.mean(log_p > 1e-9)),
                    mass=float(np.sum(np.maximum(p - np.exp(-log_p.max()), 0)) / p.sum()),
                    distance=float(np.abs(target - law).sum() / 2),
                    bias=float((law - target) @ reward),
                    estimated=bool(np.isclose(ceiling, reward.max(), rtol=1e-12)),
                )
    return None


def _rounds(rounds, reward, kept):
    """{round: (samples, rate, mean reward)}"""
    return {
        int(r): (int(np.sum(rounds == r)), float(kept[rounds == r].mean()), float(reward[rounds == r].mean()))
        for r in np.unique(rounds)
    }
