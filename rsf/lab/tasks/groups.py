"""Who is rejected? Planted wrong labels, and groups of reviews, under the article's rule: section groups.

    AUC = P(score of a wrong label > score of a right one)

An arm is a score of each training review, and several share one training: the mean A of a review's decisions
(mean-a), the mean loss at the same decisions (mean-loss), the loss after them (final-loss); after plain
fine-tuning (plain); by the one of five models that did not learn from it (out-of-fold).

python -m rsf experiment groups-tuning
python -m rsf experiment groups
"""

import re
import time
from functools import lru_cache

import numpy as np
import torch
from scipy import stats
from torch.utils.data import Subset

from rsf.accounts import FORWARD, TRAIN
from rsf.lab import arms, compact, models, records, tuning
from rsf.lab.models import last_layer
from rsf.lab.tasks import imdb_last_layer as imdb

declared = tuning.declared  # an edge widens the grid
FOLDS = 5


def auc(scores: np.ndarray, wrong: np.ndarray) -> float:
    """Return the probability that a wrong one's score is above a right one's, half for equal ones.

    >>> auc([3.0, 2.0, 1.0, 2.0], [True, True, False, False])
    0.875
    """
    wrong = np.asarray(wrong, dtype=bool)
    above = stats.rankdata(scores)[wrong].sum() - wrong.sum() * (wrong.sum() + 1) / 2
    return float(above / (wrong.sum() * (~wrong).sum()))


def means(index: list[int], values: list[float], rows: list[int]) -> np.ndarray:
    """Return the mean of the values of each row (n,), NaN where it has none.

    >>> means([7, 9, 7], [1.0, 5.0, 2.0], [9, 7])
    array([5. , 1.5])
    """
    place = {row: i for i, row in enumerate(rows)}
    where = [place[i] for i in index]
    with np.errstate(invalid="ignore"):
        return np.bincount(where, values, len(rows)) / np.bincount(where, minlength=len(rows))


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood of labels (n,) under logits (n, classes)."""
    return np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]


def watched(
    model: torch.nn.Module, rows: torch.utils.data.Dataset, arm: str, seed: int, settings: dict
) -> tuple[arms.RSFTrainer, list[tuple[int, float, float]]]:
    """Fine-tune a model and return the trainer and each decision's (index, A, loss), in their order."""
    rule = arms.rule_of(arm, settings)
    seen = []

    def watch(block, criterion, _):
        seen.extend(zip((row["index"] for row in block), rule(criterion), criterion, strict=True))
        rule.observe(criterion)  # as the trainer's own does, behind each block

    trainer = arms.fine_tune(model, rows, arm, seed, settings, models.pad_hidden, watch)
    return trainer, seen


@lru_cache
def members(experiment: str, part: str) -> dict[str, np.ndarray]:
    """Return which reviews of "train" or "test" belong to each group of the section, (25000,)."""
    table = getattr(imdb.sources()[0], part)
    patterns = records.protocol(experiment)["groups"]
    return {
        name: np.array([re.search(pattern, text) is not None for text in table["text"]])
        for name, pattern in patterns.items()
    } | {"positive": np.array(table["label"]) == 1}


def drawn(settings: dict, seed: int) -> tuple[torch.nn.Module, last_layer.CachedOutputs, np.ndarray]:
    """Return a new model, the reviews to train on, and which of their labels are wrong."""
    checkpoint = imdb.sources()[1]
    rng = np.random.default_rng(seed)
    model = last_layer.LastLayer(checkpoint.model)
    models.draw(model, imdb.HEAD, rng, checkpoint.model.config.initializer_range)
    train, _ = imdb.reviews_of(settings, rng)
    return model, train, train.labels != imdb.outputs("train", settings["tokens"])[2][train.index]


