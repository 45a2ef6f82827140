"""The loader by itself: what it says of itself, what it refuses and when, and that it needs no torch."""

import doctest
import inspect
import json
import subprocess
import sys
from itertools import chain
from typing import get_type_hints

import numpy as np
import pytest
from helpers import BLOCKS, LOSS, coins, numpy_loader

from rsf import accounts
from rsf.rules import clipped, easy
from rsf.selection import RejectionLoader, loader, losses, scoring


def test_examples_run_hints_resolve_and_no_default_is_a_function_of_ours():
    assert doctest.testmod(loader).attempted >= 6 and doctest.testmod(loader).failed == 0
    for room in (accounts, loader, losses, scoring):
        for name, thing in vars(room).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != room.__name__:
                continue
            functions = [thing] if inspect.isfunction(thing) else []
            if inspect.isclass(thing):
                functions = [value for value in vars(thing).values() if inspect.isfunction(value)]
            for function in functions:
                if function.__module__ == room.__name__ and not function.__name__.startswith("_"):
                    assert "return" in get_type_hints(function), f"{room.__name__}.{name}"
    for parameter in inspect.signature(RejectionLoader).parameters.values():
        assert not inspect.isfunction(parameter.default)


def test_it_loads_no_torch():
    code = "import sys; from rsf.selection import RejectionLoader, LoaderReport; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_any_option_nothing_stops_it_and_the_examples_are_as_they_are():
    batches, kept = (
        list(numpy_loader(clipped(0.6))),
        np.flatnonzero(coins(40) < np.minimum(1, LOSS / 0.6)).tolist(),
    )
    assert list(chain(*batches)) == kept[: len(kept) // 4 * 4]


def test_a_block_without_examples_changes_nothing():
    score = lambda rows: LOSS[np.array(rows, dtype=int)]
    with_gaps = numpy_loader(clipped(0.6), score, [[], *BLOCKS, []])
    assert list(with_gaps) == list(numpy_loader(clipped(0.6)))


def test_a_loss_of_exactly_0_cannot_be_undone_and_the_error_says_so_before_a_coin_falls():
    loss = LOSS.copy()
    loss[14] = 0.0
    told, last = [], []
    batch = lambda rows: {"rows": rows}
    undoing = numpy_loader(
        clipped(0.6), score=lambda rows: loss[rows], weighting="inverse", stop=lambda: False
    )
    undoing.collate, undoing.on_decision = batch, lambda *decision: told.append(decision)
    with pytest.raises(ValueError) as error:
        for _ in undoing:
            last.append(undoing.state_dict())
    text = str(error.value)
    assert (
        'weighting="inverse" cannot undo min(1, loss / 0.6), for A = 0 at 0, and no weight brings back'
        in text
    )
    assert 'take a rule with A > 0 there (tilted, easy), or weighting="none" (candidate 15: 14)' in text
    assert len(told) == 2 and undoing.report.candidates == 12
    tossed = np.random.default_rng(3)
    tossed.random(12)
    assert undoing.rng.bit_generator.state == tossed.bit_generator.state
    for rule, weighting in ((easy(0.6), "inverse"), (clipped(0.6), "none")):
        allowed = numpy_loader(rule, score=lambda rows: loss[rows], weighting=weighting)
        allowed.collate = batch
        assert len(list(allowed)) > 3


def test_a_state_is_plain_json_and_names_what_it_holds():
    some = numpy_loader(clipped(0.6), size=7)
    next(iter(some))
    state = json.loads(json.dumps(some.state_dict()))
    assert set(state["place"]) == {"passes", "block", "epoch", "candidates", "kept", "last"}
    assert state["place"]["block"] > 0 and all(len(waiting) == 3 for waiting in state["ready"])
    again = numpy_loader(clipped(0.6), size=7)
    again.load_state_dict(state)
    assert json.loads(json.dumps(again.state_dict())) == state


@pytest.mark.parametrize("size", ["3", 0, 1.5, None, np.nan])
@pytest.mark.parametrize("weighting", ["none", "inverse"])
def test_a_batch_size_that_is_no_whole_number_is_named(size, weighting):
    with pytest.raises(ValueError, match=f"batch_size must be a whole number of at least 1, got {size!r}"):
        numpy_loader(easy(1.0), size=size, weighting=weighting)
