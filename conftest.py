"""Strict `pytest --nbval`: the environment of the stored outputs, and the holes that nbval leaves."""

import os

import pytest

from rsf.lab.notebooks import ENVIRONMENT

collect_ignore_glob = ["notebooks/zh/*"]  # cells and outputs are those of the English notebooks

for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)  # nbval's kernels inherit them

LONG = ()  # files of more than half a minute, the longest first


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook: warnings name paths and processes
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items):
    for item in items:
        if is_cell(item):
            item.output_timeout = 300  # nbval gives up after 5 s of silence
    if "PYTEST_XDIST_WORKER" in os.environ:  # no process is left with a long file when the others are done
        items.sort(key=lambda item: LONG.index(file_of(item)) if file_of(item) in LONG else len(LONG))


def pytest_runtest_setup(item):
    if is_cell(item) and item.cell.execution_count is None:  # nbval passes a cell that never ran
        pytest.fail("it was not executed; run: python -m rsf notebooks build", pytrace=False)


def is_cell(item):
    """Is it a cell of a notebook?"""
    return hasattr(item, "output_timeout")


def file_of(item):
    return item.nodeid.partition("::")[0]
