"""Go on where a killed run was, bit for bit: the loader's state in every checkpoint, passes that come again
in order."""

import datetime
import json
import pickle
from collections import UserDict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import torch

from rsf.acceptance import logger, refuse_if
from rsf.accounts import write_whole

VALUES = [  # what examples may hold beside Python's own, by what it is unpickled: NumPy's, times, decimals
    *(np.ndarray, np.dtype, *(type(np.dtype(code)) for code in np.typecodes["All"])),
    *(np.empty(0).__reduce__()[0], np.float64().__reduce__()[0]),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone, Decimal),
]


class Blocks:
    """A DataLoader's batches of examples, each pass in an order that a resumed run meets again.

    A sampler that draws from torch's generator (lengths grouped) finds it as it was when the pass began.
    Several processes, which must share one order but draw unlike amounts, begin a pass from the seed and the
    number of the pass; their own generators move by the one number that a DataLoader draws, as in the
    Trainer.
    """

    def __init__(self, loader, seed: int, ranks: int):
        self.loader, self.seed, self.ranks = loader, seed, ranks
        self.epoch = 0
        # torch's states: when the present pass began, and the one to begin the next pass with
        self.began = self.begin_from = None
        loader.device = None  # examples stay where they are until they are collated

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[list]:
        alive = self.loader.persistent_workers and self.epoch > 0  # then no seed is drawn for the workers
        if alive and self.loader._iterator is None:
            with torch.random.fork_rng(devices=[]):
                iter(self.loader.base_dataloader)
        with torch.random.fork_rng(devices=[], enabled=self.ranks > 1):
            if self.ranks > 1:
                torch.manual_seed(self.seed + self.epoch)
            elif self.begin_from is not None:
                torch.set_rng_state(self.begin_from)
            self.began = torch.get_rng_state()
            self.begin_from = None
            blocks = iter(self.loader)
            first = next(blocks, None)
        if self.ranks > 1 and not alive:
            torch.empty((), dtype=torch.int64).random_()
        if first is not None:
            yield first
            yield from blocks


def coins(collator: object) -> dict | torch.Tensor | None:
    """Return the state of a collator's own generator, torch's or NumPy's; None if it has none."""
    generator = getattr(collator, "generator", None)
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.bit_generator.state if isinstance(generator, np.random.Generator) else None


def load_coins(collator: object, state: dict | torch.Tensor | None) -> None:
    """Let a collator's own generator, made here if the collator makes it late, go on from a state."""
    if torch.is_tensor(state):
        collator.generator = getattr(collator, "generator", None) or torch.Generator()
        collator.generator.set_state(state)
    elif state is not None:
        collator.generator = getattr(collator, "generator", None) or np.random.default_rng(0)
        collator.generator.bit_generator.state = state


def file_of(rank: int) -> str:
    """Return the name of a rank's file in a checkpoint."""
    return f"rejection_{rank}.pt"


def save(state: dict, folder: str | Path, rank: int) -> None:
    """Write a rank's state, whole or not at all; warn where it could not be read again."""
    file = Path(folder) / file_of(rank)
    try:
        write_whole(file, lambda part: torch.save(state, part))
        load(folder, rank)
    except (AttributeError, TypeError, ValueError, pickle.PicklingError) as error:
        logger.warning(f"{folder} cannot be resumed from: {error}")


def load(folder: str | Path, rank: int) -> dict:
    """Return a rank's state: numbers, texts, times, arrays and tensors, and nothing that runs code."""
    file = Path(folder) / file_of(rank)
    refuse_if(
        not file.is_file(),
        f"Can't find a valid checkpoint at {folder}: it has no {file.name}, so it was not written by "
        "RSFTrainer on as many processes, or with save_only_model",
    )
    try:
        with torch.serialization.safe_globals(VALUES):
            return torch.load(file, weights_only=True)
    except pickle.UnpicklingError as error:
        what = str(error).split("WeightsUnpickler error: ")[-1].splitlines()[0]
        raise ValueError(
            f"the examples must be numbers, texts, times, arrays or tensors, of those that wait in {folder} "
            f"some are not ({what})"
        ) from error


def last_whole(folder: str | Path, ranks: int) -> str:
    """Return the newest checkpoint of a folder that was written to its end by all ranks."""
    whole = [path for path in Path(folder).glob("checkpoint-*") if _is_whole(path, ranks)]
    refuse_if(
        not whole,
        f"No valid checkpoint found in output directory ({folder}): none there was written to its end by "
        f"RSFTrainer on {ranks} process(es)",
    )
    return str(max(whole, key=lambda path: int(path.name.split("-")[1])))


def _is_whole(checkpoint, ranks):
    """Whether the Trainer's state, which it writes last, can be read, and each rank's own is there."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all((checkpoint / file_of(rank)).is_file() for rank in range(ranks))


def state_of(trainer) -> dict:
    """Return all that the next batches of an `RSFTrainer` hang on, and what its log has not shown yet."""
    loader = trainer.loader.state_dict()
    for waiting in loader["ready"]:  # a tokenizer's own dict holds more than its values
        waiting[0] = dict(waiting[0]) if isinstance(waiting[0], UserDict) else waiting[0]
    return {
        "loader": loader,
        "rule": trainer.rule.state_dict(),
        "random": trainer._random,
        "began": trainer.loader.candidates.began,
        "collator": coins(trainer.data_collator),
        # early transformers 5 has no _tr_loss
        "logged": hasattr(trainer, "_tr_loss") and [trainer._tr_loss.item(), trainer._globalstep_last_logged],
        "setting": _setting(trainer),
    }


def go_on(trainer, state: dict) -> None:
    """Let an `RSFTrainer` go on from a state, if its settings are those of then."""
    was = state["setting"]
    unlike = {name: (was[name], now) for name, now in _setting(trainer).items() if was[name] != now}
    refuse_if(unlike, f"resume with the settings of the checkpoint: (then, now) are {unlike}")
    trainer.loader.load_state_dict(state["loader"])
    trainer.rule.load_state_dict(state["rule"])
    trainer._random = state["random"]
    if state["loader"]["place"]["block"]:  # between two passes there is none to be begun again
        trainer.loader.candidates.begin_from = state["began"]
    load_coins(trainer.data_collator, state["collator"])
    # finding the place has drawn from the global generator
    trainer.loader.on_resume = lambda: trainer._load_rng_state(trainer._checkpoint)


def _setting(trainer):
    """Return what must be as it was for the same candidates to come in order, and meet the same coins."""
    return {
        name: str(getattr(trainer.args, name))
        for name in ("seed", "data_seed", "train_sampling_strategy", "unit", "weighting")
    } | {
        "candidates": len(trainer.train_dataset),
        "processes": trainer.args.world_size,
        "what the rule remembers": sorted(trainer.rule.state_dict()),
        "block": trainer.plan.block,
        "batch": trainer._train_batch_size,
    }
