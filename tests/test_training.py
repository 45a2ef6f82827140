"""Selection in training, against loops written out here: the loader with NumPy alone, then the Trainer on tiny models."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from rsf.loader import RejectionLoader
from rsf.losses import per_example_error, per_example_loss
from rsf.rejection import AcceptanceStarved
from rsf.rules import above, clipped, constant, random_like
from rsf.trainer import RSFConfig, RSFTrainer

LOSS = np.random.default_rng(7).exponential(0.5, 40)  # the criterion of examples 0 to 39
BLOCKS = [list(range(start, min(start + 6, 40))) for start in range(0, 40, 6)]  # the last one is short


def score(block):
    return LOSS[block]


def never(block):
    raise AssertionError("scored")


def numpy_loader(rule, score=score, blocks=BLOCKS, size=4, seed=3, **options):
    return RejectionLoader(blocks, score, rule, size, np.random.default_rng(seed), collate=list, **options)


def test_kept_examples_follow_the_coins_and_fill_batches_in_candidate_order_across_passes():
    loader = numpy_loader(clipped(0.6))
    batches = [batch for _ in range(3) for batch in loader]
    coins = np.random.default_rng(3).random(120)
    kept = [i % 40 for i in range(120) if coins[i] < min(1, LOSS[i % 40] / 0.6)]
    assert len(kept) % 4 and batches == [kept[i : i + 4] for i in range(0, len(kept) - 3, 4)]  # what is left over waits
    first_pass = sum(coins[:40] < np.minimum(1, LOSS / 0.6))
    assert first_pass % 4  # so a batch did span two passes


def test_the_report_has_the_totals_and_what_weights_would_leave():
    loader = numpy_loader(clipped(0.6))
    handed_out = len(list(loader)) + len(list(loader))
    coins, a = np.random.default_rng(3).random(80), np.tile(np.minimum(1, LOSS / 0.6), 2)
    w, report = 1 / a[coins < a], loader.report
    assert (report.candidates, report.scored, report.kept) == (80, 80, len(w))
    assert (report.batches, report.trained) == (handed_out, 4 * handed_out) and handed_out == len(w) // 4
    assert report.acceptance_rate == len(w) / 80 and report.margin == pytest.approx(np.abs(coins - a).min(), rel=1e-9)
    assert report.effective_sample_size == pytest.approx(w.sum() ** 2 / (w**2).sum()) and report.weights == pytest.approx(w.sum())


def test_one_coin_decides_for_a_whole_batch_by_its_mean():
    told = []
    loader = numpy_loader(clipped(0.6), unit="batch", on_decision=lambda *decision: told.append(decision))
    batches, coins, means = list(loader), np.random.default_rng(3).random(7), np.array([LOSS[block].mean() for block in BLOCKS])
    kept = coins < np.minimum(1, means / 0.6)
    assert 0 < kept.sum() < 7 and batches == [block for block, keep in zip(BLOCKS, kept, strict=True) if keep]
    assert [block for block, *_ in told] == BLOCKS and [bool(k.item()) for *_, k in told] == kept.tolist()
    np.testing.assert_allclose(np.concatenate([criterion for _, criterion, _ in told]), means)
    n, w = np.array([6] * 6 + [4])[kept], 1 / np.minimum(1, means / 0.6)[kept]
    assert (loader.report.kept, loader.report.trained, loader.report.scored) == (n.sum(), n.sum(), 40)
    assert loader.report.effective_sample_size == pytest.approx((n * w).sum() ** 2 / (n * w**2).sum())


def test_every_decision_is_told_with_its_criterion():
    told = []
    loader = numpy_loader(clipped(0.6), on_decision=lambda *decision: told.append(decision))
    list(loader)
    blocks, criteria, kept = zip(*told, strict=True)
    assert list(blocks) == BLOCKS and np.array_equal(np.concatenate(criteria), LOSS)
    assert np.array_equal(np.concatenate(kept), np.random.default_rng(3).random(40) < np.minimum(1, LOSS / 0.6))


def test_a_rule_that_needs_no_criterion_is_never_scored_but_tosses_its_coins():
    loader = numpy_loader(constant(0.5), never)
    kept = np.flatnonzero(np.random.default_rng(3).random(40) < 0.5)
    assert sum(loader, []) == kept[: len(kept) // 4 * 4].tolist() and loader.report.scored == 0 and loader.report.candidates == 40


def test_a_block_is_decided_from_the_blocks_before_it():
    decisions = []
    list(numpy_loader(random_like(above(0.4), 8), on_decision=lambda block, r, kept: decisions.append(kept)))
    coins = np.split(np.random.default_rng(3).random(40), range(6, 40, 6))
    rate = [1.0] + [(LOSS[sum(BLOCKS[max(0, i - 2) : i], [])] >= 0.4).mean() for i in range(1, 7)]  # 8 values: two blocks of 6
    assert all(np.array_equal(kept, u < r) for kept, u, r in zip(decisions, coins, rate, strict=True)) and len(set(rate)) > 3


def test_a_pass_too_poor_for_a_batch_is_followed_by_another():
    loader = numpy_loader(above(np.sort(LOSS)[-3]), size=7)  # three a pass
    assert [len(batch) for batch in loader] == [7] and loader.report.candidates == 120


def test_a_pass_that_keeps_nothing_starves_and_says_how_many_it_tried():
    with pytest.raises(AcceptanceStarved, match=r"r >= 99 kept none of 40 candidates"):
        list(numpy_loader(above(99)))


def test_stop_is_asked_before_each_block():
    loader = numpy_loader(constant(1), stop=lambda: loader.report.candidates >= 12)
    assert sum(loader, []) == list(range(12)) and list(loader) == []


class Broken:
    """A rule that returns what no rule should."""

    needs_criterion = True

    def __init__(self, a):
        self.a = a

    def log_probability(self, criterion):
        return np.full(criterion.shape, np.log(self.a))

    def observe(self, criterion):
        pass


BAD_LOADERS = {
    "probability 1.2": (lambda: numpy_loader(Broken(1.2)), r"not in \[0, 1\].*0\.18"),
    "probability NaN": (lambda: numpy_loader(Broken(np.nan)), r"not in \[0, 1\].*NaN at index \(0,\)"),
    "criterion NaN": (lambda: numpy_loader(clipped(1), lambda block: np.where(np.arange(len(block)) == 2, np.nan, 1.0)), r"\(2,\)"),
    "criterion NaN in a batch": (lambda: numpy_loader(clipped(1), lambda block: [np.nan] * len(block), unit="batch"), r"\(0,\)"),
    "one score for all": (lambda: numpy_loader(clipped(1), lambda block: 0.5), r"each of 6 examples.*\(\)"),
    "no candidates": (lambda: numpy_loader(clipped(1), blocks=[]), "empty"),
    "unit": (lambda: numpy_loader(clipped(1), unit="token"), "'token'"),
    "batch size": (lambda: numpy_loader(clipped(1), size=0), "at least 1, got 0"),
}


@pytest.mark.parametrize("make, message", BAD_LOADERS.values(), ids=BAD_LOADERS)
def test_the_loader_refuses_what_is_wrong_and_names_it(make, message):
    with pytest.raises(ValueError, match=message):
        list(make())


def tiny_model(dropout=0.1, seed=5):
    torch.manual_seed(seed)
    size = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForSequenceClassification(BertConfig(**size, **rates, max_position_embeddings=8, num_labels=2))


TOKENS = np.random.default_rng(11).integers(0, 50, (32, 6))
DATA = [{"input_ids": row.tolist(), "attention_mask": [1] * 6, "labels": int(row[0] > 24)} for row in TOKENS]


def arguments(folder, kind=RSFConfig, **options):
    quiet = {"use_cpu": True, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "logging_steps": 1, "optim": "adamw_torch"}
    options = {"learning_rate": 5e-3, "per_device_train_batch_size": 4, "max_steps": 20, "seed": 9, "max_grad_norm": 0.0} | options
    return kind(output_dir=str(folder), **quiet, **options)


def train(folder, model=None, data=DATA, options=None, callback=None, **more):
    """Train with RSFTrainer, in silence, and return the trainer."""
    trainer = RSFTrainer(model or tiny_model(), arguments(folder, **(options or {})), train_dataset=data, **more)
    trainer.remove_callback(PrinterCallback)
    if callback:
        trainer.add_callback(callback)
    trainer.train()
    return trainer


def same_weights(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_keeping_everything_is_the_trainer_bit_for_bit(tmp_path, accumulation):
    options = {"gradient_accumulation_steps": accumulation, "weight_decay": 0.1, "warmup_steps": 5, "max_grad_norm": 1.0}
    plain = Trainer(tiny_model(), arguments(tmp_path, TrainingArguments, **options), train_dataset=DATA)
    plain.remove_callback(PrinterCallback)
    plain.train()
    ours = train(tmp_path, options=options)
    assert ours.state.global_step == 20 and same_weights(ours.model, plain.model)
    assert not same_weights(ours.model, tiny_model()) and not same_weights(train(tmp_path, options=options | {"seed": 8}).model, plain.model)


def by_hand(folder, budget):
    """Return (model, decisions) of the published loop: one coin a batch, scored in train mode without gradient."""
    stock = Trainer(tiny_model(), arguments(folder, TrainingArguments), data_collator=list, train_dataset=DATA)  # seeds torch
    model, batches, coins = stock.model.train(), stock.get_train_dataloader(), np.random.default_rng([9, 0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    spent, kept, epoch = 0, [], 0
    while spent < budget:
        batches.set_epoch(epoch)
        for block in batches:
            if spent >= budget:
                break
            inputs = {name: torch.tensor([row[name] for row in block]) for name in ("input_ids", "attention_mask", "labels")}
            with torch.no_grad():
                loss = model(**inputs).loss.item()
            rate, spent = 5e-3 * (1 - spent / budget) if not kept or kept[-1] else rate, spent + 4
            kept.append(coins.random() < min(1, loss / 0.5))
            if kept[-1]:
                model.zero_grad()
                model(**inputs).loss.backward()
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
                spent += 12
        epoch += 1
    return model, kept
