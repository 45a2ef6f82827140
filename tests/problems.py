"""What is wrong with a committed notebook that nbval does not see: python -m rsf notebooks check."""

import html
import json
import re
import statistics

import nbformat

from rsf.lab import notebooks

FIGURE = notebooks.ROOT / "rsf" / "lab" / "accept_or_reject.html"  # moves: in notebook 01 and on the site

COLUMNS, WORDS = 100, 2_500  # most for a line of code, and for the words of a notebook
LINES, MEDIAN = 24, 8  # most for a code cell, and for the median of them


def problems(name):
    """Return what is wrong with a committed notebook, as a list of lines; what nbval does not see."""
    file = notebooks.NOTEBOOKS / f"{name}.ipynb"
    if not file.is_file():
        return ["it was never built: python -m rsf notebooks build"]
    notebook, wanted = nbformat.read(file, 4), notebooks.from_text(name)
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
    for output in notebooks.outputs(notebook):
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
                f"an output that is neither text nor PNG, nor the figure as it is: {sorted(data)}",
                set(data) - {"text/plain", "image/png"}
                and html.escape(FIGURE.read_text(encoding="utf-8")) not in data.get("text/html", ""),
            ),
            ("a stored check that fails", re.search(notebooks.FAILED, text, re.MULTILINE)),
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
            len(_code_lines(code[0].source.rpartition("%pip")[2] if code else "")) > 11,
        ),
    )
    for cell in code:
        found += [f"{cell.id} has a line of {len(line)} columns" for line in _wide(cell.source)]
        found += [
            f"{cell.id} has a figure without alternative text: the cell needs a line `:alt:`"
            for output in notebooks.outputs_of(cell, "image/png")
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
