"""Tables as other tools leave them: read, or refused in a sentence that names the value, the row and what would do."""

import csv
import io
import json

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset, DatasetDict

from rsf.audit import audit, read

ROWS = [
    {
        "prompt": f"p{i // 4}",
        "completion": f"c{i % 2}",
        "reward": 1.0 - i % 2,
        "kept": i % 2 == 0,
        "log_acceptance": -1.0 if i % 2 else 0.0,
        "round": i // 12,
    }
    for i in range(24)
]
PAGE = str(audit(ROWS))
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
CHAT = [{"role": "assistant", "content": "4"}]


def but(number, **changes):
    """The rows with one changed; a name that is set to ... is taken out."""
    rows = [dict(row) for row in ROWS]
    rows[number] = {name: value for name, value in (rows[number] | changes).items() if value is not ...}
    return rows


@pytest.fixture
def file(tmp_path):
    """Write a text, or rows as JSON lines, into a file; return its path."""

    def write(content, name="table.jsonl", encoding="utf-8"):
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return tmp_path / name

    return write


def as_csv(rows, mark=",", names=None):
    stream = io.StringIO(newline="")
    table = csv.DictWriter(stream, names or list(rows[0]), delimiter=mark)
    table.writeheader()
    table.writerows(rows)
    return stream.getvalue()


def everywhere(rows, file):
    """The rows in memory and in a file."""
    return rows, read(file(rows))


def test_columns_are_those_of_all_rows_whichever_lacks_one(file):
    for lacking in ("reward", "log_acceptance", "completion", "round"):
        for number in (0, 5, 23):
            for table in everywhere(but(number, **{lacking: ...}), file):
                report = audit(table)
                decided = lacking in ("completion", "round")
                assert (report.skipped, report.kl is None) == (0 if decided else 1, False), (lacking, number)
    undecided = but(0, reward=None, kept=False, log_acceptance=...)
    for table in everywhere(undecided, file):
        assert audit(table).kl == pytest.approx(audit(but(0, reward=None)).kl) and audit(table).skipped == 1
    first = [{"prompt": "p0", "kept": False}, *ROWS]
    for table in everywhere(first, file):
        assert str(audit(table)) == PAGE.replace("0 without", "1 without")


def test_a_row_without_a_prompt_is_refused_with_its_number(file):
    for row in (but(5, prompt=...), but(5, prompt=None)):
        for table in everywhere(row, file):
            with pytest.raises(ValueError, match="row 5 has no prompt: give it one, or leave the row out"):
                audit(table)
    for missing in (np.nan, pandas.NA, ""):
        with pytest.raises(ValueError, match="row 5 has no prompt"):
            audit(but(5, prompt=missing))
    with pytest.raises(ValueError, match="row 5 has no prompt"):
        audit(read(file(as_csv(but(5, prompt=None)), "table.csv")))
    with pytest.raises(ValueError, match="row 5 has no prompt"):
        audit(pandas.DataFrame(but(5, prompt=None)))
    assert audit(but(5, prompt="None")).names[1] == "p1" and len(audit(but(5, prompt="None")).names) == 7
    assert audit([row | {"prompt": ""} for row in ROWS]).names == [""]  # samples without any prompt


def test_messages_are_texts_too(file):
    chats = [
        row | {"completion": [{"role": "assistant", "content": row["completion"]}], "prompt": [{"role": "user", "content": row["prompt"]}]}
        for row in ROWS
    ]  # fmt: skip
    for table in (*everywhere(chats, file), Dataset.from_list(chats), pandas.DataFrame(chats)):
        report = audit(table)
        assert str(report) == PAGE and len(report.names) == 6 and "p0" in report.names[0]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(chats), file("", "chats.parquet"))
    assert str(audit(read(file("", "x.json").parent / "chats.parquet"))) == PAGE
    assert audit(but(3, completion=None)).duplicates == audit(but(3, completion="None")).duplicates


@pytest.mark.parametrize("value", [[1.0, 0.5], {"accuracy": 1.0}, [1.0], {}, [], "good", "0,5"])
def test_a_reward_that_is_not_one_number_is_refused_with_its_row_and_a_remedy(value, file):
    tables = [
        *everywhere(but(7, reward=value), file),
        *everywhere([row | {"reward": value} for row in ROWS], file),
    ]
    for table, row in zip(tables, (7, 7, 0, 0), strict=True):
        with pytest.raises(ValueError) as found:
            audit(table)
        assert f"the column reward must hold numbers, one a row, got {value!r} in row {row}: take one" in str(
            found.value
        )


