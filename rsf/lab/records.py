"""A number with its provenance: a record per run, held to the protocol that was written before it.

A record says what was run, with which settings and seed, on what (versions, device, data source, commit),
when it began, under which section of `results/protocol.toml` (its SHA-256), and the numbers. A number without
a record is not quoted anywhere. A run has a file of its own, results/SECTION/ARM-SEED.json (of a tuning grid:
ARM-SEED-RATE.json), until its section is complete and folded into one file, results/SECTION.jsonl, a line a
run in the order of arm, seed and rate.
"""

import hashlib
import json
import os
import shutil
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

import rsf
from rsf.acceptance import refuse_if
from rsf.accounts import write_text
from rsf.checks import Verdict
from rsf.lab.provenance import CHECKOUT, ROOT, commit, machine

# in a checkout the folder beside the package, in an installed package the copy inside it
RESULTS = ROOT / "results" if CHECKOUT else Path(rsf.__file__).parent / "results"
FIELDS = {
    "experiment": str,
    "arm": str,
    "seed": int,
    "settings": dict,
    "protocol": str,
    "data": str,
    "model": str,
    "machine": dict,
    "commit": str,
    "numbers": dict,
}
# what became of a section, and who runs it, not what is measured; files written first have a status
NOT_HASHED = ("status", "task", "superseded")
TIMES = ("seconds", "cpu_seconds", "curve")  # they hang on the machine's load: a second run has others


class Run(NamedTuple):
    """What one run of a task gives: where data and model are from, what it ran on, and its numbers."""

    data: str
    model: str
    device: str
    numbers: dict


def now() -> str:
    """Return the time in UTC to the second, as a record says when its run began."""
    # not datetime.UTC, and no tomllib for JSON: archives are run by Python 3.10, too
    return datetime.now(timezone.utc).isoformat(timespec="seconds")  # noqa: UP017


def must(condition: object, message: str, error: type[Exception] = ValueError) -> None:
    """Raise ValueError, or another error, with a message unless a condition holds."""
    refuse_if(not condition, message, error)


def checkout() -> Path:
    """Return the root of the checkout, which only a checkout has.

    Raises
    ------
    FileNotFoundError
        The package is installed: notebooks, figures and results to be written are not there.
    """
    must(
        CHECKOUT,
        f"this needs a checkout of the repository, and {ROOT} is none: clone it, and call run.py",
        FileNotFoundError,
    )
    return ROOT


@cache
def _sections(file: Path, changed: int) -> dict:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        return json.loads(text)
    import tomllib

    return tomllib.loads(text)


def _written() -> tuple[Path, int]:
    """Return the protocol's file, and when it was changed; archives have JSON."""
    file = next(filter(Path.is_file, [RESULTS / "protocol.json"]), RESULTS / "protocol.toml")
    return file, file.stat().st_mtime_ns


def sections() -> dict:
    """Return all sections of the protocol as they stand in the file: {name: settings}."""
    return _sections(*_written())


def protocol(experiment: str) -> dict:
    """Return the section of the protocol of an experiment, with what it takes over by `like`."""
    must(
        experiment in sections(), f"the protocol has no section {experiment!r}, only {', '.join(sections())}"
    )
    section = sections()[experiment]
    return protocol(section["like"]) | section if "like" in section else dict(section)


def protocol_hash(experiment: str) -> str:
    """Return the SHA-256 of what a section says is measured; its task and what became of it are left out."""
    return hashlib.sha256(json.dumps(_measured(protocol(experiment)), sort_keys=True).encode()).hexdigest()


def _measured(section: dict) -> dict:
    return {key: value for key, value in section.items() if key not in NOT_HASHED}


def verdict(difference: Verdict, smallest: float, *, may: bool = False) -> str:
    """Return what a paired difference says of a claim that something helps, by the rule written first.

    Parameters
    ----------
    difference : Verdict
        With `estimate`, `low` and `high`, simultaneous over the declared family.
    smallest : float
        The smallest gain worth having, in the same unit.
    may : bool
        The claim is that it may help: one case cannot refute it.
    """
    if difference.low > 0 and difference.estimate >= smallest:
        return "reproduced"
    return "refuted" if difference.high < smallest and not may else "not reproduced"


def folders() -> list[Path]:
    """Return the folders whose runs count: results/, and the one that RSF_RESULTS names; the first stands."""
    return [RESULTS, *map(Path, filter(None, [os.environ.get("RSF_RESULTS")]))]


def path(
    experiment: str, arm: str, seed: int, folder: Path | None = None, *, rate: float | None = None
) -> Path:
    """Return where the file of one run is written, below `folder`, by default the last of `folders`."""
    of_grid = "" if rate is None else f"-{rate:g}"
    return (folder or folders()[-1]) / experiment / f"{arm}-{seed}{of_grid}.json"


