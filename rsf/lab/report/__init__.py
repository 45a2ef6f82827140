"""The pictures and tables of README, results/README and the corpus card, made from results/."""

import re
from collections.abc import Iterator
from pathlib import Path

from rsf.lab import records
from rsf.lab.report import benchmarks, claims, corpus, forest, overview, selection, sweep, tasks, whole_model

FIGURES = {
    "overview": overview.overview_figure,
    "whole_model": whole_model.whole_model_figure,
    "sweep": sweep.sweep_figure,
    "models": forest.models_figure,
    "sampling": benchmarks.sampling_figure,
    "selection": selection.selection_figure,
}
TABLES = {
    "README.md": (overview.findings,),
    "README.zh.md": (overview.findings_zh,),
    "results/README.md": (
        claims.claims_table,
        whole_model.whole_model_table,
        benchmarks.sampling_table,
        sweep.sweep_table,
        tasks.tasks_table,
        sweep.sums_table,
        selection.selection_table,
        benchmarks.generation_table,
        benchmarks.growth_table,
        overview.power_table,
        overview.environments_table,
    ),
    "rsf/lab/data/embedded/README.md": (corpus.corpus_table, corpus.transfer_table),
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
