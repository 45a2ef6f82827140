"""Logs of other tools: each small file in data/ is written by hand as the tool's public code writes it."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from datasets import Dataset

import rsf.audit
from rsf.__main__ import main
from rsf.audit import audit, read
from rsf.rules import Rule, above, at_rate, best_of, constant, percentile, random_like, tilted

DATA = Path(__file__).parent / "data"
STEPS = re.findall(r"    python -m (rsf audit .*(?:\n        .*)*)", rsf.audit.__doc__)
LINES = {words[2].split("/")[-1]: words for words in map(shlex.split, STEPS)}


def of_trl(step=10, chats=False, **columns):
    """The table that TRL's GRPOTrainer logs at one step: two prompts, four samples each."""
    prompts = [f"What is {i} + {step}?" for i in (1, 1, 1, 1, 2, 2, 2, 2)]
    completions = [f"answer {i}" for i in range(8)]
    if chats:
        prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
        completions = [[{"role": "assistant", "content": completion}] for completion in completions]
    columns = columns or {"accuracy_reward": [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]}
    return pandas.DataFrame(
        {"step": [step] * 8, "prompt": prompts, "completion": completions, **columns, "advantage": [0.0] * 8}
    )


def written(folder, *tables):
    """The tables as TRL names its files; returns their folder."""
    (folder / "completions").mkdir(parents=True, exist_ok=True)
    for table in tables:
        table.to_parquet(folder / "completions" / f"completions_{table['step'][0]:05d}.parquet")
    return folder / "completions"


def as_jsonl(folder, rows, name="log.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / name


PAGES = {  # what each line of the how-to prints of the file made by hand
    "completions": (
        "6 kept of 16, of 4 prompts",
        "reward              accuracy_reward\n",
        "kept                in no column: derived from the rule r >= 1",
        "round 20 ",
    ),
    "completions.jsonl": (
        "3 kept of 8, of 4 prompts",
        "reward              MathAccuracy + Format\n",
        "derived from the rule r >= 2",
        "round 1             0.5000 of 4 kept, mean reward 1.2500",
        "round 2             0.2500 of 4 kept, mean reward 1.0000",
    ),
    "completion_scores.jsonl": (
        "3 kept of 12, of 3 prompts, best of 4",
        "derived from the rule best of 4",
        "origin reference    2 kept of 3\n",
        "origin sample       1 kept of 9\n",
        "a reference is the data set's: what is kept is not sampled from the model alone",
    ),
    "rm.jsonl": ("3 kept of 12, of 3 prompts, best of 4", "derived from the rule best of 4"),
    "rollouts": ("4 kept of 12, of 4 prompts", "round 9 ", "round 10 ", "derived from the rule r >= 1"),
}


def test_each_tool_has_a_line():
    assert LINES.keys() == PAGES.keys()
    for words in LINES.values():
        assert re.search(rf"(?s)\S+ [\d.]+.*\w+\.py.*{re.escape(words[2])}", rsf.audit.__doc__)


@pytest.mark.parametrize("name", PAGES)
def test_the_lines_of_the_how_to_read_what_each_tool_writes(name, tmp_path, monkeypatch, capsys):
    written(tmp_path, of_trl(10), of_trl(20))
    monkeypatch.chdir(tmp_path)
    file = tmp_path if name == "completions" else DATA
    words = [str(file / name) if word == LINES[name][2] else word for word in LINES[name]]
    assert main(words[1:]) is None
    shown = capsys.readouterr().out
    assert [part for part in PAGES[name] if part not in shown] == []


@pytest.mark.parametrize("chats", [False, True])
def test_a_log_of_trl_is_read_as_it_is_from_a_file_a_folder_and_memory(chats, tmp_path):
    table = of_trl(chats=chats)
    folder = written(tmp_path, table, of_trl(20, chats))
    file = folder / "completions_00010.parquet"
    tables = [read(file), table, Dataset.from_pandas(table), table.to_dict("list"), table.to_dict("records")]
    for one in tables:
        report = audit(one, above(1))
        assert report.taken.tolist() == [2, 1] and report.rounds == {10: (8, 0.375, 0.375)}
        assert report.instead["reward"] == "accuracy_reward" and report.duplicates == (0, 0)
    both = audit(read(folder), above(1))
    assert both.asked.tolist() == [4] * 4 and sorted(both.rounds) == [10, 20]
    assert both.instead == audit(table, above(1)).instead


def test_several_reward_functions_are_summed_as_trl_does_and_one_can_be_named(tmp_path):
    nan = np.nan
    table = of_trl(
        accuracy_reward=[1.0, 0.0, 1.0, nan, 0.0, 0.0, 1.0, nan],
        format_reward=[0.5, 0.5, nan, 0.5, 0.5, 0.0, 0.5, nan],
        note=["a function's own", *"bcdefgh"],
        length=range(8),
    )
    folder = written(tmp_path, table)
    report = audit(read(folder), above(1))
    assert report.instead["reward"] == "accuracy_reward + format_reward" and report.skipped == 1
    assert report.taken.tolist() == [2, 1] and report.rounds[10][2] == pytest.approx(
        (3.0 + 2.5 + 0.5 - 0.5) / 7
    )
    one = audit(read(folder, {"reward": "accuracy_reward"}), above(1))
    assert one.instead["reward"] == "" and one.skipped == 2 and one.taken.tolist() == [2, 1]
    two = audit(read(folder, {"reward": "accuracy_reward+length"}), above(7))
    assert two.taken.tolist() == [0, 2] and two.instead["reward"] == "accuracy_reward + length"


def test_columns_of_ones_own_beside_those_of_trl_win():
    table = of_trl().assign(reward=2.0, kept=True, round=3)
    report = audit(table)
    assert report.acceptance_rate == 1 and report.instead == {"reward": "", "kept": ""}


def test_nested_names_lead_through_mappings_lists_and_names_with_dots(tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"p{i // 2}"},
                {"role": "assistant", "content": f"c{i}"},
            ],
            "extra_info": {"score": i % 2, "rm": {"org/rm-1.5": 1 - i % 2}},
            "a.b": {"c.d": i},
        }
        for i in range(6)
    ]
    names = {"prompt": "messages.0.content", "completion": "messages.-1.content"}
    frame = pandas.DataFrame(rows)
    frame.to_parquet(tmp_path / "log.parquet")
    for file in (as_jsonl(tmp_path, rows), tmp_path / "log.parquet"):
        for theirs, taken in {"extra_info.score": 1, "extra_info.rm.org/rm-1.5": 0}.items():
            columns = read(file, names | {"reward": theirs})
            report = audit(columns, above(1))
            assert report.names == ["p0", "p1", "p2"] and report.taken.tolist() == [1, 1, 1]
            assert columns["completion"][:2] == ["c0", "c1"] and columns["reward"][1] == taken
        assert read(file, names | {"reward": "a.b.c.d"})["reward"] == list(range(6))
        assert (
            read(file, {"reward": "a.b.c.d", "prompt": "messages.:-1"})["prompt"][0]
            == rows[0]["messages"][:1]
        )
        total = read(file, names | {"reward": "extra_info.score+extra_info.rm.org/rm-1.5"})["reward"]
        assert total.tolist() == [1.0] * 6


