"""Scoring and packing: chunks by length, one transfer, and what is scored is what is trained on, whatever the collator draws."""

import random
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    DATA,
    LABELLED,
    LOSS,
    PADDING,
    TEXTS,
    TOKENIZER,
    arguments,
    coins,
    numpy_loader,
    same_weights,
    tensors,
    tiny_bert,
    train,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorWithFlattening,
    GPT2Config,
    GPT2LMHeadModel,
    default_data_collator,
)

from rsf.rules import above, clipped, constant
from rsf.selection import RSFTrainer, per_example_loss
from rsf.selection.scoring import is_random, joined, score

SIZE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


class Ruler(torch.nn.Module):
    """Gives each row its sum, and notes in what widths and modes it was asked."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, input_ids):
        self.seen.append((*input_ids.shape, self.training, torch.is_inference_mode_enabled()))
        return input_ids.sum(1)


@pytest.mark.parametrize("size, widths", [(0, [(7, 9)]), (3, [(3, 9), (3, 5), (1, 2)]), (9, [(7, 9)])])
@pytest.mark.parametrize("dropout", [False, True])
def test_chunks_go_the_longest_first_and_the_scores_come_in_the_order_of_the_rows(size, widths, dropout):
    lengths, ruler = [4, 9, 2, 5, 5, 9, 7], Ruler().train()
    rows = [{"input_ids": list(range(10 * i, 10 * i + n))} for i, n in enumerate(lengths)]

    def pad(rows):
        longest = max(len(row["input_ids"]) for row in rows)
        return {
            "input_ids": torch.tensor(
                [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]
            )
        }

    scores = score(ruler, rows, lambda model, inputs, outputs: outputs, pad, size, dropout=dropout)
    assert scores.tolist() == [sum(row["input_ids"]) for row in rows] and scores.dtype == np.float64
    assert ruler.seen == [(*shape, dropout, True) for shape in widths] and ruler.training


class WithoutFloat64(torch.Tensor):
    """A tensor on a device that has no float64, as Apple's, simulated: not run on MPS."""

    @classmethod
    def __torch_function__(cls, function, types, words=(), more=None):
        result = super().__torch_function__(function, types, words, more or {})
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        if isinstance(result, cls) and result.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_become_float64_on_the_host_only(dtype):
    rows = [torch.tensor([float(i)]) for i in range(5)]
    collate = lambda rows: {"x": torch.cat(rows).to(dtype).as_subclass(WithoutFloat64)}
    model = torch.nn.Module()
    model.forward = lambda x: x + 1
    scores = score(model, rows, lambda model, inputs, outputs: outputs, collate, 2)
    assert scores.tolist() == [1, 2, 3, 4, 5] and scores.dtype == np.float64
    with pytest.raises(TypeError, match="no float64"):  # the counter-check
        collate(rows)["x"].double()


def test_a_collator_that_packs_examples_into_one_row_is_named():
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=50, n_positions=99))
    rows = [{**text, "labels": text["input_ids"]} for text in TEXTS[:4]]
    with pytest.raises(
        ValueError, match=r"each of 4 examples, got shape \(1,\): if the collator packs .* take one that pads"
    ):
        score(model, rows, per_example_loss, DataCollatorWithFlattening())


def test_a_block_in_chunks_is_scored_as_each_example_alone(tmp_path):
    told, model = [], tiny_bert()

    def alone(rows, criterion, kept):
        training = model.training
        with torch.no_grad():
            model.eval()
            expected = [
                per_example_loss(model, inputs := PADDING([row]), model(**inputs)).item() for row in rows
            ]
        model.train(training)
        told.append((len(rows), np.allclose(criterion, expected, rtol=1e-4, atol=1e-6)))

    options = {"block_size": 16, "scoring_batch_size": 5, "max_steps": 12}
    trainer = train(
        tmp_path,
        model,
        data=LABELLED,
        options=options,
        rule=clipped(0.8),
        data_collator=PADDING,
        on_decision=alone,
    )
    assert (
        told
        and all(verdict == (16, True) for verdict in told)
        and 0 < trainer.loader.report.kept < trainer.loader.report.candidates
    )


