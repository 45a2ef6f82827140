"""How fast `sample_and_judge` writes, beside one `generate` a prompt and beside the floor.

floor: full batches of prompts of one length, as many tokens read and written; nothing is decoded to text,
judged or kept. Once with the library's own draw of each token (an inverse CDF costs no more), once with none
at all (greedy).

python -m rsf bench generation         five minutes; writes results/bench-generation/
"""

import tempfile
import time
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from rsf.generation import model_sampler, sample_and_judge
from rsf.lab import records
from rsf.lab.bench import in_own_process, interleaved, peak_mib, summary
from rsf.lab.data import SourceUnavailable, local_folder
from rsf.lab.models import letter_tokenizer
from rsf.rules import above

STORY = "Once upon a time there was a little girl named Lily. "
STORY += "She had a red ball, a green hat and a very big dog. "


def tiny(rng):
    """Return a GPT-2 of two layers of width 64 with drawn weights, and its tokenizer, of 512 letters."""
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=512,
            n_positions=256,
            n_embd=64,
            n_layer=2,
            n_head=4,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    for value in model.parameters():
        value.data = torch.tensor(rng.normal(0, 0.3, value.shape), dtype=torch.float32)
    return model.eval(), letter_tokenizer(map(chr, range(32, 32 + 512)))


def stories(_):
    """Return stories260K, a Llama of 260,032 parameters, from RSF_MODELS."""
    path = local_folder("RSF_MODELS", "stories260K")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model.generation_config.max_length = None  # generate would warn at each call
    return model, AutoTokenizer.from_pretrained(path)


CASES = (
    ("tiny GPT-2", tiny, None),
    ("stories260K", stories, None),
    ("stories260K, to the first full stop", stories, "."),
)


def ids_and_texts(tokenizer, number, lengths, rng):
    """Return prompts as token ids and as texts, of lengths (in tokens) drawn evenly from the range."""
    ids = tokenizer(STORY * 4)["input_ids"]
    ids = [ids[:length] for length in rng.integers(lengths[0], lengths[1], number, endpoint=True)]
    return ids, [tokenizer.decode(row, skip_special_tokens=True) for row in ids]


def always(prompts, completions, **_):
    return [1.0] * len(prompts)


def ours(model, tokenizer, texts, settings, folder=None, **options):
    """Sample and judge one completion a prompt; return what was judged."""
    options = {"max_new_tokens": settings["new_tokens"], "batch_size": settings["batch_size"]} | options
    return sample_and_judge(
        model_sampler(model, tokenizer, **options),
        texts,
        always,
        above(1),
        np.random.default_rng(0),
        samples_per_prompt=1,
        folder=folder,
    )[1]


def generate(model, rows, steps, **options):
    """Decode with the library alone: rows of one length, nothing changed or cut off in the law."""
    rows = torch.tensor(rows)
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": steps, "pad_token_id": 0} | options
    with torch.inference_mode():
        return model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), **options)


def ways(model, tokenizer, settings, rng, stop=None):
    """Return {way of writing: function that writes and returns how many samples}, all up to the text `stop`
    or the number of tokens."""
    size, steps = settings["batch_size"], settings["new_tokens"]
    ids, texts = ids_and_texts(tokenizer, settings["prompts"], settings["lengths"], rng)
    even = [max(ids, key=len)[: round(np.mean([len(row) for row in ids]))]] * size
    until = {"stop_strings": stop, "tokenizer": tokenizer} if stop else {}
    drawn = round(np.mean(ours(model, tokenizer, texts, settings, stop=stop or ())["tokens"]))  # mean length

    def batches(**options):
        for _ in range(len(ids) // size):
            generate(model, even, drawn, min_new_tokens=drawn, **options)
        return len(ids)

    def loop(copies):
        some = ids[:: settings["loop_every"] * copies]
        for row in some:
            generate(model, [row], steps, num_return_sequences=copies, **until)
        return len(some) * copies

    return {
        "sample_and_judge": lambda: len(ours(model, tokenizer, texts, settings, stop=stop or ())),
        "floor": batches,
        "floor, greedy": lambda: batches(do_sample=False, top_k=None),
        "loop": lambda: loop(1),
        "loop, 4 samples a call": lambda: loop(4),
    }


def rate(write):
    """Return how many samples a second a way of writing writes."""
    start = time.perf_counter()
    return write() / (time.perf_counter() - start)


def speeds(model, tokenizer, settings, rng, stop=None):
    """Return a row for each way: median samples a second, and ours over it (median, least, most of the
    repeats)."""
    found = ways(model, tokenizer, settings, rng, stop)
    rates = interleaved({name: partial(rate, write) for name, write in found.items()}, settings["repeats"])
    return [
        {"way": name, **summary("samples_per_second", of_way, rates["sample_and_judge"] / of_way)}
        for name, of_way in rates.items()
    ]


def equality(settings, rng):
    """Return {type: {batch size: completions that differ from those of batches of one}}."""
    model, tokenizer = tiny(rng)
    _, texts = ids_and_texts(tokenizer, settings["equal_prompts"], settings["lengths"], rng)
    stop = [chr(32 + i) for i in range(0, 512, 32)]  # completions of about 32 letters, the longest of 64
    found = {}
    for dtype in (torch.float64, torch.float32):
        tables = [
            ours(model.to(dtype), tokenizer, texts, settings, batch_size=size, stop=stop)["completion"]
            for size in settings["equal_sizes"]
        ]
        found[str(dtype).removeprefix("torch.")] = {
            str(size): sum(one != other for one, other in zip(tables[0], table, strict=True))
            for size, table in zip(settings["equal_sizes"], tables, strict=True)
        }
    return found


def write_and_weigh(number):
    """Sample for many prompts into a folder and return the peak of this process's memory, in MiB."""
    settings = records.protocol("bench-generation")
    rng = np.random.default_rng(0)
    model, tokenizer = tiny(rng)
    _, texts = ids_and_texts(tokenizer, number, settings["lengths"], rng)
    with tempfile.TemporaryDirectory() as folder:
        ours(model, tokenizer, texts, settings, max_new_tokens=settings["memory_new_tokens"], folder=folder)
    return round(peak_mib(), 1)


def run():
    """Run section bench-generation of the protocol: return the arm and its run."""
    peak_mib()  # refuses where it cannot be read, before anything is timed
    settings = records.protocol("bench-generation")
    torch.set_num_threads(1)
    numbers = {}
    for name, load, stop in tqdm(CASES, desc="cases"):
        rng = np.random.default_rng(settings["seeds"][0])
        with suppress(SourceUnavailable):
            numbers[name] = speeds(*load(rng), settings, rng, stop)
    numbers |= {
        "differ": equality(settings, np.random.default_rng(settings["seeds"][0])),
        "peak_mib": {str(n): in_own_process(write_and_weigh, n) for n in settings["memory_prompts"]},
    }
    model = "tiny GPT-2, stories260K" if len(numbers) == len(CASES) + 2 else "tiny GPT-2"
    return "cpu", records.Run("none", model, "CPU, 1 thread", numbers)
