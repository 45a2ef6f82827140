"""Let a transformers model write, every token by inverse CDF from coins of NumPy.

    token = first t with  q(0) + ... + q(t) > u,    log q(completion) = sum of log q(token)

Cache, stop strings and batches are those of `generate`; what is ours is the pick, so that a completion depends on its prompt and its
Generator alone.
"""

import hashlib
import math
from contextlib import contextmanager

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor
from transformers.generation import StoppingCriteria

from rsf.generation.encoding import prompt_ids


def model_sampler(
    model, tokenizer, *, max_new_tokens=64, temperature=1.0, warpers=(), stop=(), batch_size=64
):
    """Return a `sample` for `sample_and_judge` that lets a transformers model write.

    `generate` runs batches of like length with its cache; each token is picked by inverse CDF from the row's own coins, in float64.
    Completions do not depend on the batch size as long as the model's logits do not: in float64, but for one coin in about 1e8.

    Parameters
    ----------
    model : transformers model with `generate`, decoder-only or encoder-decoder
        Used in eval mode. Of its `generation_config` only the special tokens are heeded: no penalties, no top-p that nobody asked for.
    tokenizer : its tokenizer, with or without a padding token
    temperature : float
    warpers : sequence of transformers.LogitsProcessor
        What else shall change q, such as `TopPLogitsWarper(0.9)`; log probabilities are those of the changed q.
    stop : str or sequence of str
        A completion ends with the first of them. (Without it: at the end-of-sequence token, or after `max_new_tokens`.)
    """
    if not (temperature > 0 and max_new_tokens >= 1 and batch_size >= 1):
        raise ValueError(
            f"temperature, max_new_tokens and batch_size must be positive, got {temperature}, {max_new_tokens}, {batch_size}"
        )
    stop = [stop] if isinstance(stop, str) else list(stop)
    special = {
        name: value for name, value in model.generation_config.to_dict().items() if name.endswith("_token_id")
    }
    eos = special.get("eos_token_id") if special.get("eos_token_id") is not None else tokenizer.eos_token_id
    pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
    special |= {"eos_token_id": eos, "pad_token_id": pad}
    tail = max(
        (len(one.encode()) for one in stop), default=0
    )  # no token that says anything is shorter than a byte

    def ends(new):  # new: (rows, tokens so far)
        done = torch.isin(
            new[:, -1], torch.tensor([] if eos is None else eos, dtype=torch.long, device=new.device)
        )
        if stop:  # the library's StopStringCriteria would need a tokenizer that knows the letters a to f
            texts = tokenizer.batch_decode(new[:, -tail:], skip_special_tokens=True)
            done |= torch.tensor([stopped(text) is not None for text in texts], device=new.device)
        return done

    def stopped(text):
        """Return the text up to its first stop string, or None."""
        return min((text[: text.find(one) + len(one)] for one in stop if one in text), key=len, default=None)

    def sample(prompts, rngs):
        ids = {text: prompt_ids(tokenizer, text, model.config.is_encoder_decoder) for text in set(prompts)}
        ids = [ids[text] for text in prompts]
        if not all(ids):
            raise ValueError(
                f"the prompt {prompts[ids.index([])]!r} has no tokens: a model needs one to begin with"
            )
        longest, written = max(ids, key=len), max_new_tokens - 1  # the last token is not read again
        needed = (
            max(len(longest), max_new_tokens) if model.config.is_encoder_decoder else len(longest) + written
        )
        if needed > (room := getattr(model.config, "max_position_embeddings", None) or math.inf):
            raise ValueError(
                f"the prompt {prompts[ids.index(longest)]!r:.80} has {len(longest)} tokens, with max_new_tokens={max_new_tokens} that is "
                f"{needed} positions, the model has {room}: cut the prompt or write less"
            )
        order = sorted(
            range(len(ids)), key=lambda i: -len(ids[i])
        )  # batches of like length; what does not fit fails at once
        drafts = [None] * len(ids)
        with _writing(model, special):
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                for i, draft in zip(
                    chosen, complete([ids[i] for i in chosen], [rngs[i] for i in chosen]), strict=True
                ):
                    drafts[i] = draft
        return dict(
            zip(
                ("completion", "log_probability", "tokens", "ended"),
                map(list, zip(*drafts, strict=True)),
                strict=True,
            )
        )

    def complete(ids, rngs):
        width = max(map(len, ids))
        place = "cpu" if model.device.type == "mps" else model.device  # no float64 there
        pick = _Pick(
            torch.tensor(np.stack([one.random(max_new_tokens) for one in rngs]), device=place), temperature
        )
        ended, new = (
            _Ended(pick, ends, breaks=not (model.config.is_encoder_decoder or model._is_stateful)),
            [None] * len(ids),
        )
        rows = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=model.device)
        mask, cache = (
            torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device),
            {},
        )
        while len(rows):
            out = model.generate(
                input_ids=rows,
                attention_mask=mask,
                generation_config=GenerationConfig(
                    max_new_tokens=max_new_tokens - rows.shape[1] + width,
                    do_sample=False,
                    num_beams=1,
                    use_cache=True,
                    return_dict_in_generate=True,
                    **special,
                ),
                logits_processor=[*warpers, pick],
                stopping_criteria=[ended],
                **cache,
            )
            written = out.sequences[:, pick.width :]
            for i, tokens in zip(pick.rows.tolist(), written.tolist(), strict=True):
                new[i] = tokens
            on = (ended.lengths[pick.rows] > written.shape[1]).nonzero()[
                :, 0
            ]  # those that go on, without the ended
            pick.rows, rows = pick.rows[on], out.sequences[on]
            mask = torch.nn.functional.pad(mask[on], (0, rows.shape[1] - mask.shape[1]), value=1)
            if len(on):
                out.past_key_values.reorder_cache(on)
                cache = {"past_key_values": out.past_key_values}
        for row, tokens, length, log_q in zip(
            ids, new, ended.lengths.tolist(), pick.log_q.cpu().numpy(), strict=True
        ):
            text = text_of(row, tokens[:length])
            while (
                (cut := stopped(text))
                and length > 1
                and stopped(before := text_of(row, tokens[: length - 1]))
            ):
                text, length = (
                    before,
                    length - 1,
                )  # seen late: the string begins with a space that a tokenizer takes off
            if math.isnan(log_p := float(log_q[:length].sum())):
                raise ValueError(f"the model's probabilities are NaN after {tokenizer.decode(row)!r}")
            own = tokens[length - 1] in np.atleast_1d([] if eos is None else eos)
            yield cut or (text if own else text.rstrip("\ufffd")), log_p, length, own  # no half characters

    def text_of(row, new):
        head = "" if model.config.is_encoder_decoder else tokenizer.decode(row, skip_special_tokens=True)
        text = tokenizer.decode(
            row + new if head else new, skip_special_tokens=True
        )  # with its head, or a leading space is lost
        return text[len(head) :] if text.startswith(head) else tokenizer.decode(new, skip_special_tokens=True)

    settings = [
        max_new_tokens,
        temperature,
        stop,
        special,
        [f"{type(one).__name__} {vars(one)}" for one in warpers],
    ]
    sample.key = lambda: _digest(settings, tokenizer, model)
    return sample


