"""A tiny GPT-2 that learns to add from its own verified answers: the experiment of notebook 10.

    "47+85=" -> "231": the sum 132, ones first, so that a carry is known before it is needed

An answer can be checked without knowing it beforehand, so what the model writes on sums without answers can
be kept or rejected. All is float64 on one thread with weights, sums and coins of NumPy: the same decisions on
every machine. Compute is counted in forward passes of one token: 1 a token read or written in sampling, 3 a
token trained on; every arm of a run has the same.

python -m rsf experiment arithmetic-200      every arm and seed of that section, a result file each; goes on
where it stopped
"""

import copy
import itertools
import tempfile
import time
from functools import lru_cache, partial

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainingArguments

from rsf import rules
from rsf.accounts import TRAIN
from rsf.generation import model_sampler, rsf_rounds, sample_and_judge
from rsf.lab import records

BATCH = 32


def tokenizer():
    """Return a tokenizer with a token for each character of a sum."""
    words = Tokenizer(
        models.WordLevel({character: i for i, character in enumerate("0123456789+=")}, unk_token="=")
    )
    words.pre_tokenizer, words.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words)


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
    model.loss_function = _loss
    return model


def _loss(logits, labels, vocab_size, num_items_in_batch=None, **_):
    """Mean cross-entropy of the labels that are not -100, each predicted from the place before it."""
    total = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    return total / (num_items_in_batch or (labels[:, 1:] != -100).sum())


def sums(places, digits=2):
    """Return the prompts of sums, given their places (n,) in the list of all 100^digits sums of two numbers
    of so many digits."""
    return [
        f"{a:0{digits}d}+{b:0{digits}d}=" for a, b in (divmod(int(place), 10**digits) for place in places)
    ]


def answer(prompt):
    """Return the right completion of a prompt: the digits of the sum, ones first, one more than its terms
    have."""
    a, b = prompt.rstrip("=").split("+")
    return f"{int(a) + int(b):0{len(a) + 1}d}"[::-1]


def right(prompts, completions, **_):
    """The verifier: 1 for a right completion, 0 for any other."""
    return [
        float(completion == answer(prompt)) for prompt, completion in zip(prompts, completions, strict=True)
    ]


def nines(prompts, completions, **_):
    """A judge that can be fooled: casting out nines, 1 for any number that leaves the remainder of the sum
    when divided by 9."""
    passed = (
        text.isdigit() and int(text[::-1]) % 9 == int(answer(prompt)[::-1]) % 9
        for prompt, text in zip(prompts, completions, strict=True)
    )
    return [float(one) for one in passed]


def noisy(share, rng):
    """Return a judge that is `right` but for a share of its verdicts, turned round at random."""

    def judge(prompts, completions, **_):
        verdicts = np.array(right(prompts, completions))
        return np.abs(verdicts - (rng.random(len(verdicts)) < share)).tolist()

    return judge


def given(model, words):
    """In the place of a sampler: the right answers, from outside; what is learned from them is supervised."""
    return lambda prompts, rngs: [answer(prompt) for prompt in prompts]


own = partial(
    model_sampler, max_new_tokens=3, batch_size=256
)  # the other sampler: what the model itself writes


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
    """Train a model in place by `rsf_rounds`: `steps` of 32 examples a round, each round with a rate that
    decays to 0; return its reports."""
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
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
        options |= {
            "rounds": rounds,
            "samples_per_prompt": samples,
            "supervised": supervised,
            "restart": False,
            "sampler": sampler,
        }
        return rsf_rounds(model, tokenizer(), prompts, reward, rule, args, rng, **options)


@torch.inference_mode()
def likeliest(model, prompts):
    """Return what the model writes after each prompt if it takes the likeliest digit each time."""
    words, length = tokenizer(), len(answer(prompts[0]))
    ids = torch.tensor(words(prompts)["input_ids"])
    for _ in range(length):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return words.batch_decode(ids[:, -length:])


def accuracy(model, prompts, judge=right):
    """Return the share of the prompts after which what the model writes, likeliest digits, passes the
    judge."""
    return float(np.mean(judge(prompts, likeliest(model, prompts))))


ARMS = {  # sampler, rule, samples for a prompt, judge
    "rejection": (own, lambda: rules.above(1), 1, lambda rng: right),
    "blind": (own, lambda: rules.random_like(rules.above(1)), 1, lambda rng: right),
    "gold": (given, lambda: rules.constant(1), 1, lambda rng: right),
    "best-of-4": (own, lambda: rules.best_of(4), 4, lambda rng: right),
    "noisy": (own, lambda: rules.above(1), 1, lambda rng: noisy(0.1, rng)),
    "nines": (own, lambda: rules.above(1), 1, lambda rng: nines),
}


def world(settings, seed):
    """Return the sums of a seed by what they are for: `numbers` with answers, those without, and two sets to
    measure on."""
    sizes = [settings[name] for name in ("numbers", "pool", "validation", "test")]
    order = sums(np.random.default_rng([seed, 0]).permutation(10**4)[: sum(sizes)])
    return dict(
        zip(("supervised", "pool", "validation", "test"), np.split(order, np.cumsum(sizes)[:-1]), strict=True)
    )


