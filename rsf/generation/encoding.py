"""Texts and conversations into tokens: a prompt to sample from, a prompt and a completion to train on."""

import re
from collections.abc import Mapping, Sequence

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rsf.acceptance import refuse_if
from rsf.generation.drafts import Conversation, rows_of


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Conversation, encoder: bool = False
) -> list[int]:
    """Return a prompt's token ids: the special first token once, the end only where an encoder reads it.

    A conversation is written by the tokenizer's chat template, up to where the assistant begins.
    """
    if not isinstance(prompt, str):
        return _written(tokenizer, prompt, add_generation_prompt=True)["input_ids"]
    bos = tokenizer.bos_token
    ids = tokenizer(prompt, add_special_tokens=not (bos and prompt.startswith(bos)))["input_ids"]
    ended = ids[1:] and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token)
    return ids[:-1] if ended and not encoder else ids


def encode(row: Mapping, tokenizer: PreTrainedTokenizerBase, seq2seq: bool = False) -> dict[str, list[int]]:
    """Return input_ids and labels of a row with prompt and completion; the loss is that of the completion.

    The end is learned unless the row says that the model did not write it (`ended` is False: a stop string,
    or `max_new_tokens`). A text is tokenized as a whole, in which a completion that begins with a space keeps
    one, not two. A conversation is written by the tokenizer's chat template; learned is what its own mask
    calls the assistant's where it has one (`{% generation %}`), else what it puts after the prompt; the end
    is the template's or, where it has none, the tokenizer's. An answer of the model (`ended` is True or
    False) must stand there as it wrote it.

    TRL's SFTTrainer takes these two columns as they are, `kept.map(encode, fn_kwargs={"tokenizer":
    tokenizer})`; of a completion that is text, or a conversation, it would learn the end of every row.
    """
    head = prompt_ids(tokenizer, row["prompt"], seq2seq)
    tail, labels = (
        _completion(tokenizer, row, head, seq2seq)
        if isinstance(row["prompt"], str)
        else _turn(tokenizer, row, head)
    )
    return {
        "input_ids": head if seq2seq else head + tail,
        "labels": labels if seq2seq else [-100] * len(head) + labels,
    }


def tokens_of(judged: Dataset, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many tokens were read and written; where the sampler did not count, a text is tokenized."""
    total = 0
    for row in rows_of(judged):
        said = row["completion"]
        text = said if isinstance(said, str) else said[0]["content"]
        written = len(tokenizer(text)["input_ids"]) if row["tokens"] is None else row["tokens"]
        total += len(prompt_ids(tokenizer, row["prompt"], encoder=True)) + written
    return total


def _completion(
    tokenizer: PreTrainedTokenizerBase, row: Mapping, head: Sequence[int], seq2seq: bool
) -> tuple[list[int], list[int]]:
    """Return the ids that follow a prompt that is text, and their labels, the same."""
    whole = prompt_ids(tokenizer, row["prompt"] + row["completion"])
    apart = seq2seq or whole[: len(head)] != head
    tail = (
        tokenizer(row["completion"], add_special_tokens=False)["input_ids"] if apart else whole[len(head) :]
    )
    if tokenizer.eos_token_id is not None and row.get("ended") is not False:
        tail = [*tail, tokenizer.eos_token_id]
    return tail, tail


def _turn(
    tokenizer: PreTrainedTokenizerBase, row: Mapping, head: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the ids that follow the prompt of a conversation, and their labels."""
    cut = row.get("ended") is False
    masks = re.search(r"\{%-?\s*generation\b", tokenizer.get_chat_template()) and not cut
    refuse_if(
        len(row["completion"]) > 1 and not masks,
        f"a completion of {len(row['completion'])} messages needs a chat template that marks the assistant's "
        "own ({% generation %}): give one message, the assistant's",
    )
    written = _written(
        tokenizer,
        [*row["prompt"], *row["completion"]],
        continue_final_message=cut,
        return_assistant_tokens_mask=bool(masks),
    )
    whole = written["input_ids"]
    joined = whole[: len(head)] != head  # the answer's first letters are in one token with the prompt's last
    before = tokenizer.decode(head, clean_up_tokenization_spaces=False)
    text = tokenizer.decode(whole, clean_up_tokenization_spaces=False)
    refuse_if(
        joined and (len(row["completion"]) > 1 or not text.startswith(before)),
        f"the chat template writes the prompt {row['prompt']!r:.80} otherwise once an answer follows: take a "
        "template whose prompt (with add_generation_prompt) begins the whole conversation",
    )
    text = text[len(before) :]
    tail = tokenizer(text, add_special_tokens=False)["input_ids"] if joined else whole[len(head) :]
    while not cut and tail and tokenizer.decode(tail[-1:]).isspace():  # after the end, never written
        tail.pop()
    mask = written["assistant_masks"][len(head) :] if masks and not joined else [1] * len(tail)
    labels = [one if yes else -100 for one, yes in zip(tail, mask, strict=False)]
    said = tokenizer.decode(  # what its tokens can say of the answer
        tokenizer(row["completion"][-1]["content"], add_special_tokens=False)["input_ids"],
        clean_up_tokenization_spaces=False,
    ).strip()
    refuse_if(
        row.get("ended") is not None and not text.strip().startswith(said),
        f"the chat template writes the model's answer {said!r:.80} otherwise, {text!r:.80}: take a template "
        "that writes answers as they are, from where the prompt (with add_generation_prompt) ends",
    )
    end = tokenizer.eos_token_id
    # the template has no end
    if said and text.strip().endswith(said) and not cut and end not in (None, *tail[-1:]):
        tail, labels = [*tail, end], [*labels, end]
    return tail, labels


def _written(tokenizer: PreTrainedTokenizerBase, messages: Conversation, **how: bool) -> Mapping:
    """Return what the chat template makes of a conversation, its special tokens once."""
    refuse_if(
        not tokenizer.chat_template,
        f"the tokenizer has no chat template, and a conversation was given, {messages!r:.80}: give it one "
        "(tokenizer.chat_template), or prompts that are texts",
    )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **how)
    except Exception as error:  # of the template, or of Jinja
        raise ValueError(f"the chat template refuses the conversation {messages!r:.80}: {error}") from error
