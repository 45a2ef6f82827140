"""The first map of the sums: own verified answers beside a control that learns in one piece (sections
arithmetic-*), kept as it was run.

python -m rsf experiment arithmetic-200      every arm and seed of that section, a result file each
"""

import copy
import itertools
import time
from collections.abc import Callable

import numpy as np

from rsf import rules
from rsf.lab import records, validated
from rsf.lab.tasks import addition

ARMS = {  # sampler, rule, samples for a prompt, judge
    "rejection": (addition.own, lambda: rules.above(1), 1, lambda rng: addition.right),
    "blind": (addition.own, lambda: rules.random_like(rules.above(1)), 1, lambda rng: addition.right),
    "gold": (addition.given, lambda: rules.constant(1), 1, lambda rng: addition.right),
    "best-of-4": (addition.own, lambda: rules.best_of(4), 4, lambda rng: addition.right),
    "noisy": (addition.own, lambda: rules.above(1), 1, lambda rng: addition.noisy(0.1, rng)),
    "nines": (addition.own, lambda: rules.above(1), 1, lambda rng: addition.nines),
}


def train(
    experiment: str,
    arm: str,
    seed: int,
    learning_rate: float,
    weight_decay: float,
    on_round: Callable | None = None,
) -> tuple:
    """Return (model, reports, spent) of an arm: all arms of a seed start from the same weights and spend the
    same.

    The control learns from the sums with answers alone, in one piece; the others do so for `base_steps`, and
    then go on in rounds with the sums without answers. `on_round(model, report)` is called after each.
    """
    settings = records.protocol(experiment)
    if arm == "control":
        model = addition.start(settings, seed, settings["steps"], learning_rate, weight_decay)
        return model, [], addition.STEP * settings["steps"]
    sampler, rule, samples, judge = ARMS[arm]
    model, rewards = addition.base(experiment, seed)
    model = copy.deepcopy(model)
    rule = rule()
    if arm == "blind":
        rule.observe(rewards)  # a rate to begin with
    sums = addition.world(settings, seed)
    sampling = addition.TOKENS * settings["pool"] if sampler is addition.own else 0
    left = (settings["steps"] - settings["base_steps"]) * addition.STEP // settings["rounds"] - sampling
    reports = addition.learn(
        model,
        sums["pool"][: settings["pool"] // samples].tolist(),
        judge(np.random.default_rng([seed, 6])),
        rule,
        np.random.default_rng([seed, 4]),
        sampler=sampler,
        rounds=settings["rounds"],
        samples=samples,
        steps=left // addition.STEP,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        supervised=addition.answered(sums["supervised"].tolist()),
        on_round=lambda report: on_round(model, report) if on_round else None,
    )
    spent = addition.STEP * settings["base_steps"] + settings["rounds"] * (
        sampling + left // addition.STEP * addition.STEP
    )
    return model, reports, spent


def tune(experiment: str, arm: str, seed: int) -> dict:
    """Return the numbers of a tuning run: accuracy on the validation sums for each setting of the grid."""
    settings = records.protocol(experiment)
    validation = addition.world(settings, seed)["validation"].tolist()
    grid = list(itertools.product(settings["grid_learning_rate"], settings["grid_weight_decay"]))
    return {
        "grid": grid,
        "validation": [
            addition.accuracy(train(experiment, arm, seed, *setting)[0], validation) for setting in grid
        ],
    }


def measure(experiment: str, arm: str, seed: int) -> dict:
    """Return the numbers of a run: accuracy after each round and in the end, what was accepted, what was
    spent."""
    setting = validated.best(experiment, arm)[0][0]
    test = addition.world(records.protocol(experiment), seed)["test"].tolist()
    clock = time.process_time()
    curve = []
    model, reports, spent = train(
        experiment,
        arm,
        seed,
        *setting,
        on_round=lambda model, report: curve.append(addition.accuracy(model, test)),
    )
    return {
        "accuracy": addition.accuracy(model, test),
        "setting": setting,
        "base": addition.accuracy(addition.base(experiment, seed)[0], test) if reports else None,
        "curve": curve,
        "acceptance": [report.sampling.acceptance_rate for report in reports],
        "reward": [report.reward for report in reports],
        "examples": [report.examples for report in reports],
        # as the files of these sections call the slack, of no coins inf
        "margin": min(filter(np.isfinite, (report.sampling.slack for report in reports)), default=None),
        "nines": addition.accuracy(model, test, addition.nines),
        "longer": addition.accuracy(
            model, addition.sums(np.random.default_rng([seed, 5]).integers(10**6, size=1000), digits=3)
        ),
        "forward_passes": spent,
        "cpu_seconds": round(time.process_time() - clock, 1),
    }


def run(experiment: str, arm: str, seed: int) -> records.Run:
    """Run one arm with one seed of an arithmetic section of the protocol."""
    return addition.told(experiment, arm, seed, tune if experiment.endswith("tuning") else measure)
