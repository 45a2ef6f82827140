"""Selection in training, against loops written out here: the loader with NumPy alone, then the Trainer on tiny models."""

from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    BLOCKS,
    DATA,
    LOSS,
    TOKENS,
    A,
    arguments,
    at_rate_rule,
    coins,
    numpy_loader,
    same_weights,
    tensors,
    tiny_bert,
    train,
)
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from rsf.acceptance import AcceptanceStarved
from rsf.rules import Rule, above, clipped, constant, random_like
from rsf.selection import RSFTrainer, per_example_error, per_example_loss


def test_kept_examples_follow_the_coins_and_fill_batches_in_candidate_order_across_passes():
    loader, told = numpy_loader(clipped(0.6), size=5), []
    loader.on_decision = lambda *decision: told.append(decision)
    batches = [batch for _ in range(3) for batch in loader]
    decisions = coins(120) < np.tile(A, 3)
    kept = [i % 40 for i in np.flatnonzero(decisions)]
    assert (
        len(kept) % 5 and sum(decisions[:40]) % 5
    )  # the first pass leaves some for the second, the third for nobody
    assert batches == [kept[i : i + 5] for i in range(0, len(kept) - 4, 5)]
    assert [block for block, *_ in told] == 3 * BLOCKS and np.array_equal(
        np.concatenate([kept for *_, kept in told]), decisions
    )
    assert np.array_equal(np.concatenate([criterion for _, criterion, _ in told]), np.tile(LOSS, 3))


def test_the_report_has_the_totals_and_what_weights_would_leave():
    loader = numpy_loader(clipped(0.6))
    handed_out = len(list(loader)) + len(list(loader))
    u, a = coins(80), np.tile(A, 2)
    w, report = 1 / a[u < a], loader.report
    assert (report.candidates, report.scored, report.kept) == (
        80,
        80,
        len(w),
    ) and report.acceptance_rate == len(w) / 80
    assert report.batches == handed_out == len(w) // 4 and report.trained == 4 * handed_out
    assert report.slack == pytest.approx(np.abs(u - a).min(), rel=1e-9) and report.weights == pytest.approx(
        w.sum()
    )
    assert report.effective_sample_size == pytest.approx(w.sum() ** 2 / (w**2).sum())


def test_one_coin_decides_for_a_whole_batch_by_its_mean():
    told = []
    loader = numpy_loader(
        clipped(0.6), unit="batch", on_decision=lambda block, r, kept: told.append((r.item(), kept.item()))
    )
    batches, means = list(loader), np.array([LOSS[block].mean() for block in BLOCKS])
    a = np.minimum(1, means / 0.6)
    kept = coins(7) < a
    assert 0 < kept.sum() < 7 and batches == [block for block, keep in zip(BLOCKS, kept, strict=True) if keep]
    np.testing.assert_allclose(told, np.column_stack([means, kept]))
    n = np.array([6] * 6 + [4])[kept]
    assert (
        loader.report.kept == loader.report.trained == n.sum()
        and loader.report.scored == loader.report.candidates == 40
    )
    assert loader.report.effective_sample_size == pytest.approx(
        (n / a[kept]).sum() ** 2 / (n / a[kept] ** 2).sum()
    )


