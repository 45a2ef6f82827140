"""Records: files held to the protocol that was written before them, numbers made again from what they hold, verdicts."""

import copy
import hashlib
import json
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

from rsf import __main__ as door
from rsf import checks
from rsf.lab import compact, provenance, records, validated, verdicts, verify

HASHES = json.loads((Path(__file__).parent / "protocol_hashes.json").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty results/ with the protocol."""
    shutil.copy(records.RESULTS / "protocol.toml", tmp_path)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    return tmp_path


def add_section(folder, text):
    with open(folder / "protocol.toml", "a", encoding="utf-8") as file:
        file.write(text)


RUN = records.Run("d", "m", "CPU", {"accuracy": 0.5, "list": [1, 2]})


@pytest.fixture
def written(folder):
    return records.write("imdb-small", "plain", 0, RUN, begun=records.now())


def stored(experiment, arm, seed, **changes):
    """Return a copy of a stored record with some of its numbers changed, each a value or a function of it."""
    rate = changes.pop("rate", None)
    record = copy.deepcopy(records.find(experiment, arm, seed, rate=rate))
    for name, value in changes.items():
        record["numbers"][name] = value(record["numbers"][name]) if callable(value) else value
    return record


# one record


def test_a_record_comes_back_as_it_was_written_with_its_begin(written):
    record = records.read("imdb-small")["plain"][0]
    assert record["numbers"] == {"accuracy": 0.5, "list": [1, 2]}
    assert record["settings"] == records.protocol("imdb-small")
    assert set(record["machine"]) >= {"python", "numpy", "torch", "device"} and len(record["protocol"]) == 64
    assert record["begun"][:2] == "20" and record["begun"].endswith("+00:00")
    assert records.status("imdb-small") == "imdb-small: 1 of 15 runs"
    assert records.status("imdb-full") == "imdb-full: not yet run"
    assert records.status("imdb-full-minilm").startswith("imdb-full-minilm: superseded by imdb-whole-model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "0" * 64}, "another protocol"),
        ({"arm": "best"}, "not in the protocol"),
        ({"seed": 99}, "not in the protocol"),
        ({"seed": False}, "'seed' must be int, got False"),
        ({"numbers": None}, "numbers"),
        ({"settings": {"passes": 3}}, "settings are not those of the protocol: .*passes"),
        ({"experiment": "x"}, "no section 'x'"),
    ],
)
def test_a_file_that_does_not_belong_to_the_protocol_is_refused(written, change, message):
    record = json.loads(written.read_text()) | change
    written.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        records.load(written)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "a record is an object"),
        ("3", "a record is an object"),
        ("{", "plain-0.json: "),
        ("", "plain-0.json: "),
    ],
)
def test_a_file_that_holds_no_record_is_refused_by_name(written, text, message):
    written.write_text(text)
    with pytest.raises(ValueError, match=message):
        records.load(written)


def test_a_file_in_the_wrong_folder_or_a_run_that_stands_twice_is_refused(written):
    (written.parents[1] / "imdb-small-half").mkdir()
    shutil.copy(written, written.parents[1] / "imdb-small-half")
    with pytest.raises(ValueError, match="holds a run of imdb-small, not of imdb-small-half"):
        records.runs("imdb-small-half")
    shutil.copy(written, written.with_name("plain-copy.json"))
    with pytest.raises(ValueError, match="stands twice; the first stands"):
        records.runs("imdb-small")


def test_a_changed_protocol_disowns_its_files(written):
    protocol = records.RESULTS / "protocol.toml"
    protocol.write_text(protocol.read_text().replace("passes = 1.5", "passes = 3.0"))
    with pytest.raises(ValueError, match="another protocol"):
        records.read("imdb-small")


def test_an_experiment_without_files_says_so(folder):
    with pytest.raises(FileNotFoundError, match="not yet run"):
        records.read("imdb-small")


def test_a_package_inside_somebodys_repository_does_not_take_their_commit(tmp_path):
    def git(*words):
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *words], check=True
        )

    root = Path(records.__file__).parents[2]
    skip = shutil.ignore_patterns("__pycache__", "embedded")
    shutil.copytree(root / "rsf", tmp_path / "site" / "rsf", ignore=skip)
    (tmp_path / "site" / "rsf" / "results").mkdir()
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "theirs")
    code = "from rsf.lab import records; print(records.ROOT, records.commit())"
    for vendored in (False, True):
        if vendored:  # a whole checkout below their root
            (tmp_path / "site" / "results").mkdir()
            (tmp_path / "site" / "results" / "protocol.toml").write_text("")
            (tmp_path / "site" / "pyproject.toml").write_text("")
        shown = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True
        ).stdout
        assert shown.split() == [str(tmp_path / "site"), "unknown"]


# grids and folded sections

GRID = """
[grid]
like = "imdb-small"
arms = ["plain", "article"]
seeds = [7, 8]
grid_learning_rate = [1e-4, 2e-4]
"""


def test_a_tuning_section_has_a_run_a_rate_and_is_folded_when_it_is_complete(folder):
    add_section(folder, GRID)
    runs = [(arm, seed, rate) for seed in (7, 8) for arm in ("plain", "article") for rate in (1e-4, 2e-4)]
    assert records.declared("grid") == records.missing("grid") == runs
    for arm, seed, rate in reversed(runs):
        file = records.write("grid", arm, seed, RUN, rate=rate)
    assert file.name == "plain-7-0.0001.json" and records.missing("grid") == []
    with pytest.raises(ValueError, match=r"use records\.runs"):
        records.read("grid")
    before = records.runs("grid")
    assert [records.key(run) for run in before] == sorted(
        runs, key=lambda run: (run[0] == "article", run[1:])
    )
    records.write("grid", "plain", 7, RUN, rate=4e-4)  # an edge is widened: for every seed of the arm
    assert records.missing("grid") == [("plain", 8, 4e-4)]
    with pytest.raises(ValueError, match=r"grid lacks 1 runs, \('plain', 8, 0.0004\) first"):
        records.fold("grid")
    records.write("grid", "plain", 8, RUN, rate=4e-4)
    file = records.fold("grid")
    assert file.name == "grid.jsonl" and len(file.read_text().splitlines()) == 10
    assert not (folder / "grid").exists() and records.status("grid") == "grid: 10 of 10 runs"
    assert [run for run in records.runs("grid") if run["rate"] != 4e-4] == before
    assert records.find("grid", "article", 8, rate=2e-4)["rate"] == 2e-4
    assert records.find("grid", "article", 8) is None


def test_a_folded_section_is_read_as_its_files_are_and_takes_no_second_run_of_a_seed(folder):
    for arm in ("plain", "article", "twin"):
        for seed in range(3):
            records.write("imdb-small-quarter", arm, seed, RUN)
    before = records.read("imdb-small-quarter")
    records.fold("imdb-small-quarter")
    assert records.read("imdb-small-quarter") == before and records.missing("imdb-small-quarter") == []
    records.write("imdb-small-quarter", "twin", 2, RUN)
    with pytest.raises(ValueError, match=r"twin-2.json: \('twin', 2, None\) .* the first stands"):
        records.read("imdb-small-quarter")


def test_a_line_that_does_not_hold_is_named(folder):
    for seed in range(3):
        records.write("imdb-small-twin", "twin", seed, RUN)
    file = records.fold("imdb-small-twin")
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1].replace('"arm": "twin"', '"arm": "best"'), lines[2]]))
    with pytest.raises(ValueError, match=r"imdb-small-twin.jsonl, line 2: .*'best'"):
        records.runs("imdb-small-twin")
    file.write_text("")
    with pytest.raises(ValueError, match="holds no record"):
        records.runs("imdb-small-twin")


# the compact form


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1000])
def test_bits_come_back_and_a_wrong_number_of_them_is_refused(size):
    right = np.random.default_rng(size).random(size) < 0.7
    assert np.array_equal(compact.unpack(compact.pack(right), size), right)
    with pytest.raises(ValueError, match="truth values take"):
        compact.unpack(compact.pack(right), size + 8)
    with pytest.raises(ValueError, match="truth values take"):
        compact.unpack(compact.pack(np.append(right, True)), size)
    with pytest.raises(ValueError):
        compact.unpack("no bits!", size)


@pytest.mark.parametrize("classes", [2, 5])
def test_outcomes_are_what_the_textbook_says(classes):
    rng = np.random.default_rng(classes)
    logits, labels = 3 * rng.normal(size=(500, classes)), rng.integers(classes, size=500)
    found = compact.outcomes(logits, labels)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right = p.argmax(1) == labels
    assert found["accuracy"] == right.mean()
    assert np.isclose(found["nll"], -np.log(p[np.arange(500), labels]).mean())
    assert np.array_equal(compact.unpack(found["right"], 500), right)
    edges = np.linspace(1 / classes, 1, 21)
    count, hits = (np.histogram(p.max(1)[mask], edges)[0].tolist() for mask in (right | True, right))
    assert found["calibration"]["count"] == count and found["calibration"]["right"] == hits
    mean = np.dot(found["calibration"]["confidence"], count) / 500
    assert abs(mean - p.max(1).mean()) < 1e-4
    assert compact.outcomes(logits, labels, scalars=True) == {
        name: found[name] for name in ("accuracy", "nll")
    }
    sure = compact.outcomes(1e5 * logits, labels)  # no confidence above 1 falls out of the last bin
    assert sum(sure["calibration"]["count"]) == 500 and np.isfinite(sure["nll"])


def test_decisions_are_counted_by_twentieth():
    found = compact.decisions([16] * 39 + [13], [16, 0] * 20)
    assert found["acceptance_rate"] == 16 * 20 / (39 * 16 + 13)
    assert found["candidates_by_twentieth"] == [32] * 19 + [29] and found["kept_by_twentieth"] == [16] * 20


def test_the_nll_of_each_example_is_stored_to_three_digits_and_held_against_the_mean():
    rng = np.random.default_rng(3)
    logits, labels = 3 * rng.normal(size=(1000, 2)), rng.integers(2, size=1000)
    found = compact.outcomes(logits, labels, each=True)
    each = compact.unpack_values(found["nll_each"])
    assert np.allclose(
        each,
        np.logaddexp(0, -(logits[range(1000), labels] - logits[range(1000), 1 - labels])),
        rtol=1e-3,
        atol=1e-7,
    )
    assert abs(each.mean() - found["nll"]) < 1e-3 * found["nll"]
    record = copy.deepcopy(records.find("imdb-whole-model", "article", 300))
    more = rng.exponential(record["numbers"]["nll"], 25_000)
    record["numbers"]["nll_each"] = compact.pack_values(more / more.mean() * record["numbers"]["nll"])
    assert verify.recompute(record) == []
    record["numbers"]["nll"] *= 1.01
    with pytest.raises(ValueError, match=r"nll is 0\.2.*, and made again"):
        verify.recompute(record)


def test_no_margin_but_zero_rounds_to_zero():
    values = np.array([1e-9, -3e-5, 0.0, 2.5])
    assert compact.significant(values) == values.tolist()


# verify: what a stranger could change


@pytest.mark.parametrize(
    ("run", "changes", "message"),
    [
        (
            ("imdb-small", "article", 0),
            {"accuracy": 0.99},
            "accuracy is 0.99, and by the margins 821 of 1000",
        ),
        (("imdb-small", "article", 0), {"acceptance_rate": 0.9}, "acceptance_rate is 0.9, and made again"),
        (("imdb-small", "article", 0), {"forward_passes": 6000}, "forward_passes leave"),
        (("imdb-small", "article", 0), {"steps": 100}, "steps is 100, and made again .* 199"),
        (("imdb-small", "article", 0), {"budget": 9000}, "budget is 9000, and made again .* 6750"),
        (
            ("imdb-small", "plain", 1),
            {"test_index": lambda rows: [*rows[1:], 24_999]},
            "test rows are not those",
        ),
        (("imdb-small", "plain", 1), {"test_label": lambda rows: rows[::-1]}, "labels are not those"),
        (("imdb-small", "plain", 1), {"test_margin": lambda rows: rows[:-1]}, "999 margins of 1000"),
        (("imdb-small", "plain", 1), {"accuracy": "0.8"}, "cannot be read"),
        (
            ("imdb-small", "random", 1),
            {"forward_passes": lambda passes: passes + 600},
            "forward_passes leave",
        ),
        (
            ("imdb-whole-model", "article", 300),
            {"accuracy": 0.99},
            "accuracy is 0.99, and made again .* 0.92",
        ),
        (("imdb-whole-model", "article", 300), {"accuracy": float("nan")}, "accuracy is nan"),
        (("imdb-whole-model", "article", 300), {"nll": 0.01}, "nll is 0.01, too little"),
        (("imdb-whole-model", "article", 300), {"right": lambda bits: bits[:-8]}, "truth values take"),
        (("imdb-whole-model", "article", 300), {"right": "?"}, "base64|padding"),
        (("imdb-whole-model", "article", 300), {"scored": 5}, "forward_passes is .*, and made again"),
        (("imdb-whole-model", "article", 300), {"acceptance_rate": 0.5}, "acceptance_rate is 0.5"),
        (("imdb-whole-model", "article", 300), {"kept_by_twentieth": lambda counts: counts[1:]}, "20 pairs"),
        (("imdb-whole-model", "twin", 300), {"steps": 5}, "steps is 5"),
        (("imdb-whole-model", "plain", 300), {"budget": 1}, "budget is 1"),
        (("arithmetic-200", "rejection", 3), {"accuracy": 0.99}, "accuracy is 0.99, and made again"),
        (("arithmetic-200", "control", 3), {"accuracy": 0.99}, "only .* pass casting out nines"),
        (("arithmetic-200", "control", 3), {"accuracy": 0.1234}, "accuracy is 0.1234"),
        (("arithmetic-200", "gold", 3), {"forward_passes": 600_000}, "forward_passes is 600000"),
        (
            ("arithmetic-200", "blind", 3),
            {"examples": lambda counts: [one + 1 for one in counts]},
            "examples is",
        ),
        (("arithmetic-200-tuning", "gold", 100), {"validation": [0.5] * 5}, "grid of 6 settings"),
        (("arithmetic-200-tuning", "gold", 100), {"validation": [0.12345] * 6}, "validation is 0.12345"),
    ],
)
def test_a_number_that_is_not_what_the_others_make_is_refused(run, changes, message):
    assert verify.recompute(records.find(*run)) == []
    with pytest.raises(ValueError, match=message):
        verify.recompute(stored(*run, **changes))


def test_a_run_whose_rule_starved_may_end_before_its_budget_is_spent():
    record = stored("imdb-whole-model-1", "article", 300)
    numbers = record["numbers"]
    trained = numbers["trained"] - 3200
    less = {"trained": trained, "forward_passes": numbers["scored"] + 3 * trained}
    numbers |= less
    with pytest.raises(ValueError, match="and the budget is 68631"):
        verify.recompute(record)
    numbers["stopped"] = "min(1, loss / 0.5) kept none of 200 candidates in a whole pass"
    assert verify.recompute(record) == []
    numbers |= {"scored": numbers["scored"] + 30_000, "forward_passes": less["forward_passes"] + 30_000}
    with pytest.raises(ValueError):
        verify.recompute(record)


@pytest.mark.parametrize("experiment", ["imdb-small", "imdb-whole-model", "arithmetic-50", "bench-selection"])
def test_no_numbers_another_model_and_other_data_are_refused(experiment):
    record = copy.deepcopy(records.runs(experiment)[0])
    with pytest.raises(ValueError, match=r"its numbers lack .*: there are none"):
        verify.recompute(record | {"numbers": {}})
    with pytest.raises(ValueError, match="its model is 'bert: hub, another'"):
        verify.recompute(record | {"model": "bert: hub, another"})
    if experiment != "bench-selection":
        with pytest.raises(ValueError, match="its data are 'imdb: embedded"):
            verify.recompute(record | {"data": "imdb: embedded, mini reviews"})


def test_a_rate_off_the_grid_and_a_rate_that_tuning_did_not_find_are_refused(folder):
    for name in ("imdb-whole-model", "imdb-whole-model-tuning"):
        shutil.copy(Path(__file__).parents[2] / "results" / f"{name}.jsonl", folder)
    record = stored("imdb-whole-model-tuning", "plain", 110, rate=5e-5)
    with pytest.raises(ValueError, match=r"learning_rate is 5e-05, and made again .* 7e-05"):
        verify.recompute(record | {"rate": 7e-5})
    record["numbers"]["learning_rate"] = 7e-5
    with pytest.raises(ValueError, match="the rate 7e-05 is not on the grid"):
        verify.recompute(record | {"rate": 7e-5})
    assert verify.section("imdb-whole-model") == []
    lines = (folder / "imdb-whole-model.jsonl").read_text().splitlines()
    lines[0] = json.dumps(stored("imdb-whole-model", "plain", 300, learning_rate=1e-4))
    (folder / "imdb-whole-model.jsonl").write_text("\n".join(lines))
    with pytest.raises(
        ValueError, match=r"imdb-whole-model plain 300: it took 0\.0001, and tuning found 5e-05"
    ):
        verify.section("imdb-whole-model")


def test_arms_of_a_seed_on_different_devices_are_refused(folder):
    file = folder / "imdb-whole-model-1.jsonl"
    text = (Path(__file__).parents[2] / "results" / file.name).read_text()
    *lines, last = text.splitlines()
    record = json.loads(last)
    record["machine"]["device"] = "another card"
    file.write_text("\n".join([*lines, json.dumps(record)]))
    with pytest.raises(
        ValueError, match="article 309 ran on another card, another arm of its seed on NVIDIA H100"
    ):
        verify.section("imdb-whole-model-1")


def test_margins_that_rounded_to_zero_leave_their_reviews_open():
    for run in (("imdb-small-quarter", "article", 2), ("imdb-short-again", "article", 27)):
        record = records.find(*run)
        note = "1 of 1000 margins round to 0.0 and leave their reviews open"
        assert verify.recompute(record) == [note]
        accuracy = record["numbers"]["accuracy"]
        may_be = [
            value for value in (accuracy - 0.001, accuracy + 0.001) if _holds(stored(*run, accuracy=value))
        ]
        assert len(may_be) == 1  # either the review counts or it does not
        assert not _holds(stored(*run, accuracy=accuracy + 0.002))


def _holds(record):
    try:
        return verify.recompute(record) is not None
    except ValueError:
        return False


def test_margins_of_a_second_run_are_compared_to_the_decimals_that_are_stored():
    record = stored("imdb-small-quarter", "article", 2)
    new = copy.deepcopy(record)
    new["numbers"]["test_margin"] = [value + 4e-5 for value in new["numbers"]["test_margin"]]
    assert all(line.endswith("equal") for line in records.compare(record, new))
    new["numbers"]["test_margin"][0] += 1e-3
    assert "test_margin: differs" in records.compare(record, new)


# all of results/


def test_every_result_holds_and_all_of_them_are_small_and_quick_to_verify():
    begun = time.process_time()
    notes = [note for name in records.sections() for note in verify.section(name)]
    assert time.process_time() - begun < 10
    assert len(notes) == 2 and all("round to 0.0" in note for note in notes)
    size = sum(file.stat().st_size for file in records.RESULTS.rglob("*") if file.is_file())
    assert size < 20e6
    names = {file.stem for file in records.RESULTS.glob("*.jsonl")}
    names |= {file.parent.name for file in records.RESULTS.glob("*/*.json")}
    assert names <= set(records.sections())


def test_sections_stand_as_they_were_before_their_runs():
    assert {name for name in records.sections() if records.runs(name)} <= set(HASHES)
    assert {name: records.protocol_hash(name) for name in HASHES} == HASHES


def test_every_section_names_the_task_that_runs_it_but_benchmarks_and_what_was_run_elsewhere():
    without = {name for name in records.sections() if not records.protocol(name).get("task")}
    assert all(name.startswith(("bench-", "imdb-whole-model")) for name in without)


def test_what_became_of_a_section_is_not_hashed_and_no_state_is_written(folder):
    before = records.protocol_hash("mini-reviews")
    text = (folder / "protocol.toml").read_text()
    assert "first form" in records.protocol("mini-reviews")["superseded"]
    assert {name for name, section in records.sections().items() if "superseded" in section} == {
        "mini-reviews",
        "bench-selection",
        "arithmetic-200-judges",
        "imdb-full-minilm",
        "sums-live",
    }
    assert not any("status" in section for section in records.sections().values())
    (folder / "protocol.toml").write_text(
        text.replace("a first form, texts", "a form, texts") + "\n# changed"
    )
    assert records.protocol_hash("mini-reviews") == before


def git(*words):
    return subprocess.run(["git", "-C", str(records.ROOT), *words], capture_output=True, text=True)


def test_the_commit_of_each_record_had_the_protocol_with_its_hash():
    if git("rev-parse", "--show-toplevel").stdout.strip() != str(records.ROOT):
        pytest.skip("not a git checkout of this project: its history is not here")
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("a shallow clone: the commits that the records name are not here")
    wanted = {}
    for name in records.sections():
        for record in records.runs(name):
            if (
                "made_by" not in record
            ):  # those were made beside this repository, by a protocol committed elsewhere
                wanted.setdefault(record["commit"].rstrip("+"), set()).add((name, record["protocol"]))
    for commit, sections in wanted.items():
        shown = git("show", f"{commit}:results/protocol.toml")
        assert shown.returncode == 0, f"the commit {commit} of {sections} is not in the history"
        protocol = tomllib.loads(shown.stdout)
        for name, stored_hash in sections:
            assert hash_of(protocol, name) == stored_hash, (commit, name)


def hash_of(protocol, name):
    """The hash of a section, from the text alone: with what it takes over, without what became of it."""

    def whole(name):
        section = protocol[name]
        return whole(section["like"]) | section if "like" in section else section

    measured = {
        key: value for key, value in whole(name).items() if key not in ("status", "task", "superseded")
    }
    return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()


def test_the_whole_model_runs_say_who_made_them_and_that_the_protocol_came_first():
    for name in ("imdb-whole-model", "imdb-whole-model-1", "imdb-whole-model-random"):
        for record in records.runs(name):
            assert "a worker of its own" in record["made_by"]
            assert record["begun"] > "2026-11-27T02:02" and record["commit"].startswith("7017304")


# verdicts


@pytest.mark.parametrize(
    "estimate, half, said",
    [
        (0.05, 0.04, "reproduced"),
        (0.03, 0.01, "refuted"),
        (0.04, 0.02, "not reproduced"),
        (0.3, 0.3, "not reproduced"),
        (-0.2, 0.1, "refuted"),
    ],
)
def test_the_first_rule_wants_a_gain_worth_having_and_an_interval_above_zero(estimate, half, said):
    found = checks.Verdict("", True, estimate, estimate - half, estimate + half)
    assert records.verdict(found, 0.05) == said
    assert records.verdict(found, 0.05, may=True) == said.replace("refuted", "not reproduced")


def test_verdicts_of_the_whole_model_are_made_from_the_bits():
    three, one = (
        verdicts.judged(*verdicts.contrasts(name)) for name in ("imdb-whole-model", "imdb-whole-model-1")
    )
    assert str(three).endswith(
        "article - plain, accuracy -0.52 [-0.64, -0.41] points at 97.5 %, 10 seeds, sign-flip p 0.0020: "
        "refuted (no gain of 0.5 points, in this scope)"
    )
    assert "-0.38 [-0.66, -0.10] points at 97.5 %, 10 seeds, sign-flip p 0.0098: refuted" in str(one)
    assert "10 seeds x 25,000 examples" in three.difference.text
    claim = records.protocol("imdb-whole-model")["claim"]
    assert verdicts.overall(["imdb-whole-model"])[claim].word == "refuted"


def test_sections_written_earlier_keep_the_rule_and_the_interval_that_they_were_written_with():
    found = {
        name: verdicts.judged(*verdicts.contrasts(name))
        for name in records.protocol("arithmetic-200")["family"]
    }
    words = {name: one.judgement.word for name, one in found.items()}
    assert words == {
        "arithmetic-50": "not reproduced",
        "arithmetic-200": "reproduced",
        "arithmetic-800": "not reproduced",
    }
    assert all(
        one.contrast.level == 0.05 / 3 and "paired difference" in one.difference.text
        for one in found.values()
    )
    (again,) = verdicts.contrasts("imdb-short-again")
    assert again.level == 0.025 and verdicts.judged(again).judgement.word == "shown"


SWEEP = """
[sweep]
like = "imdb-small"
claim = "it helps"
scope = "a toy"
contrast = ["article", "plain"]
arms = ["plain", "article", "twin"]
seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
test = 1000
smallest_gain = 0.005
interval = "the wider of t and crossed"
family = ["sweep", "sweep-nll", "sweep-twin"]

[sweep-nll]
like = "sweep"
measure = "nll"
sign = -1
smallest_gain = 0.05

[sweep-twin]
like = "sweep"
contrast = ["twin", "plain"]
smallest_gain = 0.01
quantifier = "may"
interval = "order statistics of the paired median"
"""


def put(experiment, arm, seed, right, **numbers):
    found = {"accuracy": float(right.mean()), "right": compact.pack(right), **numbers}
    records.write(experiment, arm, seed, RUN._replace(numbers=found))


def test_a_verdict_is_open_until_every_declared_seed_is_in_and_shares_the_level_of_its_family(folder):
    add_section(folder, SWEEP)
    (contrast,) = verdicts.contrasts("sweep")
    assert contrast.level == 0.05 / 3
    base = np.random.default_rng(0).random((10, 1000)) < 0.8
    better = base | (np.random.default_rng(1).random((10, 1000)) < 0.2)
    for seed in range(10):
        put("sweep", "plain", seed, base[seed])
        found = verdicts.judged(contrast)
        assert found.judgement.word == "open" and f"({10 - seed} of the declared seeds" in str(found)
        assert verdicts.means("sweep") == []  # nobody looks before all are in
        put("sweep", "article", seed, better[seed])
    found = verdicts.judged(contrast)
    expected = checks.crossed_difference(100.0 * better, 100.0 * base, level=0.05 / 3)
    assert (found.difference.low, found.difference.high) == (expected.low, expected.high)
    assert found.judgement.word == "reproduced" and "10 seeds, sign-flip p 0.0020" in str(found)
    assert str(found).endswith("in this scope); scope: a toy")


@pytest.mark.parametrize("each", [True, False])
def test_less_is_better_where_the_sign_says_so_and_reviews_count_where_each_is_stored(folder, each):
    add_section(folder, SWEEP)
    right = np.arange(1000) < 800
    rng = np.random.default_rng(2)
    nll = {arm: rng.gamma(2, mean / 2, (10, 1000)) for arm, mean in (("plain", 0.6), ("article", 0.4))}
    for arm, values in nll.items():
        for seed, row in enumerate(values):
            more = {"nll_each": compact.pack_values(row)} if each else {}
            put("sweep-nll", arm, seed, right, nll=float(row.mean()), **more)
    found = verdicts.judged(*verdicts.contrasts("sweep-nll"))
    assert found.judgement.word == "reproduced" and -0.22 < found.difference.estimate < -0.18
    assert "nll -0.2" in str(found) and "points" not in str(found)
    assert found.difference.text.startswith("crossed difference" if each else "paired difference")


def test_the_median_is_taken_where_runs_can_collapse_and_collapsed_runs_are_counted(folder):
    add_section(folder, SWEEP.replace("0, 1, 2, 3, 4, 5, 6, 7, 8, 9", ", ".join(map(str, range(20)))))
    for seed in range(20):
        put("sweep-twin", "plain", seed, np.arange(1000) < 700 + seed)
        put("sweep-twin", "twin", seed, np.arange(1000) < (550 if seed == 3 else 700 + 3 * seed))
    found = verdicts.judged(*verdicts.contrasts("sweep-twin"))
    assert found.collapsed == 1 and "1 runs collapsed" in str(found)
    assert found.difference.text.startswith("paired median") and found.judgement.word == "reproduced"


def test_a_run_that_its_rule_stopped_may_leave_some_of_its_budget_and_no_other():
    (run,) = (
        run for run in records.runs("imdb-last-few-tuning") if records.key(run) == ("article", 110, 0.0016)
    )
    assert (
        run["numbers"]["forward_passes"] < run["numbers"]["budget"] - 1
        and "kept none" in run["numbers"]["stopped"]
    )
    assert verify.recompute(run) == []
    numbers = {name: value for name, value in run["numbers"].items() if name != "stopped"}
    with pytest.raises(ValueError, match=r"forward_passes are \d+, and the budget is 12000"):
        verify.recompute(run | {"numbers": numbers})


def test_a_tuning_section_or_one_that_lacks_an_arm_declares_no_contrast():
    for name in (
        "imdb-whole-model-tuning",
        "imdb-whole-model-random",
        "arithmetic-800-retuned",
        "imdb-full-minilm",
    ):
        assert verdicts.contrasts(name) == []
    assert [one.arm for one in verdicts.contrasts("imdb-article")] == ["article"]
    assert verdicts.judged(*verdicts.contrasts("imdb-article")).judgement.word == "open"


def test_every_stored_setting_is_the_one_that_tuning_found():
    assert validated.best("imdb-whole-model", "plain") == ([5e-5], pytest.approx(0.9315))
    assert validated.best("imdb-whole-model", "twin") == validated.best("imdb-whole-model", "article")
    assert validated.best("imdb-whole-model", "twin")[0] == [1e-4]
    assert validated.best("arithmetic-200-judges", "nines")[0] == [[0.006, 3.0]]
    assert validated.best("imdb-article", "plain") == validated.best("imdb-small", "plain") == ([], 0.0)


STAGES = """
[toy]
like = "arithmetic-200"
arms = ["rejection", "control", "rounds"]
seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
tuning = ["toy-all", "toy-best"]
family = ["toy"]
contrasts = [{ arm = "rejection", against = ["control", "rounds"], interval = "median", smallest_gain = 0.05 }]
primary = "median"

[toy-all]
like = "toy"
seeds = [110]
stage = "all"
contrasts = []

[toy-best]
like = "toy-all"
seeds = [111, 112]
stage = "best"
"""


def test_of_several_controls_the_one_counts_that_validates_best_by_the_median_over_all_stages(folder):
    add_section(folder, STAGES)
    (contrast,) = verdicts.contrasts("toy")
    assert "rejection - control or rounds, accuracy: open" in str(verdicts.judged(contrast))
    a, b = [0.003, 1.0], [0.006, 1.0]

    def tuning(name, arm, seed, grid, found):
        records.write(name, arm, seed, RUN._replace(numbers={"grid": grid, "validation": found}))

    for arm, first, more in (("control", [0.9, 0.2], [0.1, 0.3]), ("rounds", [0.5, 0.9], [0.4, 0.6])):
        tuning("toy-all", arm, 110, [a, b], first)
        tuning("toy-best", arm, 111, [a], more[:1])
        tuning("toy-best", arm, 112, [a], more[1:])
    assert validated.best("toy", "control") == ([a], 0.3)  # the median of 0.9, 0.1, 0.3; b was tried once
    assert validated.best("toy", "rounds") == ([a], 0.5)
    rng = np.random.default_rng(4)
    for seed in range(10):
        for arm, share in (("rejection", 0.8), ("control", 0.85), ("rounds", 0.6)):
            put("toy", arm, seed, rng.random(1000) < share)
    found = verdicts.judged(contrast)
    assert found.contrast.against == "rounds" and found.judgement.word == "reproduced"


# the command


def test_verify_tells_of_the_machine_what_an_output_may_hang_on(monkeypatch, capsys):
    monkeypatch.setenv("RSF_SOURCE", "embedded")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert not door.main(["verify", "--machine"])
    told = json.loads(capsys.readouterr().out)
    assert {
        "python",
        "numpy",
        "torch",
        "processor",
        "cores",
        "commit",
        "threads",
        "free disk, GiB",
    } <= told.keys()
    assert told["instructions"]["torch"] and isinstance(told["instructions"]["numpy"], list)
    assert told["variables"]["ATEN_CPU_CAPABILITY"] == "default" and "mini reviews" in told["data"]


def test_of_a_processor_without_instructions_beyond_numpy_s_own_it_says_that_there_are_none(monkeypatch):
    monkeypatch.setenv("RSF_SOURCE", "embedded")
    for config in ({}, {"SIMD Extensions": {"baseline": ["X86_V2"]}}):
        monkeypatch.setattr(np, "show_config", lambda mode, config=config: config)
        assert provenance.situation()["instructions"]["numpy"] == []


def test_of_no_runs_none_is_missing():
    assert records.missing("imdb-full") and not records.missing("imdb-full", [])


def test_verify_says_of_a_file_what_holds_and_of_a_second_run_that_the_first_stands(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sent.json"
    file.write_text(json.dumps(stored("imdb-small", "plain", 0)))
    assert not door.main(["verify", str(file)])
    said = capsys.readouterr().out
    assert (
        f"{file}: imdb-small plain seed 0 holds\n" in said
        and "imdb-small: 15 of 15 runs, decides nothing" in said
    )
    file.write_text(json.dumps(stored("imdb-small", "plain", 0, seconds=1.0)))
    assert door.main(["verify", str(file)]) == 1
    second = f"{file}: REFUSED: another run of imdb-small plain seed 0 is there, and the first stands\n"
    assert second in capsys.readouterr().out
    for record, message in (
        ([], "a record is an object"),
        (stored("imdb-small", "plain", 0, accuracy=0.99), "accuracy"),
    ):
        file.write_text(json.dumps(record))
        assert door.main(["verify", str(file)]) == 1
        (said, *_) = capsys.readouterr().out.splitlines()
        assert said.startswith(f"{file}: REFUSED: ") and message in said


def test_verify_prints_the_state_and_the_verdict_of_every_section_and_runs_a_seed_again(monkeypatch, capsys):
    again = door.experiment
    monkeypatch.setattr(
        door, "experiment", lambda name, **options: again(name, arms=["article"], **options)
    )  # of five arms one
    assert not door.main(["verify"])
    said = capsys.readouterr().out
    assert said.count("mini-last article 240: ") == 1 and " numbers are equal, on " in said.splitlines()[-1]
    for name in records.sections():
        assert f"{records.status(name)}" in said
    assert said.count(": refuted (no gain of 0.5 points, in this scope)\n") == 2
    assert "gsm8k-chat: verified - supervised, accuracy: open (10 of the declared seeds are missing)" in said
    assert "imdb-full-minilm: superseded by imdb-whole-model" in said


def test_a_section_that_no_task_of_ours_runs_says_so(capsys):
    assert door.main(["experiment", "imdb-whole-model"]) == 2
    assert "names no task that runs it" in capsys.readouterr().err
