"""Distil and prune: what the loss, the cut and the mask are, and what the sections' runs are made of."""

from types import SimpleNamespace

import helpers
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rsf.lab import arms, models, records, verify
from rsf.lab.models import last_layer, smaller
from rsf.lab.tasks import carry, compression

SETTINGS = helpers.FEW_STEPS | {"scoring_dropout": True, "passes": 3, "k": 0.9}


def rows(seed=0, teacher=True):
    """Rows of hidden states, their labels with a teacher's logits or NaN."""
    rng = np.random.default_rng(seed)
    labels = np.column_stack([rng.integers(0, 2, 24), rng.normal(size=(24, 2))])
    labels[:, 1:] = labels[:, 1:] if teacher else np.nan
    return [
        {"hidden": torch.as_tensor(rng.normal(size=(n, 32))).half(), "label": label.tolist(), "index": i}
        for i, (n, label) in enumerate(zip(rng.integers(3, 9, 24), labels, strict=True))
    ]


def test_the_loss_of_distillation_is_its_formula_and_its_gradient_the_difference_of_probabilities():
    rng = np.random.default_rng(1)
    student, teacher = (torch.tensor(rng.normal(size=(5, 3)), requires_grad=True) for _ in range(2))
    loss = smaller.distillation_loss(student, teacher)
    p, q = ((logits / 2).softmax(-1) for logits in (teacher, student))
    torch.testing.assert_close(loss, 4 * (p * (p / q).log()).sum(-1), rtol=0, atol=1e-12)
    loss.sum().backward()
    torch.testing.assert_close(student.grad, (2 * (q - p)).detach(), rtol=0, atol=1e-12)
    assert float(smaller.distillation_loss(teacher, teacher).detach().abs().max()) < 1e-12


def test_a_student_learns_from_both_where_there_is_a_teacher_and_from_labels_where_there_is_none():
    student = smaller.Student(helpers.tiny_bert()).eval()
    for teacher in (True, False):
        batch = models.pad_hidden(rows(teacher=teacher))
        found = student(**batch)
        each = student.criterion(student, batch, found)
        hard = F.cross_entropy(found.logits, batch["labels"][:, 0].long(), reduction="none")
        soft = smaller.distillation_loss(found.logits, batch["labels"][:, 1:])
        torch.testing.assert_close(each, (hard + soft) / 2 if teacher else hard)
        torch.testing.assert_close(found.loss, each.mean())
    batch["labels"] = batch["labels"][:, 0].long()  # of a test set
    torch.testing.assert_close(student(**batch).loss, found.loss)


def test_the_rule_decides_by_the_loss_of_distillation_while_a_student_is_taught():
    told = []
    model = smaller.Student(helpers.tiny_bert())
    arms.fine_tune(
        model, rows(), "article", 5, SETTINGS | {"scoring_dropout": False}, models.pad_hidden,
        lambda block, criterion, kept: told.append((block, criterion)),
    )  # fmt: skip
    block, criterion = told[0]
    batch = models.pad_hidden(block)
    fresh = smaller.Student(helpers.tiny_bert()).eval()
    each = smaller.criterion(None, batch, fresh(**batch))
    assert criterion.mean() == pytest.approx(float(each.mean()), abs=1e-5)


def layer():
    return last_layer.LastLayer(helpers.tiny_bert().double()).eval()


def test_a_cut_layer_is_smaller_and_answers_as_if_the_neurons_were_zero():
    whole, less = layer(), layer()
    wide = whole.layer.intermediate.dense
    norms = wide.weight.norm(dim=1)
    gone = norms.argsort()[: round(smaller.AMOUNT * len(norms))]
    smaller.cut(less.layer)
    assert less.layer.intermediate.dense.weight.shape == (len(norms) - len(gone), 32)
    assert less.layer.output.dense.weight.shape == (32, len(norms) - len(gone))
    with torch.no_grad():
        whole.layer.output.dense.weight[:, gone] = 0.0
    batch = models.pad_hidden(rows())
    batch["labels"] = batch["labels"][:, 0].long()
    torch.testing.assert_close(less(**batch).logits, whole(**batch).logits, rtol=0, atol=1e-12)


def test_masked_weights_are_the_smallest_and_stay_zero_while_the_layer_trains():
    model = last_layer.LastLayer(helpers.tiny_bert())
    before = model.layer.intermediate.dense.weight.detach().clone()
    smaller.mask(model.layer, True)
    zero = model.layer.intermediate.dense.weight == 0
    assert zero.float().mean() == pytest.approx(smaller.AMOUNT, abs=1e-3)
    assert before[zero].abs().max() <= before[~zero].abs().min()
    plain = [row | {"label": int(row["label"][0])} for row in rows()]
    arms.fine_tune(model, plain, "plain", 5, SETTINGS, models.pad_hidden)
    model(**models.pad_hidden(plain))
    after = model.layer.intermediate.dense.weight
    assert (after[zero] == 0).all() and not torch.equal(after[~zero], before[~zero])


