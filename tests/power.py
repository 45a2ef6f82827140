"""How often does rsf.checks catch a named fault in accept-reject code, and how often does it accuse the right code?

    python tests/power.py

Each fault of `imitations.py` 200 times, its right twin 2,000 times, and the assisted generation of the installed transformers,
a tiny pair of models, 5,000 calls each: some eight minutes. Writes results/checks-power.json, from which the table in results/README is made.
"""

import json
import sys
from collections import Counter
from importlib import metadata
from itertools import product
from pathlib import Path

import numpy as np
from imitations import CASES

from rsf import checks
from rsf.accounts import write_text

FILE = Path(__file__).resolve().parent.parent / "results" / "checks-power.json"
REPEATS, TWINS, TIMES = 200, 2_000, (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
CAUGHT = 198
CALLS = 5_000  # of transformers


def verdicts(case, sampler, repeats, stream, calls=None):
    """Return the verdicts on a sampler, each from a seed fixed by rule: [25, stream, number of the fault, repeat]."""
    number = [other.fault for other in CASES].index(case.fault)
    seeds = [[25, stream, number, repeat] for repeat in range(repeats)]
    return [
        case.judge(sampler, case.truth, np.random.default_rng(seed), calls=calls or case.calls)
        for seed in seeds
    ]


def study(case):
    """Return a row of the table: how often the fault is caught and the twin accused, and how few calls are enough."""
    caught = [found for found in verdicts(case, case.faulty, REPEATS, 0) if not found]
    alarms = sum(not found for found in verdicts(case, case.right, TWINS, 1))
    enough = next(
        n for n in TIMES if sum(not v for v in verdicts(case, case.faulty, REPEATS, 2, n)) >= CAUGHT
    )
    cell, times = Counter(repr(found.cell) for found in caught).most_common(1)[0]
    return {
        "fault": case.fault,
        "call": case.call,
        "judge": case.judge.__name__,
        "calls": case.calls,
        "repeats": REPEATS,
        "caught": len(caught),
        "twins": TWINS,
        "alarms": alarms,
        "enough": enough,
        "most_off": cell if case.judge is checks.draws_law else "",
        "most_off_times": times,
    }


# ---- code that is installed: assisted generation of transformers, with a model and a drafter of four tokens

TOKENS, START = 4, [0, 1]


def pair():
    """Return a tiny model and its drafter, with random weights."""
    from helpers import tiny_gpt2

    return [
        tiny_gpt2(TOKENS, seed, n_layer=layers, initializer_range=0.2) for seed, layers in ((3, 2), (7, 1))
    ]


def next_token(model, beginning, temperature=1.0, top_k=TOKENS):
    """Return the law of the next token after START and a beginning, by the model's logits."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([[*START, *beginning]])).logits[0, -1].numpy() / temperature
    weights = np.where(logits >= np.sort(logits)[-top_k], np.exp(logits - logits.max()), 0)
    return weights / weights.sum()


def texts(model, length=3, **options):
    """Return the law of all texts of a length, each the product of its tokens' probabilities."""
    every = product(range(TOKENS), repeat=length)
    return {
        text: float(np.prod([next_token(model, text[:i], **options)[text[i]] for i in range(length)]))
        for text in every
    }


def assisted(model, drafter, shown=3, **options):
    """Return a sampler: the first tokens that `generate` writes with a drafter, of three, from a seed of the generator."""
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(do_sample=True, max_new_tokens=3, **{"top_k": 0} | options)
    start = torch.tensor([START])
    inputs = {
        "attention_mask": torch.ones_like(start),
        "assistant_model": drafter,
        "generation_config": config,
    }

    def sample(rng):
        torch.manual_seed(int(rng.integers(2**31)))
        return model.generate(start, **inputs)[0, len(START) : len(START) + shown]

    return sample


def argmax_with_raw_logits(model, drafter, point_mass):
    """Return a sampler: transformers' own step, fed with the drafter's likeliest token and the logits that it reports for it."""
    import torch
    from transformers.generation.utils import _speculative_sampling

    p, q = (np.log(next_token(one, ())) for one in (model, drafter))
    drafted = int(q.argmax())
    reported = np.where(np.arange(TOKENS) == drafted, 0.0, -np.inf) if point_mass else q
    ids, logits = torch.tensor([[*START, drafted]]), torch.tensor(reported)[None, None]
    target = torch.tensor(np.stack([p, p]))[None]

    def sample(rng):
        torch.manual_seed(int(rng.integers(2**31)))
        return int(_speculative_sampling(ids, logits, 1, target)[0][0, 0])

    return sample


def installed(calls):
    """Return {what: verdict} on the installed transformers."""
    model, drafter = pair()
    p, q = next_token(model, ()), next_token(drafter, ())
    mixed = {(token,): share for token, share in enumerate((p + q) / 2)}
    half = assisted(model, drafter, shown=1, assistant_ensemble_weight=0.5)
    found = {
        "three tokens, as they come": (assisted(model, drafter), texts(model)),
        "three tokens, temperature 0.7, top_k 2": (
            assisted(model, drafter, temperature=0.7, top_k=2),
            texts(model, temperature=0.7, top_k=2),
        ),
        "assistant_ensemble_weight 0.5, against p": (
            half,
            {(token,): share for token, share in enumerate(p)},
        ),
        "assistant_ensemble_weight 0.5, against (p + q) / 2": (half, mixed),
        "a likeliest token, reported with the whole softmax": (
            argmax_with_raw_logits(model, drafter, False),
            p,
        ),
        "a likeliest token, reported as certain": (argmax_with_raw_logits(model, drafter, True), p),
    }
    seeds = range(len(found))
    return {
        what: checks.draws_law(sampler, law, np.random.default_rng([25, 3, seed]), calls=calls)
        for seed, (what, (sampler, law)) in zip(seeds, found.items(), strict=True)
    }


def main():
    rows = []
    for case in CASES:
        rows.append(study(case))
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    told = {}
    for what, found in installed(CALLS).items():
        told[what] = {"p": float(f"{found.p_value:.4g}"), "passed": found.passed, "line": str(found)}
    versions = {name: metadata.version(name) for name in ("numpy", "scipy", "torch", "transformers")}
    versions["python"] = ".".join(map(str, sys.version_info[:3]))
    content = {
        "made_by": "python tests/power.py",
        "versions": versions,
        "level": checks.LEVEL,
        "faults": rows,
        "transformers_calls": CALLS,
        "transformers": told,
    }
    write_text(FILE, json.dumps(content, indent=1) + "\n")
    sys.stdout.write("\n".join(found["line"] for found in told.values()) + "\n")


if __name__ == "__main__":
    main()
