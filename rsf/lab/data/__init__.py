"""Named data sets from the best source there is: Hub, local copy, or the small corpus inside the package; it
says which.

`RSF_SOURCE` names the sources to try, in order: `hub`, `local`, `embedded`, several with commas, or `auto`
(all three). The Hub counts only if it answers within seconds. A source asked for by name that is not there is
an error, never a fallback.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
from huggingface_hub import HfApi

from rsf.acceptance import refuse_if
from rsf.lab.data import passages

logger = logging.getLogger(__name__)
SOURCES = ("hub", "local", "embedded")
EMBEDDED = Path(__file__).parent / "embedded"
ORDER = 12345  # the seed that chooses what is put aside
HUB_PATIENCE = 5  # seconds
SETS = {  # where on the Hub, at which revision, what a local copy is called, what is embedded, and its parts
    "imdb": (
        ("stanfordnlp/imdb",),
        "e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
        "the Large Movie Review Dataset",
        "mini reviews",
        ("train", "test"),
    ),
    "gsm8k": (
        ("openai/gsm8k", "main"),
        "e53f048856ff4f594e959d75785d2c2d37b678ee",
        "GSM8K",
        "mini problems",
        ("train", "test"),
    ),
    "ag_news": (
        ("fancyzhx/ag_news",),
        "eb185aade064a813bc0b7f42de02595523103ca4",
        "AG News",
        "mini reviews",
        ("train_subset", "test"),
    ),
    "squad": (
        ("rajpurkar/squad",),
        "7b6d24c440a36b6815f21b70d25016731768db1f",
        "SQuAD 1.1",
        "made passages",
        ("train_subset", "validation"),
    ),
}


class SourceUnavailable(RuntimeError):
    """A source that was asked for is not there; the message says what would bring it."""


class Data(NamedTuple):
    """Two tables, each a `datasets.Dataset` or `Tokenised`, and the line that says where they are from."""

    train: object
    test: object
    source: str


class Tokenised(dict):
    """Reviews as arrays by column: label, text (a digest of it) and input_ids, cut at 512.

    They stand in the place of a `datasets.Dataset` where that package is not.
    """

    def __len__(self):
        return len(self["label"])


def load(name, *, source=None):
    """Return a named data set as `Data`.

    Parameters
    ----------
    name : "imdb", "gsm8k", "ag_news" or "squad"
        imdb: columns text (str) and label (0 negative, 1 positive); embedded: *mini reviews*, with genre and
        kind as well. gsm8k: question and answer (its steps, and a last line of `####` and the number);
        embedded: *mini problems*. ag_news: text and label (a topic); embedded: *mini reviews*, whose topic is
        the genre. squad: context, question and answers (text and answer_start); embedded: `made passages`.
    source : str, optional
        Overrides `RSF_SOURCE`.

    Raises
    ------
    SourceUnavailable
        None of the sources named is there.
    """
    refuse_if(name not in SETS, f"there is no data set {name!r}, only {', '.join(SETS)}")
    (repository, *part), revision, title, small, parts = SETS[name]

    def hub(impatient):
        both, where = pinned(impatient, repository, revision, *part)
        return *(both[one.removesuffix("_subset")] for one in parts), where

    def local(_):
        folder = local_folder("RSF_DATA", name)
        if (folder / "tokens.npz").is_file():
            return _tokenised(folder / "tokens.npz")
        tables, where = copied(name, title, *parts)
        return *tables, where

    def embedded(_):
        if small == "made passages":
            made = passages.made()
        else:
            with open(EMBEDDED / f"{small.replace(' ', '_')}.jsonl", encoding="utf-8") as file:
                made = [json.loads(line) for line in file]
        rows = import_module("datasets").Dataset.from_list(made)
        return *(
            rows.select([i for i, one in enumerate(rows["split"]) if one == split]).remove_columns("split")
            for split in ("train", "test")
        ), f"embedded, {small}"

    train, test, where = first_available(
        {"hub": hub, "local": local, "embedded": embedded}, f"data set {name}", source
    )
    data = Data(train, test, f"{name}: {where} ({len(train):,} train, {len(test):,} test)")
    logger.info(data.source)
    return data


def _tokenised(file):
    """Return the training and the test part of a file that tests/archive.py packed, and where it is from."""
    stored = np.load(file)
    return *(
        Tokenised(
            text=stored[f"{part}_text"].tolist(),
            label=stored[f"{part}_label"].tolist(),
            input_ids=np.split(stored[f"{part}_ids"], np.cumsum(stored[f"{part}_lengths"])[:-1]),
        )
        for part in ("train", "test")
    ), str(stored["source"])


def encoded(
    part: Sequence,
    index: Sequence[int],
    tokenizer: Callable,
    tokens: int,
    labels: Sequence[int] | None = None,
) -> list[dict]:
    """Return the reviews at some places of a table as rows of input_ids, cut at `tokens`, label and index.

    Those that come as token ids keep the last of them, the mark of the end. Labels are by default the
    table's.
    """
    if isinstance(part, Tokenised):
        ids = [
            one if len(one) <= tokens else [*one[: tokens - 1], one[-1]]
            for one in (part["input_ids"][i].tolist() for i in index)
        ]
    else:
        ids = tokenizer(list(part.select(index)["text"]), truncation=True, max_length=tokens)["input_ids"]
    labels = np.array(part["label"])[index] if labels is None else labels
    return [
        {"input_ids": one, "label": int(label), "index": int(i)}
        for one, label, i in zip(ids, labels, index, strict=True)
    ]


def drawn(
    label: np.ndarray, aside: np.ndarray, pool: np.ndarray, settings: dict, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return places and labels, a share of them flipped, of what is trained on and of what is validated on.

    `validate` says on what: "aside", on what was put aside, or "pool", on others of the pool.
    """
    chosen, others, _ = np.split(
        rng.permutation(pool), [settings["train"], settings["train"] + settings["validation"]]
    )
    found = []
    for index in (chosen, others if settings.get("validate") == "pool" else aside):
        labels = label[index]
        wrong = rng.permutation(len(index))[: round(settings.get("flipped", 0.0) * len(index))]
        labels[wrong] = 1 - labels[wrong]
        found.append((index, labels))
    return found