def test_encoders_that_are_made_smaller_lose_layers_or_neurons_or_weights():
    def load(*_):
        config = helpers.tiny_bert().config
        config.num_hidden_layers = 6
        return models.Checkpoint(type(helpers.tiny_bert())(config), None, "")

    made = {how: smaller.encoder(how, load).model.bert.encoder.layer for how in compression.MAKE}
    assert {how: len(layers) for how, layers in made.items()} == {
        "dense": 6, "distilled": smaller.LAYERS, "pruned": 6, "masked": 6,
    }  # fmt: skip
    sizes = {how: sum(one.numel() for one in layers.parameters()) for how, layers in made.items()}
    assert sizes["distilled"] == sizes["dense"] / 2 and sizes["masked"] == sizes["dense"] > sizes["pruned"]
    assert sum(int((one == 0).sum()) for one in made["masked"].parameters() if one.ndim > 1) > 0


def test_what_a_recipe_costs_counts_the_teacher_and_its_reading():
    settings = records.protocol("compression")
    settings |= {"dtype": "float32", "repeats": 1, "timed": 1, "tokens": 8}
    found = {how: compression.costs(settings, how) for how in ("dense", "distilled", "masked")}
    recipes = settings["recipes"]
    dense = 3 * recipes["dense"]["train"] * recipes["dense"]["passes"]
    taught = 3 * recipes["distilled"]["train"] * recipes["distilled"]["passes"]
    assert found["dense"]["cost"] == dense
    assert found["distilled"]["cost"] == dense + taught / 2 + recipes["distilled"]["train"]
    assert found["masked"]["cost"] == dense + 3 * recipes["masked"]["train"] * recipes["masked"]["passes"]
    assert found["masked"]["parameters"] == found["dense"]["parameters"] > found["distilled"]["parameters"]
    assert settings["smallest_gain"] == dense / 10


def test_sections_compare_within_a_model_at_the_level_of_two_and_share_the_teacher():
    for name in ("distilled", "pruned"):
        section = records.protocol(name)
        assert section["base"]["teacher"] == records.protocol("dense")["base"]
        assert section["family"] == ["distilled", "pruned"] and len(section["seeds"]) >= 10
        assert not set(section["seeds"]) & set(records.protocol(f"{name}-tuning")["seeds"])
    grids = [
        records.protocol(f"{name}-tuning")["grid_learning_rate"] for name in ("dense", "distilled", "pruned")
    ]
    assert grids[0] == grids[1] == grids[2]
    for place in ("before", "while"):
        other = records.protocol(f"compression-{place}")
        assert other["recipes"] == records.protocol("compression")["recipes"] and other["rule"] == place


def test_a_student_is_taught_on_its_base_alone_and_no_text_stands_twice(monkeypatch):
    hidden, lengths = np.zeros((12, 4), np.float16), np.ones(12, int)
    texts = [*"abcdefghij", "a", "t"]  # one stands twice, one in the test part
    shown = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    labels = [row["label"] for row in shown]
    pool = carry.Part(last_layer.CachedOutputs(hidden, lengths, labels, range(12)), shown)
    test = carry.Part([], [{"text": "t", "label": 0}])
    monkeypatch.setattr(compression, "read", lambda *_: carry.World(pool, test, ("", "")))
    monkeypatch.setattr(compression, "told", lambda _: np.arange(24.0).reshape(12, 2))
    settings = {"base": {"train": 4, "teacher": {}}, "validation": 2, "train": 4}
    parts = carry.split(compression.TASKS["distilled"], settings, 7)
    seen = [row["text"] for part in parts for row in part.shown]
    assert len(seen) == len(set(seen)) == 10 and "t" not in seen
    for place, part in enumerate(parts):
        for row, text in zip(part.rows, part.shown, strict=True):
            label, *logits = row["label"]
            assert label == text["label"] and texts[row["index"]] == text["text"]
            assert (
                logits == [2 * row["index"], 2 * row["index"] + 1] if place == 0 else np.isnan(logits).all()
            )
    assert [len(part.shown) for part in parts] == [4, 4, 2]


@pytest.mark.parametrize("place", ["before", "while"])
def test_the_rule_trains_the_teacher_or_what_is_made_of_it(place, monkeypatch):
    asked = {}

    def base(task, settings):
        asked.update(settings["base"])

    part = SimpleNamespace(test=None, sources=("data", "model"))
    monkeypatch.setattr(carry, "base", base)
    monkeypatch.setattr(compression, "world", lambda *_: part)
    monkeypatch.setattr(compression, "costs", lambda *_: {})
    fake = {"distilled": SimpleNamespace(judge=lambda *_: {"accuracy": 1.0})}
    monkeypatch.setattr(compression, "TASKS", fake)
    run = compression.run(f"compression-{place}", "distilled-article", 403)
    assert run.numbers == {"accuracy": 1.0} and asked["seed"] == asked["teacher"]["seed"] == 403
    by = (asked["teacher"].get("arm", "plain"), asked.get("arm", "plain"))
    assert by == (("article", "plain") if place == "before" else ("plain", "article"))


def test_stored_runs_spent_the_same_but_for_a_block_and_hold():
    for name in ("dense", "distilled", "pruned"):
        if records.missing(name):
            continue
        runs = [run["numbers"] for run in records.runs(name) if run["arm"] != "floor"]
        spent = [one["forward_passes"] for one in runs if "stopped" not in one]
        assert np.ptp(spent) <= 4 * records.protocol(name)["batch_size"]
        verify.section(name)
