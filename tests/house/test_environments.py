"""Environments elsewhere: the ranges admit Colab's versions, set-up cells leave them alone, a difference is told."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import environments
import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from rsf.lab import notebooks
from rsf.lab.records import ROOT
from rsf.lab.report import overview

STORED = json.loads(environments.FILE.read_text(encoding="utf-8"))


def test_the_open_ranges_admit_what_colab_has():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["generation"], *extras["selection"], *extras["lab"]]
    ranges = {one.name: one.specifier for one in map(Requirement, declared)}
    there = environments.COLAB.keys() & ranges.keys()
    assert len(there) >= 14 and {"numpy", "torch", "transformers", "datasets", "ipykernel"} <= there
    assert [name for name in there if environments.COLAB[name] not in ranges[name]] == []
    assert environments.COLAB_PYTHON in SpecifierSet(project["requires-python"])


def test_set_up_cells_install_the_package_alone_and_what_colab_lacks():
    for name in notebooks.names():
        first, *others = environments.set_up_lines(name)
        assert first == ["install", "-q", "--no-deps", "WHEEL"], name
        assert all(words[:2] == ["install", "-q"] and "WHEEL" not in words for words in others)
        asked = {word for words in others for word in words[2:]}
        assert not asked & environments.COLAB.keys(), name


def test_the_cell_that_differs_is_named_and_no_other(monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "PLACE", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    cells = [
        nbformat.v4.new_code_cell(
            "print(1 + 1)", execution_count=1, outputs=[nbformat.v4.new_output("stream", text=stored)]
        )
        for stored in ("2\n", "3\n")
    ]
    file = tmp_path / "00_small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), file)
    row, (found,) = environments.strict(sys.executable, file, environments.elsewhere())
    assert row["cells"] == 2 and (found["notebook"], found["cell"]) == ("00_small", "Cell 1")
    assert str(tmp_path) not in found["what"] and "3" in found["what"]


def test_a_notebook_without_a_report_is_a_difference(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "PLACE", tmp_path)
    _, (found,) = environments.strict(sys.executable, tmp_path / "no.ipynb", environments.elsewhere())
    assert found["cell"] == "" and "not found" in found["what"]


NAMES = ("colab", "newest", *environments.LINES)


def test_all_five_environments_are_stored_and_no_cell_differs_in_any():
    assert set(STORED) == set(NAMES)
    assert {label: record["differences"] for label, record in STORED.items() if record["differences"]} == {}


@pytest.mark.parametrize("label", NAMES)
def test_what_is_stored_of_each_environment_is_whole(label):
    record = STORED[label]
    assert record["verdict"] == ("different" if record["differences"] else "equal")
    assert {one["notebook"] for one in record["differences"]} <= record["notebooks"].keys()
    assert all(row["cells"] > 0 and row["seconds"] > 0 for row in record["notebooks"].values())
    assert re.fullmatch(r"[0-9a-f]{40}\+?", record["commit"])
    assert not re.search(r"(?<![\w.])/(home|tmp|work|usr|root)/", json.dumps(record))
    if label == "colab":
        wanted = {**environments.COLAB, **record["instead"]}
        assert all(record["versions"][name].split("+")[0] == version for name, version in wanted.items())
        assert record["wanted"] == {"python": environments.COLAB_PYTHON, **environments.COLAB}
    elif label in environments.LINES:
        assert record["variables"] == environments.LINES[label]


def git(*words):
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout


@pytest.mark.parametrize("label", NAMES)
def test_a_pass_left_out_no_notebook_that_its_commit_had(label):
    told = git("rev-parse", "--show-toplevel", "--is-shallow-repository").splitlines()
    if told != [str(ROOT), "false"]:
        pytest.skip("no git checkout, or a shallow clone: the commits that the records name are not here")
    record = STORED[label]
    listed = git("ls-tree", "--name-only", record["commit"].rstrip("+"), "notebooks/").splitlines()
    assert set(record["notebooks"]) == {Path(one).stem for one in listed if one.endswith(".ipynb")}


def test_the_table_says_how_many_of_today_s_notebooks_a_pass_covers(monkeypatch, tmp_path):
    old = notebooks.names()[:-1]
    stored = {label: {**record, "notebooks": old} for label, record in STORED.items()}
    (tmp_path / "environments.json").write_text(json.dumps(stored))
    monkeypatch.setattr(overview.records, "RESULTS", tmp_path)
    told = overview.environments_table()
    assert told.count(f"equal, {len(old)} of {len(old) + 1} notebooks") == 5
