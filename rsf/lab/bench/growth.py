"""What grows with the prompts: seconds, memory and files of `sample_and_judge`, whose sampler is free here.

python -m rsf bench growth             half a minute; writes results/bench-growth/
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from rsf.generation import sample_and_judge
from rsf.lab import records
from rsf.lab.bench import in_own_process, peak_mib
from rsf.rules import above


def digits(prompts, rngs):
    return [str(rng.integers(10)) for rng in rngs]


digits.key = "a digit each"


def seven(prompts, completions, **_):
    return [float(text == "7") for text in completions]


def grown(prompts, samples):
    """Sample for so many prompts into a folder, and return what that took."""
    texts = [f"What is {i} plus {i}?" for i in range(prompts)]
    before = peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        sample_and_judge(
            digits,
            texts,
            seven,
            above(1),
            np.random.default_rng(0),
            samples_per_prompt=samples,
            folder=folder,
        )
        return {
            "prompts": prompts,
            "samples": prompts * samples,
            "seconds": round(time.perf_counter() - start, 3),
            "more_mib": round(peak_mib() - before, 1),
            "files": len(list(Path(folder).iterdir())),
        }


def run():
    """Run section bench-growth of the protocol: return the arm and its run."""
    settings = records.protocol("bench-growth")
    return "cpu", records.Run(
        "none",
        "none",
        "CPU, 1 thread",
        {"growth": [in_own_process(grown, n, m) for m in settings["samples"] for n in settings["prompts"]]},
    )
