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
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# in a checkout the folder beside the package, in an installed package the copy inside it
RESULTS = ROOT / "results" if (ROOT / "results").is_dir() else Path(__file__).parent / "results"
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


def protocol(experiment):
    """Return the section of the protocol that governs an experiment, with what it takes over from the section that `like` names."""
    sections = tomllib.loads((RESULTS / "protocol.toml").read_text(encoding="utf-8"))
    if experiment not in sections:
        raise ValueError(f"the protocol has no section {experiment!r}, only {', '.join(sections)}")
    section = sections[experiment]
    return protocol(section["like"]) | section if "like" in section else section


def protocol_hash(experiment):
    """Return the SHA-256 of what a section of the protocol says; its status, which changes once it was run, is left out."""
    section = {key: value for key, value in protocol(experiment).items() if key != "status"}
    return hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()


def verdict(difference, smallest, *, may=False):
    """Return what a paired difference says of the claim that something helps.

    Parameters
    ----------
    difference : rsf.checks Verdict
        With `estimate`, `low` and `high`, simultaneous over the declared family.
    smallest : float
        The smallest gain worth having, in the same unit.
    may : bool
        The claim is that it may help: one case cannot refute it.
    """
    if difference.low > 0 and difference.estimate >= smallest:
        return "reproduced"
    return "refuted" if difference.high < smallest and not may else "not reproduced"


def path(experiment, arm, seed):
    """Return where the file of one run stands."""
    return RESULTS / experiment / f"{arm}-{seed}.json"


def write(experiment, arm, seed, *, data, model, device, numbers):
    """Write the file of one run, whole or not at all, and return its path."""
    settings = protocol(experiment)
    record = {
        "experiment": experiment,
        "arm": arm,
        "seed": seed,
        "settings": settings,
        "protocol": protocol_hash(experiment),
        "data": data,
        "model": model,
        "machine": machine(device),
        "commit": commit(),
        "numbers": numbers,
    }
    check(record)
    target = path(experiment, arm, seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    head = json.dumps({**record, "numbers": None}, indent=1).removesuffix("null\n}")
    lines = ",\n".join(
        f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in numbers.items()
    )  # an array a line
    part.write_text(f"{head}{{\n{lines}\n }}\n}}\n", encoding="utf-8")
    os.replace(part, target)
    return target


def read(experiment):
    """Return all runs of an experiment as {arm: {seed: record}}, each checked against the protocol."""
    runs = {}
    for file in sorted((RESULTS / experiment).glob("*.json")):
        record = validate(file)
        runs.setdefault(record["arm"], {})[record["seed"]] = record
    if not runs:
        raise FileNotFoundError(f"no run of {experiment} is in {RESULTS.name}/: not yet run")
    return runs


def status(experiment):
    """Return one line: how many of the runs that the protocol asks for are there."""
    section = protocol(experiment)
    wanted = [path(experiment, arm, seed) for arm in section["arms"] for seed in section["seeds"]]
    there = sum(file.exists() for file in wanted)
    return f"{experiment}: {f'{there} of {len(wanted)} runs' if there else 'not yet run'}"


def validate(file):
    """Return the record in a file, or raise ValueError that says what is wrong with it."""
    try:
        record = json.loads(Path(file).read_text(encoding="utf-8"))
        check(record)
    except ValueError as error:
        raise ValueError(f"{Path(file).name}: {error}") from error
    return record


def check(record):
    """Raise ValueError unless a record has all its fields and belongs to the protocol as it stands."""
    for name, kind in FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"field {name!r} must be {kind.__name__}, got {record.get(name)!r:.60}")
    section = protocol(record["experiment"])
    if record["protocol"] != protocol_hash(record["experiment"]):
        raise ValueError(
            f"it was run under another protocol ({record['protocol'][:12]}) than the one that stands ({protocol_hash(record['experiment'])[:12]})"
        )
    if record["arm"] not in section["arms"] or record["seed"] not in section["seeds"]:
        raise ValueError(
            f"arm {record['arm']!r} with seed {record['seed']} is not in the protocol: {section['arms']}, {section['seeds']}"
        )


def machine(device):
    """Return what a run ran on: versions, processor kind, threads, device."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        **versions,
        "platform": f"{sys.platform} {platform.machine()}",
        "cores": os.cpu_count(),
        "device": device,
    }


def commit():
    """Return the commit of the checkout, with "+" if the package differs from it; "unknown" outside one."""

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            "+" if git("status", "--porcelain", "--", "rsf", "results/protocol.toml") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
