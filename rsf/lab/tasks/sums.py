"""The sums, fairly: own verified answers beside controls of the same schedule, the second map (sections
sums-*).

    tuning: nine settings on two seeds -> the best three, by the median, on six more -> beyond an edge, if one
    won

Every arm but the control goes on from one base, in rounds that each have a new optimiser, warm-up and decay:

    rejection            a sample of each sum of the pool, kept if right, and the sums with answers
    control-in-rounds    the sums with answers alone, with rejection's steps and what it spends on sampling
    blind                as many samples as rejection kept in that round, chosen without looking
    best-of-4            four samples of each sum of a fresh quarter of the pool, the best kept
    gold                 the right answers to the pool, and the sums with answers
    policy-gradient      as `rsf.lab.tasks.policy` says, with and without KL

python -m rsf experiment sums-200          every arm and seed of that section, a result file each
"""

import copy
import itertools
import time
from collections.abc import Callable

import numpy as np

from rsf import rules
from rsf.lab import compact, records, validated
from rsf.lab.tasks import addition, policy

OWN = ("rejection", "blind", "best-of-4")  # the arms that sample


def chooses(number: int, rng: np.random.Generator) -> Callable:
    """Return a reward that is 1 for `number` of the completions that it is asked about, chosen blindly."""

    def reward(prompts, completions, **_):
        places = np.argsort(rng.permutation(len(completions)))  # of each in a random order
        return (places < number).astype(float).tolist()

    return reward


def train(
    experiment: str,
    arm: str,
    seed: int,
    setting: tuple,
    kept: list | None = None,
    on_round: Callable | None = None,
) -> tuple:
    """Return (model, reports, spent) of an arm with a learning rate and a weight decay.

    kept : how many samples rejection kept in each round, for the arm "blind"
    on_round : callable(model), called after each round
    """
    settings = records.protocol(experiment)
    if arm == "control":
        return (
            addition.start(settings, seed, settings["steps"], *setting),
            [],
            addition.STEP * settings["steps"],
        )
    if arm in settings.get("kl", {}):
        return policy.train(experiment, arm, seed, setting)
    model = copy.deepcopy(addition.base(experiment, seed)[0])
    sums = addition.world(settings, seed)
    own = sums["supervised"].tolist()
    supervised = addition.answered(own)
    a_round = (settings["steps"] - settings["base_steps"]) // settings["rounds"] * addition.STEP
    sampling = addition.TOKENS * len(sums["pool"]) if arm in OWN else 0
    options = {
        "steps": (a_round - sampling) // addition.STEP,
        "learning_rate": setting[0],
        "weight_decay": setting[1],
    }
    reports = []
    for number in range(settings["rounds"]):
        rng = np.random.default_rng([seed, 4, number])
        quarter = rng.permutation(sums["pool"])[: len(sums["pool"]) // 4].tolist()
        pool = sums["pool"].tolist()
        how = {
            "rejection": (pool, addition.right, rules.above(1), addition.own, 1, supervised),
            "blind": (
                pool,
                chooses(kept[number] if kept else 0, rng),
                rules.above(1),
                addition.own,
                1,
                supervised,
            ),
            "best-of-4": (quarter, addition.right, rules.best_of(4), addition.own, 4, supervised),
            "gold": (pool, addition.right, rules.constant(1), addition.given, 1, supervised),
            "control-in-rounds": (own, addition.right, rules.constant(1), addition.given, 1, None),
        }
        prompts, reward, rule, sampler, samples, beside = how[arm]
        options |= {"sampler": sampler, "samples": samples, "supervised": beside}
        reports += addition.learn(model, prompts, reward, rule, rng, **options)
        if on_round:
            on_round(model)
    spent = addition.STEP * settings["base_steps"] + settings["rounds"] * (
        sampling + options["steps"] * addition.STEP
    )
    return model, reports, spent


def kept_by_rejection(experiment: str, seed: int, setting: tuple) -> list:
    """Return how many samples rejection keeps in each round: stored for that seed and setting, or made
    anew."""
    for name in (experiment, records.protocol(experiment).get("beside", experiment)):
        numbers = (records.find(name, "rejection", seed) or {"numbers": {}})["numbers"]
        tried = numbers.get("grid", [numbers.get("setting")])
        if list(setting) in tried:
            return numbers["kept"][tried.index(list(setting))] if "grid" in numbers else numbers["kept"]
    return [report.sampling.kept for report in train(experiment, "rejection", seed, setting)[1]]


def best(experiment: str, arm: str, sections: list | None = None) -> list:
    """Return the settings of an arm that were tried on the most tuning seeds, the best median first."""
    found = validated.tried(experiment, arm, sections)
    return [tuple(setting) for setting, _ in sorted(found, key=lambda one: -np.median(one[1]))]


def grid(experiment: str, arm: str) -> list:
    """Return the settings that a tuning section tries with an arm: all, the best three, or beyond an edge."""
    settings = records.protocol(experiment)
    axes = [settings["grid_learning_rate"], settings["grid_weight_decay"]]
    if settings["stage"] == "all":
        return list(itertools.product(*axes))
    if settings["stage"] == "best three":
        return best(experiment, arm, settings["after"])[:3]
    winner = best(experiment, arm, settings["after"])[0]
    steps = []
    for value, axis, (below, above) in zip(winner, axes, settings["beyond"], strict=True):
        outside = {min(axis): below, max(axis): above}
        steps.append(dict.fromkeys([value, outside.get(value, value)]))
    return [setting for setting in itertools.product(*steps) if setting != winner]


def tune(experiment: str, arm: str, seed: int) -> dict:
    """Return the numbers of a tuning run: for each setting its validation accuracy and what was kept."""
    validation = addition.world(records.protocol(experiment), seed)["validation"].tolist()
    found = {"grid": grid(experiment, arm), "validation": [], "kept": []}
    for setting in found["grid"]:
        model, reports, _ = train(
            experiment,
            arm,
            seed,
            setting,
            kept_by_rejection(experiment, seed, setting) if arm == "blind" else None,
        )
        found["validation"].append(addition.accuracy(model, validation))
        found["kept"].append([report.sampling.kept for report in reports])
    return found


def measure(experiment: str, arm: str, seed: int) -> dict:
    """Return the numbers of a run with the setting that validated best."""
    clock = time.process_time()
    given = records.protocol(experiment).get("setting")  # in a section that is not tuned
    setting = given or best(experiment, arm)[0]
    others = given or best(experiment, "rejection")[0] if arm == "blind" else None
    kept = kept_by_rejection(experiment, seed, others) if others else None
    model, reports, spent = train(experiment, arm, seed, setting, kept)
    test = addition.world(records.protocol(experiment), seed)["test"].tolist()
    right = np.array(addition.right(test, addition.likeliest(model, test)))
    return {
        "accuracy": float(right.mean()),
        "right": compact.pack(right),
        "setting": setting,
        "base": addition.accuracy(addition.base(experiment, seed)[0], test) if reports else None,
        "kept": [report.sampling.kept for report in reports],
        "samples": [report.sampling.samples for report in reports],
        "steps": [report.steps for report in reports],
        "slack": min(filter(np.isfinite, (report.sampling.slack for report in reports)), default=None),
        "forward_passes": spent,
        "cpu_seconds": round(time.process_time() - clock, 1),
    }


def run(experiment: str, arm: str, seed: int) -> records.Run:
    """Run one arm with one seed of a section of the sums."""
    return addition.told(experiment, arm, seed, tune if "stage" in records.protocol(experiment) else measure)
