"""Tables of samples as any tool leaves them, in memory or in a file, under the names that an audit knows.

Whatever the form (columns, rows, Dataset, data frame; JSON, CSV, parquet), it becomes an array a column. What
cannot be read is refused with its row, counted from 0, or its line, counted from 1.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

NEEDED = ("prompt", "reward", "kept")
KNOWN = (*NEEDED, "completion", "log_probability", "log_acceptance", "round")
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
MISSING = ("", "none", "null", "nan", "nat", "<na>")
BLANK = re.compile(r"\s*")
BYTE_ORDERS = {b"\xff\xfe\0\0": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"": "utf-8-sig"}


def read_columns(table: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the columns of a table in memory as arrays (n,), texts as numbers, and the prompts by number.

    table : mapping of columns, rows (mappings), Dataset of any format, data frame, or what `read` gives
    """
    columns, names = _selected(table, dict(zip(KNOWN, KNOWN, strict=True)))
    _demand(NEEDED, columns, names)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns must have one length, got {lengths}")
    for name in columns.keys() - {"prompt", "completion", "kept"}:
        columns[name] = _numbers(name, columns[name])
    columns["kept"] = _truth(
        columns["kept"], np.isnan(columns["reward"]) | np.isnan(columns.get("log_acceptance", 0.0))
    )
    columns["prompt"], prompts = _codes("prompt", columns["prompt"])
    if "completion" in columns:
        columns["completion"], _ = _codes("completion", columns["completion"])
    return columns, prompts


def _selected(table: Any, own: Mapping) -> tuple[dict, Iterable]:
    """Return a table's known columns as lists, and the names of all; own: {an audit's name: the table's}."""
    table = table.with_format(None) if hasattr(table, "with_format") else table  # Dataset: no tensors
    names = getattr(table, "column_names", getattr(table, "columns", table))
    if not isinstance(names, Mapping) and (names is table or not hasattr(table, "__len__")):
        return _by_row(table, own)
    return {name: _listed(table[theirs]) for name, theirs in own.items() if theirs in names}, names


def _listed(column: Any) -> list:
    """Return a column of any kind as a list; of {row: value}, as pandas writes JSON, the values."""
    values = column.values() if isinstance(column, Mapping) else column[:]
    return values.to_pylist() if hasattr(values, "to_pylist") else list(values)


def _by_row(rows: Iterable, own: Mapping, names: Sequence = ()) -> tuple[dict, Iterable]:
    """Return the known columns that a table, or any of its rows, names, and the names of all."""
    if twice := [name for name in own.values() if names.count(name) > 1]:
        raise ValueError(f"several columns are named {twice[0]!r}: rename all but one")
    columns, once = {name: [] for name in own}, {}  # once: one object for equal texts
    every = set(names)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or None in row:  # None: a line of CSV with too many cells, or too few
            raise ValueError(
                f"row {number} must map names to values, with a cell of CSV for each name, got {row!r:.200}"
            )
        every |= row.keys()
        for name, theirs in own.items():
            value = row.get(theirs, np.nan)
            columns[name].append(once.setdefault(value, value) if isinstance(value, str) else value)
    return {name: column for name, column in columns.items() if own[name] in every}, every


def _demand(needed: Iterable, columns: Mapping, names: Iterable) -> None:
    """Raise if one of the needed columns is missing; names: of all that the table has."""
    if missing := [name for name in needed if name not in columns]:
        raise ValueError(
            f"the table lacks the columns {missing}; it has {sorted(map(str, names))}: rename yours, or name "
            "them as in read(file, {'reward': 'score'})"
        )


def _numbers(name: str, column: list) -> np.ndarray:
    """Return float64 (n,), NaN where a value is missing."""
    numbers = np.full(len(column), np.nan)
    for row, value in enumerate(column):
        try:
            numbers[row] = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            if str(value).strip().lower() not in MISSING:
                raise ValueError(
                    f"the column {name} must hold numbers, one a row, got {value!r:.60} in row {row}: take "
                    "one of several, or their sum; a fraction has a point"
                ) from error
    return numbers


def _truth(column: list, undecided: np.ndarray) -> np.ndarray:
    """Return bool (n,) from booleans, 0 and 1, or their texts; None where nothing was decided."""
    texts = [str(value.item() if hasattr(value, "item") else value).strip().lower() for value in column]
    for row, text in enumerate(texts):
        if text not in TRUTH and not (undecided[row] and text in MISSING):
            raise ValueError(f"kept must be true or false, got {column[row]!r:.60} in row {row}")
    return np.array([TRUTH.get(text, False) for text in texts], dtype=bool)


