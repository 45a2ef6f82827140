"""The house: which room may import which, how large each may be, what each needs, and that the door opens."""

import ast
import json
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from rsf.lab.records import ROOT

PACKAGE = ROOT / "rsf"
FILES = sorted(PACKAGE.rglob("*.py"))
JUDGES = {"checks", "finite"}
GROUND = {"acceptance", "accounts", "plots"} | JUDGES
ROOMS = {"sampling", "selection", "generation", "audit"}
# each part of the house may import these others of rsf; inside a room its files import one another
MAY_IMPORT = {
    "__init__": set(),
    "acceptance": set(),
    "accounts": set(),
    "checks": set(),
    "finite": set(),
    "plots": set(),
    "rules": {"acceptance"},
    **{room: {"acceptance", "accounts", "plots", "rules"} for room in ROOMS},
    "lab": {"", "rules", *ROOMS, *GROUND},
    "__main__": {"", "rules", "lab", *ROOMS, *GROUND},
}
# statements; the first two are 3,100 together: the judges take less than they were given, the engines more
LIBRARY, JUDGING, LAB, TASK = 2685, 415, 3000, 90
# what carries the rule to other tasks and models is counted apart from the lab, 90 a head in all
HEADS = (
    *("topics", "questions", "images", "translation", "speech", "language"),
    *("compression", "groups", "imdb_models"),
)
ELSEWHERE = {f"tasks/{head}.py" for head in (*HEADS, "carry")} | {
    "data/passages.py",
    "models/smaller.py",
    "report/tasks.py",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def part_of(file):
    """The room, or the file of the ground floor, that a file of the package belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(file):
    """Full names of all modules that a file imports, in whatever form and wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide where they lead"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module"
        ):
            text = node.args[0]
            literal = text.values[0] if isinstance(text, ast.JoinedStr) else text
            found.add(literal.value if isinstance(literal, ast.Constant) else "rsf." + part_of(file))
    return found


def test_the_house_is_seen_whole():
    assert len(FILES) > 40
    assert {part_of(file) for file in FILES} == set(MAY_IMPORT)
    here = PACKAGE / "lab" / "data" / "__init__.py"
    assert {"os", "rsf.lab"} & imports_of(here) == {"os"} and "typing.NamedTuple" in imports_of(here)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_arrows_point_down_and_rooms_do_not_know_one_another(file):
    own = part_of(file)
    others = {
        name.split(".")[1] if "." in name else "" for name in imports_of(file) if name.split(".")[0] == "rsf"
    }
    assert others - {own} <= MAY_IMPORT[own], f"{own} may not import {others - {own} - MAY_IMPORT[own]}"


@pytest.mark.parametrize("room", [*sorted(ROOMS), "rules"])
def test_inside_a_room_imports_run_in_one_direction(room):
    prefix = f"rsf.{room}."
    arrows = {
        file.stem: {
            name.removeprefix(prefix).split(".")[0] for name in imports_of(file) if name.startswith(prefix)
        }
        for file in (PACKAGE / room).glob("*.py")
        if file.stem != "__init__"
    }
    done = set()
    while free := {
        name for name, needs in arrows.items() if name not in done and needs & arrows.keys() <= done
    }:
        done |= free
    assert done == set(arrows), f"a circle in {room}: {set(arrows) - done}"


def without_docstrings(tree):
    """The tree's nodes that are documented, and the lines of their docstrings."""
    kinds = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    told = [node.body[0] for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node)]
    return set(told), {line for node in told for line in range(node.lineno, node.end_lineno + 1)}


