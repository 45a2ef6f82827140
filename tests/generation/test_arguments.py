"""What prompts and examples may be given as: taken as the texts that they hold, or refused by name before anything is sampled."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, IterableDataset, LargeList, List, Value

from rsf.generation import sample_and_judge
from rsf.generation.drafts import as_dataset
from rsf.rules import above

TEXTS = ["a?", "b?", "c?"]
TABLE = Dataset.from_dict({"prompt": TEXTS, "answer": [1, 2, 3]})
FRAME = pd.DataFrame({"prompt": TEXTS, "answer": [1, 2, 3]})
CHAT = [{"role": "user", "content": "a?"}]


def one_each(prompts, seen=None):
    """The prompts as they are judged, one sample each; `seen`: what the sampler was asked."""

    def sample(texts, rngs):
        if seen is not None:
            seen.extend(texts)
        return ["x"] * len(texts)

    def reward(prompts, completions, **_):
        return [1.0] * len(prompts)

    options = {"samples_per_prompt": 1}
    return sample_and_judge(sample, prompts, reward, above(1), np.random.default_rng(0), **options)[0]


class MapStyle:
    """A data set of PyTorch that knows its rows by number, and can be gone through."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return TABLE[i]

    def __iter__(self):
        return (self[i] for i in range(len(self)))


TAKEN = {
    "a list": TEXTS,
    "a tuple": tuple(TEXTS),
    "texts of several types": [TEXTS[0], *map(np.str_, TEXTS[1:])],
    "an array": np.array(TEXTS),
    "an array of objects": np.array(TEXTS, dtype=object),
    "a Series": FRAME["prompt"],
    "an Index": pd.Index(TEXTS),
    "a generator": (text for text in TEXTS),
    "a map": map(str, TEXTS),
    "keys": dict.fromkeys(TEXTS).keys(),
    "a Dataset": TABLE,
    "a part of a Dataset": Dataset.from_dict({"prompt": ["z?", *TEXTS]}).select([1, 2, 3]),
    "a Dataset in the format of NumPy": TABLE.with_format("numpy"),
    "a Dataset in the format of pandas": TABLE.with_format("pandas"),
    "large strings": Dataset(pa.table({"prompt": pa.array(TEXTS, pa.large_string())})),
    "a column": TABLE["prompt"],
    "a column in the format of PyTorch": TABLE.with_format("torch")["prompt"],
    "a column of texts inside of others": Dataset.from_dict({"x": [{"prompt": text} for text in TEXTS]})["x"][
        "prompt"
    ],
    "a column that a transform makes": TABLE.with_transform(lambda rows: {"prompt": rows["prompt"]})[
        "prompt"
    ],
    "the column of a stream": TABLE.to_iterable_dataset()["prompt"],
    "rows": list(TABLE),
    "rows, one by one": iter(TABLE),
    "records": FRAME.to_dict("records"),
    "map style": MapStyle(),
    "the rows of a list in a table": TABLE.data.to_pylist(),
}


@pytest.mark.parametrize("prompts", TAKEN.values(), ids=TAKEN)
def test_prompts_are_taken_as_the_texts_that_they_are(prompts):
    seen = []
    kept = one_each(prompts, seen)
    assert kept["prompt"][:] == seen == TEXTS
    if "answer" in kept.column_names:
        assert kept["answer"][:] == [1, 2, 3]


