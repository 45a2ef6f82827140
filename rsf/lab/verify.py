"""Are a record's numbers what its other numbers make? Each is made again and compared, whoever sent it.

Accuracy is made from the bits or margins, what was spent from what was scored and trained, the acceptance
rate from the counts; test rows, model and data are the protocol's, the learning rate is the one that tuning
found. What can only be believed: that the run was made as the record says, and that a seed was not repeated
until it pleased.
"""

import math
import re
from collections.abc import Callable
from functools import cache

import numpy as np

from rsf.accounts import FORWARD, TRAIN
from rsf.lab import compact, provenance, records, tuning, validated
from rsf.lab.expected import IMDB, MODELS, NEEDED, REAL
from rsf.lab.records import must

SUMS = TRAIN * 32 * 9  # what a step on the sums spends: 32 of 9 tokens


def section(experiment: str) -> list[str]:
    """Make the numbers of all runs of a section again, and return what they leave open, a line each.

    Raises
    ------
    ValueError
        A record does not hold, arms of a seed ran on different devices, or an arm took another rate than
        tuning found.
    """
    provenance.alike(records.runs(experiment))
    best = cache(validated.best)  # the tuning runs of an arm are read once, not once a run
    return [note for record in records.runs(experiment) for note in held(record, best)]


def held(record: dict, best: Callable = validated.best) -> list[str]:
    """Return what a record leaves open, as `recompute` does; ValueError names it, and why it fails."""
    place = " ".join(str(record[name]) for name in ("experiment", "arm", "seed", "rate") if name in record)
    try:
        setting(record, best)
        return [f"{place}: {note}" for note in recompute(record)]
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def recompute(record: dict) -> list[str]:
    """Make the numbers of a record again and return what it leaves open, a line each.

    Raises
    ------
    ValueError
        A number is missing, or is not what the others make; the message names it with both values.
    """
    try:
        return _recompute(record)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"its numbers cannot be read ({type(error).__name__}: {error})") from error


def _recompute(record: dict) -> list[str]:
    numbers = record["numbers"]
    protocol = records.protocol(record["experiment"])
    kind = record["experiment"].split("-")[0]
    tuning = "stage" in protocol or (kind == "arithmetic" and record["experiment"].endswith("tuning"))
    counted = {"budget"} if protocol.get("progress") == "updates" else set()  # then passes are only counted
    needed = NEEDED.get(record["experiment"], NEEDED.get(kind, {"accuracy"})) - counted
    needed = needed - IMDB | NEEDED["floor"] if record["arm"] == "floor" else needed
    for name in sorted({"grid", "validation"} if tuning else needed):
        must(name in numbers, f"its numbers lack {name!r}: there are {', '.join(numbers) or 'none'}")
    for name, value in numbers.items():
        must(not isinstance(value, float) or math.isfinite(value), f"{name} is {value}, which is no number")
    _source(record, kind, protocol)
    kinds = {"arithmetic": _arithmetic, "bench": lambda *_: None}
    make_again = kinds.get(kind, _margins if "test_margin" in numbers else _compact)
    return (_arithmetic_grid if tuning else make_again)(record, protocol) or []


def setting(record: dict, best: Callable = validated.best) -> None:
    """Raise ValueError unless a run took the rate, or setting, that did best in tuning."""
    taken = record["numbers"].get("learning_rate", record["numbers"].get("setting"))
    if "rate" in record or taken is None:
        return
    if "tuned_by" in records.protocol(record["experiment"]):
        own = tuning.setting(record["experiment"], record["arm"])
        _equal("learning_rate", taken, own["learning_rate"])
        spent = record["numbers"].get("budget", 0)
        return _equal("budget", spent, own.get("budget", spent))
    found, _ = best(record["experiment"], record["arm"])
    must(not found or taken in found, f"it took {taken}, and tuning found {' or '.join(map(str, found))}")


def _equal(name: str, stored: float, made: float, tolerance: float = 1e-9) -> None:
    """Raise ValueError unless a stored number is what was made of others."""
    must(
        isinstance(stored, (int, float)) and abs(stored - made) <= tolerance,
        f"{name} is {stored}, and made again from the other numbers {made:.10g}",
    )


def _source(record: dict, kind: str, section: dict) -> None:
    """Raise ValueError unless model and data are those of the section."""
    expected = MODELS.get((kind, section.get("model")), "")
    model, data = record["model"], record["data"]
    on_hub = "hub" in section.get("source", "hub")
    allowed = tuple(one for one in REAL.get(kind, ("",)) if on_hub or ": hub" not in one)
    if kind in ("arithmetic", "sums"):
        expected = "GPT-2, 1 layer of width 64, random weights"
        allowed = (f"{section['numbers']} sums with answers and {section['pool']} without, of 10,000",)
    must(model.startswith(expected), f"its model is {model!r}, and the protocol asks for {expected!r}")
    must(
        data.startswith(allowed),
        f"its data are {data!r}, and the protocol asks for {' or '.join(map(repr, allowed))}",
    )


