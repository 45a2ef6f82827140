"""Notebooks from their text, in one direction: text -> notebook -> executed, with outputs that are the same
everywhere.

`notebooks/text/NN_name.md` (MyST) is what one edits; `notebooks/NN_name.ipynb` is built from it, executed,
and compared by `pytest --nbval`. `notebooks/text/zh/NN_name.md` has its paragraphs in Chinese, each under the
mark of the English one, `<!-- 3f2a91c0 -->`: `notebooks/zh/NN_name.ipynb` has these in their place, and the
English cells of code with their outputs. Needs a checkout and the extra `lab`.
"""

import base64
import filecmp
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib

from rsf.lab.records import ROOT, checkout, must

TEXT, NOTEBOOKS, BUILD = ROOT / "notebooks" / "text", ROOT / "notebooks", ROOT / "build"
QUIET = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# where outputs are stored or compared: the embedded source, no Hub, no GPU
ENVIRONMENT = {**QUIET, "RSF_SOURCE": "embedded", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
SECONDS = 600  # most for one cell
HELD, FAILED = r": PASS$|^counter-check: .* REFUSED,", r": FAIL$|^counter-check FAILED"
SOLUTION = re.compile(r"^<details><summary>(Solution|解答)</summary>[\s\S]*?^</details>\n?", re.MULTILINE)
PARAGRAPH = re.compile(r"^```[\s\S]*?^```|.+(\n(?!```).+)*", re.MULTILINE)  # code in prose is one, too


def names(wanted=(), language=""):
    """Return the names of all notebooks in order, or of those that begin with the words given (`07`,
    `07_fine`); of those in another language, if one is given."""
    checkout()
    there = sorted(file.stem for file in (TEXT / language).glob("[0-9]*.md"))
    for word in wanted:
        must(
            any(name.startswith(word) for name in there),
            f"no notebook begins with {word!r}; there are {', '.join(there)}",
        )
    return [name for name in there if not wanted or name.startswith(tuple(wanted))]


def from_text(name, language=""):
    """Return a notebook, not executed, as its text says, with the project's address and version filled in; in
    another language where `text/LANGUAGE` has a paragraph."""
    import jupytext

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project["urls"]["Repository"]
    places = {
        "repository": address,
        "version": project["version"],
        "colab": f"{address}/blob/main/notebooks/{language and language + '/'}{name}.ipynb".replace(
            "https://github.com", "https://colab.research.google.com/github"
        ),
    }
    notebook = jupytext.reads((TEXT / f"{name}.md").read_text(encoding="utf-8"), fmt="md:myst")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        **({"accelerator": "GPU", "colab": {"gpuType": "T4"}} if notebook.metadata.get("gpu") else {}),
    }
    theirs = translation(name, language) if language else {}
    words = {ours: theirs.get(mark, ours) for mark, ours in paragraphs(name).items()}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{name.split('_')[0]}-{number:03d}"
        cell.source = re.sub(
            r"\{\{ (\w+) \}\}",
            lambda match: places[match[1]],
            PARAGRAPH.sub(lambda match: words.get(match[0], match[0]), cell.source),
        )
        if "alt" in cell.metadata:
            cell.metadata["alt"] = words[cell.metadata["alt"]]
    return notebook


def paragraphs(name):
    """Return what there is to translate in a text, alternative texts among it, in order, by its marks: the
    beginnings of SHA-256."""
    text = (TEXT / f"{name}.md").read_text(encoding="utf-8").partition("\n---\n")[2]
    text = re.sub(r'^```\{(?:(?!```).*\n)*?:alt: "(.*)"\n[\s\S]*?^```', r"\1", text, flags=re.MULTILINE)
    return {
        hashlib.sha256(match[0].encode()).hexdigest()[:8]: match[0]
        for match in PARAGRAPH.finditer(text)
        if not match[0].startswith("```")
    }


