"""Texts written on letter by letter, or token by token: a small causal language model (see `carry`).

    bits per character = sum over tokens of -log2 p(token | those before it) / characters

A loss is of a token, and tokens differ between models; bits per character do not hang on the tokenizer.

python -m rsf experiment language-tuning
python -m rsf experiment language
"""

from collections import Counter, defaultdict
from functools import lru_cache, partial

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from rsf.lab import arms, compact, data, models, records, tuning
from rsf.lab.tasks import addition, carry

declared = tuning.declared  # an edge widens the grid
BEFORE = 5  # letters that the floor looks back


def table(texts: list[str], tokenizer: object, tokens: int) -> list[dict]:
    """Return the first tokens of texts, the letters that they are, and at which the first prediction begins.

    Raises
    ------
    ValueError
        A text has nothing to predict.
    """
    encoded = tokenizer(texts, truncation=True, max_length=tokens, return_offsets_mapping=True)
    empty = [i for i, ids in enumerate(encoded["input_ids"]) if len(ids) < 2]
    records.must(not empty, f"text {[*empty, None][0]} has no second token to predict: leave it out")
    return [
        {"input_ids": ids, "text": text[: ends[-1][1]], "first": ends[0][1]}
        for text, ids, ends in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


@lru_cache
def read(source: str, model: str, tokens: int, dtype: str, *sizes: int) -> carry.World:
    """Return film reviews as the source's language model reads them."""
    found = data.load("imdb", source=source)
    checkpoint = models.load("chat", None, np.random.default_rng(0), source=model)
    drawn = [
        data.labelled(part.select(np.random.default_rng(data.ORDER).permutation(len(part))[:size]), "text")
        for part, size in zip((found.train, found.test), sizes, strict=True)
    ]
    rows = [table(list(part["text"]), checkpoint.tokenizer, tokens) for part in drawn]
    return carry.World(*map(carry.Part, rows, rows), (found.source, checkpoint.source))


def model(settings: dict, rng: np.random.Generator) -> torch.nn.Module:
    """Return the source's language model; rng draws the one that was never trained."""
    network = models.load("chat", None, rng, source=settings["model"]).model
    network.loss_function = addition.token_loss  # in the type of the logits
    return network.to(getattr(torch, settings["dtype"]))


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Return the batch that a causal language model takes."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        "labels": pad_sequence(ids, batch_first=True, padding_value=-100),
    }


def judge(model: torch.nn.Module, part: carry.Part, scalars: bool) -> dict:
    """Return what a model's predictions of texts cost."""
    model.eval()
    found = []
    for rows, batch in arms.batches(part.rows, collate):
        with torch.inference_mode():
            log_p = model(**batch).logits.log_softmax(-1).numpy()
        ids = (row["input_ids"][1:] for row in rows)
        found += [one[range(len(wanted)), wanted] for one, wanted in zip(log_p, ids, strict=True)]
    return judged(found, part, scalars)


def judged(found: list, part: carry.Part, scalars: bool) -> dict:
    """Return bits per character, of the log-probabilities of each text's tokens.

    As accuracy it has the share of texts that cost fewer than two bits a character.
    """
    letters = np.array([len(row["text"]) - row["first"] for row in part.shown])
    bits = np.array([-np.sum(one, dtype=float) for one in found]) / np.log(2)
    right = (bits < 2 * letters).tolist()
    each = bits / letters.mean()  # their mean is all's
    stored = {"right": compact.pack(right), "bits_each": compact.pack_values(each)}
    return {"accuracy": float(np.mean(right)), "bits": float(each.mean())} | ({} if scalars else stored)


def floor(train: list[dict], tested: carry.Part) -> dict:
    """Return the numbers of counted letters, of what followed the last five, four, ... none of them."""
    counts = defaultdict(Counter)
    for text in (row["text"] for row in train):
        for i, letter in enumerate(text):
            for before in contexts(text, i):
                counts[before][letter] += 1
    found = [
        np.log([share(counts, row["text"], i) for i in range(row["first"], len(row["text"]))])
        for row in tested.shown
    ]
    return judged(found, tested, False)


def contexts(text: str, i: int) -> list[str]:
    """Return the letters before a place, none, one, two, ...

    >>> contexts("abc", 2)
    ['', 'b', 'ab']
    """
    return [text[start:i] for start in range(i, max(0, i - BEFORE) - 1, -1)]


def share(counts: dict, text: str, i: int) -> float:
    """Return the probability of a letter: the longer the context, the more it weighs, the more so the fewer
    different letters followed it (Witten and Bell 1991, method C)."""
    found = 1 / (1 + len(counts[""]))
    for seen in filter(None, map(counts.get, contexts(text, i))):
        found = (seen[text[i]] + len(seen) * found) / (seen.total() + len(seen))
    return found


TASK = carry.Task(
    name="language",
    data=("Qwen2.5-0.5B on IMDb", "stories260K on IMDb", "a tiny GPT-2 on mini reviews"),
    head="a causal language model, whole",
    wrong="the text is unlike those before it; there is no label to be wrong",
    measure="bits",
    simple="counted letters",
    world=lambda settings: read(*(settings[name] for name in carry.CHOICE)),
    model=model,
    collate=collate,
    judge=judge,
    floor=floor,
)
run = partial(carry.run, TASK)
