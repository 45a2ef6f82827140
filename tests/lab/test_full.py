"""The full sections on a lent GPU, tried on a CPU: a tiny archive, runs in time that go on, files that verify accepts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from archive import pack

from rsf.__main__ import main
from rsf.lab import arms, data, full, models, provenance, records, tuning
from rsf.lab.tasks import imdb_tuned

HALF = "imdb-whole-model-half"
# a Python without `datasets`, as the machine that the archive is for
WITHOUT = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def without(name, path=None, target=None):
    return None if name.split(".")[0] == "datasets" else find(name, path, target)
PathFinder.find_spec = staticmethod(without)
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The tiny archive, unpacked, and an environment without `datasets`, network and the embedded model's package."""
    here = tmp_path_factory.mktemp("archive")
    with tarfile.open(pack(tiny=True)) as tar:
        tar.extractall(here, filter="data")
    (here / "site").mkdir()
    (here / "site" / "sitecustomize.py").write_text(WITHOUT)
    drop = {name: value for name, value in os.environ.items() if not name.startswith("RSF_")}
    return here / "rsf-full", drop | {"PYTHONPATH": str(here / "site"), "HF_HUB_OFFLINE": "1"}


def call(archive, *words, **environment):
    root, own = archive
    return subprocess.run(
        [sys.executable, "-m", "rsf", *words],
        cwd=root,
        env=own | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def whole(archive, tmp_path_factory):
    """What one call made of a section and its tuning: the folder and the lines."""
    out = tmp_path_factory.mktemp("out")
    lines = call(archive, "full", HALF, "--minutes", "5", "--jobs", "2", "--out", str(out)).splitlines()
    return out, lines


def test_one_call_tunes_a_section_and_runs_it_and_its_files_hold(
    archive, whole, capsys, monkeypatch, tmp_path
):
    out, lines = whole
    assert lines[:2] == [f"{HALF}-tuning-110-0.001: done", f"{HALF}-300: done"]
    assert lines[2:] == [f"{HALF}-tuning: 2 of 2 runs", f"{HALF}: 2 of 2 runs"]
    said = call(archive, "verify", str(out))
    assert said.count(" holds") == 4 and f"{HALF}: 2 of 2 runs, decides nothing" in said
    assert "REFUSED" not in said and "missing" not in said
    record = json.loads((out / "results" / HALF / "article-300.json").read_text())
    assert "in name only, tiny" in record["model"] and record["data"].startswith(
        "imdb: local copy, tokenised"
    )
    assert record["machine"]["beside"] == 2
    assert record["numbers"]["precision"] == "float32" and record["commit"] == records.commit()
    assert not list((out / "checkpoints").glob("*/*/*")) and record["begun"]
    # no other protocol takes a trial for a result
    monkeypatch.chdir(tmp_path)
    assert main(["verify", str(out)]) == 1
    assert capsys.readouterr().out.count("REFUSED: ") == 2 and not list(tmp_path.rglob("*.json"))


def test_what_is_there_is_not_run_again_and_no_run_begins_that_could_not_end(archive, whole, tmp_path):
    out, lines = whole
    assert call(archive, "full", HALF, "--minutes", "5", "--out", str(out)).splitlines() == lines[2:]
    quarter = ["imdb-whole-model-quarter-tuning", "imdb-whole-model-quarter"]
    assert list(full.run(quarter[1:], 0.5, tmp_path)) == [f"{name}: not yet run" for name in quarter]


def test_a_killed_arm_goes_on_and_ends_as_if_it_had_not_been(archive, whole, tmp_path):
    root, own = archive
    shutil.copytree(root, tmp_path / "tree")
    out = tmp_path / "out"
    shutil.copytree(whole[0] / "results", out / "results")
    (out / "results" / HALF / "article-300.json").unlink()
    saving = own | {"RSF_CHECKPOINTS": str(out / "checkpoints"), "RSF_SAVE_EVERY": "0"}
    saving |= {"RSF_RESULTS": str(out / "results")}
    saving |= {"RSF_DATA": str(tmp_path / "tree" / "data"), "OMP_NUM_THREADS": "1"}
    words = ["-m", "rsf", "experiment", HALF, "--arms", "article", "--seeds", "300"]
    process = subprocess.Popen([sys.executable, *words], cwd=tmp_path / "tree", env=saving)
    while process.poll() is None and not list(out.glob("checkpoints/*/*/*/checkpoint-3/trainer_state.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for file in out.glob(
        "checkpoints/*/*/*/checkpoint-*.json"
    ):  # whoever goes on from here has trained for so long
        file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds": 1000.0}))
    words = ["full", HALF, "--seeds", "300", "--minutes", "5", "--out", str(out)]
    lines = call((tmp_path / "tree", own), *words).splitlines()
    assert lines == [f"{HALF}-300: done", f"{HALF}-tuning: 2 of 2 runs", f"{HALF}: 2 of 2 runs"]
    file = out / "results" / HALF / "article-300.json"
    found, wanted = (
        json.loads(one.read_text())["numbers"] for one in (file, whole[0] / "results" / HALF / file.name)
    )
    assert found.pop("seconds") > 1000 and wanted.pop("seconds") < 1000
    assert found == wanted and not list(out.glob("checkpoints/*/*/*"))


def test_token_ids_are_cut_as_texts_are_and_put_aside_alike(archive):
    tokens = data._tokenised(archive[0] / "data" / "imdb" / "tokens.npz")
    packed, texts = data.Data(*tokens), data.load("imdb", source="embedded")
    tokenizer = models.load("bert", 2, np.random.default_rng(0), source="embedded").tokenizer
    for size in (8, 40, 512):
        rows = [data.encoded(part, range(0, 240, 7), tokenizer, size) for part in (packed.test, texts.test)]
        assert rows[0] == rows[1] and max(len(row["input_ids"]) for row in rows[0]) <= size
    for one, other in zip(data.put_aside(packed, 30), data.put_aside(texts, 30), strict=True):
        assert np.array_equal(one, other)


# which run is next


@pytest.fixture
def card(monkeypatch):
    """A card of 78 GiB and 16 cores, on which nothing of the queue was run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=78 * 2**30)
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    stored = records.runs
    monkeypatch.setattr(
        records, "runs", lambda name: stored(name) if name.startswith("bench") else told.get(name, [])
    )
    told = {}
    return told


def test_the_benchmark_runs_alone_then_as_many_as_fit_and_the_hubs_models_one_at_a_time(card):
    names = full.with_tuning(full.QUEUE)
    assert names[:3] == ["bench-selection", f"{HALF}-tuning", HALF] and names[-1] == "gsm8k-chat"
    for name in names:  # each grid may begin, none waits for another's
        assert not name.endswith("-tuning") or len(full.lacking(name)) >= 12
    (bench,) = full.lacking("bench-selection")
    assert full.words_of(bench) == ["bench", "selection"]
    assert [full.beside(name) for name in names[:4]] == [1, 13, 13, 13]
    assert full.beside("imdb-full", 9) == 1 and full.beside(HALF, 9) == 9
    assert full.lacking(f"{HALF}-tuning")[0] == (f"{HALF}-tuning", 110, 2.5e-5)
    assert full.words_of((f"{HALF}-tuning", 110, 2.5e-5)) == [
        *["experiment", f"{HALF}-tuning", "--seeds", "110", "--rates", "2.5e-05"]
    ]
    assert full.words_of(("imdb-full", 3, None)) == ["experiment", "imdb-full", "--seeds", "3"]


def run_of(section, arm, seed, device="a card", precision="bfloat16", **more):
    return {
        "experiment": section,
        "arm": arm,
        "seed": seed,
        "machine": {"device": device},
        "numbers": {"precision": precision, "accuracy": 0.5},
        **more,
    }


def test_a_seed_begun_elsewhere_is_left_and_one_begun_here_is_ended(card, monkeypatch):
    monkeypatch.setattr(
        tuning, "missing", lambda name: [] if "tuning" in name else [("random", 0, None), ("plain", 1, None)]
    )
    card["imdb-full"] = [run_of("imdb-full", "plain", 0)]
    assert [job[1] for job in full.lacking("imdb-full")] == [0, 1]
    assert full.lacking("imdb-full", [1, 2]) == [("imdb-full", 1, None)]
    for elsewhere in ({"device": "another card"}, {"precision": "float16"}):
        card["imdb-full"] = [run_of("imdb-full", "plain", 0, **elsewhere)]
        assert [job[1] for job in full.lacking("imdb-full")] == [1]


def test_what_is_not_tuned_names_the_commands_that_tune_it():
    with pytest.raises(
        ValueError, match=r"imdb-full-tuning lacks 24 runs.*python -m rsf full imdb-full-tuning"
    ):
        imdb_tuned.run("imdb-full", "plain", 0)
    assert full.lacking("imdb-full") == [] and len(full.lacking("imdb-full-tuning")) == 12


# one device, one precision


@pytest.mark.parametrize(
    ("capability", "wanted"),
    [((7, 5), "float16"), ((8, 0), "bfloat16"), ((8, 9), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_the_precision_follows_the_device(capability, wanted, monkeypatch):
    settings = records.protocol("imdb-article")
    assert arms.precision(settings) == arms.precision({"bf16": False}) == "float32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert arms.precision(settings) == wanted and arms.precision({"bf16": False}) == "float32"
    monkeypatch.setenv("RSF_CHECKPOINTS", "kept")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    folder = arms.checkpoints_of(("imdb-full", "plain", 3, 1e-5), settings)
    assert folder.parts == ("kept", f"Tesla-T4-{wanted}", "imdb-full", "plain-3-1e-05")


@pytest.mark.parametrize("other", [{"device": "another card"}, {"precision": "float16"}])
def test_arms_of_a_seed_on_two_devices_or_precisions_are_refused(other):
    runs = [run_of("imdb-full", "plain", 0), run_of("imdb-full", "article", 1, **other)]
    provenance.alike(
        [*runs, run_of("bench-selection", "cpu", 0, **other), run_of("bench-selection", "gpu", 0)]
    )
    with pytest.raises(
        ValueError, match=r"imdb-full article 0 ran on .*, another arm of its seed on a card, bfloat16"
    ):
        provenance.alike([*runs, run_of("imdb-full", "article", 0, **other)])
