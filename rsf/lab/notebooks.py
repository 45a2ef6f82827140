"""Notebooks from their text, in one direction: text -> notebook -> executed, with outputs that are the same
everywhere.

`notebooks/text/NN_name.md` (MyST) is what one edits; `notebooks/NN_name.ipynb` is built from it, executed,
and compared by `pytest --nbval`. `notebooks/text/zh/NN_name.md` has its paragraphs in Chinese, each under the
mark of the English one, `<!-- 3f2a91c0 -->`: `notebooks/zh/NN_name.ipynb` has these in their place, and the
English cells of code with their outputs. Needs a checkout and the extra `lab`.
"""

import base64
import hashlib
import json
import os
import re
import statistics
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
COLUMNS, WORDS = 100, 2_500  # most for a line of code, and for the words of a notebook
PARAGRAPH = re.compile(r"^```[\s\S]*?^```|.+(\n(?!```).+)*", re.MULTILINE)  # code in prose is one, too
LINES, MEDIAN = 24, 8  # most for a code cell, and for the median of them


def names(wanted=()):
    """Return the names of all notebooks in order, or of those that begin with the words given (`07`,
    `07_fine`)."""
    checkout()
    there = sorted(file.stem for file in TEXT.glob("*.md"))
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
        source = PARAGRAPH.sub(lambda match: words.get(match[0], match[0]), cell.source)
        cell.source = re.sub(r"\{\{ (\w+) \}\}", lambda match: places[match[1]], source)
        if "alt" in cell.metadata:
            cell.metadata["alt"] = words[cell.metadata["alt"]]
    return notebook


def paragraphs(name):
    """Return what there is to translate in a text, alternative texts among it, in order, by its marks: the
    beginnings of SHA-256."""
    text = (TEXT / f"{name}.md").read_text(encoding="utf-8").partition("\n---\n")[2]
    text = re.sub(r'^```\{(?:(?!```).*\n)*?:alt: "(.*)"\n[\s\S]*?^```', r"\1", text, flags=re.MULTILINE)
    found = (match[0] for match in PARAGRAPH.finditer(text))
    return {hashlib.sha256(one.encode()).hexdigest()[:8]: one for one in found if not one.startswith("```")}


def translation(name, language):
    """Return the paragraphs of a translation by the marks above them, in order."""
    text = (TEXT / language / f"{name}.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^<!-- (\w{8}) -->\n(.*(?:\n.+)*)", text, re.MULTILINE))


def translate(name, language):
    """Store a committed notebook in another language, each figure's alternative text also as its caption;
    return what the two texts do not share, a line each."""
    import nbformat

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    cells = []
    for cell, told in zip(notebook.cells, from_text(name, language).cells, strict=True):
        cell.update(source=told.source, metadata=told.metadata)
        _describe(cell)
        caption = nbformat.v4.new_markdown_cell(f"*{cell.metadata.get('alt')}*", id=f"{cell.id}-caption")
        cells += [cell, caption] if "alt" in cell.metadata else [cell]
    notebook.cells = cells
    nbformat.write(notebook, NOTEBOOKS / language / f"{name}.ipynb")
    ours, theirs = paragraphs(name), translation(name, language)
    return [f"{name}: <!-- {mark} --> {(ours | theirs)[mark]:.70}" for mark in ours.keys() ^ theirs.keys()]


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
            _describe(cell)


def _describe(cell):
    """Store a cell's alternative text, in the text a line `:alt: "..."` under its first, with its figures."""
    for output in _outputs_of(cell, "image/png"):
        if "alt" in cell.metadata:
            output.metadata["image/png"] = {"alt": cell.metadata["alt"]}


def build(wanted=()):
    """Build notebooks from their text, execute them, and store them with their outputs; yields (name,
    seconds)."""
    import nbformat

    for name in names(wanted):
        started, notebook = time.perf_counter(), from_text(name)
        metadata = notebook.metadata.copy()
        execute(notebook, ENVIRONMENT)
        notebook.metadata = metadata  # the kernel's own version is no part of it
        nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")
        yield name, time.perf_counter() - started


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
        printed = "\n".join(output.text for output in _outputs(notebook) if output.output_type == "stream")
        passed, failed = (len(re.findall(word, printed, re.MULTILINE)) for word in (HELD, FAILED))
        if failed and verdict == "passed":
            verdict = f"FAILED: {failed} checks"
        pngs = (one.data["image/png"] for one in _outputs(notebook) if "image/png" in one.get("data", {}))
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