def _digest(settings, tokenizer, model):
    """Return the SHA-256 of all that a completion depends on, besides prompt and coins."""
    words = (
        tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    )
    digest = hashlib.sha256(f"{settings} {words} {model.config.to_json_string()}".encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def _writing(model, special):
    """Put a model into eval mode, its generation settings aside, and back."""
    training, settings = [part for part in model.modules() if part.training], model.generation_config
    model.eval()
    model.generation_config = GenerationConfig(**special)
    try:
        yield
    finally:
        model.generation_config = settings
        for part in training:
            part.training = True


class _Pick(LogitsProcessor):
    """Leaves each row one token: the first at which the cumulated probability exceeds the row's next coin."""

    def __init__(self, coins, temperature):
        self.coins, self.temperature, self.width = coins, temperature, None  # coins: (rows, steps)
        self.log_q, self.rows = (
            torch.zeros_like(coins),
            torch.arange(len(coins), device=coins.device),
        )  # rows: still written

    def __call__(self, input_ids, scores):
        self.width = (
            input_ids.shape[1] if self.width is None else self.width
        )  # what stood there before the first token
        step = input_ids.shape[1] - self.width
        p = scores.to(self.coins.device, torch.float64, copy=True).div_(self.temperature)
        reached = p.sub_(p.amax(-1, keepdim=True)).exp_().cumsum(-1)
        whole = reached[:, -1:].contiguous()
        token = torch.searchsorted(reached, self.coins[self.rows, step, None] * whole, right=True)
        token = token.minimum(torch.searchsorted(reached, whole)).clamp_(
            max=p.shape[1] - 1
        )  # never one of probability 0; NaN: any
        self.log_q[self.rows, step] = (p.gather(1, token) / whole).log_()[:, 0]
        return torch.full_like(scores, -torch.inf).scatter_(1, token.to(scores.device), 0.0)


class _Ended(StoppingCriteria):
    """Notes after how many tokens each row ended, looking at the completion only: a prompt may end like a stop string begins.

    Where `breaks`, generate is broken off once half of its rows have ended, to go on without them.
    """

    def __init__(self, pick, ends, breaks):
        self.pick, self.ends, self.breaks = pick, ends, breaks
        self.lengths = torch.full(pick.coins.shape[:1], pick.coins.shape[1], device=pick.coins.device)

    def __call__(self, input_ids, scores, **_):
        new, rows = input_ids[:, self.pick.width :], self.pick.rows
        lengths = self.lengths[rows]
        lengths[self.ends(new).to(lengths.device) & (lengths > new.shape[1])] = new.shape[1]
        self.lengths[rows], ended = lengths, (lengths <= new.shape[1]).to(new.device)
        return ended | (self.breaks and len(rows) >= 8 and 2 * int(ended.sum()) >= len(rows))
