"""The site and the figure that moves: what is fast enough to be held without a browser.

`python3 run.py site --check` opens every page; see docs/check.py.
"""

import fnmatch
import html
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import tomllib
from importlib import import_module

import nbformat
import numpy as np
import problems
import pytest
from scipy import stats
from test_docs import GROUND, NAMES, ROOMS

from rsf import checks, finite
from rsf.acceptance import acceptance_probability, log_acceptance
from rsf.lab import notebooks
from rsf.lab.records import ROOT
from rsf.sampling import log_k_bound

FIGURE = problems.FIGURE.read_text(encoding="utf-8")


def module_of(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make():
    return module_of("make")


# ---- the site


def test_the_contents_name_every_page_once_and_nothing_else(make):
    contents = (ROOT / "docs" / "contents.md").read_text(encoding="utf-8")
    pages = {page.rpartition(".")[0] for page in make.pages().values()} - {"index"}
    lines = re.findall(r"^[\w/*\[\]-]+$", contents, re.MULTILINE)
    listed = [page for line in lines for page in fnmatch.filter(pages, line)]
    assert sorted(listed) == sorted(pages) and len(lines) < len(pages)
    assert all(fnmatch.filter(pages, line) for line in lines)
    assert {f"notebooks/{name}" for name in notebooks.names()} <= set(listed)


def test_what_the_site_is_built_with_is_declared_and_pinned():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.match(r"[\w-]+", one)[0] for one in extra["optional-dependencies"]["site"]}
    assert {"sphinx", "myst-nb", "furo", "django-static-mathjax", "selenium"} <= named
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    assert [one for one in named - {"rsf"} if f"\n{one}==" not in pins] == []
    config = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    assert 'nb_execution_mode = "off"' in config and 'html_theme = "furo"' in config
    assert not re.search(r"https?://", config + (ROOT / "docs/static/site.css").read_text(encoding="utf-8"))


def test_the_api_page_has_every_room_and_the_ground_floor():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"automodule:: ([\w.]+)\n   :members:", text)) == sorted(GROUND + ROOMS)


@pytest.mark.parametrize("module, name", NAMES, ids=[".".join(pair) for pair in NAMES])
def test_sections_of_a_docstring_are_read_as_they_are_meant(module, name):
    """Under `Parameters` all that is not indented is a parameter: prose needs a heading of its own."""
    thing = getattr(import_module(module), name)
    for text in [inspect.getdoc(thing), *map(inspect.getdoc, vars(thing).values())]:
        for body in re.findall(
            r"^(?:Parameters|Attributes)\n-+\n(.*?)(?=^[A-Z]\w+\n---|\Z)", text or "", re.M | re.S
        ):
            lines = [line for line in body.splitlines() if line and line[0] != " "]
            assert [line for line in lines if not re.match(r"\*{0,2}[\w, ]+( : |$)", line)] == []


PLACES = {
    "README.md": "index.md",
    "docs/how-to.md": "how-to.md",
    "notebooks/01.ipynb": "notebooks/01.ipynb",
    "notebooks/zh/01.ipynb": "zh/notebooks/01.ipynb",
}
LINKS = [
    ("docs/how-to.md", "[a](../README.md#top)", "[a](index.md#top)"),
    ("README.md", "[01](notebooks/01.ipynb)", "[01](notebooks/01.ipynb)"),
    ("notebooks/zh/01.ipynb", "[01](../01.ipynb)", "[01](../../notebooks/01.ipynb)"),
    ("notebooks/01.ipynb", "[f](../rsf/rules/fixed.py)", "[f](https://host/r/blob/main/rsf/rules/fixed.py)"),
    ("notebooks/01.ipynb", "[f](../rsf/rules)", "[f](https://host/r/tree/main/rsf/rules)"),
    ("README.md", "![words](figures/overview.png)", "![words](figures/overview.png)"),
    ("README.md", "[![Open](https://a.b/c.svg)](https://d.e)", "[Open](https://d.e)"),
    ("README.md", "[x](https://a.b/c) [y](#z)", "[x](https://a.b/c) [y](#z)"),
]


@pytest.mark.parametrize("file, text, wanted", LINKS)
def test_links_of_a_file_fit_its_page_and_no_picture_comes_from_another_host(make, file, text, wanted):
    assert make.adapted(text, file, PLACES, "https://host/r") == wanted


def test_links_of_a_table_that_a_cell_put_out_fit_its_page(make):
    data = {"text/markdown": ["[01](../notebooks/01.ipynb)\n", "[f](../results/f.jsonl)"], "text/plain": "x"}
    table = nbformat.v4.new_output("execute_result", data, execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[table])])
    for file, page in {
        "notebooks/01.ipynb": "01.ipynb",
        "notebooks/zh/01.ipynb": "../../notebooks/01.ipynb",
    }.items():
        text = make.adapted_notebook(json.dumps(notebook), file, PLACES, "https://host/r")
        (output,) = json.loads(text)["cells"][0]["outputs"]
        wanted = f"[01]({page})\n[f](https://host/r/blob/main/results/f.jsonl)"
        assert output["data"] == {"text/markdown": wanted, "text/plain": "x"}


def test_links_that_lead_nowhere_are_found(tmp_path):
    check = module_of("check")
    (tmp_path / "a.html").write_text('<a href="b.html#there">x</a><a href="#here">x</a><p id="here">')
    (tmp_path / "b.html").write_text('<a href="a.html#there">x</a><img src="c.png"><p id="there">')
    (tmp_path / "d.html").write_text('<a href="https://other.invalid/x">x</a><a href="e%20f.html?q">x</a>')
    (tmp_path / "e f.html").write_text("")
    found = check.broken_links(tmp_path)
    assert found == ["b.html: a.html#there has no such place", "b.html: c.png is not there"]


