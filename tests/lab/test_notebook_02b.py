"""Notebook 02b: what its prose says of equal strips, and which samplers' conditions hold for which law."""

import numpy as np
import pytest
from scipy import stats

from rsf.lab.bench import sampling as bench

WRONG = ("2 * (2 * peak - pdf(0.5))", "2 * 2 * peak")


@pytest.mark.parametrize("n", [10, 100, 1_000, 10_000])
def test_equal_strips_leave_twice_the_peak_over_their_number(n):
    ends = stats.beta(2, 5).pdf(np.linspace(0, 1, n + 1))
    hat, squeeze = np.maximum(ends[:-1], ends[1:]), np.minimum(ends[:-1], ends[1:])
    assert np.sum(hat - squeeze) / n == pytest.approx(2 * stats.beta(2, 5).pdf(0.2) / n, rel=1e-12)


def peaks(at):
    low, high = stats.norm(-at, 0.5), stats.norm(at, 1)
    return lambda x: 0.3 * low.pdf(x) + 0.7 * high.pdf(x)


@pytest.mark.parametrize(
    ("density", "span", "extrema", "concave", "joined"),
    [
        (bench.densities()["normal"].pdf, (-8, 8), (0, 0), True, True),
        (bench.densities()["beta(2, 5)"].pdf, (0, 1), (0.2, 0.2), True, True),
        (bench.densities()["half-Cauchy"].pdf, (0, 40), (0, 0), True, True),
        (peaks(3), (-8, 8), (-3, 3), False, True),
        (peaks(30), (-33, 35), (-30, 30), False, False),
    ],
)
def test_the_conditions_that_the_table_names_are_those_of_the_laws(density, span, extrema, concave, joined):
    f = density(np.linspace(*span, 4_001)[1:-1])
    between = density(np.linspace(*extrema, 4_001))
    assert bool(between.min() > 1e-13 * f.max()) == joined  # or the density vanishes between two peaks
    bend = np.diff(f[f > 1e-290] ** -0.5, 2)  # -1 / sqrt(f) is concave where this is never negative
    assert bool(joined and bend.min() >= -1e-9) == concave
