"""Notebook 06: its retelling of the listing is what the package does, and its accounts are those stored."""

import copy
import re

import numpy as np
import pytest
import torch

from rsf.lab import notebooks, records
from rsf.rules import clipped
from rsf.selection import RejectionLoader, per_example_loss

WRONG = ("first.mean() / (1 - rho)", "first.mean() / rho")


@pytest.fixture(scope="module")
def world():
    """The names of the notebook's code cells up to the end of the run, without figures."""
    found = {}
    for cell in notebooks.from_text(notebooks.names(["06"])[0]).cells:
        if cell.cell_type == "code" and "plots.figure" not in cell.source:
            source = re.sub(r"^    %pip .*$", "    raise", cell.source, flags=re.MULTILINE)
            exec(source, found)
            if "k_that_rejects" in source:
                return found
    raise AssertionError("the notebook has no k_that_rejects")


def test_no_coin_lies_so_close_that_another_processor_could_decide_otherwise(world):
    assert np.abs(world["coin"] - world["a"]).min() > 1e-12


def test_every_batch_above_k_is_kept(world):
    assert world["kept"][world["loss"] >= 0.5].all()


def test_the_retold_loop_is_the_loader_that_decides_per_batch(world):
    blocks = [list(range(i, i + 8)) for i in range(0, 256, 8)]
    collate = world["batch_of"]

    def with_loader(unit):
        model = copy.deepcopy(world["midway"])
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

        def score(block):
            with torch.no_grad():
                batch = collate(block)
                return per_example_loss(model, batch, model(**batch)).numpy()

        coins = np.random.default_rng([6, 1])
        loader = RejectionLoader(blocks, score, clipped(0.5), 8, coins, collate=collate, unit=unit)
        for batch in loader:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        return loader.report.kept, model.classifier.weight.detach()

    model = copy.deepcopy(world["midway"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    _, told = world["one_pass"](model, map(collate, blocks), optimizer, np.random.default_rng([6, 1]))
    used = sum(coin < a for _, a, coin in told)
    kept, weights = with_loader("batch")
    assert 8 * used == kept
    torch.testing.assert_close(weights, model.classifier.weight.detach(), rtol=0, atol=1e-12)
    assert not torch.allclose(with_loader("example")[1], weights, rtol=0, atol=1e-6)


def test_the_stored_accounts_are_one_and_three_a_candidate():
    for run in records.read("imdb-small")["article"].values():
        numbers = run["numbers"]
        sizes = np.array([len(block) for block in numbers["decision_index"]])
        kept = np.array(numbers["decision_kept"], dtype=bool)
        assert numbers["forward_passes"] == sizes.sum() + 3 * sizes[kept].sum()
        assert sizes[kept].sum() / sizes.sum() > 2 / 3  # so that looking did not pay