def start(settings, seed, steps, learning_rate, weight_decay):
    """Return a model trained from random weights on the sums with answers alone."""
    model, prompts = tiny_gpt2(np.random.default_rng([seed, 1])), world(settings, seed)["supervised"].tolist()
    options = {"steps": steps, "learning_rate": learning_rate, "weight_decay": weight_decay}
    learn(
        model, prompts, right, rules.constant(1), np.random.default_rng([seed, 2]), sampler=given, **options
    )
    return model


@lru_cache(maxsize=1)
def base(experiment, seed):
    """Return the model that the arms go on from, and the rewards of what it writes on the sums without
    answers."""
    settings = records.protocol(experiment)
    model = start(
        settings, seed, settings["base_steps"], settings["base_learning_rate"], settings["base_weight_decay"]
    )
    pool = world(settings, seed)["pool"].tolist()
    judged = sample_and_judge(
        own(model, tokenizer()),
        pool,
        right,
        rules.above(1),
        np.random.default_rng([seed, 3]),
        samples_per_prompt=1,
    )[1]
    return model, judged["reward"]


def train(experiment, arm, seed, learning_rate, weight_decay, on_round=lambda model, report: None):
    """Return (model, reports, spent) of an arm: all arms of a seed start from the same weights and spend the
    same on all in all.

    The control learns from the sums with answers alone, in one piece; the others do so for `base_steps`, and
    then go on in rounds with the sums without answers.
    """
    settings, tokens = records.protocol(experiment), 9
    step = TRAIN * BATCH * tokens
    if arm == "control":
        return (
            start(settings, seed, settings["steps"], learning_rate, weight_decay),
            [],
            step * settings["steps"],
        )
    sampler, rule, samples, judge = ARMS[arm]
    model, rewards = base(experiment, seed)
    model, rule, sums_of = copy.deepcopy(model), rule(), world(settings, seed)
    if arm == "blind":
        rule.observe(rewards)  # a rate to begin with
    sampling = tokens * settings["pool"] if sampler is own else 0
    left = (settings["steps"] - settings["base_steps"]) * step // settings["rounds"] - sampling
    supervised = sums_of["supervised"].tolist()
    reports = learn(
        model,
        sums_of["pool"][: settings["pool"] // samples].tolist(),
        judge(np.random.default_rng([seed, 6])),
        rule,
        np.random.default_rng([seed, 4]),
        sampler=sampler,
        rounds=settings["rounds"],
        samples=samples,
        steps=left // step,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        supervised=Dataset.from_dict(
            {"prompt": supervised, "completion": [answer(prompt) for prompt in supervised]}
        ),
        on_round=lambda report: on_round(model, report),
    )
    return (
        model,
        reports,
        step * settings["base_steps"] + settings["rounds"] * (sampling + left // step * step),
    )


def tune(experiment, arm, seed):
    """Return the numbers of a tuning run: accuracy on the validation sums for each setting of the grid."""
    settings = records.protocol(experiment)
    validation = world(settings, seed)["validation"].tolist()
    grid = list(itertools.product(settings["grid_learning_rate"], settings["grid_weight_decay"]))
    return {
        "grid": grid,
        "validation": [accuracy(train(experiment, arm, seed, *setting)[0], validation) for setting in grid],
    }


def chosen(experiment, arm):
    """Return (learning_rate, weight_decay): the best on the validation sums, mean over the tuning seeds;
    other judges take rejection's."""
    arm = "rejection" if arm in ("noisy", "nines") else arm
    for name in records.protocol(experiment)["tuning"]:
        if arm in records.protocol(name)["arms"]:
            runs = list(records.read(name)[arm].values())
            return tuple(
                runs[0]["numbers"]["grid"][
                    int(np.argmax(np.mean([run["numbers"]["validation"] for run in runs], axis=0)))
                ]
            )
    raise ValueError(f"no tuning section of {experiment} has the arm {arm!r}")


def measure(experiment, arm, seed):
    """Return the numbers of a run: accuracy after each round and in the end, what was accepted, what was
    spent."""
    setting, curve = chosen(experiment, arm), []
    settings = records.protocol(experiment)
    test, clock = world(settings, seed)["test"].tolist(), time.process_time()
    model, reports, spent = train(
        experiment, arm, seed, *setting, on_round=lambda model, report: curve.append(accuracy(model, test))
    )
    longer = sums(np.random.default_rng([seed, 5]).integers(10**6, size=1000), digits=3)
    return {
        "accuracy": accuracy(model, test),
        "setting": setting,
        "base": accuracy(base(experiment, seed)[0], test) if reports else None,
        "curve": curve,
        "acceptance": [report.sampling.acceptance_rate for report in reports],
        "reward": [report.reward for report in reports],
        "examples": [report.examples for report in reports],
        "margin": min(
            (report.sampling.slack for report in reports if np.isfinite(report.sampling.slack)), default=None
        ),  # of no coins: inf
        "nines": accuracy(model, test, nines),
        "longer": accuracy(model, longer),
        "forward_passes": spent,
        "cpu_seconds": round(time.process_time() - clock, 1),
    }


def run(experiment: str, arm: str, seed: int) -> records.Run:
    """Run one arm with one seed of an arithmetic section of the protocol."""
    torch.set_num_threads(1)
    numbers = (tune if experiment.endswith("tuning") else measure)(experiment, arm, seed)
    settings = records.protocol(experiment)
    data = f"{settings['numbers']} sums with answers and {settings['pool']} without, of 10,000"
    return records.Run(data, "GPT-2, 1 layer of width 64, random weights", "CPU, 1 thread", numbers)
