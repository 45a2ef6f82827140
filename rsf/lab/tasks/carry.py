"""The article's rule on any task: what a task is told by, and one run of an arm on it.

    a part of the training data -> one base, trained once -> each arm goes on from it on examples of the rest

A task is a `Task`, one file of this folder: where its data are from, its head, how examples become a batch,
how answers are judged, and a floor. All else is the same for each of them, the coins included. The floor is
an arm, too: it learns from the base's examples and the arm's.

python -m rsf experiment topics-tuning       the arms and rates of a grid; an edge widens it
python -m rsf experiment topics              each arm at the learning rate that was best for it
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Subset

from rsf.accounts import write_whole
from rsf.lab import arms, data, models, records, tuning
from rsf.lab.models import last_layer

CHOICE = ("source", "model", "tokens", "dtype", "pool", "test")  # settings that say which texts are read
OF_A_BASE = ("tokens", "dtype", "pool", "width", "layers", "dropout", "optimizer", "schedule", "weight_decay")


class Part(NamedTuple):
    """Examples: as the collator takes them, and the same as a person reads them."""

    rows: Sequence
    shown: Sequence[dict]

    def take(self, index: Sequence[int]) -> "Part":
        """Return the examples at some places."""
        return Part(Subset(self.rows, [int(i) for i in index]), [self.shown[i] for i in index])


class World(NamedTuple):
    """What a task trains on and is tested on, and the lines that say where data and model are from."""

    pool: Part
    test: Part
    sources: tuple[str, str]


class Task(NamedTuple):
    """What the loop needs to know of a task; the first four and `simple` are for people."""

    name: str
    data: tuple[str, str, str]  # on the Hub, as a local copy, embedded
    head: str
    wrong: str  # what a high loss means, and what a wrong label looks like
    measure: str  # the number of a run that decides
    simple: str  # what the floor is
    world: Callable[[dict], World]
    model: Callable[[dict, np.random.Generator], torch.nn.Module]
    collate: Callable[[list], dict[str, torch.Tensor]]
    judge: Callable[[torch.nn.Module, Part, bool], dict]  # numbers of a record; with True scalars alone
    floor: Callable[[list[dict], Part], dict]  # numbers of a simple method that learns from the first


def split(task: Task, settings: dict, seed: int) -> tuple[Part, Part, Part]:
    """Return what the base learns from, what an arm learns from, drawn by the seed, and for validation."""
    pool = task.world(settings).pool
    order = np.random.default_rng(data.ORDER).permutation(len(pool.shown))
    base, aside, rest = np.split(order, np.cumsum([settings["base"]["train"], settings["validation"]]))
    records.must(
        len(rest) >= settings["train"],
        f"{task.name}: {len(rest)} examples are left for the arms, and they take {settings['train']}",
    )
    mine = np.random.default_rng(seed).permutation(rest)[: settings["train"]]
    return pool.take(base), pool.take(mine), pool.take(aside)


def base(task: Task, settings: dict) -> torch.nn.Module:
    """Return the model that every arm goes on from; trained once, and kept where the caches are."""
    recipe = settings["base"]
    model = task.model(settings, np.random.default_rng(recipe["seed"]))
    said = json.dumps([task.world(settings).sources, recipe, [settings.get(name) for name in OF_A_BASE]])
    file = cache() / f"base-{task.name}-{hashlib.sha256(said.encode()).hexdigest()[:16]}.pt"
    if file.is_file():
        model.load_state_dict(torch.load(file, weights_only=True))
        return model
    learnt, _, _ = split(task, settings, recipe["seed"])
    arms.fine_tune(
        model, learnt.rows, recipe.get("arm", "plain"), recipe["seed"], settings | recipe, task.collate
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda part: torch.save(model.state_dict(), part))
    return model


def run(task: Task, experiment: str, arm: str, seed: int, rate: float | None = None) -> records.Run:
    """Run one arm with one seed, at a learning rate of the grid where it is for tuning."""
    torch.set_num_threads(1)
    settings = records.protocol(experiment)
    world = task.world(settings)
    learnt, train, aside = split(task, settings, seed)
    tested = world.test if rate is None else aside
    if arm == "floor":
        seen = learnt.shown + train.shown
        return records.Run(*world.sources, arms.device_name(), task.floor(seen, tested))
    settings = tuning.setting(experiment, arm, rate)
    return arms.judged(
        (experiment, arm, seed, rate),
        world.sources,
        base(task, settings),
        train.rows,
        settings,
        task.collate,
        lambda model: task.judge(model, tested, rate is not None),
    )


def cache() -> Path:
    """Return the folder of what is computed once: RSF_CACHE, by default build/cache of a checkout."""
    here = records.ROOT / "build" if records.CHECKOUT else Path(tempfile.gettempdir()) / "rsf"
    return Path(os.environ.get("RSF_CACHE") or here / "cache")


def encoder(labels: int, settings: dict, rng: np.random.Generator) -> models.Checkpoint:
    """Return the pretrained encoder with a new head, in the section's type; of float64 without dropout."""
    exact = settings["dtype"] == "float64"  # whose decisions no machine changes
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if exact else {}
    checkpoint = models.load("bert", labels, rng, source=settings["model"], **off)
    return checkpoint._replace(model=checkpoint.model.to(getattr(torch, settings["dtype"])))


@lru_cache
def texts(
    name: str,
    table: Callable,
    source: str,
    model: str,
    tokens: int,
    dtype: str,
    *sizes: int,
    make: Callable[..., models.Checkpoint] = encoder,
) -> World:
    """Return the world of a data set of texts, as all layers but the last see them, kept as float16.

    Parameters
    ----------
    name, source : as for `rsf.lab.data.load`
    model : as source, of the encoder
    table : callable(rows, tokenizer, tokens) -> list of dicts with text and label
    sizes : how many examples of its training and of its test part, drawn once for all
    make : callable as `encoder`, for layers that are not the pretrained ones
    """
    found = data.load(name, source=source)
    checkpoint = make(2, {"dtype": dtype, "model": model}, np.random.default_rng(0))
    lower, _ = models.split_layers(checkpoint.model, 1)
    parts = []
    for part, size in zip((found.train, found.test), sizes, strict=True):
        rows = table(part, checkpoint.tokenizer, tokens)
        rows = [rows[i] for i in np.random.default_rng(data.ORDER).permutation(len(rows))[:size]]
        read, labels = ([row[what] for row in rows] for what in ("text", "label"))
        hidden = last_layer.cached(lower, checkpoint.tokenizer, read, tokens, cache())
        parts.append(Part(last_layer.CachedOutputs(*hidden, labels, range(len(rows))), rows))
    return World(*parts, (found.source, checkpoint.source))


def classes(world: World) -> int:
    """Return how many labels there are."""
    return 1 + max(row["label"] for row in world.pool.shown)
