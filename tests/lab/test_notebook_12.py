"""Notebook 12: what it says of losses and wrong labels holds for other seeds, and its table is made from results/."""

import numpy as np
import pytest
from num2words import num2words

from rsf.lab import notebooks, records, verdicts
from rsf.lab.report import tasks

WRONG = ("np.exp((chrf - 100) / 20)", "0.68")
HEADS = len(tasks.HEAD)


def test_the_table_has_a_line_a_task_and_says_nothing_of_a_part(monkeypatch):
    lines = tasks.tasks_table().splitlines()
    assert len(lines) == 2 + len(tasks.TASKS)
    assert all(line.count("|") == HEADS + 1 for line in lines)
    real = records.runs

    def but_one(name):
        return real(name)[1:] if name == "topics" else real(name)

    monkeypatch.setattr(records, "runs", but_one)
    row = tasks.tasks_table().splitlines()[2]
    assert row.count("open") >= 1 and not any(sign in row for sign in "+-[")


def test_each_task_declares_the_three_contrasts_of_one_family():
    for name in tasks.TASKS:
        above, no_lower, gain = verdicts.contrasts(name)
        assert (above.arm, above.against, above.margin) == ("article", "floor", 0.0)
        assert no_lower.margin == 2 * gain.smallest_gain and gain.margin is None
        assert gain.level == pytest.approx(0.025 / 9, rel=1e-6)
        assert len(records.protocol(name)["seeds"]) >= 10
        assert not set(records.protocol(name)["seeds"]) & set(records.protocol(f"{name}-tuning")["seeds"])


def test_stored_runs_spent_the_same_but_for_a_block():
    for name in (name for name in tasks.TASKS if not records.missing(name)):
        numbers = [run["numbers"] for run in records.runs(name) if run["arm"] != "floor"]
        spent = [one["forward_passes"] for one in numbers if "stopped" not in one]
        assert np.ptp(spent) <= 4 * records.protocol(name)["batch_size"]


def test_what_the_prose_tells_of_the_language_and_the_translation_model_is_what_the_stored_runs_say():
    text = (notebooks.TEXT / "12_carry_it_to_any_task.md").read_text(encoding="utf-8")

    def apart(name, arm, other, number):
        both = (verdicts.measured(verdicts.of_arm(name, one), number) for one in (arm, other))
        return np.subtract(*(np.mean(list(one.values())) for one in both))

    for told in (
        f"{apart('language', 'article', 'plain', 'bits'):.3f} more than plain",
        f"{num2words(round(apart('translation', 'article', 'floor', 'bleu')))} points of BLEU above",
        f"{num2words(round(-100 * apart('translation', 'article', 'floor', 'chrf')))} below it",
        f"ends {apart('translation', 'twin', 'plain', 'bleu'):.1f} points above plain",
    ):
        assert told in text, told
    words = [verdicts.judged(verdicts.contrasts(name)[-1]).judgement.word for name in tasks.TASKS]
    assert f"there are {num2words(words.count('refuted'))}." in text


def test_what_the_prose_tells_of_the_other_tasks_and_of_the_four_models_is_what_the_stored_runs_say():
    text = (notebooks.TEXT / "12_carry_it_to_any_task.md").read_text(encoding="utf-8")
    found = {name: verdicts.judged(verdicts.contrasts(name)[-1]).difference for name in tasks.TASKS}

    def mean(name, arm, number):
        return np.mean(list(verdicts.measured(verdicts.of_arm(name, arm), number).values()))

    def rejected(name):
        return f"{100 - 100 * mean(name, 'article', 'acceptance_rate'):.0f}"

    asked, heard = found["questions-one-pass"], found["speech"]
    early = [run for run in verdicts.of_arm("images", "article").values() if "stopped" in run["numbers"]]
    (models,) = verdicts.contrasts("imdb-models")
    all_four = verdicts.judged(models).difference
    four = {
        name: verdicts.difference(*(verdicts.of_arm(name, arm) for arm in ("article", "plain")), interval="t")
        for name in models.among
    }
    updates = mean("images", "article", "steps") / mean("images", "plain", "steps")
    for told in (
        f"Down by {-asked.estimate:.1f}, or by anything from {-asked.low:.1f} down to {asked.high:.1f} up",
        f"On AG News the rule rejects {rejected('topics')} batches of a hundred",
        f"rejects {rejected('images')} of a hundred and takes {updates:.2f} of the updates",
        f"In {len(early)} of its {len(records.protocol('images')['seeds'])} runs there",
        f"it rejects {rejected('speech')} of a hundred and makes a point more errors",
        f"from {-heard.low:.1f} fewer to {heard.high:.1f} more",
        f"{all_four.estimate:.0f} points apart, or anything from {-all_four.low:.0f} the other way "
        f"to {all_four.high:.0f}",
        f"is right on {mean('imdb-models-scratch', 'plain', 'accuracy'):.0f} reviews of a hundred",
    ):
        assert told in text, told
    assert f"{heard.estimate:.1f}" == "1.0"
    estimates = {name: one.estimate for name, one in four.items()}
    assert max(estimates.values()) < 0 and min(estimates, key=estimates.get) == "imdb-models-scratch"
    assert all(one.low < 0 < one.high for one in four.values())
    assert max(four, key=lambda name: four[name].high - four[name].low) == "imdb-models-scratch"
    for arm in ("plain", "article"):
        runs = verdicts.of_arm("topics", arm).values()
        assert np.mean([run["numbers"]["by_class"] for run in runs], 0).argmin() == 2  # business
