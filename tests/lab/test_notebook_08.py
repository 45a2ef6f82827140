"""Notebook 08: its cells and README's figure are true whatever the runs say, and say nothing of a part of them."""

import contextlib
import io
import re

import matplotlib
import numpy as np
import pytest
from scipy import stats

from rsf.lab import compact, notebooks, records, verdicts
from rsf.lab.report import sweep

matplotlib.use("Agg")
WRONG = ("some_alarm(0.05 / 5, rng)", "some_alarm(0.05, rng)")
NAME = "08_ask_whether_it_helps"
REAL = records.runs
GAIN = {"reproduced": 3, "refuted": 0, "undecided": 0.8}  # of the claimed arm, in smallest gains


def fabricated(word, lacking=()):
    """Return a `records.runs` in which all that the sweep declares was run, but for one run of some sections."""
    made = {}

    def runs(name):
        section = records.protocol(name)
        if not name.startswith(("imdb-last", "floor-imdb")) or records.has_rates(section):
            return REAL(name)
        if name not in made:
            made[name] = [
                record(name, section, arm, seed) for arm in section["arms"] for seed in section["seeds"]
            ]
        return made[name][1:] if name in lacking else made[name]

    def record(name, section, arm, seed):
        rng = np.random.default_rng([seed, len(arm), len(name)])
        first = section.get("contrast", [""])[0]
        gain = GAIN[word] * section.get("smallest_gain", 0) * section.get("sign", 1) * (arm == first)
        noise = rng.normal(0, {"undecided": 0.7}.get(word, 0.1)) * section.get("smallest_gain", 0)
        of_nll = section.get("measure") == "nll"
        ease = np.random.default_rng(0).random(section["test"])
        right = ease < 0.8 + (0 if of_nll else gain + noise)
        each = np.full(section["test"], 0.5) + (gain + noise if of_nll else 0)
        numbers = {"accuracy": right.mean(), "right": compact.pack(right), "nll": each.mean()}
        numbers["acceptance_rate"] = rng.random()  # no two runs are alike, or one would be a copy
        if of_nll:
            numbers["nll_each"] = compact.pack_values(each + 0.01 * ease)
        return {"experiment": name, "arm": arm, "seed": seed, "machine": {}, "numbers": numbers}

    return runs


def plain(source):
    return re.sub(r"^    %pip .*$", "    raise", source, flags=re.MULTILINE)


def read():
    """Run the cells that read results/, and return what they print and their names."""
    cells = [cell for cell in notebooks.from_text(NAME).cells if cell.cell_type == "code"]
    begin = next(i for i, cell in enumerate(cells) if cell.source.startswith("BUDGETS"))
    told = io.StringIO()
    names = {"guess": 0}
    with contextlib.redirect_stdout(told):
        for cell in [cells[0], *cells[begin:]]:
            if "slow" not in cell.metadata.get("tags", []):
                exec(plain(cell.source), names)
    matplotlib.pyplot.close("all")
    return told.getvalue(), names


@pytest.mark.parametrize("word", GAIN)
def test_the_cells_are_true_of_complete_runs_whatever_they_say(word, monkeypatch):
    monkeypatch.setattr(records, "runs", fabricated(word))
    printed, names = read()
    said = {name: finding.judgement.word for name, finding in names["contrasts"].items()}
    of_may = "not reproduced here" if word == "refuted" else word
    assert said == {name: of_may if name == "imdb-last-updates" else word for name in sweep.NAMES}
    assert "9 verdicts from their limits: PASS" in printed and "FAIL" not in printed
    assert "not yet" not in printed and "open" not in printed
    assert f"in general (limited, ample, whole): {word}" in printed
    advice = printed.splitlines()[-5:]
    assert all(line.endswith(".") for line in advice)
    harm = {"reproduced": "do not reject", "refuted": "no such harm", "undecided": "cannot say"}[word]
    assert harm in advice[-1]
    left = names["possible"](names["contrasts"]["imdb-last-limited"])
    assert ("0.5 points or more" in left) == (word != "refuted")
    assert ("none, or the opposite" in left) == (word == "refuted") or word == "undecided"


def test_what_the_prose_tells_of_the_verdicts_is_what_the_stored_runs_say():
    said = {name: finding.judgement.word for name, finding in sweep.findings().items()}
    assert [said[f"imdb-last-{name}"] for name in ("limited", "ample", "whole")] == ["refuted"] * 3
    assert said["imdb-last-wrong"] == "reproduced"
    limited, ample, whole, updates = (
        sweep.findings()[f"imdb-last-{name}"].difference for name in ("limited", "ample", "whole", "updates")
    )
    assert limited.high < 0 and updates.high < 0  # costs; is behind as well
    for one in (ample, whole):
        assert one.low > -0.5 and one.high < 0.5  # no difference of half a point, in either direction
    arms = [verdicts.of_arm("imdb-last-wrong", arm) for arm in ("at_rate-0.5", "easy-0.3", "random-0.5")]
    for other in arms[:2]:  # the blind rule loses as much
        found = verdicts.difference(other, arms[2])
        assert found.low < 0 < found.high


