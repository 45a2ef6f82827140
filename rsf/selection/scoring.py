"""Score a block of candidates cheaply, and see to it that what is scored is what is trained on.

    chunks of like length, no gradient, one transfer to the host  ->  criterion (n,)

A random collator (masks, crops, noise) runs once for each candidate, alone; what is kept is later only padded. Drawn
a second time it would be another example: the one that is trained on would not be the one that was decided upon.
"""

import contextlib
import copy
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

LOOKS = 20  # so many batches of the same examples are compared
LOOKED_AT = 8  # so many examples at most


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
        Not wrapped for distributed training: each process scores as many as it likes. Given back in the mode it was in.
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
    lengths = np.zeros(len(rows))
    if size < len(rows):
        name = getattr(model, "main_input_name", "input_ids")
        lengths = np.array([_length(row, name) for row in rows])
    order = np.argsort(-lengths, kind="stable")
    training = model.training
    values = []
    model.train(dropout)
    try:
        with torch.inference_mode(), autocast():
            for start in range(0, len(rows), size):
                chunk = [rows[i] for i in order[start : start + size]]
                inputs = collate(chunk)
                values.append(criterion(model, inputs, model(**inputs)))
                if values[-1].shape != (len(chunk),):
                    raise ValueError(
                        f"the criterion must be one number for each of {len(chunk)} examples, got shape "
                        f"{tuple(values[-1].shape)}: a collator that packs several examples into one row cannot be used"
                    )
            scores = torch.cat(values).cpu().double().numpy()  # not every device has float64
    finally:
        model.train(training)
    return scores[np.argsort(order)]


def is_random(collate: Callable[[list], Mapping], block: Sequence) -> bool:
    """Return whether a collator draws; leaves the generators of torch (CPU), NumPy and Python as they were.

    It does if one of these generators moves, or if one of 20 batches of the same examples, at most 8, differs from the
    first. So only draws from another generator can be missed: a collator that changes an example with probability p
    is, of n examples, with probability (p^20 + (1 - p)^20)^n; for p = 1/2 and one example that is 2e-6, for p = 0.1 it
    is 0.12. A collator that draws for some examples only may be missed where the first block has none of them.
    """
    state = _generators()
    try:
        first = collate(copies(block[:LOOKED_AT]))
        return any(
            not _equal(_generators(), state) or not _equal(collate(copies(block[:LOOKED_AT])), first)
            for _ in range(1, LOOKS)
        )
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])  # noqa: NPY002 (collators use it)
        random.setstate(state[2])


def _generators():
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def _equal(one, two):
    """Return whether two batches hold the same: tensors and arrays by value, NaN like NaN."""
    if isinstance(one, Mapping):
        return one.keys() == two.keys() and all(_equal(one[name], two[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(_equal, one, two))
    if torch.is_tensor(one):
        return one.shape == two.shape and torch.allclose(one, two, rtol=0, atol=0, equal_nan=True)
    return np.array_equal(one, two) or (one != one and two != two)


def copies(examples):
    """Return shallow copies: some collators take columns out of the examples that they are given."""
    return [copy.copy(example) for example in examples]


def joined(rows, tokenizer=None):
    """Return one batch of rows that a collator made of one example each, padded to the widest.

    Parameters
    ----------
    rows : list of dict of tensors (1, ...)
    tokenizer : transformers tokenizer, optional
        Says with what token and on which side to pad; without one only labels, masks and sounds can be padded.

    Raises
    ------
    ValueError
        A column is of unlike width and nothing says with what to pad it.
    """
    tokens = {
        "input_ids": "pad_token_id",
        "decoder_input_ids": "pad_token_id",
        "token_type_ids": "pad_token_type_id",
    }
    fill = {name: getattr(tokenizer, attribute, None) for name, attribute in tokens.items()}
    fill |= {
        "labels": -100,
        "attention_mask": 0,
        "decoder_attention_mask": 0,
        "input_values": 0,
        "input_features": 0,
        "pixel_mask": 0,
    }
    left, batch = getattr(tokenizer, "padding_side", "right") == "left", {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        widest = np.max([part.shape for part in parts], axis=0)
        for i, part in enumerate(parts):
            missing = [wide - has for wide, has in zip(widest[1:].tolist(), part.shape[1:], strict=True)]
            if any(missing) and fill.get(name) is None:
                raise ValueError(
                    f"the collator is random, so each example is collated once, and nothing says how to pad the column {name!r}: "
                    "let it pad to a fixed length, or pass processing_class=tokenizer"
                )
            if any(missing):
                sides = [n for d in reversed(missing) for n in ((d, 0) if left else (0, d))]
                parts[i] = F.pad(part, sides, value=fill[name])
        batch[name] = torch.cat(parts)
    return batch


def _length(row, name):
    """Return how long an example is, raw or a batch of one; 0 where that means nothing."""
    value = row.get(name) if hasattr(row, "get") else None
    return value.shape[-1] if getattr(value, "shape", ()) else len(value) if hasattr(value, "__len__") else 0
