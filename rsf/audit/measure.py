"""What did rejection do to a data set? A table of samples goes in, a page and a figure come out.

    kept prompts follow rho(x) Z(x) / E[Z],    KL(kept | sampled) <= log(1 / acceptance rate)

A row is a sample: prompt, reward, kept, and optionally completion, log_probability, log_acceptance (log A as
decided), round and origin. The bound is an equality for a verifier. NumPy only; `python -m rsf audit FILE`
reads a file and prints the page.
"""

from statistics import NormalDist
from typing import Any

import numpy as np

from rsf.acceptance import refuse_if, refuse_where
from rsf.audit.columns import read_columns
from rsf.audit.report import LEVEL, SOME, AuditReport, Clipping

CHANCE = 1e-3  # what chance does more often than this is called chance
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


def audit(table: Any, rule: Any = None, *, until_accepted: bool | None = None) -> AuditReport:
    """Return the AuditReport of a table of samples, in the order in which they were drawn.

    Parameters
    ----------
    table : mapping of columns (n,), list of mappings, Dataset, data frame, or what `read` gives
        prompt, reward (None or NaN: no decision was made) and kept; optionally the other columns. `origin`
        says whose a completion is: "sample" is the model's own, "reference" the data set's (nine are shown).
    rule : rsf.rules rule, optional
        The rule that decided: its A (unless there is a column log_acceptance), and what its ceiling cut off.
        Where no column tells what was kept, it is derived from a rule that tosses no coin: A is 0 or 1, or
        `best_of(n)` (the first of equals), for n samples of a prompt after one another.
    until_accepted : bool, optional
        How the prompts were sampled; None: it is seen from the table.

    Raises
    ------
    ValueError
        A column is missing or cannot be read, a row was kept to which the rule gives A = 0, or what was kept
        cannot be derived.

    >>> rows = [{"prompt": f"{i % 2}?", "reward": i % 3, "kept": i % 3 == 2} for i in range(12)]
    >>> report = audit(rows)
    >>> report.acceptance_rate, report.taken
    (0.3333333333333333, array([2, 2]))
    """
    columns, texts, source = read_columns(table, ["kept"] if rule is not None else [])
    reward = columns["reward"]
    there = ~(np.isnan(reward) | np.isnan(columns.get("log_acceptance", 0.0)))  # where something was decided
    refuse_if(
        not there.any() or np.isinf(reward).any(),
        f"there must be rewards, all of them finite: of {len(there):,} rows {there.sum():,} have one, "
        f"{np.isinf(reward).sum():,} have an infinite reward",
    )
    columns = {name: column[there] for name, column in columns.items()}
    derived = "" if "kept" in columns else str(rule)
    used, prompt = np.unique(columns["prompt"], return_inverse=True)
    names = [texts["prompt"][number] for number in used]
    columns |= {"kept": _derived(rule, columns["reward"], prompt, names)} if derived else {}
    reward, kept = columns["reward"], columns["kept"]
    n, k = np.bincount(prompt), np.bincount(prompt, kept).astype(np.int64)  # (prompts,)
    some = k > 0
    rate = float(k.sum() / n.sum())
    way = _way(prompt, reward, kept, n, k, until_accepted)
    fixed = way == SOME
    rho = np.full(len(n), 1 / len(n)) if way == "until accepted" else n / n.sum()
    bound = -np.log(rate) if rate else np.inf
    edges = np.histogram_bin_edges(reward, 25)
    return AuditReport(
        names=names,
        asked=n,
        taken=k,
        skipped=int((~there).sum()),
        way=way,
        interval=_wilson(rate, n.sum()),
        interval_prompts=_by_prompts(n, k, rate),
        prompt_kl=float(np.sum(k[some] / k.sum() * np.log(k[some] / k.sum() / rho[some])))
        if rate
        else np.inf,
        kl_by_chance=_kl_by_chance(n, rate) if fixed else 0.0,
        vanished_by_chance=float(((1 - rate) ** n).sum()) if fixed else 0.0,
        moved=fixed and _uneven(n, k, rate),
        kl_bound=float(np.log(n[0]) - (n[0] - 1) / n[0] if way.startswith("best") else bound),
        effective=float(rho[some].sum() ** 2 / np.sum(rho[some] ** 2 / k[some])) if rate else 0.0,
        histogram=(edges, np.histogram(reward, edges)[0], np.histogram(reward[kept], edges)[0]),
        clipping=_clipping(rule, reward),
        instead={"reward": source, "kept": derived and f"in no column: derived from the rule {derived}"},
        origins={
            origin: (int(np.sum(columns["origin"] == number)), int(np.sum(kept[columns["origin"] == number])))
            for number, origin in enumerate(texts.get("origin", ())[:9])
        },
        **({} if way.startswith("best") else _known(columns, rule, fixed)),
        **_optional(columns, prompt),
    )


