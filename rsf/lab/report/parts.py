"""What all tables and figures of the report are made of."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from rsf import plots
from rsf.checks import Verdict


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown.

    >>> print(table(["arm", "right"], [["plain", 0.9]]))
    | arm | right |
    | --- | --- |
    | plain | 0.9 |
    """
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def limits(found: Verdict, digits: int = 1, unit: str = "") -> str:
    """Return a difference and its limits, as +1.0 [-0.5, +2.5]."""
    estimate, low, high = (f"{value:+.{digits}f}" for value in (found.estimate, found.low, found.high))
    return f"{estimate}{unit} [{low}, {high}]"


def span(values: Iterable[float], digits: int) -> str:
    """Return the range of some values, as "1.0 to 2.0", or one value where both are the same."""
    values = list(values)
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def save(axis: Axes, file: Path) -> None:
    """Write the figure that an axis belongs to, with nothing in the file that another day would change."""
    axis.figure.savefig(file, metadata={"Software": None})
    plots.plt.close(axis.figure)
