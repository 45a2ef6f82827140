"""A class: a seed a student, files that are merged, what is missing or refused, and a verdict that nobody typed."""

import json
import re
import shutil
import subprocess
import threading
import time

import nbformat
import numpy as np
import pytest

from rsf import __main__ as door
from rsf.lab import compact, full, merged, notebooks, provenance, records, verdicts
from rsf.lab.report.forest import forest_figure

CLASS = "mini-class"
SEEDS = records.protocol(CLASS)["seeds"]
MINI = ("imdb: embedded, mini reviews (480 train, 240 test)", "bert: embedded, all-MiniLM-L6-v2")


@pytest.fixture
def room(tmp_path, monkeypatch):
    """No results but the protocol, and a folder for what is handed in."""
    (tmp_path / "results").mkdir()
    (tmp_path / "sent").mkdir()
    shutil.copy(records.RESULTS / "protocol.toml", tmp_path / "results")
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    machine = provenance.machine("CPU, 1 threads")  # once: it reads all that is installed
    monkeypatch.setattr(records, "machine", lambda device: machine | {"device": device})
    monkeypatch.setattr(records, "commit", lambda: "unknown")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs_of(seed, gain=0.0, device="CPU, 1 threads"):
    """The records of all arms of a seed, as if they had been run; `gain` is the article's."""
    rng = np.random.default_rng(seed)
    labels = np.arange(240) % 2
    made = []
    for arm in records.protocol(CLASS)["arms"]:
        right = rng.random(240) < 0.7 + gain * (arm == "article")
        scores = np.zeros((240, 2))
        scores[np.arange(240), np.where(right, labels, 1 - labels)] = rng.gamma(2, 0.3, 240)
        kept = [int(arm == "plain" or coin < 0.5) for coin in rng.random(75)]
        trained, scored = 8 * sum(kept), 0 if arm == "plain" else 600
        numbers = {
            **compact.outcomes(scores, labels),
            **compact.decisions([1] * 75, kept),
            "forward_passes": scored + 3 * trained,
            "budget": 1800,
            "scored": scored,
            "trained": trained,
            "steps": sum(kept),
            "learning_rate": 5e-4,
            "seconds": 1.0,
            "stopped": "at a whole pass, for this test",
        }
        file = records.write(
            CLASS, arm, seed, records.Run(*MINI, device, numbers), begun=f"2026-11-27T{seed}"
        )
        made.append(json.loads(file.read_text()))
    shutil.rmtree(records.RESULTS / CLASS)
    return made


def hand_in(room, name, runs):
    (room / "sent" / f"{name}.jsonl").write_text("".join(f"{json.dumps(run)}\n" for run in runs))


def verified(room, capsys):
    code = door.main(["verify", str(room / "sent")])
    told = capsys.readouterr()
    assert told.err == ""
    return code, told.out


def test_each_student_gets_a_seed_of_what_lacks_and_while_tuning_lacks_that(room):
    lines = list(full.assign(20, [CLASS]))
    assert [line.split(maxsplit=1)[1] for line in lines[:-1]] == [
        f"full {CLASS} --seeds {seed}" for seed in SEEDS
    ]
    assert lines[-1] == "20 of 20 students have a seed, 20 lack"
    *lines, last = full.assign(20)
    assert len(lines) == 12 and last == "12 of 20 students have a seed, 12 lack"
    assert lines[0].split(maxsplit=1)[1] == "full imdb-class-tuning --seeds 110 --rates 1e-05"


