"""As `imdb`, each arm at a learning rate of its own, in the compact form: imdb-article, imdb-full, and the
whole MiniLM at other budgets and with wrong labels.

python -m rsf experiment imdb-full-tuning    every arm, seed and rate; an edge widens the grid
python -m rsf experiment imdb-full           each arm at the learning rate that was best for it
python -m rsf full imdb-full --out DIR       both, for as long as there is time (see `rsf.lab.full`)
"""

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from rsf.lab import arms, data, models, records, tuning

declared = tuning.declared  # an edge widens the grid


def prepare(settings: dict, seed: int, *, validate: bool = False) -> tuple:
    """Return a checkpoint, rows to train on, rows to test on, and where the reviews are from.

    The seed draws the head, the training reviews and which labels are wrong. With `validate` the reviews to
    be tested on are those for tuning, with labels as wrong.
    """
    reviews = data.load("imdb", source="hub,local")  # published numbers come from real data
    if settings.get("train_data") == "embedded":
        reviews = _train_on_embedded(reviews, settings)
    rng = np.random.default_rng(seed)
    checkpoint = models.load("bert", 2, rng, source=settings["model"])
    chosen, held = data.drawn(
        np.array(reviews.train["label"]), *data.put_aside(reviews, settings["validation"]), settings, rng
    )
    tested = np.sort(np.random.default_rng(0).permutation(len(reviews.test))[: settings["test"]])
    places = (reviews.train, *chosen), (reviews.train, *held) if validate else (reviews.test, tested)
    rows = (
        data.encoded(part, index, checkpoint.tokenizer, settings["tokens"], *labels)
        for part, index, *labels in places
    )
    return checkpoint, *rows, reviews.source


def _train_on_embedded(reviews, settings):
    """Return the reviews with the embedded corpus, or some kinds of it, in the place of the training part."""
    embedded = data.load("imdb", source="embedded")
    kinds = settings.get("train_kinds", embedded.train["kind"])
    return reviews._replace(
        train=embedded.train.filter(lambda row: row["kind"] in kinds),
        source=f"train: {embedded.source}; test: {reviews.source}",
    )


def pad(rows: list[dict], tokens: int = 0) -> dict[str, torch.Tensor]:
    """Collate reviews, padded to the longest, or to `tokens` where that is more.

    >>> pad([{"input_ids": [101, 102], "label": 1}], 3)["attention_mask"].tolist()
    [[1, 1, 0]]
    """
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    width = max(tokens, *map(len, ids))
    return {
        "input_ids": pad_sequence([*ids, torch.zeros(width, dtype=torch.long)], batch_first=True)[:-1],
        "attention_mask": (torch.arange(width) < torch.tensor([[len(one)] for one in ids])).long(),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def run(experiment: str, arm: str, seed: int, rate: float | None = None) -> records.Run:
    """Run one arm with one seed, at a learning rate of the grid where it is for tuning."""
    settings = tuning.setting(experiment, arm, rate)
    checkpoint, train, tested, source = prepare(settings, seed, validate=rate is not None)
    return arms.measured(
        (experiment, arm, seed, rate),
        (source, checkpoint.source),
        checkpoint.model,
        train,
        tested,
        np.array([row["label"] for row in tested]),
        settings,
        lambda rows: pad(rows, settings["tokens"] if settings["padding"] == "max_length" else 0),
        batch_size=64,
        length=lambda row: len(row["input_ids"]),
    )