def test_rewards_of_several_functions_are_refused_from_memory_and_from_parquet(file):
    lists = [row | {"reward": [row["reward"], 1.0]} for row in ROWS]
    target = file("", "lists.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lists), target)
    for table in (Dataset.from_list(lists), Dataset.from_list(lists).with_format("numpy"), COLUMNS | {"reward": np.ones((24, 2))}, COLUMNS | {"reward": torch.ones(24, 2)}, read(target)):  # fmt: skip
        with pytest.raises(
            ValueError, match=r"reward must hold numbers, one a row, got .* in row 0: take one of several"
        ):
            audit(table)
    for name in ("log_acceptance", "log_probability", "round"):
        with pytest.raises(ValueError, match=f"the column {name} must hold numbers.* in row 2"):
            audit(but(2, **{name: [1]}))


def test_rounds_may_be_missing_in_places(file):
    some = [row | {"round": None if i < 4 else 1} for i, row in enumerate(ROWS)]
    for table in (*everywhere(some, file), pandas.DataFrame(some), Dataset.from_list(some)):
        assert audit(table).rounds == {1: (20, 0.5, 0.5)} and "round 1 " in str(audit(table))
    assert audit([row | {"round": None} for row in ROWS]).rounds == {}
    assert audit(read(file(as_csv(some), "t.csv"))).rounds == {1: (20, 0.5, 0.5)}
    assert audit(but(0, round=0.5)).rounds[0.5] == (1, 1.0, 1.0)  # nothing is rounded


FORMATS = ["torch", "numpy", "pandas", "arrow", None]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_dataset_of_any_format_is_read(kind):
    assert str(audit(Dataset.from_list(ROWS).with_format(kind))) == PAGE
    assert str(audit(Dataset.from_list(ROWS).with_format(kind).select(range(24)))) == PAGE


def test_tables_of_other_libraries_are_read():
    tables = [
        pandas.DataFrame(ROWS),
        pandas.DataFrame(ROWS).to_dict("list"),
        pandas.DataFrame(ROWS).to_dict(),
        pyarrow.Table.from_pylist(ROWS),
        tuple(ROWS),
        iter(ROWS),
        (row for row in ROWS),
        Dataset.from_list(ROWS).to_iterable_dataset(),
        COLUMNS | {"reward": torch.tensor(COLUMNS["reward"]), "kept": torch.tensor(COLUMNS["kept"])},
        COLUMNS
        | {"reward": np.array(COLUMNS["reward"], dtype=np.float16), "kept": np.array(COLUMNS["kept"]) * 1.0},
        [row | {"reward": torch.tensor(row["reward"]), "kept": np.bool_(row["kept"])} for row in ROWS],
    ]
    assert [str(audit(table)) for table in tables] == [PAGE] * len(tables)


def test_what_is_no_table_is_refused_in_a_sentence():
    for table, message in {
        "several data sets": (
            DatasetDict(train=Dataset.from_list(ROWS)),
            r"lacks the columns .* it has \['train'\]",
        ),
        "a row of text": ([*ROWS, "p9"], "row 24 must map names to values.*got 'p9'"),
        "a name of a file": ("judged.jsonl", "row 0 must map names to values.*got 'j'"),
        "nothing": ([], r"it has \[\]"),
    }.values():
        with pytest.raises(ValueError, match=message):
            audit(table)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_text_is_read_in_the_encoding_that_its_first_bytes_tell(kind, encoding, file):
    rows = [row | {"prompt": row["prompt"] + "é☃"} for row in ROWS]
    text = {"jsonl": "".join(map("{}\n".format, map(json.dumps, rows))), "json": json.dumps(rows, indent=1), "csv": as_csv(rows)}  # fmt: skip
    columns = read(file(text[kind], f"table.{kind}", encoding))
    assert str(audit(columns)) == PAGE and columns["prompt"][0] == "p0é☃"


def test_text_in_no_such_encoding_is_refused(file):
    for name in ("t.csv", "t.jsonl"):
        with pytest.raises(
            ValueError, match=rf"{name} cannot be read.*'utf-8' codec can't decode byte 0xe9.*as UTF-8"
        ):
            read(file(b'"\xe9"', name))


def in_json():
    """What other tools write as JSON: text by what it is."""
    frame, lines = pandas.DataFrame(ROWS), "".join(json.dumps(row) + "\n" for row in ROWS)
    return {
        "a row a line": lines,
        "with blank lines": "\n \n" + lines.replace("\n", "\r\n\n"),
        "a list": json.dumps(ROWS),
        "a list over many lines": json.dumps(ROWS, indent=2),
        "rows over many lines": "\n".join(json.dumps(row, indent=2) for row in ROWS),
        "rows under a name": json.dumps({"data": ROWS}),
        "rows under a name, beside others": json.dumps(
            {"version": "1.0", "rows": ROWS, "config": {"n": 4}}, indent=1
        ),
        "columns": json.dumps(COLUMNS),
        "columns over many lines": json.dumps(COLUMNS, indent=1),
        "columns among others": json.dumps(COLUMNS | {"id": list(range(24)), "note": "x"}),
        "pandas": frame.to_json(),
        "pandas, records": frame.to_json(orient="records"),
        "pandas, lines": frame.to_json(orient="records", lines=True),
        "pandas, list": json.dumps(frame.to_dict("list")),
        "pandas, table": frame.to_json(orient="table", index=False),
    }


@pytest.mark.parametrize("form", in_json())
@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_of_every_usual_form_is_read(form, kind, file):
    assert str(audit(read(file(in_json()[form], f"table.{kind}")))) == PAGE


def test_log_zero_is_read_from_every_json_of_pandas(file):
    rows = [row | {"log_acceptance": 0.0 if row["kept"] else -np.inf} for row in ROWS]
    frame, page = pandas.DataFrame(rows), str(audit(rows))
    for text in (frame.to_json(), frame.to_json(orient="records", lines=True), json.dumps(rows)):
        assert str(audit(read(file(text)))) == page != PAGE


def test_json_that_is_no_table_is_refused(file):
    for text, message in {
        '{"prompt": "x", "reward": 1, "kept": true}\n{"prompt": "x", reward\n': "line 2 is not JSON",
        '[\n{"prompt": 1},\n{"prompt": 2,}\n]': "line 3 is not JSON",
        json.dumps({"train": ROWS, "test": ROWS}): r"lacks the columns .* it has \['test', 'train'\]",
        json.dumps({"question": ["a"], "score": [1]}): r"it has \['question', 'score'\]",
        "5": "row 0 must map names to values.*got 5",
        json.dumps(ROWS[0]) + "\nnull\n" + json.dumps(ROWS[1]): "row 1 must map names to values.*got None",
        "[1, 2]": "row 0 must map names to values.*got 1",
        json.dumps(ROWS) + "\n" + json.dumps(ROWS[0]): "row 0 must map names to values",
        '{"prompt": "a", "reward": 0.1, "kept": true, "reward": 9}': "line 1 is not JSON.*'reward'.* stands twice",
        "": r"it has \[\]",
    }.items():
        with pytest.raises(ValueError, match=message):
            read(file(text, "table.json"))
    with pytest.raises(ValueError, match=r"one length, got {'prompt': 24, 'reward': 23"):
        audit(read(file(json.dumps(COLUMNS | {"reward": COLUMNS["reward"][1:]}))))


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "CSV"])
def test_csv_with_any_usual_mark_is_read(mark, kind, file):
    rows = [row | {"completion": f'{row["completion"]}, "so; to\tsay"|\nand more'} for row in ROWS]
    names = ["extra, or not", *reversed(ROWS[0])]
    text = as_csv([row | {"extra, or not": ""} for row in rows], mark, names)
    columns = read(file(text, f"table.{kind}"))
    assert str(audit(columns)) == PAGE and columns["completion"][1] == rows[1]["completion"]
    assert str(audit(read(file("\n\n" + text.replace("\r\n", "\n") + "\n\n", f"table.{kind}")))) == PAGE
    with pytest.raises(ValueError, match=r"it has \['answer', 'question', 'score'\]"):
        read(file(mark.join(("question", "answer", "score")) + "\n" + mark.join("abc"), f"t.{kind}"))


