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
    paths = [Path(path) for path in paths]
    sent, said, seeds = {}, {}, {}
    for path in paths:
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
    for run in [*every, *(run for name in sections for run in records.runs(name))]:
        seeds.setdefault(records.answers(run), set()).add(run["seed"])

    def turn(file):  # those of tuning, on which others hang, then those that were begun first
        return "rate" not in sent[file][0], sent[file][0].get("begun", ""), file

    for file in sorted(sent, key=turn):
        try:
            said[file] = "; ".join(_held(run, sent[file], seeds) for run in sent[file])
        except ValueError as error:
            said[file] = f"REFUSED: {error}"
            continue
        for run in sent[file]:
            records.put(run)
    return sections, said


def _held(run: dict, file: list[dict], seeds: dict[tuple, set[int]]) -> str:
    """Return that a run of a file holds, with what it leaves open; ValueError says why it is refused."""
    name, arm, seed = (run[key] for key in ("experiment", "arm", "seed"))
    which = f"{name} {arm} seed {seed}"
    notes = verify.held(run)
    others = seeds[records.answers(run)] - {seed}
    same = f"{which} has the answers of seed {', '.join(map(str, sorted(others)))}"
    # the floor may learn nothing
    records.must(arm == "floor" or not others, f"{same}: one is a copy, and either run again tells which")
    first = records.find(name, arm, seed, rate=run.get("rate"))
    records.must(first in (None, run), f"another run of {which} is there, and the first stands")
    verify.alike([*records.runs(name), *file])
    return "; ".join([f"{which} holds", *notes])
