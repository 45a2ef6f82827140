"""The site: how Sphinx and myst-nb read what `docs/make.py` has laid out in build/site-source."""

import re
import sys
import tomllib
from pathlib import Path

from numpy.typing import ArrayLike
from sphinx.search.en import SearchEnglish
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
TITLES = {"zh": "拒绝采样微调"}
THEME = {  # its words, and Sphinx's, by the language of the page
    "zh": {
        "Back to top": "回到顶部",
        "Copyright &#169; %(copyright)s": "版权 &#169; %(copyright)s",
        "Home": "首页",
        "Index": "索引",
        "Link to this heading": "本节的链接",
        "Next": "下一页",
        "On this page": "本页内容",
        "Previous": "上一页",
        "Search": "搜索",
        "Skip to content": "跳到正文",
        "Toggle Light / Dark / Auto color theme": "切换浅色、深色或自动配色",
        "Toggle site navigation sidebar": "打开或收起目录",
        "Toggle table of contents sidebar": "打开或收起本页内容",
    }
}

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
    """Tell a page's template its own language, and where it is in the others, or else their front page."""
    folder, _, rest = page.partition("/")
    own, rest = (folder, rest) if folder in LANGUAGES else ("", page)
    context["language"] = own or language
    context["counterparts"] = []
    for code in LANGUAGES.keys() - {own}:
        names = (f"{code}/{name}".lstrip("/") for name in (rest, "index"))
        name = next(name for name in names if name in app.env.all_docs)
        context["counterparts"].append((LANGUAGES[code], code or language, name))


def chinese(text):
    return bool(re.search("[\u4e00-\u9fff]", text))


def in_its_language(app, page, template, context, doctree):
    """Leave of the navigation what has the language of the page, and say the theme's words in it."""
    own = context["language"]
    groups = re.split('(?=<p class="caption")', context["furo_navigation_tree"])
    kept = [group for group in groups if chinese(group.partition("</p>")[0]) == (own == "zh")]
    context["furo_navigation_tree"] = "".join(kept)
    for beside in ("prev", "next"):
        if context.get(beside) and chinese(context[beside]["title"]) != (own == "zh"):
            context[beside] = None
    words = THEME.get(own, {})
    context["theme_words"] = words
    if words:
        context["gettext"] = lambda text: words.get(text, text)
        context["docstitle"] = TITLES[own]
        context["master_doc"] = f"{own}/index"
        for english, told in words.items():
            context["body"] = context.get("body", "").replace(f'title="{english}"', f'title="{told}"')


class Search(SearchEnglish):
    """English words by their stems; of Chinese signs each two neighbours, in pages and in queries."""

    js_splitter_code = r"""
var splitQuery = (query) => (query.match(
  /[\u4e00-\u9fff]+|(?:(?![\u4e00-\u9fff])[\p{Letter}\p{Number}_\p{Emoji_Presentation}])+/gu
) || []).flatMap((run) => (/^[\u4e00-\u9fff]{3,}$/.test(run)
  ? [...run].slice(1).map((sign, i) => run[i] + sign) : [run]));
"""

    def split(self, text):
        words = []
        for run in re.findall("[\u4e00-\u9fff]+|[^\\W\u4e00-\u9fff]+", text):
            pairs = [run[i : i + 2] for i in range(len(run) - 1)] if chinese(run) else []
            words += pairs or [run]
        return words


def setup(app):
    app.add_search_language(Search)
    app.connect("autodoc-process-docstring", as_text, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", short_signature)
    app.connect("html-page-context", counterparts)
    app.connect("html-page-context", in_its_language, priority=900)  # after the theme's own
