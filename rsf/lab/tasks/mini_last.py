"""One cell of the sweep in small, the same on every machine: mini-last, embedded reviews in float64.

python -m rsf experiment mini-last

As `imdb_last_layer`, but without dropout, whose masks hang on the processor, and without a cache. Notebook 08
runs one seed of it live.
"""

from functools import lru_cache

import numpy as np
import torch

from rsf.lab import arms, data, models, records
from rsf.lab.models import last_layer
from rsf.lab.tasks.imdb_last_layer import HEAD


@lru_cache
def world(tokens: int) -> tuple[data.Data, models.Checkpoint, list[dict], list[dict]]:
    """Return reviews, model, and what the frozen layers make of the training and of the test reviews."""
    reviews = data.load("imdb", source="embedded")
    checkpoint = models.load(
        "bert",
        2,
        np.random.default_rng(0),
        source="embedded",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    lower, _ = models.split_layers(checkpoint.model.double(), 1)
    return (
        reviews,
        checkpoint,
        *(
            models.lower_outputs(lower, checkpoint.tokenizer, part["text"], part["label"], tokens)
            for part in (reviews.train, reviews.test)
        ),
    )


def run(experiment: str, arm: str, seed: int) -> records.Run:
    """Run one arm with one seed."""
    torch.set_num_threads(1)
    settings = records.protocol(experiment) | {"measure": "accuracy"}
    reviews, checkpoint, pool, test = world(settings["tokens"])
    rng = np.random.default_rng(seed)
    model = last_layer.LastLayer(checkpoint.model)
    models.draw(model, HEAD, rng, checkpoint.model.config.initializer_range)
    return arms.measured(
        (experiment, arm, seed, None),
        (reviews.source, checkpoint.source),
        model,
        [pool[i] for i in rng.permutation(len(pool))[: settings["train"]]],
        test,
        np.array([row["label"] for row in test]),
        settings,
        models.pad_hidden,
        batch_size=32,
    )