@pytest.mark.parametrize("gain", [0.2, -0.2])
def test_twenty_files_are_one_verdict_and_a_picture(room, gain, capsys):
    for number, seed in enumerate(SEEDS):
        hand_in(room, f"student {number}", runs_of(seed, gain))
    code, said = verified(room, capsys)
    (finding,) = map(verdicts.judged, verdicts.contrasts(CLASS))
    assert code == 0 and said.count(" holds") == 60 and "REFUSED" not in said and "missing" not in said
    assert f"{CLASS}: 60 of 60 runs\n" in said and f"\n  {finding}\n" in said
    assert finding.judgement.word == ("reproduced" if gain > 0 else "refuted") and finding.seeds == 20
    assert (room / "build" / "verified" / f"{CLASS}-1.png").stat().st_size > 10_000
    assert len(list((room / "build" / "verified" / CLASS).glob("*.json"))) == 60
    assert list((room / "results").iterdir()) == [room / "results" / "protocol.toml"]
    # what was taken can be handed in again, and makes the complete section
    records.fold(CLASS)
    assert (room / "results" / f"{CLASS}.jsonl").is_file()
    assert verified(room, capsys)[0] == 0


def edited(runs, **numbers):
    return [run | {"numbers": run["numbers"] | numbers} for run in runs]


def test_who_is_missing_or_cheats_is_named_and_the_rest_stands(room, capsys):
    files = {seed: runs_of(seed) for seed in SEEDS[:12]}
    other, third, fourth = (SEEDS[n] for n in (12, 13, 14))
    for seed, runs in files.items():
        hand_in(room, seed, runs)
    hand_in(room, "half", runs_of(other)[:1])  # killed half-way
    copied = edited(files[SEEDS[3]], seconds=2.0, nll=0.75)
    copied[0]["numbers"]["calibration"]["confidence"][3] = 0.56
    hand_in(room, "copy", [run | {"seed": third, "begun": "2026-11-28"} for run in copied])
    hand_in(room, "edited", edited(runs_of(fourth), accuracy=0.9))
    hand_in(room, "other's, edited", edited(files[SEEDS[4]], accuracy=0.9))
    hand_in(room, "again", edited(runs_of(SEEDS[0], 0.2), seconds=3.0))
    hand_in(room, "protocol", [run | {"protocol": 64 * "0"} for run in runs_of(SEEDS[15])])
    hand_in(room, "section", [run | {"experiment": "mini-last"} for run in runs_of(SEEDS[16])])
    hand_in(room, "devices", [*runs_of(SEEDS[17])[:2], *runs_of(SEEDS[17], device="a card")[2:]])
    hand_in(room, "seed", [run | {"seed": 1} for run in runs_of(SEEDS[18])])
    (room / "sent" / "empty.jsonl").write_text("")
    hand_in(room, f"{SEEDS[0]} twice", files[SEEDS[0]])
    code, said = verified(room, capsys)
    refused = dict(re.findall(r"sent/([\w ',]+)\.jsonl: REFUSED: (.*)", said))
    assert code == 1 and refused.keys() == {
        *("copy", str(SEEDS[3]), "edited", "again", "protocol", "section", "devices", "seed", "empty"),
        "other's, edited",
    }
    assert f"plain seed {third} has the answers of seed {SEEDS[3]}: one is a copy" in refused["copy"]
    assert f"plain seed {SEEDS[3]} has the answers of seed {third}" in refused[str(SEEDS[3])]
    assert "accuracy is 0.9, and made again" in refused["edited"]
    assert f"another run of {CLASS} plain seed {SEEDS[0]} is there" in refused["again"]
    assert "another protocol" in refused["protocol"] and "another protocol" in refused["section"]
    assert "ran on a card, another arm of its seed on CPU" in refused["devices"]
    assert "is not in the protocol" in refused["seed"] and "no record" in refused["empty"]
    assert f"{CLASS}: 34 of 60 runs" in said  # eleven whole seeds, and one arm
    missing = re.findall(r"missing: full mini-class --seeds (\d+)", said)
    assert list(map(int, missing)) == sorted({SEEDS[3], *SEEDS[12:]})
    assert f"({len(missing)} of the declared seeds are missing)" in said and "accuracy: plain" not in said
    # of the copy and its source, the one that is run again stands
    (room / "sent" / "copy.jsonl").unlink()
    assert f"{SEEDS[3]}.jsonl: {CLASS} plain seed {SEEDS[3]} holds" in verified(room, capsys)[1]


