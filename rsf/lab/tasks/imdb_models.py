"""Does the gain differ between models? One recipe on MiniLM cut to 2, 4 and 6 layers, of which the last is
trained, and on a small encoder from random weights: the sections imdb-models*.

python -m rsf experiment imdb-models-tuning    every arm, seed and rate; an edge widens the grid
python -m rsf experiment imdb-models           each arm at the learning rate that was best for it

What the frozen layers make of the reviews is computed once (see `carry.cache`).
"""

from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import Subset
from transformers import BertConfig, BertForSequenceClassification

from rsf.lab import arms, data, models, records, tuning
from rsf.lab.models import last_layer
from rsf.lab.tasks import carry, imdb_last_layer, imdb_tuned

declared = tuning.declared  # an edge widens the grid


def load(layers: int, width: int, rng: np.random.Generator) -> models.Checkpoint:
    """Return MiniLM with its first layers and a new head or, of some width, an encoder of random weights."""
    checkpoint = models.load("bert", 2, rng, source="embedded", num_hidden_layers=layers)
    if not width:
        return checkpoint
    model = BertForSequenceClassification(
        BertConfig(
            num_hidden_layers=layers, hidden_size=width, intermediate_size=2 * width, num_attention_heads=2
        )
    )
    models.draw(model, [name for name, value in model.named_parameters() if value.ndim > 1], rng)
    return checkpoint._replace(model=model, source=f"bert: {layers} layer of width {width}, random weights")


@lru_cache
def rows(part: str, number: int, tokens: int, layers: int, width: int) -> tuple:
    """Return the same reviews of "train" or "test" for all models, as one takes them, and their labels."""
    reviews, (_, tokenizer, _) = imdb_last_layer.sources()
    table = getattr(reviews, part)
    every = imdb_last_layer.parts()[1] if part == "train" else len(table)
    places = np.random.default_rng(data.ORDER).permutation(every)[:number]
    labels = np.array(table["label"])[places]
    if width:
        return data.encoded(table, places, tokenizer, tokens), labels
    lower, _ = models.split_layers(load(layers, 0, np.random.default_rng(0)).model, 1)
    hidden = last_layer.cached(lower, tokenizer, table.select(places)["text"], tokens, carry.cache())
    return last_layer.CachedOutputs(*hidden, labels, range(number)), labels


def run(experiment: str, arm: str, seed: int, rate: float | None = None) -> records.Run:
    """Run one arm with one seed, at a learning rate of the grid where it is for tuning."""
    torch.set_num_threads(1)
    settings = tuning.setting(experiment, arm, rate)
    kind = tuple(settings[name] for name in ("tokens", "layers", "width"))
    model, _, source = load(*kind[1:], np.random.default_rng(seed))
    pool, labels = rows("train", settings["pool"], *kind)
    (mine, _), (others, right) = data.drawn(
        labels, (), np.arange(len(labels)), settings, np.random.default_rng([seed, 1])
    )
    tested = Subset(pool, others)
    if rate is None:
        tested, right = rows("test", settings["test"], *kind)
    return arms.measured(
        (experiment, arm, seed, rate),
        (imdb_last_layer.sources()[0].source, source),
        model if settings["width"] else last_layer.LastLayer(model),
        Subset(pool, mine),
        tested,
        right,
        settings,
        imdb_tuned.pad if settings["width"] else models.pad_hidden,
        batch_size=128,
    )
