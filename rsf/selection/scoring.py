"""Score a block of candidates cheaply, and see to it that what is scored is what is trained on.

    chunks of like length, no gradient, one transfer to the host  ->  criterion (n,)

A random collator (masks, crops, noise) runs once for each candidate, alone; what is kept is padded later.
Drawn a second time it would be another example, not the one that was decided upon.
"""

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from rsf.acceptance import refuse_if

DRAWS = 20  # so many batches of the same examples show whether a collator is random
FILL = {
    "labels": -100,
    "attention_mask": 0,
    "decoder_attention_mask": 0,
    "input_values": 0,
    "input_features": 0,
    "pixel_mask": 0,
}
FILL_OF_THE_TOKENIZER = {
    "input_ids": "pad_token_id",
    "decoder_input_ids": "pad_token_id",
    "token_type_ids": "pad_token_type_id",
}


def score(
    model: torch.nn.Module,
    rows: Sequence,
    criterion: Callable[[torch.nn.Module, Mapping, object], torch.Tensor],
    collate: Callable[[list], Mapping],
    size: int = 0,
    *,
    dropout: bool = False,
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> np.ndarray:
    """Return the criterion of each row, (n,) float64, under the model's present weights.

    Parameters
    ----------
    model : torch.nn.Module
        Not wrapped for distributed training: each process scores as many as it likes. Given back in the mode
        it was in.
    rows : list of n examples
    criterion : callable(model, inputs, outputs) -> tensor (batch,)
    collate : callable(list of examples) -> dict of tensors on the model's device
    size : int
        Rows in one forward pass, the longest first; 0: all.
    dropout : bool
        Score in train mode, as the published listing does, instead of eval mode.
    autocast : callable() -> context manager
    """
    size = size or len(rows)
    name = getattr(model, "main_input_name", "input_ids")
    order = np.argsort([-_length(row, name) if size < len(rows) else 0 for row in rows], kind="stable")
    training = model.training
    values = []
    model.train(dropout)
    try:
        with torch.inference_mode(), autocast():
            for chunk in np.split(order, range(size, len(rows), size)):
                inputs = collate([rows[i] for i in chunk])
                values.append(torch.as_tensor(criterion(model, inputs, model(**inputs))))
                refuse_if(
                    values[-1].shape != chunk.shape,
                    f"the criterion must be one number for each of {len(chunk)} examples, got shape "
                    f"{(*values[-1].shape,)}: if the collator packs several examples into one row, take one "
                    "that pads",
                )
    finally:
        model.train(training)
    # float64 on the host, for not every device has it
    return torch.cat(values).cpu().double().numpy()[np.argsort(order)]


def is_random(collate: Callable[[list], Mapping], block: Sequence) -> bool:
    """Return whether a collator draws; leaves torch's generator as it was.

    It does if it moves torch's generator, or if 20 batches of the same examples, at most 8, are not all
    alike. A collator that draws elsewhere and changes an example with probability p is missed with
    probability (p^20 + (1 - p)^20)^n of n examples: 2e-6 for p = 1/2 and one example, but 0.12 for p = 1/10.
    What is drawn for some examples only (a crop of long ones) is missed if these have none of them.
    """
    few = block[:8]
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        first = collate(copies(few))
        return not torch.equal(before, torch.get_rng_state()) or any(
            not _same(collate(copies(few)), first) for _ in range(DRAWS - 1)
        )


def _same(one, two):
    """Return whether two batches hold the same tensors, NaN like NaN."""
    return one.keys() == two.keys() and all(
        a.shape == two[name].shape and torch.allclose(a, two[name], rtol=0, atol=0, equal_nan=True)
        for name, a in one.items()
        if torch.is_tensor(a)
    )


def copies(examples: Sequence) -> list:
    """Return shallow copies: some collators take columns out of the examples that they are given."""
    return [copy.copy(example) for example in examples]


def joined(rows: Sequence[Mapping[str, torch.Tensor]], tokenizer: object = None) -> dict[str, torch.Tensor]:
    """Return one batch of rows that a collator made of one example each, padded to the widest.

    Parameters
    ----------
    rows : list of dict of tensors (1, ...)
    tokenizer : transformers tokenizer, optional
        Says with what token and on which side to pad; without one only labels, masks and sounds can be
        padded.

    Raises
    ------
    ValueError
        A column is of unlike width and nothing says with what to pad it.
    """
    fill = FILL | {name: getattr(tokenizer, what, None) for name, what in FILL_OF_THE_TOKENIZER.items()}
    left = getattr(tokenizer, "padding_side", "right") == "left"
    batch = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        widest = np.max([part.shape for part in parts], axis=0)
        refuse_if(
            len({part.shape[1:] for part in parts}) > 1 and fill.get(name) is None,
            "the collator is random, so each example is collated once, and nothing says how to pad the "
            f"column {name!r}: let it pad to a fixed length, or pass processing_class=tokenizer",
        )
        for i, part in enumerate(parts):
            missing = (widest - part.shape)[:0:-1].tolist()  # of each dimension, the last one first
            sides = [n for d in missing for n in ((d, 0) if left else (0, d))]
            parts[i] = torch.nn.functional.pad(part, sides, value=fill[name]) if any(missing) else part
        batch[name] = torch.cat(parts)
    return batch


def _length(row, name):
    """Return how long an example is, raw or a batch of one; 0 where that means nothing."""
    value = row.get(name) if hasattr(row, "get") else None
    return value.shape[-1] if getattr(value, "shape", ()) else len(value) if hasattr(value, "__len__") else 0