def test_a_run_that_is_stored_stands_before_all_that_is_sent(room, capsys):
    first, second = runs_of(SEEDS[0]), runs_of(SEEDS[1])
    for run in first:
        records.put(run, records.RESULTS)
    hand_in(room, "same", first)
    hand_in(room, "copy", [run | {"seed": SEEDS[1]} for run in first])
    hand_in(room, "own", second)
    code, said = verified(room, capsys)
    assert code == 1 and said.count("REFUSED") == 1
    assert re.search("copy.jsonl: REFUSED: .*one is a copy", said) and "own.jsonl: mini-class plain" in said
    assert f"{CLASS}: 6 of 60 runs" in said


def test_a_folder_without_a_result_is_a_mistake_of_one_line(room, capsys):
    assert door.main(["verify", str(room / "sent")]) == 2
    assert "no result file" in capsys.readouterr().err


def test_what_counts_beside_results_is_said_by_one_variable(room, monkeypatch):
    (run, *_) = runs_of(SEEDS[0])
    monkeypatch.setenv("RSF_RESULTS", str(room / "mine"))
    assert records.put(run) == room / "mine" / CLASS / f"plain-{SEEDS[0]}.json"
    assert records.runs(CLASS) == [run]
    records.put(run | {"begun": "another"}, records.RESULTS)
    assert [one["begun"] for one in records.runs(CLASS)] == ["another"]


def test_what_fits_runs_side_by_side_in_time_and_nothing_is_begun_twice(room, monkeypatch):
    asked, now, most = [], [0], [0]
    threads = threading.active_count()  # those of other tests

    def pretend(command, timeout, **_):
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.05)
        asked.append(command[-1])
        if command[-1] == str(SEEDS[2]):
            raise subprocess.TimeoutExpired(command, timeout)
        now[0] -= 1

    monkeypatch.setattr(full.subprocess, "run", pretend)
    monkeypatch.setattr(full.torch, "set_num_threads", lambda _: None)
    lines = list(full.run([CLASS], 1, room / "out", SEEDS[:6], jobs=3))
    assert sorted(asked) == list(map(str, SEEDS[:6])) and most[0] in (3, 4)
    assert lines == [*(f"{CLASS}-{seed}: " for seed in SEEDS[:6]), f"{CLASS}: not yet run"]
    assert threading.active_count() <= threads and list(full.run([CLASS], 0.5, room / "out"))[:-1] == []


def test_every_declared_contrast_has_its_picture(tmp_path):
    for name in ("topics", "imdb-last-few-nll", "imdb-article"):
        for finding in map(verdicts.judged, verdicts.contrasts(name)):
            assert forest_figure(finding, tmp_path / f"{name}.png").stat().st_size > 10_000


def test_handed_out_notebooks_have_no_solution_and_no_output_in_either_language(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "BUILD", tmp_path)
    (told,) = notebooks.handout(["03"])
    assert told["notebook"].startswith("03_")
    files = sorted(tmp_path.rglob("*.ipynb"))
    assert [file.parent.name for file in files] == ["handout", "zh"]
    for file in files:
        given = nbformat.read(file, 4)
        nbformat.validate(given)
        whole = nbformat.read(notebooks.NOTEBOOKS / file.relative_to(tmp_path / "handout"), 4)
        text = "\n".join(cell.source for cell in given.cells)
        assert not re.search("Solution|解答", text) and len(re.findall("Hint|思路", text)) == 3
        assert not notebooks.outputs(given) and notebooks.outputs(whole)
        code = [[cell.source for cell in one.cells if cell.cell_type == "code"] for one in (given, whole)]
        assert code[0] == code[1]


def test_one_seed_runs_for_real_and_its_file_holds(room, capsys):
    seed = SEEDS[0]
    assert list(full.run([CLASS], 5, room / "out", [seed])) == [
        f"{CLASS}-{seed}: done",
        f"{CLASS}: 3 of 60 runs",
    ]
    file = room / "out" / f"{CLASS}-{seed}.jsonl"
    assert file.stat().st_size < 12_000
    sections, said = merged.merge([file], room / "build" / "verified")
    assert sections == [CLASS] and said[file].count("holds") == 3