def _margins(record: dict, section: dict) -> list[str]:
    """Make the numbers of a record with the margin of each review and every decision again."""
    numbers = record["numbers"]
    index, margin, label = (np.array(numbers[f"test_{name}"]) for name in ("index", "margin", "label"))
    must(
        np.array_equal(index, np.sort(np.random.default_rng(0).permutation(25_000)[: section["test"]])),
        f"its {len(index)} test rows are not those of the protocol",
    )
    must(len(margin) == len(index), f"{len(margin)} margins of {len(index)} test rows")
    # as IMDb is published: negative ones first
    must(np.array_equal(label, index >= 12_500), "its test labels are not those of IMDb's test set")
    right, undecided = int(((margin > 0) == label)[margin != 0].sum()), int((margin == 0).sum())
    must(
        right <= round(numbers["accuracy"] * len(index), 9) <= right + undecided,
        f"accuracy is {numbers['accuracy']}, and by the margins {right} of {len(index)} are right",
    )
    sizes = np.array([len(block) for block in numbers["decision_index"]])
    kept = np.array(numbers["decision_kept"])
    _equal("acceptance_rate", numbers["acceptance_rate"], np.average(kept, weights=sizes))
    _equal("steps", numbers["steps"], kept.sum())
    least, most = _scored(record["arm"], int(sizes.sum()))
    spent = numbers["forward_passes"] - TRAIN * int(sizes[kept == 1].sum())
    must(
        FORWARD * least <= spent <= FORWARD * most,
        f"forward_passes leave {spent} for scoring, and {least} to {most} were scored",
    )
    _budget(numbers, section)
    return [f"{undecided} of {len(index)} margins round to 0.0 and leave their reviews open"][:undecided]


def _scored(arm: str, candidates: int) -> tuple[int, int]:
    """Return the least and the most that an arm may have scored: plain and twin nothing, random some."""
    return {"plain": (0, 0), "twin": (0, 0), "random": (0, candidates)}.get(
        re.split("[ -]", arm)[0], (candidates, candidates)
    )


def _budget(numbers: dict, section: dict) -> None:
    """Raise ValueError unless the budget is the protocol's and spent but for a block or a starved rule."""
    if "passes" not in section or section.get("progress") == "updates":
        return
    budget = TRAIN * section["passes"] * section["train"]
    block = (FORWARD + TRAIN) * max(section["batch_size"], section.get("block_size", 0))
    _equal("budget", numbers["budget"], budget, tolerance=1)
    must(
        (0 if "stopped" in numbers else budget - 1) <= numbers["forward_passes"] <= budget + block,
        f"forward_passes are {numbers['forward_passes']}, and the budget is {budget:g}",
    )


def _compact(record: dict, section: dict) -> None:
    """Make the numbers of a record in the compact form again (see `rsf.lab.compact`)."""
    numbers = record["numbers"]
    if {"scored", "trained", "forward_passes"} <= numbers.keys():
        spent = FORWARD * numbers["scored"] + TRAIN * numbers["trained"]
        _equal("forward_passes", numbers["forward_passes"], spent)
    if "budget" in numbers and record["arm"] not in section.get("budget_of", {}):
        _budget(numbers, section)
    accuracy, nll = numbers["accuracy"], numbers.get("nll", math.inf)
    must(0 <= accuracy <= 1, f"accuracy is {accuracy}, not between 0 and 1")
    must(
        nll >= (1 - accuracy) * math.log(2) - 1e-9,
        f"nll is {nll}, too little for an accuracy of {accuracy}",
    )
    if "rate" in record:
        return _rate(record, section)
    must("right" in numbers, "its numbers lack 'right', the right or wrong of each test example")
    _right(numbers, section)
    if "base_steps" in section:
        _rounds(record, section)
    if "candidates_by_twentieth" in numbers:
        _decisions(numbers, section, record["arm"])
    for name in ("nll", "f1", "bits", "errors"):
        if f"{name}_each" in numbers or section.get("measure") == name:  # then there must be one
            values = compact.unpack_values(numbers[f"{name}_each"])
            _equal(f"the number of {name}_each", len(values), section["test"])
            _equal(name, numbers[name], values.mean(), tolerance=1e-3 * values.mean() + 1e-6)


def _right(numbers: dict, section: dict) -> None:
    """Make accuracy and the calibration's counts again from right or wrong of each test example."""
    right = numbers["right"]
    right = np.array(right) if isinstance(right, list) else compact.unpack(right, section["test"])
    must(
        len(right) == section["test"],
        f"right or wrong of {len(right)} test examples, and the protocol has {section['test']}",
    )
    _equal("accuracy", numbers["accuracy"], right.mean(), 1e-4 if right.dtype == float else 1e-9)
    if "calibration" in numbers:
        bins = {name: np.array(values) for name, values in numbers["calibration"].items()}
        _equal("the calibration's count", int(bins["count"].sum()), len(right))
        _equal("the calibration's right", int(bins["right"].sum()), int(right.sum()))
        must((bins["right"] <= bins["count"]).all(), "a bin of it has more right answers than answers")


