"""Which setting of an arm validated best? Made again from the tuning runs, whatever made them."""

import numpy as np

from rsf.lab import records

FOLLOWED = ("article", "rejection")  # an arm that was not tuned takes the setting of the first of these


def tried(experiment: str, arm: str, sections: list[str] | None = None) -> list[tuple[object, list[float]]]:
    """Return the settings of an arm and their accuracies on the validation examples, one a tuning seed.

    They are looked for in some sections, by default those that the experiment's `tuning` names.

    An arm that was not tuned has those of the one that it is matched to: twin and random the article's, other
    judges rejection's. Of the settings only those count that were tried on the most seeds.
    """
    scores = {}
    for name in sections or records.protocol(experiment).get("tuning", []):
        arms = records.protocol(name)["arms"]
        follows = arm if arm in arms else next((one for one in FOLLOWED if one in arms), None)
        for run in (run for run in records.runs(name) if run["arm"] == follows):
            numbers = run["numbers"]
            pairs = [(run["rate"], numbers["accuracy"])] if "rate" in run else []
            if "grid" in numbers:
                pairs = zip(numbers["grid"], numbers["validation"], strict=True)
            for setting, accuracy in pairs:
                scores.setdefault(str(setting), (setting, []))[1].append(accuracy)
        if scores and "stage" not in records.protocol(name):
            break  # the first section that has the arm; of stages all
    most = max((len(found) for _, found in scores.values()), default=0)
    return [(setting, found) for setting, found in scores.values() if len(found) == most]


def best(experiment: str, arm: str) -> tuple[list[object], float]:
    """Return the settings of an arm that validated best, several where they are equal, and their score.

    The score is the mean over the tuning seeds, or the median where tuning went in stages; 0 where none was
    tried.
    """
    stages = any("stage" in records.protocol(name) for name in records.protocol(experiment).get("tuning", []))
    scores = [
        (setting, float((np.median if stages else np.mean)(found)))
        for setting, found in tried(experiment, arm)
    ]
    most = max((score for _, score in scores), default=0.0)
    return [setting for setting, score in scores if score > most - 1e-9], most
