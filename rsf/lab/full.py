"""What sections lack, seed by seed, for as long as there is time: on a lent GPU, or by a class, a seed each.

python3 run.py full --assign 20            one line of words a student, for any of the commands below
python3 run.py full imdb-class --seeds 400  all arms of one seed; on Colab by the cell of notebook 07
python -m rsf full --minutes 9 --out DIR   in an archive of tests/archive.py, for a machine without network
                                           and hub: by any Python with torch, transformers, accelerate

A seed (of tuning: at one rate) is `python -m rsf experiment` in a process of its own, or the benchmark.
Shortly before the end those that still train save and stop; called again, they go on inside the run, on the
same device. A section's tuning is run before it; a seed that was begun on another device, or at another
precision, is left to that. What was begun is not begun twice in one call. DIR gets results/ (also of
earlier calls, or of a tuning that others ran), log/, and a file of some kB for each seed, SECTION-SEED.jsonl,
which `python3 run.py verify` takes.

Read from the environment: RSF_CHECKPOINTS (by default DIR/checkpoints), RSF_SAVE_EVERY (seconds, 600).
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from rsf.accounts import write_text
from rsf.lab import arms, provenance, records, tuning

BENCH = "bench-selection"
QUEUE = (  # the most valuable first
    BENCH,
    "imdb-whole-model-half",
    "imdb-whole-model-quarter",
    "imdb-whole-model-wrong",
    "imdb-full",
    "imdb-article",
    "gsm8k-chat",
)
RESERVE = 45  # seconds for what trains to save itself
MEMORY = 6 * 2**30  # bytes of the card for one of the runs side by side
Job = tuple[str, int, float | None]  # section, seed, and of tuning the learning rate


def run(
    names: Sequence[str],
    minutes: float,
    out: Path | str,
    seeds: Sequence[int] = (),
    rates: Sequence[float] = (),
    jobs: int | None = None,
) -> Iterator[str]:
    """Run what sections, by default all of `QUEUE`, lack; yield a line for each seed, then for each section.

    Parameters
    ----------
    out : folder of results, those of an earlier call included, of logs and checkpoints
    seeds, rates : only these, default all
    jobs : seeds of the embedded model side by side, default what the card's memory and the cores allow
    """
    end = time.time() + 60 * minutes
    names = with_tuning(names or QUEUE)
    out = Path(out).resolve()
    (out / "log").mkdir(parents=True, exist_ok=True)
    os.environ["RSF_RESULTS"] = str(out / "results")
    torch.set_num_threads(1)  # as those that are run have
    environment = {
        "RSF_CHECKPOINTS": str(out / "checkpoints"),
        **os.environ,
        "RSF_UNTIL": str(end - RESERVE),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **({"RSF_DATA": str(records.ROOT / "data")} if (records.ROOT / "data" / "imdb").is_dir() else {}),
    }
    begun = []
    for name in names:
        environment["RSF_BESIDE"] = str(beside(name, jobs))
        with ThreadPoolExecutor(beside(name, jobs)) as pool:
            while todo := [job for job in lacking(name, seeds, rates) if job not in begun]:
                begun += todo
                yield from filter(None, pool.map(partial(_one, end, out, environment), todo))
    yield from map(records.status, names)


def _one(end: float, out: Path, environment: dict, job: Job) -> str:
    """Run a job while there is time, and write its file; return a line on how it ended."""
    if time.time() >= end - RESERVE:
        return ""
    name = name_of(job)
    log = out / "log" / f"{name}.txt"
    with open(log, "w", encoding="utf-8") as file, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-m", "rsf", *words_of(job)],
            cwd=records.ROOT,
            env=environment,
            stdout=file,
            stderr=file,
            timeout=end - time.time(),
        )
    made = [run for run in records.runs(job[0]) if (run["seed"], run.get("rate")) == job[1:]]
    if made:
        write_text(out / f"{name}.jsonl", "".join(f"{json.dumps(run)}\n" for run in made))
    if job in tuning.jobs(job[0]):
        return f"{name}: {log.read_text(encoding='utf-8').strip().rpartition(chr(10))[2]}"
    for folder in Path(environment["RSF_CHECKPOINTS"]).glob(f"*/{job[0]}/*{name.removeprefix(job[0])}"):
        shutil.rmtree(folder)
    return f"{name}: done"


def assign(students: int, names: Sequence[str] = ()) -> Iterator[str]:
    """Yield the words of a command for each student: a seed of a section, by default BERT's, that lacks.

    While a section's tuning lacks runs, they are what is given out: a seed at a rate.
    """
    lack = [job for name in with_tuning(names or ["imdb-class"]) for job in lacking(name)]
    for number, job in enumerate(islice(lack, students), 1):
        yield f"{number:3}  {tuning.words(job)}"
    yield f"{min(students, len(lack))} of {students} students have a seed, {len(lack)} lack"


def tuned_in(section: str) -> list[str]:
    """Return the sections that tune a section, none of a grid, which may have taken over another's."""
    settings = records.protocol(section)
    return [] if records.has_rates(settings) else settings.get("tuning", [])


def with_tuning(names: Sequence[str]) -> list[str]:
    """Return sections, each behind those that tune it."""
    return list(dict.fromkeys(one for name in names for one in [*tuned_in(name), name]))


def name_of(job: Job) -> str:
    """Return what a job is called in a line and in the names of its files."""
    return "-".join(str(word) for word in job if word is not None)


def words_of(job: Job) -> list[str]:
    """Return the command of a job."""
    return BENCH.split("-") if job[0] == BENCH else ["experiment", *tuning.words(job).split()[1:]]


def lacking(section: str, seeds: Sequence[int] = (), rates: Sequence[float] = ()) -> list[Job]:
    """Return the jobs of a section that may begin here: its tuning is there, no seed was begun elsewhere."""
    settings = records.protocol(section)
    if any(map(tuning.missing, tuned_in(section))) or (section == BENCH and not torch.cuda.is_available()):
        return []
    here = ", ".join([arms.device_name(), *([arms.precision(settings)] if "precision" in settings else [])])
    elsewhere = {
        run["seed"] for run in records.runs(section) if section != BENCH and provenance.place_of(run) != here
    }
    return [
        job
        for job in tuning.jobs(section)
        if job[1] not in elsewhere and job[1] in (seeds or [job[1]]) and job[2] in (rates or [job[2]])
    ]


def beside(section: str, jobs: int | None = None) -> int:
    """Return how many jobs of a section fit side by side here: one, but for those of the embedded model."""
    if records.protocol(section)["model"] != "embedded" or section == BENCH:
        return 1
    cards = [torch.cuda.get_device_properties(card) for card in range(torch.cuda.device_count())[:1]]
    return jobs or max(1, min(os.cpu_count() - 3, sum(card.total_memory for card in cards) // MEMORY))