def test_a_nested_name_that_is_not_there_is_named_with_those_that_are(tmp_path):
    rows = [{"prompt": "p", "kept": True, "extra_info": {"score": 1.0, "id": 7}} for _ in range(4)]
    file = as_jsonl(tmp_path, rows)
    for wrong in (
        "extra_info.scor",
        "extra_info.score.accuracy",
        "extrainfo.score",
        "prompt.0",
        "a+extra_info.score",
    ):
        with pytest.raises(ValueError) as found:
            read(file, {"reward": wrong})
        assert f"nothing is called {wrong}" in str(found.value) and "'extra_info.score'" in str(found.value)
    del rows[2]["extra_info"]["score"]  # in one row only: not judged
    assert audit(read(as_jsonl(tmp_path, rows), {"reward": "extra_info.score"})).skipped == 1
    rows[2]["extra_info"] = None
    assert audit(read(as_jsonl(tmp_path, rows), {"reward": "extra_info.score"})).skipped == 1
    rows[2]["extra_info"] = {"score": "good"}
    with pytest.raises(
        ValueError, match=r"reward must hold numbers, one a row, got 'good' in row 2: take one"
    ):
        audit(read(as_jsonl(tmp_path, rows), {"reward": "extra_info.score"}))
    with pytest.raises(
        ValueError, match=r"reward must hold numbers.* got {'score': 1.0, 'id': 7} in row 0.*=scores"
    ):
        audit(read(file, {"reward": "extra_info"}))
    rows[2]["extra_info"] = {"score": None}
    with pytest.raises(ValueError, match=r"column prompt must hold numbers.*got 'p' in row 0"):
        read(as_jsonl(tmp_path, rows), {"reward": "extra_info.score+prompt"})


