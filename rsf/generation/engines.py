"""Let an inference server, or several processes, draw the samples: the data set is the same whoever draws it.

    completion = engine(prompt, seed),    seed < 2**31 from the sample's own Generator

A server that speaks OpenAI's protocol (vLLM, SGLang, llama.cpp, ...) is asked for one sample at a time, with
the parameters of sampling told in full, because an engine's defaults are another law. Whether the same seed
gives the same text is the engine's doing: it is tried out before the first sample, and the report says it.
Several servers, or the processes of torchrun, are used like one by `shared`.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import timedelta
from functools import partial
from os import environ, getpid
from socket import gethostname
from typing import Any

import numpy as np

from rsf.acceptance import refuse_if
from rsf.generation.drafts import Conversation, Unfinished, drawn, key_of

LAW = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}  # every token by the model's own q
LAW |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
GREEDY = {"temperature": 0.0, "top_p": 1e-6, "top_k": 1, "min_p": 1.0}  # each alone leaves the best token
TRIES = 8  # requests of the probe, each repeated alone and side by side


def server_sampler(
    client_or_url: Any,
    model: str,
    *,
    max_new_tokens: int = 64,
    stop: str | Sequence[str] = (),
    extra_body: Mapping[str, object] | None = None,
    concurrency: int = 16,
) -> "ServerSampler":
    """Return a `sample` for `sample_and_judge` that lets an OpenAI-compatible server write.

    Texts go to /v1/completions, conversations to /v1/chat/completions; one request a sample.

    Parameters
    ----------
    client_or_url : openai.OpenAI, or an address such as "http://localhost:8000/v1"
        Retries and time limits are the client's: `OpenAI(base_url=..., max_retries=5, timeout=60)`.
    model : str
        Its name on the server. In a `folder` it stands for the weights: other weights, another name.
    stop : str or sequence of str
        A completion ends before or after the first of them, as the engine has it.
    extra_body : dict, optional
        What else, or otherwise, each request says: {"temperature": 0.7}. None takes a parameter out, of an
        engine that refuses it. Where it changes the law, log_probability is None: most engines give the
        model's own.
    concurrency : int
        The most requests under way at once.

    Raises
    ------
    ValueError
        A number is not positive, or a stop string is empty. When called: the engine's answer has another
        number of choices or too many tokens, or it gives every seed the same text.
    Unfinished
        When called: a request failed. The others are in its `drafts`, and, with a folder, written there.
        (An interrupt, Ctrl-C, loses the block under way.)
    """
    if isinstance(client_or_url, str):
        from openai import OpenAI

        client_or_url = OpenAI(base_url=client_or_url, api_key="none")
    return ServerSampler(client_or_url, model, max_new_tokens, stop, dict(extra_body or {}), concurrency)


class ServerSampler:
    """A server that writes a completion for each prompt; see `server_sampler`, which makes it.

    same : {"alone": n, "side by side": m}, how many of eight texts the engine wrote again; empty before
    ignored : names of the parameters that made no difference where they should
    """

    def __init__(
        self,
        client: Any,  # openai.OpenAI
        model: str,
        max_new_tokens: int,
        stop: str | Sequence[str],
        extra_body: dict[str, object],
        concurrency: int,
    ) -> None:
        self.client, self.model, self.concurrency = client, model, concurrency
        self.max_new_tokens = max_new_tokens
        self.stop = [stop] if isinstance(stop, str) else list(stop)
        refuse_if(
            not min(max_new_tokens, concurrency) > 0
            or "" in self.stop
            or {"stop", "max_tokens", "n"} & extra_body.keys(),
            "max_new_tokens and concurrency must be positive, stop strings not empty, and stop, max_tokens "
            f"and n no part of extra_body, got {max_new_tokens}, {concurrency}, {self.stop}, {extra_body}",
        )
        self.body = LAW | {"max_tokens": max_new_tokens, "n": 1, "stop": self.stop or None} | extra_body
        self.same, self.ignored = {}, []

    def __call__(
        self, prompts: Sequence[str | Conversation], rngs: Sequence[np.random.Generator]
    ) -> dict[str, list]:
        """Return completion, log_probability, tokens and ended, a row for each prompt.

        log_probability is None where the engine does not give that of every token; ended is True where the
        engine says that the model itself ended: with `stop`, only if it names the reason (vLLM, SGLang).
        """
        refuse_if(
            isinstance(prompts, str) or len(prompts) != len(rngs),
            f"need a list of prompts and a Generator for each, got {type(prompts).__name__} and {len(rngs)}",
        )
        if not self.same:
            self._probe(prompts)
        tasks = [
            partial(self._draft, prompt, int(rng.integers(2**31)))
            for prompt, rng in zip(prompts, rngs, strict=True)
        ]
        return columns(prompts, *finished(tasks, self.concurrency))

    def key(self) -> str:
        """Return all that a completion depends on besides prompt and seed, the weights by their name."""
        return json.dumps([self.model, self.body], sort_keys=True)

    @property
    def engine(self) -> str:
        """What is known of the engine, for the report; empty before it was asked."""
        same = ", ".join(f"{number} of {TRIES} {where}" for where, number in self.same.items())
        ignored = f"; it ignored {', '.join(self.ignored)}" * bool(self.ignored)
        return f"{self.model} at {self.client.base_url} wrote the same again: {same}{ignored}" * bool(same)

    def _draft(self, prompt: str | Conversation, seed: int, **changes: object) -> dict:
        """Return what the server writes after a prompt."""
        wanted = {name: value for name, value in (self.body | changes).items() if value is not None}
        asked = {"model": self.model, "extra_body": wanted | {"seed": seed}}
        if isinstance(prompt, str):
            asked["extra_body"] |= {"logprobs": 1}
            answer = self.client.completions.create(prompt=prompt, **asked)
        else:
            asked["extra_body"] |= {"logprobs": True, "top_logprobs": 1}
            answer = self.client.chat.completions.create(messages=prompt, **asked)
        refuse_if(isinstance(answer, str), f"{self.client.base_url} answered {answer!r:.80}: no completion")
        return self._read(answer.to_dict())

    def _read(self, answer: dict) -> dict:
        """Return an answer as a draft; log probabilities come in either format, whatever was asked."""
        choices = answer.get("choices") or []
        refuse_if(len(choices) != 1, f"{self.model} gave {len(choices)} choices where one was asked for")
        choice = choices[0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        refuse_if(not isinstance(text, str), f"{self.model} gave no text: {choice!r:.200}")
        given = choice.get("logprobs") or {}
        log_q = [one["logprob"] for one in given.get("content") or []] or given.get("token_logprobs") or []
        tokens = (answer.get("usage") or {}).get("completion_tokens") or len(log_q) or None
        refuse_if(
            tokens and tokens > self.max_new_tokens,
            f"{self.model} wrote {tokens} tokens where max_tokens={self.max_new_tokens} was asked for",
        )
        reason = choice.get("stop_reason", choice.get("matched_stop", "not told"))
        if reason in self.stop and not text.endswith(reason):
            text += reason
        by_itself = not self.stop or not isinstance(reason, str)  # a stop string ends with "stop", too
        whole = len(log_q) == tokens and all(self.body[name] in (LAW[name], None) for name in LAW)
        return {
            "completion": text,
            "log_probability": float(sum(log_q)) if whole else None,
            "tokens": tokens,
            "ended": choice["finish_reason"] == "stop" and by_itself,
        }

    def _probe(self, prompts: Sequence[str | Conversation]) -> None:
        """Ask for the same texts again, alone and side by side, and see whether parameters are heeded."""

        def ask(workers: int, **changes: object) -> dict[str, list]:
            found, error = finished(
                [partial(self._draft, prompts[0], seed, **changes) for seed in range(TRIES)], workers
            )
            return columns(prompts if error else prompts[:1] * TRIES, {} if error else found, error)

        first = ask(1)
        texts, log_q = first["completion"], first["log_probability"]
        blind = None in log_q
        alike = (
            f"{self.model} wrote {texts[0]!r:.80} for each of {TRIES} seeds: it ignores seed or temperature"
        )
        one_text = len(set(texts)) == 1
        refuse_if(one_text and not blind and sum(log_q[1:]) < np.log(1e-6), alike)  # that is no chance
        again = {"alone": ask(1), "side by side": ask(self.concurrency)}
        same = {where: sum(map(str.__eq__, texts, drafts["completion"])) for where, drafts in again.items()}
        if same["alone"] == TRIES:  # else a difference says nothing
            self.ignored = [
                name
                for name, value in GREEDY.items()
                if self.body[name] is not None and len(set(ask(1, **{name: value})["completion"])) > 1
            ]
        self.same = same
        for line, wrong in {
            f"{self.engine}: concurrency=1 may help, and a folder keeps what was sampled": min(same.values())
            < TRIES,
            f"{self.engine}: its own defaults decide what it draws from": self.ignored,
            f"{self.model} gives no log probabilities, or not of every token, or not of this law": blind,
            alike: blind and one_text,
        }.items():
            if wrong:
                warnings.warn(line, stacklevel=3)


def shared(sampler: Callable | Sequence[Callable]) -> "Shared":
    """Return a sampler that lets several draw, each its share of a block; the samples are those of one alone.

    Parameters
    ----------
    sampler : list of samplers, or this process's own
        A list, `shared([server_sampler(url, "my-model") for url in urls])`, is used like one of them. With
        one's own, each process that torchrun started writes `with shared(own) as sample:`. The first, where
        `sample.driver` is true, samples inside it; the others draw for it until it leaves the block, and can
        then read its folder.

    Raises
    ------
    ValueError
        The samplers do not draw the same, or there is only one process.
    Unfinished
        When called: one of them failed. What the others drew is in its `drafts`, as for `server_sampler`.
    """
    if not callable(sampler):
        return Shared(sampler)
    from torch import distributed

    number = int(environ.get("WORLD_SIZE", 1))
    refuse_if(
        number < 2,
        "shared needs several processes, found one: start them with torchrun --nproc-per-node 2 SCRIPT "
        "(accelerate launch --cpu starts one without a word), or give it a list of samplers",
    )
    if not distributed.is_initialized():
        distributed.init_process_group()
    group = distributed.new_group(backend="gloo", timeout=timedelta(days=30))  # a reward may take its time
    own = f"process {group.rank()} of {number} (pid {getpid()} on {gethostname()})"
    told = [None] * number
    distributed.all_gather_object(told, (own, key_of(sampler)), group=group)
    return Shared([sampler], told, group)


class Shared:
    """A sampler whose share of each block others draw; see `shared`, which makes it.

    driver : whether this process is the one that may call it
    """

    def __init__(
        self,
        samplers: Sequence[Callable],
        processes: Sequence[tuple[str, str | None]] = (),
        group: Any = None,  # torch's
    ) -> None:
        keys = {key_of(one) for one in samplers} | {key for _, key in processes}
        refuse_if(len(keys) != 1, f"those that share must draw the same, their keys are {sorted(keys)}")
        self.samplers, self.group = samplers, group
        self.key = keys.pop()
        self.driver = group is None or group.rank() == 0
        self.shares = [partial(_own, one) for one in samplers]
        self.shares += [partial(_far, group, i, processes[i][0]) for i in range(1, len(processes))]
        if hasattr(samplers[0], "check"):
            self.check = samplers[0].check  # may refuse prompts

    def __call__(
        self, prompts: Sequence[str | Conversation], rngs: Sequence[np.random.Generator]
    ) -> dict[str, list]:
        """Return the columns that the samplers give, each for its share of the rows."""
        refuse_if(not self.driver, "this process only draws: ask whether `sample.driver` before sampling")
        n = min(len(self.shares), len(prompts))
        shares, _ = finished([partial(self.shares[i], prompts[i::n], rngs[i::n]) for i in range(n)], n)
        found = {i + n * place: row for i, (rows, _) in shares.items() for place, row in rows.items()}
        return columns(prompts, found, next((error for _, error in shares.values() if error), None))

    @property
    def engine(self) -> str:
        """What is known of the engines, for the report."""
        return "; ".join(filter(None, (getattr(one, "engine", "") for one in self.samplers)))

    def __enter__(self) -> "Shared":
        while not self.driver and (job := _received(self.group, 0)):
            rows, error = self.shares[0](*job)
            _send(self.group, 0, (rows, error and f"{type(error).__name__}: {error}"))
        return self

    def __exit__(self, *_: object) -> None:
        for i in range(1, self.group.size()) if self.group and self.driver else ():
            with suppress(RuntimeError):  # it is gone already
                _send(self.group, i, None)


def on_one(sample: Callable, draw: Callable[[Callable], Any], processes: int) -> Any:
    """Return draw(sample); of several processes one calls it, the others draw for it and get what it got."""
    if processes == 1:
        return draw(sample)
    from torch import distributed

    with shared(sample) as own:
        found = [own.driver and draw(own)]
    distributed.broadcast_object_list(found, group=own.group)
    return found[0]


def _own(
    sample: Callable, prompts: Sequence, rngs: Sequence[np.random.Generator]
) -> tuple[dict[int, dict], Exception | None]:
    """Return the rows that a sampler drew, by place, and what kept it from the others."""
    try:
        return dict(enumerate(drawn(sample, prompts, rngs))), None
    except Unfinished as error:
        return error.drafts, error.__cause__
    except Exception as error:
        return {}, error


def _far(group: Any, rank: int, name: str, *job: Sequence) -> tuple[dict[int, dict], Exception | None]:
    """Return what `_own` returns in another process."""
    try:
        _send(group, rank, job)
        rows, error = _received(group, rank)
    except Exception as lost:
        rows, error = {}, f"it is gone, {type(lost).__name__}: {lost}"
    return rows, error and RuntimeError(f"{name}: {error}")


def _send(group: Any, rank: int, what: object) -> None:
    from torch import distributed

    distributed.send_object_list([what], dst=rank, group=group)


def _received(group: Any, rank: int) -> Any:
    from torch import distributed

    box = [None]
    distributed.recv_object_list(box, src=rank, group=group)
    return box[0]


def finished(tasks: Sequence[Callable], workers: int) -> tuple[dict[int, Any], Exception | None]:
    """Run tasks, so many at once, until one fails; return what they gave, by place, and the first error."""
    pool = ThreadPoolExecutor(workers)
    futures = [pool.submit(task) for task in tasks]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        pool.shutdown(cancel_futures=True)
    done = {i: future for i, future in enumerate(futures) if not future.cancelled()}
    errors = [future.exception() for future in done.values() if future.exception()]
    return {i: one.result() for i, one in done.items() if not one.exception()}, next(iter(errors), None)


def columns(
    prompts: Sequence[str | Conversation], found: Mapping[int, dict], error: Exception | None
) -> dict[str, list]:
    """Return rows as columns; where there are not all of them, raise Unfinished with those that are."""
    waiting = [repr(prompt) for i, prompt in enumerate(prompts) if i not in found]
    if waiting:
        some = ", ".join(f"{prompt:.60}" for prompt in list(dict.fromkeys(waiting))[:3])
        why = " ".join(f"{type(error).__name__}: {error} {getattr(error, 'request', '')}".split())
        raise Unfinished(
            f"{len(waiting)} of {len(prompts)} samples wait, after {some}{' ...' * (len(set(waiting)) > 3)}: "
            f"{why:.500}; a second call with the same folder goes on from here",
            dict(found),
        ) from error
    return {name: [found[i][name] for i in range(len(prompts))] for name in found[0]}
