"""What selection costs: scoring against training, a whole pass against their sum, and the published loop
against ours.

    bound: seconds(pass that keeps the share a) <= 1.10 (seconds(scoring) + a seconds(training))

python -m rsf bench selection          one pass of each arm over a slice of reviews, interleaved; writes
results/bench-selection/
"""

import sys
import tempfile
import timeit

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from rsf.lab import arms, data, models, records
from rsf.lab.bench import in_own_process
from rsf.rules import Rule, constant
from rsf.selection import RSFConfig, RSFTrainer

# name: (dropout, share kept of what is scored, or None; further options, or None for the plain Trainer)
ARMS = {
    "plain": (True, None, None),
    "plain, no dropout": (False, None, None),
    "keep all": (True, None, {}),
    "score": (True, 0, {}),
    "score, bfloat16": (True, 0, {"scoring_dtype": "bfloat16"}),
    "keep 0.25": (True, 0.25, {}),
    "keep 0.5": (True, 0.5, {}),
    "keep 0.75": (True, 0.75, {}),
    "batches, 0.3": (True, 0.3, {"unit": "batch"}),
    "batches, 1": (True, 1, {"unit": "batch"}),
    "listing, 0.3": (True, 0.3, None),
    "listing, 1": (True, 1, None),
}


def evenly(a):
    """Return a function of n criterion values that says which of them to keep: the share a of all, evenly
    spread over all calls.

    What a rule of that acceptance rate costs, without the noise of coins.
    """
    seen = 0

    def keep(r):
        nonlocal seen
        edges = np.floor((seen + np.arange(r.size + 1)) * a + 0.5)
        seen += r.size
        return (np.diff(edges) > 0).reshape(r.shape)

    return keep


def scored(a):
    """Return a rule that has every candidate scored and keeps the share a of them."""
    keep = evenly(a)
    return Rule(f"score, keep {a:g}", lambda r: np.where(keep(r), 0.0, -np.inf), phi=None)


class OnePass(TrainerCallback):
    """Clocks a pass and ends the training with it."""

    def on_train_begin(self, *_, **__):
        self.begun = arms.clock()

    def on_epoch_end(self, args, state, control, **_):
        self.taken = arms.clock() - self.begun
        control.should_training_stop = True


def one_pass(arm, model, tokenizer, rows, seed, settings):
    """Train one pass over the rows by an arm.

    Return seconds, processor seconds, and the tokens of what was decided on and trained on.
    """
    dropout, share, options = ARMS[arm]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1 * dropout
    if arm.startswith("listing"):
        return _listed_pass(share, model, tokenizer, rows, seed, settings)
    kept_tokens = []

    def remember(block, criterion, kept):
        kept = np.broadcast_to(kept, len(block))
        kept_tokens.extend(len(row["input_ids"]) for row, keep in zip(block, kept, strict=True) if keep)

    timed = OnePass()
    more = {"train_dataset": rows, "processing_class": tokenizer, "callbacks": [timed]}
    with tempfile.TemporaryDirectory() as folder:
        shared = {
            "output_dir": folder,
            "seed": seed,
            "per_device_train_batch_size": settings["batch_size"],
            "optim": "adamw_torch",
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "bf16": settings["bf16"],
            "train_sampling_strategy": "sequential",
            "learning_rate": settings["learning_rate"],
        }
        if options is None:
            trainer = Trainer(model, TrainingArguments(**shared), **more)
        else:
            if options != {"unit": "batch"}:
                options = {"block_size": settings["block"], "scoring_batch_size": settings["chunk"]} | options
            trainer = RSFTrainer(
                model,
                RSFConfig(**shared, **options, compute_budget=5 * len(rows)),
                rule=(constant(1) if share is None else scored(share)),
                on_decision=remember,
                **more,
            )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    trained = _tokens(rows) if options is None else sum(kept_tokens[: trainer.loader.report.trained])
    return [*timed.taken, _tokens(rows), trained]  # what else was kept waits


