"""Timings that can be trusted: interleaved, as ratios of neighbours in time, a file for each room."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from rsf.lab import compact, records

STATUS = Path("/proc/self/status")  # getrusage counts what the parent had before exec


def in_own_process(function: Callable, *arguments: object) -> object:
    """Return what a function returns in a new process, in whose memory nothing of this one is."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def interleaved(ways: dict[str, Callable[[], float]], repeats: int) -> dict[str, np.ndarray]:
    """Return what each way measures (repeats,): all of them once, before any is measured again.

    >>> interleaved({"one": lambda: 1.0, "two": lambda: 2.0}, 3)["two"].tolist()
    [2.0, 2.0, 2.0]
    """
    rounds = [[measure() for measure in ways.values()] for _ in range(repeats)]
    return dict(zip(ways, np.transpose(rounds), strict=True))


def summary(what: str, values: np.ndarray, ratio: np.ndarray) -> dict[str, float]:
    """Return the median of what was measured (repeats,), and of its ratio the median, the least, the most."""
    return dict(
        zip(
            (what, "ratio", "least", "most"),
            compact.significant([np.median(values), np.median(ratio), ratio.min(), ratio.max()], 4),
            strict=True,
        )
    )


def peak_mib() -> float:
    """Return the peak of this process's memory, in MiB."""
    records.must(
        STATUS.exists(),
        f"the benchmark reads its peak of memory in {STATUS}: run it on Linux",
        NotImplementedError,
    )
    peak = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024
