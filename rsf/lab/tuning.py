"""Which learning rate does an arm do best with? A grid of runs, widened where the best lies at its edge.

A tuning section has `grid_learning_rate`, `edges`, the measures whose winners may widen the grid, and
`drop_collapsed`: a rate is not eligible if one of its runs ends below the midpoint between 1/2 and the median
of all the arm's runs. A section that is tuned has `tuning`, the sections that have its arms, `tuned_by`, a
measure, `rate_of`, whose rate an arm takes that is not tuned, and `budget_of`, for arms whose budget is made
of the runs of another section.
"""

from functools import lru_cache

import numpy as np

from rsf.accounts import TRAIN
from rsf.lab import compact, records

Runs = dict[str, dict[float, list[dict]]]  # the numbers of the runs of each arm and rate


def declared(experiment: str) -> list[tuple[str, int, float | None]]:
    """Return the runs to be made of a section.

    Once all of a grid are there, those of the next rate join them where an edge was best.
    """
    wanted = records.declared(experiment)
    section = records.protocol(experiment)
    if not records.has_rates(section) or records.missing(experiment):
        return wanted
    wider = set()
    for arm, rates in eligible(experiment).items():
        tried = [rate for one, _, rate in wanted if one == arm]
        for measure in section["edges"]:
            rate = winner(rates, measure) if rates else min(tried)
            if rate == max(tried):
                wider.add((arm, 2 * rate))
            if rate == min(tried):
                wider.add((arm, rate / 2))
    return wanted + [(arm, seed, rate) for seed in section["seeds"] for arm, rate in sorted(wider)]


def missing(experiment: str) -> list[tuple[str, int, float | None]]:
    """Return those of the runs `declared` that results/ lacks."""
    return records.missing(experiment, declared(experiment))


def jobs(experiment: str) -> list[tuple[str, int, float | None]]:
    """Return what one call runs of what a section lacks: section, seed and, of a grid, a rate."""
    return list(dict.fromkeys((experiment, seed, rate) for _, seed, rate in missing(experiment)))


def words(job: tuple[str, int, float | None]) -> str:
    """Return the words of the command that runs a job.

    >>> words(("imdb-class", 400, None))
    'full imdb-class --seeds 400'
    """
    return f"full {job[0]} --seeds {job[1]}" + (f" --rates {job[2]!r}" if job[2] else "")


def eligible(tuning: str) -> Runs:
    """Return the runs of a tuning section without the rates that are not eligible."""
    found = {}
    for run in records.runs(tuning):
        found.setdefault(run["arm"], {}).setdefault(run["rate"], []).append(run["numbers"])
    if records.protocol(tuning)["drop_collapsed"]:
        for arm, rates in found.items():
            median = np.median([run["accuracy"] for runs in rates.values() for run in runs])
            found[arm] = {
                rate: runs
                for rate, runs in rates.items()
                if min(run["accuracy"] for run in runs) >= (0.5 + median) / 2
            }
    return found


def winner(rates: dict[float, list[dict]], measure: str) -> float:
    """Return the rate whose runs have the best mean of a measure, the smaller of two that tie.

    >>> winner({0.1: [{"accuracy": 0.5}], 0.2: [{"accuracy": 0.7}], 0.4: [{"accuracy": 0.7}]}, "accuracy")
    0.2
    """
    sign = -1 if measure in compact.LESS else 1
    return max(sorted(rates), key=lambda rate: sign * np.mean([run[measure] for run in rates[rate]]))


@lru_cache
def best(tuning: str, measure: str) -> dict[str, float]:
    """Return the best rate of each arm of a tuning section; ValueError if that is not complete."""
    _complete(tuning)
    return {arm: winner(rates, measure) for arm, rates in eligible(tuning).items()}


def setting(experiment: str, arm: str, rate: float | None = None) -> dict:
    """Return a section's settings with an arm's learning rate, by default its best, and its own budget."""
    section = records.protocol(experiment)
    if rate is None:
        tuned = section["rate_of"].get(arm, arm)
        grids = [name for name in section["tuning"] if tuned in records.protocol(name)["arms"]]
        records.must(grids, f"no tuning section of {experiment} has the arm {tuned!r}")
        rate = best(grids[0], section["tuned_by"])[tuned]
    section["learning_rate"] = rate
    if arm in section["budget_of"]:
        section["budget"] = budget(tuned_by=section["tuned_by"], **section["budget_of"][arm])
    return section


@lru_cache
def budget(section: str, arm: str, scoring: float, tuned_by: str) -> int:
    """Return what an arm's runs in a section (of a grid: at its best rate) spend on the mean at a price."""
    _complete(section)
    runs = [run for run in records.runs(section) if run["arm"] == arm]
    if records.has_rates(records.protocol(section)):
        runs = [run for run in runs if run["rate"] == best(section, tuned_by)[arm]]
    return round(
        np.mean([scoring * run["numbers"]["scored"] + TRAIN * run["numbers"]["trained"] for run in runs])
    )


def _complete(section):
    """Raise ValueError unless all runs of a section are there."""
    lacking = missing(section)
    records.must(
        not lacking,
        f"{section} lacks {len(lacking)} runs, {[*lacking, None][0]} first: run them, then what hangs on it "
        f"(python -m rsf experiment {section}; on a GPU python -m rsf full {section})",
    )
