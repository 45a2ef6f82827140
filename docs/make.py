"""Build the site into build/site from the notebooks as they were executed: `python3 run.py site`.

The pages are laid out in build/site-source first: README.md is the front page, notebooks keep their outputs,
a link to a page of the site leads there, one to any other file to the repository, and a badge from another
host becomes its words. Nothing is executed, and nothing asks another host. `--check` opens what was built in
a browser: docs/check.py.
"""

import argparse
import json
import posixpath
import re
import shutil
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, SITE = ROOT / "build" / "site-source", ROOT / "build" / "site"
FIGURE = ROOT / "rsf" / "lab" / "accept_or_reject.html"
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2")  # of its package: what our formulas need
PAGES = {  # file of the project: page of the site
    "README.md": "index.md",
    "README.zh.md": "zh/index.md",
    "docs/how-to.md": "how-to.md",
    "docs/api.md": "api.md",
    "docs/try.md": "try.md",
    "docs/try.zh.md": "zh/try.md",
    "docs/class.md": "class.md",
    "results/README.md": "evidence.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def pages():
    """Return which file of the project becomes which page: those above, and every notebook."""
    found = dict(PAGES)
    for file in sorted(ROOT.glob("notebooks/*.ipynb")):
        found[f"notebooks/{file.name}"] = f"notebooks/{file.name}"
    for file in sorted(ROOT.glob("notebooks/*/*.ipynb")):  # another language
        found[file.relative_to(ROOT).as_posix()] = f"{file.parent.name}/notebooks/{file.name}"
    return found


def adapted(text, file, places, address, page=None):
    """Return Markdown whose relative links, written for a file of the project, fit its page, or another."""
    here = posixpath.dirname(file)
    start = posixpath.dirname(page or places[file]) or "."

    def link(match):
        path, hash_, anchor = match["target"].partition("#")
        target = posixpath.normpath(posixpath.join(here, path))
        if target.startswith("figures/"):
            return f"{match['before']}({posixpath.relpath(target, start)})"
        if target in places:
            return f"{match['before']}({posixpath.relpath(places[target], start)}{hash_}{anchor})"
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{match['before']}({address}/{kind}/main/{target}{hash_}{anchor})"

    text = re.sub(r"!\[([^]]*)\]\(https?://[^)]*\)", r"\1", text)  # a badge from another host: its words
    text = re.sub(r"\[([-+][\d.]+), ([-+][\d.]+)\]", "[\\1,\u00a0\\2]", text)  # an interval stays in one line
    return re.sub(r"(?P<before>!?\[[^]]*\])\((?P<target>(?![a-z]+:|#)[^)\s]+)\)", link, text)


def adapted_notebook(text, file, places, address):
    """Return a notebook whose links fit its page, those of the tables that its cells put out among them."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = adapted("".join(cell["source"]), file, places, address)
        elif "alt" in cell["metadata"]:  # where myst-nb looks for it
            cell["metadata"]["mystnb"] = {"image": {"alt": cell["metadata"]["alt"]}}
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                english = f"notebooks/{posixpath.basename(file)}"  # where its cells were run
                told = "".join(data["text/markdown"])
                data["text/markdown"] = adapted(told, english, places, address, places[file])
    text = json.dumps(notebook)
    if places[file].startswith("zh/"):  # the figure in a frame
        text = text.replace("&lt;html lang=&quot;en&quot;", "&lt;html lang=&quot;zh&quot;")
    return text


def lay_out():
    """Write the pages, the figure and MathJax into build/site-source."""
    address = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    address = address["Repository"]
    shutil.rmtree(SOURCE, ignore_errors=True)
    places = pages()
    for file, page in places.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        change = adapted_notebook if file.endswith(".ipynb") else adapted
        text = change(text, file, places, address)
        if page == "index.md":
            text += "\n" + (ROOT / "docs" / "contents.md").read_text(encoding="utf-8")
        (SOURCE / page).parent.mkdir(parents=True, exist_ok=True)
        (SOURCE / page).write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "figures", SOURCE / "figures")
    package = Path(next(iter(find_spec("mathjax").submodule_search_locations)))
    for part in MATHJAX:
        there, here = package / "static/mathjax/es5" / part, SOURCE / "_static/mathjax" / part
        here.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(there, here) if there.is_dir() else shutil.copy(there, here)
    shutil.copy(FIGURE, SOURCE / "_static")


def main(words=None):
    parser = argparse.ArgumentParser(prog="python3 run.py site", description=__doc__.partition(":")[0])
    parser.add_argument("--check", action="store_true", help="open what was built in headless Chromium")
    if parser.parse_args(words).check:
        import check

        return check.main(SITE)
    from sphinx.cmd.build import main as sphinx

    lay_out()
    shutil.rmtree(SITE, ignore_errors=True)
    options = ["-c", ROOT / "docs", "-d", ROOT / "build" / "site-doctrees", "-E", "-q", "-W", "--keep-going"]
    code = sphinx([str(option) for option in ["-b", "html", *options, SOURCE, SITE]])
    size = sum(file.stat().st_size for file in SITE.rglob("*") if file.is_file()) / 2**20
    print(f"{len(list(SITE.rglob('*.html')))} pages, {size:.0f} MiB: open build/site/index.html")
    return code


if __name__ == "__main__":
    sys.exit(main())
