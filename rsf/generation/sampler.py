"""Let a transformers model write, every token by inverse CDF from coins of NumPy.

    token = first t with  q(0) + ... + q(t) > u,    log q(completion) = sum of log q(token)

Cache and batches are those of `generate`; what is ours is the pick, so that a completion depends on its prompt and its
Generator alone. (Inversion: Devroye 1986, Non-Uniform Random Variate Generation, III.2.)
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from rsf.generation.encoding import prompt_ids
from rsf.generation.prompts import refuse_if

FLOAT64 = (
    "cpu",
    "cuda",
)  # devices that are known to have it; for any other (MPS has none) the CPU picks the tokens


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

    `generate` runs batches of like length with its cache; each token is picked by inverse CDF from the row's own coins, in
    float64. Completions do not depend on the batch size as long as the model's logits do not: in float64, but for one coin in
    about 1e8.

    Parameters
    ----------
    model : transformers model with `generate`, decoder-only or encoder-decoder
        Used in eval mode. Of its `generation_config` only the special tokens are heeded: no penalties, no top-p that nobody
        asked for. With LoRA, the model that `peft` made.
    tokenizer : its tokenizer, with or without a padding token
    temperature : float
    warpers : sequence of transformers.LogitsProcessor
        What else shall change q, such as `TopPLogitsWarper(0.9)`; log probabilities are those of the changed q.
    stop : str or sequence of str
        A completion ends with the first of them. (Without it: at the end-of-sequence token, or after `max_new_tokens`.)

    Raises
    ------
    ValueError
        A number is not positive, or the model is one of prompt tuning, whose completions would depend on the batch size.
    """
    return ModelSampler(model, tokenizer, max_new_tokens, temperature, warpers, stop, batch_size)