def test_what_the_prose_tells_of_the_exploratory_runs_is_what_they_say():
    def minus(one, other):
        return verdicts.difference(*(verdicts.of_arm(f"imdb-last-{name}", arm) for name, arm in (one, other)))

    plain = ("limited", "plain")
    doses = [("dose", f"at_rate-{rate}") for rate in (0.1, 0.3, 0.7, 0.9)]
    lost = [minus(dose, plain) for dose in [*doses[:2], ("limited", "at_rate-0.5"), *doses[2:]]]
    assert all(one.high < 0 for one in lost)  # in between, where five and seven tenths are, no order is sure
    assert all(minus(doses[-1], dose).high < 0 for dose in [*doses[:3], ("limited", "at_rate-0.5")])
    for price in ("price-13", "price-21"):
        assert minus(("limited", "article"), (price, "plain")).high < 0
    assert minus(("updates", "at_rate-0.8"), ("updates-compute", "plain")).high < 0
    assert minus(("example", "article"), ("limited", "article")).low > 0
    assert minus(("example", "article"), plain).estimate < 0


def test_one_missing_run_leaves_a_section_unseen(monkeypatch):
    lacking = ("imdb-last-limited", "imdb-last-few-nll", "floor-imdb")
    monkeypatch.setattr(records, "runs", fabricated("reproduced", lacking))
    monkeypatch.setattr(verdicts, "difference", counted := Counted(verdicts.difference))
    printed, names = read()
    assert {
        name: one.judgement.word for name, one in names["contrasts"].items() if one.difference is None
    } == {
        "imdb-last-limited": "open",
        "imdb-last-few-nll": "open",
    }
    assert not {one["experiment"] for runs in counted.seen for one in runs.values()} & set(lacking)
    assert (
        sweep.values("imdb-last-limited", "plain")
        == []
        == sweep.values("imdb-last-few-nll", "article", "nll")
    )
    assert printed.count("not yet run to the end") == 7  # two kinds of floor, a doubling, four exploratory
    assert "in general (limited, ample, whole): open" in printed


class Counted:
    """A function that remembers which runs it was shown."""

    def __init__(self, function):
        self.function = function
        self.seen = []

    def __call__(self, runs, others, **options):
        self.seen += [runs, others]
        return self.function(runs, others, **options)


@pytest.mark.parametrize("word", [*GAIN, None])
def test_readme_s_table_and_figure_follow_the_runs(word, monkeypatch, tmp_path):
    if word:
        monkeypatch.setattr(records, "runs", fabricated(word))
    table = sweep.sweep_table().splitlines()
    assert len(table) == 2 + 7
    sweep.sweep_figure(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
    if word:
        assert sum(line.endswith(f"| {word} |") for line in table) >= 6


def test_an_interval_in_smallest_gains_has_the_direction_of_its_claim(monkeypatch):
    monkeypatch.setattr(records, "runs", fabricated("reproduced"))
    for finding in sweep.findings().values():
        low, middle, high = sweep.claimed(finding)
        assert 1 < low < middle < high < 5


def test_a_run_that_nearly_guesses_is_counted_as_collapsed(monkeypatch):
    runs = fabricated("reproduced")
    fallen = next(run for run in runs("imdb-last-wrong") if run["arm"] == "plain")
    fallen["numbers"]["accuracy"] = 0.6  # the arm's median is 0.8: below the middle between it and 0.5
    monkeypatch.setattr(records, "runs", runs)
    assert sweep.findings()["imdb-last-wrong"].collapsed == 1


def test_the_audit_is_what_the_text_says():
    cells = [cell.source for cell in notebooks.from_text(NAME).cells if cell.cell_type == "code"]
    names = {"guess": 0}
    for source in cells[: next(i for i, one in enumerate(cells) if one.startswith("guess"))]:
        exec(plain(source), names)
    audit = names["audit"]
    assert stats.binom.ppf(0.999, 1_000, 0.05) == 73
    equal = {way: audit(way)[0] for way in names["WAYS"]}
    assert max(equal["crossed"], equal["median"]) <= 73 < 2 * 50 < equal["seeds"]
    assert 250 < equal["answers"] < 350
    seen, estimates = audit("crossed", gain=0.2)
    power = stats.norm.sf(1.96 - estimates.mean() / audit("crossed", seed=9)[1].std())
    low, high = stats.binom.ppf([0.0005, 0.9995], 1_000, power)
    assert low <= seen <= high
    crossed, median = (audit(way, gain=0.2, collapse=0.1)[0] for way in ("crossed", "median"))
    assert crossed < 0.3 * seen and median > 2 * crossed
