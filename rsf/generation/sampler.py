"""Let a transformers model write, every token by inverse CDF from coins of NumPy.

    token = first t with  q(0) + ... + q(t) > u,    log q(completion) = sum of log q(token)

Cache and batches are those of `generate`; what is ours is the pick, so that a completion depends on its
prompt and its Generator alone. (Inversion: Devroye 1986, Non-Uniform Random Variate Generation, III.2.)
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from rsf.acceptance import refuse_if
from rsf.generation.drafts import Conversation
from rsf.generation.encoding import encode, prompt_ids


def model_sampler(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    warpers: Sequence[LogitsProcessor] = (),
    stop: str | Sequence[str] = (),
    batch_size: int = 64,
) -> "ModelSampler":
    """Return a `sample` for `sample_and_judge` that lets a transformers model write.

    `generate` runs batches of like length with its cache; each token is picked by inverse CDF from the
    row's own coins, in float64. Completions do not depend on the batch size as long as the model's logits
    do not: in float64, but for one coin in about 1e8.

    Parameters
    ----------
    model : transformers model with `generate`, decoder-only or encoder-decoder
        Used in eval mode. Of its `generation_config` only the special tokens are heeded: no penalties, no
        top-p that nobody asked for. With LoRA, the model that `peft` made.
    tokenizer : its tokenizer, with or without a padding token
    temperature : float
    warpers : sequence of transformers.LogitsProcessor
        What else shall change q, such as `TopPLogitsWarper(0.9)`; log probabilities are those of the
        changed q.
    stop : str or sequence of str
        A completion ends with the first of them. (Without it: at the end-of-sequence token, or after
        `max_new_tokens`.)

    Raises
    ------
    ValueError
        A number is not positive, a stop string is empty, or the model has learned a prompt (prompt tuning).
    """
    return ModelSampler(model, tokenizer, max_new_tokens, temperature, warpers, stop, batch_size)


class ModelSampler:
    """A transformers model that writes a completion for each prompt; see `model_sampler`, which makes it."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_new_tokens: int,
        temperature: float,
        warpers: Sequence[LogitsProcessor],
        stop: str | Sequence[str],
        batch_size: int,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.temperature, self.batch_size = max_new_tokens, temperature, batch_size
        self.warpers = list(warpers)
        self.stop = [stop] if isinstance(stop, str) else list(stop)
        refuse_if(
            not min(temperature, max_new_tokens, batch_size) > 0 or "" in self.stop,
            "temperature, max_new_tokens and batch_size must be positive, stop strings not empty, got "
            f"{temperature}, {max_new_tokens}, {batch_size}, {self.stop}",
        )
        refuse_if(
            getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False),
            "prompt tuning, p-tuning and their like put virtual tokens in front of a batch and its padding: "
            "a completion would depend on the prompts beside it; take an adapter such as LoRA",
        )
        self.seq2seq = model.config.is_encoder_decoder
        own = model.generation_config.to_dict()
        eos = tokenizer.eos_token_id if own.get("eos_token_id") is None else own["eos_token_id"]
        self.special = {name: value for name, value in own.items() if name.endswith("_token_id")}
        self.special |= {
            "eos_token_id": eos,
            "pad_token_id": next(
                pad for pad in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if pad is not None
            ),
        }
        self.ends = [] if eos is None else np.atleast_1d(eos).tolist()

    def __call__(
        self, prompts: Sequence[str | Conversation], rngs: Sequence[np.random.Generator]
    ) -> dict[str, list]:
        """Return completion, log_probability, tokens, completion_ids and ended, a row for each prompt.

        Each is drawn by the Generator at its place. log_probability is that of its tokens under the law
        that they were drawn from; ended says whether the model itself ended it.
        """
        refuse_if(
            isinstance(prompts, str) or len(prompts) != len(rngs),
            f"need a list of prompts and a Generator for each, got {type(prompts).__name__} and {len(rngs)}",
        )
        ids = self.check(prompts)
        longest_first = sorted(range(len(ids)), key=lambda i: -len(ids[i]))  # batches of like length
        drafts = {}
        with _writing(self.model, self.special):
            for start in range(0, len(ids), self.batch_size):
                chosen = longest_first[start : start + self.batch_size]
                batch = self._complete([ids[i] for i in chosen], [rngs[i] for i in chosen])
                drafts.update(zip(chosen, batch, strict=True))
        return {name: [drafts[i][name] for i in range(len(ids))] for name in drafts[0]}

    def key(self) -> str:
        """Return a digest of all that a completion depends on besides prompt and coins."""
        words = (
            self.tokenizer.backend_tokenizer.to_str()
            if self.tokenizer.is_fast
            else sorted(self.tokenizer.get_vocab().items())
        )
        settings = [
            self.max_new_tokens,
            self.temperature,
            self.stop,
            self.special,
            [(type(one).__name__, *map(_in_full, vars(one).items())) for one in self.warpers],
            [words, self.tokenizer.chat_template],
        ]
        return digest(
            [
                ("settings", settings),
                # all of its config but where it lies, and what saving it writes there
                (
                    "config",
                    self.model.config.to_dict() | dict.fromkeys(("_name_or_path", "architectures", "dtype")),
                ),
                *self.model.state_dict().items(),
            ]
        )

    def check(self, prompts: Sequence[str | Conversation], *, to_train: bool = False) -> list[list[int]]:
        """Return the prompts' token ids; refuse a prompt without any, or one that leaves no room to write.

        The last token written is not read again, unless the completion is to be trained on.
        """
        different = {json.dumps(prompt): prompt for prompt in prompts}
        ids_of = {
            text: prompt_ids(self.tokenizer, prompt, self.seq2seq) for text, prompt in different.items()
        }
        for text, ids in ids_of.items():
            refuse_if(
                not ids, f"the prompt {different[text]!r} has no tokens: a model needs one to begin with"
            )
            if to_train and not isinstance(different[text], str):  # refused now, not once it has answered
                answer = different[text][-1] | {"role": "assistant"}  # any text that its tokens can say
                encode({"prompt": different[text], "completion": [answer], "ended": True}, self.tokenizer)
        longest = max(ids_of, key=lambda text: len(ids_of[text]))
        lengths = (len(ids_of[longest]), self.max_new_tokens)
        needed = max(lengths) if self.seq2seq else sum(lengths) - (not to_train)
        refuse_if(
            needed > positions(self.model),
            f"the prompt {different[longest]!r:.80} has {lengths[0]} tokens, with "
            f"max_new_tokens={lengths[1]} that is {needed} positions, the model has {positions(self.model)}: "
            "cut the prompt or write less",
        )
        return [ids_of[json.dumps(prompt)] for prompt in prompts]

    def _complete(self, ids: list[list[int]], rngs: list[np.random.Generator]) -> Iterator[dict]:
        """Yield the completions of one batch."""
        device = self.model.device
        width = max(map(len, ids))
        pad = self.special["pad_token_id"]
        coins = torch.tensor(np.stack([one.random(self.max_new_tokens) for one in rngs]))
        batch = _Batch(coins.to(device) if device.type == "cuda" else coins, self)
        rows = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
        cache, new = {}, {}  # new: the tokens of each row, those after its end included
        while len(rows):
            out = self.model.generate(
                input_ids=rows,
                attention_mask=mask,
                generation_config=GenerationConfig(
                    max_new_tokens=self.max_new_tokens - rows.shape[1] + width,
                    do_sample=False,
                    num_beams=1,
                    use_cache=True,
                    return_dict_in_generate=True,
                    **self.special,
                ),
                logits_processor=[*self.warpers, batch.pick],
                stopping_criteria=[batch.ended],
                **cache,
            )
            written = out.sequences[:, batch.width :]
            new.update(zip(batch.rows.tolist(), written.tolist(), strict=True))
            on = (batch.lengths[batch.rows] > written.shape[1]).nonzero()[:, 0]  # the rows that go on
            batch.rows = batch.rows[on]
            rows = out.sequences[on]
            mask = torch.nn.functional.pad(mask[on], (0, rows.shape[1] - mask.shape[1]), value=1)
            if len(on):
                out.past_key_values.reorder_cache(on)
                cache = {"past_key_values": out.past_key_values}
        # the first pass wrote all rows, so `new` has them in their order
        yield from map(self._draft, ids, new.values(), batch.lengths.tolist(), batch.log_q.cpu().numpy())

    def _draft(self, row: list[int], new: list[int], length: int, log_q: np.ndarray) -> dict:
        """Return what the first `length` new tokens after a prompt say, up to their first stop string."""
        text = self._text(row, new[:length])
        cut = self._cut(text)
        # a stop string is seen late where it begins with a space and the tokenizer drops a leading space
        while cut and length > 1 and (before := self._cut(self._text(row, new[: length - 1]))):
            cut = before
            length -= 1
        log_probability = float(log_q[:length].sum())
        if np.isnan(log_probability):
            raise ValueError(f"the model's probabilities are NaN after {self.tokenizer.decode(row)!r}")
        own = new[length - 1] in self.ends
        return {
            "completion": cut or (text if own else text.rstrip("\ufffd")),  # no character that lacks bytes
            "log_probability": log_probability,
            "tokens": length,
            "completion_ids": new[:length],
            "ended": own,
        }

    def _text(self, row: list[int], new: list[int]) -> str:
        """Return what new tokens say; decoded together with the prompt, or a space between could be lost."""
        head = "" if self.seq2seq else self.tokenizer.decode(row, skip_special_tokens=True)
        text = self.tokenizer.decode(row + new if head else new, skip_special_tokens=True)
        apart = not text.startswith(head)
        return self.tokenizer.decode(new, skip_special_tokens=True) if apart else text[len(head) :]

    def _cut(self, text: str) -> str | None:
        """Return the text up to its first stop string, or None if it has none."""
        cuts = [text[: text.find(one) + len(one)] for one in self.stop if one in text]
        return min(cuts, key=len, default=None)

    def ended_now(self, new: torch.Tensor) -> torch.Tensor:
        """Return which rows end with the last of their new tokens (rows, tokens so far): a boolean each."""
        ended = torch.isin(new[:, -1], torch.tensor(self.ends, dtype=torch.long, device=new.device))
        if self.stop:  # the library's StopStringCriteria would need a tokenizer that knows the letters a to f
            # a token that adds to the text adds a byte at least, so n tokens are enough to hold n bytes
            tail = new[:, -max(len(one.encode()) for one in self.stop) :]
            texts = self.tokenizer.batch_decode(tail, skip_special_tokens=True)
            ended |= torch.tensor([self._cut(text) is not None for text in texts], device=new.device)
        return ended


