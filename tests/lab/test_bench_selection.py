"""What the selection benchmark times: the listing beside the trainer, evenly kept shares, and the ratios made of the times."""

import copy
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, PrinterCallback

from rsf.lab import arms, records
from rsf.lab.bench import selection as bench_selection
from rsf.lab.report import selection as evidence_selection
from rsf.rules import clipped
from rsf.selection import RSFConfig, RSFTrainer


def tiny():
    torch.manual_seed(0)
    shape = {
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 12,
    }
    return BertForSequenceClassification(
        BertConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ).double()


def collate(rows):
    return {
        "input_ids": torch.tensor([row["input_ids"] for row in rows]),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


@pytest.mark.parametrize("a", [0.0, 0.25, 0.3, 1.0])
def test_shares_are_kept_evenly_also_over_many_calls(a):
    keep = bench_selection.evenly(a)
    kept = np.concatenate([keep(np.ones(n)) for n in (3, 1, 6, 10)])
    assert kept.sum() == round(20 * a) and (np.abs(np.cumsum(kept) - a * np.arange(1, 21)) <= 1).all()


def test_the_listing_and_the_trainer_meet_the_same_coins_and_end_with_the_same_weights(tmp_path):
    rows = [{"input_ids": [1, 2, 3], "label": 1}] * 48  # all alike, so that their order does not matter
    settings = {"batch_size": 8, "learning_rate": 0.02, "k": 0.5}
    model, told = tiny(), []
    other = copy.deepcopy(model)
    remember = lambda block, criterion, kept: told.append(bool(kept.all()))
    counted = arms.listing(model, rows, 5, settings, collate, lambda seen, _: seen >= 48, remember)
    first = told.copy()
    told.clear()
    args = {
        "per_device_train_batch_size": 8,
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "seed": 5,
    }
    args |= {
        "max_grad_norm": 0.0,
        "remove_unused_columns": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    args = RSFConfig(
        str(tmp_path),
        **args,
        unit="batch",
        scoring_dropout=True,
        compute_budget=48 + 3 * 8 * sum(first),
        use_cpu=True,
    )
    trainer = RSFTrainer(
        other, args, rule=clipped(0.5), train_dataset=rows, data_collator=collate, on_decision=remember
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert told == first and True in first and False in first and counted == (48, 8 * sum(first))
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def words():
    backend = Tokenizer(models.WordLevel({str(i): i for i in range(12)}, unk_token="0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="0")


def test_every_arm_makes_one_pass_and_counts_the_tokens_that_it_trained_on():
    rng = np.random.default_rng(0)
    rows = [
        {"input_ids": rng.integers(1, 12, rng.integers(2, 9)).tolist(), "label": int(rng.integers(2))}
        for _ in range(40)
    ]
    settings = {
        "tokens": 8,
        "batch_size": 4,
        "block": 8,
        "chunk": 4,
        "listing_every": 1,
        "learning_rate": 1e-3,
        "bf16": False,
    }
    tokens, trained = sum(len(row["input_ids"]) for row in rows), {}
    for arm in bench_selection.ARMS:
        wall, cpu, seen, trained[arm] = bench_selection.one_pass(
            arm, tiny().float(), words(), rows, 1, settings
        )
        assert wall > 0 and cpu > 0 and seen == tokens
    whole = {"plain", "plain, no dropout", "keep all", "batches, 1", "listing, 1"}
    assert {arm for arm, n in trained.items() if n == tokens} == whole and trained["score"] == trained[
        "score, bfloat16"
    ] == 0
    assert all(0.3 * share < trained[f"keep {share:g}"] / tokens < 1.7 * share for share in (0.25, 0.5, 0.75))


def test_ratios_are_those_of_the_stored_seconds(monkeypatch):
    section = records.protocol("bench-selection")
    seconds = {
        "plain": 10.0,
        "plain, no dropout": 4.0,
        "keep all": 10.2,
        "score": 1.5,
        "keep 0.25": 4.0,
        "keep 0.5": 6.6,
        "keep 0.75": 9.5,
    }
    every = section["listing_every"]
    seconds |= {
        "score, bfloat16": 2.0,
        "batches, 0.3": 5.0,
        "batches, 1": 12.0,
        "listing, 0.3": 20.0 / every,
        "listing, 1": 24.0 / every,
    }
    share = {"keep 0.25": 25, "keep 0.5": 50, "keep 0.75": 75}
    rows = {
        arm: [[99.0, s, 100, share.get(arm, 0)], [99.0, 2 * s, 100, share.get(arm, 0)]]
        for arm, s in seconds.items()
    }
    memory = {arm: [500, after] for arm, after in zip(section["memory"], (1000, 1040, 1010), strict=True)}
    monkeypatch.setattr(
        records,
        "read",
        lambda _: {"cpu": {0: {"numbers": json.loads(json.dumps({"passes": rows, "memory": memory}))}}},
    )
    found = {what: (round(one.value, 4), one.held) for what, one in evidence_selection.ratios().items()}
    assert found == {
        "scoring over training": (0.15, True),
        "the same, scoring in bfloat16": (0.2, False),
        "the same, dropout off": (0.375, True),
        "a pass over its parts": (1.0556, True),  # 9.5 / (1.5 + 7.5), the worst of three
        "keep all over plain": (1.02, True),
        "memory over plain": (1.04, True),
        "candidates a second over the listing, 0.3": (4.0, True),
        "candidates a second over the listing, 1": (2.0, False),
    }
    rows["keep all"][0][1] = 10.0
    rows["keep all"][1][1] = 20.8  # the second slice misses the bound, the sum holds it
    rows["listing, 0.3"][0][1] = 17.0 / every
    found = evidence_selection.ratios()
    kept, listing = (
        found[name] for name in ("keep all over plain", "candidates a second over the listing, 0.3")
    )
    assert kept.value < kept.bound < kept.most == 1.04 and not kept.held
    assert listing.value > listing.bound > listing.least and not listing.held


def test_where_memory_cannot_be_told_it_says_so_before_it_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotImplementedError, match="the module resource, which Windows has not"):
        bench_selection.run()


def test_memory_is_told_in_mib_on_a_mac_too(monkeypatch):
    told = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=3 * 2**20))
    monkeypatch.setitem(sys.modules, "resource", told)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for system, mib in (("linux", 3 * 2**10), ("darwin", 3)):
        monkeypatch.setattr(sys, "platform", system)
        assert bench_selection._most_memory() == mib
