"""Sentences of two languages: a small Marian, trained here with its own pieces of words (see `carry`).

BLEU and chrF are sacrebleu's. The embedded sentences are numbers in words, German and English, of num2words.

python -m rsf experiment translation-tuning
python -m rsf experiment translation
"""

import re
from collections import Counter
from functools import lru_cache, partial
from itertools import product

import numpy as np
import sacrebleu
import torch
from num2words import num2words
from tokenizers import SentencePieceBPETokenizer
from torch.nn.utils.rnn import pad_sequence
from transformers import MarianConfig, MarianMTModel

from rsf.lab import arms, compact, data, models, records, tuning
from rsf.lab.tasks import carry

declared = tuning.declared  # an edge widens the grid
MULTI30K = ("bentrevett/multi30k", "37e118600232bb5298ca011a8a7e7a44e863c36a")
PAD, END = 0, 1  # the first two pieces


def pieces(pairs: list[tuple[str, str]], number: int) -> SentencePieceBPETokenizer:
    """Return a tokenizer of the most frequent pieces of words in some pairs of texts (byte-pair encoding)."""
    words = SentencePieceBPETokenizer()
    special = ["<pad>", "</s>", "<unk>"]
    words.train_from_iterator(sum(pairs, ()), number, special_tokens=special, show_progress=False)
    return words


def table(pairs: list[tuple[str, str]], words: SentencePieceBPETokenizer, tokens: int) -> list[dict]:
    """Return texts with their translations, and both in pieces, cut at `tokens`.

    Raises
    ------
    ValueError
        A text or its translation is empty.
    """
    empty = [i for i, pair in enumerate(pairs) if not all(text and text.strip() for text in pair)]
    records.must(not empty, f"pair {[*empty, None][0]} lacks its text or its translation: leave it out")
    ids = ([[*one.ids[: tokens - 1], END] for one in words.encode_batch(list(pair))] for pair in pairs)
    return [
        {"text": one, "translation": other, "input_ids": read, "labels": wanted, "words": words}
        for (one, other), (read, wanted) in zip(pairs, ids, strict=True)
    ]


@lru_cache
def read(source: str, tokens: int, number: int, *sizes: int) -> carry.World:
    """Return sentences of Multi30k, German and English, or numbers in words, in so many pieces of words."""

    def pairs(tables):
        whole = (data.labelled(one, "de", "en") for one in tables)
        return [list(zip(one["de"], one["en"], strict=True)) for one in whole]

    def hub(impatient):
        both, where = data.pinned(impatient, *MULTI30K)
        return pairs([both["train"], both["test"]]), where

    def local(_):
        tables, where = data.copied("multi30k", "Multi30k", "train", "test")
        return pairs(tables), where

    def embedded(_):
        numbers = np.random.default_rng(data.ORDER).permutation(1000).tolist()
        made = [tuple(num2words(one, lang=lang) for lang in ("de", "en")) for one in numbers]
        return (made[:800], made[800:]), "embedded, numbers in words"

    parts, where = data.first_available(
        {"hub": hub, "local": local, "embedded": embedded}, "data set translation", source
    )
    drawn = [
        [part[i] for i in np.random.default_rng(data.ORDER).permutation(len(part))[:size]]
        for part, size in zip(parts, sizes, strict=True)
    ]
    words = pieces(drawn[0], number)
    rows = [table(part, words, tokens) for part in drawn]
    said = f"translation: {where} ({len(parts[0]):,} train, {len(parts[1]):,} test)"
    return carry.World(*map(carry.Part, rows, rows), (said, "a Marian transformer, random weights"))


def world(settings: dict) -> carry.World:
    """Return what a section asks for; the pieces of words are learned with the base."""
    sizes = settings["base"]["pieces"], settings["pool"], settings["test"]
    return read(settings["source"], settings["tokens"], *sizes)


def model(settings: dict, rng: np.random.Generator) -> torch.nn.Module:
    """Return a small Marian with weights from rng."""
    config = MarianConfig(
        vocab_size=settings["base"]["pieces"],
        d_model=settings["width"],
        encoder_layers=settings["layers"],
        decoder_layers=settings["layers"],
        encoder_ffn_dim=2 * settings["width"],
        decoder_ffn_dim=2 * settings["width"],
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        max_position_embeddings=settings["tokens"],
        dropout=settings["dropout"],
        activation_function="relu",
        scale_embedding=True,
        init_std=settings["width"] ** -0.5,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
        forced_eos_token_id=None,
        decoder_start_token_id=PAD,
    )
    network = MarianMTModel(config)
    drawn = [name for name, one in network.named_parameters() if one.ndim > 1 and "positions" not in name]
    models.draw(network, drawn, rng, config.init_std)
    return network.to(getattr(torch, settings["dtype"]))


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Return the batch that the model takes."""
    ids, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=PAD),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def judge(model: torch.nn.Module, part: carry.Part, scalars: bool) -> dict:
    """Return the numbers of a model's translations, of each piece the likeliest."""
    found = []
    for rows, batch in arms.batches(part.rows, collate, 64):
        most = {"max_new_tokens": model.config.max_position_embeddings - 1, "do_sample": False}
        ids = model.eval().generate(batch["input_ids"], attention_mask=batch["attention_mask"], **most)
        found += rows[0]["words"].decode_batch(ids.tolist())  # without the special pieces
    return judged(found, part, scalars)


def judged(found: list[str], part: carry.Part, scalars: bool) -> dict:
    """Return exact match (as the accuracy), BLEU and chrF of some translations."""
    asked = [row["translation"] for row in part.shown]
    right = [one == other for one, other in zip(found, asked, strict=True)]
    numbers = {
        "accuracy": float(np.mean(right)),
        "bleu": sacrebleu.corpus_bleu(found, [asked], force=True).score / 100,  # the floor leaves spaces
        "chrf": sacrebleu.corpus_chrf(found, [asked]).score / 100,
    }
    return numbers | ({} if scalars else {"right": compact.pack(right)})


def floor(train: list[dict], tested: carry.Part) -> dict:
    """Return the numbers of a dictionary: for each word that which stands beside it most often, and seldom
    beside others (Dice's coefficient); a word that it lacks is copied."""
    split = partial(re.findall, r"\w+|[^\w\s]")
    counts = Counter()
    for row in train:
        counts.update(product(*({*split(row[side]), None} for side in ("text", "translation"))))
    best = {}
    for word, other in filter(all, counts):  # None stands for any word
        share = 2 * counts[word, other] / (counts[word, None] + counts[None, other])
        best[word] = max(best.get(word, (0.0, "")), (share, other))
    words = ([best.get(word, (0.0, word))[1] for word in split(row["text"])] for row in tested.shown)
    return judged([" ".join(one) for one in words], tested, False)


TASK = carry.Task(
    name="translation",
    data=(MULTI30K[0], "Multi30k, German to English", "numbers in words, German to English"),
    head="a small Marian, trained here",
    wrong="the translation is free; a wrong label: that of another sentence",
    measure="bleu",
    simple="a dictionary made of the pairs, word by word",
    world=world,
    model=model,
    collate=collate,
    judge=judge,
    floor=floor,
)
run = partial(carry.run, TASK)
