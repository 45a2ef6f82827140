"""Notebook 05: its fields are those of the package and the oracle, and have the objectives that it names."""

import re

import numpy as np
import pytest

from rsf import finite
from rsf.lab import notebooks
from rsf.rules import above, at_rate, clipped, percentile

WRONG = ("0.3 * plain(place)", "0.5 * plain(place)")


@pytest.fixture(scope="module")
def world():
    """The names of the notebook's code cells, without figures."""
    found = {}
    for cell in notebooks.from_text(notebooks.names(["05"])[0]).cells:
        if cell.cell_type == "code" and "plots.figure" not in cell.source:
            exec(re.sub(r"^    %pip .*$", "    raise", cell.source, flags=re.MULTILINE), found)
    return found


def close(a, b, within=1e-12):
    np.testing.assert_allclose(a, b, rtol=0, atol=within)


def test_tools_are_those_of_the_oracle(world):
    place, stretched = world["place"], world["stretched"]
    close(world["jacobian"](stretched, place), finite.jacobian(stretched, place), 1e-9)
    close(world["asymmetry"](stretched, place), finite.asymmetry(world["jacobian"](stretched, place)))
    here = np.array([1.5, -1.5])
    of_oracle = finite.batch_gradient(
        world["q"], *finite.logistic(world["x"], world["y"], here), 8, clipped(0.5)
    )
    close(world["eight"](here), of_oracle)


def test_each_field_comes_to_rest(world):
    for field, reference, _ in world["table"].values():
        for one in (field, reference):
            assert np.abs(one(world["rest"](one))).max() < 1e-12


def test_those_with_an_objective_are_symmetric_at_rest_and_the_others_far_from_it(world):
    for field, _, objective in world["table"].values():
        crooked = world["asymmetry"](field, world["rest"](field))
        assert crooked > 1e-4 if objective == "none" else crooked < 1e-12


def test_rules_that_follow_a_rate_are_those_of_the_package(world):
    place, q, loss = world["place"], world["q"], world["loss"]

    def watched(rule):
        rule.observe(np.repeat(loss(place), world["number"]))
        return rule(loss(place))

    gradients = world["gradients"](place)
    for field, rule in (
        (world["moving_clip"], at_rate(clipped, 0.5)),
        (world["hardest_half"], at_rate(above, 0.5)),
        (world["ranked"], percentile(1)),
    ):
        close(field(place), (q * watched(rule)) @ gradients)
    kept, _ = finite.accepted_law(q, watched(percentile(2)))
    close(kept, finite.best_of_n_law(q, loss(place), 3))


def test_the_hardest_half_descends_half_of_cvar(world):
    q, loss, place = world["q"], world["loss"], world["place"]

    def cvar(theta):
        r = loss(theta)
        values = np.array([c + q @ np.where(r.real > c.real, r - c, 0) / 0.5 for c in r])
        return values[values.real.argmin()]

    close(world["hardest_half"](place), world["slope"](cvar, place) / 2)


def test_at_rate_holds_its_rate_and_a_fixed_k_does_not(world):
    assert abs(world["followed"][8:].mean() - 0.75) <= 0.02 < abs(world["fixed"][8:].mean() - 0.75)


def test_a_packed_example_follows_the_stretched_field(world):
    place = world["place"]
    law, _ = finite.accepted_law(world["q"], world["hard"](world["loss"](place)))
    close(law @ world["gradients"](place), world["stretched"](place))
    assert np.abs(law @ world["gradients"](place) - world["each"](place)).max() > 1e-3


def test_refits_swing_down_at_a_small_k_and_up_at_a_large_one(world):
    for k, settles in ((0.5, True), (2.0, False)):
        swings = np.abs(np.diff(world["refit"](clipped(k), 6)[1:, 0]))
        assert (np.diff(swings) < 0).all() == settles and (np.diff(swings) > 0).all() != settles


def test_over_the_grid_neither_mask_nor_eval_mode_is_the_better_stand_in(world):
    mean = {
        name: np.mean([world["asymmetry"](field, np.array(theta)) for theta in world["grid"]])
        for name, field in world["dropout"].items()
    }
    assert mean["same mask"] < 1e-12
    assert 0.5 < mean["eval mode"] / mean["another mask"] < 2