class ModelSampler:
    """A transformers model that writes one completion for each prompt; `model_sampler` makes it and explains what it takes."""

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
        self.model = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.warpers = list(warpers)
        self.stop = [stop] if isinstance(stop, str) else list(stop)
        self.batch_size = batch_size
        refuse_if(
            not min(temperature, max_new_tokens, batch_size) > 0,
            f"temperature, max_new_tokens and batch_size must be positive, got {temperature}, {max_new_tokens}, {batch_size}",
        )
        adapter = getattr(model, "active_peft_config", None)
        refuse_if(
            getattr(adapter, "is_prompt_learning", False),
            f"{type(adapter).__name__}: virtual tokens stand in front of a batch and its padding, so a completion would "
            "depend on the prompts beside it; use an adapter that changes weights, such as LoRA",
        )
        refuse_if("" in self.stop, f"a stop string must not be empty, got {self.stop}")
        self.seq2seq = model.config.is_encoder_decoder
        own = model.generation_config.to_dict()
        self.special = {name: value for name, value in own.items() if name.endswith("_token_id")}
        ends = (self.special.get("eos_token_id"), tokenizer.eos_token_id)
        self.special["eos_token_id"] = next((end for end in ends if end is not None), None)
        pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.special["pad_token_id"] = next(pad for pad in pads if pad is not None)

    def __call__(self, prompts: Sequence[str], rngs: Sequence[np.random.Generator]) -> dict[str, list]:
        """Return a completion of each prompt, drawn by the Generator at its place: a dict of lists.

        They are completion, log_probability (of its tokens under the law they were drawn from), tokens and ended (by the model).
        """
        alike = not isinstance(prompts, str) and len(prompts) == len(rngs)
        refuse_if(
            not alike,
            f"need a list of prompts, and a Generator for each, got {prompts!r:.80} and {len(rngs)}",
        )
        ids = self._ids(prompts)
        longest_first = sorted(range(len(ids)), key=lambda i: -len(ids[i]))  # batches of like length
        drafts = {}
        with _writing(self.model, self.special):
            for start in range(0, len(ids), self.batch_size):
                chosen = longest_first[start : start + self.batch_size]
                batch = self._complete([ids[i] for i in chosen], [rngs[i] for i in chosen])
                drafts.update(zip(chosen, batch, strict=True))
        return {name: [drafts[i][name] for i in range(len(ids))] for name in drafts[0]}

    def key(self) -> str:
        """Return the SHA-256 of all that a completion depends on besides prompt and coins: settings, tokenizer, weights."""
        # in full: the text of a long tensor would leave out its middle
        warpers = [
            {
                type(one).__name__: {
                    name: getattr(value, "tolist", lambda value=value: value)()
                    for name, value in vars(one).items()
                }
            }
            for one in self.warpers
        ]
        settings = [self.max_new_tokens, self.temperature, self.stop, self.special, warpers]
        fast = self.tokenizer.is_fast
        words = (
            self.tokenizer.backend_tokenizer.to_str() if fast else sorted(self.tokenizer.get_vocab().items())
        )
        digest = hashlib.sha256(f"{settings} {words} {self.model.config.to_json_string()}".encode())
        for name, value in self.model.state_dict().items():
            digest.update(f"{name} {value.dtype}".encode())
            digest.update(bytes_of(value))
        return digest.hexdigest()

    def check(self, prompts: Sequence[str], *, to_train: bool = False) -> None:
        """Refuse a prompt without tokens, and one that leaves the model no room for `max_new_tokens`: a ValueError names it.

        The last token written is not read again, unless the completion is to be trained on.
        """
        self._ids(prompts, to_train)

    def _ids(self, prompts: Sequence[str], to_train: bool = False) -> list[list[int]]:
        """Return the prompts' token ids, once they are seen to fit."""
        ids_of = {text: prompt_ids(self.tokenizer, text, self.seq2seq) for text in dict.fromkeys(prompts)}
        empty = [text for text in ids_of if not ids_of[text]]
        refuse_if(empty, f"the prompt {''.join(empty[:1])!r} has no tokens: a model needs one to begin with")
        longest = max(ids_of, key=lambda text: len(ids_of[text]))
        lengths = (len(ids_of[longest]), self.max_new_tokens)
        needed = max(lengths) if self.seq2seq else sum(lengths) - (not to_train)
        refuse_if(
            needed > positions(self.model),
            f"the prompt {longest!r:.80} has {lengths[0]} tokens, with max_new_tokens={lengths[1]} that is {needed} positions, "
            f"the model has {positions(self.model)}: cut the prompt or write less",
        )
        return [ids_of[text] for text in prompts]

    def _complete(self, ids: list[list[int]], rngs: list[np.random.Generator]) -> Iterator[dict]:
        """Yield the completions of one batch."""
        device = self.model.device
        width = max(map(len, ids))
        pad = self.special["pad_token_id"]
        coins = np.stack([one.random(self.max_new_tokens) for one in rngs])
        batch = _Batch(torch.tensor(coins, device=device if device.type in FLOAT64 else "cpu"), self)
        rows = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
        cache = {}
        new = {}  # the tokens of each row, those after its end included
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
        for i, (length, log_q) in enumerate(
            zip(batch.lengths.tolist(), batch.log_q.cpu().numpy(), strict=True)
        ):
            yield self._draft(ids[i], new[i], length, log_q)

    def _draft(self, row: list[int], new: list[int], length: int, log_q: np.ndarray) -> dict:
        """Return what the first `length` new tokens after a prompt say, up to their first stop string."""
        text = self._text(row, new[:length])
        cut = self._cut(text)
        while cut and length > 1 and (before := self._cut(self._text(row, new[: length - 1]))):
            cut = before  # seen late: it begins with a space, which a text loses when it is decoded without its prompt
            length -= 1
        log_probability = float(log_q[:length].sum())
        if math.isnan(log_probability):
            raise ValueError(f"the model's probabilities are NaN after {self.tokenizer.decode(row)!r}")
        own = self.special["eos_token_id"] is not None and new[length - 1] in np.atleast_1d(
            self.special["eos_token_id"]
        )
        whole = (
            text if own else text.rstrip("\ufffd")
        )  # without a character of which the last bytes are missing
        return {
            "completion": cut or whole,
            "log_probability": log_probability,
            "tokens": length,
            "ended": own,
        }

    def _text(self, row: list[int], new: list[int]) -> str:
        """Return what new tokens say after a prompt: decoded together with it, or a space between them could be lost."""
        head = "" if self.seq2seq else self.tokenizer.decode(row, skip_special_tokens=True)
        text = self.tokenizer.decode(row + new if head else new, skip_special_tokens=True)
        return (
            text[len(head) :]
            if text.startswith(head)
            else self.tokenizer.decode(new, skip_special_tokens=True)
        )

    def _cut(self, text: str) -> str | None:
        """Return the text up to its first stop string, or None if it has none."""
        cuts = [text[: text.find(one) + len(one)] for one in self.stop if one in text]
        return min(cuts, key=len, default=None)

    def ends(self, new: torch.Tensor) -> torch.Tensor:
        """Return which rows end with the last of their new tokens (rows, tokens so far): a boolean each."""
        ends = [] if self.special["eos_token_id"] is None else self.special["eos_token_id"]
        done = torch.isin(new[:, -1], torch.tensor(ends, dtype=torch.long, device=new.device))
        if self.stop:  # the library's StopStringCriteria would need a tokenizer that knows the letters a to f
            # a token that adds to the text adds a byte at least, so a string of n bytes lies within the last n of those
            tail = new[:, -max(len(one.encode()) for one in self.stop) :]
            texts = self.tokenizer.batch_decode(tail, skip_special_tokens=True)
            done |= torch.tensor([self._cut(text) is not None for text in texts], device=new.device)
        return done


