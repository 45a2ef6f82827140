"""Notebooks: built from their text, without what nbval does not see, and with exercises whose solutions run."""

import contextlib
import importlib
import io
import os
import re
import shutil
import subprocess
import sys

import jupytext
import matplotlib
import nbformat
import pytest
from problems import problems, solutions

from rsf.lab import notebooks

matplotlib.use("Agg")
NAMES = notebooks.names()


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_has_no_problems(name):
    assert problems(name) == []


def broken(change):
    """Return the problems of notebook 00 after a change to what is stored."""

    def store(tmp_path, monkeypatch):
        notebook = nbformat.read(notebooks.NOTEBOOKS / "00_start_here.ipynb", 4)
        change(notebook, [cell for cell in notebook.cells if cell.cell_type == "code"])
        nbformat.write(notebook, tmp_path / "00_start_here.ipynb")
        monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
        return problems("00_start_here")

    return store


BREAKS = {
    "differs from its text": lambda notebook, code: code[2].update(source=code[2].source + "\nprint(1)"),
    "not executed": lambda notebook, code: code[3].update(execution_count=None),
    "address or an absolute path": lambda notebook, code: (
        code[1].outputs[0].update(text="<object at 0x7f0000000000>")
    ),
    "stored check that fails": lambda notebook, code: code[1].outputs[0].update(text="law: FAIL\n"),
    "a stored check": lambda notebook, code: (
        code[1].outputs[0].update(text="counter-check FAILED, coins passed\n")
    ),
    "stored error or stderr": lambda notebook, code: code[1].outputs[0].update(name="stderr"),
    "semicolon": lambda notebook, code: code[2].update(source=code[2].source + ";"),
    "neither text nor PNG": lambda notebook, code: code[1].outputs.append(
        nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg/>"})
    ),
    "format": lambda notebook, code: notebook.update(nbformat_minor=4),
}


LIMITS = {
    "not 24 and 8": lambda notebook, code: code[3].update(source="x = 1\n" * 25),
    "lines of code: fewer than 8 to 1": lambda notebook, code: [
        cell.update(source="") for cell in notebook.cells if cell.cell_type == "markdown"
    ],
    "words, more than 2500": lambda notebook, code: notebook.cells[0].update(source="word " * 2_501),
    "more than ten lines": lambda notebook, code: code[0].update(source=code[0].source + "\nx = 1" * 11),
    "line of 101 columns": lambda notebook, code: code[3].update(source="x = 1  " + "#" * 94),
    "without alternative text": lambda notebook, code: code[3].outputs.append(
        nbformat.v4.new_output("display_data", {"image/png": ""})
    ),
    "2 lines PASS": lambda notebook, code: code[1].outputs[0].update(text="law: PASS\nrate: PASS\n"),
    "2 counter-checks": lambda notebook, code: (
        code[1].outputs[0].update(text="counter-check: it is REFUSED\n" * 2)
    ),
    "says `must fail`": lambda notebook, code: (
        code[1].outputs[0].update(text="counter-check, must fail: PASS\n")
    ),
}


@pytest.mark.parametrize("words", LIMITS)
def test_what_a_learner_would_stumble_over_is_seen(words, tmp_path, monkeypatch):
    assert any(words in problem for problem in broken(LIMITS[words])(tmp_path, monkeypatch))


@pytest.mark.parametrize("words", BREAKS)
def test_the_static_check_sees_what_nbval_does_not(words, tmp_path, monkeypatch):
    assert any(words in problem for problem in broken(BREAKS[words])(tmp_path, monkeypatch))


def test_nbval_sees_a_cell_that_never_ran_and_no_warning_also_in_two_processes(tmp_path):
    cell = nbformat.v4.new_code_cell
    warns = cell("import sys\nprint(1, file=sys.stderr)", execution_count=1)
    for name, cells in {
        "01_ran": [warns, cell("x = 1", execution_count=2)],
        "02_not": [cell("x = 1")],
    }.items():
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    shutil.copy(notebooks.ROOT / "conftest.py", tmp_path)
    words = ["--nbval", "--nbval-current-env", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(notebooks.ROOT)},
    )
    assert ran.returncode == 1 and "2 passed, 1 error" in ran.stdout, ran.stdout
    assert "02_not.ipynb::Cell 0" in ran.stdout and "it was not executed; run:" in ran.stdout