def positions(model: PreTrainedModel) -> float:
    """Return how many tokens a model has positions for."""
    return getattr(model.config, "max_position_embeddings", None) or np.inf


def digest(pairs: Iterable[tuple[object, object]]) -> str:
    """Return the SHA-256 of named values: tensors, or what fits JSON.

    >>> digest([("a", torch.tensor([1, 2]))]) == digest([("a", torch.tensor([1, 3]))])
    False
    """
    total = hashlib.sha256()
    for name, value in pairs:
        data = (
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            if isinstance(value, torch.Tensor)
            else json.dumps(value, default=repr).encode()
        )
        total.update(f"{name} {getattr(value, 'dtype', '')} {len(data)} ".encode())
        total.update(data)
    return total.hexdigest()


def _in_full(setting: tuple[str, object]) -> str:
    """Return a name and its value as text, a tensor as a list: its own text would leave out the middle."""
    return f"{setting[0]}: {getattr(setting[1], 'tolist', lambda: setting[1])()}"


@contextmanager
def _writing(model: PreTrainedModel, special: dict) -> Iterator[None]:
    """Put a model into eval mode, its generation settings aside, and back."""
    training = [part for part in model.modules() if part.training]
    settings = model.generation_config
    model.eval()
    model.generation_config = GenerationConfig(**special)
    try:
        yield
    finally:
        model.generation_config = settings
        for part in training:
            part.training = True


