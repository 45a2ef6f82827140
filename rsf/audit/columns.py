"""Tables of samples as any tool leaves them: columns from memory, JSON, CSV or parquet, under the names that `rsf.audit` knows."""

import csv
import json
from itertools import chain
from pathlib import Path

import numpy as np

NEEDED, OPTIONAL = ("prompt", "reward", "kept"), ("completion", "log_probability", "log_acceptance", "round")
TEXTS, TRUTH = (
    ("prompt", "completion"),
    {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False},
)


def read_columns(table):
    """Return the columns of a mapping, a list of dicts or a Dataset that an audit knows: lists of texts, arrays of numbers."""
    if isinstance(table, list):
        table = {name: [row.get(name) for row in table] for name in table[0]} if table else {}
    there = getattr(table, "column_names", None) or list(table)
    if missing := [name for name in NEEDED if name not in there]:
        raise ValueError(
            f"the table lacks the columns {missing}; it has {sorted(there)}: name them, or rename yours"
        )
    columns = {name: table[name] for name in (*NEEDED, *OPTIONAL) if name in there}
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError(
            f"the columns must have one length, got { {name: len(column) for name, column in columns.items()} }"
        )
    return {
        name: column if name in TEXTS else _truth(column) if name == "kept" else _numbers(name, column)
        for name, column in columns.items()
    }


def _numbers(name, column):
    """Return float64 (n,), NaN for None and empty text."""
    try:
        return np.array(
            [np.nan if value is None or value == "" else value for value in column], dtype=np.float64
        )
    except ValueError as error:
        raise ValueError(f"the column {name} must hold numbers: {error}") from error


def _truth(column):
    """Return bool (n,) from booleans, 0 and 1, or their texts."""
    read = {value: TRUTH.get(str(value).lower()) for value in set(column)}
    if None in read.values():
        raise ValueError(
            f"kept must be true or false, got {next(value for value, meaning in read.items() if meaning is None)!r}"
        )
    return np.array([read[value] for value in column], dtype=bool)


def read(file, names=None):
    """Return the columns of a file that `audit` knows: JSON (lines, or one list), CSV or parquet (through pyarrow); names: {ours: the file's}."""
    if unknown := set(names or {}) - {*NEEDED, *OPTIONAL}:
        raise ValueError(
            f"an audit knows no columns {sorted(unknown)}, only {', '.join((*NEEDED, *OPTIONAL))}"
        )
    theirs, once = {name: (names or {}).get(name, name) for name in (*NEEDED, *OPTIONAL)}, {}
    kind = Path(file).suffix
    if kind == ".parquet":
        from pyarrow import parquet

        there = parquet.read_schema(file).names
        return {
            name: _column(parquet.read_table(file, columns=[own])[own])
            for name, own in theirs.items()
            if own in there
        }
    if kind not in (".jsonl", ".json", ".csv"):
        raise ValueError(
            f"cannot read {Path(file).name}: JSON (.jsonl, .json), .csv and .parquet can be read"
        )
    with open(file, encoding="utf-8-sig", newline="") as lines:
        rows = filter(None, csv.reader(lines)) if kind == ".csv" else _json_rows(lines)
        there = next(rows, [])
        found = {
            name: own if kind != ".csv" else there.index(own) for name, own in theirs.items() if own in there
        }
        columns = {name: [] for name in found}
        pairs = [(columns[name], own) for name, own in found.items()]
        for row in rows if kind == ".csv" else chain([there], rows):
            for column, own in pairs:
                value = row[own] if kind == ".csv" else row.get(own)
                column.append(
                    once.setdefault(value, value) if isinstance(value, str) else value
                )  # one object for equal texts
    if (
        kind != ".csv" and "log_acceptance" in columns and "reward" in columns
    ):  # pandas, and so datasets, write null for log 0
        both = zip(columns["log_acceptance"], columns["reward"], strict=True)
        columns["log_acceptance"] = [
            -np.inf if log_a is None and reward is not None else log_a for log_a, reward in both
        ]
    return columns


def _json_rows(lines):
    number = 1
    try:
        for number, line in enumerate(lines, 1):  # noqa: B007
            if line.lstrip().startswith("["):  # a list, over as many lines as it likes
                yield from json.loads(line + lines.read())
            elif line.strip():
                yield json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} is not JSON: {error}") from error


def _column(column):
    """Return a column of a pyarrow.Table as a list, with one object for equal texts."""
    if not str(column.type).endswith("string"):
        return column.to_pylist()
    texts = column.dictionary_encode().unify_dictionaries().combine_chunks()
    values = texts.dictionary.to_pylist()
    return [None if i is None else values[i] for i in texts.indices.to_pylist()]
