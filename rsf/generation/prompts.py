"""What prompts and examples may be given as: whatever has rows, and never another text than it holds."""

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value

REFUSED = {
    (str, bytes, os.PathLike): "is one text: put it into a list",
    (set, frozenset): "has no order: make it a list",
    IterableDataset: "is a stream: take as many rows as you want, list(stream.take(1000))",
    (DatasetDict, IterableDatasetDict): "has several splits: take one of them",
}


def as_dataset(given: Iterable, name: str, columns: Sequence[str] = ("prompt",)) -> Dataset:
    """Return rows as a `datasets.Dataset` whose named columns hold a text in each row.

    Parameters
    ----------
    given : Dataset, or any iterable of dicts, a row each
        Where a single column is asked for, also any iterable of str: a list, a Series, a column of a
        Dataset. Of a pandas frame or a dict of columns a Dataset is made by `Dataset.from_pandas`,
        `Dataset.from_dict`.
    name : str
        What to call it in an error.

    Raises
    ------
    ValueError
        It is something else, or a row has no text.

    Examples
    --------
    >>> as_dataset(["1 + 1 =", "2 + 2 ="], "prompts").column_names
    ['prompt']
    >>> as_dataset([{"prompt": "1 + 1 =", "answer": 2}], "prompts")[0]
    {'prompt': '1 + 1 =', 'answer': 2}
    >>> as_dataset("1 + 1 =", "prompts")
    Traceback (most recent call last):
    ...
    ValueError: prompts is a str, which is one text: put it into a list
    """
    table = given if isinstance(given, Dataset) else _from_rows(given, name, columns)
    transform = table.format["type"] == "custom"
    refuse_if(
        transform, f"{name} has texts that a transform makes when they are read: write them down with `map`"
    )
    kinds = {column: getattr(kind, "dtype", kind) for column, kind in table.features.items()}
    for column in columns:
        refuse_if(
            kinds.get(column) not in ("string", "large_string"),
            f"{name} needs a column {column!r} of strings (a chat: apply the tokenizer's chat template "
            f"first), got {kinds}",
        )
        for start, part in enumerate(table.with_format(None).select_columns(column).iter(1000)):
            if None in part[column]:
                row = 1000 * start + part[column].index(None)
                raise ValueError(
                    f"{name} has no {column} in row {row}: leave that row out, or give it a text"
                )
    return table


def refuse_if(wrong: object, message: str, error: type[ValueError] = ValueError) -> None:
    """Raise a ValueError with this message if something is wrong.

    >>> refuse_if(1 > 2, "1 is larger than 2")
    """
    if wrong:
        raise error(message)


def _from_rows(given: Iterable, name: str, columns: Sequence[str]) -> Dataset:
    """Return texts, or dicts, as a Dataset."""
    for kinds, why in REFUSED.items():
        refuse_if(isinstance(given, kinds), f"{name} is a {type(given).__name__}, which {why}")
    refuse_if(
        hasattr(given, "keys") or hasattr(given, "columns") or not isinstance(given, Iterable),
        f"{name} is a {type(given).__name__}, which yields no rows: make it a Dataset (of columns: "
        "Dataset.from_dict, Dataset.from_pandas)",
    )
    rows = list(given)
    if not rows or (len(columns) == 1 and all(isinstance(row, str) for row in rows)):
        return Dataset.from_dict(
            dict.fromkeys(columns, rows), Features(dict.fromkeys(columns, Value("string")))
        )
    odd = [place for place, row in enumerate(rows) if not isinstance(row, Mapping)]
    if odd:
        raise ValueError(
            f"{name}[{odd[0]}] is {rows[odd[0]]!r:.80}, where all must be texts, or all dicts (a chat: apply "
            "the tokenizer's chat template first)"
        )
    names = dict.fromkeys(chain.from_iterable(rows))  # of all rows, not of the first
    return Dataset.from_dict({column: [row.get(column) for row in rows] for column in names})
