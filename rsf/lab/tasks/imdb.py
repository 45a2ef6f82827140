"""Is a film review good or bad? A pretrained encoder fine-tuned by one arm: imdb-* and mini-reviews-*.

python -m rsf experiment imdb-small    every arm and seed of that section; goes on where it stopped
"""

import time
from collections import namedtuple
from functools import partial

import numpy as np
import torch

from rsf.lab import arms, compact, data, models, records

# a model and its reviews, ready to be trained on; collate pads to the longest, or as section or caller say
Prepared = namedtuple("Prepared", "model train test collate test_index data checkpoint")


def prepare(settings: dict, seed: int) -> Prepared:
    """Load what a run needs; the seed draws the training reviews and the head."""
    reviews = data.load("imdb", source="hub,local")  # published numbers come from real data
    if settings.get("train_data") == "embedded":
        reviews = _train_on_embedded(reviews, settings)
    rng = np.random.default_rng(seed)
    checkpoint = models.load("bert", 2, rng, source=settings["model"])
    tokenizer = checkpoint.tokenizer

    def collate(rows, padding=settings["padding"]):
        batch = [{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]} for row in rows]
        padded = tokenizer.pad(batch, padding=padding, max_length=settings["tokens"], return_tensors="pt")
        return {**padded, "labels": torch.tensor([row["label"] for row in rows])}

    chosen = rng.permutation(data.put_aside(reviews, 0)[1])[: settings["train"]]
    tested = np.sort(np.random.default_rng(0).permutation(len(reviews.test))[: settings["test"]])
    train = reviews.train.select_columns(["text", "label"]).select(chosen).add_column("index", chosen)
    test = reviews.test.select(tested)
    if "top" in settings:  # of the layers alone trained; what those below make of a review is computed once
        lower, model = models.split_layers(checkpoint.model, settings["top"])
        train, test = (
            models.lower_outputs(lower, tokenizer, part["text"], part["label"], settings["tokens"])
            for part in (train, test)
        )
        return Prepared(model, train, test, models.pad_hidden, tested, reviews.source, checkpoint.source)
    train, test = (
        part.map(
            partial(tokenizer, truncation=True, max_length=settings["tokens"]),
            batched=True,
            input_columns="text",
            remove_columns="text",
        )
        for part in (train, test)
    )
    return Prepared(checkpoint.model, train, test, collate, tested, reviews.source, checkpoint.source)


def _train_on_embedded(reviews, settings):
    """Return the reviews with the embedded corpus, or some kinds of it, in the place of the training part."""
    embedded = data.load("imdb", source="embedded")
    kinds = settings.get("train_kinds", embedded.train["kind"])
    return reviews._replace(
        train=embedded.train.filter(lambda row: row["kind"] in kinds),
        source=f"train: {embedded.source}; test: {reviews.source}",
    )


class Watch:
    """Told each decision of a training: notes it, and looks at the accuracy with the clock stopped."""

    def __init__(self, prepared: Prepared, settings: dict):
        self.prepared = prepared
        self.every = settings.get("watch_every")
        self.some = [
            prepared.test[int(i)] for i in np.linspace(0, len(prepared.test) - 1, settings.get("watched", 0))
        ]
        self.decisions = {"index": [], "criterion": [], "kept": []}  # one row a coin
        self.curve = []
        self.stopped = np.zeros(2)
        self.begun = _clock()

    def __call__(self, block: list, criterion: np.ndarray, kept: np.ndarray) -> None:
        self.decisions["index"].append([int(row["index"]) for row in block])
        self.decisions["criterion"].append(round(float(criterion.mean()), 5))
        self.decisions["kept"].append(int(kept.all()))
        if self.some and len(self.decisions["kept"]) % self.every == 0:
            before = _clock()
            scores = arms.logits(self.prepared.model, self.some, self.prepared.collate)
            self.curve.append(
                [round((before - self.begun - self.stopped)[0], 1), arms.accuracy(scores, self.some)]
            )
            self.prepared.model.train()
            self.stopped += _clock() - before

    def taken(self) -> np.ndarray:
        """Return seconds of the wall and of the processor so far, without those spent on looking."""
        return _clock() - self.begun - self.stopped


def run(experiment: str, arm: str, seed: int) -> records.Run:
    """Run one arm with one seed of an IMDb section of the protocol."""
    settings = records.protocol(experiment)
    prepared = prepare(settings, seed)
    watch = Watch(prepared, settings)
    if arm == "listing":
        torch.manual_seed(seed)  # its dropout; the first files of this arm were made without
        budget = round(3 * settings["passes"] * len(prepared.train))
        scored, trained = arms.listing(
            prepared.model,
            prepared.train,
            seed,
            settings,
            prepared.collate if "top" in settings else partial(prepared.collate, padding="max_length"),
            lambda _, spent: spent >= budget,
            watch,
        )
        steps = sum(watch.decisions["kept"])
    else:
        trainer = arms.fine_tune(prepared.model, prepared.train, arm, seed, settings, prepared.collate, watch)
        scored, trained = trainer.loader.report.scored, trainer.loader.report.trained
        steps, budget = trainer.state.global_step, trainer.budget
    wall, cpu = watch.taken()
    scores = arms.logits(prepared.model, prepared.test, prepared.collate)
    candidates = [len(block) for block in watch.decisions["index"]]
    numbers = {
        "accuracy": arms.accuracy(scores, prepared.test),
        "acceptance_rate": float(np.average(watch.decisions["kept"], weights=candidates)),
        "forward_passes": scored + 3 * trained,
        "budget": budget,
        "steps": steps,
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),  # of all threads: what a shared machine does not change
        "test_index": prepared.test_index.tolist(),
        "test_label": [int(row["label"]) for row in prepared.test],
        "test_margin": compact.significant(scores[:, 1] - scores[:, 0]),  # > 0: positive
        **({"curve": watch.curve} if watch.some else {}),
        **{f"decision_{name}": value for name, value in watch.decisions.items()},
    }
    return records.Run(prepared.data, prepared.checkpoint, arms.device_name(), numbers)


def _clock():
    return np.array([time.perf_counter(), time.process_time()])