def write(
    experiment: str,
    arm: str,
    seed: int,
    run: Run,
    folder: Path | None = None,
    *,
    rate: float | None = None,
    begun: str | None = None,
    made_by: str | None = None,
) -> Path:
    """Write the file of one run, whole or not at all, and return its path.

    Parameters
    ----------
    experiment, arm, seed : of the protocol
    run : Run
    folder : Path, optional
        Below which it is written, by default the last of `folders`.
    rate : float, optional
        The learning rate of a run of a tuning grid.
    begun : str, optional
        `now()` before the run.
    made_by : str, optional
        The code that ran it, where that was not this project's task.
    """
    record = {
        "experiment": experiment,
        "arm": arm,
        "seed": seed,
        **{
            name: value
            for name, value in {"rate": rate, "begun": begun, "made_by": made_by}.items()
            if value is not None
        },
        "settings": protocol(experiment),
        "protocol": protocol_hash(experiment),
        "data": run.data,
        "model": run.model,
        "machine": machine(run.device),
        "commit": commit(),
        "numbers": run.numbers,
    }
    check(record)
    return put(record, folder)


def put(record: dict, folder: Path | None = None) -> Path:
    """Write the file of a record, as `write` does."""
    arm, seed, rate = key(record)
    target = path(record["experiment"], arm, seed, folder, rate=rate)
    target.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({**record, "numbers": None}, indent=1).removesuffix("null\n}")
    lines = [
        f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in record["numbers"].items()
    ]  # an array a line
    return write_text(target, f"{head}{{\n" + ",\n".join(lines) + "\n }\n}\n")


def key(record: dict) -> tuple[str, int, float | None]:
    """Return what a run is told from the others of its section by: arm, seed and, of a grid, the rate."""
    return record["arm"], record["seed"], record.get("rate")


def runs(experiment: str) -> list[dict]:
    """Return all records of an experiment, folded or not, in the order of arm, seed and rate, each checked.

    Raises
    ------
    ValueError
        A record does not belong to the protocol or to this section, or a run stands twice in a folder.
    """
    found = {}
    for folder in folders():
        before = dict(found)
        for file in [*folder.glob(f"{experiment}.jsonl"), *sorted((folder / experiment).glob("*.json"))]:
            for record in load(file):
                must(
                    record["experiment"] == experiment,
                    f"{file.name} holds a run of {record['experiment']}, not of {experiment}",
                )
                must(
                    key(record) in before or key(record) not in found,
                    f"{file.name}: {key(record)} of {experiment} stands twice; the first stands",
                )
                found[key(record)] = before.get(key(record), record)
    arms = protocol(experiment)["arms"]
    return sorted(found.values(), key=lambda run: (arms.index(run["arm"]), run["seed"], run.get("rate") or 0))


def read(experiment: str) -> dict:
    """Return all runs of an experiment as {arm: {seed: record}}, each checked against the protocol."""
    found = {}
    for record in runs(experiment):
        must(
            "rate" not in record,
            f"{experiment} has a run a rate of its grid: use records.runs({experiment!r})",
        )
        found.setdefault(record["arm"], {})[record["seed"]] = record
    must(found, f"no run of {experiment} is in {RESULTS.name}/: not yet run", FileNotFoundError)
    return found


def find(experiment: str, arm: str, seed: int, *, rate: float | None = None) -> dict | None:
    """Return the stored record of one run, folded or not, or None."""
    return next((record for record in runs(experiment) if key(record) == (arm, seed, rate)), None)


def fold(experiment: str) -> Path:
    """Fold the files of a complete section into results/SECTION.jsonl, a line a run, and return that file.

    Raises
    ------
    ValueError
        The section is not complete: a run that the protocol declares is missing.
    """
    lacking = missing(experiment)
    must(
        not lacking,
        f"{experiment} lacks {len(lacking)} runs, {[*lacking, None][0]} first: run them, then fold",
    )
    file = RESULTS / f"{experiment}.jsonl"
    write_text(file, "".join(f"{json.dumps(record)}\n" for record in runs(experiment)))
    shutil.rmtree(RESULTS / experiment, ignore_errors=True)
    return file


def has_rates(section: dict) -> bool:
    """Return whether a section has a run for each rate of its grid, one of learning rates alone."""
    return [name for name in section if name.startswith("grid_")] == ["grid_learning_rate"]


def declared(experiment: str) -> list[tuple[str, int, float | None]]:
    """Return the runs that the protocol asks for, as (arm, seed, rate); without a grid the rate is None.

    Where an arm's grid was widened, each rate that any of its seeds has is asked for in all of them.
    """
    section = protocol(experiment)
    rates = {arm: [None] for arm in section["arms"]}
    if has_rates(section):
        tried = [(run["arm"], run["rate"]) for run in runs(experiment)]
        rates = {
            arm: sorted({*section["grid_learning_rate"], *(rate for one, rate in tried if one == arm)})
            for arm in rates
        }
    return [(arm, seed, rate) for seed in section["seeds"] for arm in rates for rate in rates[arm]]