def _decisions(numbers: dict, section: dict, arm: str) -> None:
    """Make the acceptance rate again from its counts, and hold steps and examples against them."""
    candidates, kept = (np.array(numbers[f"{name}_by_twentieth"]) for name in ("candidates", "kept"))
    must(
        len(candidates) == len(kept) == compact.PARTS and (kept <= candidates).all(),
        "its counts by twentieth are not 20 pairs of candidates and fewer kept",
    )
    _equal("acceptance_rate", numbers["acceptance_rate"], kept.sum() / candidates.sum())
    by_example = section["unit"] == "example" or re.fullmatch(r"(at_rate|easy|random)-[\d.]+", arm)
    size = 1 if by_example else section["batch_size"]
    least, most = _scored(arm, int(candidates.sum()))
    cut = size * (1 + least * size // section["train"])  # the last batch of each pass may be smaller
    must(
        size * least - cut <= numbers["scored"] <= size * most,
        f"{numbers['scored']} were scored, of {candidates.sum()} decided on by {size}",
    )
    must(
        numbers["trained"] <= kept.sum() * size,
        f"{numbers['trained']} were trained on, and {kept.sum()} kept by {size}",
    )
    if size > 1:
        _equal("steps", numbers["steps"], int(kept.sum()))


def _rate(record: dict, section: dict) -> None:
    """Hold the rate of a tuning run against its grid: on it, or beyond an edge that was widened."""
    grid, rate = section["grid_learning_rate"], record["rate"]
    _equal("learning_rate", record["numbers"].get("learning_rate", rate), rate)
    must(rate in grid or not min(grid) <= rate <= max(grid), f"the rate {rate:g} is not on the grid {grid}")
    if size := section.get("validation"):
        _equal("accuracy", record["numbers"]["accuracy"], round(record["numbers"]["accuracy"] * size) / size)


def _arithmetic_grid(record: dict, section: dict) -> None:
    """Hold the numbers of a tuning run of the sums against grid and validation sums."""
    numbers = record["numbers"]
    values, size = numbers["validation"], section["validation"]
    grid = numbers["grid"]  # of a later stage those that the runs before it left
    if section.get("stage", "all") == "all":
        grid = [[a, b] for a in section["grid_learning_rate"] for b in section["grid_weight_decay"]]
    must(
        numbers["grid"] == grid and len(values) == len(grid),
        f"its grid of {len(numbers['grid'])} settings is not the protocol's {len(grid)}",
    )
    for value in values:
        _equal("validation", value, min(1, max(0, round(value * size) / size)))


def _rounds(record: dict, section: dict) -> None:
    """Make again what a run on the sums spent, from its steps and, where it sampled itself, its samples."""
    numbers, arm = record["numbers"], record["arm"]
    readers = 2 if section.get("kl", {}).get(arm) else 1  # of the samples: with KL the base, too
    sampled = 0 if arm in ("gold", "control-in-rounds") else FORWARD * 9 * sum(numbers["samples"]) * readers
    steps = section["steps"] if arm == "control" else section["base_steps"] + sum(numbers["steps"])
    _equal("forward_passes", numbers["forward_passes"], SUMS * steps + sampled)


def _arithmetic(record: dict, section: dict) -> None:
    """Make again what a run on the sums spent, what it kept and how it ended."""
    numbers, arm = record["numbers"], record["arm"]
    rounds, pool = section["rounds"], section["pool"]
    sampled = 9 * pool if arm not in ("control", "gold") else 0
    spent = SUMS * section["steps"]
    if arm != "control":
        left = (section["steps"] - section["base_steps"]) * SUMS // rounds - sampled
        spent = SUMS * section["base_steps"] + rounds * (FORWARD * sampled + left // SUMS * SUMS)
        _equal("accuracy", numbers["accuracy"], numbers["curve"][-1])
        for examples, rate in zip(numbers["examples"], numbers["acceptance"], strict=True):
            _equal("examples", examples, section["numbers"] + round(rate * pool))
    _equal("forward_passes", numbers["forward_passes"], spent)
    _equal("the number of rounds", len(numbers["curve"]), 0 if arm == "control" else rounds)
    must(
        numbers["accuracy"] <= numbers["nines"] + 1e-9,
        f"accuracy is {numbers['accuracy']}, and only {numbers['nines']} pass casting out nines",
    )
    _equal("accuracy", numbers["accuracy"], round(numbers["accuracy"] * section["test"]) / section["test"])
