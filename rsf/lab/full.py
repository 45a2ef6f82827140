"""What the protocol's full sections lack, for as long as a GPU is lent: side by side, in time, and going on.

python -m rsf full imdb-full --out DIR      on Colab: the next seed, all its arms, with DIR on Drive
python -m rsf full --minutes 9 --out DIR    in an archive of tests/archive.py, for a machine without network
                                            and hub: by any Python with torch, transformers, accelerate

A run is `python -m rsf experiment` of one arm, seed and rate, or the benchmark, in a process of its own.
Shortly before the end those that still train save and stop; called again, it goes on inside them, on the same
device. A section's tuning is run before it; a seed that was begun on another device, or at another precision,
is left to that. A section with more failures than successes is left for this call. DIR gets each result
file, and all of them in results.tar, which `python -m rsf verify` takes.

Read from the environment: RSF_CHECKPOINTS (by default DIR/checkpoints), RSF_SAVE_EVERY (seconds, 600).
"""

import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from rsf.accounts import write_whole
from rsf.lab import arms, records, tuning, verify

QUEUE = (  # the most valuable first
    "bench-selection",
    "imdb-whole-model-half",
    "imdb-whole-model-quarter",
    "imdb-whole-model-wrong",
    "imdb-full",
    "imdb-article",
    "gsm8k-chat",
)
RESERVE = 45  # seconds for what trains to save itself
MEMORY = 6 * 2**30  # bytes of the card for one of the runs side by side


def run(names: Sequence[str], minutes: float, out: Path | str, jobs: int | None = None) -> Iterator[str]:
    """Run what some sections, by default all of `QUEUE`, lack; yield a line for each run that ended, and what
    there is of each section.

    Parameters
    ----------
    out : folder of result files, those of an earlier call included, and of logs and checkpoints
    jobs : runs of the embedded model side by side, default what the card's memory and the cores allow
    """
    end = time.time() + 60 * minutes
    names = with_tuning(names or QUEUE)
    out = Path(out).resolve()
    for folder in ("results", "log"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    shutil.copytree(out / "results", records.RESULTS, dirs_exist_ok=True)
    environment = {
        "RSF_CHECKPOINTS": str(out / "checkpoints"),
        **os.environ,
        "RSF_UNTIL": str(end - RESERVE),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if (records.ROOT / "data" / "imdb" / "tokens.npz").is_file():
        environment["RSF_DATA"] = str(records.ROOT / "data")
    running = {}
    score = Counter()  # of a section: runs that ended well less those that failed; of a run: how often begun
    while True:
        while time.time() < end - RESERVE and (job := _next(names, list(running), score, jobs)):
            score[job] += 1
            with open(out / "log" / f"{name_of(job)}.txt", "w", encoding="utf-8") as log:
                environment["RSF_BESIDE"] = str(beside(job[0], jobs))
                running[job] = subprocess.Popen(
                    words_of(job), cwd=records.ROOT, env=environment, stdout=log, stderr=log
                )
        if not running:
            break
        while time.time() < end and all(process.poll() is None for process in running.values()):
            time.sleep(0.2)
        for job, process in list(running.items()):
            if time.time() >= end:
                process.kill()
            elif process.poll() is None:
                continue
            del running[job]
            well = process.wait() == 0 and records.path(*job[:3], rate=job[3]).is_file()
            score[job[0]] += 1 if well else -1
            if well:
                _collect(job, out, Path(environment["RSF_CHECKPOINTS"]))
            log = (out / "log" / f"{name_of(job)}.txt").read_text(encoding="utf-8")
            yield f"{name_of(job)}: {'done' if well else log.strip().rpartition(chr(10))[2]}"
    yield from map(records.status, names)


def tuned_in(section: str) -> list[str]:
    """Return the sections that tune a section, none of a grid, which may have taken over another's."""
    settings = records.protocol(section)
    return [] if records.has_rates(settings) else settings.get("tuning", [])


def with_tuning(names: Sequence[str]) -> list[str]:
    """Return sections, each behind those that tune it."""
    return list(dict.fromkeys(one for name in names for one in [*tuned_in(name), name]))


def name_of(job: arms.Run) -> str:
    """Return what a run is called in a line and in the name of its log."""
    return "-".join(str(word) for word in job if word is not None)


def words_of(job: arms.Run) -> list[str]:
    """Return the command of a run."""
    section, arm, seed, rate = job
    at_rate = [] if rate is None else ["--rates", repr(rate)]
    words = ["experiment", section, "--arms", arm, "--seeds", str(seed), *at_rate]
    return [sys.executable, "-m", "rsf", *(section.split("-") if section == QUEUE[0] else words)]


def lacking(section: str) -> list[arms.Run]:
    """Return the runs of a section that may begin here: its tuning is there, no seed was begun elsewhere."""
    settings = records.protocol(section)
    if any(map(tuning.missing, tuned_in(section))) or (section == QUEUE[0] and not torch.cuda.is_available()):
        return []
    own = [arms.precision(settings)] if "precision" in settings else []
    here = ", ".join([arms.device_name(), *own])
    begun = {
        run["seed"] for run in records.runs(section) if section != QUEUE[0] and verify.place_of(run) != here
    }
    return [(section, *run) for run in tuning.missing(section) if run[1] not in begun]


def beside(section: str, jobs: int | None = None) -> int:
    """Return how many runs of a section fit side by side here: one, but for those of the embedded model."""
    if records.protocol(section)["model"] != "embedded" or section == QUEUE[0]:
        return 1
    memory = sum(
        torch.cuda.get_device_properties(card).total_memory for card in range(torch.cuda.device_count())[:1]
    )
    return jobs or max(1, min(os.cpu_count() - 3, memory // MEMORY))


def _next(names, running, score, jobs):
    """Return the next run that finds room beside those that run, or None."""
    may = (job for name in names if score[name] >= 0 for job in lacking(name) if not score[job])
    job = next(may, None)
    room = min(beside(one[0], jobs) for one in [job, *running]) if job else 0
    return job if len(running) < room else None


def _collect(job, out, checkpoints):
    """Copy a run's file to the others, put all into results.tar, and remove its checkpoints."""
    file = records.path(*job[:3], rate=job[3])
    (out / "results" / job[0]).mkdir(exist_ok=True)
    shutil.copy(file, out / "results" / job[0])
    for folder in checkpoints.glob(f"*/{job[0]}/{file.stem}"):
        shutil.rmtree(folder)

    def write(part):
        with tarfile.open(part, "w") as tar:
            for one in sorted((out / "results").glob("*/*.json")):
                tar.add(one, f"{one.parent.name}/{one.name}")

    write_whole(out / "results.tar", write)
