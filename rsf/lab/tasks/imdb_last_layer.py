"""Does it help? The last layer of a pretrained encoder, trained on film reviews: the sections imdb-last-*.

python -m rsf experiment imdb-last-limited-tuning    every arm, seed and rate; an edge widens the grid
python -m rsf experiment imdb-last-limited           each arm at the learning rate that was best for it

What the frozen layers make of the reviews is computed once (see `carry.cache`; 4.8 GB).
"""

import gc
from functools import lru_cache

import numpy as np
import torch

from rsf.lab import arms, data, models, records, tuning
from rsf.lab.models import last_layer
from rsf.lab.tasks import carry

ASIDE = 2000  # reviews of the training set that no run is trained on
HEAD = ("classifier.bias", "classifier.weight")
declared = tuning.declared  # an edge widens the grid


@lru_cache
def sources() -> tuple[data.Data, models.Checkpoint]:
    """Return reviews and model; published numbers come from real data."""
    gc.freeze()  # every training collects garbage: not among what was there before
    return data.load("imdb", source="hub,local"), models.load(
        "bert", 2, np.random.default_rng(0), source="embedded"
    )


@lru_cache
def outputs(part: str, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the frozen layers make of "train" or "test" (see `last_layer.cached`), and the labels."""
    reviews, checkpoint = sources()
    lower, _ = models.split_layers(checkpoint.model, 1)
    texts = getattr(reviews, part)
    return (
        *last_layer.cached(lower, checkpoint.tokenizer, texts["text"], tokens, carry.cache()),
        np.array(texts["label"]),
    )


@lru_cache
def parts() -> tuple[np.ndarray, np.ndarray]:
    """Return the reviews put aside for validation and the pool, as places in the training set."""
    reviews, _ = sources()
    return data.put_aside(reviews, ASIDE)


def reviews_of(settings: dict, rng: np.random.Generator) -> tuple[last_layer.CachedOutputs, ...]:
    """Return the reviews to train on, drawn from the pool, and those to validate on, with labels flipped."""
    hidden, lengths, label = outputs("train", settings["tokens"])
    return tuple(
        last_layer.CachedOutputs(hidden, lengths, labels, index)
        for index, labels in data.drawn(label, *parts(), settings, rng)
    )


@lru_cache
def tested(tokens: int, begin: int, end: int) -> last_layer.CachedOutputs:
    """Return the test reviews at some places of a fixed permutation, in the order of the test set."""
    hidden, lengths, label = outputs("test", tokens)
    index = np.sort(np.random.default_rng(0).permutation(len(lengths))[begin:end])
    return last_layer.CachedOutputs(hidden, lengths, label[index], index)


def run(experiment: str, arm: str, seed: int, rate: float | None = None) -> records.Run:
    """Run one arm with one seed, at a learning rate of the grid where it is for tuning."""
    torch.set_num_threads(1)
    reviews, checkpoint = sources()
    settings = tuning.setting(experiment, arm, rate)
    rng = np.random.default_rng(seed)
    model = last_layer.LastLayer(checkpoint.model)
    models.draw(model, HEAD, rng, checkpoint.model.config.initializer_range)
    train, validation = reviews_of(settings, rng)
    examples = tested(settings["tokens"], *settings["test_places"]) if rate is None else validation
    return arms.measured(
        (experiment, arm, seed, rate),
        (reviews.source, checkpoint.source),
        model,
        train,
        examples,
        examples.labels,
        settings,
        models.pad_hidden,
        batch_size=128,
    )