def statements(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings, _ = without_docstrings(tree)
    return sum(
        isinstance(node, (ast.stmt, ast.excepthandler)) and node not in docstrings for node in ast.walk(tree)
    )


def code_lines(node, tree, text):
    """How many lines from the first to the last of a node hold code: no blank lines, comments or docstrings."""
    _, told = without_docstrings(tree)
    lines = enumerate(text.splitlines(), 1)
    first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", 10**9)
    return sum(
        first <= number <= last
        and number not in told
        and bool(line.strip())
        and not line.lstrip().startswith("#")
        for number, line in lines
    )


def test_the_whole_stays_small():
    count = {file: statements(file) for file in FILES}
    lab = sum(n for file, n in count.items() if part_of(file) in ("lab", "__main__"))
    judges = sum(n for file, n in count.items() if part_of(file) in JUDGES)
    assert sum(count.values()) - lab - judges <= LIBRARY and judges <= JUDGING
    elsewhere = sum(count.get(PACKAGE / "lab" / name, 0) for name in ELSEWHERE)
    assert lab - elsewhere <= LAB and elsewhere <= len(HEADS) * TASK
    tasks = {file.name: n for file, n in count.items() if file.parent.name == "tasks" and n > TASK}
    assert tasks == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_file_and_no_function_is_two_ideas(file):
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert code_lines(tree, tree, text) <= 250
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert code_lines(node, tree, text) <= 60, node.name


@pytest.mark.parametrize(
    "names",
    [
        "rsf",
        "rsf.acceptance, rsf.accounts, rsf.checks, rsf.finite, rsf.plots, rsf.rules, rsf.sampling, rsf.audit",
        "rsf.lab.records, rsf.lab.tasks.answers",
        "rsf.selection; rsf.selection.RejectionLoader",
        "rsf.generation; rsf.generation.sample_and_judge",
        "rsf.generation; rsf.generation.server_sampler('http://localhost:1/v1', 'm')",
    ],
)
def test_what_needs_no_torch_loads_none(names):
    modules, _, more = names.partition("; ")
    code = f"import sys, {modules}\n{more}\nassert not {{'torch', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# ---- what is declared


def closure(*extras):
    """Names of all distributions that the project with some of its extras brings along, as they are installed here."""
    found, waiting = set(), [(Requirement("rsf"), extras)]
    while waiting:
        requirement, wanted = waiting.pop()
        name = requirement.name.lower().replace("_", "-").replace(".", "-")
        if (name, tuple(wanted)) in found:
            continue
        found.add((name, tuple(wanted)))
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in wanted or ("",)):
                waiting.append((needed, sorted(needed.extras)))
    return {name for name, _ in found}


def declared(*extras):
    """Names of the distributions that the project itself asks for, with these extras and those that they take in."""
    texts = [*PROJECT["dependencies"]]
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    names = set()
    for requirement in map(Requirement, texts):
        names |= declared(*requirement.extras) if requirement.name == "rsf" else {requirement.name.lower()}
    return names


