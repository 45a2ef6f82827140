"""The project as a whole: one place for a fact, generated parts that equal what generates them."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter

import matplotlib.image
import numpy as np
import pytest
from mutations import MUTATIONS

import rsf
from rsf.lab import notebooks, report
from rsf.lab.data import EMBEDDED
from rsf.lab.records import ROOT


def test_nothing_in_the_package_prints_or_uses_global_randomness():
    for file in (ROOT / "rsf").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "np.random.seed" not in text and "import random" not in text, file.name
        assert file.name == "__main__.py" or not re.search(r"^\s*print\(", text, re.MULTILINE), file.name


def test_each_mutation_fits_its_file_and_names_tests_that_are_there():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 10
    for name, file, old, new, tests, words in MUTATIONS:
        assert (ROOT / "rsf" / file).read_text(encoding="utf-8").count(old) == 1 and old != new, name
        assert re.search(
            rf"def test_\w*{words.split(' and ')[0]}", (ROOT / "tests" / tests).read_text(encoding="utf-8")
        ), name


def test_open_ranges_in_the_project_and_exact_pins_in_one_file():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (
        not any("==" in dependency for dependency in project["dependencies"])
        and project["requires-python"] == ">=3.11"
    )
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert pins["torch"] == "2.13.0" and not any(name.startswith("nvidia") for name in pins)
    for file in ("requirements.txt", "environment.yml"):
        assert not re.search(r"==\d", (ROOT / file).read_text())
    assert "-c constraints.txt" in (ROOT / "requirements.txt").read_text()


def test_the_address_of_the_repository_stands_in_one_place():
    for file in [*notebooks.TEXT.glob("*.md"), *(ROOT / "rsf").rglob("*.py"), ROOT / "run.py"]:
        assert address().removeprefix("https://") not in file.read_text(encoding="utf-8"), file.name
    archive = f"{address()}/archive/refs/tags/v{rsf.__version__}.zip"
    for name in notebooks.names():
        text = (notebooks.NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
        assert text.count(f"%pip install -q --no-deps {archive}") == 1 and colab(name) in text, name
        for page in ("README.md", "README.zh.md"):
            row = next(line for line in lines_of(page) if f"(notebooks/{name}.ipynb)" in line)
            assert f"({colab(name)})" in row, (page, name)


def test_no_page_tells_of_another_address():
    for file in run_py().addressed():
        told = set(re.findall(r"github(?:\.com)?/[\w-]+/rsf\b", file.read_text(encoding="utf-8")))
        assert {one.replace(".com", "", 1) for one in told} <= {address()[8:].replace(".com", "", 1)}, (
            file.name
        )


def test_one_command_writes_the_address_everywhere_and_nothing_else(tmp_path, monkeypatch, capsys):
    module = run_py()
    before = {}
    for file in module.addressed():
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
        before[copy] = file.read_bytes()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert not module.main(["address", "https://github.com/some-one/rsf.course"])
    told = capsys.readouterr().out
    for place in (
        "pyproject.toml",
        "CITATION.cff",
        "README.md",
        "README.zh.md",
        "notebooks/07_fine_tune_bert.ipynb",
        "notebooks/zh/07_fine_tune_bert.ipynb",
    ):
        text = (tmp_path / place).read_text(encoding="utf-8")
        assert "OWNER" not in text and "github.com/some-one/rsf.course" in told and f"{place}:" in told
        assert ("github/some-one/rsf.course/blob" in text) == (
            place not in ("pyproject.toml", "CITATION.cff")
        )
    module.main(["address", address()])
    assert all(copy.read_bytes() == content for copy, content in before.items())
    for wrong in ("github.com/some-one/rsf", "https://github.com/OWNER", "https://example.org/a/b", ""):
        with pytest.raises(SystemExit, match="must have the form"):
            module.main(["address", wrong])


def address():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def colab(name):
    """Where a notebook opens on Colab."""
    path = address().removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}.ipynb"


def lines_of(page):
    return (ROOT / page).read_text(encoding="utf-8").splitlines()


def run_py():
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_commands_are_those_of_run_py():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "python3 run.py test" in readme.split("##")[0]
    words = set(re.findall(r"python3 run\.py (\w+)", readme)) - {"test"}
    shown = subprocess.run(
        [sys.executable, "-m", "rsf", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert words and all(word in shown for word in words)


def test_readme_is_short_and_its_first_screen_says_all_that_one_needs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    length_of_a_name = text.count(address()[19:]) * (len(address()[19:]) - len("OWNER/rsf"))
    assert len(text.encode()) - length_of_a_name <= 6_000  # whoever owns it
    screen = text.splitlines()[:25]
    assert sum(line.startswith("![") for line in screen) == 1 and any("中文" in line for line in screen)
    assert [line.split()[2] for line in screen if line.startswith("python3 run.py")][1:] == ["lab", "test"]
    assert sum(line.startswith("- ") for line in screen) == 3


def test_readme_s_map_has_each_notebook_with_the_time_that_it_says_itself():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in notebooks.names():
        row = next(line for line in readme.splitlines() if f"(notebooks/{name}.ipynb)" in line)
        text = (notebooks.TEXT / f"{name}.md").read_text(encoding="utf-8")
        read, run = re.search(r"(\d+) minutes to read, (\d+ (?:s|min)) to run", text).groups()
        assert f"{read} min, {run}" in row, name
        assert f"(notebooks/{name}.ipynb)" in (ROOT / "README.zh.md").read_text(encoding="utf-8"), name


def test_links_between_the_project_s_own_pages_lead_somewhere():
    for page in (
        ROOT / "README.md",
        ROOT / "README.zh.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "results/README.md",
        *ROOT.glob("docs/*.md"),
    ):
        for target in re.findall(r"\]\((?!https:)([^)#:]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists() or list(page.parent.glob(f"{target}.json*")), (
                page,
                target,
            )


def pages():
    return [*sorted(ROOT.glob("*.md")), ROOT / "results/README.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_link_to_a_place_in_a_page_finds_its_heading_and_one_to_colab_its_notebook(page):
    text = page.read_text(encoding="utf-8")
    for file, place in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
        assert place in anchors(page.parent / file if file else page), (file, place)
    for path in re.findall(
        r"\(https://colab\.research\.google\.com/github/[^/)]+/[^/)]+/blob/main/([^)]*)\)", text
    ):
        assert (ROOT / path).is_file(), path


def anchors(page):
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_generated_parts_equal_what_generates_them(tmp_path):
    for name in report.make(tmp_path):
        made, kept = tmp_path / name, ROOT / name
        if name.endswith(".png"):
            one, other = matplotlib.image.imread(made), matplotlib.image.imread(kept)
            assert one.shape == other.shape and np.abs(one - other).mean() < 0.01, name
        else:
            assert made.read_text(encoding="utf-8") == kept.read_text(encoding="utf-8"), name


def test_a_text_without_a_place_for_a_table_is_an_error():
    with pytest.raises(ValueError, match="no place for imdb_table"):
        report.fill("nothing here", "imdb_table", "x")


def words_of(text):
    return re.findall(r"[a-z0-9']+", text.lower().replace("\u2019", "'"))


def test_mini_reviews_are_as_their_card_says():
    rows = [
        json.loads(line)
        for line in (EMBEDDED / "mini_reviews.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(rows) == 720 and all(40 <= len(row["text"].split()) <= 140 for row in rows)
    assert Counter((row["split"], row["label"]) for row in rows) == {
        (split, label): n for split, n in (("train", 240), ("test", 120)) for label in (0, 1)
    }
    assert (
        set(Counter((row["genre"], row["label"]) for row in rows).values()) == {30}
        and len({row["genre"] for row in rows}) == 12
    )
    kinds = Counter((row["genre"], row["label"], row["kind"]) for row in rows)
    assert len({row["kind"] for row in rows}) == 6 and all(
        len({kinds[genre, label, kind] for genre, label, k in kinds if k == kind}) == 1
        for _, _, kind in kinds
        for genre, label in [("war", 0)]
    )


def test_no_two_mini_reviews_share_a_run_of_seven_words():
    seen = {}
    for number, line in enumerate((EMBEDDED / "mini_reviews.jsonl").read_text(encoding="utf-8").splitlines()):
        words = words_of(json.loads(line)["text"])
        for run in {tuple(words[i : i + 7]) for i in range(len(words) - 6)}:
            assert run not in seen, (run, number, seen[run])
            seen[run] = number


def test_tfidf_with_logistic_regression_stays_below_90_percent_on_mini_reviews():
    share = re.search(r"\| all \| 480 \| 240 \| (\d+) \|", report.corpus.corpus_table())
    assert 50 < int(share[1]) < 90


def test_the_citation_names_the_project_s_version_address_and_licence():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cited = {name: value.strip('"') for name, value in re.findall(r"^([a-z-]+): *(.*)$", text, re.MULTILINE)}
    assert cited["version"] == project["version"] and cited["license"] == project["license"]
    assert cited["repository-code"] == project["urls"]["Repository"]
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()


def test_what_contributing_tells_to_run_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    commands = re.findall(r"python3 run\.py (\w+)", text)
    assert {"test", "notebooks", "figures", "experiment", "verify"} == set(commands)
    for path in re.findall(r"`((?:results|notebooks|tests)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path
    template = (ROOT / ".github/ISSUE_TEMPLATE/not_reproduced.md").read_text(encoding="utf-8")
    assert "```\npython3 run.py verify --machine\n```" in template
    workflow = (ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8")
    assert "run: .ci/run\n" in workflow
