"""Distil or prune a model, and fine-tune it by the rule before, while, or after that (see `carry`).

    dense -> distilled   the lower 3 of 6 layers learn the dense model's answers
          -> pruned      each layer loses three quarters of its feed-forward neurons, the smallest
          -> masked      as many of the same weights, the smallest, are set to 0, and stay there

The last layer of each is trained, on what the layers below it, made smaller but not trained, make of texts
(see `rsf.lab.models.smaller`).

python -m rsf experiment distilled-tuning    then distilled; likewise pruned and dense
python -m rsf experiment compression         what becomes of a model, and what that costs
"""

import copy
import json
import timeit
from functools import lru_cache, partial

import numpy as np
import torch

from rsf.accounts import FORWARD, TRAIN
from rsf.lab import arms, data, models, records, tuning
from rsf.lab.models import last_layer, smaller
from rsf.lab.tasks import carry, topics

declared = tuning.declared  # an edge widens the grid
CHARACTERS = 300  # of a review that all methods see
MAKE = {how: partial(smaller.encoder, how, carry.encoder) for how in ("dense", "distilled", *smaller.PRUNE)}


def table(rows: object, *_: object) -> list[dict]:
    """Return the beginnings of reviews with their labels."""
    both = zip(data.labelled(rows)["text"], rows["label"], strict=True)
    return [{"text": text[:CHARACTERS], "label": label} for text, label in both]


def read(how: str, settings: dict) -> carry.World:
    """Return all reviews of a section as the lower layers see them."""
    return carry.texts("imdb", table, *(settings[name] for name in carry.CHOICE), make=MAKE[how])


@lru_cache
def told(settings: str) -> np.ndarray:
    """Return what a dense model says of the pool, (n, classes); its base is one of `settings`, as JSON."""
    said = json.loads(settings)
    return arms.logits(carry.base(TASKS["dense"], said), read("dense", said).pool.rows, models.pad_hidden)


def world(how: str, settings: dict) -> carry.World:
    """Return reviews of which none stands twice; of a student's base with what its teacher says of them."""
    found = read(how, settings)
    seen = {row["text"] for row in found.test.shown}
    once = {row["text"]: i for i, row in enumerate(found.pool.shown) if row["text"] not in seen}
    places = np.array(list(once.values()))
    rows = copy.copy(found.pool.rows)
    if how == "distilled":
        order = np.random.default_rng(data.ORDER).permutation(places)[: settings["base"]["train"]]
        rows.labels = np.column_stack([rows.labels, np.full((len(rows), 2), np.nan)])
        rows.labels[order, 1:] = told(json.dumps(settings | {"base": settings["base"]["teacher"]}))[order]
    return found._replace(pool=found.pool._replace(rows=rows).take(places))


def model(how: str, settings: dict, rng: np.random.Generator) -> torch.nn.Module:
    """Return a last layer made of the dense model's, or one with a head drawn by rng; not trained."""
    if how in smaller.PRUNE:
        upper = carry.base(TASKS["dense"], settings | {"base": settings["base"]["teacher"]})
        smaller.PRUNE[how](upper.layer, True)
        return upper
    checkpoint = MAKE[how](2, settings, np.random.default_rng(0))
    upper = (smaller.Student if how == "distilled" else last_layer.LastLayer)(checkpoint.model)
    models.draw(upper, topics.HEAD, rng, checkpoint.model.config.initializer_range)
    return upper


TASKS = {
    how: topics.TASK._replace(
        name=how,
        data=("stanfordnlp/imdb", f"IMDb, {CHARACTERS} characters a review", "mini reviews, as many"),
        head=f"the last of {smaller.LAYERS if how == 'distilled' else 6} layers",
        wrong="praise in the words of a complaint; a wrong label: a complaint called praise",
        world=partial(world, how),
        model=partial(model, how),
    )
    for how in MAKE
}


def run(experiment: str, arm: str, seed: int, rate: float | None = None) -> records.Run:
    """Run one arm with one seed, at a learning rate of the grid where it is for tuning."""
    settings = records.protocol(experiment)
    if "recipes" not in settings:
        return carry.run(TASKS[settings["compression"]], experiment, arm, seed, rate)
    torch.set_num_threads(1)
    how, _, by = arm.partition("-")
    base = settings["recipes"][how] | {"seed": seed, "teacher": settings["recipes"]["dense"] | {"seed": seed}}
    (base["teacher"] if settings["rule"] == "before" else base)["arm"] = by or "plain"
    settings["base"] = base if how != "dense" else base["teacher"]
    there = world(how, settings)
    numbers = TASKS[how].judge(carry.base(TASKS[how], settings), there.test, False)
    return records.Run(*there.sources, arms.device_name(), numbers | costs(settings, how))


def costs(settings: dict, how: str) -> dict:
    """Return what training costs, in passes of the dense model, how large the model is, seconds of a pass.

    A pass of a smaller model counts by its layers' parameters; a 0 is multiplied with as any number is. The
    seconds are the fewest of `repeats` passes of `timed` texts through the whole model.
    """
    whole, dense = (MAKE[one](2, settings, np.random.default_rng(0)).model.eval() for one in (how, "dense"))
    size, most = (sum(one.numel() for one in each.bert.encoder.parameters()) for each in (whole, dense))
    spent = {one: TRAIN * recipe["train"] * recipe["passes"] for one, recipe in settings["recipes"].items()}
    teacher = spent["dense"] * (how != "dense")
    read_once = FORWARD * settings["recipes"][how]["train"] * (how == "distilled")  # by the teacher
    ids = torch.full((settings["timed"], settings["tokens"]), 1000)
    with torch.inference_mode():
        seconds = min(timeit.repeat(lambda: whole(ids), number=1, repeat=settings["repeats"]))
    return {
        "cost": float(teacher + read_once + spent[how] * size / most),
        "parameters": sum(one.numel() for one in whole.parameters()),
        "zeros": sum(int((one == 0).sum()) for one in whole.parameters() if one.ndim > 1),
        "seconds": seconds,
    }
