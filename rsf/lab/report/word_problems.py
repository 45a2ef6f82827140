"""What the arms of the word problems reach, as lines: for notebook 11, from its own runs or from results/."""

import numpy as np

from rsf import checks


def compare(runs: dict) -> list[str]:
    """Return a line for each arm: its mean reward on the test questions, its cost, what `verified` has more.

    The cost is in forward passes of one token.

    Intervals are of 95 % (t). The unit is the seed; where all arms share only one of them, it is the
    question, which says nothing about other seeds.

    Parameters
    ----------
    runs : {arm: {seed: record}}, as `records.read` gives them
    """
    seeds = sorted(set.intersection(*(set(of_seed) for of_seed in runs.values())))
    unit = {}
    for arm, of_seed in runs.items():
        right = np.array([of_seed[seed]["numbers"]["right"] for seed in seeds])  # (seeds, questions)
        unit[arm] = right.mean(axis=1) if len(seeds) > 1 else right[0]
    lines = []
    for arm, values in unit.items():
        own = checks.paired_difference(values, 0 * values)
        passes = np.mean([runs[arm][seed]["numbers"]["forward_passes"] for seed in seeds])
        line = f"{arm:12} {own.estimate:.4f} [{own.low:z.4f}, {own.high:.4f}], {passes:11,.0f} passes"
        if arm != "verified":
            more = checks.paired_difference(unit["verified"], values)
            line += f"; verified minus it {more.estimate:z.4f} [{more.low:z.4f}, {more.high:z.4f}]"
        lines.append(line)
    return lines
