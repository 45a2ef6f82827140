"""The Chinese notebooks: cells and outputs of the English ones, paragraphs that are up to date, one word for a
thing."""

import importlib.util
import os
import re
from fnmatch import fnmatch
from types import SimpleNamespace

import nbformat
import pytest
from markdown_it import MarkdownIt

from rsf.lab import notebooks

ZH = notebooks.TEXT / "zh"
NAMES = [name for name in notebooks.names() if (ZH / f"{name}.md").is_file()]
TERMS = [
    [cell.strip() for cell in line.split("|")[1:4]]
    for line in (ZH / "TERMS.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "---" not in line
][1:]
LONGEST_FIRST = re.compile(
    "|".join(re.escape(term) for term, _, _ in sorted(TERMS, key=lambda row: -len(row[0])))
)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def without_alt(cell):
    """A cell of code without its figures' alternative text, which is prose."""
    cell = nbformat.from_dict(cell)
    for output in cell.outputs:
        output.get("metadata", {}).pop("image/png", None)
    cell.metadata.pop("alt", None)
    return cell


@pytest.mark.parametrize("name", NAMES)
def test_cells_of_code_and_outputs_are_the_english_ones(name):
    english, stored = (
        nbformat.read(notebooks.NOTEBOOKS / folder / f"{name}.ipynb", 4) for folder in (".", "zh")
    )
    again = "it is not as it would be made: python -m rsf notebooks zh"
    assert [without_alt(cell) for cell in code(stored)] == [without_alt(cell) for cell in code(english)], (
        again
    )
    assert stored.metadata == english.metadata, again
    captions = {cell.id: cell for cell in stored.cells if cell.id.endswith("-caption")}
    told = [cell for cell in stored.cells if cell.id not in captions]
    wanted = notebooks.from_text(name, "zh").cells
    assert [(c.id, c.source, c.metadata) for c in told] == [(c.id, c.source, c.metadata) for c in wanted], (
        again
    )
    for cell in code(stored):
        assert ("alt" in cell.metadata) == (f"{cell.id}-caption" in captions)
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert captions[f"{cell.id}-caption"].source == f"<small>{cell.metadata['alt']}</small>"
                assert output.metadata["image/png"]["alt"] == cell.metadata["alt"]


@pytest.mark.parametrize("name", NAMES)
def test_each_paragraph_is_translated_in_its_place_and_none_has_changed_since(name):
    assert list(notebooks.translation(name, "zh")) == list(notebooks.paragraphs(name))


def test_a_paragraph_that_changed_is_named_and_stays_english_until_it_is_translated(tmp_path, monkeypatch):
    name = NAMES[0]
    for folder in ("zh", "text/zh"):
        (tmp_path / folder).mkdir(parents=True)
    text = (notebooks.TEXT / f"{name}.md").read_text(encoding="utf-8")
    (tmp_path / "text" / f"{name}.md").write_text(text.replace("## In practice", "## In real life"))
    for file in (f"text/zh/{name}.md", f"{name}.ipynb"):
        (tmp_path / file).write_bytes((notebooks.NOTEBOOKS / file).read_bytes())
    monkeypatch.setattr(notebooks, "TEXT", tmp_path / "text")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    lines = sorted(notebooks.translate(name, "zh"), key=len)
    assert [line.rpartition("--> ")[2] for line in lines] == ["## 实践中", "## In real life"]
    stored = nbformat.read(tmp_path / "zh" / f"{name}.ipynb", 4)
    prose = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    assert "## In real life" in prose and "## 实践中" not in prose and "## 练习" in prose


def exact(paragraph):
    """What a translation may not change: code, display formulas, numbers, and what is cited."""
    formulas = [
        re.sub(r"\\(text|qquad)\b(\{.*?\})?|\\underbrace|_\{\\text\{.*?\}\}", "", one)
        for one in re.findall(r"\$\$.*?\$\$", paragraph)
    ]
    code = [one for one in re.findall(r"`[^`]+`", paragraph) if re.search(r"[a-z]", one)]
    numbers = re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", re.sub(r"\]\(\S+\)|`[^`]+`", "", paragraph))
    return sorted(formulas), sorted(code), sorted(numbers)


@pytest.mark.parametrize("name", NAMES)
def test_code_formulas_numbers_and_citations_are_those_of_the_english_paragraph(name):
    chinese = notebooks.translation(name, "zh")
    pairs = [(english, chinese[key]) for key, english in notebooks.paragraphs(name).items()]
    other = [(exact(one), exact(two), two) for one, two in pairs if exact(one) != exact(two)]
    assert not other


READ = MarkdownIt("commonmark").enable("table")


# beside a sign of a formula stands a space that does not break (U+00A0), after its slash a U+2060
FORMULA_BREAKS = re.compile(r"(?<=[a-zA-Z0-9)\]αβρℓΦπ])( [=−+/≤≥∝] ?|/)(?=[a-zA-Zαβρℓ(])")


def literal_asterisks(text):
    """How many asterisks one sees: beside a sign Markdown may not take one for emphasis."""
    return re.sub(r"<code>.*?</code>|\$\$.*?\$\$", "", READ.render(text)).count("*")


@pytest.mark.parametrize("name", NAMES)
def test_every_paragraph_is_chinese_with_its_signs_and_no_formula_is_broken(name):
    chinese = notebooks.translation(name, "zh")
    for key, english in notebooks.paragraphs(name).items():
        text = chinese[key]
        assert text.startswith("$$") or re.search(r"[\u4e00-\u9fff]", text), (key, text)
        half = r"[\u4e00-\u9fff][,;:?!]|[,;?!][\u4e00-\u9fff]"  # Latin signs among Chinese ones
        assert not re.search(half, re.sub(r"`.*?`", "", text)), text
        assert literal_asterisks(text) == literal_asterisks(english), text
        breaks = FORMULA_BREAKS.search(re.sub(r"`.*?`|\]\(\S*\)|\$\$.*?\$\$|<.*?>", "", text))
        assert not breaks, f"a line may break here, within a formula: {breaks[0]!r} in {text}"
        assert "$" not in re.sub(r"\$\$[^$\n]+\$\$", "", text), f"a formula that has more than a line: {text}"


@pytest.mark.parametrize("name", NAMES)
def test_one_word_for_a_thing_and_the_english_word_at_its_first_use(name):
    text = "\n\n".join(notebooks.translation(name, "zh").values())
    unused = [word for _, _, words in TERMS for word in words.split("、") if word and word in text]
    assert not unused, f"TERMS.md has other words for {unused}"
    _, _, *body = text.split("\n\n")  # without the title, and the sentence below it
    body = re.sub(r"^#.*$", "", "\n\n".join(body), flags=re.MULTILINE)
    first = {}
    for match in LONGEST_FIRST.finditer(body):
        first.setdefault(match[0], match.end())
    silent = [
        f"{term}（{english}）"
        for term, english, _ in TERMS
        if term in first and english.lower() not in body[: first[term] + len(english) + 30].lower()
    ]
    assert not silent, f"without the English word at first use: {silent}"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_chinese_notebooks_where_there_are_any(name):
    text = (ZH / f"{name}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^):{]+)\)", text):
        assert (notebooks.NOTEBOOKS / "zh" / target).is_file(), target
        other = target.removeprefix("../").removesuffix(".ipynb")
        assert not (target.startswith("../") and other in NAMES and other != name), (
            f"{other} is there in Chinese"
        )
    assert f"[English](../{name}.ipynb)" in text
    badge = nbformat.read(notebooks.NOTEBOOKS / "zh" / f"{name}.ipynb", 4).cells[0].source
    assert f"/blob/main/notebooks/zh/{name}.ipynb)" in badge and "{{" not in badge


def test_terms_are_told_once_and_none_is_both_used_and_not():
    words = [term for term, _, _ in TERMS]
    assert len(words) == len(set(words)) > 50
    assert not set(words) & {word for _, _, unused in TERMS for word in unused.split("、")}


def test_the_chinese_readme_s_map_leads_to_them():
    readme = (notebooks.ROOT / "README.zh.md").read_text(encoding="utf-8")
    linked = re.findall(r"\(notebooks/zh/(\w+)\.ipynb\)", readme)
    assert linked == NAMES == [file.stem for file in sorted((notebooks.NOTEBOOKS / "zh").glob("*.ipynb"))]


@pytest.fixture
def conftest():
    """The conftest.py of the project's root."""
    spec = importlib.util.spec_from_file_location("root_conftest", notebooks.ROOT / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_long_files_begin_first_and_are_there(conftest, monkeypatch):
    assert len(set(conftest.LONG)) == len(conftest.LONG)
    assert [one for one in conftest.LONG if not (notebooks.ROOT / one).is_file()] == []
    names = [
        "tests/a.py::x",
        f"{conftest.LONG[1]}::y",
        "tests/b.py::x",
        f"{conftest.LONG[0]}::x",
        "tests/a.py::y",
    ]
    items = [SimpleNamespace(nodeid=name) for name in names]
    for worker, wanted in (("", [0, 1, 2, 3, 4]), ("gw0", [3, 1, 0, 2, 4])):
        monkeypatch.setattr(conftest, "WORKER", worker)
        found = items.copy()
        conftest.pytest_collection_modifyitems(found)
        assert [items.index(one) for one in found] == wanted


def test_nbval_runs_no_cell_twice(conftest):
    for file in notebooks.NOTEBOOKS.rglob("*.ipynb"):
        ignored = any(
            fnmatch(file.relative_to(notebooks.ROOT).as_posix(), one) for one in conftest.collect_ignore_glob
        )
        assert ignored == (file.parent != notebooks.NOTEBOOKS), file


def test_jupyterlab_opens_the_chinese_copy_beside_the_english_one(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(notebooks, "BUILD", tmp_path)
    monkeypatch.setattr(os, "execve", lambda program, command, environment: started.append(command))
    name = NAMES[0]
    notebooks.open_lab(f"zh/{name[:2]}")
    for file in (f"zh/{name}.ipynb", f"{name}.ipynb"):
        assert (tmp_path / "lab" / file).read_bytes() == (notebooks.NOTEBOOKS / file).read_bytes()
    assert str(tmp_path / "lab" / "zh" / f"{name}.ipynb") in started[0]
    there = re.escape(", ".join(NAMES))
    with pytest.raises(ValueError, match=f"'99'; there are {there}$"):  # not those in English only
        notebooks.open_lab("zh/99")
    assert len(started) == 1
