"""The last layer of a BERT classifier where it is read, the first position, on stored outputs of those below.

    scores   q·(W_k h_j + b_k)        = (W_kᵀ q)·h_j + q·b_k
    values   sum_j p_j (W_v h_j + b_v) = W_v sum_j p_j h_j + b_v sum_j p_j

The pooler reads the first position alone, so there is one query, and no key or value is made of any position;
q·b_k is the same for every j, and the softmax takes it out. The weights p_j sum to 1, but for attention
dropout.
"""

import copy
import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BertForSequenceClassification, BertModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput

from rsf.accounts import write_text
from rsf.lab.models import frozen_outputs

logger = logging.getLogger(__name__)
CHUNK = 512  # texts between two notes of how far a cache is


class LastLayer(torch.nn.Module):
    """The last layer, pooler and head of a BERT classifier, computed at the first position only.

    It equals the full form, and is called as the upper part of `split_layers` is, with `inputs_embeds`,
    `attention_mask` and `labels`. It holds copies of the classifier's own modules; the key's bias, which
    nothing hangs on, is not trained.
    """

    def __init__(self, model: BertForSequenceClassification):
        super().__init__()
        self.layer = copy.deepcopy(model.bert.encoder.layer[-1])
        self.pooler = copy.deepcopy(model.bert.pooler)
        self.dropout = copy.deepcopy(model.dropout)
        self.classifier = copy.deepcopy(model.classifier)
        self.layer.attention.self.key.bias.requires_grad_(False)

    def forward(
        self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return loss and logits of hidden states (batch, tokens, hidden), in any precision."""
        hidden = inputs_embeds.to(self.classifier.weight.dtype)
        first = hidden[:, :1]  # (batch, 1, hidden)
        attended = self.layer.attention.output(self._attend(first, hidden, attention_mask), first)
        logits = self.classifier(
            self.dropout(self.pooler(self.layer.output(self.layer.intermediate(attended), attended)))
        )
        return SequenceClassifierOutput(
            loss=(None if labels is None else F.cross_entropy(logits, labels)), logits=logits
        )

    def _attend(self, first, hidden, mask):
        """Return what the first position attends to, (batch, 1, hidden)."""
        own = self.layer.attention.self
        heads = own.num_attention_heads
        query = own.query(first).view(len(first), heads, -1)  # (batch, heads, size)
        keys = own.key.weight.view(heads, -1, hidden.shape[-1])  # (heads, size, hidden)
        asked = own.scaling * torch.einsum("bhs,hsd->bhd", query, keys)
        scores = asked @ hidden.transpose(1, 2)  # (batch, heads, tokens)
        weights = own.dropout(scores.masked_fill(mask[:, None] == 0, -torch.inf).softmax(-1))
        found = torch.einsum(
            "bhd,hsd->bhs", weights @ hidden, own.value.weight.view(heads, -1, hidden.shape[-1])
        )
        found = found + weights.sum(-1, keepdim=True) * own.value.bias.view(heads, -1)
        return found.reshape(len(first), 1, -1)


class CachedOutputs(torch.utils.data.Dataset):
    """Rows {"hidden": (tokens, hidden) float16, "label", "index"} of some texts, read from the file of all.

    Parameters
    ----------
    hidden : array (all tokens of all texts, hidden), mapped from the disk
    lengths : array (texts,)
    labels : sequence (rows,), or (rows, 2) of the ends of an answer
    index : sequence (rows,), the texts that are the rows
    """

    def __init__(self, hidden: np.ndarray, lengths: np.ndarray, labels: Sequence[int], index: Sequence[int]):
        self.hidden = hidden
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths
        self.labels = np.asarray(labels)
        self.index = np.asarray(index)

    def __len__(self):
        return len(self.index)

    def __getitem__(self, row):
        text = self.index[row]
        return {
            "hidden": torch.from_numpy(self.hidden[self.starts[text] : self.ends[text]]),
            "label": self.labels[row].tolist(),
            "index": int(text),
        }


def cached(
    lower: BertModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    tokens: int,
    folder: Path,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the frozen lower part makes of each text, cut at `tokens`; computed once, then read.

    The name of the files is a digest of weights, texts and `tokens`. A computation that was killed goes on
    behind its last whole chunk.

    Returns
    -------
    hidden : array (all tokens of all texts, hidden) float16, mapped from the disk
    lengths : array (texts,)

    Raises
    ------
    OSError
        The disk has no room for all of it: nothing is begun.
    """
    name = _digest(lower, texts, tokens)
    lengths_file, hidden_file, done_file = (
        folder / f"{name}.{ending}" for ending in ("lengths.npy", "float16", "done")
    )
    done = int(done_file.read_text()) if done_file.exists() else 0
    if done < len(texts):
        encoded = tokenizer(list(texts), truncation=True, max_length=tokens)["input_ids"]
        lengths = np.array([len(one) for one in encoded])
        folder.mkdir(parents=True, exist_ok=True)
        hidden = _room_for(hidden_file, lengths, lower.config.hidden_size)
        np.save(lengths_file, lengths)
        ends = np.cumsum(lengths)
        for begin in range(done, len(texts), CHUNK):
            for i, row in frozen_outputs(lower, tokenizer, encoded[begin : begin + CHUNK]):
                hidden[ends[begin + i] - lengths[begin + i] : ends[begin + i]] = row.half().numpy()
            hidden.flush()
            done = min(begin + CHUNK, len(texts))
            write_text(done_file, str(done))
    lengths = np.load(lengths_file)
    return np.memmap(
        hidden_file, np.float16, "c", shape=((int(lengths.sum()), lower.config.hidden_size))
    ), lengths  # "c": a tensor may not be read-only


def _digest(lower, texts, tokens):
    """Return a name for what a cache holds."""
    parts = [f"{tokens} {len(lower.encoder.layer)}".encode()]
    parts += [value.numpy().tobytes() for value in lower.state_dict().values()]
    return hashlib.sha256(b"".join([*parts, *(text.encode() + b"\0" for text in texts)])).hexdigest()[:16]


def _room_for(file, lengths, width):
    """Return the mapped file, made as large as it will be, or raise OSError if the disk is too small."""
    size = 2 * width * int(lengths.sum())
    there = file.stat().st_blocks * 512 if file.exists() else 0
    free = shutil.disk_usage(file.parent).free
    if free < size - there:
        raise OSError(
            f"the outputs of the frozen layers take {size / 1e9:.1f} GB, "
            f"{file.parent} has {free / 1e9:.1f} GB free: set RSF_CACHE to a folder with more room"
        )
    logger.info("%s: %.1f GB", file, size / 1e9)
    with open(file, "ab") as handle:
        handle.truncate(size)
    return np.memmap(file, np.float16, "r+", shape=(int(lengths.sum()), width))