def _derived(rule: Any, reward: np.ndarray, prompt: np.ndarray, names: list[str]) -> np.ndarray:
    """Return what a rule that tosses no coin has kept: of samples with A = 1 each, or the best of each n."""
    if not getattr(rule, "joint", False):
        a = np.asarray(rule(reward))
        refuse_where(
            (a > 0) & (a < 1),
            "what {rule} kept cannot be derived: it tosses coins, A = {a:.4g} for reward {reward:g}: "
            "name the tool's column, as in kept=chosen, or a rule such as above(1)",
            rule=np.broadcast_to(str(rule), a.shape),
            a=a,
            reward=reward,
        )
        return a == 1
    n = np.bincount(prompt)
    wrong = [f"{names[i]!r:.60} has {n[i]}" for i in np.flatnonzero(n % rule.n)]
    refuse_if(
        wrong,
        f"{rule} needs {rule.n} samples with a reward of each prompt, or a multiple, but "
        f"{'; '.join(wrong[:3])}: give the number that the tool drew, and every row",
    )
    groups = np.argsort(prompt, kind="stable").reshape(-1, rule.n)
    return np.isin(np.arange(len(prompt)), groups[np.arange(len(groups)), reward[groups].argmax(axis=1)])


def _optional(columns: dict, prompt: np.ndarray) -> dict:
    """Return what the optional columns tell."""
    kept, reward, nothing = columns["kept"], columns["reward"], np.full(len(prompt), np.nan)
    completion = columns.get("completion", prompt)
    pairs = prompt * (completion.max() + 1) + completion
    repeats = tuple(1 - len(np.unique(some)) / max(len(some), 1) for some in (pairs[kept], pairs))
    log_q = columns.get("log_probability", nothing)
    rounds = columns.get("round", nothing)
    return {
        "duplicates": repeats if "completion" in columns else None,
        "log_probability": (float(np.nanmean(log_q[kept])), float(np.nanmean(log_q)))
        if np.isfinite(log_q[kept]).any()
        else None,
        "rounds": {
            float(r): (
                int(np.sum(rounds == r)),
                float(kept[rounds == r].mean()),
                float(reward[rounds == r].mean()),
            )
            for r in np.unique(rounds[~np.isnan(rounds)])
        },
    }


def _way(
    prompt: np.ndarray,
    reward: np.ndarray,
    kept: np.ndarray,
    n: np.ndarray,
    k: np.ndarray,
    until_accepted: bool | None,
) -> str:
    """Return how the table was sampled, from the table if it is not said."""
    best = np.full(len(n), -np.inf)
    np.maximum.at(best, prompt, reward)
    last = np.zeros(len(n), dtype=bool)
    last[prompt] = kept  # of a prompt's rows the last one stands
    ends = np.ptp(n) > 0 and k.any() and np.ptp(k[k > 0]) == 0 and (last == (k > 0)).all()
    if until_accepted or (ends and until_accepted is None):
        return "until accepted"
    one_of_several = len(n) > 1 and (k == 1).all() and np.ptp(n) == 0 < n[0] - 1
    takes_best = until_accepted is None and one_of_several and (reward[kept] == best[prompt[kept]]).all()
    return f"best of {n[0]}" if takes_best else SOME


def _wilson(rate: float, n: int) -> tuple[float, float]:
    """Return Wilson's interval of a rate seen on n samples."""
    middle, half = rate + Z * Z / (2 * n), Z * np.sqrt(rate * (1 - rate) / n + Z * Z / (4 * n * n))
    return float(max((middle - half) / (1 + Z * Z / n), 0.0)), float(
        min((middle + half) / (1 + Z * Z / n), 1.0)
    )


def _by_prompts(n: np.ndarray, k: np.ndarray, rate: float) -> tuple[float, float]:
    """Return the interval of the ratio of two sums over prompts, which are what was drawn at random."""
    if len(n) < 2:
        return 0.0, 1.0
    half = Z * np.sqrt(len(n) / (len(n) - 1) * np.sum((k - rate * n) ** 2)) / n.sum()
    return float(max(rate - half, 0.0)), float(min(rate + half, 1.0))


