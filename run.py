#!/usr/bin/env python3
"""Set up and run: `python3 run.py` runs every notebook, `python3 run.py test` every test. Needs Python 3.11 or newer, pip and venv.

Other words go to `python -m rsf`: notebooks, figures, experiment, validate.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
DECLARED = [ROOT / name for name in ("requirements.txt", "constraints.txt", "pyproject.toml")]


def set_up():
    """Make the environment from the project's files, once for each state of these files."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in DECLARED) + sys.version.encode()).hexdigest()
    stamp = ENVIRONMENT / "stamp"
    if stamp.is_file() and stamp.read_text() == digest:
        return
    print(f"making the environment in {ENVIRONMENT.name}/ (once; some minutes)", flush=True)
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", "requirements.txt"], cwd=ROOT, check=True)
    stamp.write_text(digest)


def main(words):
    if sys.version_info < (3, 11):
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    set_up()
    if words == ["test"]:
        commands = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["pytest", "--nbval"]]
    else:
        commands = [["rsf", *(words or ["notebooks", "run"])]]
    codes = [subprocess.run([PYTHON, "-m", *command], cwd=ROOT).returncode for command in commands]  # a lint error hides no failing test
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