def test_a_rule_that_needs_no_criterion_is_never_scored_but_tosses_its_coins():
    loader = numpy_loader(constant(0.5), score=None)  # calling it would fail
    kept = np.flatnonzero(coins(40) < 0.5)
    assert list(chain(*loader)) == kept[: len(kept) // 4 * 4].tolist() and loader.report.scored == 0


def test_a_block_is_decided_from_the_blocks_before_it():
    decisions = []
    list(numpy_loader(random_like(above(0.4), 8), on_decision=lambda block, r, kept: decisions.append(kept)))
    rate = [1.0] + [
        (LOSS[max(0, 6 * i - 12) : 6 * i] >= 0.4).mean() for i in range(1, 7)
    ]  # 8 values: two blocks of 6
    assert (
        np.array_equal(np.concatenate(decisions), coins(40) < np.repeat(rate, 6)[:40]) and len(set(rate)) > 3
    )


def test_a_pass_too_poor_for_a_batch_is_followed_by_another():
    loader = numpy_loader(
        above(np.sort(LOSS)[-3]), size=7, stop=lambda: loader.report.candidates > 400
    )  # three a pass
    assert [len(batch) for batch in loader] == [7] and loader.report.candidates == 120


def test_a_pass_that_keeps_nothing_starves_and_says_how_many_it_tried():
    loader = numpy_loader(
        above(99), stop=lambda: loader.report.candidates > 400
    )  # so that no mistake makes it endless
    with pytest.raises(AcceptanceStarved, match="r >= 99 kept none of 40 candidates"):
        list(loader)


def test_a_rule_that_starves_in_a_later_pass_starves_too():
    asked = []
    score = lambda block: asked.extend(block) or np.full(len(block), len(asked) <= 40)
    loader = numpy_loader(above(1), score, stop=lambda: loader.report.candidates > 400)
    with pytest.raises(AcceptanceStarved, match="kept none of 40 candidates"):
        while list(loader):
            pass
    assert loader.report.candidates == 80


def test_stop_is_asked_before_each_block():
    loader = numpy_loader(constant(1), stop=lambda: loader.report.candidates >= 12)
    assert list(chain(*loader)) == list(range(12)) and list(loader) == []


def broken(a):
    return Rule("broken", lambda r: np.full(r.shape, np.log(a)), phi=None)


BAD_LOADERS = {
    "probability 1.2": (lambda: numpy_loader(broken(1.2)), r"broken returned .* not in \[0, 1\].*0\.18"),
    "probability NaN": (
        lambda: numpy_loader(broken(np.nan)),
        r"broken returned .* not in \[0, 1\].*NaN at index \(0,\)",
    ),
    "criterion NaN": (
        lambda: numpy_loader(clipped(1), lambda block: np.where(np.arange(len(block)) == 2, np.nan, 1.0)),
        r"1 of 6 examples is not finite \(nan\), candidate 3: 2",
    ),
    "one score for all": (lambda: numpy_loader(clipped(1), lambda block: 0.5), r"each of 6 examples.*\(\)"),
    "no candidates": (lambda: numpy_loader(clipped(1), blocks=[]), "empty"),
    "unit": (lambda: numpy_loader(clipped(1), unit="token"), "'token'"),
    "batch size": (lambda: numpy_loader(clipped(1), size=0), "at least 1, got 0"),
    "used up": (lambda: numpy_loader(above(99), blocks=iter([])), "can be iterated only once"),
}


@pytest.mark.parametrize("make, message", BAD_LOADERS.values(), ids=BAD_LOADERS)
def test_the_loader_refuses_what_is_wrong_and_names_it(make, message):
    with pytest.raises(ValueError, match=message):
        list(make())


SCHEDULES = {
    "warmup_stable_decay": {"num_decay_steps": 5},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-4},
    "inverse_sqrt": {"timescale": 50},
}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_keeping_everything_is_the_trainer_bit_for_bit(tmp_path, accumulation):
    options = {
        "gradient_accumulation_steps": accumulation,
        "weight_decay": 0.1,
        "warmup_steps": 5,
        "max_grad_norm": 1.0,
    }
    plain, ours = train(tmp_path, kind=Trainer, options=options), train(tmp_path, options=options)
    assert ours.state.global_step == 20 and same_weights(ours.model, plain.model)
    assert not same_weights(train(tmp_path, options=options | {"seed": 8}).model, plain.model)


@pytest.mark.parametrize("schedule, more", SCHEDULES.items(), ids=SCHEDULES)
def test_schedules_whose_own_settings_count_steps_are_the_trainers(tmp_path, schedule, more):
    options = {"lr_scheduler_type": schedule, "warmup_steps": 3, "lr_scheduler_kwargs": more}
    plain, ours = train(tmp_path, kind=Trainer, options=options), train(tmp_path, options=options)
    assert same_weights(ours.model, plain.model)


