"""Tables of samples as any tool leaves them, in memory or in a file, under the names that an audit knows.

Whatever the form (columns, rows, Dataset, data frame; JSON, CSV, parquet), it becomes an array a column. What
cannot be read is refused with its row, counted from 0, or its line, counted from 1.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from rsf.acceptance import refuse_if

NEEDED = ("prompt", "reward", "kept")
TEXTS = ("prompt", "completion", "origin")
KNOWN = {name: name for name in (*NEEDED, *TEXTS, "log_probability", "log_acceptance", "round")}
OF_TRL = {"step", "prompt", "completion", "advantage"}  # and a number for each reward function
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
KINDS = (str, list, tuple, np.ndarray)  # a plain text, or a conversation
MISSING = ("", "none", "null", "nan", "nat", "<na>")


class _Table(dict):
    """Columns by an audit's names, with the `names` of all that there are, and what the `reward` sums."""


def read_columns(table: Any, spare: Iterable = ()) -> tuple[dict[str, np.ndarray], dict, str]:
    """Return the columns of a table in memory as arrays (n,), their texts by number, and what the reward is.

    table : mapping of columns, rows (mappings), Dataset of any format, data frame, or what `read` gives
    spare : names of columns that it need not have
    """
    table = table if isinstance(table, _Table) else _selected(table)
    _demand(NEEDED, table, spare)
    columns = dict(table)
    texts = {}
    for name in columns.keys() - {*TEXTS, "kept"}:
        columns[name] = _numbers(name, columns[name])
    if "kept" in columns:
        columns["kept"] = _truth(
            columns["kept"], np.isnan(columns["reward"]) | np.isnan(columns.get("log_acceptance", 0.0))
        )
    for name in columns.keys() & {*TEXTS}:
        columns[name], texts[name] = _codes(name, columns[name])
    return columns, texts, table.reward


def _selected(table: Any) -> _Table:
    """Return a table's known columns as lists."""
    table = table.with_format(None) if hasattr(table, "with_format") else table  # Dataset: no tensors
    names = getattr(table, "column_names", getattr(table, "columns", table))
    if not isinstance(names, Mapping) and (names is table or not hasattr(table, "__len__")):
        return _by_row(table, [])
    return _by_row(_rows(table, names), list(names))


def _rows(table: Any, names: Iterable, own: Mapping = KNOWN) -> Iterator:
    """Return the rows of a table of columns, of any kind; pandas writes one in JSON as {row: value}."""
    columns = {
        name: values.to_pylist() if hasattr(values, "to_pylist") else list(values)
        for name in _wanted(names, own)
        for values in [table[name].values() if isinstance(table[name], Mapping) else table[name][:]]
    }
    lengths = {name: len(column) for name, column in columns.items()}
    refuse_if(
        len(set(lengths.values())) > 1,
        f"the columns must have one length, got {lengths}",
    )
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _wanted(names: Iterable, own: Mapping) -> list:
    """Return those of a table's names that lead to what `own` names; of a log of TRL's, all."""
    parts = [part for name in own.values() for part in (name, *name.split("+"))]
    heads = dict.fromkeys(head for part in parts for head in accumulate(part.split("."), "{}.{}".format))
    return list(names) if {*names} >= OF_TRL else [head for head in heads if head in names]


def _by_row(rows: Iterable, names: list, own: Mapping = KNOWN) -> _Table:
    """Return the columns that a table, or any of its rows, has; own: {an audit's name: the table's}."""
    rows = iter(rows)
    asked = own["reward"]
    start = list(islice(rows, 1))
    first = start[0] if start and isinstance(start[0], Mapping) else {}
    if first.keys() >= OF_TRL and asked == "reward" not in first:
        scores = {name for name, value in first.items() if isinstance(value, float | None)} - {*own.values()}
        own = {**own, "reward": "+".join(sorted(scores - OF_TRL, key=[*first].index)), "round": "step"}
    columns = {part: [] for name in own.values() for part in (name, *name.split("+"))}
    dotted = [part for part in columns if "." in part]
    once = {}  # one object for equal texts
    twice = [part for part in columns if names.count(part) > 1]
    refuse_if(
        twice,
        f"several columns are named {', '.join(map(repr, twice))}: rename all but one",
    )
    every = {
        *names,
        *(f"{name}.{key}" for name, one in first.items() if isinstance(one, Mapping) for key in one),
    }
    for number, row in enumerate(chain(start, rows)):
        if not isinstance(row, Mapping) or None in row:  # None: a line of CSV with too many cells, or too few
            raise ValueError(
                f"row {number} must map names to values, with a cell of CSV for each name, got {row!r:.200}"
            )
        inner = {part: value for part in dotted if (value := _within(row, part)) is not np.nan}
        every.update(row, inner)
        for part, column in columns.items():
            value = row.get(part, inner.get(part, np.nan))
            column.append(once.setdefault(value, value) if isinstance(value, str) else value)
    table = _Table({name: columns[theirs] for name, theirs in own.items() if theirs in every})
    table.names = every
    table.reward = "" if asked in every else own["reward"].replace("+", " + ")
    for name, theirs in own.items():
        if name not in table and every.issuperset(theirs.split("+")):
            numbers = np.array([_numbers(part, columns[part]) for part in theirs.split("+")])
            table[name] = np.nansum(numbers, axis=0) + np.where(np.isnan(numbers).all(axis=0), np.nan, 0)
    return table


