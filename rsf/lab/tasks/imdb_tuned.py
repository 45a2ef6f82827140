"""As `imdb`, each arm at a learning rate of its own, in the compact form: imdb-article and imdb-full.

python -m rsf experiment imdb-full-tuning    every arm, seed and rate; an edge widens the grid
python -m rsf experiment imdb-full           each arm at the learning rate that was best for it
"""

import time

import numpy as np

from rsf.lab import arms, records, tuning
from rsf.lab.tasks import imdb

declared = tuning.declared  # an edge widens the grid


def run(experiment: str, arm: str, seed: int, rate: float | None = None) -> records.Run:
    """Run one arm with one seed, at a learning rate of the grid where it is for tuning."""
    settings = tuning.setting(experiment, arm, rate)
    prepared = imdb.prepare(settings, seed, validate=rate is not None)
    coins = arms.Coins()
    begun = time.perf_counter()
    trainer = arms.fine_tune(prepared.model, prepared.train, arm, seed, settings, prepared.collate, coins)
    seconds = time.perf_counter() - begun
    scores = arms.logits(prepared.model, prepared.test, prepared.collate)
    labels = np.array(prepared.test["label"])
    numbers = {
        **arms.reached(trainer, coins, scores, labels, tuning=rate is not None, each=False),
        "learning_rate": settings["learning_rate"],
        "seconds": round(seconds, 1),
    }
    return records.Run(prepared.data, prepared.checkpoint, arms.device_name(), numbers)
