"""Notebook 04: every fixed rule of the package descends the integral of its A, as the oracle says too."""

import re

import numpy as np
import pytest
from scipy import special, stats

from rsf import finite
from rsf.acceptance import accept
from rsf.lab import notebooks
from rsf.rules import above, clipped, constant, easy, effective_sample_size, inverse_weights, tilted

WRONG = ("loss(theta) + np.exp", "loss(theta) - np.exp")
RULES = {
    "clipped": (clipped(0.5), lambda r: np.where(r.real <= 0.5, r**2, r - 0.25)),
    "easy": (easy(0.5), lambda r: np.where(r.real <= 0.5, r, 0.5 + 0.5 * np.log(r / 0.5))),
    "tilted": (tilted(0.7, 12.0), lambda r: 0.7 * np.exp((r - 12) / 0.7)),
    "tilted, cut off": (
        tilted(0.7, 1.0, clip=True),
        lambda r: np.where(r.real <= 1, 0.7 * np.exp((r - 1) / 0.7), r - 0.3),
    ),
    "above": (above(0.5), lambda r: np.where(r.real >= 0.5, r - 0.5, 0)),
    "constant": (constant(0.3), lambda r: 0.3 * r),
}


@pytest.fixture(scope="module")
def world():
    """The names of the notebook's code cells, without figures."""
    found = {}
    for cell in notebooks.from_text(notebooks.names(["04"])[0]).cells:
        if cell.cell_type == "code" and "plots.figure" not in cell.source:
            exec(re.sub(r"^    %pip .*$", "    raise", cell.source, flags=re.MULTILINE), found)
    return found


def close(a, b, within=1e-12):
    np.testing.assert_allclose(a, b, rtol=0, atol=within)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_descends_the_integral_of_its_a_and_not_another_s(name, world):
    rule, phi = RULES[name]
    names = list(RULES)
    another = RULES[names[names.index(name) - 1]][1]
    q, loss, slope = world["q"], world["loss"], world["slope"]
    gap = 0.0
    for theta in world["thetas"]:
        kept = world["field"](rule, theta)
        close(kept, slope(lambda t: q @ phi(loss(t)), theta))
        close(rule.surrogate(loss(theta)), phi(loss(theta)))
        gap = max(gap, np.abs(kept - slope(lambda t: q @ another(loss(t)), theta)).max())
    assert gap > 1e-6


def test_the_field_is_the_oracle_s_and_phi_is_huber_over_k(world):
    for theta in world["thetas"]:
        losses, gradients = finite.logistic(world["x"], world["y"], theta)
        a = clipped(0.5)(losses)
        close(world["field"](clipped(0.5), theta), finite.kept_gradient(world["q"], a, gradients))
        close(clipped(0.7).surrogate(losses), special.huber(0.7, losses) / 0.7)


def test_learning_from_mistakes_descends_what_exceeds_ln_2_which_is_least_at_zero(world):
    q, x, y, loss = world["q"], world["x"], world["y"], world["loss"]

    def beyond(theta):
        r = loss(theta)
        return q @ np.where(r.real > np.log(2), r - np.log(2), 0)

    for theta in world["thetas"]:
        error = (y * (x @ theta) < 0).astype(float)
        kept = (q * above(1)(error)) @ world["gradients"](theta)
        close(kept, world["slope"](beyond, theta))
        assert beyond(theta) > 0 == beyond(np.zeros(2))


def test_e_phi_falls_along_every_path(world):
    for name, rule in world["arms"].items():
        phi = [world["q"] @ rule.surrogate(world["loss"](theta)) for theta in world["paths"][name]]
        assert np.diff(phi).max() <= 1e-14


def test_where_the_place_lies(world):
    hard, plain = (world["paths"][arm][-1] for arm in ("hard-first, k = 0.5", "plain"))
    assert np.linalg.norm(world["here"] - hard) < np.linalg.norm(world["here"] - plain) / 2


def test_dividing_by_the_kept_and_by_the_weights(world):
    q, a, plain, step = world["q"], world["a"], world["plain"], world["mean_step"]
    rate = q @ a
    close(step(4, "kept"), plain / rate * (1 - (1 - rate) ** 4))
    close(step(1, "weights"), world["field"](world["rule"], world["end"]))


def test_inverse_weights_undo_and_a_threshold_cannot_be_undone(world):
    rng = np.random.default_rng(4)
    i = rng.choice(8, size=40_000, p=world["q"])
    losses = world["loss"](world["end"])[i]
    log_a = clipped(0.5).log_probability(losses)
    kept = accept(log_a, rng)
    weights = inverse_weights(log_a, kept)
    step = weights * world["g"][i, 0]
    assert abs(step.mean() - world["plain"][0]) <= 3.3 * stats.sem(step)
    predicted = 1 / (world["q"] @ (1 / world["a"]))
    assert abs(effective_sample_size(weights) / len(i) / predicted - 1) < 0.02
    with pytest.raises(ValueError, match=r"A|threshold"):
        inverse_weights(above(0.5).log_probability(losses), kept)