@lru_cache(maxsize=2)
def trained(experiment: str, arm: str, seed: int) -> dict:
    """Train on everything, or by the article's rule, and return what all scores of that training share."""
    settings = tuning.setting(experiment, {"article": "mean-a"}.get(arm, arm))
    model, train, _ = drawn(settings, seed)
    trainer, seen = watched(model, train, arm, seed, settings)
    tested = imdb.tested(settings["tokens"], *settings["test_places"])
    index, a, loss = zip(*seen, strict=True)
    return {
        "mean-a": means(index, a, train.index),
        "mean-loss": means(index, loss, train.index),
        "final-loss": losses(arms.logits(trainer.model, train, models.pad_hidden, 128), train.labels),
        "test": arms.logits(trainer.model, tested, models.pad_hidden, 128),
        "report": trainer.loader.report,
    }


def out_of_fold(settings: dict, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the reviews' losses out of fold, the five models' mean logits, and how many were trained on."""
    _, train, _ = drawn(settings, seed)
    fold = np.random.default_rng([seed, FOLDS]).permutation(len(train)) % FOLDS
    tested = imdb.tested(settings["tokens"], *settings["test_places"])
    scores = np.zeros(len(train))
    logits = []
    for one in range(FOLDS):
        model, _, _ = drawn(settings, seed)
        rest = Subset(train, np.flatnonzero(fold != one).tolist())
        watched(model, rest, "plain", seed, settings)
        aside = np.flatnonzero(fold == one)
        held = arms.logits(model, Subset(train, aside.tolist()), models.pad_hidden, 128)
        scores[aside] = losses(held, train.labels[aside])
        logits.append(arms.logits(model, tested, models.pad_hidden, 128))
    return scores, np.mean(logits, axis=0), round(settings["passes"] * len(train) * (FOLDS - 1))


def by_group(
    experiment: str, train: np.ndarray, tested: np.ndarray, kept: np.ndarray, right: np.ndarray
) -> dict[str, list]:
    """Return of each group, inside and outside: reviews trained on, their mean A, reviews tested, right ones.

    `train` and `tested` are places in the training and the test set, `kept` and `right` belong to them.
    """
    found = {}
    for name, there in members(experiment, "train").items():
        mine = there[train]
        theirs = members(experiment, "test")[name][tested]
        found[name] = [
            [int(a.sum()), float(kept[a].mean()), int(b.sum()), int(right[b].sum())]
            for a, b in ((mine, theirs), (~mine, ~theirs))
        ]
    return found


def run(experiment: str, arm: str, seed: int, rate: float | None = None) -> records.Run:
    """Run one score with one seed; a tuning run is one of the last layer's."""
    if rate is not None:
        return imdb.run(experiment, arm, seed, rate)
    torch.set_num_threads(1)
    settings = tuning.setting(experiment, arm)
    _, train, wrong = drawn(settings, seed)
    tested = imdb.tested(settings["tokens"], *settings["test_places"])
    begun = time.time()
    if arm == "out-of-fold":
        scores, logits, count = out_of_fold(settings, seed)
        kept = np.ones(len(train))
        scored = len(train)
    else:
        found = trained(experiment, settings["rate_of"].get(arm, arm), seed)
        scores = found["final-loss" if arm == "plain" else arm]
        logits, kept, count = found["test"], found["mean-a"], found["report"].trained
        # what is scored once more, at the end
        scored = found["report"].scored + len(train) * (arm in ("plain", "final-loss"))
    numbers = compact.outcomes(logits, tested.labels) | {
        "auc": auc(scores, wrong),
        "scores": compact.pack_values(scores),
        "wrong": compact.pack(wrong),
        "kept": [float(kept[part].mean()) for part in (wrong, ~wrong)],
        "groups": by_group(
            experiment,
            train.index[~wrong],
            tested.index,
            kept[~wrong],
            logits.argmax(1) == tested.labels,
        ),
        "scored": scored,
        "trained": count,
        "forward_passes": FORWARD * scored + TRAIN * count,
        "learning_rate": settings["learning_rate"],
        "seconds": round(time.time() - begun, 1),  # the first score of a training has its time
    }
    return records.Run(*(one.source for one in imdb.sources()), arms.device_name(), numbers)