EXTRAS = {"generation": ("generation", "selection", "server"), "selection": ("selection",), "lab": ("lab",)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_what_is_imported_is_declared_for_its_room(file):
    distributions = metadata.packages_distributions()
    roots = {name.split(".")[0] for name in imports_of(file)} - {"rsf", *sys.stdlib_module_names}
    own = declared(*EXTRAS.get(part_of(file), ("generation",) if part_of(file) == "audit" else ()))
    own |= declared("lab") if part_of(file) == "__main__" else set()
    for root in roots:
        brought = {name.lower().replace("_", "-") for name in distributions[root]}
        assert brought & own, f"{file.name} imports {root}, of {sorted(brought)}: declare it"


def test_each_direct_dependency_says_what_it_is_for():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    named = [
        line for line in lines if re.match(r'\s+"[A-Za-z]', line) and not line.lstrip().startswith('"rsf[')
    ]
    named = [line for line in named if not line.lstrip().startswith('"notebooks/')]
    assert len(named) >= 20 and [line for line in named if "#" not in line] == []


def test_a_learners_environment_takes_at_most_2_2_gib():
    sizes = 0
    for name in closure("lab") - {"rsf"}:
        for file in metadata.distribution(name).files or ():
            path = Path(file.locate())
            sizes += path.stat().st_size if path.is_file() else 0
    assert 0.5 < sizes / 2**30 <= 2.2


def in_git(*folders):
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    quiet = ["--no-deps", "--no-build-isolation", "-q", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *quiet, "-w", str(folder), str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_has_what_git_has(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    beside = {re.sub("^(results|notebooks)/", r"rsf/\1/", name) for name in in_git("results", "notebooks")}
    assert inside == in_git("rsf") | beside


ROOM_BY_EXTRA = {  # what is there, one after another, and what can be imported then
    "": "import rsf, rsf.rules, rsf.sampling, rsf.audit; from rsf.selection import RejectionLoader",
    "generation": "from rsf.generation import sample_and_judge",
    "server": "from rsf.generation import server_sampler; server_sampler('http://localhost:1/v1', 'm')",
    "selection": "from rsf.selection import RSFTrainer; from rsf.generation import model_sampler, rsf_rounds",
}


@pytest.fixture
def alone(wheel, tmp_path):
    """Run code where nothing is but the wheel and what some of its extras bring along, linked from here."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "wheel")

    def run(code, *extras, cwd=tmp_path):
        brought = tmp_path / ("brought" + "-".join(extras))
        brought.mkdir(exist_ok=True)
        for name in closure(*extras) - {"rsf"}:
            installed = metadata.distribution(name)
            for top in {file.parts[0] for file in installed.files} - {"..", "__pycache__"}:
                if not (brought / top).exists():
                    (brought / top).symlink_to(installed.locate_file(top))
        code = f"import sys; sys.path[:0] = {[str(tmp_path / 'wheel'), str(brought)]}; {code}"
        return subprocess.run([sys.executable, "-ISc", code], cwd=cwd, capture_output=True, text=True)

    return run


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there that few have")
def test_the_wheel_serves_each_room_with_what_its_extra_brings_and_nothing_else(alone):
    extras = []
    for extra, code in ROOM_BY_EXTRA.items():
        if extra:
            lacking = alone(code, *extras)
            assert lacking.returncode and "Error" in lacking.stderr, f"{extra} is not needed"
            extras.append(extra)
        found = alone(code, *extras)
        assert not found.returncode, found.stderr
    command = (
        "import runpy; sys.argv = ['rsf', 'notebooks', 'run']; runpy.run_module('rsf', run_name='__main__')"
    )
    where = alone(command, *extras)
    assert where.returncode == 2 and where.stderr.count("\n") == 1 and "needs a checkout" in where.stderr
    command = "from rsf.lab import records; print(records.status('imdb-small'), records.commit())"
    there = alone(command, *extras, cwd=ROOT)
    assert there.stdout == "imdb-small: 15 of 15 runs unknown\n", there.stderr


# ---- the door


def test_run_py_has_at_most_eight_words():
    shown = subprocess.run(
        [sys.executable, "-m", "rsf", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    words = set(re.search(r"\{([a-z,]+)\}", shown.stdout)[1].split(",")) | {"test"}
    words -= {"full"}  # python -m rsf alone: on a lent GPU it runs without the environment that run.py makes
    assert {"lab", "notebooks", "figures", "test"} <= words and len(words) <= 8  # "test" is run.py's own


def test_jupyterlab_opens_on_copies_and_the_checkout_stays_clean(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    command = [sys.executable, "-m", "rsf", "lab", "07", "--no-browser", "--port", str(port)]
    environment = {
        **os.environ,
        "JUPYTER_TOKEN": "open",
        "JUPYTER_RUNTIME_DIR": str(tmp_path),
        "HOME": str(tmp_path),
    }
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    name = next((ROOT / "notebooks").glob("07_*.ipynb")).name
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        found = None
        while found is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{address}/api/contents/{name}?token=open", timeout=5) as answer:
                    found = json.load(answer)
            except OSError:
                assert server.poll() is None, "JupyterLab ended by itself"
                time.sleep(0.5)
        assert found is not None and found["content"]["cells"][0]["source"].startswith("# 07 ·")
        with urllib.request.urlopen(f"{address}/lab/tree/{name}?token=open", timeout=30) as page:
            assert page.status == 200 and b"JupyterLab" in page.read()
    finally:
        server.terminate()
        server.wait(30)
    after = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert after == before and (ROOT / "build" / "lab" / name).is_file()


def tree_of(page):
    return (ROOT / page).read_text(encoding="utf-8").split("```\nrsf/\n", 1)[1].split("```", 1)[0]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_trees_are_the_house_as_it_is(page):
    folders = set(re.findall(r"\b(\w+)/", tree_of(page))) - {"results"}
    assert folders == {file.parent.name for file in FILES} - {"rsf"}
    named = set(re.findall(r"\b(\w+)\.py\b", tree_of(page)))
    every = {file.stem for file in FILES if file.stem != "__init__"}
    assert named == every if page == "CONTRIBUTING.md" else named < every