# ---- the figure


def test_the_figure_asks_nobody_and_can_be_used_without_a_mouse():
    assert not re.search(r"https?:|\bsrc=|import\(|fetch\(|XMLHttpRequest", FIGURE)
    inputs = re.findall(r'<input id="([\w-]+)" type="range"', FIGURE)
    assert len(inputs) >= 3 and all(f'<label for="{name}"' in FIGURE for name in inputs)
    assert 'aria-live="polite"' in FIGURE and FIGURE.count('role="img"') == FIGURE.count("<canvas")
    assert "prefers-color-scheme: dark" in FIGURE and "<table>" in FIGURE


def test_notebook_01_shows_the_figure_as_it_is():
    notebook = nbformat.read(notebooks.NOTEBOOKS / "01_accept_or_reject.ipynb", 4)
    shown = [
        output.data["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    assert len(shown) == 1 and f'srcdoc="{html.escape(FIGURE)}"' in shown[0]
    assert 'title="' in shown[0] and "<figcaption>" in shown[0]


def test_the_figure_has_the_same_words_in_both_languages_and_a_chinese_page_begins_in_chinese(make):
    told = re.search(r"const WORDS = (\{.*?\n\});", FIGURE, re.S)[1]
    english, chinese = (re.findall(r"\b([a-z]+): [\"`(]", part) for part in told.split("\n  zh: {"))
    assert english == chinese and {"title", "other", "k", "said", "picture", "lower"} <= set(english)
    file = "notebooks/zh/01_accept_or_reject.ipynb"
    text = (ROOT / file).read_text(encoding="utf-8")
    page = make.adapted_notebook(text, file, make.pages(), "https://host/r")
    opening = html.escape('<html lang="')
    assert text.count(f"{opening}en") == page.count(f"{opening}zh") == 1 and f"{opening}en" not in page


SETTINGS = [(2, 0, 1), (1.3154892, 0, 1), (0.66, 0, 1), (0.9, 1.5, 0.4), (6, -2, 3), (0.2, 0.35, 2.05)]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the figure's own functions say in each setting, run by node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not there: run.py site --check holds these numbers in a browser")
    file = tmp_path_factory.mktemp("figure") / "mathematics.js"
    file.write_text(re.search(r'<script id="mathematics">(.*?)</script>', FIGURE, re.S)[1], encoding="utf-8")
    ask = f"""
    const m = require({json.dumps(str(file))});
    const answers = {json.dumps(SETTINGS)}.map(([k, place, width]) => {{
      const rate = m.acceptanceRate(k, place, width);
      return {{
        rate, bound: m.smallestK(place, width), distance: m.distance(k, place, width, rate),
        law: {json.dumps(list(range(-3, 4)))}.map(x => m.sawnOff(x, k, place, width, rate)),
        ...m.candidates(5000, 7, k, place, width),
      }};
    }});
    console.log(JSON.stringify(answers));
    """
    answer = subprocess.run([node, "-e", ask], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_the_figures_numbers_are_those_of_rsf(told, number):
    (k, place, width), said = SETTINGS[number], told[number]
    p, q = stats.norm(), stats.laplace(place, width)
    grid = np.linspace(-60, 60, 240_001)  # its cells are 0.0005 wide
    log_p, log_q = p.logpdf(grid), q.logpdf(grid)
    law, rate = finite.accepted_law(
        np.exp(log_q) / np.exp(log_q).sum(), acceptance_probability(log_p, log_q, np.log(k))
    )
    at = np.searchsorted(grid, np.arange(-3, 4) - 1e-9)
    assert said["rate"] == pytest.approx(rate, abs=2e-6)
    assert said["law"] == pytest.approx(law[at] / 0.0005, abs=2e-6)
    assert said["bound"] == pytest.approx(np.exp(log_acceptance(log_p, log_q, 0).max()), rel=1e-6)
    assert said["bound"] <= np.exp(log_k_bound(p, q, (-np.inf, np.inf)))
    away = np.abs(law - np.exp(log_p) / np.exp(log_p).sum()).sum() / 2
    assert said["distance"] == pytest.approx(away, abs=2e-6)


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_the_figures_candidates_follow_q_and_what_it_keeps_follows_the_sawn_off_law(told, number):
    (k, place, width), said = SETTINGS[number], told[number]
    x, u, keep = (np.array([one[key] for one in said["drawn"]]) for key in ("x", "u", "keep"))
    p, q = stats.norm(), stats.laplace(place, width)
    assert checks.same_law(x, q.cdf) and checks.same_law(u, stats.uniform.cdf)
    a = acceptance_probability(p.logpdf(x), q.logpdf(x), np.log(k))
    near = np.abs(u - a) < 1e-12
    assert near.sum() == 0 and (keep == (u < a)).all() and said["kept"] == keep.sum()
    assert checks.rate_interval(keep.sum(), len(keep), expected=said["rate"])
    edges = np.linspace(-8, 8, 16_001)
    mass = np.append(0, np.cumsum(np.minimum(p.pdf(edges[1:] - 5e-4), k * q.pdf(edges[1:] - 5e-4))))
    assert checks.same_law(x[keep], lambda value: np.interp(value, edges, mass / mass[-1]))
    if k < 0.99 * said["bound"] and said["distance"] > 0.1:
        assert not checks.same_law(x[keep], p.cdf)  # another law, and it shows
