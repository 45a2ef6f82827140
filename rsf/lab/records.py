"""A number with its provenance: one JSON file per run, held to the protocol that was written before it.

A file says what was run, with which settings and seed, on what (versions, device, data source, commit), under which section
of `results/protocol.toml` (its SHA-256), and the numbers. A number without such a file is not quoted anywhere.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tomllib
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import rsf
from rsf.accounts import write_text
from rsf.checks import Verdict

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = (ROOT / "results" / "protocol.toml").is_file() and (ROOT / "pyproject.toml").is_file()
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
PACKAGES = ("numpy", "scipy", "torch", "transformers", "datasets", "accelerate")
NOT_HASHED = (
    "status",
    "task",
    "superseded",
)  # they say what became of a section, and who runs it, not what is measured
TIMES = (
    "seconds",
    "cpu_seconds",
    "curve",
)  # numbers that hang on the machine's load: a second run has others


class Run(NamedTuple):
    """What one run of a task gives: where its data and model are from, what it ran on, and its numbers."""

    data: str
    model: str
    device: str
    numbers: dict


def checkout() -> Path:
    """Return the root of the checkout, which only a checkout has.

    Raises
    ------
    FileNotFoundError
        The package is installed: notebooks, figures and results to be written are not there.
    """
    if not CHECKOUT:
        raise FileNotFoundError(
            f"this needs a checkout of the repository, and {ROOT} is none: clone it, and call run.py"
        )
    return ROOT


@lru_cache
def _sections(file: Path, changed: int) -> dict:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def sections() -> dict:
    """Return all sections of the protocol as they stand in the file: {name: settings}."""
    file = RESULTS / "protocol.toml"
    return _sections(file, file.stat().st_mtime_ns)


def protocol(experiment: str) -> dict:
    """Return the section of the protocol that governs an experiment, with what it takes over from the section that `like` names."""
    if experiment not in sections():
        raise ValueError(f"the protocol has no section {experiment!r}, only {', '.join(sections())}")
    section = sections()[experiment]
    return protocol(section["like"]) | section if "like" in section else dict(section)


def protocol_hash(experiment: str) -> str:
    """Return the SHA-256 of what a section of the protocol says is measured; its status, task and successor are left out."""
    section = _measured(protocol(experiment))
    return hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()


def _measured(section: dict) -> dict:
    return {key: value for key, value in section.items() if key not in NOT_HASHED}


def verdict(difference: Verdict, smallest: float, *, may: bool = False) -> str:
    """Return what a paired difference says of the claim that something helps, by the rule of the sections written first.

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


def path(experiment: str, arm: str, seed: int, folder: Path | None = None) -> Path:
    """Return where the file of one run stands, below `folder`, by default results/."""
    return (folder or RESULTS) / experiment / f"{arm}-{seed}.json"


def write(experiment: str, arm: str, seed: int, run: Run, folder: Path | None = None) -> Path:
    """Write the file of one run, whole or not at all, below `folder`, by default results/, and return its path."""
    record = {
        "experiment": experiment,
        "arm": arm,
        "seed": seed,
        "settings": protocol(experiment),
        "protocol": protocol_hash(experiment),
        "data": run.data,
        "model": run.model,
        "machine": machine(run.device),
        "commit": commit(),
        "numbers": run.numbers,
    }
    check(record)
    target = path(experiment, arm, seed, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({**record, "numbers": None}, indent=1).removesuffix("null\n}")
    lines = [
        f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in run.numbers.items()
    ]  # an array a line
    return write_text(target, f"{head}{{\n" + ",\n".join(lines) + "\n }\n}\n")


def read(experiment: str) -> dict:
    """Return all runs of an experiment as {arm: {seed: record}}, each checked against the protocol."""
    runs = {}
    for file in sorted((RESULTS / experiment).glob("*.json")):
        record = validate(file)
        runs.setdefault(record["arm"], {})[record["seed"]] = record
    if not runs:
        raise FileNotFoundError(f"no run of {experiment} is in {RESULTS.name}/: not yet run")
    return runs


def status(experiment: str) -> str:
    """Return one line: how many of the runs that the protocol asks for are there."""
    section = protocol(experiment)
    wanted = [path(experiment, arm, seed) for arm in section["arms"] for seed in section["seeds"]]
    there = sum(file.exists() for file in wanted)
    return f"{experiment}: {f'{there} of {len(wanted)} runs' if there else 'not yet run'}"


def validate(file: Path | str) -> dict:
    """Return the record in a file, or raise ValueError that says what is wrong with it."""
    try:
        record = json.loads(Path(file).read_text(encoding="utf-8"))
        check(record)
    except ValueError as error:
        raise ValueError(f"{Path(file).name}: {error}") from error
    return record


def check(record: dict) -> None:
    """Raise ValueError unless a record has all its fields and belongs to the protocol as it stands."""
    if not isinstance(record, dict):
        raise ValueError(f"a record is an object with the fields {', '.join(FIELDS)}, got {record!r:.60}")
    for name, kind in FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"field {name!r} must be {kind.__name__}, got {record.get(name)!r:.60}")
    newer = record["machine"].get("rsf", rsf.__version__)
    if newer != rsf.__version__ and _number(newer) > _number(rsf.__version__):
        raise ValueError(
            f"it was written by rsf {newer}, this is {rsf.__version__}: update the package to read it"
        )
    section = protocol(record["experiment"])
    now = protocol_hash(record["experiment"])
    settings = _measured(record["settings"])
    if record["protocol"] == now and settings != (wanted := json.loads(json.dumps(_measured(section)))):
        unlike = sorted(name for name in settings.keys() | wanted if settings.get(name) != wanted.get(name))
        raise ValueError(f"its settings are not those of the protocol: {', '.join(unlike)} differ")
    if record["protocol"] != now:
        raise ValueError(
            f"it was run under another protocol ({record['protocol'][:12]}) than the one that stands ({now[:12]})"
        )
    if record["arm"] not in section["arms"] or record["seed"] not in section["seeds"]:
        there = f"{section['arms']}, {section['seeds']}"
        raise ValueError(f"arm {record['arm']!r} with seed {record['seed']} is not in the protocol: {there}")


def _number(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def compare(stored: dict, new: dict) -> list[str]:
    """Return a line for each number of two records of one run: equal, or how far apart; times are left out."""
    lines = []
    for name, before in stored["numbers"].items():
        after = new["numbers"].get(name)
        if name in TIMES:
            continue
        said = "equal" if before == after else "differs"
        scalar = isinstance(before, (int, float))
        shown = (
            f"stored {before:.7g}, new {after:.7g}: " if scalar and isinstance(after, (int, float)) else ""
        )
        lines.append(f"{name}: {shown}{said}")
    return lines


def machine(device: str) -> dict:
    """Return what a run ran on: versions, processor, threads, device."""
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    versions = {name: metadata.version(name) for name in PACKAGES if name in installed}
    return {
        "rsf": rsf.__version__,
        "python": platform.python_version(),
        **versions,
        "platform": f"{sys.platform} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": device,
    }


def processor() -> str:
    """Return the processor's name, or the kind of machine where it has none to tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """Return the commit of the checkout, with "+" if the package differs from it; "unknown" outside one.

    A package that is installed inside somebody's own repository is not that repository's.
    """

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not CHECKOUT or Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return "unknown"
        changed = git("status", "--porcelain", "--", "rsf", "results/protocol.toml")
        return git("rev-parse", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