def _within(value: Any, name: str) -> Any:
    """Return what stands under a name: dots lead into mappings, and to places and slices of lists; else NaN.

    >>> _within({"score": {"rm-1.5": 2.0}}, "score.rm-1.5")
    2.0
    >>> _within({"messages": ["system", "user", "assistant"]}, "messages.:-1")
    ['system', 'user']
    """
    if isinstance(value, Mapping) and name in value:
        return value[name]
    if (
        isinstance(value, KINDS[1:])
        and name
        and all(end.removeprefix("-").isdigit() or not end for end in name.split(":"))
    ):
        ends = [int(end) if end else None for end in name.split(":")]
        if len(ends) > 1:
            return value[slice(*ends)]
        return next(iter(value[ends[0] :]), np.nan)
    heads = [*accumulate(name.split("."), "{}.{}".format)][:-1]
    inner = (_within(_within(value, head), name[len(head) + 1 :]) for head in heads)
    return next((one for one in inner if one is not np.nan), np.nan)


def _demand(needed: Iterable, table: _Table, spare: Iterable = (), own: Mapping = KNOWN) -> None:
    """Refuse a table that lacks one of the needed columns, unless it is spare."""
    missing = [name for name in dict.fromkeys(needed) if name not in table]
    refuse_if(
        set(missing) - set(spare),
        f"the table lacks the columns {missing}; it has {sorted(map(str, table.names))}: rename yours, or "
        "name them as in read(file, {'reward': 'score'})"
        + "".join(f"; nothing is called {own[name]}" for name in missing if own[name] != name)
        + "; where the tool wrote no kept, give the rule that decided" * ("kept" in missing),
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
                    f"one of several, or their sum, as in {name}=scores.one or {name}=one+other; a fraction "
                    "has a point"
                ) from error
    return numbers


def _truth(column: list, undecided: np.ndarray) -> np.ndarray:
    """Return bool (n,) from booleans, 0 and 1, or their texts; None where nothing was decided."""
    texts = [str(value.item() if hasattr(value, "item") else value).strip().lower() for value in column]
    for row, text in enumerate(texts):
        if text not in TRUTH and not (undecided[row] and text in MISSING):  # no message for each good row
            raise ValueError(f"kept must be true or false, got {column[row]!r:.60} in row {row}")
    return np.array([TRUTH.get(text, False) for text in texts], dtype=bool)


def _codes(name: str, column: list) -> tuple[np.ndarray, list[str]]:
    """Return a number for each text (n,), and the texts by number; messages are as Python writes them."""
    for row, value in enumerate(column if name == "prompt" else ()):
        bare = (value == "" and any(column)) if isinstance(value, str) else str(value).lower() in MISSING
        refuse_if(bare, f"row {row} has no prompt: give it one, or leave the row out")
    last = {isinstance(one, str): row for row, one in enumerate(column) if isinstance(one, KINDS)}
    refuse_if(
        len(last) > 1,
        f"the column {name} mixes plain texts, as in row {last.get(True)}, and conversations, as in row "
        f"{last.get(False)}: write all rows in one form, or audit the two apart",
    )
    numbers = {}
    codes = [numbers.setdefault(one if isinstance(one, str) else str(one), len(numbers)) for one in column]
    return np.array(codes, dtype=np.int64), list(numbers)