def published_loop(folder, budget):
    """Return (model, losses, decisions): each batch is scored in train mode, one coin is tossed, a kept batch is trained on."""
    stock = Trainer(
        tiny_bert(), arguments(folder, TrainingArguments), data_collator=list, train_dataset=DATA
    )  # seeds torch
    model, batches, rng = stock.model.train(), stock.get_train_dataloader(), np.random.default_rng([9, 0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    spent, epoch, losses, kept = 0, 0, [], []
    while spent < budget:
        batches.set_epoch(epoch)
        epoch += 1
        for block in batches:
            if spent >= budget:
                break
            with torch.no_grad():
                losses.append(model(**tensors(block)).loss.item())
            spent += 4
            kept.append(bool(rng.random() < min(1, losses[-1] / 0.5)))
            if kept[-1]:
                optimizer.zero_grad()
                model(**tensors(block)).loss.backward()
                optimizer.step()
                spent += 12
                optimizer.param_groups[0]["lr"] = 5e-3 * max(0.0, (budget - spent) / budget)
    return model, losses, kept


def test_the_published_rule_is_the_loop_written_by_hand(tmp_path):
    told, options = [], {"unit": "batch", "scoring_dropout": True, "max_steps": -1, "compute_budget": 600}
    ours = train(
        tmp_path,
        options=options,
        rule=clipped(0.5),
        on_decision=lambda block, r, kept: told.append((r.item(), kept.item())),
    )
    model, losses, kept = published_loop(tmp_path, 600)
    assert [decision for _, decision in told] == kept and 0.1 < np.mean(kept) < 0.9
    np.testing.assert_allclose([r for r, _ in told], losses, rtol=1e-6)
    assert same_weights(ours.model, model)


class Watch(TrainerCallback):
    """Counts by itself what a model computes, in forward passes of one example, and notes it at the end of each step."""

    def __init__(self, model):
        self.cost, self.steps = 0, []  # steps: (cost so far, next learning rate)
        model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, model, _, inputs):
        self.cost += len(inputs["input_ids"]) * (3 if torch.is_grad_enabled() else 1)

    def on_step_end(self, args, state, control, optimizer, **_):
        self.steps.append((self.cost, optimizer.param_groups[0]["lr"]))


def first_token(model, inputs, outputs):
    return inputs["input_ids"][:, 0] / 50  # a criterion that is the same on every machine


@pytest.mark.parametrize("options", [{}, {"scoring_batch_size": 6}, {"unit": "batch"}], ids=str)
def test_training_stops_at_the_first_step_that_spends_the_budget_where_the_learning_rate_is_0(
    tmp_path, options
):
    watch, budget = Watch(model := tiny_bert()), 250
    options = options | {"compute_budget": budget, "max_steps": -1}
    trainer = train(
        tmp_path,
        model,
        data=DATA[:30],
        options=options,
        rule=clipped(0.8),
        criterion=first_token,
        callback=watch,
    )
    (costs, rates), report = np.array(watch.steps).T, trainer.loader.report
    assert trainer.spent == report.scored + 3 * report.trained == costs[-1] == watch.cost
    assert (
        costs[-1] >= budget > costs[-2]
        and report.scored > report.kept
        and rates[-1] == 0
        and trainer.stopped is None
    )
    np.testing.assert_allclose(rates, 5e-3 * np.maximum(0, 1 - costs / budget), rtol=1e-12)


PASSES = {"max_steps": -1, "num_train_epochs": 4}
BUDGETS = [
    ({}, 32, 240),
    (PASSES, 31, 372),
    (PASSES | {"unit": "batch"}, 29, 348),
    ({"compute_budget": 100}, 32, 100),
]
BUDGETS += [
    (PASSES | {"compute_budget": 60, "scoring_batch_size": 16}, 32, 60)
]  # spent before a block is used up


@pytest.mark.parametrize("options, examples, budget", BUDGETS)
def test_without_a_budget_it_is_what_plain_fine_tuning_would_spend(tmp_path, options, examples, budget):
    trainer = train(tmp_path, data=DATA[:examples], options=options)
    assert (
        trainer.budget == budget
        and 0 <= trainer.spent - budget < 12
        and trainer.args.max_steps == options.get("max_steps", 20)
    )


def test_data_of_which_all_would_be_dropped_are_refused(tmp_path):
    with pytest.raises(ValueError, match="drops all 7 candidates: a pass needs 8 of them"):
        train(tmp_path, data=DATA[:7], options={"dataloader_drop_last": True, "block_size": 8})


def test_the_budget_is_known_before_training(tmp_path):
    assert RSFTrainer(tiny_bert(), arguments(tmp_path), train_dataset=DATA).budget == 240


def test_max_steps_stays_an_upper_bound(tmp_path):
    assert train(tmp_path, options={"compute_budget": 10_000, "max_steps": 3}).spent == 36


def test_no_step_accumulates_more_than_it_should_where_a_pass_ends_within_it(tmp_path):
    watch = Watch(model := tiny_bert())
    train(
        tmp_path,
        model,
        data=DATA[:20],
        options={"gradient_accumulation_steps": 2, "max_steps": 6},
        callback=watch,
    )  # 5 batches a pass
    costs = [0, *(cost for cost, _ in watch.steps)]
    assert (
        np.diff(costs).max() <= 2 * 12 and watch.cost == costs[-1]
    )  # two batches a step, and none trained on in vain


@pytest.mark.parametrize("seed", range(3))
def test_a_step_that_was_begun_is_finished_where_the_budget_ends_within_it(tmp_path, seed):
    watch, options = (
        Watch(model := tiny_bert()),
        {"gradient_accumulation_steps": 2, "compute_budget": 250, "max_steps": -1, "seed": seed},
    )
    trainer = train(
        tmp_path, model, options=options, rule=clipped(0.8), criterion=first_token, callback=watch
    )
    assert (
        trainer.loader.report.batches == 2 * trainer.state.global_step
        and trainer.loader.report.kept < trainer.loader.report.candidates
    )
    assert watch.steps[-1][0] == trainer.spent >= 250 > watch.steps[-2][0]


def test_no_two_passes_have_the_same_order_also_where_a_batch_takes_several(tmp_path):
    told, options = [], {"per_device_train_batch_size": 8, "max_steps": 4, "compute_budget": 4000}
    rule = above(np.sort(TOKENS[:, 0])[-3] / 50)  # a few a pass
    train(
        tmp_path,
        options=options,
        rule=rule,
        criterion=first_token,
        on_decision=lambda block, *_: told.append(block),
    )
    passes = [str(told[i : i + 4]) for i in range(0, len(told), 4)]
    assert len(passes) > 4 and len(set(passes)) == len(passes)


@pytest.mark.parametrize(
    "budget, spent, reason", [(0, 32, "r >= 99 kept none of 32 candidates"), (24, 24, "None")]
)
def test_a_rule_that_rejects_everything_stops_with_the_reason_or_the_budget_and_the_model_stays(
    tmp_path, budget, spent, reason
):
    trainer = train(tmp_path, rule=above(99), options={"compute_budget": budget})
    assert reason in str(trainer.stopped) and trainer.spent == trainer.loader.report.scored == spent
    assert trainer.state.global_step == 0 and same_weights(trainer.model, tiny_bert())


@pytest.mark.parametrize("block", [4, 8])
def test_a_block_is_scored_by_the_current_weights_without_dropout(tmp_path, block):
    seen, model = [], tiny_bert()

    def again(rows, criterion, kept):
        inputs, training = tensors(rows), model.training
        with torch.no_grad():
            logits = model.eval()(**inputs).logits.double()
        model.train(training)
        seen.append((criterion, (logits.logsumexp(1) - logits[range(block), inputs["labels"]]).numpy()))

    train(tmp_path, model, options={"scoring_batch_size": block}, rule=clipped(0.5), on_decision=again)
    assert np.ptp([expected.mean() for _, expected in seen]) > 0.1
    for criterion, expected in seen:
        np.testing.assert_allclose(criterion, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dropout", [False, True])
def test_scoring_has_its_mode_and_gives_the_model_back_in_its_own(tmp_path, dropout):
    model, during, after, options = tiny_bert().eval(), [], [], {"scoring_dropout": dropout, "max_steps": 3}
    told = {
        "criterion": lambda *all: during.append(model.training) or per_example_loss(*all),
        "on_decision": lambda *_: after.append(model.training),
    }
    train(tmp_path, model, options=options, rule=clipped(0.1), **told)
    assert (
        set(during) == {dropout} and after[0] is False and set(after[1:]) == {True}
    )  # training sets it at its first step


def test_a_criterion_that_is_nan_is_named_and_the_model_given_back_in_its_mode(tmp_path):
    model = tiny_bert().train()
    with pytest.raises(
        ValueError, match=r"4 of 4 examples is not finite \(nan\), candidate 1: \{'input_ids'"
    ):
        train(
            tmp_path,
            model,
            rule=clipped(1),
            criterion=lambda model, inputs, outputs: outputs.logits[:, 0] * float("nan"),
        )
    assert model.training


def test_the_mean_of_the_losses_is_the_models_own_and_errors_are_wrong_labels():
    inputs, model = tensors(DATA), tiny_bert().eval()
    outputs = model(**inputs)
    losses, errors = per_example_loss(model, inputs, outputs), per_example_error(model, inputs, outputs)
    assert losses.shape == (32,) and losses.std() > 1e-3
    torch.testing.assert_close(losses.mean(), outputs.loss, rtol=1e-6, atol=0)
    wrong = [
        (a > b) == (row["labels"] == 1) for (a, b), row in zip(outputs.logits.tolist(), DATA, strict=True)
    ]
    assert errors.tolist() == wrong and 0 < sum(wrong) < 32


UNLABELLED = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in DATA]
PLATEAU = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps"}
BAD_TRAINERS = {
    "empty data": (lambda folder: train(folder, data=[]), "no candidates.*train_dataset"),
    "unit": (lambda folder: arguments(folder, unit="token"), "'token'"),
    "block is not a batch": (
        lambda folder: arguments(folder, unit="batch", scoring_batch_size=8),
        "must be 0 or 4, got 8",
    ),
    "negative budget": (lambda folder: arguments(folder, compute_budget=-1), "-1"),
    "criterion": (lambda folder: train(folder, criterion="entropy"), "'entropy'"),
    "no logits": (
        lambda _: per_example_loss(tiny_bert(), tensors(DATA), SimpleNamespace(loss=1)),
        "BertFor.* returned no logits",
    ),
    "no labels": (
        lambda folder: train(folder, data=UNLABELLED, rule=clipped(1)),
        r"'labels', only \['attention_mask', 'input_ids'\]",
    ),
    "mean": (
        lambda folder: train(folder, rule=clipped(1), criterion=lambda model, inputs, outputs: outputs.loss),
        r"4 examples.*\(\)",
    ),
    "probability": (lambda folder: train(folder, rule=broken(1.2)), r"not in \[0, 1\]"),
    "schedule": (
        lambda folder: train(folder, options=PLATEAU, eval_dataset=DATA),
        "a ReduceLROnPlateau is not a function of progress.*updates",
    ),
}


@pytest.mark.parametrize("make, message", BAD_TRAINERS.values(), ids=BAD_TRAINERS)
def test_the_trainer_refuses_what_is_wrong_and_names_it(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path)


# ---- the twin, and what is logged


@pytest.mark.parametrize("unit", ["example", "batch"])
def test_the_twin_weighs_every_example_by_its_acceptance_without_coins(tmp_path, unit):
    options = {"weighting": "acceptance", "unit": unit, "lr_scheduler_type": "constant", "max_steps": 6}
    ours = train(tmp_path, rule=clipped(0.9), options=options)
    stock = Trainer(
        tiny_bert(), arguments(tmp_path, TrainingArguments), data_collator=list, train_dataset=DATA
    )
    model, batches = stock.model.train(), stock.get_train_dataloader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    batches.set_epoch(0)
    for block in list(batches)[:6]:
        inputs = tensors(block)
        loss = torch.nn.functional.cross_entropy(model(**inputs).logits, inputs["labels"], reduction="none")
        loss = loss.mean(0, keepdim=True) if unit == "batch" else loss
        optimizer.zero_grad()
        ((loss.detach() / 0.9).clamp(max=1) * loss).mean().backward()
        optimizer.step()
    for a, b in zip(ours.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert ours.spent == 3 * 24 and ours.loader.report.scored == 0


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_twin_of_a_rule_that_keeps_everything_is_plain(tmp_path, accumulation):
    options = {
        "gradient_accumulation_steps": accumulation,
        "optim": "sgd",
        "learning_rate": 0.1,
        "max_steps": 6,
    }
    plain, twin = (
        train(tmp_path, kind=Trainer, options=options),
        train(tmp_path, rule=above(-1), options=options | {"weighting": "acceptance"}),
    )
    for a, b in zip(plain.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_twin_weighs_tokens_as_the_model_does(tmp_path):
    rows = [
        row | {"labels": [-100] * (1 + i % 4) + row["input_ids"][1 + i % 4 :]} for i, row in enumerate(DATA)
    ]  # unlike numbers of labels

    def collate(block):
        return {name: torch.tensor([row[name] for row in block]) for name in rows[0]}

    def language_model():
        torch.manual_seed(5)
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50, n_positions=6))

    steps = {"optim": "sgd", "learning_rate": 0.1}  # Adam would enlarge rounding where gradients are small
    plain = train(tmp_path, language_model(), Trainer, data=rows, data_collator=collate, options=steps)
    twin = train(
        tmp_path,
        language_model(),
        data=rows,
        data_collator=collate,
        rule=above(-1),
        options=steps | {"weighting": "acceptance"},
    )
    for a, b in zip(plain.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_what_is_logged_has_the_rate_the_k_and_the_cost(tmp_path):
    trainer = train(tmp_path, rule=at_rate_rule(), options={"logging_steps": 4})
    row = next(row for row in trainer.state.log_history if "loss" in row)
    assert (
        row["candidates"] >= row["kept"] > 0
        and row["k"] > 0
        and 0 < row["effective_sample_size"] <= row["kept"]
    )
    assert (
        row["forward_passes"] == 3 * 16 + row["candidates"]
        and row["acceptance_rate"] == row["kept"] / row["candidates"]
    )
