"""The lines that README and docs/how-to.md tell a reader to copy, run on a tiny model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sharded
import torch
from helpers import DATA, tensors, tiny_bert

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = (ROOT / "docs/how-to.md").read_text(encoding="utf-8")


README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(page, language, word):
    """Return the block of a page that is in a language and has a word."""
    blocks = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    (found,) = [one for one in blocks if word in one]
    return found


def test_the_trainer_s_lines_train(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = block(HOW_TO, "python", "RSFTrainer(").replace(
        "num_train_epochs=3", "num_train_epochs=3, use_cpu=True, report_to=[], save_strategy='no'"
    )
    names = {"model": tiny_bert(), "train": DATA, "tokenizer": None}
    exec(lines, names)
    assert names["trainer"].spent >= 3 * 3 * len(DATA)
    assert "kept of" in capsys.readouterr().out


@pytest.mark.parametrize("sign", "-+")
def test_readme_s_ten_lines_run_before_and_after_their_change(sign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change = block(README, "diff", "RejectionLoader(").splitlines()
    assert len(change) <= 10
    names = {"model": tiny_bert(), "train": DATA, "collate": tensors, "rng": np.random.default_rng(0)}
    exec(
        "from torch.utils.data import DataLoader\nfrom transformers import Trainer, TrainingArguments", names
    )
    exec(block(HOW_TO, "python", "or a coin would hang"), names)
    lines = "\n".join(line[1:] for line in change if line[0] in (" ", sign))
    exec(
        lines.replace(
            '("out")', '("out", num_train_epochs=1, use_cpu=True, report_to=[], save_strategy="no")'
        ),
        names,
    )
    assert names["trainer"].train().global_step >= 1
    assert sum(len(batch["labels"]) for batch in names["batches"]) > len(DATA) // 4


def trained(sign):
    """Train in the loop of the how-to before (-) or after (+) its change, and return what it has made."""
    model = tiny_bert().train()
    optimizer = torch.optim.AdamW(model.parameters())
    names = {"model": model, "train": DATA, "collate": tensors, "optimizer": optimizer}
    exec(block(HOW_TO, "python", "or a coin would hang"), names)
    change = block(HOW_TO, "diff", "RejectionLoader(").splitlines()
    exec("\n".join(line[1:] for line in change if line[0] in (" ", sign)), names)
    return names


def test_the_loop_of_one_s_own_trains_before_and_after_its_change():
    start = tiny_bert().state_dict()["classifier.weight"]
    made = {sign: trained(sign) for sign in "-+"}
    for names in made.values():
        after = names["model"]
        assert after.training and not torch.equal(after.state_dict()["classifier.weight"], start)
    report = made["+"]["batches"].report
    assert report.candidates == report.scored == len(DATA) and 0 < report.trained <= report.kept


def test_the_loop_for_sharded_weights_gives_two_processes_what_it_gives_one():
    where = Path(sharded.__file__)
    paths = os.pathsep.join([str(ROOT), str(where.parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", where],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads(done.stdout)
    alone = sharded.trained(sharded=False)
    assert (two["processes"], alone["processes"]) == (2, 1)
    assert (
        two["report"] == alone["report"] and "128 scored" in two["report"] and "128 kept" not in two["report"]
    )
    np.testing.assert_allclose(two["weights"], alone["weights"], rtol=0, atol=1e-5)
    assert not np.allclose(two["weights"], tiny_bert().classifier.weight.tolist(), rtol=0, atol=1e-3)
