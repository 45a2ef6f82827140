"""One style for all pictures; a colour means the same everywhere."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np

TARGET, PROPOSAL, KEPT, REJECTED, CONTROL = "#222222", "#9A9A9A", "#0072B2", "#D55E00", "#882255"
ARMS = {"plain": TARGET, "article": KEPT, "random": CONTROL, "twin": "#009E73"}
_STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 110,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.frameon": False,
    "lines.linewidth": 2,
}


@contextmanager
def figure(
    title: str, columns: int = 1, width: float = 8.0, height: float = 3.6, *, sharey: bool = False
) -> Iterator[plt.Axes | np.ndarray]:
    """Give the axes of a figure whose title states the finding: one Axes, or an array of them.

    Width and height are in inches; with `sharey` all axes have the scale of the first.
    """
    with plt.rc_context(_STYLE):
        picture, axes = plt.subplots(1, columns, figsize=(width, height), sharey=sharey)
        picture.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
        yield axes


def dots_with_intervals(
    axis: plt.Axes, groups: Mapping[str, tuple[Sequence[float], str]], level: float = 0.95
) -> None:
    """Draw each group's values (n,) as dots, and beside them their mean with its t interval.

    `groups` maps a label to its values and their colour.
    """
    from scipy import stats

    for place, (values, colour) in enumerate(groups.values()):
        n = len(values)
        half = stats.t.ppf((1 + level) / 2, n - 1) * stats.sem(values)
        axis.plot([place - 0.08] * n, values, "o", color=colour, alpha=0.45, markersize=5, markeredgewidth=0)
        axis.errorbar(
            [place + 0.08], [sum(values) / n], [half], fmt="o", color=colour, capsize=4, markersize=7
        )
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set_xlim(-0.6, len(groups) - 0.4)
