"""What a Trainer can do keeps working: each option against the Trainer itself, then with a rule that rejects."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import DATA, LOSS, arguments, no_dropout, numpy_loader, same_weights, tensors, tiny_bert, train
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DataCollatorWithFlattening,
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import notebook

from rsf.rules import above, at_rate, clipped, constant, easy
from rsf.selection import RSFConfig, RSFTrainer, per_example_loss
from rsf.selection.loader import IDLE


def lora():
    torch.manual_seed(3)
    return get_peft_model(
        tiny_bert(), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    )


OPTIONS = {
    "accumulation and clipping": {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
    "bf16": {"bf16": True},
    "gradient checkpointing": {"activation_checkpointing": True},
    "label smoothing": {"label_smoothing_factor": 0.3},
    "compile": {"torch_compile": True, "torch_compile_backend": "eager"},
    "adapters": {},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_does_what_the_trainer_does_and_rejection_goes_with_it(tmp_path, name):
    make = lora if name == "adapters" else tiny_bert
    options = {"max_steps": 8, "logging_steps": 1} | OPTIONS[name]
    plain, ours = train(tmp_path, make(), Trainer, options=options), train(tmp_path, make(), options=options)
    assert same_weights(ours.model, plain.model)
    if name != "adapters":
        assert (
            not same_weights(train(tmp_path, make(), options={"max_steps": 8}).model, plain.model)
            or name in NO_OTHER_NUMBERS
        )
    told, model = [], make()

    def again(rows, criterion, kept):
        training = model.training
        with torch.no_grad():
            inputs = tensors(rows)
            expected = per_example_loss(model.eval(), inputs, model(**inputs)).double().numpy()
        model.train(training)
        told.append(np.abs(criterion - expected).max())

    picky = train(tmp_path, model, options=options, rule=clipped(0.9), on_decision=again)
    assert 0 < picky.loader.report.kept < picky.loader.report.candidates and max(told) < 1e-3
    assert picky.state.global_step > 2 and all(
        math.isfinite(row["loss"]) for row in picky.state.log_history if "loss" in row
    )


NO_OTHER_NUMBERS = ("gradient checkpointing", "compile")  # these change the work, not its result


def test_adapters_are_all_that_is_trained(tmp_path):
    before, after = (
        lora().state_dict(),
        train(tmp_path, lora(), rule=clipped(0.9), options={"max_steps": 8}).model.state_dict(),
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora" in name or "modules_to_save" in name for name in changed)


class Told(TrainerCallback):
    def __init__(self):
        self.passes, self.evaluated, self.logged = 0, [], []

    def on_epoch_end(self, args, state, control, **_):
        self.passes += 1

    def on_evaluate(self, args, state, control, metrics, **_):
        self.evaluated.append(metrics["eval_right"])

    def on_log(self, args, state, control, logs, **_):
        self.logged.append(logs)


def test_evaluation_logging_and_callbacks_once_a_pass(tmp_path):
    right = lambda predicted: {
        "right": float((predicted.predictions.argmax(1) == predicted.label_ids).mean())
    }
    each = dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "epoch")
    options = each | {
        "max_steps": -1,
        "num_train_epochs": 3,
        "load_best_model_at_end": True,
        "metric_for_best_model": "right",
    }
    trainer = train(
        tmp_path,
        rule=clipped(0.9),
        options=options,
        callback=(told := Told()),
        eval_dataset=DATA[:8],
        compute_metrics=right,
    )
    report = trainer.loader.report
    passes = math.ceil(report.candidates / 32)
    assert (
        told.passes == len(told.evaluated) == passes >= 3
        and len(list(tmp_path.glob("checkpoint-*"))) == passes
    )
    logged = [logs for logs in told.logged if "loss" in logs]
    assert [logs["candidates"] for logs in logged][:2] == [32, 64] and [logs["epoch"] for logs in logged][
        :2
    ] == [1, 2]
    names = {
        "acceptance_rate",
        "candidates",
        "kept",
        "effective_sample_size",
        "forward_passes",
        "learning_rate",
        "grad_norm",
    }
    assert all(names <= set(logs) for logs in logged) and logged[-1]["forward_passes"] == trainer.spent
    assert trainer.evaluate()["eval_right"] == max(told.evaluated)


def test_at_the_end_of_the_budget_it_saves_and_evaluates_as_the_trainer_does_at_its_last_step(tmp_path):
    each = {"save_strategy": "steps", "save_steps": 500, "eval_strategy": "steps", "eval_steps": 500}
    trainer = train(
        tmp_path,
        rule=clipped(0.9),
        options=each | {"compute_budget": 120, "max_steps": -1},
        eval_dataset=DATA[:8],
    )
    last = trainer.state.global_step
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [
        f"checkpoint-{last}"
    ] and last < trainer.state.max_steps
    assert [row["step"] for row in trainer.state.log_history if "eval_loss" in row] == [last]


def test_callbacks_are_told_passes_over_the_candidates(tmp_path):
    class Look(TrainerCallback):
        def on_save(self, args, state, control, **_):
            seen.append((state.epoch, state.num_train_epochs, trainer.loader.report.candidates))

    seen, options = [], {"save_strategy": "steps", "save_steps": 1, "max_steps": -1, "num_train_epochs": 2}
    trainer = RSFTrainer(
        tiny_bert(), arguments(tmp_path, **options), train_dataset=DATA, rule=clipped(0.9), callbacks=[Look()]
    )
    trainer.train()
    assert (
        len(seen) > 5
        and all(epoch == candidates / 32 and passes == 2 for epoch, passes, candidates in seen)
        and seen[-1][0] > 1
    )


def test_in_a_notebook_the_bar_shows_the_rate(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        notebook.disp,
        "display",
        lambda html, display_id: SimpleNamespace(update=lambda html: drawn.append(html.data)),
    )
    trainer = RSFTrainer(tiny_bert(), arguments(tmp_path, max_steps=3), train_dataset=DATA, rule=constant(1))
    trainer.remove_callback(PrinterCallback)
    trainer.callback_handler.callbacks.insert(
        1, notebook.NotebookProgressCallback()
    )  # where the Trainer has it
    trainer.train()
    shown = [text for text in drawn if "kept=" in text]
    assert (
        len(shown) == 2
        and "Epoch 0.25/1, kept=100.0%, candidates/s=" in shown[1]
        and "Epoch 0/1]" in drawn[-1]
    )


def test_the_bar_shows_the_rate(tmp_path, capsys):
    seen = []

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            bars = [
                callback.training_bar
                for callback in trainer.callback_handler.callbacks
                if isinstance(callback, ProgressCallback)
            ]
            seen.append(getattr(bars[0], "postfix", None))

    trainer = RSFTrainer(
        tiny_bert(),
        arguments(tmp_path, disable_tqdm=False, max_steps=3),
        train_dataset=DATA,
        callbacks=[Look()],
    )
    trainer.train()
    assert (
        seen[0] is None
        and all("kept=100.0%" in text and "candidates/s=" in text for text in seen[1:])
        and len(seen) == 3
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_twin_weighs_tokens_as_the_model_does(tmp_path, accumulation):
    lengths = np.random.default_rng(29).integers(2, 7, 32)
    texts = [
        row | {"labels": [t if i < n else -100 for i, t in enumerate(row["input_ids"])]}
        for row, n in zip(DATA, lengths, strict=True)
    ]

    def gpt():
        torch.manual_seed(7)
        size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 8}
        return GPT2LMHeadModel(GPT2Config(**size, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))

    options = {
        "gradient_accumulation_steps": accumulation,
        "optim": "sgd",
        "learning_rate": 0.5,
        "max_steps": 6,
    }
    plain = train(tmp_path, gpt(), Trainer, data=texts, options=options)
    for rule, same in ((above(-1), True), (clipped(9), False)):
        twin = train(tmp_path, gpt(), data=texts, options=options | {"weighting": "acceptance"}, rule=rule)
        close = [
            torch.allclose(a, b, rtol=1e-4, atol=1e-6)
            for a, b in zip(plain.model.parameters(), twin.model.parameters(), strict=True)
        ]
        assert all(close) is same


def test_the_twins_rule_sees_what_it_weighed(tmp_path):
    class Noting(at_rate):
        def __call__(self, criterion):
            decided.append(len(seen))  # from what came before, not from the batch itself
            return super().__call__(criterion)

    seen, decided, rule = [], [], Noting(clipped, 0.4, window=24)
    observe, rule.observe = rule.observe, lambda r: seen.extend(r) or observe(r)
    trainer = train(
        tmp_path, rule=rule, options={"weighting": "acceptance", "logging_steps": 4, "max_steps": 12}
    )
    assert decided[::2] == list(range(0, 48, 4))  # every second call is made by `observe`
    assert len(seen) == trainer.loader.report.trained == 48 and 0.3 < min(seen) < max(seen) < 2
    assert len({row["k"] for row in trainer.state.log_history if "k" in row}) > 1


GAIN = LOSS**2  # what is averaged, not unlike what it is kept by


def undone(scale, size=3, blocks=8000):
    """Return z of the mean over batches of mean(weight x GAIN) against the mean of GAIN over all candidates."""
    order = np.random.default_rng(31).integers(0, 40, (blocks, 5)).tolist()
    loader = numpy_loader(clipped(2.0), blocks=order, size=size, weighting="inverse")
    loader.collate = lambda rows: {"rows": rows}
    last, means = 0, []
    for batch in loader:
        taken, last = loader._place.last - last, loader._place.last
        means.append(np.mean(batch["weight"] * scale(size, taken) * GAIN[batch["rows"]]))
    return (np.mean(means) - GAIN.mean()) / (np.std(means) / np.sqrt(len(means)))


def test_weights_undo_the_selection_without_bias_divided_by_the_candidates():
    assert abs(undone(lambda kept, taken: 1.0)) < 3.29
    by_the_kept = undone(lambda kept, taken: (taken - 1) / (kept - 1))
    by_all_taken = undone(lambda kept, taken: kept / taken * (taken - 1) / (kept - 1))
    assert by_the_kept > 10 and abs(by_all_taken) > 5  # the counter-checks


def test_weights_weigh_the_loss_of_each_example(tmp_path):
    told, options = (
        [],
        {
            "weighting": "inverse",
            "optim": "sgd",
            "learning_rate": 0.2,
            "lr_scheduler_type": "constant",
            "max_steps": 5,
        },
    )
    ours = train(
        *(tmp_path, no_dropout()),
        options=options | {"compute_budget": 10_000},
        rule=clipped(0.9),
        on_decision=lambda rows, r, kept: told.extend(zip(rows, r, kept, strict=True)),
    )
    kept = [(i, row, max(1, 0.9 / r)) for i, (row, r, keep) in enumerate(told) if keep][:20]
    model, last = no_dropout().train(), -1
    for start in range(0, 20, 4):
        numbers, rows, weights = zip(*kept[start : start + 4], strict=True)
        taken, last = numbers[-1] - last, numbers[-1]
        inputs = tensors(rows)
        loss = torch.nn.functional.cross_entropy(model(**inputs).logits, inputs["labels"], reduction="none")
        gradients = torch.autograd.grad(
            (torch.tensor(weights) * loss).mean() * 3 / (taken - 1), list(model.parameters())
        )
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.2 * gradient
    for a, b in zip(ours.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_column_named_weight_that_the_model_takes_is_its_own(tmp_path):
    seen = []

    class Weighing(type(tiny_bert())):
        def forward(self, input_ids, attention_mask, labels, weight):
            seen.append(weight.tolist())
            return super().forward(input_ids, attention_mask, labels=labels)

    collate = lambda rows: (
        tensors(rows) | {"weight": torch.tensor([float(sum(row["input_ids"])) for row in rows])}
    )
    trainer = train(
        tmp_path,
        Weighing(tiny_bert().config),
        data_collator=collate,
        rule=clipped(0.9),
        options={"max_steps": 3},
    )
    assert trainer.loader.report.scored and all(len(weights) == 4 and min(weights) > 5 for weights in seen)


def test_a_model_may_return_a_dict(tmp_path):
    class Plain(type(tiny_bert())):
        def forward(self, input_ids, attention_mask, labels):
            return dict(super().forward(input_ids, attention_mask, labels=labels))

    for more in (
        {"rule": clipped(0.9)},
        {"rule": clipped(0.9), "options": {"weighting": "acceptance", "max_steps": 3}},
    ):
        assert train(tmp_path, Plain(tiny_bert().config), **more).state.global_step >= 3


def test_a_rule_that_rejects_nothing_is_reported_with_the_reason(caplog):
    for rule, warned in ((clipped(LOSS.min() / 2), True), (clipped(0.6), False), (constant(1), False)):
        caplog.clear()
        loader = numpy_loader(rule, stop=lambda: loader.report.candidates > 2 * IDLE)  # noqa: B023
        while list(loader):
            pass
        words = [record.getMessage() for record in caplog.records]
        assert len(words) == warned and all(
            "rejects nothing: the last" in text and "is k below every loss?" in text for text in words
        )


class Tiring(type(clipped(1))):
    """Keeps what comes until it has seen forty, then nothing."""

    seen = 0

    def observe(self, criterion):
        Tiring.seen += len(criterion)


def test_where_a_rule_starves_the_reason_is_told_and_the_checkpoint_goes_on_with_another(tmp_path):
    rule, options = (
        Tiring("tiring", lambda r: np.full(r.shape, 0.0 if Tiring.seen < 40 else -np.inf), None),
        {"save_strategy": "steps"},
    )
    tired = train(tmp_path, rule=rule, options=options)
    assert "tiring kept none of 32 candidates" in tired.stopped and tired.state.global_step == 10
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-10"]
    fresh = RSFTrainer(tiny_bert(), arguments(tmp_path, **options), train_dataset=DATA, rule=constant(1))
    fresh.train(resume_from_checkpoint=True)
    assert fresh.stopped is None and fresh.spent >= fresh.budget and fresh.state.global_step > 10


BAD = {
    "an unknown weighting": (lambda folder: arguments(folder, weighting="both"), "weighting must be one of"),
    "smoothed twin": (
        lambda folder: arguments(folder, weighting="acceptance", label_smoothing_factor=0.1),
        "label_smoothing_factor must be 0, got 0.1",
    ),
    "precision": (lambda folder: arguments(folder, scoring_dtype="int8"), "'int8'"),
    "weights of a batch": (
        lambda folder: train(folder, options={"weighting": "inverse", "unit": "batch"}),
        'weighting="inverse" needs unit="example"',
    ),
    "a threshold undone": (
        lambda folder: train(folder, options={"weighting": "inverse"}, rule=above(0.7)),
        "no weight brings back",
    ),
    "a loss of one's own": (
        lambda folder: train(
            folder,
            options={"weighting": "acceptance"},
            compute_loss_func=lambda outputs, labels, **_: outputs.logits.sum(),
        ),
        "compute_loss_func",
    ),
}


# ---- a loss of one's own, and losses that are not what they seem

HEAVY = torch.tensor([1.0, 9.0])


class Own(RSFTrainer):
    """The documented recipe for class weights."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, weight=HEAVY)
        return (loss, outputs) if return_outputs else loss


