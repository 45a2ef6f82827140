"""Go on where a killed run was, bit for bit: the loader's state in every checkpoint, and passes that come again in the same order."""

import json
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import torch
from transformers.trainer_pt_utils import safe_globals

logger = logging.getLogger(__name__)


class Blocks:
    """A DataLoader's batches of examples, each pass in an order that a resumed run meets again.

    A sampler that draws from torch's generator (lengths grouped) finds it as it was when the pass began; several processes, that must
    share one order but draw unlike amounts, begin a pass from the seed and the number of the pass.
    """

    def __init__(self, loader, seed, ranks):
        self.loader, self.seed, self.ranks, self.epoch = loader, seed, ranks, 0
        self.began, self.begin_from = (
            None,
            None,
        )  # the generator's state when the present pass began; the one to begin the next with
        loader.device = None  # examples stay where they are until they are collated

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.loader.set_epoch(epoch)

    def __iter__(self):
        with torch.random.fork_rng(devices=[], enabled=self.ranks > 1):
            if self.ranks > 1:
                torch.manual_seed(self.seed + self.epoch)
            elif self.begin_from is not None:
                torch.set_rng_state(self.begin_from)
            self.began, self.begin_from = torch.get_rng_state(), None
            blocks = iter(self.loader)
            first = next(blocks, None)
        if first is not None:
            yield first
            yield from blocks


def coins(collator):
    """Return the state of a collator's own generator, torch's or NumPy's; None if it has none."""
    generator = getattr(collator, "generator", None)
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state() if isinstance(generator, torch.Generator) else None


def load_coins(collator, state):
    """Let a collator's own generator, made here if the collator makes it late, go on from a state."""
    generator = getattr(collator, "generator", None)
    if torch.is_tensor(state):
        collator.generator = generator or torch.Generator()
        collator.generator.set_state(state)
    elif state is not None:
        collator.generator = generator or np.random.default_rng(0)
        collator.generator.bit_generator.state = state


def file_of(rank):
    return f"rejection_{rank}.pt"


def save(state, folder, rank):
    """Write a rank's state, whole or not at all; warn where it could not be read again."""
    file = Path(folder) / file_of(rank)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file.with_suffix(".part"))
    os.replace(file.with_suffix(".part"), file)
    try:
        load(folder, rank)
    except pickle.UnpicklingError as error:
        what = str(error).split("WeightsUnpickler error: ")[-1].splitlines()[0]
        logger.warning(
            f"{folder} cannot be resumed from: the examples must be numbers, texts, arrays or tensors ({what})"
        )


def load(folder, rank):
    """Return a rank's state."""
    file = Path(folder) / file_of(rank)
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} has no {file.name}: it was not written by RSFTrainer on as many processes"
        )
    with safe_globals():  # NumPy's arrays, too
        return torch.load(file, weights_only=True)


def last_whole(folder, ranks):
    """Return the newest checkpoint of a folder that was written to its end by all ranks."""
    whole = [
        path.parent for path in Path(folder).glob("checkpoint-*/trainer_state.json") if _is_whole(path, ranks)
    ]
    if not whole:
        raise FileNotFoundError(
            f"no whole checkpoint of RSFTrainer on {ranks} process(es) is in {folder}: nothing to resume from"
        )
    return str(max(whole, key=lambda path: int(path.name.split("-")[1])))


def _is_whole(trainer_state, ranks):
    """Whether the Trainer's state, which it writes last, can be read, and each rank's own is there."""
    try:
        json.loads(trainer_state.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return all((trainer_state.parent / file_of(rank)).is_file() for rank in range(ranks))
