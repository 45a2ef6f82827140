"""One style for all pictures; a colour means the same everywhere."""

from contextlib import contextmanager

import matplotlib.pyplot as plt

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
def figure(title, columns=1, width=8.0, height=3.6, **subplots):
    """Give the axes of a figure whose title states the finding: one Axes, or an array of them."""
    with plt.rc_context(_STYLE):
        picture, axes = plt.subplots(1, columns, figsize=(width, height), **subplots)
        picture.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
        yield axes


def dots_with_intervals(axis, groups, level=0.95):
    """Draw each group's values (n,) as dots, and beside them their mean with its t interval; groups: {label: (values, colour)}."""
    from scipy import stats

    for place, (values, colour) in enumerate(groups.values()):
        n, mean = len(values), sum(values) / len(values)
        half = stats.t.ppf((1 + level) / 2, n - 1) * stats.sem(values)
        axis.plot([place - 0.08] * n, values, "o", color=colour, alpha=0.45, markersize=5, markeredgewidth=0)
        axis.errorbar([place + 0.08], [mean], [half], fmt="o", color=colour, capsize=4, markersize=7)
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set_xlim(-0.6, len(groups) - 0.4)
