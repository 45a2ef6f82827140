"""The last layer at the first position against the full form; outputs of the frozen layers kept on disk, killed on the way."""

import copy
import shutil
from types import SimpleNamespace

import helpers
import numpy as np
import pytest
import torch

from rsf.accounts import write_text
from rsf.lab import arms, models
from rsf.lab.models import last_layer
from rsf.lab.models.last_layer import CachedOutputs, LastLayer

SETTINGS = helpers.FEW_STEPS | {"scoring_dropout": False, "passes": 2, "k": 0.6}


def both(model, dtype=torch.float64):
    """Return the full form of the last layer and the short one, with the same weights."""
    full = models.split_layers(model, 1)[1].to(dtype)
    return full, LastLayer(model).to(dtype)


def batch(width, rows=5, tokens=7, seed=1):
    """Return hidden states, a mask with padding, labels."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[0, 3:] = 0
    mask[1, 1:] = 0  # only the first position is there
    return {
        "inputs_embeds": torch.randn(rows, tokens, width, dtype=torch.float64, generator=generator),
        "attention_mask": mask,
        "labels": torch.arange(rows) % 2,
    }


def counterparts(full, short):
    """Yield (name, parameter of the full form, parameter of the short one)."""
    others = dict(full.named_parameters())
    for name, own in short.named_parameters():
        yield (
            name,
            others[name.replace("layer.", "bert.encoder.layer.0.", 1)]
            if name.startswith("layer.")
            else others.get(name, others.get(f"bert.{name}")),
            own,
        )


def agree(full, short, inputs, tolerance):
    ours, theirs = short(**inputs), full(**inputs)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=tolerance)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=0, atol=tolerance)
    ours.loss.backward()
    theirs.loss.backward()
    for name, one, other in counterparts(full, short):
        if name.endswith("key.bias"):  # it adds the same to every score: its gradient is rounding
            assert other.grad is None and one.grad.abs().max() < 1e-12
        else:
            torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=tolerance, msg=name)


def test_logits_and_gradients_are_those_of_the_full_form():
    full, short = both(helpers.tiny_bert().eval())
    agree(full.eval(), short.eval(), batch(32), 1e-12)


def test_they_are_with_the_pretrained_weights_too():
    model = models.load("bert", 2, np.random.default_rng(0), source="embedded").model
    full, short = both(model)
    agree(full.eval(), short.eval(), batch(384, tokens=40), 1e-8)


def test_what_is_masked_and_the_bias_of_the_key_change_nothing():
    _, short = both(helpers.tiny_bert())
    inputs = batch(32)
    before = short.eval()(**inputs).logits
    changed = copy.deepcopy(inputs)
    changed["inputs_embeds"][0, 3:] = 1e3
    short.layer.attention.self.key.bias.data += 5
    assert torch.equal(short(**changed).logits, before)
    changed["inputs_embeds"][0, 2] += 1  # what is not masked does
    assert not torch.equal(short(**changed).logits, before)


def test_with_dropout_they_are_equal_under_shared_masks(monkeypatch):
    full, short = both(helpers.tiny_bert())
    full.set_attn_implementation("eager")
    inputs = batch(32)
    generator = torch.Generator().manual_seed(2)
    shapes = [
        (5, 2, 7, 7),
        (5, 7, 32),
        (5, 7, 32),
        (5, 32),
    ]  # attention, after it, after the feed-forward, pooled
    masks = [(torch.rand(shape, generator=generator) > 0.3) / 0.7 for shape in shapes]
    assert (masks[0][:, :, 0].sum(-1) != 7).any()  # the weights do not sum to 1
    waiting = []

    def shared(x, p=0.5, training=True, inplace=False):
        if not training:
            return x
        mask = waiting.pop(0)
        if mask.shape != x.shape:
            mask = mask[:, :, 0] if mask.ndim == 4 else mask[:, :1]
        return x * mask

    monkeypatch.setattr(torch.nn.functional, "dropout", shared)
    found = {}
    for name, model in (("full", full), ("short", short)):
        waiting[:] = masks
        found[name] = model.train()(**inputs)
        found[name].loss.backward()
        assert not waiting
    torch.testing.assert_close(found["short"].logits, found["full"].logits, rtol=0, atol=1e-12)
    for name, one, other in counterparts(full, short):
        if not name.endswith("key.bias"):
            torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("arm", ["plain", "article", "twin"])
def test_a_trainer_takes_it_where_it_takes_the_full_form(arm):
    rng = np.random.default_rng(4)
    rows = [
        {"hidden": torch.from_numpy(rng.normal(size=(n, 32))), "label": int(n % 2), "index": i}
        for i, n in enumerate(rng.integers(2, 9, 24))
    ]
    trained = []
    for model in both(helpers.no_dropout()):
        trainer = arms.fine_tune(model, rows, arm, 3, SETTINGS, models.pad_hidden)
        trained.append((model, trainer.loader.report))
    (full, one), (short, other) = trained
    assert (one.kept, one.scored, one.trained) == (other.kept, other.scored, other.trained)
    moved = 0
    for name, before, after in counterparts(full, short):
        if not name.endswith("key.bias"):
            torch.testing.assert_close(after, before, rtol=0, atol=1e-7, msg=name)
            moved += 1
    assert moved == 19


# ---- the cache

TEXTS = [" ".join(f"w{(i * 7 + j) % 40}" for j in range(2 + i % 5)) for i in range(23)]


def words(texts, truncation, max_length):
    return {"input_ids": [[3 + int(word[1:]) for word in text.split()][:max_length] for text in texts]}


class Tokens:
    """A tokenizer of the words w0 to w46."""

    __call__ = staticmethod(words)
    pad = helpers.TOKENIZER.pad


@pytest.fixture
def lower():
    return models.split_layers(helpers.tiny_bert(), 1)[0]


@pytest.fixture
def chunks_of_five(monkeypatch):
    monkeypatch.setattr(last_layer, "CHUNK", 5)


def test_the_cache_holds_what_the_frozen_layers_make_of_each_text(lower, chunks_of_five, tmp_path):
    hidden, lengths = last_layer.cached(lower, Tokens(), TEXTS, 4, tmp_path)
    assert hidden.dtype == np.float16 and lengths.tolist() == [min(len(t.split()), 4) for t in TEXTS]
    exact = models.lower_outputs(lower, Tokens(), TEXTS, [0] * 23, 4)
    index = [20, 3, 11]
    rows = CachedOutputs(hidden, lengths, [1, 0, 1], index)
    assert [rows[i]["label"] for i in range(3)] == [1, 0, 1] and [rows[i]["index"] for i in range(3)] == index
    for row, text in zip((rows[i] for i in range(3)), index, strict=True):
        torch.testing.assert_close(row["hidden"].float(), exact[text]["hidden"], rtol=1e-3, atol=1e-3)
    model = LastLayer(helpers.tiny_bert()).eval()
    rounded = [row | {"hidden": row["hidden"].half()} for row in exact[:6]]
    with torch.inference_mode():
        logits, near = (model(**models.pad_hidden(some)).logits for some in (exact[:6], rounded))
    assert 0 < (logits - near).abs().max() < 1e-2


def test_a_cache_that_was_stopped_goes_on_and_is_read_when_it_is_whole(
    lower, chunks_of_five, tmp_path, monkeypatch
):
    whole = last_layer.cached(lower, Tokens(), TEXTS, 4, tmp_path / "at once")

    written = []

    def write(file, done):
        write_text(file, done)
        written.append(int(done))
        if written == [5, 10]:
            raise KeyboardInterrupt

    monkeypatch.setattr(last_layer, "write_text", write)
    with pytest.raises(KeyboardInterrupt):
        last_layer.cached(lower, Tokens(), TEXTS, 4, tmp_path / "twice")
    again = last_layer.cached(lower, Tokens(), TEXTS, 4, tmp_path / "twice")
    assert written == [5, 10, 15, 20, 23]
    for one, other in zip(whole, again, strict=True):
        assert np.array_equal(one, other)
    read = last_layer.cached(lower, None, TEXTS, 4, tmp_path / "twice")  # needs no tokenizer any more
    assert np.array_equal(read[0], whole[0])
    last_layer.cached(lower, Tokens(), TEXTS, 3, tmp_path / "twice")
    lower.encoder.layer[0].output.dense.weight.data += 1
    last_layer.cached(lower, Tokens(), TEXTS, 3, tmp_path / "twice")
    assert len(list((tmp_path / "twice").glob("*.done"))) == 3  # each of its own weights, texts and length


def test_a_cache_that_the_disk_has_no_room_for_is_not_begun(lower, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"take 0.0 GB, .* has 0.0 GB free: set RSF_CACHE"):
        last_layer.cached(lower, Tokens(), TEXTS, 4, tmp_path)
    assert not list(tmp_path.iterdir())