def plain(source):
    """A cell as Python without IPython: where the package is there, the line that would install it does nothing."""
    return re.sub(r"^    %pip .*$", "    raise", source, flags=re.MULTILINE)


def said(solution, names):
    """Return what a solution prints, and whether it holds: no assert fails, and no check."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(solution, names)
    except (AssertionError, ValueError) as error:
        return f"{printed.getvalue()}{error!r}", False
    return printed.getvalue(), ": FAIL" not in printed.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_solutions_of_the_exercises_run_and_a_wrong_one_fails(name, monkeypatch):
    notebook = notebooks.from_text(name)
    found = solutions(notebook)
    assert len(found) == 3
    monkeypatch.chdir(notebooks.NOTEBOOKS)
    names = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "slow" not in cell.metadata.get("tags", []):
            exec(plain(cell.source), names)
    matplotlib.pyplot.close("all")
    right, wrong = importlib.import_module(f"test_notebook_{name.split('_')[0]}").WRONG
    (chosen,) = [solution for solution in found if solution.count(right) == 1]
    for solution in found:
        if solution is chosen:
            assert not said(chosen.replace(right, wrong), dict(names))[1], f"nobody minds {wrong!r}"
        printed, holds = said(solution, names)
        assert printed.strip(), "a solution prints what it shows"
        assert holds, printed


@pytest.mark.parametrize("name", NAMES)
def test_text_is_what_one_edits_and_has_the_house_skeleton(name):
    text = (notebooks.TEXT / f"{name}.md").read_text(encoding="utf-8")
    predicted = text.count("**Predict.**")
    assert predicted >= 3 and text.count("**Check.**") >= 3 and text.count("**What happened.**") >= 3
    for heading in (
        "## What you'll be able to do",
        "## In practice",
        "## Exercises",
        "## What you should remember",
        "## Further reading",
    ):
        assert heading in text, heading
    cells = jupytext.reads(text, fmt="md:myst").cells
    assert cells
    assert predicted <= 5
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    guesses = sum(bool(re.search(r"^guess\w* = .*# yours$", source, re.MULTILINE)) for source in code)
    assert guesses == predicted, "each prediction has a cell with guess = ...  # yours"
    assert sum(source.strip() == "# yours" for source in code) == 3, "each exercise has a cell of its own"


@pytest.mark.parametrize("name", notebooks.names(["00", "01", "02", "03", "04", "05", "09", "15", "16"]))
def test_notebooks_that_need_no_torch_load_none(name):
    cells = [cell.source for cell in notebooks.from_text(name).cells if cell.cell_type == "code"]
    imports = re.findall(r"^(?:import|from) .*(?<!\()$", "\n".join(cells), re.MULTILINE)
    loaded = "import sys\nassert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", "\n".join([*imports, loaded])], check=True, cwd=notebooks.ROOT)


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="99"):
        notebooks.names(["99"])


def test_running_reports_a_failing_notebook_and_goes_on(tmp_path, monkeypatch):
    for name, source in (
        ("00_bad", "raise RuntimeError('broken on purpose')"),
        ("01_false", "print('law: FAIL')"),
        ("02_good", "print('law: PASS')"),
    ):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / f"{name}.md").write_text("x")
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / f"{name}.ipynb"
        )
    monkeypatch.setattr(notebooks, "TEXT", tmp_path / "text")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(notebooks, "BUILD", tmp_path / "build")
    bad, false, good = notebooks.run()
    assert (
        "broken on purpose" in bad["verdict"]
        and false["verdict"] == "FAILED: 1 checks"
        and good["verdict"] == "passed"
    )
    assert (
        good["checks"] == "1 of 1"
        and (tmp_path / "build" / "run.json").is_file()
        and (tmp_path / "build" / "notebooks" / "02_good.ipynb").is_file()
    )
