"""What was sampled and what became of it, on disk: a killed run goes on, and memory holds one block.

A file of drafts is named by the SHA-256 of all that determines them: the sampler's key, the coins' seed,
prompts and sample numbers.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features

from rsf.acceptance import refuse_if
from rsf.accounts import write_json
from rsf.generation.arguments import COLUMNS, MESSAGES, Conversation


class Unfinished(RuntimeError):
    """A sampler could not draw all samples; `drafts` holds those that it drew, {place: {column: value}}."""

    def __init__(self, message: str, drafts: dict[int, dict]) -> None:
        super().__init__(message)
        self.drafts = drafts


def key_of(sample: Callable) -> str | None:
    """Return what a sampler depends on, its `key`; None if it does not say.

    >>> def sample(prompts, rngs):
    ...     return ["x"] * len(prompts)
    >>> sample.key = "always x"
    >>> key_of(sample), key_of(print)
    ('always x', None)
    """
    key = getattr(sample, "key", None)
    return key() if callable(key) else key


def drafted(
    sample: Callable,
    prompts: Sequence[str | Conversation],
    rows: Sequence[tuple[int, int]],
    seeds: np.random.SeedSequence,
    folder: str | Path | None,
    key: str | None,
) -> tuple[dict[str, list], np.ndarray]:
    """Return the columns that the sampler gives for prompts, and the first coin of each sample (n,).

    A row holds the numbers of a prompt and of its sample, which with the seeds make that sample's Generator.
    Columns that were drawn before are read from the folder.
    """
    rngs = [
        np.random.default_rng(np.random.SeedSequence(seeds.entropy, spawn_key=(*seeds.spawn_key, *row)))
        for row in rows
    ]
    coins = np.array([one.random() for one in rngs])
    source = [key, str(seeds.entropy), seeds.spawn_key, rows, prompts]
    file = folder and Path(folder) / f"{hashlib.sha256(json.dumps(source).encode()).hexdigest()[:32]}.json"
    if file and file.exists():
        return json.loads(file.read_text(encoding="utf-8")), coins
    part = file and file.with_suffix(".part.json")  # of a block that could not be finished
    had = json.loads(part.read_text(encoding="utf-8")) if part and part.exists() else {}
    found = {int(place): row for place, row in had.items()}
    waiting = [i for i in range(len(rows)) if i not in found]
    try:
        new = drawn(sample, [prompts[i] for i in waiting], [rngs[i] for i in waiting])
    except Unfinished as error:
        error.drafts = found | {waiting[i]: row for i, row in error.drafts.items()}
        if file:
            write_json(part, error.drafts, default=lambda number: number.item())
        raise
    found |= dict(zip(waiting, new, strict=True))
    drafts = {name: [found[i][name] for i in range(len(rows))] for name in found[0]}
    drafts = dict.fromkeys(("log_probability", "tokens", "ended"), [None] * len(prompts)) | drafts
    if file:
        write_json(file, drafts, default=lambda number: number.item())  # NumPy's numbers
        part.unlink(missing_ok=True)
    return drafts, coins


def drawn(
    sample: Callable, prompts: Sequence[str | Conversation], rngs: Sequence[np.random.Generator]
) -> list[dict]:
    """Return what a sampler gives, a row for each prompt; refuse what is not one text for each."""
    drafts = sample(prompts, rngs)
    drafts = drafts if isinstance(drafts, Mapping) else {"completion": drafts}
    drafts = {name: [values] if isinstance(values, str) else list(values) for name, values in drafts.items()}
    wrong = {name: len(values) for name, values in drafts.items() if len(values) != len(prompts)}
    refuse_if(
        wrong or not all(isinstance(text, str) for text in drafts.get("completion", [None])),
        f"the sampler must give one str for each of {len(prompts)} prompts, got {wrong or 'other types'}",
    )
    return [dict(zip(drafts, row, strict=True)) for row in zip(*drafts.values(), strict=True)]


class Table:
    """Rows in one Arrow stream, written block by block, in a file or in memory."""

    def __init__(self, features: Mapping, chats: bool, file: Path | None) -> None:
        said = {"completion": MESSAGES} if chats else {}
        self.schema = Features(dict(features) | COLUMNS | said).arrow_schema
        self.file = file
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
        self.sink = pa.OSFile(str(file.with_suffix(".part")), "wb") if file else pa.BufferOutputStream()
        self.stream = pa.ipc.new_stream(self.sink, self.schema)

    def write(self, rows: pa.Table, columns: Mapping[str, Sequence]) -> None:
        """Append rows of the prompts' own columns, with ours beside them."""
        ours = [pa.array(columns[name], self.schema.field(name).type) for name in COLUMNS]
        table = pa.Table.from_arrays([*rows.columns, *ours], self.schema.names)
        self.stream.write_table(table.combine_chunks().cast(self.schema))  # one batch on disk, not one a row

    def close(self, whole: bool = True) -> Dataset:
        """Return all that was written; only now the file takes its name.

        It takes another if it is not the whole, or if Windows refuses the name because somebody still reads
        an earlier table of that name (which is mapped into memory).
        """
        self.stream.close()
        if not self.file:
            return Dataset.from_buffer(self.sink.getvalue())
        self.sink.close()
        file = self.file if whole else self.file.with_stem(f"{self.file.stem}-so-far")
        part = self.file.with_suffix(".part")
        try:
            file = part.replace(file)
        except PermissionError:
            file = part.replace(file.with_stem(f"{file.stem}-{time.time_ns()}"))
        return Dataset.from_file(str(file))
