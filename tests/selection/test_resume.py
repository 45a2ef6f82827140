"""Killed at any moment and resumed, a run ends as if nothing had happened: the same weights, decisions and logs, bit for bit."""

import copy
import datetime
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    DATA,
    LABELLED,
    PADDING,
    TEXTS,
    TOKENIZER,
    WORDS,
    arguments,
    at_rate_rule,
    heard,
    numpy_loader,
    same_weights,
    tensors,
    tiny_bert,
)
from transformers import (
    BatchEncoding,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PrinterCallback,
    Trainer,
    TrainerState,
)

from rsf.rules import clipped, constant, percentile
from rsf.selection import RSFTrainer, checkpoints

OFTEN = {
    "max_steps": -1,
    "compute_budget": 500,
    "save_strategy": "steps",
    "save_steps": 5,
    "logging_steps": 5,
}
TIMES = {
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "train_loss",
    *(f"eval_{name}" for name in ("runtime", "samples_per_second", "steps_per_second")),
}  # of the call that ended, says the Trainer
PADDED = {"data": LABELLED, "data_collator": PADDING, "processing_class": TOKENIZER}


def masked():
    torch.manual_seed(5)
    size = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    return BertForMaskedLM(BertConfig(**size, max_position_embeddings=16))


MASKED = {
    "data": TEXTS,
    "model": masked,
    "data_collator": DataCollatorForLanguageModeling(TOKENIZER),
    "processing_class": TOKENIZER,
}
SEEDED = MASKED | {"data_collator": DataCollatorForLanguageModeling(TOKENIZER)}
SEEDED["data_collator"].generator = torch.Generator().manual_seed(
    3
)  # as with its `seed`, which it refuses in a child process
# what is trained how, and when it is killed (a number: at that decision)
RUNS = {
    "between two steps": ({}, {}, "step"),
    "while scoring": ({"unit": "batch", "scoring_dropout": True}, {}, 30),
    "full batches wait": ({"block_size": 16, "scoring_batch_size": 7}, PADDED, "step"),
    "in mid-checkpoint": ({"weighting": "acceptance"}, {}, "save"),
    "in its last file": ({"weighting": "inverse"}, {}, "state"),
    "accumulating": ({"gradient_accumulation_steps": 2}, {}, 40),
    "random masks": ({"scoring_batch_size": 6}, MASKED, "step"),
    "a generator in the collator": ({"scoring_batch_size": 6}, SEEDED, 25),
    "grouped by length": (
        {"train_sampling_strategy": "group_by_length", "scoring_batch_size": 8},
        PADDED,
        18,
    ),
    "between two rows of the log": ({"logging_steps": 3, "max_grad_norm": 1.0}, {}, "step"),
    "with workers": ({"dataloader_num_workers": 1}, {}, "step"),
    "with workers that stay": (
        {
            "dataloader_num_workers": 1,
            "dataloader_persistent_workers": True,
            "train_sampling_strategy": "group_by_length",
        },
        PADDED,
        "step",
    ),
    "updates": ({"progress": "updates", "compute_budget": 0, "max_steps": 24}, {}, "step"),
}


def run(
    folder, options, told, *, data=DATA, model=tiny_bert, rule=None, resume=False, kind=RSFTrainer, **more
):
    """Train and note each decision."""
    trainer = kind(
        model(),
        arguments(folder, **OFTEN | options),
        train_dataset=data,
        rule=rule or (clipped(0.9) if options.get("weighting") == "inverse" else at_rate_rule()),
        on_decision=lambda block, r, kept: told((r.tolist(), kept.tolist())),
        **copy.deepcopy(more),  # a collator may remember
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def die_on_call(owner, name, number, before=lambda *_: None):
    """Kill this process by the signal that cannot be caught, at the given call of a function."""
    calls, function = [], getattr(owner, name)

    def counted(*words, **more):
        calls.append(1)
        if len(calls) == number:
            before(*words)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **more)

    setattr(owner, name, counted)


