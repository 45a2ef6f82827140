"""Timings that can be trusted: everything in one run, interleaved, as ratios of neighbours in time.

python -m rsf bench sampling          the strip hat against what scipy.stats.sampling offers; writes
results/bench-sampling/
"""

import time
import timeit
import tracemalloc
from functools import partial
from types import SimpleNamespace

import numpy as np
from scipy import interpolate, special, stats
from scipy.stats import sampling as scipy_sampling
from tqdm import tqdm

from rsf import checks
from rsf.lab import records
from rsf.lab.bench import interleaved, summary
from rsf.sampling import StripEnvelope, rejection_sample

ALONE = (
    "NumericalInversePolynomial",
    "TransformedDensityRejection",
    "SimpleRatioUniforms",
)  # scipy's that start from the density alone


def densities():
    """Return {name: namespace of pdf, dpdf, cdf, support, mode, area}; pdf for arrays and numbers alike."""
    knots = interpolate.PchipInterpolator(np.arange(11), [0.0, 1, 3, 2, 2.5, 4, 1, 0.5, 0.7, 0.1, 0])
    slope, area = knots.derivative(), knots.antiderivative()
    bump = lambda x, m, s: np.exp(-0.5 * ((x - m) / s) ** 2) / s / np.sqrt(2 * np.pi)  # noqa: E731
    make = SimpleNamespace
    return {
        "normal": make(
            pdf=lambda x: np.exp(-0.5 * x * x),
            dpdf=lambda x: -x * np.exp(-0.5 * x * x),
            cdf=stats.norm.cdf,
            support=(-np.inf, np.inf),
            mode=0.0,
            area=np.sqrt(2 * np.pi),
        ),
        "gamma(2.5)": make(
            pdf=lambda x: x**1.5 * np.exp(-x),
            dpdf=lambda x: (1.5 * x**0.5 - x**1.5) * np.exp(-x),
            cdf=stats.gamma(2.5).cdf,
            support=(0, np.inf),
            mode=1.5,
            area=special.gamma(2.5),
        ),
        "beta(2, 5)": make(
            pdf=lambda x: x * (1 - x) ** 4,
            dpdf=lambda x: (1 - x) ** 4 - 4 * x * (1 - x) ** 3,
            cdf=stats.beta(2, 5).cdf,
            support=(0, 1),
            mode=0.2,
            area=1 / 30,
        ),
        "two bumps": make(
            pdf=lambda x: 0.3 * bump(x, -3, 0.5) + 0.7 * bump(x, 2, 1),
            dpdf=lambda x: -0.3 * bump(x, -3, 0.5) * (x + 3) / 0.25 - 0.7 * bump(x, 2, 1) * (x - 2),
            cdf=lambda x: 0.3 * stats.norm.cdf(x, -3, 0.5) + 0.7 * stats.norm.cdf(x, 2, 1),
            support=(-np.inf, np.inf),
            mode=2.0,
            area=1.0,
        ),
        "half-Cauchy": make(
            pdf=lambda x: 1 / (1 + x * x),
            dpdf=lambda x: -2 * x / (1 + x * x) ** 2,
            cdf=stats.halfcauchy.cdf,
            support=(0, np.inf),
            mode=0.0,
            area=np.pi / 2,
        ),
        "a spline": make(
            pdf=lambda x: np.maximum(knots(x), 0.0),
            dpdf=slope,
            cdf=lambda x: area(np.clip(x, 0, 10)) / area(10),
            support=(0, 10),
            mode=5.0,
            area=float(area(10)),
        ),
    }


def samplers(density):
    """Return {name: function that sets up and returns rvs(size, rng)}."""
    low, high = density.support

    def scipys(name, law=density, **options):
        def set_up():
            maker = getattr(scipy_sampling, name)(law, random_state=0, **options)
            return lambda size, rng: maker.rvs(size, random_state=rng)

        return set_up

    normalised = SimpleNamespace(  # Hermite takes the cdf, and a pdf that must be its slope
        pdf=lambda x: density.pdf(x) / density.area,
        dpdf=lambda x: density.dpdf(x) / density.area,
        cdf=density.cdf,
    )
    found = {
        "StripEnvelope": lambda: StripEnvelope(density.pdf, density.support).rvs,
        "NumericalInversePolynomial": scipys(
            "NumericalInversePolynomial", center=density.mode, domain=density.support
        ),
        "NumericalInverseHermite": scipys("NumericalInverseHermite", normalised, domain=density.support),
        "TransformedDensityRejection": scipys("TransformedDensityRejection", domain=density.support),
        "SimpleRatioUniforms": scipys(
            "SimpleRatioUniforms", mode=density.mode, pdf_area=density.area, domain=density.support
        ),
        "uniform (floor)": lambda: lambda size, rng: rng.random(size),
    }
    if np.isfinite(low + high):
        box, log_k = stats.uniform(low, high - low), np.log(density.pdf(density.mode) * (high - low))

        @np.errstate(divide="ignore")
        def log_pdf(x):
            return np.log(density.pdf(x))

        found["box"] = lambda: lambda size, rng: rejection_sample(log_pdf, box, log_k, size, rng).samples
    return found


