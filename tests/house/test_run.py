"""run.py: it makes its environment once for each state of the project's files, and never erases what it did not make."""

import importlib.util
import subprocess
import sys

import pytest

from rsf.lab.records import ROOT


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run.py on an empty project, with the making of an environment and pip replaced by notes of what was asked for."""
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    declared = [tmp_path / "constraints.txt", tmp_path / "pyproject.toml"]
    for file in declared:
        file.write_text("as it is")
    environment = tmp_path / ".venv"
    monkeypatch.setattr(module, "DECLARED", declared)
    monkeypatch.setattr(module, "ENVIRONMENT", environment)
    monkeypatch.setattr(module, "STAMP", environment / "stamp")
    module.asked = []
    monkeypatch.setattr(module.venv, "create", lambda folder, with_pip: (folder / "made").write_text(""))

    def called(command, **_):
        module.asked.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(module.subprocess, "run", called)
    return module


def installed(run):
    return [command[-1] for command in run.asked if "install" in command]


def test_each_word_installs_what_it_needs_once(run):
    for words in ([], ["lab"], ["figures"], ["test"], ["test"], []):
        assert run.main(words) == 0
    assert installed(run) == [".[lab]", ".[test]"]
    assert [command[2] for command in run.asked if command[2] != "pip"][:3] == ["rsf", "rsf", "rsf"]


def test_the_site_has_an_extra_and_a_script_of_its_own(run):
    for words in (["site"], ["site", "--check"], ["lab"]):
        assert run.main(words) == 0
    assert installed(run) == [".[site]", ".[lab]"]
    started = [command[1:] for command in run.asked if "install" not in command]
    assert started == [["docs/make.py"], ["docs/make.py", "--check"], ["-m", "rsf", "lab"]]


@pytest.mark.parametrize("cores, processes", [(1, []), (2, ["-n", "2"]), (64, ["-n", "2"])])
@pytest.mark.parametrize("system", ["Linux", "another"])
def test_two_processes_test_where_there_are_two_cores(run, monkeypatch, cores, processes, system):
    monkeypatch.setattr(run.os, "sched_getaffinity", lambda _: range(cores), raising=False)
    if system != "Linux":
        monkeypatch.delattr(run.os, "sched_getaffinity")
        monkeypatch.setattr(run.os, "cpu_count", lambda: cores)
    assert run.main(["test"]) == 0
    assert run.asked[-1][1:] == ["-m", "pytest", "--nbval", *processes, *run.asked[-1][4 + len(processes) :]]
    assert ("loadfile" in run.asked[-1]) == (cores > 1)  # a notebook's cells share a kernel


def test_environments_are_compared_with_the_tests_tools(run):
    assert run.main(["environments", "lines", "07"]) == 0
    assert installed(run) == [".[test]"] and run.asked[-1][1:] == ["tests/environments.py", "lines", "07"]


def test_other_files_make_another_environment(run):
    run.main([])
    run.DECLARED[0].write_text("changed")
    (run.ENVIRONMENT / "old").write_text("")
    run.main([])
    assert installed(run) == [".[lab]", ".[lab]"] and not (run.ENVIRONMENT / "old").exists()


def test_an_environment_that_it_did_not_make_is_refused_and_stays(run):
    run.ENVIRONMENT.mkdir()
    (run.ENVIRONMENT / "yours").write_text("")
    with pytest.raises(SystemExit, match=r"was not made by run\.py"):
        run.main(["test"])
    assert (run.ENVIRONMENT / "yours").is_file() and run.asked == []


def test_one_that_was_not_finished_is_its_own_and_is_made_again(run, monkeypatch):
    def killed(folder, with_pip):
        raise KeyboardInterrupt

    create = run.venv.create
    monkeypatch.setattr(run.venv, "create", killed)
    with pytest.raises(KeyboardInterrupt):
        run.main([])
    monkeypatch.setattr(run.venv, "create", create)
    assert run.main([]) == 0 and installed(run) == [".[lab]"]


def test_an_install_that_fails_ends_with_pips_code_and_is_tried_again(run, monkeypatch):
    def failing(command, **_):
        raise subprocess.CalledProcessError(3, command)

    works = run.subprocess.run
    monkeypatch.setattr(run.subprocess, "run", failing)
    assert run.main([]) == 3
    monkeypatch.setattr(run.subprocess, "run", works)
    assert run.main([]) == 0 and installed(run) == [".[lab]"]


def test_a_test_run_goes_on_after_a_lint_error_and_reports_it(run, monkeypatch):
    run.main(["test"])
    codes = {"ruff": 1, "pytest": 0}

    def coded(command, **_):
        run.asked.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, codes[command[2]])

    run.asked.clear()
    monkeypatch.setattr(run.subprocess, "run", coded)
    assert run.main(["test"]) == 1 and [command[2] for command in run.asked] == ["ruff", "ruff", "pytest"]


def test_an_old_python_is_told_so(run, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    with pytest.raises(SystemExit, match=r"3\.11 or newer"):
        run.main([])
