"""Timings that can be trusted: interleaved, as ratios of neighbours in time, a file for each room."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


def in_own_process(function: Callable, *arguments: object) -> object:
    """Return what a function returns in a new process, in whose memory nothing of this one is."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()