def put_aside(data: Data, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the reviews put aside for validation and the pool to train on, as places in the training set.

    No text stands in two of validation, pool and test: what is put aside stands in the training set once.
    """
    texts = data.train["text"]
    times = Counter(texts)
    in_test = set(data.test["text"])
    candidates = [i for i, text in enumerate(texts) if text not in in_test]
    aside = np.random.default_rng(ORDER).permutation([i for i in candidates if times[texts[i]] == 1])[:number]
    return aside, np.setdiff1d(candidates, aside)


def labelled(table: object, *columns: str) -> object:
    """Return a table whose rows have a label each, or what else the columns are; ValueError names the column
    that is not there, or the row that has nothing in it."""
    for column in columns or ["label"]:
        refuse_if(
            column not in table.column_names,
            f"the data have no column {column!r}, only {', '.join(table.column_names)}: rename theirs",
        )
        empty = [i for i, one in enumerate(table[column]) if one in (None, "", -1) or one != one]  # or NaN
        refuse_if(
            empty,
            f"{len(empty)} of {len(table)} rows have no {column}, row {[*empty, None][0]} first: "
            "leave them out",
        )
    return table


def digest(files):
    """Return the SHA-256 of some files, one after the other: what a record says of local data."""
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def first_available(loaders, what, source=None):
    """Return the result of the first loader, in the order asked for, whose source is there."""
    asked = source or os.environ.get("RSF_SOURCE") or "auto"
    order = SOURCES if asked == "auto" else tuple(part.strip() for part in asked.split(","))
    for part in order:
        refuse_if(
            part not in SOURCES,
            f"unknown source {part!r} in RSF_SOURCE={asked!r}: use auto, or some of {', '.join(SOURCES)}",
        )
    reasons = []
    for part in order:
        try:
            return loaders[part](asked == "auto")
        except SourceUnavailable as reason:
            reasons.append(f"{part}: {reason}")
    raise SourceUnavailable(f"{what} is in none of the sources asked for ({asked}). " + "; ".join(reasons))


def copied(name: str, title: str, *parts: str) -> tuple[list, str]:
    """Return the tables of a local copy, one a part, and the words for where they are from."""
    folder = local_folder("RSF_DATA", name)
    files = [folder / f"{one}.parquet" for one in parts]
    for file in files:
        refuse_if(not file.is_file(), f"{folder} lacks {file.name}", SourceUnavailable)
    tables = [import_module("datasets").Dataset.from_parquet(str(file)) for file in files]
    return tables, f"local copy of {title}, SHA-256 {digest(files)[:16]}"


def pinned(impatient: bool, repository: str, revision: str, *configuration: str) -> tuple[dict, str]:
    """Return a data set of the Hub at a revision, by its parts, and the words for where it is from."""

    def load_it():
        return import_module("datasets").load_dataset(repository, *configuration, revision=revision)

    parts = from_hub(load_it, repository, revision, "dataset", impatient)
    return parts, f"hub, {repository} at {revision[:8]}"


def from_hub(load_it, repository, revision, kind, impatient):
    """Return load_it(); if impatient, only when the Hub answers within seconds; a cached copy serves too."""
    try:
        if impatient:
            HfApi().repo_info(repository, revision=revision, repo_type=kind, timeout=HUB_PATIENCE)
        return load_it()
    except (
        Exception
    ) as error:  # the Hub's clients raise many kinds: offline, DNS, time-out, HTTP, missing files
        reason = " ".join(str(error).splitlines()[:1])
        raise SourceUnavailable(f"the Hub gave no {repository} ({type(error).__name__}: {reason})") from error


def local_folder(variable, name):
    """Return the existing folder `name` inside the folder that an environment variable names."""
    said = os.environ.get(variable)
    folder = Path(said or "") / name
    refuse_if(
        not said or not folder.is_dir(),
        f"set {variable} to a folder that holds {name}/{f' ({folder} is not there)' if said else ''}",
        SourceUnavailable,
    )
    return folder
