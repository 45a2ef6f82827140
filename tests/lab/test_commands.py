"""The commands: a user's mistake is one line, stored runs are named, and a run made again stands beside the stored one."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest

from rsf.__main__ import main
from rsf.lab import provenance, records


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "judged.csv"
    file.write_text("prompt,reward,kept\na,1,1\na,0,0\nb,1,1\n")
    return file


MISTAKES = {
    "no such section": (["experiment", "imdb-huge"], "no section 'imdb-huge'"),
    "no such file": (["verify", "nowhere.json"], "nowhere.json"),
    "no such table": (["audit", "nowhere.csv"], "nowhere.csv"),
    "columns without an equals sign": (["audit", "TABLE", "--columns", "prompt"], "got 'prompt'"),
    "columns nobody knows": (["audit", "TABLE", "--columns", "question=prompt"], "question"),
    "a rule nobody knows": (["audit", "TABLE", "--rule", "best", "1"], "got 'best'"),
    "a rule without its number": (["audit", "TABLE", "--rule", "above"], "--rule above"),
    "a rule with a word": (["audit", "TABLE", "--rule", "above", "one"], "one"),
    "a negative k": (["audit", "TABLE", "--rule", "clipped", "-1"], "k must be"),
    "no such notebook": (["lab", "99"], "'99'"),
    "no such notebook to run": (["notebooks", "run", "99"], "'99'"),
}


@pytest.mark.parametrize("words, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_it(words, message, table, capsys):
    assert main([str(table) if word == "TABLE" else word for word in words]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1 and "Traceback" not in shown


def test_the_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("RSF_TRACEBACK", "1")
    with pytest.raises(ValueError, match="imdb-huge"):
        main(["experiment", "imdb-huge"])


@pytest.mark.parametrize("words", [["notebooks", "check"], ["figures"], ["lab"], ["bench", "sampling"]])
def test_what_needs_a_checkout_says_so_and_writes_nothing(words, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(records, "CHECKOUT", False)
    monkeypatch.chdir(tmp_path)
    assert (
        main(words) == 2 and "needs a checkout" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    )


def test_an_experiment_whose_runs_are_stored_says_so(capsys):
    assert not main(["experiment", "imdb-small"])
    assert capsys.readouterr().out == (
        "imdb-small: 15 of 15 runs are stored; --again runs them anew and compares\n"
    )


@pytest.fixture
def again(tmp_path, monkeypatch):
    """Stored runs in a folder of their own, and a task that gives one of them again, perhaps changed."""
    shutil.copytree(records.RESULTS / "imdb-short", tmp_path / "results" / "imdb-short")
    shutil.copy(records.RESULTS / "protocol.toml", tmp_path / "results")
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setattr(records, "CHECKOUT", True)
    stored = records.path("imdb-short", "article", 0)
    record = json.loads(stored.read_text())

    def of(changes, processor):
        record["machine"]["processor"] = processor
        stored.write_text(json.dumps(record))
        run = records.Run("d", "m", "CPU", record["numbers"] | changes)
        task = SimpleNamespace(run=lambda experiment, arm, seed: run)
        monkeypatch.setitem(sys.modules, "rsf.lab.tasks.imdb", task)
        return main(["experiment", "imdb-short", "--again", "--arms", "article", "--seeds", "0"])

    return of


@pytest.mark.parametrize(
    "changes, same, code, said",
    [
        ({"cpu_seconds": 1.0}, True, 0, "on the same kind of processor"),
        ({"accuracy": 0.1}, True, 1, "accuracy: stored"),
        ({"accuracy": 0.1}, False, 0, "on another kind of processor"),
    ],
)
def test_a_run_made_again_stands_beside_the_stored_one(again, changes, same, code, said, capsys, tmp_path):
    assert again(changes, provenance.processor() if same else "another") == code
    shown = capsys.readouterr().out
    assert said in shown and ("differs" in shown) == ("accuracy" in changes) and "seconds:" not in shown
    assert (tmp_path / "build" / "again" / "imdb-short" / "article-0.json").is_file()