def test_a_log_that_mixes_plain_and_conversational_rows_is_refused_with_both_rows(tmp_path):
    plain = [{"prompt": "p", "completion": "c", "reward": 1.0, "kept": True} for _ in range(4)]
    for name in ("prompt", "completion"):
        mixed = [dict(row) for row in plain]
        mixed[3][name] = [{"role": "user", "content": "p"}]
        for table in (mixed, read(as_jsonl(tmp_path, mixed)), pandas.DataFrame(mixed)):
            with pytest.raises(ValueError) as found:
                audit(table)
            assert f"column {name} mixes plain texts, as in row 2, and conversations, as in row 3" in str(
                found.value
            )
    folder = written(tmp_path, of_trl(10), of_trl(20, chats=True))
    with pytest.raises(ValueError, match=r"mixes plain texts, as in row 7, and conversations, as in row 15"):
        audit(read(folder), above(1))


def test_what_was_kept_is_derived_from_a_rule_without_coins_and_said():
    rewards = [0.0, 0.5, 1.0, 0.25, 0.75, 0.75]
    rows = [{"prompt": f"p{i // 3}", "reward": reward} for i, reward in enumerate(rewards)]
    told = [row | {"kept": row["reward"] >= 0.5} for row in rows]
    derived, known = str(audit(rows, above(0.5))), str(audit(told, above(0.5)))
    said = "kept                in no column: derived from the rule r >= 0.5\n"
    assert derived.count(said) == 1 and derived.replace(said, "") == known
    assert (
        audit(rows, constant(1)).acceptance_rate == 1
        and audit(rows, tilted(1, 0.0, clip=True)).taken.sum() == 6
    )
    assert audit([*rows, {"prompt": "p2", "reward": None}], above(0.5)).skipped == 1
    best = audit(rows, best_of(3))
    assert best.taken.tolist() == [1, 1] and best.way == "best of 3"
    twice = audit([*rows, *rows], best_of(3))  # two groups a prompt, in the order of the rows
    assert twice.taken.tolist() == [2, 2]
    mixed = [rows[i] for i in (0, 3, 1, 4, 2, 5)]  # all prompts once, then again, as OpenRLHF draws them
    assert audit(mixed, best_of(3)).taken.tolist() == [1, 1]


@pytest.mark.parametrize(
    "rule",
    [
        tilted(0.5, 3),
        constant(0.5),
        percentile(1),
        random_like(constant(0.25)),
        at_rate(above, 0.5),
        Rule("half of {0, 1}", lambda r: np.full(r.shape, np.log(0.5))),  # a text is no format
    ],
    ids=str,
)
def test_a_rule_that_tosses_coins_derives_nothing(rule):
    rows = [{"prompt": "p", "reward": i % 2} for i in range(4)]
    if isinstance(rule, random_like):
        rule.observe(np.ones(4))
    with pytest.raises(ValueError) as found:
        audit(rows, rule)
    assert f"what {rule} kept cannot be derived: it tosses coins" in str(found.value)
    assert "name the tool's column" in str(found.value)
    assert audit([row | {"kept": row["reward"] == 1} for row in rows], rule).taken.tolist() == [2]


def test_best_of_needs_whole_groups_and_names_the_prompts_without():
    rows = [{"prompt": f"p{i // 4}", "reward": i % 4} for i in range(8)]
    for wrong, message in (
        (rows[:-1], "'p1' has 3"),
        ([*rows[:-1], rows[-1] | {"reward": None}], "'p1' has 3"),
    ):
        with pytest.raises(
            ValueError, match=f"best of 4 needs 4 samples .* or a multiple, but {message}: give"
        ):
            audit(wrong, best_of(4))
    with pytest.raises(ValueError, match=r"best of 3 needs 3 .*'p0' has 4; 'p1' has 4"):
        audit(rows, best_of(3))


def test_the_origin_of_a_row_is_said_and_the_references_are_no_samples(tmp_path):
    rows = [
        {
            "prompt": f"p{i // 4}",
            "completion": f"c{i}",
            "reward": i % 4,
            "kept": i % 4 > 1,
            "gold": f"c{i // 4 * 4 + 3}",
        }
        for i in range(8)
    ]
    plain = audit(rows)
    assert plain.origins == {} and "origin" not in str(plain)
    file = as_jsonl(tmp_path, rows)
    report = audit(read(file, {"reference": "gold"}))
    assert report.origins == {"sample": (6, 2), "reference": (2, 2)}
    page = str(report)
    assert "origin reference    2 kept of 2\norigin sample       2 kept of 6\n" in page
    assert "not sampled from the model alone" in page
    named = [row | {"origin": "sample" if i % 2 else "another model"} for i, row in enumerate(rows)]
    report = audit(named)
    assert report.origins == {"another model": (4, 2), "sample": (4, 2)} and "not sampled" not in str(report)
    outdone = [row | {"origin": "sample" if row["kept"] else "reference"} for row in rows]
    assert "not sampled" not in str(audit(outdone))  # no reference is among the kept
    by_hand = [row | {"origin": "reference" if i % 4 == 3 else "sample"} for i, row in enumerate(rows)]
    assert str(audit(by_hand)) == page
    with pytest.raises(ValueError, match=r"lacks the columns \['reference'\].*nothing is called answer"):
        read(file, {"reference": "answer"})
    with pytest.raises(ValueError, match=r"lacks the columns \['completion'\]"):
        read(
            as_jsonl(tmp_path, [{"prompt": "a", "reward": 1, "kept": 1, "gold": "b"}]), {"reference": "gold"}
        )