def problems(name):
    """Return what is wrong with a committed notebook, as a list of lines; what nbval does not see."""
    import nbformat

    file = NOTEBOOKS / f"{name}.ipynb"
    if not file.is_file():
        return ["it was never built: python -m rsf notebooks build"]
    notebook, wanted = nbformat.read(file, 4), from_text(name)
    raw = file.read_text(encoding="utf-8")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cells, as_text = (
        [(cell.cell_type, cell.id, cell.source, cell.metadata) for cell in one.cells]
        for one in (notebook, wanted)
    )
    found = _true(
        ("it differs from its text: python -m rsf notebooks build", cells != as_text),
        (
            "its metadata differ from its text's: python -m rsf notebooks build",
            notebook.metadata != wanted.metadata,
        ),
        ("its format is not 4.5", (notebook.nbformat, notebook.nbformat_minor) != (4, 5)),
        (
            "its cells were not executed once each, in order",
            [cell.execution_count for cell in code] != list(range(1, len(code) + 1)),
        ),
        ("it has an empty cell", not all(cell.source.strip() for cell in notebook.cells)),
        ("it has timing metadata", '"execution": {' in raw or "iopub" in raw),
    )
    found += _readability(name, notebook)
    for cell in code:
        found += _true(
            (
                f"{cell.id} has a trailing semicolon, which nbval ignores badly",
                re.search(r";\s*$", cell.source, re.MULTILINE),
            ),
            (
                f"{cell.id} uses history, timing or an nbval marker",
                re.search(r"\b(In|Out)\[\d|%%?time|NBVAL_", cell.source)
                or "nbval" in str(cell.metadata.get("tags", [])),
            ),
        )
    for output in _outputs(notebook):
        data = output.get("data", {})
        text = output.get("text", "") + json.dumps(data.get("text/plain", ""))
        found += _true(
            (
                f"a stored error or stderr: {text[:60]!r}",
                output.output_type == "error" or output.get("name") == "stderr",
            ),
            (
                f"an address or an absolute path in an output: {text[:60]!r}",
                re.search(r"0x[0-9a-f]{6,}|(?<![\w.])/(home|tmp|work|usr|root)/|[A-Z]:\\", text),
            ),
            (
                f"an output that is neither text nor PNG: {sorted(data)}",
                set(data) - {"text/plain", "image/png"},
            ),
            ("a stored check that fails", re.search(FAILED, text, re.MULTILINE)),
        )
    return found


def _true(*pairs):
    """Return those of some lines, each beside whether it is true, that are."""
    return [line for line, holds in pairs if holds]


def solutions(notebook):
    """Return the solutions of a notebook's exercises, as Python, in order."""
    return re.findall(r"<summary>Solution</summary>\s*```python\n(.*?)```", _prose(notebook), re.DOTALL)


def _readability(name, notebook):
    """Return what a learner would stumble over: how much code there is beside how many words, and what it
    prints."""
    number = name.split("_")[0]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    lengths = [length for cell in code[1:] if (length := len(_code_lines(cell.source)))]
    words = len(re.sub(r"```.*?```", "", _prose(notebook), flags=re.DOTALL).split())
    longest, median = max(lengths, default=0), statistics.median(lengths or [0])
    found = _true(
        (
            f"its code cells have {longest} lines at most and {median} in the median, not "
            f"{LINES} and {MEDIAN}",
            longest > LINES or median > MEDIAN,
        ),
        (
            f"{words} words to {sum(lengths)} lines of code: fewer than 8 to 1",
            (number <= "06" or number == "09") and words < 8 * sum(lengths),
        ),
        (f"{words} words, more than {WORDS}", words > WORDS),
        (  # the first line is pip's own
            "its set-up cell has more than ten lines after the installation",
            len(_code_lines(code[0].source.partition("%pip")[2] if code else "")) > 11,
        ),
    )
    for cell in code:
        found += [f"{cell.id} has a line of {len(line)} columns" for line in _wide(cell.source)]
        found += [
            f"{cell.id} has a figure without alternative text: the cell needs a line `:alt:`"
            for output in _outputs_of(cell, "image/png")
            if len(output.metadata.get("image/png", {}).get("alt", "")) < 40
        ]
    for solution in solutions(notebook):
        found += [f"a solution has a line of {len(line)} columns" for line in _wide(solution)]
    for heading, printed in _sections(notebook):
        passed = len(re.findall(r"^(?!counter-check).*: PASS$", printed, re.MULTILINE))
        counter = len(re.findall(r"^counter-check", printed, re.MULTILINE))
        found += _true(
            (
                f"{heading!r} shows {passed} lines PASS and {counter} counter-checks, not one of each",
                passed > 1 or counter > 1,
            ),
            (
                f"{heading!r} has a counter-check that says `must fail`: use checks.refused",
                "must fail" in printed,
            ),
        )
    return found


def _prose(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def _code_lines(source):
    return [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _wide(source):
    return [line for line in source.splitlines() if len(line) > COLUMNS]


def _sections(notebook):
    """Return each section's heading and what its cells print."""
    sections = [["", ""]]
    for cell in notebook.cells:
        sections += [
            [heading, ""]
            for heading in re.findall(
                r"^## (.*)$", (cell.source if cell.cell_type == "markdown" else ""), re.MULTILINE
            )
        ]
        sections[-1][1] += "".join(output.get("text", "") for output in cell.get("outputs", []))
    return sections


def _outputs_of(cell, kind):
    return [output for output in cell.get("outputs", []) if kind in output.get("data", {})]


def _outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
