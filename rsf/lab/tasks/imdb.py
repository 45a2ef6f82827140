"""Is a film review good or bad? A pretrained encoder fine-tuned by one arm: imdb-* and mini-reviews-*.

python -m rsf experiment imdb-small    every arm and seed of that section; goes on where it stopped
"""

from functools import partial

import numpy as np
import torch

from rsf.lab import arms, compact, models, records
from rsf.lab.tasks import imdb_tuned


def run(experiment: str, arm: str, seed: int) -> records.Run:
    """Run one arm with one seed of an IMDb section, batches padded to the longest, the listing's to all."""
    settings = records.protocol(experiment)
    checkpoint, train, test, source = imdb_tuned.prepare(settings | {"validation": 0}, seed)
    model = checkpoint.model
    collate = imdb_tuned.pad
    test_index = [row["index"] for row in test]
    if "top" in settings:  # of the layers alone trained; what those below make of a review is computed once
        lower, model = models.split_layers(model, settings["top"])
        train, test = (models.lower_rows(lower, checkpoint.tokenizer, rows) for rows in (train, test))
        collate = models.pad_hidden
    decisions = {"index": [], "criterion": [], "kept": []}  # one row a coin

    def note(block: list, criterion: np.ndarray, kept: np.ndarray) -> None:
        decisions["index"].append([int(row["index"]) for row in block])
        decisions["criterion"].append(round(float(criterion.mean()), 5))
        decisions["kept"].append(int(kept.all()))

    begun = arms.clock()
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
    wall, cpu = arms.clock() - begun
    scores = arms.logits(model, test, collate)
    numbers = {
        "accuracy": arms.accuracy(scores, test),
        "acceptance_rate": float(np.average(decisions["kept"], weights=[*map(len, decisions["index"])])),
        "forward_passes": scored + 3 * trained,
        "budget": budget,
        "steps": steps,
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),  # of all threads: what a shared machine does not change
        "test_index": test_index,
        "test_label": [int(row["label"]) for row in test],
        "test_margin": compact.significant(scores[:, 1] - scores[:, 0]),  # > 0: positive
        **{f"decision_{name}": value for name, value in decisions.items()},
    }
    return records.Run(source, checkpoint.source, arms.device_name(), numbers)
