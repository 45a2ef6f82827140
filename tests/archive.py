"""What the full sections need on a machine with a GPU, without network and hub, in one file.

    python tests/archive.py           writes build/rsf-full.tar.xz, from real reviews
    python tests/archive.py --tiny    for a trial on a CPU

Inside it: python -m rsf full --minutes 9 --out DIR (see `rsf.lab.full`).
"""

import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from rsf.accounts import write_json, write_text
from rsf.lab import data, full, models, records

MOST = 60  # MiB of an archive
TINY = {  # of the settings of a trial, whose records belong to its own protocol alone
    "model": "embedded",
    "train": 24,
    "validation": 16,
    "test": 20,
    "tokens": 16,
    "batch_size": 4,
    "passes": 3,
    "edges": [],
    "contrasts": [],  # of one seed nothing is said
    "optimizer": "adamw_torch",
}
SHAPES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def pack(*, tiny: bool = False) -> Path:
    """Write the archive and return it; ValueError if it is too large.

    The protocol of a tiny one is its own: no other takes its records.
    """
    root = records.checkout()
    file = root / "build" / f"rsf-full{'-tiny' * tiny}.tar.xz"
    sections = dict(records.sections())
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder) / "rsf-full"
        shutil.copytree(root / "rsf", top / "rsf", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("data/imdb", "results", "build"):
            (top / name).mkdir(parents=True)
        for name in full.with_tuning(full.QUEUE):
            if tiny:
                less = {"seeds": records.protocol(name)["seeds"][:1], "grid_learning_rate": [1e-3]}
                sections[name] = (
                    sections[name] | TINY | {key: less[key] for key in less if key in sections[name]}
                )
            elif runs := records.runs(name):
                write_text(top / "results" / f"{name}.jsonl", "".join(f"{json.dumps(run)}\n" for run in runs))
        write_json(top / "results" / "protocol.json", sections)
        write_text(top / "COMMIT", records.commit())
        for name in ("results/protocol.toml", "pyproject.toml", "LICENSE"):
            shutil.copy(root / name, top / name)
        tokenizer = _model(top / models.ROUNDED.name, tiny)
        np.savez(
            top / "data" / "imdb" / "tokens.npz",
            **_tokens(data.load("imdb", source="embedded" if tiny else "hub,local"), tokenizer),
        )
        file.parent.mkdir(exist_ok=True)
        with tarfile.open(file, "w:xz") as tar:
            tar.add(top, top.name)
    size = file.stat().st_size / 2**20
    records.must(size <= MOST, f"{file.name} has {size:.1f} MiB, more than {MOST}")
    return file


def _model(folder, tiny):
    """Write the embedded model, rounded to float16, and what a record calls it; return its tokenizer."""
    source = models.verified(models.embedded_folder())
    model = BertModel(BertConfig(**SHAPES)) if tiny else AutoModel.from_pretrained(source)
    model.half().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder)
    write_text(
        folder / "NAME",
        "all-MiniLM-L6-v2 in name only, tiny and random" if tiny else "all-MiniLM-L6-v2, rounded to float16",
    )
    return tokenizer


def _tokens(reviews, tokenizer):
    """Return the reviews as `rsf.lab.data` reads them: token ids, and of each text a digest."""
    whose = reviews.source.removeprefix("imdb: ").rsplit(" (", 1)[0]
    found = {"source": np.array(f"local copy, tokenised, of {whose}")}
    for part, table in (("train", reviews.train), ("test", reviews.test)):
        texts = list(table["text"])
        ids = tokenizer(texts, truncation=True, max_length=512)["input_ids"]
        digests = b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in texts)
        found |= {
            f"{part}_ids": np.concatenate(ids).astype(np.uint16),
            f"{part}_lengths": np.array([len(one) for one in ids], np.uint16),
            f"{part}_label": np.array(table["label"], np.int8),
            f"{part}_text": np.frombuffer(digests, np.int64),
        }
    return found


if __name__ == "__main__":
    sys.stdout.write(f"made {pack(tiny='--tiny' in sys.argv[1:])}\n")
