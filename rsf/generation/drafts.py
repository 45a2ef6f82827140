"""What was sampled and what became of it, on disk: an interrupted run goes on where it was, and memory holds one block.

A file of drafts is named by the SHA-256 of all that determines them: the sampler's key, the coins' seed, prompts and sample numbers.
"""

import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, Value

COLUMNS = {"completion": "string", "reward": "float64", "kept": "bool", "log_acceptance": "float64"}
COLUMNS |= {"log_probability": "float64", "tokens": "int64", "ended": "bool", "round": "int64"}


def key_of(sample):
    """Return what a sampler depends on, as a str; None if it does not say."""
    key = getattr(sample, "key", None)
    return key() if callable(key) else key


def drafted(sample, texts, rngs, folder, key):
    """Return the columns that the sampler gives for these prompts, from the folder if they were drawn before."""
    file = folder and Path(folder) / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
    if file and file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    drafts = sample(texts, rngs)
    drafts = {
        name: list(values)
        for name, values in (drafts if isinstance(drafts, dict) else {"completion": drafts}).items()
    }
    wrong = {name: len(values) for name, values in drafts.items() if len(values) != len(texts)}
    if wrong or not all(isinstance(text, str) for text in drafts.get("completion", [None])):
        raise ValueError(
            f"the sampler must give one str for each of {len(texts)} prompts, got {wrong or 'other types'}"
        )
    drafts = dict.fromkeys(("log_probability", "tokens", "ended"), [None] * len(texts)) | drafts
    if file:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(drafts, default=lambda number: number.item()), encoding="utf-8")
        os.replace(part, file)  # whole or not at all
    return drafts


class Table:
    """Rows in one Arrow stream, written block by block, in a file or in memory."""

    def __init__(self, features, folder, name):
        self.features = Features(dict(features) | {name: Value(kind) for name, kind in COLUMNS.items()})
        self.path = folder and Path(folder) / name
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
        self.sink = (
            pa.OSFile(str(self.path.with_suffix(".part")), "wb") if folder else pa.BufferOutputStream()
        )
        self.stream = pa.ipc.new_stream(self.sink, self.features.arrow_schema)

    def write(self, rows, columns):
        """Append rows, a pyarrow.Table of the prompts' own columns, with ours beside them."""
        schema = self.features.arrow_schema
        rows = rows.combine_chunks().cast(
            pa.schema(list(schema)[: rows.num_columns])
        )  # one batch on disk, not one a row
        ours = [pa.array(columns[name], schema.field(name).type) for name in COLUMNS]
        self.stream.write_table(pa.Table.from_arrays([*rows.columns, *ours], schema=schema))

    def close(self):
        self.stream.close()
        if not self.path:
            return Dataset.from_buffer(self.sink.getvalue())
        self.sink.close()
        os.replace(self.path.with_suffix(".part"), self.path)
        return Dataset.from_file(str(self.path))