def _codes(name: str, column: list) -> tuple[np.ndarray, list[str]]:
    """Return a number for each text (n,), and the texts by number; messages are as Python writes them."""
    for row, value in enumerate(column if name == "prompt" else ()):
        if (value == "" and any(column)) if isinstance(value, str) else str(value).lower() in MISSING:
            raise ValueError(f"row {row} has no prompt: give it one, or leave the row out")
    numbers = {}
    texts = (value if isinstance(value, str) else str(value) for value in column)
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64), list(numbers)


def read(file: str | Path, names: Mapping[str, str] | None = None) -> dict:
    """Return the columns of a file that `audit` knows.

    Parameters
    ----------
    file : str or Path
        JSON (a mapping a line, or one table of rows or of columns), CSV (cells parted by commas, semicolons,
        tabs or bars) or parquet (through pyarrow).
    names : {an audit's name: the file's}, optional

    Raises
    ------
    ValueError
        The file or a row of it cannot be read, or it lacks a column.
    """
    readers = {"parquet": _parquet, "csv": _csv, "tsv": _csv, "json": _json, "jsonl": _json, "ndjson": _json}
    kind = Path(file).suffix.lower().lstrip(".")
    if kind not in readers:
        raise ValueError(f"cannot read {Path(file).name}: .{', .'.join(readers)} can be read")
    if unknown := set(names or {}) - set(KNOWN):
        raise ValueError(f"an audit knows no columns {sorted(unknown)}, only {', '.join(KNOWN)}")
    limit = csv.field_size_limit(2**31 - 1)  # a completion may be long
    try:
        with open(file, "rb") as stream:
            encoding = next(name for mark, name in BYTE_ORDERS.items() if stream.peek(4).startswith(mark))
            text = io.TextIOWrapper(stream, encoding, newline="")
            columns, theirs = readers[kind](text, {name: (names or {}).get(name, name) for name in KNOWN})
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{Path(file).name} cannot be read, {error}: save it anew, as UTF-8") from error
    finally:
        csv.field_size_limit(limit)
    _demand([*NEEDED, *(names or ())], columns, theirs)
    return columns


def _json(text: TextIO, own: Mapping) -> tuple[dict, Iterable]:
    """Return the columns of JSON, and the names of all: rows one after another, or one table."""
    documents = _documents(text.read())
    table, more = next(documents, []), list(islice(documents, 1))
    rows = chain([table], more, documents) if more or not isinstance(table, list) else table
    if not more and isinstance(table, dict):
        known = [table[name] for name in own.values() if name in table]
        lists = [value for value in table.values() if isinstance(value, list)]
        if known and all(isinstance(column, list | dict) for column in known):
            rows = table  # of columns
        elif not known and len(lists) == 1:
            rows = lists[0]  # {"data": rows}
    columns, names = _selected(rows, own)
    if "log_acceptance" in columns and len(columns["log_acceptance"]) == len(columns.get("reward", ())):
        columns["log_acceptance"] = [  # pandas, and so datasets, writes null for log 0
            -np.inf if log_a is None and reward is not None else log_a
            for log_a, reward in zip(columns["log_acceptance"], columns["reward"], strict=True)
        ]
    return columns, names


def _documents(text: str) -> Iterator:
    """Yield the JSON values that stand one after another in a text."""
    decoder = json.JSONDecoder(object_pairs_hook=_mapping)
    at = 0
    while (at := BLANK.match(text, at).end()) < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            line = text.count("\n", 0, getattr(error, "pos", at)) + 1
            raise ValueError(f"line {line} is not JSON: {error}") from error
        yield value


def _mapping(pairs: list) -> dict:
    """Return a JSON object as a dict; a name that stands twice is an error."""
    if len(row := dict(pairs)) < len(pairs):
        raise ValueError(f"one of the names {[name for name, _ in pairs]} stands twice")
    return row


def _csv(text: TextIO, own: Mapping) -> tuple[dict, Iterable]:
    """Return the columns of CSV, and the names of all, which its first line gives."""
    head = next(filter(str.strip, text), "")
    cells = {mark: [cell.strip(' "\r\n') for cell in head.split(mark)] for mark in ",;\t|"}
    mark = max(cells, key=lambda mark: (len({*own.values()} & {*cells[mark]}), len(cells[mark])))
    rows = csv.DictReader(chain([head], text), delimiter=mark, strict=True)
    rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
    return _by_row(({None: row} if None in row.values() else row for row in rows), own, rows.fieldnames)


def _parquet(text: TextIO, own: Mapping) -> tuple[dict, Iterable]:
    """Return the columns of parquet, and the names of all."""
    from pyarrow import parquet

    file = parquet.ParquetFile(text.buffer)
    names = file.schema_arrow.names
    batches = file.iter_batches(columns=[name for name in names if name in own.values()])
    return _by_row((row for batch in batches for row in batch.to_pylist()), own, names)
