"""What several tests share: tiny models, their data, quiet training arguments, a loader of numbers."""

import logging
from contextlib import contextmanager

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainingArguments,
)

from rsf.lab.models import letter_tokenizer
from rsf.rules import at_rate, clipped
from rsf.selection import RejectionLoader, RSFConfig, RSFTrainer

# ---- selection: numbers, then a tiny BERT on rows of six tokens

LOSS = np.random.default_rng(7).exponential(0.5, 40)  # the criterion of examples 0 to 39
A = np.minimum(1, LOSS / 0.6)
BLOCKS = [list(range(start, min(start + 6, 40))) for start in range(0, 40, 6)]  # the last one is short


def coins(n):
    return np.random.default_rng(3).random(n)


def numpy_loader(rule, score=lambda block: LOSS[block], blocks=BLOCKS, size=4, **options):
    return RejectionLoader(blocks, score, rule, size, np.random.default_rng(3), collate=list, **options)


TOKENS = np.random.default_rng(11).integers(0, 50, (32, 6))
DATA = [{"input_ids": row.tolist(), "attention_mask": [1] * 6, "labels": int(row[0] > 24)} for row in TOKENS]


def tiny_bert():
    torch.manual_seed(5)
    size = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    return BertForSequenceClassification(
        BertConfig(**size, max_position_embeddings=8, num_labels=2)
    )  # dropout 0.1


def tensors(rows):
    return {name: torch.tensor([row[name] for row in rows]) for name in DATA[0]}


def arguments(folder, kind=RSFConfig, **options):
    quiet = {
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "optim": "adamw_torch",
    }
    options = {
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 4,
        "max_steps": 20,
        "seed": 9,
        "max_grad_norm": 0.0,
    } | options
    return kind(output_dir=str(folder), **(quiet | options))


def train(folder, model=None, kind=RSFTrainer, *, data=DATA, options=None, callback=None, **more):
    """Train in silence and return the trainer."""
    settings = arguments(folder, RSFConfig if kind is RSFTrainer else TrainingArguments, **(options or {}))
    trainer = kind(
        model or tiny_bert(), settings, train_dataset=data, callbacks=callback and [callback], **more
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


@contextmanager
def heard(caplog, name):
    """Let caplog hear a logger that does not propagate, as those of transformers."""
    logger = logging.getLogger(name)
    logger.addHandler(caplog.handler)
    try:
        yield
    finally:
        logger.removeHandler(caplog.handler)


def same_weights(model, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def no_dropout():
    model = tiny_bert()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def at_rate_rule():
    return at_rate(clipped, 0.4, window=24)


# ---- texts of unlike length

WORDS = ["[PAD]", "[UNK]", "[MASK]", *(f"w{i}" for i in range(47))]
TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(dict(zip(WORDS, range(50), strict=True)), "[UNK]")),
    pad_token="[PAD]",
    unk_token="[UNK]",
    mask_token="[MASK]",
)
RNG = np.random.default_rng(17)
TEXTS = [{"input_ids": RNG.integers(3, 50, n).tolist()} for n in RNG.integers(3, 9, 32)]  # of unlike length
LABELLED = [text | {"label": int(text["input_ids"][0] > 24)} for text in TEXTS]
PADDING = DataCollatorWithPadding(TOKENIZER)


# ---- generation: a tiny GPT-2 that writes letters

LETTERS = "abcdef\n"


def letters_tokenizer(letters=LETTERS, **special):
    """One token a letter, then the special ones."""
    return letter_tokenizer([*letters, *special.values()], **special)


def tiny_gpt2(words=7, seed=3, **config):
    torch.manual_seed(seed)
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48, "initializer_range": 0.6}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=words, bos_token_id=None, eos_token_id=None, **size | config)
    )
    return model.double().eval()


# ---- the sums in small, for a protocol of a few seconds

SUMS = {
    "task": "sums",
    "numbers": 40,
    "seeds": [0, 1],
    "steps": 60,
    "base_steps": 20,
    "base_learning_rate": 3e-3,
    "base_weight_decay": 3.0,
    "rounds": 2,
    "pool": 64,
    "validation": 40,
    "test": 40,
}


FEW_STEPS = {  # settings of an arm that every test of one shares
    "unit": "batch",
    "batch_size": 4,
    "learning_rate": 5e-3,
    "schedule": "linear",
    "optimizer": "adamw_torch",
    "weight_decay": 0.0,
    "bf16": False,
    "window": 8,
}
