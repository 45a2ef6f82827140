"""Result files that others send, merged: which hold, and which are refused, and why.

A file is taken whole or not at all. Refused is what is no record of the protocol as it stands, what does not
follow from its own numbers, a run with the answers of another seed (of two such files nobody can say which is
the copy), a second run of a seed (the one that was begun first stands, and what is in results/ before all), a
seed whose arms ran on two devices, and a learning rate that tuning did not find.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rsf.lab import records, verify


def merge(paths: Sequence[Path | str], out: Path) -> tuple[list[str], dict[Path, str]]:
    """Write the runs that hold of some files, or of the .jsonl in a folder, below `out`.

    It was emptied before, and RSF_RESULTS names it from here on: what it has counts beside results/.

    Returns
    -------
    sections : list of str
        Those that the files have runs of.
    said : {file: str}
        What is said of a file; it begins with REFUSED if nothing of it was taken.
    """
    sent, said, seeds = {}, {}, {}
    for path in map(Path, paths):
        for file in sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]:
            try:
                sent[file] = records.load(file)
            except ValueError as error:
                said[file] = f"REFUSED: {error}"
    records.must(sent | said, f"no result file, SECTION-SEED.jsonl, is in {', '.join(map(str, paths))}")
    shutil.rmtree(out, ignore_errors=True)
    os.environ["RSF_RESULTS"] = str(out.resolve())
    every = [run for runs in sent.values() for run in runs]
    sections = list(dict.fromkeys(run["experiment"] for run in every))
    there = {_place(run): run for name in sections for run in records.runs(name)}
    for run in [*every, *there.values()]:
        seeds.setdefault(records.answers(run), set()).add(run["seed"])
    # those of tuning, on which others hang, then those that were begun first
    turns = {file: ("rate" not in runs[0], runs[0].get("begun", ""), file) for file, runs in sent.items()}
    for file in sorted(sent, key=turns.get):
        try:
            said[file] = "; ".join(_held(run, there, seeds) for run in sent[file])
            verify.alike([*there.values(), *sent[file]])
        except ValueError as error:
            said[file] = f"REFUSED: {error}"
            continue
        for run in sent[file]:
            records.put(run)
            there[_place(run)] = run
    return sections, said


def _place(run: dict) -> tuple:
    return run["experiment"], *records.key(run)


def _held(run: dict, there: dict[tuple, dict], seeds: dict[tuple, set[int]]) -> str:
    """Return that a run of a file holds, with what it leaves open; ValueError says why it is refused."""
    which = f"{run['experiment']} {run['arm']} seed {run['seed']}"
    notes = verify.held(run)
    first = there.get(_place(run))
    records.must(first in (None, run), f"another run of {which} is there, and the first stands")
    others = ", ".join(map(str, sorted(seeds[records.answers(run)] - {run["seed"]})))
    records.must(
        first == run or run["arm"] == "floor" or not others,  # the floor may learn nothing
        f"{which} has the answers of seed {others}: one is a copy, and either run again tells which",
    )
    return "; ".join([f"{which} holds", *notes])
