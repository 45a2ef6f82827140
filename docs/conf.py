"""The site: how Sphinx and myst-nb read what `docs/make.py` has laid out in build/site-source."""

import re
import sys
import tomllib
from pathlib import Path

from numpy.typing import ArrayLike
from sphinx.util.typing import stringify_annotation

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # autodoc reads the checkout
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "RSF"
version = release = PROJECT["version"]
copyright = "the RSF authors, MIT"  # the name that Sphinx asks for
html_title = "Rejection sampling fine-tuning"
language = "en"
LANGUAGES = {"": "English", "zh": "中文"}  # a folder each, the first at the root

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
nb_execution_mode = "off"  # the committed outputs are shown
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables and links that a cell puts out are those of a page
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3  # links such as evidence.md#what-selection-costs
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "furo"
templates_path = ["templates"]
html_static_path = ["static", str(ROOT / "build" / "site-source" / "_static")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_favicon = "static/favicon.svg"
html_theme_options = {"top_of_page_buttons": []}
PARTS = ("brand", "search", "languages", "scroll-start", "navigation", "scroll-end")
html_sidebars = {"**": [f"sidebar/{part}.html" for part in PARTS]}
mathjax_path = "mathjax/tex-chtml.js"  # from the site itself: make.py puts it there

default_role = "code"  # docstrings write `name`
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
napoleon_use_rtype = False
add_module_names = False


def as_text(app, what, name, thing, options, lines):
    """Docstrings are plain text: what would be markup, as in |u - A|, is not; a formula keeps its lines."""
    given = [*lines]
    lines.clear()
    literal = False  # in an indented block that an empty line divides from a paragraph: a formula, a command
    empty = False  # the line before
    last = ""  # line with words
    for line in given:
        if line and line[0] != " ":
            literal = False
        elif line and empty and not literal and last[:1] not in ("", " "):
            literal = True
            lines += ["::", ""]
        pieces = re.split(r"(`[^`]*`)", line)  # code stays as it is
        if not literal and not line.lstrip().startswith((">>>", "...")):
            pieces[::2] = [re.sub(r"([|*]|(?<=\w)_(?!\w))", r"\\\1", piece) for piece in pieces[::2]]
        lines.append("".join(pieces))
        empty = not line
        last = line or last


def short_signature(app, what, name, thing, options, signature, returned):
    """Hints as they are written; a class of settings shows none of the Trainer's hundred."""
    if name.endswith("RSFConfig"):
        return "(output_dir, ...)", returned
    if signature is None:  # a module
        return None
    for mode in ("smart", "fully-qualified", "fully-qualified-except-typing"):
        signature = signature.replace(stringify_annotation(ArrayLike, mode), "ArrayLike")
    return signature, returned


def counterparts(app, page, template, context, doctree):
    """Tell a page's template its own language, and where it is in the others."""
    folder, _, rest = page.partition("/")
    own, rest = (folder, rest) if folder in LANGUAGES else ("", page)
    there = {code: f"{code}/{rest}".lstrip("/") for code in LANGUAGES}
    context["language"] = own or language
    context["counterparts"] = [
        (LANGUAGES[code], code or language, name)
        for code, name in there.items()
        if code != own and name in app.env.all_docs
    ]


def setup(app):
    app.connect("autodoc-process-docstring", as_text, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", short_signature)
    app.connect("html-page-context", counterparts)
