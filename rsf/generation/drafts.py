"""Rows in, rows out: what is given is looked at before anything is sampled; what was sampled goes to disk.

A killed run goes on from there, and memory holds one block.
A file of drafts is named by the SHA-256 of all that determines them: the sampler's key, the coins' seed,
prompts and sample numbers.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, LargeList, List, Value

from rsf.acceptance import refuse_if
from rsf.accounts import write_json

Conversation = list[dict[str, str]]  # messages, as TRL has them
MESSAGES = List({"role": Value("string"), "content": Value("string")})
COLUMNS = {  # what a sample has beside the columns of its prompt
    "completion": Value("string"),  # of a conversation MESSAGES
    "reward": Value("float64"),
    "kept": Value("bool"),
    "log_acceptance": Value("float64"),
    "log_probability": Value("float64"),
    "tokens": Value("int64"),
    "ended": Value("bool"),
    "round": Value("int64"),
}


def as_dataset(given: Iterable, name: str, columns: Sequence[str] = ("prompt",)) -> Dataset:
    """Return rows as a `datasets.Dataset` whose named columns hold a text, or a conversation, in each row.

    Parameters
    ----------
    given : Dataset, or any iterable of dicts, a row each
        Where a single column is asked for, also any iterable of str or of conversations: a list, a Series, a
        column of a Dataset. A conversation is a list of messages with role and content. Of a pandas frame
        or a dict of columns a Dataset is made by `Dataset.from_pandas`, `Dataset.from_dict`.
    name : str
        What to call it in an error.

    Raises
    ------
    ValueError
        It is something else, a row has no text, or a conversation that nobody has to answer.

    Examples
    --------
    >>> as_dataset(["1 + 1 =", "2 + 2 ="], "prompts").column_names
    ['prompt']
    >>> as_dataset([{"prompt": "1 + 1 =", "answer": 2}], "prompts")[0]
    {'prompt': '1 + 1 =', 'answer': 2}
    """
    table = given if isinstance(given, Dataset) else _from_rows(given, name, columns)
    refuse_if(
        table.format["type"] == "custom",
        f"{name} has texts that a transform makes when they are read: write them down with `map`",
    )
    kinds = {column: getattr(kind, "dtype", kind) for column, kind in table.features.items()}
    chats = [isinstance(kinds.get(column), (List, LargeList, list)) for column in columns]
    for column, chat in zip(columns, chats, strict=True):
        refuse_if(
            not chat and kinds.get(column) not in ("string", "large_string"),
            f"{name} needs a column {column!r} of texts or of conversations, got {kinds}",
        )
    refuse_if(
        any(chats) and not all(chats),
        f"{name} needs {' and '.join(columns)} both a text, or both a conversation",
    )
    for number, row in enumerate(rows_of(table.select_columns(list(columns)))):
        for column, value in row.items():
            wrong = _wrong(value, column == "prompt")
            refuse_if(wrong, f"{name} has {wrong} in row {number}: leave that row out, or mend it")
    return table


def rows_of(table: Dataset) -> Iterator[dict]:
    """Yield the rows as they are stored, read by the thousand, which is faster than one by one."""
    for part in table.with_format("arrow").iter(1000):
        yield from part.to_pylist()


def _wrong(value: str | list | None, asks: bool) -> str | None:
    """Return what is wrong with a prompt (which asks) or a completion (which answers), None if nothing."""
    if isinstance(value, str):
        return None
    if not value:
        return "no text"
    for key in ("content", "role"):
        if not all(isinstance(one, dict) and isinstance(one.get(key), str) for one in value):
            return f"a message whose {key} is no text ({value!r:.80})"
    last = value[-1]["role"]
    return f"a conversation that ends with the {last}" if asks == (last == "assistant") else None


def check_call(
    sample: Callable,
    prompts: Dataset,
    reward: object,
    rule: object,
    rng: object,
    samples_per_prompt: int,
    until_accepted: bool,
    max_samples: int | None,
    dedupe: object,
    cap: int | None,
    block: int = 1,
    to_train: bool = False,
) -> None:
    """Refuse arguments of `sample_and_judge` that do not fit together, before anything is sampled.

    A sampler may refuse prompts that leave no room to write, or (to_train) to train on what it wrote.
    """
    refuse_if(not callable(sample), f"sample must be a function of prompts and rngs, got {sample!r:.80}")
    taken = sorted(set(prompts.column_names) & set(COLUMNS))
    refuse_if(taken, f"the prompts' columns {taken} would be overwritten: rename or remove them")
    refuse_if(len(prompts) == 0, "need at least one prompt, got 0 prompts")
    refuse_if(
        not callable(reward),
        f"reward must be one function, got {reward!r:.80}: of several make one, as in docs/how-to.md",
    )
    refuse_if(not callable(dedupe or str), f"dedupe must be a function such as str, got {dedupe!r:.80}")
    refuse_if(not hasattr(rule, "log_probability"), f"rule must be a rule such as above(1), got {rule!r:.80}")
    refuse_if(
        not isinstance(rng, np.random.Generator),
        f"rng must be a Generator such as numpy.random.default_rng(0), got {rng!r:.80}",
    )
    numbers = [samples_per_prompt, max_samples or 1, 1 if cap is None else cap, block]
    refuse_if(
        not all(isinstance(number, Integral) and number >= 1 for number in numbers),
        "samples_per_prompt, max_samples, cap and block must be whole numbers of at least 1, got "
        f"{samples_per_prompt!r}, {max_samples!r}, {cap!r} and {block!r}",
    )
    group = rule.n if getattr(rule, "joint", False) else None
    refuse_if(
        group and (until_accepted or samples_per_prompt % group),
        f"{rule} chooses among {group} samples of a prompt: samples_per_prompt must be a multiple of it, got "
        f"{samples_per_prompt}, and until_accepted=False",
    )
    refuse_if(
        until_accepted != (max_samples is not None) or (until_accepted and max_samples < samples_per_prompt),
        "until_accepted, and nothing else, needs max_samples, the most to draw for one prompt "
        f"(at least {samples_per_prompt}); got {max_samples}",
    )
    if hasattr(sample, "check"):
        for part in prompts.with_format(None).iter(1000):
            sample.check(part["prompt"], to_train=to_train)


def _from_rows(given: Iterable, name: str, columns: Sequence[str]) -> Dataset:
    """Return texts, or dicts, as a Dataset; refuse what may look like a list of them and is none."""
    refuse_if(
        isinstance(given, (str, bytes, set, frozenset, Mapping, IterableDataset))
        or hasattr(given, "columns")
        or not isinstance(given, Iterable),
        f"{name} is a {type(given).__name__}: take a Dataset, or a list of texts or of rows (of several "
        "splits one, of a stream list(stream.take(1000)), of columns Dataset.from_dict or from_pandas)",
    )
    rows = list(given)
    forms = [_form(row, columns) for row in rows]
    place = next((i for i, form in enumerate(forms) if form is None or form != forms[0]), None)
    if place is not None:
        raise ValueError(
            f"{name}[{place}] is {rows[place]!r:.80}, where all must be texts, or all conversations, or all "
            "rows that have the one or the other"
        )
    if not rows:
        return Dataset.from_dict(
            {column: [] for column in columns}, Features(dict.fromkeys(columns, Value("string")))
        )
    if not isinstance(rows[0], Mapping):
        return Dataset.from_dict({columns[0]: rows})
    names = {column: None for row in rows for column in row}  # of all rows, not of the first
    return Dataset.from_dict({column: [row.get(column) for row in rows] for column in names})


def _form(row: object, columns: Sequence[str]) -> object:
    """Return what of a row is a conversation: which of a dict's columns, or all of it; None of no row."""
    if isinstance(row, Mapping):
        return [isinstance(row.get(column), list) for column in columns]
    return isinstance(row, list) if isinstance(row, (str, list)) and len(columns) == 1 else None


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
