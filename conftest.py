"""Strict `pytest --nbval`: the environment of the stored outputs, and the holes that nbval leaves."""

import os

import pytest

from rsf.lab.notebooks import ENVIRONMENT, ROOT

collect_ignore_glob = ["notebooks/zh/*"]  # cells and outputs are those of the English notebooks

for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)  # nbval's kernels inherit them
WORKER = os.environ.get("PYTEST_XDIST_WORKER")  # which of several processes this is
if WORKER:  # what is computed once is so for each: two that write one file at a time could lose it
    os.environ.setdefault("RSF_CACHE", str(ROOT / "build" / f"cache-{WORKER}"))

LONG = (  # files of more than half a minute, roughly the longest first
    "tests/selection/test_resume.py",
    "tests/lab/test_notebooks.py",
    "tests/selection/test_like_the_trainer.py",
    "tests/lab/test_records.py",
    "tests/generation/test_rounds.py",
    "notebooks/07_fine_tune_bert.ipynb",
    "tests/generation/test_sharing.py",
    "tests/selection/test_distributed.py",
    "notebooks/10_learn_from_your_own_samples.ipynb",
    "tests/house/test_house.py",
    "tests/sampling/test_laws.py",
    "notebooks/08_ask_whether_it_helps.ipynb",
    "notebooks/12_carry_it_to_any_task.ipynb",
    "tests/selection/test_features.py",
    "tests/lab/test_class.py",
    "tests/lab/test_sweep.py",
)


@pytest.fixture(autouse=True)
def no_results_but_those_of_the_checkout(monkeypatch):
    """What a test lets count beside results/ ends with it."""
    monkeypatch.setenv("RSF_RESULTS", "")


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook: warnings name paths and processes
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items):
    for item in items:
        if is_cell(item):
            item.output_timeout = 300  # nbval gives up after 5 s of silence
    if WORKER:  # no process is left with a long file when the others are done
        items.sort(key=lambda item: LONG.index(file_of(item)) if file_of(item) in LONG else len(LONG))


def pytest_runtest_setup(item):
    if is_cell(item) and item.cell.execution_count is None:  # nbval passes a cell that never ran
        pytest.fail("it was not executed; run: python -m rsf notebooks build", pytrace=False)


def is_cell(item):
    """Is it a cell of a notebook?"""
    return hasattr(item, "output_timeout")


def file_of(item):
    return item.nodeid.partition("::")[0]