def test_columns_a_line_must_have_one_length_in_each_line_and_may_be_mixed_with_rows(tmp_path):
    lines = [
        json.loads(line) for line in (DATA / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    names = {"reward": "Format"}
    lines[0]["Format"].append(1.0)
    lines[1]["Format"].pop()  # together the lengths would fit
    with pytest.raises(ValueError, match=r"one length, got {'prompt': 4, 'Format': 5"):
        read(as_jsonl(tmp_path, lines), names)
    chats = [
        {"prompt": [{"role": "user", "content": "p"}], "completion": [{"role": "assistant"}], "reward": [1.0]}
    ]
    with pytest.raises(ValueError, match=r"reward must hold numbers, one a row, got \[1.0\] in row 0"):
        audit(
            read(as_jsonl(tmp_path, chats * 2)), above(1)
        )  # a list of a conversation's rewards is no column
    mixed = [lines[1] | {"Format": [1.0] * 4}, {"prompt": "p", "completion": "c", "Format": 0.0}]
    assert audit(read(as_jsonl(tmp_path, mixed), names), above(1)).taken.tolist() == [2, 2, 0]


def test_a_folder_is_read_in_the_order_of_its_steps_and_an_empty_one_is_refused(tmp_path):
    names = {"prompt": "input", "completion": "output", "reward": "score", "round": "step"}
    assert read(DATA / "rollouts", names)["round"] == [9] * 6 + [10] * 6
    with pytest.raises(
        ValueError, match=r"lacks the columns .*kept.* it has .*'gts'.*give the rule that decided"
    ):
        audit(read(DATA / "rollouts", names))
    (tmp_path / "notes.txt").write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match=r"it has \[\]"):
        audit(read(tmp_path), above(1))


RULES = {
    "above(0.5)": None,
    "above 0.5": None,
    "above ( 0.5 )": None,
    "best_of(4)": None,
    "best_of 4": None,
    "constant(1)": None,
    "best_of(3)": "needs 3 samples",
    "tilted(0.5, 3)": "cannot be derived",
    "above(": "got 'above('",
    "above(0.5))": "got 'above(0.5))'",
    "above()": "--rule above()",
    "above(a)": "--rule above(a)",
    "above(0,5)": "--rule above(0,5)",
    "above(nan)": "must be finite",
    "best_of(1.5)": "whole number",
    "percentile(2)": "decides from a past that no log holds",
    "random_like 1": "decides from a past that no log holds",
    "__import__('os').getcwd()": "must be one of",
    "inverse_weights(1)": "got 'inverse_weights'",
    "": "got ''",
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_on_the_command_line_is_read_or_refused_in_a_line(rule, tmp_path, capsys):
    words = ["audit", str(written(tmp_path, of_trl())), "--figure", str(tmp_path / "a.png"), "--rule", rule]
    done, (out, error) = main(words), capsys.readouterr()
    if RULES[rule] is None:
        assert done is None and "in no column: derived from the rule" in out
    else:
        assert done == 2 and RULES[rule] in error and error.count("\n") == 1


def test_rules_are_read_as_several_words_too(tmp_path, capsys):
    words = [
        "audit",
        str(written(tmp_path, of_trl())),
        "--figure",
        str(tmp_path / "a.png"),
        "--rule",
        "above",
        "0.5",
    ]
    assert main(words) is None and "derived from the rule r >= 0.5" in capsys.readouterr().out


def test_no_log_loads_torch():
    command = (
        "import sys; from rsf.audit import audit, read; from rsf.rules import above; "
        "names = {'prompt': 'input', 'reward': 'score'}; audit(read(sys.argv[1], names), above(1)); "
        "assert not {'torch', 'datasets', 'pyarrow', 'pandas'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", command, str(DATA / "rollouts")], cwd=DATA.parents[2], check=True)
