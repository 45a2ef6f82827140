"""Notebook 10: what its text says of the live seed, and a map that is true whatever its runs say."""

import contextlib
import io
import re

import matplotlib
import numpy as np
import pytest
from scipy import stats

from rsf.generation import model_sampler
from rsf.lab import compact, notebooks, records, verdicts
from rsf.lab.report import sweep
from rsf.lab.tasks import addition

matplotlib.use("Agg")
WRONG = ("rules.tilted(1.0, 3)(true)", "rules.tilted(0.5, 3)(true) + 0.1")
NAME = "10_learn_from_your_own_samples"
REAL = records.runs
GAIN = {"reproduced": 0.2, "refuted": 0.0, "undecided": 0.07}
SPREAD = {"reproduced": 0.01, "refuted": 0.01, "undecided": 0.15}
MAIN = ("rejection", "control", "control-in-rounds")
BUDGET = 700 * 32 * 9 * 3


def plain(source):
    return re.sub(r"^    %pip .*$", "    raise", source, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def cells():
    return [cell for cell in notebooks.from_text(NAME).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def world(cells):
    """The names of the cells that are not slow, without figures."""
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            if "slow" not in cell.metadata.get("tags", []) and "plots.figure" not in cell.source:
                exec(plain(cell.source), found)
    return found


def fabricated(word, lacking=()):
    """Return a `records.runs` in which the whole map was run, but for one run of some sections."""

    def runs(name):
        section = records.protocol(name)
        if re.fullmatch(r"sums-\d+-tuning.*", name):
            return [tuned(name, arm, seed) for arm in section["arms"] for seed in section["seeds"]]
        if not re.fullmatch(r"sums-\d+(-others)?", name):
            return REAL(name)
        found = [record(name, section, arm, seed) for arm in section["arms"] for seed in section["seeds"]]
        return found[1:] if name in lacking else found

    def tuned(name, arm, seed):
        validation = [0.6 if arm == "control-in-rounds" else 0.5]
        numbers = {"grid": [[0.006, 3.0]], "validation": validation, "kept": [[]]}
        return {"experiment": name, "arm": arm, "seed": seed, "machine": {}, "numbers": numbers}

    def record(name, section, arm, seed):
        rng = np.random.default_rng([seed, len(arm)])
        share = 0.5 + GAIN[word] * (arm == "rejection") + rng.normal(0, SPREAD[word])
        right = np.arange(section["test"]) < share * section["test"]
        numbers = {"accuracy": right.mean(), "right": compact.pack(right)}
        numbers["acceptance"] = rng.random()  # no two runs are alike, or one would be a copy
        return {"experiment": name, "arm": arm, "seed": seed, "machine": {}, "numbers": numbers}

    return runs


def read(cells):
    """Run the cells of the map and return what they print."""
    told = io.StringIO()
    begin, end = (
        next(i for i, cell in enumerate(cells) if cell.source.startswith(first))
        for first in ("for n in (50, 200, 800):\n    (first,)", "rng = np.random.default_rng(10)\narms")
    )
    colours = next(line for cell in cells for line in [cell.source] if "COLOURS = {" in line)
    names = {}
    with contextlib.redirect_stdout(told):
        exec(plain(cells[0].source), names)
        exec("\n".join(line for line in colours.splitlines() if line.startswith("COLOURS")), names)
        for cell in cells[begin:end]:
            exec(cell.source, names)
    matplotlib.pyplot.close("all")
    return told.getvalue()


@pytest.mark.parametrize("word", GAIN)
def test_the_map_is_true_of_complete_runs_whatever_they_say(word, cells, monkeypatch):
    monkeypatch.setattr(records, "runs", fabricated(word))
    printed = read(cells)
    assert printed.count("rejection - control-in-rounds") == 3
    assert word == "undecided" or printed.count(" 0 runs collapsed") == 3
    assert printed.count(f": {word}\n") == 4 and "open" not in printed and "not yet" not in printed
    table = sweep.sums_table().splitlines()
    assert sum(line.endswith(f"| {word} |") for line in table[2:5]) == 3


def test_one_missing_run_leaves_an_amount_unseen(cells, monkeypatch):
    monkeypatch.setattr(records, "runs", fabricated("reproduced", ("sums-50", "sums-800-others")))
    printed = read(cells)
    assert " 50 sums: open: not all seeds are in" in printed and "in general: open" in printed
    assert sweep.values("sums-50", "control") == [] != sweep.values("sums-50-others", "gold")
    assert re.search(
        r"800 sums, median % right: rejection [\d.]+, control [\d.]+, control-in-rounds [\d.]+\n", printed
    )


def test_what_the_prose_tells_of_the_map_is_what_the_stored_runs_say():
    found = {n: verdicts.judged(verdicts.contrasts(f"sums-{n}")[0]) for n in (50, 200, 800)}
    assert [one.judgement.word for one in found.values()] == ["reproduced", "reproduced", "refuted"]
    assert next(iter(verdicts.overall(["sums-200"]).values())).word == "refuted"
    assert found[50].difference.estimate < 10 < 30 < found[200].difference.estimate
    assert [one.contrast.against for one in found.values()] == ["control-in-rounds", "control", "control"]
    arms = {n: {arm: sweep.values(f"sums-{n}", arm) for arm in MAIN} for n in found}
    for n, of_arm in arms.items():
        of_arm |= {arm: sweep.values(f"sums-{n}-others", arm) for arm in ("blind", "gold")}
        controls = [np.median(of_arm[arm]) for arm in ("control", "control-in-rounds")]
        assert np.median(of_arm["blind"]) < min(controls)
    fallen = {arm: sum(value < np.median(of) / 2 for value in of) for arm, of in arms[800].items()}
    assert fallen["rejection"] == 3 and fallen["control"] == 0
    assert fallen["control-in-rounds"] == 2 and fallen["gold"] == 2
    assert round(np.median(arms[800]["control"])) == 99 and round(np.median(arms[50]["rejection"])) == 7


def test_what_the_prose_tells_of_the_policy_gradient_is_what_its_runs_and_their_bases_say():
    policy = verdicts.of_arm("sums-200-policy", "policy-gradient")
    for arm in ("control", "control-in-rounds"):
        found = verdicts.difference(policy, verdicts.of_arm("sums-200", arm), interval="median")
        assert found.low < 0 < found.high
    # rejection's first round is one sample of each sum by the same base
    base = verdicts.of_arm("sums-200", "rejection")
    first, last = (
        np.median([run["kept"][i] / run["samples"][i] for run in runs])
        for i, runs in (
            (0, [base[seed]["numbers"] for seed in policy]),
            (-1, [run["numbers"] for run in policy.values()]),
        )
    )
    assert (round(100 * first), round(100 * last)) == (9, 38)
    assert (1 - first) ** 4 > 0.5  # as sums differ in how hard they are, even more groups are all wrong


def test_a_narrower_interval_of_the_median_promises_too_much():
    assert 2 * stats.binom.cdf(4, 20, 0.5) < 0.012 < 2 * stats.binom.cdf(5, 20, 0.5)
    assert stats.binom.ppf(0.999, 2_000, 2 * stats.binom.cdf(4, 20, 0.5)) == 40


def test_the_live_arms_had_equal_compute_and_blind_kept_as_many():
    for seed in records.protocol("sums-live")["seeds"]:
        runs = {arm: found[seed]["numbers"] for arm, found in records.read("sums-live").items()}
        assert runs["blind"]["kept"] == runs["rejection"]["kept"]
        for run in runs.values():
            assert 0 <= BUDGET - run["forward_passes"] < 5 * 32 * 9 * 3
            assert run["setting"] == [0.003, 3.0] and (run["slack"] is None or run["slack"] > 1e-12)


def test_the_forecasts_are_what_the_text_says(world):
    z = world["z"]
    assert np.mean(1 / z) > 5 / z.mean()
    entropy = np.array([-q @ np.log(q) for q, _ in world["some"][:4]])
    prompts = [prompt for prompt in world["pool"][:4] for _ in range(500)]
    own = model_sampler(world["base"], addition.tokenizer(), max_new_tokens=3)
    drafts = own(prompts, [np.random.default_rng([5, i]) for i in range(2000)])
    place = {text: i for i, text in enumerate(world["completions"])}
    listed = np.log([world["some"][i // 500][0][place[text]] for i, text in enumerate(drafts["completion"])])
    np.testing.assert_allclose(listed, drafts["log_probability"], atol=1e-9)
    assert abs(np.mean(-listed) - entropy.mean()) < 3.3 * np.std(listed) / np.sqrt(2000)


def test_the_fooled_judge_s_reward_rises_and_the_true_one_turns_round(world):
    fooled, honest, peak = (world[name] for name in ("fooled", "honest", "peak"))
    start = np.mean([q @ true for q, true in world["some"]])
    assert (np.diff(fooled[::-1, 1]) > 0).all() and (np.diff(honest[::-1, 0]) > 0).all()
    assert fooled[0, 0] < start < fooled[peak, 0] and 0 < peak < 59


def test_the_judges_of_the_first_map_cost_what_the_text_says():
    perfect = verdicts.of_arm("arithmetic-200", "rejection")
    for arm in ("noisy", "nines"):
        found = verdicts.difference(verdicts.of_arm("arithmetic-200-judges", arm), perfect)
        assert found.high < 0