def seconds(draw, size, rng):
    """Return the seconds that one call takes, short calls repeated to last a while."""
    calls = max(1, 20_000 // size)
    return timeit.timeit(lambda: draw(size, rng), number=calls) / calls


def against(density, settings, rng):
    """Return a row for each sampler and size: median seconds, and its time over the strip hat's (median,
    least, most)."""
    ready, rows = {}, []
    for name, set_up in samplers(density).items():
        start = time.perf_counter()
        try:
            with np.errstate(all="ignore"):  # scipy asks for densities at infinity
                draw = set_up()
            took = time.perf_counter() - start
            right = bool(checks.same_law(draw(100_000, rng), density.cdf)) or name == "uniform (floor)"
        except Exception as refusal:  # whatever scipy raises is the result
            rows.append({"sampler": name, "size": 0, "law": f"refused: {type(refusal).__name__}"})
            continue
        rows.append(
            {
                "sampler": name,
                "size": 0,
                "law": "right" if right else "wrong",
                "setup_seconds": round(took, 5),
            }
        )
        ready[name] = draw
    for size in settings["sizes"]:
        ways = {
            name: partial(seconds, draw, size, rng)
            for name, draw in ready.items()
            if size <= settings["most"].get(name, settings["most_else"])
        }
        times = interleaved(ways, settings["repeats"])
        for name, taken in times.items():
            found = summary("seconds", taken, taken / times["StripEnvelope"])
            rows.append({"sampler": name, "size": size, **found})
    return rows


def exactness(settings, rng):
    """Draw the normal in a stream and compare its counts in cells, the tails among them, with the exact
    law."""
    hat, edges = (
        StripEnvelope(stats.norm()),
        np.linspace(-settings["tail"], settings["tail"], settings["cells"] - 1),
    )
    counts = np.zeros(settings["cells"])
    for _ in range(settings["draws"] // settings["chunk"]):
        x = hat.rvs(settings["chunk"], rng)
        counts += [(x < edges[0]).sum(), *np.histogram(x, edges)[0], (x > edges[-1]).sum()]

    def law(scale):
        return np.concatenate(
            [
                [stats.norm.cdf(edges[0] / scale)],
                np.diff(stats.norm.cdf(edges / scale)),
                [stats.norm.sf(edges[-1] / scale)],
            ]
        )

    check, wrong = (checks.same_counts(counts, law(scale)) for scale in (1.0, settings["wrong_scale"]))
    return {
        "verdict": str(check),
        "counter_check": str(checks.must_fail(wrong)),
        "p_value": check.p_value,
        "beyond": [int(counts[0]), int(counts[-1])],
    }


def extra_memory(size, rng):
    """Return the MiB that drawing `size` needs at the most, beyond the output."""
    hat = StripEnvelope(stats.norm())
    tracemalloc.start()
    hat.rvs(size, rng)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (peak - 8 * size) / 2**20


def run():
    """Run section bench-sampling of the protocol: return the arm and its run."""
    settings = records.protocol("bench-sampling")
    rng = np.random.default_rng(settings["seeds"][0])
    numbers = {
        name: against(density, settings, rng) for name, density in tqdm(densities().items(), desc="densities")
    }
    numbers |= {
        "exactness": exactness(settings["exactness"], rng),
        "extra_mib": round(extra_memory(max(settings["sizes"]), rng), 2),
    }
    return "cpu", records.Run("none", "none", "CPU, 1 thread", numbers)


def fastest(rows, size):
    """Return the row of scipy's fastest sampler, at a size, that starts from the density alone and draws the
    right law."""
    right = {row["sampler"] for row in rows if row.get("law") == "right"} & set(ALONE)
    return min(
        (row for row in rows if row["size"] == size and row["sampler"] in right), key=lambda row: row["ratio"]
    )


def benched():
    """Return {density: rows} of the stored sampling benchmark."""
    return {
        name: rows
        for name, rows in records.read("bench-sampling")["cpu"][0]["numbers"].items()
        if isinstance(rows, list)
    }