def _listed_pass(share, model, tokenizer, rows, seed, settings):
    """As `one_pass`, by the published loop; every review is padded and costs it the same, so it takes only
    some."""
    rows = rows[:: settings["listing_every"]]
    keep = evenly(share)
    kept_tokens = []

    def remember(block, criterion, kept):
        kept_tokens.append(_tokens(block) * bool(kept.all()))

    def collate(block):
        padded = tokenizer.pad(
            {"input_ids": [row["input_ids"] for row in block]},
            "max_length",
            settings["tokens"],
            return_tensors="pt",
        )
        return {**padded, "labels": torch.tensor([row["label"] for row in block])}

    begun = arms.clock()
    arms.listing(
        model,
        rows,
        seed,
        settings,
        collate,
        lambda seen, _: seen >= len(rows),
        remember,
        probability=lambda _: keep(np.ones(1))[0],
    )
    return [*(arms.clock() - begun), _tokens(rows), sum(kept_tokens)]


def _tokens(rows):
    return sum(len(row["input_ids"]) for row in rows)


def prepared(settings, seed):
    """Return model, tokenizer, slices of rows and where they are from.

    A slice is drawn without replacement, its longest review first: what "group_by_length" makes of each 50
    batches of a large data set (of a small one it makes shorter runs of like length, with more padding:
    measured on a slice, that would be the slice's cost).
    """
    rng = np.random.default_rng(seed)
    reviews = data.load("imdb")
    model, tokenizer, source = models.load("bert", 2, rng, source=settings["model"])
    if settings["shapes"] == "bert-base":  # random weights: what it costs, not what it learns
        model = BertForSequenceClassification(BertConfig(num_labels=2))
    size = min(settings["reviews"], len(reviews.train) // settings["slices"])  # the embedded corpus is small
    places = rng.permutation(len(reviews.train))[: settings["slices"] * size]
    chosen = [
        {"input_ids": row["input_ids"], "label": row["label"]}
        for row in data.encoded(reviews.train, places, tokenizer, settings["tokens"])
    ]
    rows = [
        sorted(one, key=lambda row: -len(row["input_ids"]))
        for one in (chosen[i : i + size] for i in range(0, len(chosen), size))
    ]
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model, tokenizer, rows, reviews.source, source


def floor(model, rows, settings):
    """Return the seconds that the matrix products of scoring the rows would take, each review as long as it
    is, at the measured rate."""
    device = next(model.parameters()).device
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for row in rows:
            model(input_ids=torch.tensor([row["input_ids"]], device=device))
    a, b = (
        torch.ones(size, device=device, dtype=(torch.bfloat16 if settings["bf16"] else torch.float32))
        for size in ((4096, 1024), (1024, 4096))
    )
    best = min(timeit.repeat(lambda: a @ b, timer=lambda: arms.clock()[0], repeat=5, number=1))
    return {"flops": counter.get_total_flops(), "flops_per_second": round(2 * 4096 * 1024 * 4096 / best)}


def peak(arm, settings, seed):
    """Return the memory (MiB) before one pass and its peak; for a process of its own."""
    model, tokenizer, slices, *_ = prepared(settings, seed)
    before = _most_memory()
    one_pass(arm, model, tokenizer, slices[0][: settings["memory_reviews"]], seed, settings)
    return [round(before), round(_most_memory())]


def _most_memory():
    """Return the peak memory so far in MiB: the GPU's where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError as error:
        raise NotImplementedError(
            "the benchmark reads its peak of memory by the module resource, which Windows has not: run it on "
            "Linux or macOS, or where there is a GPU"
        ) from error
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def run(arm=None):
    """Run section bench-selection of the protocol (arm "cpu", or "gpu" where there is one): return the arm
    and its run."""
    arm = arm or ("gpu" if torch.cuda.is_available() else "cpu")
    section = records.protocol("bench-selection")
    settings = section | section[arm]
    seed = settings["seeds"][0]
    if arm == "cpu":
        torch.set_num_threads(1)
    _most_memory()  # what it refuses, it refuses here: the processes below are waited for
    numbers = {
        "passes": {name: [] for name in ARMS},
        "memory": {
            name: in_own_process(peak, name, settings, seed)
            for name in tqdm(settings["memory"], desc="memory")
        },
    }
    model, tokenizer, slices, reviews, checkpoint = prepared(settings, seed)
    for number, rows in enumerate(tqdm(slices, desc="slices")):
        for name in ARMS:
            numbers["passes"][name].append(
                [round(value, 3) for value in one_pass(name, model, tokenizer, rows, seed + number, settings)]
            )
    numbers["floor"] = floor(model, slices[0], settings)
    return arm, records.Run(reviews, checkpoint, arms.device_name().removesuffix("s"), numbers)