def translation(name, language):
    """Return the paragraphs of a translation by the marks above them, in order."""
    return dict(
        re.findall(
            r"^<!-- (\w{8}) -->\n(.*(?:\n.+)*)",
            (TEXT / language / f"{name}.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )


def translate(name, language):
    """Store a committed notebook in another language, each figure's alternative text also as its caption;
    return what the two texts do not share, a line each."""
    import nbformat

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    cells = []
    for cell, told in zip(notebook.cells, from_text(name, language).cells, strict=True):
        cell.update(source=told.source, metadata=told.metadata)
        for output in outputs_of(cell, "image/png"):
            output.metadata["image/png"] = {"alt": told.metadata["alt"]}
        caption = nbformat.v4.new_markdown_cell(
            f"<small>{cell.metadata.get('alt')}</small>", id=f"{cell.id}-caption"
        )
        cells += [cell, caption] if "alt" in cell.metadata else [cell]
    notebook.cells = cells
    nbformat.write(notebook, NOTEBOOKS / language / f"{name}.ipynb")
    ours, theirs = paragraphs(name), translation(name, language)
    return [
        f"{name}: <!-- {mark} --> {(ours | theirs)[mark].splitlines()[0]:.70}"
        for mark in sorted(ours.keys() ^ theirs.keys())
    ]


def execute(notebook, environment):
    """Execute a notebook in place; an error in a cell is raised after the outputs so far were stored."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=40"],
    )
    try:
        client.execute(env={**os.environ, **environment})
    finally:
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in outputs_of(cell, "image/png"):
                if "alt" in cell.metadata:  # in the text a line `:alt: "..."` under the cell's first
                    output.metadata["image/png"] = {"alt": cell.metadata["alt"]}


def build(wanted=()):
    """Build notebooks from their text, execute them, and store them with their outputs; yields a dict for
    each."""
    import nbformat

    for name in names(wanted):
        started, notebook = time.perf_counter(), from_text(name)
        metadata = notebook.metadata.copy()
        execute(notebook, ENVIRONMENT)
        notebook.metadata = metadata  # the kernel's own version is no part of it
        nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")
        yield {"notebook": name, "verdict": f"built in {time.perf_counter() - started:.1f} s"}


def run(wanted=()):
    """Execute the committed notebooks with the best source there is, into build/; yields a dict for each,
    whether it failed or not."""
    import nbformat

    for folder in ("notebooks", "figures"):
        (BUILD / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names(wanted):
        started, notebook = time.perf_counter(), nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
        verdict = "passed"
        try:
            execute(notebook, QUIET)
        except (
            Exception
        ) as error:  # whatever a cell or its kernel died of: say it, and go on with the next notebook
            verdict = f"FAILED: {type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        nbformat.write(notebook, BUILD / "notebooks" / f"{name}.ipynb")
        printed = "\n".join(output.text for output in outputs(notebook) if output.output_type == "stream")
        passed, failed = (len(re.findall(word, printed, re.MULTILINE)) for word in (HELD, FAILED))
        if failed and verdict == "passed":
            verdict = f"FAILED: {failed} checks"
        pngs = (one.data["image/png"] for one in outputs(notebook) if "image/png" in one.get("data", {}))
        for number, png in enumerate(map(base64.b64decode, pngs), 1):
            (BUILD / "figures" / f"{name}-{number}.png").write_bytes(png)
        rows.append(
            {
                "notebook": name,
                "seconds": round(time.perf_counter() - started, 1),
                "checks": f"{passed} of {passed + failed}",
                "verdict": verdict,
            }
        )
        (BUILD / "run.json").write_text(json.dumps(rows, indent=1))
        yield rows[-1]


def handout(wanted=()):
    """Write notebooks, also the Chinese, without solutions and outputs into build/handout/, for students;
    yields a dict for each."""
    import nbformat

    for name in names(wanted):
        for file in NOTEBOOKS.rglob(f"{name}.ipynb"):
            notebook = nbformat.read(file, 4)
            for cell in notebook.cells:
                cell.source = SOLUTION.sub("", cell.source)
                cell.update({"outputs": [], "execution_count": None} if cell.cell_type == "code" else {})
            target = BUILD / "handout" / file.relative_to(NOTEBOOKS)
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, target)
        yield {"notebook": name, "verdict": "without solutions and outputs in build/handout/"}


def outputs_of(cell, kind):
    """Return the outputs of a cell that have data of a kind, such as image/png."""
    return [output for output in cell.get("outputs", []) if kind in output.get("data", {})]


def outputs(notebook):
    """Return the outputs of all cells of code."""
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def open_lab(word: str, *, port: int | None = None, browser: bool = True) -> int:
    """Open JupyterLab at a notebook (`07`, or `zh/07` in Chinese), on copies in build/lab/, until it is
    stopped; return its exit code.

    A copy that its reader has changed is kept as it is; one that was only read follows the committed
    notebook.
    """
    language, _, number = word.rpartition("/")
    wanted = names([number], language)[0]
    folder = BUILD / "lab"
    for source in [*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("[!.]*/*.ipynb")]:
        copy, before = (place / source.relative_to(NOTEBOOKS) for place in (folder, folder / ".as_copied"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        before.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or (before.exists() and filecmp.cmp(copy, before, shallow=False)):
            shutil.copyfile(source, copy)
            shutil.copyfile(source, before)
    command = [
        *(sys.executable, "-m", "jupyterlab", str(folder / language / f"{wanted}.ipynb")),
        f"--ServerApp.root_dir={folder}",
        *([f"--ServerApp.port={port}", "--ServerApp.port_retries=0"] if port else []),
        *([] if browser else ["--no-browser"]),
        # Jupyter refuses the root of a container otherwise
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    if os.name == "nt":
        return subprocess.run(command, env=environment).returncode
    return os.execve(command[0], command, environment)  # the server takes this process's place