def test_a_cell_of_csv_may_be_long_and_other_readers_keep_their_limit(file):
    limit = csv.field_size_limit()
    rows = [row | {"completion": row["completion"] + "x" * 140_000} for row in ROWS]
    assert str(audit(read(file(as_csv(rows), "long.csv")))) == PAGE and csv.field_size_limit() == limit
    with pytest.raises(ValueError, match=r"bad.csv cannot be read"):
        read(file('prompt,reward,kept\na,1,"true\n', "bad.csv"))
    assert csv.field_size_limit() == limit


def test_csv_that_is_ragged_or_broken_is_refused(file):
    for text, message in {
        "prompt,reward,kept\na,b,1,true\n": r"row 0 must map names to values, with a cell of CSV for each name, got",
        "prompt,reward,kept,completion\na,1,true,x\nb,1,true\n": r"row 1 must map names to values, with a cell of CSV",
        'prompt,reward,kept\n"a"b,1,true\n': "cannot be read, ',' expected after",
        "prompt,reward,kept\n": "of 0 rows 0 have one",
        "prompt,reward\na,1\n": r"lacks the columns \['kept'\]; it has \['prompt', 'reward'\]",
    }.items():
        with pytest.raises(ValueError, match=message):
            audit(read(file(text, "table.csv")))


