"""Texts into tokens: a prompt to sample from, a prompt and a completion to train on; special tokens once."""

from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, encoder: bool = False) -> list[int]:
    """Return a prompt's token ids: the special first token once, the end only where an encoder reads it."""
    bos = tokenizer.bos_token
    ids = tokenizer(prompt, add_special_tokens=not (bos and prompt.startswith(bos)))["input_ids"]
    ended = ids[1:] and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token)
    return ids[:-1] if ended and not encoder else ids


def encode(row: Mapping, tokenizer: PreTrainedTokenizerBase, seq2seq: bool = False) -> dict[str, list[int]]:
    """Return input_ids and labels of a row with prompt and completion; the loss is that of the completion.

    The end-of-sequence token is learned unless the row says that the model did not write it (`ended` is
    False: a stop string, or `max_new_tokens`). The text is tokenized as a whole, in which a completion that
    begins with a space keeps one, not two. TRL's SFTTrainer takes these two columns as they are,
    `kept.map(encode, fn_kwargs={"tokenizer": tokenizer})`; of a completion that is text it would learn the
    end of every row.
    """
    head = prompt_ids(tokenizer, row["prompt"], seq2seq)
    whole = prompt_ids(tokenizer, row["prompt"] + row["completion"])
    apart = seq2seq or whole[: len(head)] != head
    tail = (
        tokenizer(row["completion"], add_special_tokens=False)["input_ids"] if apart else whole[len(head) :]
    )
    if tokenizer.eos_token_id is not None and row.get("ended") is not False:
        tail = [*tail, tokenizer.eos_token_id]
    masked = [] if seq2seq else [-100] * len(head)
    return {"input_ids": head if seq2seq else head + tail, "labels": masked + tail}