REFUSED = {
    "a text": ("What is 1 + 1?", "prompts is a str: take a Dataset, or a list of texts"),
    "bytes": (b"a?", "prompts is a bytes"),
    "a path": (Path("prompts.txt"), "Path: take a Dataset"),
    "a set": ({"a?", "b?"}, "prompts is a set"),
    "splits": (DatasetDict(train=TABLE, test=TABLE), "DatasetDict: take .*of several splits one"),
    "one split": (DatasetDict(train=TABLE), "of several splits one"),
    "a dict of splits": ({"train": TABLE}, "prompts is a dict: take a Dataset"),
    "columns": ({"prompt": TEXTS, "answer": [1, 2, 3]}, "Dataset.from_dict"),
    "a row": (TABLE[0], "prompts is a dict"),
    "what pandas makes of a frame": (FRAME.to_dict(), "prompts is a dict"),
    "a frame": (FRAME, "DataFrame: take .*from_pandas"),
    "a table of Arrow": (TABLE.data.table, "prompts is a Table"),
    "a stream": (TABLE.to_iterable_dataset(), "IterableDataset: take .*take\\(1000\\)"),
    "a number": (3, "prompts is a int"),
    "nothing": (None, "prompts is a NoneType"),
    "a chat": (CHAT, r"column 'prompt' of texts or of conversations.*'role': 'string'"),
    "texts and chats": (["a?", CHAT], r"prompts\[1\] is \[{'role': 'user'.*all must be texts, or all conv"),
    "rows of both": ([{"prompt": CHAT}, {"prompt": "a?"}], r"prompts\[1\] is {'prompt': 'a\?'"),
    "an answered chat": ([CHAT, [*CHAT, {"role": "assistant", "content": "b"}]], "ends with the assistant in row 1"),
    "an empty chat": ([CHAT, []], "no text in row 1"),
    "a message in parts": ([[{"role": "user", "content": [{"type": "text"}]}]], "content is no text.*in row 0"),
    "a message of nobody": ([CHAT, [{"content": "a?"}]], "role is no text.*in row 1"),
    "a call of a tool": ([[{"role": "assistant", "content": None, "tool_calls": []}, *CHAT]], "content is no text"),
    "a message without": (Dataset.from_dict({"prompt": [[{"role": "user"}]]}), "content is no text.*in row 0"),
    "messages": ([{"messages": CHAT}], "column 'prompt'"),
    "numbers": ([1, 2], r"prompts\[0\] is 1, where all must be texts, or all conv"),
    "an array of numbers": (np.arange(3), r"prompts\[0\]"),
    "a missing text": (["a?", None], r"prompts\[1\] is None"),
    "a text that is NaN": (pd.Series(["a?", float("nan")], dtype=object), r"prompts\[1\] is nan"),
    "bytes among texts": ([b"a?"], r"prompts\[0\] is b'a\?'"),
    "token ids": ([[1, 2], [3]], r"content is no text \(\[1, 2\]\) in row 0"),
    "scalars of Arrow": (pa.array(TEXTS), r"prompts\[0\]"),
    "texts of two axes": (np.array([TEXTS, TEXTS]), r"prompts\[0\]"),
    "texts and rows": (["a?", {"prompt": "b?"}], r"prompts\[1\] is {'prompt': 'b\?'}"),
    "rows without it": ([{"question": "a?"}], "needs a column 'prompt' of texts.*question"),
    "a later row without it": ([*TABLE, {"answer": 4}], "prompts has no text in row 3"),
    "None in a Dataset": (Dataset.from_dict({"prompt": ["a?"] * 1500 + [None]}), "no text in row 1500"),
    "numbers in a Dataset": (Dataset.from_dict({"prompt": [1, 2]}), "'prompt': 'int64'"),
    "another column": (TABLE.rename_column("prompt", "question"), "'question': 'string'"),
    "a transform": (TABLE.with_transform(lambda rows: {"prompt": ["Q: " + p for p in rows["prompt"]]}), "`map`"),
    "no prompts": ([], "0 prompts"),
    "no rows": (TABLE.select([]), "0 prompts"),
    "taken column": (Dataset.from_dict({"prompt": ["x"], "reward": [1.0]}), r"\['reward'\]"),
}  # fmt: skip