def read(file: str | Path, names: Mapping[str, str] | None = None) -> dict:
    """Return the columns of a file that `audit` knows; of a folder, those of its files, one after another.

    Parameters
    ----------
    file : str or Path
        JSON (a mapping a line, one table of rows or of columns, or a table of columns a line), CSV (cells
        parted by commas, semicolons, tabs or bars) or parquet (through pyarrow).
    names : {an audit's name: the file's}, optional
        "score.accuracy" leads into a mapping, "messages.:-1" and "messages.-1" into a list, "accuracy+format"
        is a sum. `reference` names the data set's answer: where the completion is that, word for word, the
        origin is "reference", elsewhere "sample".

    Raises
    ------
    ValueError
        The file or a row of it cannot be read, or it lacks a column.
    """
    path = Path(file)
    names = dict(names or {})
    unknown = sorted(names.keys() - {*KNOWN, "reference"})
    refuse_if(
        unknown,
        f"an audit knows no columns {unknown}, only {', '.join(KNOWN)}, reference",
    )
    if path.is_dir():
        files = sorted(path.iterdir(), key=lambda one: (len(one.name), one.name))
        tables = [read(one, names) for one in files if one.suffix.lower() in READERS]
        table = _by_row(
            chain.from_iterable(_rows(one, one) for one in tables),
            [*{name for one in tables for name in one.names}],
        )
        table.reward = "; ".join({one.reward: None for one in tables if one.reward})
        return table
    kind = path.suffix.lower()
    own = KNOWN | names
    refuse_if(kind not in READERS, f"cannot read {path.name}: {', '.join(READERS)} can be read")
    limit = csv.field_size_limit(2**31 - 1)  # a completion may be long
    try:
        with open(file, "rb") as stream:
            text = io.TextIOWrapper(stream, json.detect_encoding(stream.peek(4)[:4]), newline="")
            table = _by_row(*READERS[kind](text, own), own)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path.name} cannot be read, {error}: save it anew, as UTF-8") from error
    finally:
        csv.field_size_limit(limit)
    _demand([*NEEDED, *names, *["completion"] * ("reference" in names)], table, {"kept"} - names.keys(), own)
    if "json" in kind and "log_acceptance" in table:
        table["log_acceptance"] = [  # pandas, and so datasets, writes null for log 0
            -np.inf if log_a is None and reward is not None else log_a
            for log_a, reward in zip(table["log_acceptance"], table["reward"], strict=True)
        ]
    if "reference" in names:
        table["origin"] = [
            "reference" if completion == answer else "sample"
            for completion, answer in zip(table["completion"], table.pop("reference"), strict=True)
        ]
    return table


def _json(text: TextIO, own: Mapping) -> tuple[Iterable, list]:
    """Return the rows of JSON, and their names: rows or tables of columns one after another, or one table."""
    documents = _documents(text.read())
    table, more = next(documents, []), list(islice(documents, 1))
    rows = chain([table], more, documents) if more or not isinstance(table, list) else table
    if not more and isinstance(table, dict) and not _wanted(table, own):
        lists = [value for value in table.values() if isinstance(value, list)]
        rows = lists[0] if len(lists) == 1 else rows  # {"data": rows}
    tables = (_rows(one, one, own) if _of_columns(one, own) else [one] for one in rows)
    return (chain.from_iterable(tables), list(table)) if _of_columns(table, own) else (rows, [])


def _of_columns(document: Any, own: Mapping) -> bool:
    """Whether a JSON value is a table of columns: lists, or pandas' {row: value}, but no conversations."""
    known = [document[name] for name in _wanted(document, own)] if isinstance(document, dict) else []
    chats = [part for one in known if isinstance(one, list) for part in one[:1] if isinstance(part, dict)]
    return (
        bool(known)
        and all(isinstance(one, list | dict) for one in known)
        and not any("role" in one for one in chats)
    )


def _documents(text: str) -> Iterator:
    """Yield the JSON values that stand one after another in a text."""
    decoder = json.JSONDecoder(object_pairs_hook=_mapping)
    at = 0
    while (at := json.decoder.WHITESPACE.match(text, at).end()) < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            line = text.count("\n", 0, getattr(error, "pos", at)) + 1
            raise ValueError(f"line {line} is not JSON: {error}") from error
        yield value


def _mapping(pairs: list) -> dict:
    """Return a JSON object as a dict; a name that stands twice is an error."""
    row = dict(pairs)
    refuse_if(len(row) < len(pairs), f"one of the names {[*row]} stands twice")
    return row


def _csv(text: TextIO, own: Mapping) -> tuple[Iterable, list]:
    """Return the rows of CSV, and their names, which its first line gives."""
    head = next(filter(str.strip, text), "")
    cells = {mark: [cell.strip(' "\r\n') for cell in head.split(mark)] for mark in ",;\t|"}
    mark = max(cells, key=lambda mark: (len(_wanted(cells[mark], own)), len(cells[mark])))
    rows = csv.DictReader(chain([head], text), delimiter=mark, strict=True)
    rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
    return ({None: row} if None in row.values() else row for row in rows), rows.fieldnames


def _parquet(text: TextIO, own: Mapping) -> tuple[Iterable, list]:
    """Return the rows of parquet, and their names."""
    from pyarrow import parquet

    file = parquet.ParquetFile(text.buffer)
    names = file.schema_arrow.names
    blocks = file.iter_batches(columns=_wanted(names, own))
    return (row for block in blocks for row in block.to_pylist()), names


READERS = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".jsonl": _json,
    ".ndjson": _json,
}