class _Batch:
    """Rows that are written at once: their coins, and after how many tokens each of them ended.

    On a device that has no float64 (MPS), or of which we do not know it, the coins stay on the CPU, and each
    step's logits come to them.
    """

    width = 0  # of what stands before the first new token

    def __init__(self, coins: torch.Tensor, sampler: ModelSampler) -> None:
        self.coins = coins  # (rows, steps)
        self.sampler = sampler
        self.log_q = torch.zeros_like(coins)
        self.lengths = torch.full(coins.shape[:1], coins.shape[1], device=coins.device)
        self.rows = torch.arange(len(coins), device=coins.device)  # those that are still written

    def pick(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave each row one token: the first at which the cumulated probability exceeds its next coin."""
        self.width = self.width or input_ids.shape[1]
        step = input_ids.shape[1] - self.width
        p = scores.to(self.coins.device).to(torch.float64, copy=True).div_(self.sampler.temperature)
        reached = p.sub_(p.amax(-1, keepdim=True)).exp_().cumsum(-1)
        whole = reached[:, -1:].contiguous()
        token = torch.searchsorted(reached, self.coins[self.rows, step, None] * whole, right=True)
        token = token.minimum(torch.searchsorted(reached, whole))  # rounding: never one of probability 0
        token = token.clamp_(max=p.shape[1] - 1)  # where probabilities are NaN, any
        self.log_q[self.rows, step] = (p.gather(1, token) / whole).log_()[:, 0]
        return torch.full_like(scores, -torch.inf).scatter_(1, token.to(scores.device), 0.0)

    def ended(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        """Return which rows have ended, by their completions: a prompt may end like a stop string begins.

        Once half of them have, all are said to: `generate` breaks off, to go on without those that have. (Not
        where the cache cannot do without rows.)
        """
        new = input_ids[:, self.width :]
        lengths = self.lengths[self.rows]
        lengths[self.sampler.ended_now(new).to(lengths.device) & (lengths > new.shape[1])] = new.shape[1]
        self.lengths[self.rows] = lengths
        ended = (lengths <= new.shape[1]).to(new.device)
        can_leave = not (self.sampler.seq2seq or self.sampler.model._is_stateful)
        return ended | (can_leave and len(ended) >= 8 and 2 * int(ended.sum()) >= len(ended))
