"""What do `python3 run.py` and `python3 run.py test` take on a fresh clone? Measured, and written to results/setup.json.

    python3 tests/setup_cost.py [FOLDER]    # on Linux, with nothing else running; FOLDER is where the clone goes

The last commit is cloned; what is not committed is not measured. Memory is what all processes have together at one
moment, looked at every two seconds, memory that they share counted once. `python3 run.py figures` brings it to README.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "results" / "setup.json"
STEPS = {  # minutes of each; the first is part of the second
    "install": ["-c", "import run; run.set_up('lab')"],
    "run": ["run.py"],
    "test": ["run.py", "test"],
}
OURS = ("RSF_", "OMP_", "MKL_", "HF_", "PYTHONPATH", "VIRTUAL_ENV")  # a newcomer has none of them


def family(pid):
    """Return a process and its descendants."""
    children = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def resident(pid):
    """Return the bytes of memory of a process, its part of what it shares; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def measured(command, folder, every=2.0):
    """Run a command; return its minutes and the most memory that it and its descendants had, in GiB."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    began, peak = time.monotonic(), 0
    process = subprocess.Popen(command, cwd=folder, env=variables)
    while True:
        try:
            code = process.wait(every)
            break
        except subprocess.TimeoutExpired:
            peak = max(peak, sum(map(resident, family(process.pid))))
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}: nothing is written")
    return (time.monotonic() - began) / 60, peak / 2**30


def disk(folder):
    """Return the GiB of all files below a folder."""
    return sum(file.lstat().st_size for file in Path(folder).rglob("*") if not file.is_dir()) / 2**30


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="default: a temporary one")
    folder = Path(parser.parse_args(words).folder or tempfile.mkdtemp()) / "rsf"
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    took = {name: measured([sys.executable, *step], folder) for name, step in STEPS.items()}
    minutes = {name: one[0] for name, one in took.items()}
    cost = {
        "what": __doc__.splitlines()[0],
        "date": begun,
        "commit": commit.strip(),
        "machine": f"{len(os.sched_getaffinity(0))} {platform.machine()} cores",
        "python": platform.python_version(),
        "install_minutes": round(minutes["install"], 2),
        "run_minutes": round(minutes["install"] + minutes["run"], 2),
        "test_minutes": round(minutes["test"], 2),
        "memory_gib": round(max(one[1] for one in took.values()), 2),
        "disk_gib": round(disk(folder), 2),
    }
    FILE.write_text(json.dumps(cost, indent=1) + "\n", encoding="utf-8")
    print(FILE.read_text(encoding="utf-8"), f"the clone is {folder}", sep="")


if __name__ == "__main__":
    main()
