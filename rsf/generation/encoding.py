"""Texts into tokens: a prompt for sampling, a prompt with its completion for training, with every special token once."""


def prompt_ids(tokenizer, prompt, encoder=False):
    """Return a prompt's token ids: the special first token once, and the end only where an encoder reads it."""
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    ids = tokenizer(prompt, add_special_tokens=not (bos and prompt.startswith(bos)))["input_ids"]
    return (
        ids[:-1]
        if not encoder and ids[1:] and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(eos)
        else ids
    )


def encode(row, tokenizer, seq2seq=False):
    """Return input_ids and labels of a row with prompt and completion; the loss is that of the completion, and of its end if it has one.

    The end-of-sequence token is learned unless the row says that the model did not write it (`ended` is False: a stop string, or
    `max_new_tokens`). The text is tokenized as a whole, in which a completion that begins with a space keeps one, not two.
    """
    head, end = prompt_ids(tokenizer, row["prompt"], seq2seq), tokenizer.eos_token_id
    whole = prompt_ids(tokenizer, row["prompt"] + row["completion"])
    apart = seq2seq or whole[: len(head)] != head
    tail = (
        tokenizer(row["completion"], add_special_tokens=False)["input_ids"] if apart else whole[len(head) :]
    )
    if end is not None and row.get("ended") is not False:
        tail = [*tail, end]
    return (
        {"input_ids": head, "labels": tail}
        if seq2seq
        else {"input_ids": head + tail, "labels": [-100] * len(head) + tail}
    )
