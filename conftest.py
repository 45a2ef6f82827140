"""Strict `pytest --nbval`: the environment of the stored outputs, and the holes that nbval leaves."""

import os

import pytest

from rsf.lab.notebooks import ENVIRONMENT

collect_ignore_glob = ["notebooks/zh/*"]  # cells and outputs are those of the English notebooks

for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)  # nbval's kernels inherit them


@pytest.fixture(autouse=True)
def no_results_but_those_of_the_checkout(monkeypatch):
    """What a test lets count beside results/ ends with it."""
    monkeypatch.setenv("RSF_RESULTS", "")


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook: warnings name paths and processes
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items):
    for item in items:
        if hasattr(item, "output_timeout"):  # a cell of a notebook: nbval gives up after 5 s of silence
            item.output_timeout = 300
            if item.cell.execution_count is None:  # nbval passes a cell that never ran
                raise pytest.UsageError(
                    f"{item.nodeid}: it was not executed; run: python -m rsf notebooks build"
                )
