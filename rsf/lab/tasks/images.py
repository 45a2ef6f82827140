"""Images of digits: a small vision transformer from its configuration, fed with pixels (see `carry`).

python -m rsf experiment images-tuning
python -m rsf experiment images
"""

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from transformers import ViTConfig, ViTForImageClassification

from rsf.lab import data, models, records, tuning
from rsf.lab.tasks import carry, topics

declared = tuning.declared  # an edge widens the grid
CIFAR = ("uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2")
TEST = 597  # of the 1,797 digits the last ones, of other writers than the first


def examples(pixels: Sequence[np.ndarray], labels: np.ndarray, dtype: str) -> carry.Part:
    """Return images (channels, height, width) of values up to 1 with their labels."""
    rows = [
        {"pixels": torch.as_tensor(one, dtype=getattr(torch, dtype)), "label": int(label), "index": i}
        for i, (one, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    return carry.Part(rows, rows)


@lru_cache
def read(source: str, dtype: str) -> carry.World:
    """Return images from the Hub (CIFAR-10), or scikit-learn's digits."""

    def hub(impatient):
        both, where = data.pinned(impatient, *CIFAR)
        pixels = (
            [np.moveaxis(np.atleast_3d(one), -1, 0) / 255 for one in both[part]["img"]]
            for part in ("train", "test")
        )
        labels = [np.array(data.labelled(both[part])["label"]) for part in ("train", "test")]
        return *map(examples, pixels, labels, [dtype] * 2), where

    def digits(_):
        pixels, labels = load_digits(return_X_y=True)
        pixels = pixels.reshape(-1, 1, 8, 8) / 16
        return (
            examples(pixels[:-TEST], labels[:-TEST], dtype),
            examples(pixels[-TEST:], labels[-TEST:], dtype),
            "scikit-learn's digits",
        )

    pool, test, where = data.first_available(
        {"hub": hub, "local": digits, "embedded": digits}, "data set images", source
    )
    alike([*pool.rows, *test.rows])
    said = f"images: {where} ({len(pool.rows):,} train, {len(test.rows):,} test)"
    return carry.World(pool, test, (said, "a vision transformer, random weights"))


def model(settings: dict, rng: np.random.Generator) -> torch.nn.Module:
    """Return a vision transformer for the images of a source, with weights from rng."""
    world = read(settings["source"], settings["dtype"])
    channels, side, _ = world.pool.rows[0]["pixels"].shape
    config = ViTConfig(
        image_size=side,
        patch_size=side // 2,  # four patches
        num_channels=channels,
        num_labels=carry.classes(world),
        hidden_size=settings["width"],
        intermediate_size=2 * settings["width"],
        num_hidden_layers=settings["layers"],
        num_attention_heads=4,
        initializer_range=0.1,
        hidden_dropout_prob=settings["dropout"],
    )
    vit = ViTForImageClassification(config)
    # transformers 5.23 saves it by the names of older versions, and a Trainer that resumes finds no weights
    # of its layers there, and goes on with new ones after a warning: it is saved by its own
    vit._weight_conversions = []
    models.draw(vit, [name for name, one in vit.named_parameters() if one.ndim > 1], rng)
    return vit.to(getattr(torch, settings["dtype"]))


def alike(rows: list[dict]) -> list[dict]:
    """Return images that are all of one size; ValueError names the first of another."""
    first = rows[0]["pixels"].shape
    for row in rows:
        records.must(
            row["pixels"].shape == first,
            f"image {row['index']} is {tuple(row['pixels'].shape)}, others are {tuple(first)} (channels, "
            "height, width): bring all to one size",
        )
    return rows


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Return the batch that a vision transformer takes."""
    return {
        "pixel_values": torch.stack([row["pixels"] for row in alike(rows)]),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def floor(train: list[dict], tested: carry.Part) -> dict:
    """Return the numbers of logistic regression on the pixels."""
    seen = [[row["pixels"].numpy().ravel() for row in part] for part in (train, tested.shown)]
    linear = LogisticRegression(max_iter=1000).fit(seen[0], [row["label"] for row in train])
    return topics.judged(linear.predict_log_proba(seen[1]), tested, False)


TASK = carry.Task(
    name="images",
    data=(CIFAR[0], "scikit-learn's digits, 1,797", "the same"),
    head="a small vision transformer, trained here",
    wrong="the drawing looks like another digit; a wrong label: a 1 called 7",
    measure="accuracy",
    simple="logistic regression on the pixels",
    world=lambda settings: read(settings["source"], settings["dtype"]),
    model=model,
    collate=collate,
    judge=partial(topics.judge, collate),
    floor=floor,
)
run = partial(carry.run, TASK)