def positions(model: PreTrainedModel) -> float:
    """Return how many tokens a model has positions for."""
    return getattr(model.config, "max_position_embeddings", None) or math.inf


def bytes_of(tensor: torch.Tensor) -> np.ndarray:
    """Return the bytes of a tensor, wherever it is and in whatever order its numbers lie.

    >>> bytes_of(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).T).tolist()
    [1, 3, 2, 4]
    """
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


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
    """Rows that are written at once: their coins, their log probabilities, and after how many tokens each of them ended."""

    width = 0  # of what stands before the first new token

    def __init__(self, coins: torch.Tensor, sampler: ModelSampler) -> None:
        self.coins = coins  # (rows, steps)
        self.sampler = sampler
        self.log_q = torch.zeros_like(coins)
        self.lengths = torch.full(coins.shape[:1], coins.shape[1], device=coins.device)
        self.rows = torch.arange(len(coins), device=coins.device)  # those that are still written

    def pick(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave each row one token: the first at which the cumulated probability exceeds the row's next coin."""
        self.width = self.width or input_ids.shape[1]
        step = input_ids.shape[1] - self.width
        p = scores.to(self.coins.device).to(torch.float64, copy=True).div_(self.sampler.temperature)
        reached = p.sub_(p.amax(-1, keepdim=True)).exp_().cumsum(-1)
        whole = reached[:, -1:].contiguous()
        token = torch.searchsorted(reached, self.coins[self.rows, step, None] * whole, right=True)
        token = token.minimum(
            torch.searchsorted(reached, whole)
        )  # rounding must not reach a token of probability 0
        token = token.clamp_(max=p.shape[1] - 1)  # where probabilities are NaN, any
        self.log_q[self.rows, step] = (p.gather(1, token) / whole).log_()[:, 0]
        return torch.full_like(scores, -torch.inf).scatter_(1, token.to(scores.device), 0.0)

    def ended(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        """Return which rows ended, looking at the completion only: a prompt may end like a stop string begins.

        Where rows can leave, `generate` is broken off once half of them have ended, to go on without these.
        """
        new = input_ids[:, self.width :]
        lengths = self.lengths[self.rows]
        lengths[self.sampler.ends(new).to(lengths.device) & (lengths > new.shape[1])] = new.shape[1]
        self.lengths[self.rows] = lengths
        ended = (lengths <= new.shape[1]).to(new.device)
        can_leave = not (
            self.sampler.seq2seq or self.sampler.model._is_stateful
        )  # the cache can do without them
        return ended | (can_leave and len(ended) >= 8 and 2 * int(ended.sum()) >= len(ended))