@pytest.mark.parametrize("prompts, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_list_of_texts_is_refused_before_anything_is_sampled(prompts, message):
    seen = []
    with pytest.raises(ValueError, match=message):
        one_each(prompts, seen)
    assert seen == []


def test_columns_that_only_later_rows_have_are_there():
    table = as_dataset([{"prompt": "a?"}, {"prompt": "b?", "answer": 2}], "prompts")
    assert table["answer"][:] == [None, 2] and table.features["answer"] == Value("int64")


def test_a_frame_and_columns_are_taken_the_way_that_the_error_names():
    for prompts in (Dataset.from_pandas(FRAME.iloc[1:], preserve_index=False), Dataset.from_dict(FRAME.to_dict("list")).select([1, 2])):  # fmt: skip
        assert one_each(prompts)["prompt"][:] == TEXTS[1:]
    assert one_each(list(TABLE.to_iterable_dataset().take(2)))["prompt"][:] == TEXTS[:2]


def test_a_stream_without_an_end_is_not_gone_through():
    def endless():
        while True:
            yield {"prompt": "a?"}

    with pytest.raises(ValueError, match="IterableDataset"):
        one_each(IterableDataset.from_generator(endless))


def test_examples_need_both_columns():
    both = ("prompt", "completion")
    assert as_dataset([{"prompt": "a?", "completion": "1"}], "supervised", both).num_rows == 1
    assert as_dataset([], "supervised", both).column_names == list(both)
    for rows, message in (
        (TABLE, "supervised needs a column 'completion' of texts"),
        (["a? 1"], r"supervised\[0\] is 'a\? 1'"),
        ([{"prompt": "a?", "completion": "1"}, {"prompt": "b?"}], "no text in row 1"),
        (
            [{"prompt": CHAT, "completion": CHAT}],
            "supervised has a conversation that ends with the user in row 0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            as_dataset(rows, "supervised", both)


CALLS = {
    "rewards in a list": ({"reward": [len, len]}, "reward must be one function"),
    "the name of a reward model": ({"reward": "some/model"}, "reward must be one function, got 'some/model'"),
    "a family for a rule": ({"rule": above}, "rule must be a rule such as above"),
    "a function for a rule": ({"rule": lambda r: r > 1}, "rule must be a rule"),
    "a seed": ({"rng": 0}, "rng must be a Generator .* got 0"),
    "the old generator": ({"rng": np.random.RandomState(0)}, "rng must be a Generator"),
    "true for dedupe": ({"dedupe": True}, "dedupe must be a function such as str, got True"),
    "half a sample": (
        {"samples_per_prompt": 1.5},
        r"samples_per_prompt, .* must be whole numbers .* got 1.5",
    ),
    "a number in words": ({"samples_per_prompt": "4"}, "got '4'"),
    "no sample": ({"samples_per_prompt": 0}, "got 0"),
    "no cap": ({"cap": 0}, "got 1, None, 0"),
    "an empty block": ({"block": 0}, "and 0"),
    "no sampler": ({"sample": None}, "sample must be a function"),
}


@pytest.mark.parametrize("options, message", CALLS.values(), ids=CALLS)
def test_arguments_that_would_fail_late_are_refused_first(options, message):
    seen = []
    given = {
        "sample": lambda texts, rngs: seen.extend(texts) or ["x"] * len(texts),
        "prompts": TEXTS,
        "reward": lambda prompts, completions: [1.0] * len(prompts),
        "rule": above(1),
        "rng": np.random.default_rng(0),
        "samples_per_prompt": 1,
    }
    with pytest.raises(ValueError, match=message):
        sample_and_judge(**given | options)
    assert seen == []


def test_a_sampler_may_refuse_prompts_before_it_samples_from_any():
    class Short:
        def check(self, prompts, to_train):
            if "too long" in prompts:
                raise ValueError("too long")

        def __call__(self, prompts, rngs):
            raise AssertionError("it was asked to sample")

    with pytest.raises(ValueError, match="too long"):
        sample_and_judge(Short(), ["a?"] * 3000 + ["too long"], SimpleNamespace, above(1), np.random.default_rng(0), samples_per_prompt=1)  # fmt: skip


@pytest.mark.parametrize(
    "kind", [List, LargeList, lambda message: [message]], ids=["List", "LargeList", "a list"]
)
def test_conversations_come_in_lists_of_any_kind(kind):
    features = Features(prompt=kind({"role": Value("string"), "content": Value("string")}))
    table = Dataset.from_dict({"prompt": [CHAT, CHAT]}, features)
    assert one_each(table)["prompt"][:] == [CHAT, CHAT]