def test_two_columns_of_one_name_are_refused_unless_nobody_reads_them(file):
    target = file("", "twice.parquet")
    table = pyarrow.table([["a"], [0.1], [True], [9.0]], names=["prompt", "reward", "kept", "reward"])
    pyarrow.parquet.write_table(table, target)
    for twice in (target, file("prompt,reward,kept,reward\na,0.1,true,9\n", "t.csv")):
        with pytest.raises(ValueError, match="several columns are named 'reward': rename all but one"):
            read(twice)
    columns = read(file("prompt,x,score,kept,x\na,0,0.5,true,1\n", "t.csv"), {"reward": "score"})
    assert columns == {"prompt": ["a"], "reward": ["0.5"], "kept": ["true"]}


def test_columns_named_otherwise_are_listed_and_can_be_named(file):
    theirs = {"prompt": "question", "reward": "score", "kept": "chosen", "log_acceptance": "log_a"}
    rows = [{theirs.get(name, name): value for name, value in row.items()} for row in ROWS]
    parquet = file("", "theirs.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    listed = r"it has \['chosen', 'completion', 'log_a', 'question', 'round', 'score'\]: rename yours, or name them as in"
    for other in (file(rows), file(json.dumps(rows), "a.json"), file(as_csv(rows), "a.csv"), parquet):
        assert str(audit(read(other, theirs))) == PAGE
        with pytest.raises(ValueError, match=listed):
            read(other)
        with pytest.raises(ValueError, match=r"lacks the columns \['log_probability'\]; " + listed):
            read(other, theirs | {"log_probability": "log_q"})
    with pytest.raises(ValueError, match=listed):
        audit(rows)


def test_a_row_that_was_not_judged_may_lack_kept_as_well(file):
    page = str(audit([*ROWS[:3], *ROWS[4:]])).replace("0 without", "1 without")
    for missing in (None, np.nan, ...):
        for name in ("reward", "log_acceptance"):
            table = but(3, **{name: None, "kept": missing})
            for one in (table, pandas.DataFrame(table), pandas.DataFrame(table).convert_dtypes()):
                assert str(audit(one)) == page
    lines = read(file(but(3, reward=None, log_acceptance=None, kept=None)))
    assert str(audit(lines)) == page
    assert str(audit(read(file(as_csv(but(3, reward=None, kept=None)), "t.csv")))) == page
    for table in (*everywhere(but(3, kept=None), file), but(3, kept=...)):
        with pytest.raises(ValueError, match=r"kept must be true or false, got (None|nan) in row 3"):
            audit(table)
    for wrong in ("maybe", 2, [True]):
        with pytest.raises(ValueError, match=r"kept must be true or false, got .* in row 3"):
            audit(but(3, kept=wrong, reward=None))


def test_kept_is_read_from_every_usual_spelling(file):
    for true, false in (
        (1, 0),
        ("True", "False"),
        ("TRUE", "false"),
        (1.0, 0.0),
        (" true", "0"),
        (np.True_, np.False_),
    ):
        assert str(audit([row | {"kept": true if row["kept"] else false} for row in ROWS])) == PAGE


def test_files_of_other_kinds_are_refused_by_name(file):
    with pytest.raises(
        ValueError, match=r"cannot read notes\.txt: \.parquet, \.csv, \.tsv, \.json, \.jsonl, \.ndjson"
    ):
        read("notes.txt")
    with pytest.raises(FileNotFoundError):
        read("nowhere.jsonl")
    assert str(audit(read(file(ROWS, "table.ndjson")))) == str(audit(read(file(ROWS, "table.JSONL")))) == PAGE