def _kl_by_chance(n: np.ndarray, rate: float) -> float:
    """Return the mean of the prompts' KL, as it is computed here, if all prompts kept at one rate.

    It is E[k log(k / (rate n))] over Binomial(n, rate), summed.
    """
    total = -(1 - rate) / 2  # the rate itself is estimated
    for size, prompts in zip(*np.unique(n, return_counts=True), strict=True):
        each = (1 - rate) / 2  # its limit
        if size * rate * (1 - rate) < 100 and 0 < rate < 1:
            k = np.arange(1, size + 1)
            log_law = np.cumsum(np.log((size - k + 1) / k)) + k * np.log(rate) + (size - k) * np.log1p(-rate)
            each = np.sum(np.exp(log_law) * k * np.log(k / (rate * size)))
        total += prompts * each
    return float(max(total, 0.0) / (rate * n.sum())) if 0 < rate < 1 else 0.0


@np.errstate(divide="ignore", invalid="ignore")
def _uneven(n: np.ndarray, k: np.ndarray, rate: float) -> bool:
    """Whether the prompts' rates differ beyond chance.

    Pearson's sum is held against its own mean and variance, exact for few samples each.
    """
    spread = n * rate * (1 - rate)
    variance = np.sum(2 + (1 - 6 * rate * (1 - rate)) / spread) if 0 < rate < 1 else 0.0
    z = (np.sum((k - rate * n) ** 2 / spread) - (len(n) - 1)) / np.sqrt(variance)
    return bool(variance > 0 and z > NormalDist().inv_cdf(1 - CHANCE))


def _known(columns: dict, rule: Any, fixed: bool) -> dict:
    """Return what follows where log A is known for each sample."""
    reward, kept = columns["reward"], columns["kept"]
    if "log_acceptance" not in columns and (rule is None or getattr(rule, "joint", False)):
        return {}
    log_a = (
        columns["log_acceptance"] if "log_acceptance" in columns else np.asarray(rule.log_probability(reward))
    )
    refuse_where(
        kept & (log_a == -np.inf),
        "a sample of reward {reward:g} was kept although its A is 0: another rule has decided",
        reward=reward,
    )
    a, w = np.exp(log_a), np.exp(-log_a[kept])
    return {
        "kl": float(np.sum(a[a > 0] * log_a[a > 0]) / a.sum() - np.log(a.mean()))
        if a.any() and fixed
        else None,
        "never": float(np.mean(a == 0)),
        "undone": float(w.sum() ** 2 / np.sum(w**2)) if len(w) else 0.0,
        "overruled": float(np.mean(~kept[log_a == 0])) if (log_a == 0).any() else 0.0,
    }


@np.errstate(divide="ignore", invalid="ignore")
def _clipping(rule: Any, reward: np.ndarray) -> Clipping | None:
    """Return what the rule's ceiling cut off, if below it A grows as exp(r / beta), or as r; else None."""
    if rule is None or getattr(rule, "joint", False):
        return None
    log_a = np.asarray(rule.log_probability(reward))
    below = np.isfinite(log_a) & (log_a < 0)
    for scale, back in ((np.asarray, float), (np.log, np.exp)):
        x, y = scale(reward)[below], log_a[below]
        if len(x) > 1 and np.isfinite(x).all() and np.ptp(x) > 0:
            slope = np.ptp(y) / np.ptp(x)
            top = x[y.argmax()] - y.max() / slope  # where A reaches 1
            if np.allclose(y, slope * (x - top), rtol=0, atol=1e-9):
                return _cut(slope * (scale(reward) - top), float(back(top)), reward)
    return None


def _cut(log_p: np.ndarray, ceiling: float, reward: np.ndarray) -> Clipping:
    """Return what min(1, p) cuts off p, both over k q."""
    p, a = np.exp(log_p - log_p.max()), np.exp(np.minimum(log_p, 0))
    target, law = p / p.sum(), a / a.sum()
    return Clipping(
        ceiling=ceiling,
        above=float(np.mean(log_p > 1e-9)),
        mass=float(np.sum(np.maximum(p - np.exp(-log_p.max()), 0)) / p.sum()),
        distance=float(np.abs(target - law).sum() / 2),
        bias=float((law - target) @ reward),
        estimated=bool(np.isclose(ceiling, reward.max(), rtol=1e-12)),
    )