def killed(folder, options, more, moment):
    """Run, and die at a moment after the first checkpoints, before the end."""
    decisions = iter(range(moment if isinstance(moment, int) else 10**6))
    told = lambda _: next(decisions, None) is None and os.kill(os.getpid(), signal.SIGKILL)
    half = lambda state, path: Path(path).write_text(json.dumps(vars(state), default=str)[:200])
    if moment == "step":
        die_on_call(Trainer, "training_step", 13)
    if moment == "save":
        die_on_call(torch, "save", 6)  # a checkpoint has four
    if moment == "state":
        die_on_call(TrainerState, "save_to_json", 2, half)
    run(folder, options, told, **more)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="kills a forked process by SIGKILL: Windows has neither, and macOS forks no process with threads safely",
)
@pytest.mark.parametrize("name", RUNS)
def test_killed_and_resumed_a_run_ends_with_the_same_weights_decisions_and_logs(tmp_path, name):
    options, more, moment = RUNS[name]
    child = multiprocessing.get_context("fork").Process(
        target=killed, args=(tmp_path / "killed", options, more, moment)
    )
    child.start()
    until = time.monotonic() + 240
    while (
        child.exitcode is None and time.monotonic() < until
    ):  # `join` would wait for its workers, which outlive it by seconds
        time.sleep(0.02)
    assert child.exitcode == -signal.SIGKILL
    whole, rest = [], []
    straight = run(tmp_path / "straight", options, whole.append, **more)
    resumed = run(tmp_path / "killed", options, rest.append, resume=True, **more)
    assert straight.state.global_step == resumed.state.global_step > 5
    assert same_weights(straight.model, resumed.model) and logs_of(straight) == logs_of(resumed)
    assert 0 < len(rest) < len(whole) and whole[-len(rest) :] == rest
    assert (
        vars(straight.loader.report) == vars(resumed.loader.report)
        and straight.rule.state_dict() == resumed.rule.state_dict()
    )


def logs_of(trainer):
    return [
        {key: value for key, value in row.items() if key not in TIMES} for row in trainer.state.log_history
    ]


@pytest.mark.parametrize(
    "generator", [torch.Generator(), np.random.default_rng(4), np.random.Generator(np.random.MT19937(4))]
)
def test_a_collators_own_generator_goes_on(generator):
    draw = lambda of: (
        torch.rand(3, generator=of).tolist() if isinstance(of, torch.Generator) else of.random(3).tolist()
    )
    draw(generator)
    state = checkpoints.coins(one := SimpleNamespace(generator=generator))
    expected = draw(generator)
    checkpoints.load_coins(one, state)
    assert draw(one.generator) == expected
    if "MT19937" not in str(generator):  # and where the collator makes its generator late
        checkpoints.load_coins(late := SimpleNamespace(generator=None), state)
        assert draw(late.generator) == expected
    assert checkpoints.coins(SimpleNamespace()) is None


def test_a_loader_goes_on_from_any_place_as_if_nothing_had_happened():
    straight = numpy_loader(at_rate_rule(), size=5)
    batches = [batch for _ in range(3) for batch in straight]
    for stop in range(1, len(batches)):
        broken, got = numpy_loader(at_rate_rule(), size=5), []
        while len(got) < stop:
            for batch in broken:
                got.append(batch)
                if len(got) == stop:
                    state = json.loads(json.dumps(broken.state_dict()))
                    break
        again = numpy_loader(at_rate_rule(), size=5)
        again.load_state_dict(state)
        while len(got) < len(batches):
            got += list(again)
        assert got == batches and vars(again.report) == vars(straight.report), stop


