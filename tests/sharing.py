"""What two processes draw together, for tests/generation/test_sharing.py: torchrun --nproc-per-node 2 sharing.py FOLDER MODE."""

import os
import re
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
from helpers import letters_tokenizer, tiny_gpt2
from safetensors.torch import save_model
from transformers import TrainingArguments

from rsf.generation import model_sampler, rsf_rounds, sample_and_judge, shared
from rsf.rules import above, at_rate, best_of, clipped

END = letters_tokenizer("abc", eos_token="<end>")
PROMPTS = ["a", "bc", "ab", "cab", "cc", "b", "ca"]


def many_a(prompts, completions, **_):
    return [float(text.count("a")) for text in completions]


RUNS = {  # name: (rule, options)
    "until accepted": (partial(above, 1), {"until_accepted": True, "max_samples": 9, "block": 10}),
    "best of four": (partial(best_of, 4), {"samples_per_prompt": 8, "block": 16}),
    "observing": (partial(at_rate, clipped, 0.4, window=24), {"samples_per_prompt": 9, "block": 12}),
    "thinned": (partial(above, 1), {"samples_per_prompt": 9, "dedupe": str, "cap": 2}),
    "one row a block": (partial(above, 1), {"samples_per_prompt": 1, "block": 1}),
}


def judged(sample, name, folder=None):
    rule, options = RUNS[name]
    options = {"samples_per_prompt": 3} | options
    return sample_and_judge(
        sample, PROMPTS, many_a, rule(), np.random.default_rng(5), folder=folder, **options
    )


def sampler(**options):
    model = tiny_gpt2(4, seed=5)
    model.generation_config.eos_token_id = 3
    return model_sampler(model, END, max_new_tokens=4, batch_size=5, **options)


def block(words):
    """Return the Python block of the how-to that has these words."""
    text = (Path(__file__).resolve().parents[1] / "docs/how-to.md").read_text(encoding="utf-8")
    return next(one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if words in one)


def names(folder):
    """What the lines of the how-to speak of."""
    return {
        "model": sampler().model,
        "tokenizer": END,
        "prompts": PROMPTS,
        "reward": many_a,
        "folder": folder,
    }


class Faulty:
    """The sampler of one process: from its third call on it raises, or is killed."""

    def __init__(self, mode):
        self.draw, self.mode, self.calls = sampler(), mode, 0
        self.key = self.draw.key

    def __call__(self, prompts, rngs):
        self.calls += 1
        if self.calls > 2 and os.environ["RANK"] == "1":
            if self.mode == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("no more paper")
        return self.draw(prompts, rngs)


def rounds(folder, processes=1):
    """Two rounds of sampling and training, eight examples a step whatever the number of processes."""
    model = tiny_gpt2(4, seed=5, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).double()
    model.generation_config.eos_token_id = 3
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8 // processes,
        max_steps=2,  # within an epoch: at its end processes get the same number of examples by repeating some
        learning_rate=0.02,
        max_grad_norm=0.0,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
    )
    reports = rsf_rounds(
        model, END, PROMPTS, many_a, at_rate(clipped, 0.4, window=24), args, np.random.default_rng(5),
        rounds=2, samples_per_prompt=8, sampler=partial(model_sampler, max_new_tokens=4),
    )  # fmt: skip
    return model, reports


def main(folder, mode):
    if mode == "rounds":
        for _ in range(2):  # the second call finds all done
            model, reports = rounds(folder / "own", int(os.environ["WORLD_SIZE"]))
            save_model(model, folder / f"weights-{os.environ['RANK']}.safetensors")
            sys.stdout.write(f"{reports}\n")
        return
    own = sampler() if mode == "whole" else Faulty(mode)
    if mode == "whole":
        lines = block("with shared(").replace('"out"', "folder").replace("=64", "=4")  # tokens
        exec(lines, globals() | names(folder / "how-to"))
    with shared(own) as sample:
        assert sample.driver == (os.environ["RANK"] == "0")
        if sample.driver:
            for name in RUNS:
                judged(sample, name, folder / name)
    sys.stdout.write(f"process {os.environ['RANK']} has left\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