def test_scoring_may_have_a_precision_of_its_own(tmp_path):
    seen = []

    def criterion(model, inputs, outputs):
        seen.append(outputs.logits.dtype)
        return outputs.logits[:, 0].float() + 9

    train(
        tmp_path, options={"scoring_dtype": "bfloat16", "max_steps": 3}, rule=clipped(9), criterion=criterion
    )
    assert set(seen) == {torch.bfloat16}


def unpadded(inputs):
    """Return the examples of a batch without their padding."""
    columns = (inputs["input_ids"], inputs["attention_mask"].bool(), inputs["labels"])
    return [(*ids[mask].tolist(), *labels[mask].tolist()) for ids, mask, labels in zip(*columns, strict=True)]


class Seen:
    """The examples that a model was given, without their padding, apart by what for."""

    def __init__(self, model):
        self.scored, self.trained = [], []
        model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, model, _, inputs):
        (self.trained if torch.is_grad_enabled() else self.scored).extend(unpadded(inputs))


MASKS = DataCollatorForLanguageModeling(TOKENIZER, mlm_probability=0.3)


def whole_words(rows):
    """Mask words of two tokens, in texts that are padded to eight already: this collator of transformers cannot."""
    padded = []
    for row in rows:
        ids = row["input_ids"]
        gap = 8 - len(ids)
        spans = [(3 * i - i % 2, 3 * i + 2) for i in range(len(ids))] + [(0, 0)] * gap
        mask = [1] * len(ids) + [0] * gap
        padded.append({"input_ids": ids + [0] * gap, "attention_mask": mask, "offset_mapping": spans})
    return DataCollatorForLanguageModeling(TOKENIZER, mlm_probability=0.5, whole_word_mask=True)(padded)


def crops(rows):
    """Take a part of each text, by coins that are not torch's, and learn to repeat it."""
    starts = [random.randrange(len(row["input_ids"]) - 2) for row in rows]
    ends = [
        random.randrange(start + 2, len(row["input_ids"])) + 1
        for row, start in zip(rows, starts, strict=True)
    ]
    parts = [
        {"input_ids": row["input_ids"][start:end]} for row, start, end in zip(rows, starts, ends, strict=True)
    ]
    batch = TOKENIZER.pad(parts, return_tensors="pt")
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return batch