def test_there_must_be_a_whole_checkpoint_to_resume_from(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "rejection_0.pt").write_bytes(b"")  # killed while it was written
    trainer = RSFTrainer(tiny_bert(), arguments(tmp_path, max_steps=2), train_dataset=DATA)
    with pytest.raises(ValueError, match=r"No valid checkpoint found in output directory \(.*\): none there"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"Can't find a valid checkpoint at .*not written by RSFTrainer"):
        trainer.train(resume_from_checkpoint=str(tmp_path))
    trainer.train(resume_from_checkpoint=False)
    assert trainer.state.global_step == 2


def test_a_checkpoint_of_the_model_alone_is_none_to_go_on_from(tmp_path):
    trainer = RSFTrainer(
        tiny_bert(),
        arguments(tmp_path, max_steps=2, save_strategy="steps", save_only_model=True),
        train_dataset=DATA,
    )
    trainer.train()
    with pytest.raises(ValueError, match="save_only_model"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    with pytest.raises(ValueError, match="No valid checkpoint"):
        trainer.train(resume_from_checkpoint=True)


# ---- between two passes


class Drawing(torch.utils.data.Dataset):
    """Rows whose tokens are shuffled each time."""

    def __len__(self):
        return len(DATA)

    def __getitem__(self, i):
        order = torch.randperm(6).tolist()
        return DATA[i] | {"input_ids": [DATA[i]["input_ids"][j] for j in order]}


class OwnSampler(RSFTrainer):
    """Draws more examples of one label, from torch's generator."""

    def _get_train_sampler(self, train_dataset=None):
        weights = [1.0 + row["labels"] for row in train_dataset]
        return torch.utils.data.WeightedRandomSampler(weights, len(weights))


EACH_PASS = {"save_strategy": "epoch", "logging_strategy": "epoch"}
# what is due at the end of a pass is not made up for behind a step, as in the Trainer
EACH_STEPS = {"save_strategy": "steps", "logging_strategy": "steps", "logging_steps": 3}
BETWEEN = {
    "plain": ({}, {"rule": constant(1)}),
    "a rule with a memory": ({}, {}),
    "grouped by length": ({"train_sampling_strategy": "group_by_length"}, PADDED),
    "twin": ({"weighting": "acceptance"}, {}),
    "weights": ({"weighting": "inverse"}, {}),
    "batches": ({"unit": "batch"}, {}),
    "blocks": ({"block_size": 12, "scoring_batch_size": 5}, {}),
    "accumulating": ({"gradient_accumulation_steps": 3}, {}),
    "random masks": ({"train_sampling_strategy": "group_by_length"}, MASKED),
    "with workers": ({"dataloader_num_workers": 1}, {}),
    "with workers that stay": (
        {
            "dataloader_num_workers": 1,
            "dataloader_persistent_workers": True,
            "train_sampling_strategy": "group_by_length",
        },
        PADDED,
    ),
    "evaluated": ({"eval_strategy": "epoch", "per_device_eval_batch_size": 4}, {"eval_dataset": DATA[:10]}),
    "the best": (
        {"eval_strategy": "epoch", "save_strategy": "best", "metric_for_best_model": "loss"},
        {"eval_dataset": DATA[:10]},
    ),
    "updates": ({"progress": "updates", "compute_budget": 0, "max_steps": 24}, {}),
    "passes that are no whole number of batches": ({}, {"data": DATA[:30]}),
    "balanced over processes": ({"train_sampling_strategy": "batch_rebalance"}, {}),
    "data that draw, read by workers": (
        {"dataloader_num_workers": 1, "save_steps": 4} | EACH_STEPS,
        {"data": Drawing()},
    ),
    "a sampler of one's own": ({}, {"kind": OwnSampler}),
    "dropping the rest": ({"dataloader_drop_last": True}, {"data": DATA[:31]}),
    "a sampler without a seed": ({"accelerator_config": {"use_seedable_sampler": False}}, {}),
    "by steps, at the end of a pass": (
        {"save_steps": 8, "compute_budget": 0, "num_train_epochs": 4} | EACH_STEPS,
        {"rule": constant(1)},
    ),
    "each step": (
        {"save_steps": 1, "gradient_accumulation_steps": 3} | EACH_STEPS,
        {"data": DATA[:31]},
    ),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_resumed_between_two_passes_a_run_goes_on_bit_for_bit(tmp_path, name):
    options, more = BETWEEN[name]
    whole = []
    straight = run(tmp_path / "straight", EACH_PASS | options, whole.append, **more)
    checkpoints = sorted(
        (tmp_path / "straight").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
    )
    assert len(checkpoints) >= 3 or name == "the best"
    for folder in checkpoints[:3]:
        rest = []
        resumed = run(tmp_path / "resumed", EACH_PASS | options, rest.append, resume=str(folder), **more)
        assert straight.state.global_step == resumed.state.global_step
        assert same_weights(straight.model, resumed.model) and logs_of(straight) == logs_of(resumed)
        assert len(rest) < len(whole) and whole[len(whole) - len(rest) :] == rest
        assert vars(straight.loader.report) == vars(resumed.loader.report)


@pytest.mark.parametrize(
    "options", [{}, {"unit": "batch"}, {"progress": "updates", "compute_budget": 0}], ids=str
)
def test_a_run_that_is_over_is_not_trained_further(tmp_path, options, caplog):
    options = {"max_steps": 9, "compute_budget": 90} | options
    straight = run(tmp_path, options, str)
    last = max(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*"))
    assert last == straight.state.global_step
    with heard(caplog, "transformers.trainer"):
        resumed = run(tmp_path, options, str, resume=True)
    assert "single sample" not in caplog.text
    assert resumed.state.global_step == last and same_weights(straight.model, resumed.model)
    assert resumed.spent == straight.spent and resumed.state.epoch == straight.state.epoch


# ---- what may wait in a checkpoint

LABELS = [
    np.int64,
    np.int32,
    np.uint8,
    np.bool_,
    np.float32,
    np.float64,
    np.float16,
    np.datetime64,
    np.str_,
    np.array,
    torch.tensor,
]


@pytest.mark.parametrize("kind", LABELS, ids=lambda kind: kind.__name__)
def test_examples_of_numpys_numbers_wait_in_a_checkpoint_and_stay_what_they_are(tmp_path, kind, caplog):
    made = (lambda n: np.datetime64(n, "D")) if kind is np.datetime64 else kind
    data = [row | {"labels": row["labels"], "extra": made(row["labels"])} for row in DATA]
    seen = []

    def collate(rows):
        seen.extend((type(row["extra"]), str(row["extra"])) for row in rows)
        return tensors(rows)

    options = {"remove_unused_columns": False, "save_steps": 3}
    more = {"data": data, "data_collator": collate}
    straight = run(tmp_path, options, str, **more)
    assert "cannot be resumed from" not in caplog.text
    expected = seen[-8:]
    folders = list(tmp_path.glob("checkpoint-*"))
    waiting = [len(checkpoints.load(folder, 0)["loader"]["ready"]) for folder in folders]
    assert max(waiting) > 0
    resumed = run(tmp_path, options, str, resume=str(folders[int(np.argmax(waiting))]), **more)
    assert same_weights(straight.model, resumed.model) and seen[-8:] == expected


@pytest.mark.parametrize(
    "extra",
    [
        datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),  # noqa: UP017
        datetime.date(2026, 1, 2),
        datetime.timedelta(3),
        Decimal("0.1"),
        b"bytes",
        {1, 2},
        (1, None, "text"),
        1j,
        np.array(["text", None], dtype=object),
        np.zeros(2, dtype=[("a", "i4")]),
        torch.ones(2, dtype=torch.bfloat16),
        {"nested": [{"value": np.float32(2)}]},
    ],
    ids=lambda extra: type(extra).__name__,
)
def test_values_of_many_kinds_wait_in_a_checkpoint(tmp_path, extra, caplog):
    data = [row | {"extra": extra} for row in DATA]
    more = {"data": data, "data_collator": tensors}
    options = {"remove_unused_columns": False, "save_steps": 3, "compute_budget": 200}
    straight = run(tmp_path, options, str, **more)
    for folder in list(tmp_path.glob("checkpoint-*")):
        resumed = run(tmp_path / "resumed", options, str, resume=str(folder), **more)
        assert same_weights(straight.model, resumed.model)
    assert "cannot be resumed from" not in caplog.text


def test_what_a_tokenizer_gives_waits_in_a_checkpoint(tmp_path, caplog):
    texts = [" ".join(WORDS[i] for i in text["input_ids"]) for text in LABELLED]
    encoded = TOKENIZER(texts)
    data = [
        BatchEncoding({"labels": row["label"], **{n: v[i] for n, v in encoded.items()}})
        for i, row in enumerate(LABELLED)
    ]
    for row, text in zip(data, texts, strict=True):
        row._encodings = TOKENIZER(text)._encodings  # what makes it more than a dict
    more = PADDED | {"data": data}
    options = {"save_steps": 3, "compute_budget": 200}
    straight = run(tmp_path, options, str, **more)
    folders = list(tmp_path.glob("checkpoint-*"))
    assert any(checkpoints.load(folder, 0)["loader"]["ready"] for folder in folders)
    for folder in folders:
        resumed = run(tmp_path / "resumed", options, str, resume=str(folder), **more)
        assert same_weights(straight.model, resumed.model)
    assert "cannot be resumed from" not in caplog.text


@pytest.mark.parametrize(
    "extra", [SimpleNamespace(), lambda: None, threading.Lock(), range(3)], ids=lambda x: type(x).__name__
)
def test_examples_that_no_checkpoint_can_hold_are_said_to_be_so_and_training_goes_on(tmp_path, caplog, extra):
    data = [row | {"extra": extra} for row in DATA]
    more = {"data": data, "data_collator": tensors}
    options = {"remove_unused_columns": False, "save_steps": 3}
    trainer = run(tmp_path, options, str, **more)
    assert trainer.spent >= trainer.budget and "cannot be resumed from: " in caplog.text
    newest = max(tmp_path.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime_ns)
    if (newest / checkpoints.file_of(0)).exists():
        assert "the examples must be numbers, texts, times, arrays or tensors" in caplog.text
    holds = [folder for folder in tmp_path.glob("checkpoint-*") if not resumable(folder)]
    assert holds
    with pytest.raises(ValueError, match=r"the examples must be numbers|Can't find a valid checkpoint at"):
        run(tmp_path, options, str, resume=str(holds[0]), **more)


def resumable(folder):
    try:
        return bool(checkpoints.load(folder, 0))
    except ValueError:
        return False


def test_a_rule_that_remembers_other_things_is_refused_by_name(tmp_path):
    for first, second in (
        (at_rate_rule(), clipped(0.9)),
        (clipped(0.9), at_rate_rule()),
        (at_rate_rule(), percentile(1.0, 24)),
    ):
        run(tmp_path, {"compute_budget": 150}, str, rule=first)
        with pytest.raises(ValueError, match=r"resume with the settings.*'what the rule remembers'"):
            run(tmp_path, {"compute_budget": 150}, str, rule=second, resume=True)


def test_other_settings_than_the_checkpoints_are_refused_by_name(tmp_path):
    run(tmp_path, {"compute_budget": 150}, str)
    for changed, name in (
        ({"seed": 1}, "'seed'"),
        ({"scoring_batch_size": 8}, "'block'"),
        ({"unit": "batch"}, "'unit'"),
    ):
        with pytest.raises(ValueError, match=f"resume with the settings.*{name}"):
            run(tmp_path, changed, str, resume=True)
    with pytest.raises(ValueError, match=r"'candidates': \(32, 30\)"):
        run(tmp_path, {}, str, data=DATA[:30], resume=True)
    assert (
        run(tmp_path, {"compute_budget": 200}, str, resume=True).spent >= 200
    )  # a larger budget is another matter
