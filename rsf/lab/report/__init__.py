"""The pictures and tables of README, results/README and the corpus card, made from results/."""

import re
from collections.abc import Iterator
from pathlib import Path

from rsf.lab import records
from rsf.lab.report.conformance import power_table
from rsf.lab.report.corpus import corpus_table, transfer_table
from rsf.lab.report.findings import findings, findings_zh
from rsf.lab.report.generation import generation_figure, generation_table, sums_table
from rsf.lab.report.overview import article_table, environments_table, overview_figure, setup_line
from rsf.lab.report.sampling import sampling_figure, sampling_table
from rsf.lab.report.selection import selection_figure, selection_table
from rsf.lab.report.sweep import sweep_figure, sweep_table
from rsf.lab.report.whole_model import whole_model_figure, whole_model_table

FIGURES = {
    "overview": overview_figure,
    "whole_model": whole_model_figure,
    "sweep": sweep_figure,
    "sampling": sampling_figure,
    "selection": selection_figure,
    "bench_generation": generation_figure,
}
TABLES = {
    "README.md": (findings, setup_line),
    "README.zh.md": (findings_zh,),
    "results/README.md": (
        whole_model_table,
        sampling_table,
        sweep_table,
        sums_table,
        selection_table,
        generation_table,
        power_table,
        article_table,
        environments_table,
    ),
    "rsf/lab/data/embedded/README.md": (corpus_table, transfer_table),
}


def make(root: Path | None = None) -> Iterator[str]:
    """Write every generated file below `root`, by default the checkout, and yield their names."""
    here = records.checkout()
    root = root or here
    (root / "figures").mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        draw(root / "figures" / f"{name}.png")
        yield f"figures/{name}.png"
    for name, tables in TABLES.items():
        text = (here / name).read_text(encoding="utf-8")
        for table in tables:
            text = fill(text, table.__name__, table())
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
        yield name


def fill(text: str, name: str, content: str) -> str:
    """Return the text with what stands between the marks of a generated part replaced."""
    pattern = rf"(<!-- made by rsf\.lab\.report\.{name} -->\n).*?(<!-- end -->)"
    records.must(re.search(pattern, text, re.DOTALL), f"the text has no place for {name}")
    return re.sub(pattern, lambda match: match[1] + content + "\n" + match[2], text, flags=re.DOTALL)
