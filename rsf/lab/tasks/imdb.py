"""Is a film review good or bad? A pretrained encoder fine-tuned by one arm: imdb-* and mini-reviews-*.

python -m rsf experiment imdb-small    every arm and seed of that section; goes on where it stopped
"""

import time
from functools import partial

import numpy as np
import torch

from rsf.lab import arms, compact, data, models, records
from rsf.lab.tasks.imdb_tuned import pad


def prepare(settings: dict, seed: int) -> tuple:
    """Return model, rows to train on, rows to test on, collate, the places of those tested, and two sources.

    The seed draws the training reviews and the head; `collate` pads to the longest, or to so many tokens.
    """
    reviews = data.load("imdb", source="hub,local")  # published numbers come from real data
    if settings.get("train_data") == "embedded":
        reviews = _train_on_embedded(reviews, settings)
    rng = np.random.default_rng(seed)
    model, tokenizer, checkpoint = models.load("bert", 2, rng, source=settings["model"])
    chosen = rng.permutation(data.put_aside(reviews, 0)[1])[: settings["train"]]
    tested = np.sort(np.random.default_rng(0).permutation(len(reviews.test))[: settings["test"]])
    places = ((reviews.train, chosen), (reviews.test, tested))
    collate = pad
    if "top" in settings:  # of the layers alone trained; what those below make of a review is computed once
        lower, model = models.split_layers(model, settings["top"])
        collate = models.pad_hidden
        some = (part.select(index) for part, index in places)
        train, test = (
            models.lower_outputs(lower, tokenizer, part["text"], part["label"], settings["tokens"])
            for part in some
        )
    else:
        train, test = (data.encoded(*place, tokenizer, settings["tokens"]) for place in places)
    return model, train, test, collate, tested, reviews.source, checkpoint


def _train_on_embedded(reviews, settings):
    """Return the reviews with the embedded corpus, or some kinds of it, in the place of the training part."""
    embedded = data.load("imdb", source="embedded")
    kinds = settings.get("train_kinds", embedded.train["kind"])
    return reviews._replace(
        train=embedded.train.filter(lambda row: row["kind"] in kinds),
        source=f"train: {embedded.source}; test: {reviews.source}",
    )


def run(experiment: str, arm: str, seed: int) -> records.Run:
    """Run one arm with one seed of an IMDb section of the protocol."""
    settings = records.protocol(experiment)
    model, train, test, collate, test_index, *sources = prepare(settings, seed)
    decisions = {"index": [], "criterion": [], "kept": []}  # one row a coin

    def note(block: list, criterion: np.ndarray, kept: np.ndarray) -> None:
        decisions["index"].append([int(row["index"]) for row in block])
        decisions["criterion"].append(round(float(criterion.mean()), 5))
        decisions["kept"].append(int(kept.all()))

    begun = _clock()
    if arm == "listing":
        torch.manual_seed(seed)  # its dropout; the first files of this arm were made without
        budget = round(3 * settings["passes"] * len(train))
        padded = collate if "top" in settings else partial(collate, tokens=settings["tokens"])
        scored, trained = arms.listing(
            model, train, seed, settings, padded, lambda _, spent: spent >= budget, note
        )
        steps = sum(decisions["kept"])
    else:
        trainer = arms.fine_tune(model, train, arm, seed, settings, collate, note)
        scored, trained = trainer.loader.report.scored, trainer.loader.report.trained
        steps, budget = trainer.state.global_step, trainer.budget
    wall, cpu = _clock() - begun
    scores = arms.logits(model, test, collate)
    candidates = [len(block) for block in decisions["index"]]
    numbers = {
        "accuracy": arms.accuracy(scores, test),
        "acceptance_rate": float(np.average(decisions["kept"], weights=candidates)),
        "forward_passes": scored + 3 * trained,
        "budget": budget,
        "steps": steps,
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),  # of all threads: what a shared machine does not change
        "test_index": test_index.tolist(),
        "test_label": [int(row["label"]) for row in test],
        "test_margin": compact.significant(scores[:, 1] - scores[:, 0]),  # > 0: positive
        **{f"decision_{name}": value for name, value in decisions.items()},
    }
    return records.Run(*sources, arms.device_name(), numbers)


def _clock():
    return np.array([time.perf_counter(), time.process_time()])