class Looking(RSFTrainer):
    """Only looks at the outputs, and hands the loss on."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, self.outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        return (loss, self.outputs) if return_outputs else loss


def own(folder, kind, options, rule=None, **more):
    trainer = kind(tiny_bert(), arguments(folder, **options), train_dataset=DATA, rule=rule, **more)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


@pytest.mark.parametrize("weighting", ["acceptance", "inverse"])
@pytest.mark.parametrize("rule", [clipped(0.9), constant(0.5), above(0.1)], ids=str)
def test_weights_that_an_own_loss_would_drop_are_refused(tmp_path, weighting, rule):
    model = tiny_bert()
    trainer = Own(model, arguments(tmp_path, weighting=weighting), train_dataset=DATA, rule=rule)
    with pytest.raises(ValueError, match=rf"weighting='{weighting}'.*compute_loss of your own"):
        trainer.train()
    assert same_weights(model, tiny_bert())
    trainer = RSFTrainer(tiny_bert(), arguments(tmp_path, weighting=weighting), train_dataset=DATA, rule=rule)
    trainer.compute_loss = lambda model, inputs, *_, **__: model(**inputs).loss
    with pytest.raises(ValueError, match=rf"weighting='{weighting}'.*compute_loss of your own"):
        trainer.train()


@pytest.mark.parametrize("weighting", ["none", "acceptance", "inverse"])
def test_a_compute_loss_that_only_looks_changes_nothing(tmp_path, weighting):
    options = {"weighting": weighting, "max_steps": 6}
    looked = own(tmp_path, Looking, options, clipped(0.9))
    assert looked.outputs.logits.shape == (4, 2)
    assert same_weights(looked.model, own(tmp_path, RSFTrainer, options, clipped(0.9)).model)


def test_an_own_loss_is_trained_on_and_the_criterion_under_it_is_said_once(tmp_path, caplog):
    said = "judged by what the model itself reports, not by a loss of your own"
    weighed = lambda outputs, labels, **_: torch.nn.functional.cross_entropy(
        outputs["logits"], labels, weight=HEAVY
    )
    told = []
    note = lambda block, r, kept: told.extend(r)
    options = {"max_steps": 4}
    by_class = own(tmp_path, Own, options, clipped(0.1), on_decision=note)
    assert caplog.text.count(said) == 1
    by_function = own(tmp_path, RSFTrainer, options, clipped(0.1), compute_loss_func=weighed)
    assert caplog.text.count(said) == 2 and max(told) < 2  # not 9 times as much
    assert same_weights(by_class.model, by_function.model)
    assert not same_weights(by_class.model, own(tmp_path, RSFTrainer, options, clipped(0.1)).model)
    caplog.clear()
    mine = lambda model, inputs, outputs: HEAVY[inputs["labels"]] * per_example_loss(model, inputs, outputs)
    own(tmp_path, Own, options, clipped(0.1), criterion=mine)
    own(tmp_path, Own, options, constant(1))
    own(tmp_path, RSFTrainer, options, clipped(0.1))
    assert said not in caplog.text


def odd(shift=0.0, weight=None, fresh=False):
    """A model whose own loss is another than that of its head."""

    class Odd(BertForSequenceClassification):
        def forward(self, input_ids=None, attention_mask=None, labels=None, **_):
            outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask)
            if labels is not None:
                outputs.loss = shift + torch.nn.functional.cross_entropy(outputs.logits, labels, weight)
            return outputs

    model = tiny_bert()
    model.__class__ = Odd
    if fresh:
        torch.nn.init.zeros_(model.classifier.weight)  # every loss is ln 2, whatever its weight
    return model


CHECKED = {
    "scored": ({}, {"rule": clipped(0.9)}),
    "scored one by one": ({"scoring_batch_size": 1}, {"rule": clipped(0.9)}),
    "twin": ({"weighting": "acceptance"}, {"rule": clipped(0.9)}),
    "twin by error": ({"weighting": "acceptance"}, {"rule": above(0.5), "criterion": "error"}),
    "twin by a callable": (
        {"weighting": "acceptance"},
        {"rule": clipped(1), "criterion": lambda model, inputs, outputs: inputs["input_ids"][:, 0] / 50},
    ),
    "twin, accumulating": (
        {"weighting": "acceptance", "gradient_accumulation_steps": 2},
        {"rule": clipped(0.9)},
    ),
    "weights": ({"weighting": "inverse"}, {"rule": clipped(0.9)}),
    "weights, unscored": ({"weighting": "inverse"}, {"rule": constant(0.5)}),
    "weights by a callable": (
        {"weighting": "inverse"},
        {"rule": clipped(1), "criterion": lambda model, inputs, outputs: inputs["input_ids"][:, 0] / 50},
    ),
}


@pytest.mark.parametrize("name", CHECKED)
def test_losses_that_are_not_the_models_own_are_refused(tmp_path, name):
    options, more = CHECKED[name]
    options = options | {"max_steps": -1, "num_train_epochs": 8}
    kinds = [{"shift": 5.0}]
    if name != "scored one by one":  # of one example a weighted mean is the loss itself
        kinds += [{"weight": HEAVY}, {"weight": HEAVY, "fresh": True}]
    for kind in kinds:
        with pytest.raises(ValueError, match="not the usual one of such a head"):
            train(tmp_path, odd(**kind), options=options, **more)
    assert train(tmp_path, odd(), options=options, **more).state.global_step > 10


def test_a_criterion_of_ones_own_needs_no_loss_of_the_model(tmp_path):
    first = lambda model, inputs, outputs: inputs["input_ids"][:, 0] / 50
    assert train(tmp_path, odd(shift=5.0), rule=clipped(1), criterion=first).spent >= 240


@pytest.mark.parametrize("unlabelled", [4, 12, 24])
@pytest.mark.parametrize("weighting", ["none", "acceptance", "inverse"])
def test_examples_without_labels_do_not_end_the_look_at_the_losses(tmp_path, unlabelled, weighting):
    class OddLMHeadModel(GPT2LMHeadModel):
        def forward(self, input_ids=None, attention_mask=None, labels=None, **_):
            outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
            if outputs.loss is not None:
                outputs.loss = outputs.loss + 5
            return outputs

    data = [
        row | {"labels": [-100] * 6 if i < unlabelled else row["input_ids"]} for i, row in enumerate(DATA)
    ]
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 8}
    options = {"train_sampling_strategy": "sequential", "weighting": weighting, "max_steps": 30}
    with pytest.raises(ValueError, match="not the usual one of such a head"):
        train(
            tmp_path,
            OddLMHeadModel(GPT2Config(**size)),
            data=data,
            options=options,
            rule=constant(0.9) if weighting == "inverse" else easy(8.0),
        )


# ---- data that cannot be learned from, or not so

NO_LABEL = "not one of the first"


def language_model():
    torch.manual_seed(7)
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**size))


@pytest.mark.parametrize("options", [{}, {"max_steps": 3}, {"max_steps": -1, "num_train_epochs": 1}], ids=str)
@pytest.mark.parametrize("rule", [constant(1), easy(4.0), constant(0.5)], ids=str)
def test_data_without_any_label_are_said_to_have_none(tmp_path, caplog, rule, options):
    nothing = [row | {"labels": [-100] * 6} for row in DATA]
    train(tmp_path, language_model(), data=nothing, options=options, rule=rule)
    assert caplog.text.count(NO_LABEL) == 1
    caplog.clear()
    some = [row | {"labels": [-100] * 5 + row["input_ids"][5:]} for row in DATA]
    few = [row | {"labels": row["input_ids"] if i % 8 == 7 else [-100] * 6} for i, row in enumerate(DATA)]
    train(tmp_path, language_model(), data=some, options=options, rule=rule)
    train(
        tmp_path,
        language_model(),
        data=few,
        options=options | {"train_sampling_strategy": "sequential"},
        rule=rule,
    )
    train(tmp_path, options=options, rule=rule)
    assert NO_LABEL not in caplog.text or options.get("max_steps") == 3


@pytest.mark.parametrize("options", [{}, {"max_steps": 3}], ids=str)
def test_a_twin_whose_weights_are_all_0_says_so(tmp_path, caplog, options):
    options = {"weighting": "acceptance"} | options
    train(tmp_path, options=options, rule=above(99))
    assert caplog.text.count("r >= 99 gives each of the first") == 1 and "the weight 0" in caplog.text
    caplog.clear()
    for rule in (above(0.1), clipped(50.0)):
        train(tmp_path, options=options, rule=rule)
    train(tmp_path, options=options | {"weighting": "none", "compute_budget": 40}, rule=above(99))
    assert "the weight 0" not in caplog.text


@pytest.mark.parametrize("weighting", ["acceptance", "inverse"])
def test_a_batch_in_which_each_answers_end_is_cut_off_spoils_no_weight(tmp_path, weighting):
    torch.manual_seed(5)
    shape = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForQuestionAnswering(BertConfig(**shape, intermediate_size=32, max_position_embeddings=8))
    data = [
        {"input_ids": row["input_ids"], "start_positions": i % 6, "end_positions": 9 if i % 3 else 3}
        for i, row in enumerate(DATA)
    ]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"weighting": weighting, "per_device_train_batch_size": 2}
    train(tmp_path, model, data=data, options=options, rule=easy(1.5))
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [np.array, list, torch.tensor], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("weighting", ["none", "acceptance", "inverse"])
def test_a_criterion_may_give_an_array_or_a_list(tmp_path, weighting, kind):
    first = lambda model, inputs, outputs: kind([row[0] / 50 for row in inputs["input_ids"].tolist()])
    trainer = train(tmp_path, options={"weighting": weighting}, rule=easy(0.4), criterion=first)
    assert trainer.state.global_step > 10


class Streamed(torch.utils.data.IterableDataset):
    def __len__(self):
        return len(DATA)

    def __iter__(self):
        return iter(DATA)


def by_another_name(self, input_ids=None, attention_mask=None, target=None):
    return BertForSequenceClassification.forward(self, input_ids, attention_mask, labels=target)


def as_a_tuple(self, input_ids=None, attention_mask=None, labels=None):
    return BertForSequenceClassification.forward(self, input_ids, attention_mask, labels=labels).to_tuple()


PACKING = DataCollatorWithFlattening()
LANGUAGE = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in DATA]
TEXTUAL = [row | {"labels": "ab"[row["labels"]]} for row in DATA]
CAUSES = {
    "labels that are texts": (
        lambda: tiny_bert(),
        {"data": TEXTUAL, "rule": clipped(1)},
        "'labels'.*give numbers",
    ),
    "labels by another name": (
        lambda: type("Named", (BertForSequenceClassification,), {"forward": by_another_name})(
            tiny_bert().config
        ),
        {
            "data": [{n if n != "labels" else "target": v for n, v in row.items()} for row in DATA],
            "rule": clipped(1),
        },
        r"'labels', only .*'target'.* by another name pass criterion=callable",
    ),
    "a tuple": (
        lambda: type("Tuples", (BertForSequenceClassification,), {"forward": as_a_tuple})(tiny_bert().config),
        {"rule": clipped(1)},
        r"Tuples returned no logits but a tuple.*return_dict=True.* or pass criterion=callable",
    ),
    "a stream": (lambda: tiny_bert(), {"data": Streamed()}, "got Streamed"),
    "packed": (
        language_model,
        {"data": LANGUAGE, "data_collator": PACKING, "rule": clipped(8)},
        "packs several examples into one row",
    ),
    "packed, twin": (
        language_model,
        {
            "data": LANGUAGE,
            "data_collator": PACKING,
            "rule": clipped(8),
            "options": {"weighting": "acceptance"},
        },
        r"DataCollatorWithFlattening packs 4 examples into 1 row",
    ),
    "prompt tuning": (
        lambda: get_peft_model(
            language_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        ),
        {"data": LANGUAGE, "rule": clipped(8)},
        "PROMPT_TUNING puts 4 virtual tokens",
    ),
    "prompt tuning, twin": (
        lambda: get_peft_model(
            language_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        ),
        {"data": LANGUAGE, "rule": constant(0.5), "options": {"weighting": "inverse"}},
        "PROMPT_TUNING puts 4 virtual tokens",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_what_cannot_be_selected_from_is_refused_with_the_cause(tmp_path, name):
    model, more, message = CAUSES[name]
    with pytest.raises(ValueError, match=message):
        train(tmp_path, model(), **more)


def test_what_is_not_judged_may_be_packed_and_tuned_by_prompts(tmp_path):
    for kind in (Trainer, RSFTrainer):
        packed = train(tmp_path, language_model(), kind, data=LANGUAGE, data_collator=PACKING)
        assert packed.state.global_step == 20
    model = get_peft_model(language_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    assert train(tmp_path, model, data=LANGUAGE).state.global_step == 20


def test_only_an_rsf_config_will_do_and_it_takes_what_the_trainers_takes(tmp_path):
    with pytest.raises(
        TypeError, match="RSFConfig, which takes all that TrainingArguments takes, got TrainingArg"
    ):
        RSFTrainer(tiny_bert(), arguments(tmp_path, TrainingArguments), train_dataset=DATA)


# ---- a collator that draws


@pytest.mark.parametrize("said", [None, True, False])
def test_whether_the_collator_draws_is_found_out_or_said(tmp_path, said):
    class Flipping:
        """Adds noise to the first token from a generator of its own, seldom."""

        def __init__(self):
            self.rng = np.random.default_rng(1)
            self.calls = []

        def __call__(self, rows):
            self.calls.append(len(rows))
            batch = tensors(rows)
            batch["input_ids"][:, 0] = torch.tensor(self.rng.integers(0, 50, len(rows)))
            return batch

    collate = Flipping()
    options = {"random_collator": said, "max_steps": 2}
    trainer = train(tmp_path, options=options, data_collator=collate, rule=clipped(0.9))
    once = said is not False
    assert trainer._random is once and (4 in collate.calls[-6:]) is (not once)
    if said is not None:  # nothing is tried
        report = trainer.loader.report
        assert len(collate.calls) == (report.candidates if once else report.candidates // 4 + report.batches)


@pytest.mark.parametrize("make, message", BAD.values(), ids=BAD)
def test_what_does_not_go_together_is_refused(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path)


def test_the_settings_are_scalars_that_become_json(tmp_path):
    assert json.loads(arguments(tmp_path, RSFConfig).to_json_string())["scoring_batch_size"] == 0
