"""The benchmark of the samplers: what it calls right, wrong and refused, and its exactness check, on small sizes."""

from itertools import pairwise

import numpy as np
from scipy import integrate

from rsf.lab.bench import sampling as bench


def test_each_density_has_its_own_derivative_area_and_distribution_function():
    for name, density in bench.densities().items():
        low, high = (
            end if np.isfinite(end) else sign * 30.0
            for end, sign in zip(density.support, (-1, 1), strict=True)
        )
        x = np.linspace(low, high, 9)[1:-1] + 0.013
        slope = (density.pdf(x + 1e-6) - density.pdf(x - 1e-6)) / 2e-6
        assert np.allclose(density.dpdf(x), slope, rtol=1e-5, atol=1e-7), name
        assert density.pdf(density.mode) >= density.pdf(x).max(), name
        whole = integrate.quad(density.pdf, *density.support, limit=200)[0]
        assert np.isclose(density.area, whole, rtol=1e-6), name
        assert np.allclose(
            np.diff(density.cdf(x)), [integrate.quad(density.pdf, *pair)[0] / whole for pair in pairwise(x)]
        )


def test_on_two_bumps_one_sampler_is_wrong_one_refuses_and_the_strip_hat_is_right():
    settings = {"sizes": [1000], "repeats": 2, "most": {"SimpleRatioUniforms": 10}, "most_else": 1000}
    rows = bench.against(bench.densities()["two bumps"], settings, np.random.default_rng(0))
    law = {row["sampler"]: row["law"] for row in rows if row["size"] == 0}
    assert law["StripEnvelope"] == law["NumericalInversePolynomial"] == "right"
    assert law["SimpleRatioUniforms"] == "wrong" and law["TransformedDensityRejection"].startswith("refused")
    timed = {row["sampler"]: row for row in rows if row["size"] == 1000}
    assert "SimpleRatioUniforms" not in timed and timed["StripEnvelope"]["ratio"] == 1
    assert all(row["least"] <= row["ratio"] <= row["most"] and row["seconds"] > 0 for row in timed.values())


def test_the_exactness_check_passes_and_its_counter_check_fails_the_wrong_law():
    settings = {"draws": 400_000, "chunk": 100_000, "cells": 40, "tail": 3.0, "wrong_scale": 1.02}
    found = bench.exactness(settings, np.random.default_rng(1))
    assert (
        found["verdict"].endswith("PASS")
        and found["counter_check"].endswith("PASS")
        and "n = 400,000" in found["verdict"]
    )
    assert sum(found["beyond"]) > 800  # 0.27 % of 400,000 lie beyond 3 sigma
