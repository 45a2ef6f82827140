"""The lines that README and docs/how-to.md tell a reader to copy, run on a tiny model."""

import re
from pathlib import Path

import torch
from helpers import DATA, tensors, tiny_bert

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = (ROOT / "docs/how-to.md").read_text(encoding="utf-8")


def block(page, language, word):
    """Return the block of a page that is in a language and has a word."""
    blocks = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    (found,) = [one for one in blocks if word in one]
    return found


def test_the_trainer_s_lines_train(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for page in (HOW_TO, (ROOT / "README.md").read_text(encoding="utf-8")):
        lines = block(page, "python", "RSFTrainer(").replace(
            "num_train_epochs=3", "num_train_epochs=3, use_cpu=True, report_to=[], save_strategy='no'"
        )
        names = {"model": tiny_bert(), "train": DATA, "tokenizer": None}
        exec(lines, names)
        assert names["trainer"].spent >= 3 * 3 * len(DATA)
    assert "kept of" in capsys.readouterr().out


def trained(sign):
    """Train in the loop of the how-to before (-) or after (+) its change, and return what it has made."""
    model = tiny_bert().train()
    optimizer = torch.optim.AdamW(model.parameters())
    names = {"model": model, "train": DATA, "collate": tensors, "optimizer": optimizer}
    exec(block(HOW_TO, "python", "def score(rows)"), names)
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
