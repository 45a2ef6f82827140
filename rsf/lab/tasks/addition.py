"""A tiny GPT-2 that learns to add: the sums, the model, its training and its judges.

    "47+85=" -> "231": the sum 132, ones first, so that a carry is known before it is needed

An answer can be checked without knowing it beforehand, so what the model writes on sums without answers can
be kept or rejected. All is float64 on one thread with weights, sums and coins of NumPy: the same decisions on
every machine. Compute is counted in forward passes of one token: 1 a token read or written in sampling, 3 a
token trained on; every arm of a run has the same.
"""

import tempfile
from functools import lru_cache, partial

import numpy as np
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from rsf import rules
from rsf.accounts import TRAIN
from rsf.generation import model_sampler, rsf_rounds, sample_and_judge
from rsf.lab import records
from rsf.lab.models import letter_tokenizer

BATCH = 32
TOKENS = 9  # of a sum with its answer
STEP = TRAIN * BATCH * TOKENS  # what a step of training spends


def tokenizer():
    """Return a tokenizer with a token for each character of a sum."""
    return letter_tokenizer("0123456789+=", unknown="=")


def tiny_gpt2(rng, width=64, layers=1):
    """Return a GPT-2 with random weights from `rng`, in float64, without dropout; its loss is float64 too
    (the library's is not)."""
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=12,
            n_positions=16,
            n_embd=width,
            n_layer=layers,
            n_head=4,
            activation_function="relu",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",
        )
    ).double()
    for name, value in model.named_parameters():
        if value.ndim == 2:
            scale = 0.02 if "wte" in name or "wpe" in name else 0.5 / np.sqrt(len(value))
            value.data = torch.from_numpy(rng.normal(0.0, scale, value.shape))
    model.loss_function = token_loss
    return model


def token_loss(logits, labels, vocab_size, num_items_in_batch=None, **_):
    """Mean cross-entropy of the labels that are not -100, each predicted from the place before it."""
    total = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    return total / (num_items_in_batch or (labels[:, 1:] != -100).sum())


def sums(places, digits=2):
    """Return the prompts of sums of two numbers, given their places (n,) in the list of all 100^digits."""
    return [f"{place // 10**digits:0{digits}d}+{place % 10**digits:0{digits}d}=" for place in places]


def answer(prompt):
    """Return the right completion of a prompt: the digits of the sum, ones first, one more than a term
    has."""
    a, b = prompt.rstrip("=").split("+")
    return f"{int(a) + int(b):0{len(a) + 1}d}"[::-1]


def answered(prompts):
    """Return sums with their answers, to be trained on."""
    return Dataset.from_dict({"prompt": prompts, "completion": [answer(prompt) for prompt in prompts]})


def right(prompts, completions, **_):
    """The verifier: 1 for a right completion, 0 for any other."""
    return [float(text == answer(prompt)) for prompt, text in zip(prompts, completions, strict=True)]


def nines(prompts, completions, **_):
    """A judge that can be fooled, by casting out nines: 1 for any number with the sum's remainder by 9."""
    return [
        float(text.isdigit() and int(text[::-1]) % 9 == int(answer(prompt)[::-1]) % 9)
        for prompt, text in zip(prompts, completions, strict=True)
    ]


def noisy(share, rng):
    """Return a judge that is `right` but for a share of its verdicts, turned round at random."""

    def judge(prompts, completions, **_):
        verdicts = np.array(right(prompts, completions))
        return np.abs(verdicts - (rng.random(len(verdicts)) < share)).tolist()

    return judge


def given(model, words):
    """In the place of a sampler: the right answers, from outside; what is learned from them is supervised."""
    return lambda prompts, rngs: [answer(prompt) for prompt in prompts]


# the other sampler: what the model itself writes
own = partial(model_sampler, max_new_tokens=3, batch_size=256)


def arguments(folder, rng, steps, learning_rate, weight_decay):
    """Return the arguments of a Trainer: a new optimiser, a warm-up, and a rate that decays to 0."""
    return TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=min(20, steps // 4),
        per_device_train_batch_size=BATCH,
        dataloader_drop_last=True,
        optim="adamw_torch_fused",
        adam_beta2=0.98,
        seed=int(rng.integers(2**31)),
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def learn(
    model,
    prompts,
    reward,
    rule,
    rng,
    *,
    steps,
    learning_rate,
    weight_decay,
    sampler=own,
    rounds=1,
    samples=1,
    supervised=None,
    **options,
):
    """Train a model in place by `rsf_rounds`, `steps` of 32 examples a round, and return its reports.

    Each round begins with a new optimiser, and its rate decays to 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        return rsf_rounds(
            model,
            tokenizer(),
            prompts,
            reward,
            rule,
            arguments(folder, rng, steps, learning_rate, weight_decay),
            rng,
            rounds=rounds,
            samples_per_prompt=samples,
            supervised=supervised,
            restart=False,
            sampler=sampler,
            **options,
        )


@torch.inference_mode()
def likeliest(model, prompts):
    """Return what the model writes after each prompt if it takes the likeliest digit each time."""
    words = tokenizer()
    length = len(answer(prompts[0]))
    ids = torch.tensor(words(prompts)["input_ids"])
    for _ in range(length):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return words.batch_decode(ids[:, -length:])


def accuracy(model, prompts, judge=right):
    """Return the share of the prompts after which the likeliest digits pass the judge."""
    return float(np.mean(judge(prompts, likeliest(model, prompts))))


def world(settings, seed):
    """Return a seed's sums by what they are for: `numbers` with answers, those without, two sets to measure
    on."""
    sizes = [settings[name] for name in ("numbers", "pool", "validation", "test")]
    order = sums(np.random.default_rng([seed, 0]).permutation(10**4)[: sum(sizes)])
    return dict(
        zip(
            ("supervised", "pool", "validation", "test"),
            np.split(order, np.cumsum(sizes)[:-1]),
            strict=True,
        )
    )


def start(settings, seed, steps, learning_rate, weight_decay):
    """Return a model trained from random weights on the sums with answers alone."""
    model = tiny_gpt2(np.random.default_rng([seed, 1]))
    learn(
        model,
        world(settings, seed)["supervised"].tolist(),
        right,
        rules.constant(1),
        np.random.default_rng([seed, 2]),
        steps=steps,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        sampler=given,
    )
    return model


def told(experiment, arm, seed, work):
    """Run one arm with one seed of a section, on one thread: its numbers are work(experiment, arm, seed)."""
    torch.set_num_threads(1)
    settings = records.protocol(experiment)
    return records.Run(
        f"{settings['numbers']} sums with answers and {settings['pool']} without, of 10,000",
        "GPT-2, 1 layer of width 64, random weights",
        "CPU, 1 thread",
        work(experiment, arm, seed),
    )


@lru_cache(maxsize=1)
def base(experiment, seed):
    """Return the model that the arms go on from, and the rewards of what it writes on the sums without
    answers."""
    settings = records.protocol(experiment)
    model = start(
        settings,
        seed,
        settings["base_steps"],
        settings["base_learning_rate"],
        settings["base_weight_decay"],
    )
    _, judged, _ = sample_and_judge(
        own(model, tokenizer()),
        world(settings, seed)["pool"].tolist(),
        right,
        rules.above(1),
        np.random.default_rng([seed, 3]),
        samples_per_prompt=1,
    )
    return model, judged["reward"]
