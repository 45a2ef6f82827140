#!/usr/bin/env python3
"""Set up and run: `python3 run.py` runs every notebook, `lab` opens them, `test` tests everything.

Needs Python 3.11 or newer, pip and venv. `site` builds the site, `site --check` opens it in a browser;
`environments colab|newest|lines` compares all notebooks elsewhere; `address URL` tells every place where the
repository lies. Other words go to `python -m rsf`: notebooks, figures, experiment, bench, audit, verify.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
DECLARED = [ROOT / name for name in ("constraints.txt", "pyproject.toml")]
STAMP = ENVIRONMENT / "stamp"  # ours: what was installed, from which state of the project's files


def set_up(extra):
    """Make the environment, once for each state of the project's files, with one of its extras."""
    digest = hashlib.sha256(
        b"".join(file.read_bytes() for file in DECLARED) + sys.version.encode()
    ).hexdigest()
    made = STAMP.read_text().split() if STAMP.is_file() else []
    if ENVIRONMENT.exists() and not STAMP.is_file():
        sys.exit(f"{ENVIRONMENT} was not made by run.py: move it away, and call again")
    if digest not in made:
        print(f"making the environment in {ENVIRONMENT.name}/ (once; some minutes)", flush=True)
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        ENVIRONMENT.mkdir()
        STAMP.write_text("")  # ours from here on, though not complete
        venv.create(ENVIRONMENT, with_pip=True)
        made = [digest]
    if extra not in made:
        quiet = ["install", "-q", "--disable-pip-version-check", "-c", "constraints.txt"]
        subprocess.run([PYTHON, "-m", "pip", *quiet, "-e", f".[{extra}]"], cwd=ROOT, check=True)
        STAMP.write_text(" ".join([*made, extra]))


def processes():
    """Return pytest's words for two processes, where there are two cores.

    The tests of a file stay together and in order, as the cells of a notebook must; conftest.py puts the
    longest files first.
    """
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"] if cores > 1 else []


def addressed():
    """Return the files that hold the repository's address; pyproject.toml is the one that decides."""
    places = ["pyproject.toml", "CITATION.cff", "*.md", ".github/ISSUE_TEMPLATE/*", "notebooks/*.ipynb"]
    places.append("notebooks/[!.]*/*.ipynb")  # in other languages
    return [file for place in places for file in sorted(ROOT.glob(place))]


def address(new):
    """Write the repository's address to badges, set-up cells and citation, where the present one stands."""
    if not re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]*[\w-]", new):
        sys.exit(f"the address must have the form https://github.com/OWNER/NAME, got {new}")
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    old = re.search(r'^Repository = "https://(.*?)"', declared, re.MULTILINE)[1]
    new = new.removeprefix("https://")
    for file in addressed():
        with open(file, encoding="utf-8", newline="") as stream:  # line ends stay as they are
            before = stream.read()
        # Colab's addresses hold GitHub's without the dot of its name
        after = re.sub(rf"{re.escape(old)}(?![\w-]|\.\w)", new, before)
        colab = old.replace("github.com", "github", 1)
        after = re.sub(rf"(?<=google\.com/){re.escape(colab)}(?![\w-])", new.replace(".com", "", 1), after)
        if after != before:
            with open(file, "w", encoding="utf-8", newline="") as stream:
                stream.write(after)
            print(f"{file.relative_to(ROOT).as_posix()}: {new}")


def main(words):
    if sys.version_info < (3, 11):
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    if words[:1] == ["address"]:
        return address("".join(words[1:]))
    extra = "lab"
    commands = [["-m", "rsf", *(words or ["notebooks", "run"])]]
    if words == ["test"]:
        extra = "test"
        tests = ["pytest", "--nbval", *processes()]
        commands = [
            ["-m", *tool] for tool in (["ruff", "check", "."], ["ruff", "format", "--check", "."], tests)
        ]
    elif words[:1] == ["environments"]:
        extra = "test"
        commands = [["tests/environments.py", *words[1:]]]
    elif words[:1] == ["site"]:
        extra = "site"
        commands = [["docs/make.py", *words[1:]]]
    try:
        set_up(extra)
    except subprocess.CalledProcessError as error:
        return error.returncode  # pip has said why
    codes = [subprocess.run([PYTHON, *command], cwd=ROOT).returncode for command in commands]
    return next((code for code in codes if code), 0)  # a lint error hides no failing test


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
