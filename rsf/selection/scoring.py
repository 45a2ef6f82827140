"""Score a block of candidates cheaply, and see to it that what is scored is what is trained on.

    chunks of like length, no gradient, one transfer to the host  ->  criterion (n,)

A random collator (masks, crops, noise) runs once for each candidate, alone; what is kept is later only padded. Drawn a second time
it would be another example: the one that is trained on would not be the one that was decided upon.
"""

import contextlib
import copy

import numpy as np
import torch
import torch.nn.functional as F


def score(model, rows, criterion, collate, size=0, *, dropout=False, autocast=contextlib.nullcontext):
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
    size, training, values = size or len(rows), model.training, []
    lengths = (
        [_length(row, getattr(model, "main_input_name", "input_ids")) for row in rows]
        if size < len(rows)
        else [0] * len(rows)
    )
    order = np.argsort(-np.array(lengths), kind="stable")
    model.train(dropout)
    try:
        with torch.inference_mode(), autocast():
            for start in range(0, len(rows), size):
                inputs = collate([rows[i] for i in order[start : start + size]])
                values.append(criterion(model, inputs, model(**inputs)))
                if (got := tuple(values[-1].shape)) != (expected := len(order[start : start + size]),):
                    raise ValueError(
                        f"the criterion must be one number for each of {expected} examples, got shape {got}"
                    )
            scores = torch.cat(values).double().cpu().numpy()
    finally:
        model.train(training)
    return scores[np.argsort(order)]


def is_random(collate, block):
    """Return whether a collator makes two different batches of the same examples; leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        one, two = (collate(copies(block)) for _ in range(2))
    return any(torch.is_tensor(value) and not torch.equal(value, two[name]) for name, value in one.items())


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