@pytest.mark.parametrize("collator", [MASKS, whole_words, crops], ids=["masks", "whole words", "crops"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_what_is_drawn_and_scored_is_what_is_trained_on(tmp_path, side, collator):
    TOKENIZER.padding_side = side
    random.seed(5)
    torch.manual_seed(5)
    seen = Seen(model := BertForMaskedLM(BertConfig(**SIZE, max_position_embeddings=16)))
    options = {"block_size": 8, "scoring_batch_size": 3, "max_steps": 12}
    more = {"data_collator": collator, "processing_class": TOKENIZER, "rule": above(3.9)}
    trainer = train(tmp_path, model, data=TEXTS, options=options, **more)
    TOKENIZER.padding_side = "right"
    assert len(seen.scored) == trainer.loader.report.candidates and len(set(seen.scored)) > len(
        TEXTS
    )  # new masks in each pass
    assert (
        seen.trained
        and set(seen.trained) <= set(seen.scored)
        and trainer.loader.report.kept < trainer.loader.report.candidates
    )
    again = [unpadded(collator([text]))[0] for text in TEXTS]  # the counter-check: drawn anew it is another
    assert len(set(again) - set(seen.scored)) > len(TEXTS) / 4


def test_only_a_collator_that_draws_is_random_and_looking_leaves_no_trace():
    state = torch.get_rng_state()
    assert is_random(DataCollatorForLanguageModeling(TOKENIZER), TEXTS) and not is_random(PADDING, LABELLED)
    assert torch.equal(torch.get_rng_state(), state)


def flips(coin):
    """Return a collator that turns each example around or not."""
    return lambda rows: {"x": torch.stack([row["x"] * (-1 if coin() else 1) for row in rows])}


def flips_all(coin):
    """Return one that tosses a single coin for the batch."""
    return lambda rows: {"x": (-1 if coin() else 1) * torch.stack([row["x"] for row in rows])}


OWN = np.random.default_rng(0)
COINS = {
    "torch": lambda: torch.rand(()) < 0.5,
    "torch, seldom": lambda: torch.rand(()) < 1e-4,
    "Python": lambda: random.random() < 0.5,
    "NumPy": lambda: np.random.rand() < 0.5,  # noqa: NPY002
    "its own": lambda: OWN.random() < 0.5,
}


@pytest.mark.parametrize("coin", COINS)
@pytest.mark.parametrize("collator, n", [(flips, 1), (flips, 3), (flips_all, 3)])
def test_a_collator_that_flips_is_random_whatever_the_seed_and_the_block(coin, collator, n):
    missed = 0
    for seed in range(1000 if n == 1 else 100):  # of one example, two looks would miss 500
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        missed += not is_random(collator(COINS[coin]), [{"x": torch.ones(3)}] * n)
    assert missed == 0


SHORT = {
    "masks": lambda seed: DataCollatorForLanguageModeling(TOKENIZER),
    "masks from a seed": lambda seed: DataCollatorForLanguageModeling(TOKENIZER, seed=seed),
    "whole words": lambda seed: whole_words,
    "crops": lambda seed: crops,
}


@pytest.mark.parametrize("name", SHORT)
def test_masks_of_a_short_text_are_random_whatever_the_seed(name):
    for seed in range(200):
        torch.manual_seed(seed)
        random.seed(seed)
        assert is_random(SHORT[name](seed), [{"input_ids": [5, 6, 7, 8]}]), seed


def test_the_chance_to_miss_a_seldom_draw_is_the_one_that_is_stated():
    coins = np.random.default_rng(1)
    collate = flips(lambda: coins.random() < 0.1)
    missed = sum(not is_random(collate, [{"x": torch.ones(3)}]) for _ in range(1000))
    assert abs(missed - 1000 * 0.9**20) < 3.29 * np.sqrt(1000 * 0.9**20 * (1 - 0.9**20))


def test_what_is_no_draw_is_not_taken_for_one():
    gaps = [{"x": [1.0, float("nan")], "label": float("nan")}] * 2
    assert not is_random(default_data_collator, gaps)
    numbered = iter(range(99))
    assert not is_random(lambda rows: {"x": torch.ones(2), "names": [f"file {next(numbered)}"]}, gaps)
    assert is_random(
        lambda rows: {"x": torch.ones(2)} | {"y": torch.ones(2)} if next(numbered) % 3 else {}, gaps
    )
    assert is_random(lambda rows: {"x": torch.ones(1 + next(numbered) % 2)}, gaps)
    looked = []
    is_random(lambda rows: looked.append(len(rows)) or PADDING(rows), LABELLED)
    assert looked == [8] * 20  # and no more, however large the block is


def test_rows_are_joined_with_the_tokenizers_padding_on_its_side():
    rows = [
        {"input_ids": torch.full((1, n), n), "labels": torch.tensor([n]), "spans": torch.full((1, 2, n), n)}
        for n in (1, 3)
    ]
    left = SimpleNamespace(pad_token_id=7, padding_side="left")
    batch = joined([{name: row[name] for name in ("input_ids", "labels")} for row in rows], left)
    assert batch["input_ids"].tolist() == [[7, 7, 1], [3, 3, 3]] and batch["labels"].tolist() == [1, 3]
    assert joined([{"labels": row["spans"]} for row in rows])["labels"].tolist()[0] == [[1, -100, -100]] * 2
    with pytest.raises(ValueError, match="how to pad the column 'spans'"):
        joined(rows, left)
    with pytest.raises(ValueError, match="how to pad the column 'input_ids'"):
        joined(rows)


def test_a_collator_may_take_columns_out_of_its_examples(tmp_path):
    def taking(rows):
        labels = torch.tensor([row.pop("labels") for row in rows])
        return {
            name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "attention_mask")
        } | {"labels": labels}

    rows = [dict(row) for row in DATA]
    trainer = train(tmp_path, data=rows, data_collator=taking, rule=clipped(0.8), options={"max_steps": 20})
    assert trainer.loader.report.candidates > 32 and rows == DATA


def test_choices_among_several_answers_are_scored(tmp_path):
    questions = [
        {"input_ids": [text["input_ids"][:3]] * 2 + [[5, 6, 7]], "label": i % 3}
        for i, text in enumerate(TEXTS)
    ]
    torch.manual_seed(5)
    model = BertForMultipleChoice(BertConfig(**SIZE, max_position_embeddings=16))
    options = {"max_steps": 4, "compute_budget": 200, "remove_unused_columns": False}
    trainer = train(
        tmp_path,
        model,
        data=questions,
        options=options,
        data_collator=DataCollatorForMultipleChoice(TOKENIZER),
        rule=clipped(2),
    )
    assert trainer.state.global_step == 4 and trainer.loader.report.kept < trainer.loader.report.candidates


def test_grouped_by_length_kept_batches_need_less_padding(tmp_path):
    texts = [
        {"input_ids": [5] * n, "labels": n % 2}
        for n in np.random.default_rng(23).integers(2, 9, 160).tolist()
    ]
    waste = {}
    for strategy in ("random", "group_by_length"):
        masks, model = [], tiny_bert()
        model.register_forward_pre_hook(
            lambda model, _, inputs, masks=masks: (
                masks.append(inputs["attention_mask"]) if torch.is_grad_enabled() else None
            ),
            with_kwargs=True,
        )
        options = {"train_sampling_strategy": strategy, "max_steps": 8}
        train(
            tmp_path,
            model,
            data=texts,
            options=options,
            rule=clipped(1),
            data_collator=PADDING,
            processing_class=TOKENIZER,
        )
        assert {len(mask) for mask in masks} == {4}  # full batches, only narrower
        waste[strategy] = np.mean([1 - mask.double().mean().item() for mask in masks])
    assert waste["group_by_length"] < waste["random"] / 2


def test_workers_change_nothing(tmp_path):
    here, there = (
        train(tmp_path, rule=clipped(0.8), options={"dataloader_num_workers": n, "max_steps": 10})
        for n in (0, 2)
    )
    assert vars(here.loader.report) == vars(there.loader.report) and same_weights(here.model, there.model)


def test_what_is_not_scored_is_collated_once_and_by_the_batch(tmp_path):
    calls = []
    collate = lambda rows: calls.append(len(rows)) or tensors(rows)
    train(tmp_path, rule=constant(0.5), data_collator=collate, options={"max_steps": 5})
    assert calls == [4] * 5


def test_prepared_once_is_what_is_scored_and_handed_out():
    made = []
    prepare = lambda block: made.extend(block) or [("made", i) for i in block]
    loader = numpy_loader(clipped(0.6), score=lambda rows: LOSS[[i for _, i in rows]], prepare=prepare)
    batches, kept = list(loader), np.flatnonzero(coins(40) < np.minimum(1, LOSS / 0.6))
    assert made == list(range(40)) and list(chain(*batches)) == [
        ("made", i) for i in kept[: len(kept) // 4 * 4]
    ]


def test_a_loss_that_is_not_the_models_own_is_refused_before_the_first_step(tmp_path):
    class Doubled(type(tiny_bert())):
        def forward(self, input_ids, attention_mask, labels):
            outputs = super().forward(input_ids, attention_mask, labels=labels)
            outputs.loss = 2 * outputs.loss
            return outputs

    model = Doubled(tiny_bert().config)
    for options in ({}, {"weighting": "acceptance"}):
        with pytest.raises(ValueError, match=r"Doubled reports the loss .* criterion=callable"):
            RSFTrainer(model, arguments(tmp_path, **options), train_dataset=DATA, rule=clipped(0.5)).train()