def missing(experiment: str, wanted: list[tuple] | None = None) -> list[tuple[str, int, float | None]]:
    """Return those of some runs, by default of those `declared`, that results/ lacks."""
    there = {key(record) for record in runs(experiment)}
    return [run for run in (declared(experiment) if wanted is None else wanted) if run not in there]


def superseded(experiment: str) -> bool:
    """Return whether another section was run in the place of this one, as its own `superseded` says."""
    return sections()[experiment].get("superseded", "").startswith("by ")


def status(experiment: str) -> str:
    """Return one line: how many of the runs that the protocol asks for are there."""
    if superseded(experiment):
        return f"{experiment}: superseded {sections()[experiment]['superseded']}"
    there = len(runs(experiment))
    wanted = there + len(missing(experiment))
    return f"{experiment}: {f'{there} of {wanted} runs' if there else 'not yet run'}"


def load(file: Path | str) -> list[dict]:
    """Return the records of a file: one (.json), or one a line (.jsonl).

    A ValueError says what is wrong.
    """
    file = Path(file)
    lines = file.suffix == ".jsonl"
    text = file.read_text(encoding="utf-8")
    found = []
    protocol_now = _written()
    for number, part in enumerate(text.splitlines() if lines else [text], 1):
        try:
            _checked(part, *protocol_now)
            record = json.loads(part)
        except ValueError as error:
            raise ValueError(f"{file.name}{f', line {number}' * lines}: {error}") from error
        found.append(record)
    must(found, f"{file.name} holds no record")
    return found


@cache
def _checked(text: str, protocol: Path, changed: int) -> None:
    """Check a record as it is written, once for each state of the protocol; a wrong one every time."""
    check(json.loads(text))


def check(record: dict) -> None:
    """Raise ValueError unless a record has all its fields and belongs to the protocol as it stands."""
    must(
        isinstance(record, dict),
        f"a record is an object with the fields {', '.join(FIELDS)}, got {record!r:.60}",
    )
    for name, kind in FIELDS.items():
        must(
            isinstance(record.get(name), kind) and not isinstance(record[name], bool),
            f"field {name!r} must be {kind.__name__}, got {record.get(name)!r:.60}",
        )
    newer = record["machine"].get("rsf", rsf.__version__)
    must(
        newer == rsf.__version__ or _number(newer) <= _number(rsf.__version__),
        f"it was written by rsf {newer}, this is {rsf.__version__}: update the package to read it",
    )
    section = protocol(record["experiment"])
    now = protocol_hash(record["experiment"])
    must(
        record["protocol"] == now,
        f"it was run under another protocol ({record['protocol'][:12]}) than the one here ({now[:12]})",
    )
    settings = _measured(record["settings"])
    wanted = json.loads(json.dumps(_measured(section)))
    unlike = sorted(name for name in settings.keys() | wanted if settings.get(name) != wanted.get(name))
    must(not unlike, f"its settings are not those of the protocol: {', '.join(unlike)} differ")
    must(
        record["arm"] in section["arms"] and record["seed"] in section["seeds"],
        f"arm {record['arm']!r} with seed {record['seed']} is not in the protocol: "
        f"{section['arms']}, {section['seeds']}",
    )


def _number(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def answers(record: dict) -> tuple[str, ...]:
    """Return what two seeds of an arm never share: all numbers but times.

    In the compact form it is what was right, whatever else a copy's numbers say, unless so much or so little
    was that models may agree.
    """
    numbers = record["numbers"]
    few = {"right"} if "calibration" in numbers and 0.6 < numbers["accuracy"] < 1 else {*numbers} - {*TIMES}
    told = [record["experiment"], record["arm"], record.get("rate"), *(numbers[name] for name in sorted(few))]
    return tuple(map(json.dumps, told))


def compare(stored: dict, new: dict) -> list[str]:
    """Return a line for each number of two records of one run: equal, or how far apart; no times.

    A number with a fraction is equal to six digits: in another process sums may round otherwise.
    """
    lines = []
    for name in [name for name in stored["numbers"] if name not in TIMES]:
        before, after = stored["numbers"][name], new["numbers"].get(name)
        scalar = isinstance(before, (int, float)) and isinstance(after, (int, float))
        alike = before == after or (
            scalar and isinstance(after, float) and np.isclose(before, after, 1e-6, 0)
        )
        if name == "test_margin" and np.shape(before) == np.shape(after):
            # the first files have four decimals
            alike = np.allclose(before, after, rtol=0, atol=5.1e-5)
        both = f"stored {before:.7g}, new {after:.7g}: " if scalar else ""
        lines.append(f"{name}: {both}{'equal' if alike else 'differs'}")
    return lines
