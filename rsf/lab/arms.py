"""The arms of a comparison, for any task: each decides what a model is trained on, at one budget.

plain        keeps everything; plain-short the same, at another budget (the task's to say)
article      min(1, loss / k), one coin by the section's unit
random       blind, at the article's recent rate: it scores as the article does, so it takes as many steps
twin         everything, weighed by the article's A
at_rate-0.5  min(1, loss / k) with the k that rejects half; easy-0.3 the same with min(1, k / loss)
random-0.5   blind, at the recent rate of at_rate-0.5
listing      the published loop itself, repaired as little as it takes to run

Arms with a rate decide example by example and score in eval mode, whatever their section says of the article.
"""

import gc
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Subset
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from rsf.accounts import FORWARD, TRAIN, write_json
from rsf.lab import compact, records
from rsf.rules import BaseRule, at_rate, clipped, constant, easy, random_like
from rsf.selection import RSFConfig, RSFTrainer
from rsf.selection.checkpoints import last_whole

gc.freeze()  # a Trainer begins by collecting garbage: what was imported need not be walked each time
Run = tuple[str, str, int, float | None]  # what a record is told from all others by
# of the arms that are given by a rejection rate
FAMILIES = {"at_rate": clipped, "easy": easy, "random": clipped}


def rule_of(arm: str, settings: dict) -> BaseRule:
    """Return a fresh rule for an arm of the protocol.

    >>> print(rule_of("at_rate-0.5", {"k": 0.5, "window": 32, "rate_window": 256}))
    clipped at rejection rate 0.5
    """
    if has_rate(arm):
        kind, _, rate = arm.partition("-")
        rule = at_rate(FAMILIES[kind], float(rate), settings["rate_window"])
        return random_like(rule, settings["rate_window"]) if kind == "random" else rule
    records.must(
        arm in ("plain", "plain-short", "article", "twin", "random"),
        f"there is no arm {arm!r}, only plain, plain-short, article, twin, random, at_rate-R, easy-R or "
        "random-R with a rejection rate R",
    )
    article = constant(1) if arm.startswith("plain") else clipped(settings["k"])
    return random_like(article, settings["window"]) if arm == "random" else article


def has_rate(arm: str) -> bool:
    """Return whether an arm is given by a rejection rate."""
    kind, _, rate = arm.partition("-")
    return kind in FAMILIES and rate != ""


def fine_tune(
    model: PreTrainedModel,
    train: object,
    arm: str,
    seed: int,
    settings: dict,
    collate: Callable,
    on_decision: Callable | None = None,
    journal: "Journal | None" = None,
) -> RSFTrainer:
    """Fine-tune a model in place by one arm of the protocol and return the trainer.

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a torch module that returns loss and logits
    train : data set with len, its items what `collate` takes lists of
    arm, seed, settings : see results/protocol.toml
    collate : callable(list of items) -> dict of tensors
    on_decision : callable(block, criterion, kept), told each decision
    journal : Journal, optional
        Saves checkpoints, and knows the last one of a run that was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        args = RSFConfig(
            output_dir=(journal and journal.folder) or folder,
            save_total_limit=1,
            seed=seed,
            unit="example" if has_rate(arm) else settings["unit"],
            scoring_dropout=settings["scoring_dropout"] and not has_rate(arm),
            weighting="acceptance" if arm == "twin" else "none",
            num_train_epochs=settings["passes"],
            compute_budget=settings.get("budget", 0),
            progress=settings.get("progress", "compute"),
            per_device_train_batch_size=settings["batch_size"],
            learning_rate=settings["learning_rate"],
            lr_scheduler_type=settings["schedule"],
            max_grad_norm=settings.get("max_grad_norm", 1.0),
            train_sampling_strategy=settings.get("sampling", "random"),
            optim=settings["optimizer"],
            weight_decay=settings["weight_decay"],
            bf16=precision(settings) == "bfloat16",
            fp16=precision(settings) == "float16",
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = RSFTrainer(
            model,
            args,
            train_dataset=train,
            data_collator=collate,
            rule=rule_of(arm, settings),
            criterion=getattr(model, "criterion", "loss"),  # of a model whose loss is none of the usual
            on_decision=on_decision,
            callbacks=[journal] if journal else [],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(journal and journal.last)
    return trainer


def precision(settings: dict) -> str:
    """Return the type that training computes in: the section's own, or where it says so the device's."""
    if "precision" not in settings or not torch.cuda.is_available():
        return "bfloat16" if settings.get("bf16") else "float32"
    return "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float16"


def checkpoints_of(run: Run, settings: dict) -> Path | None:
    """Return where a run's checkpoints are, below RSF_CHECKPOINTS: it goes on only on the same device."""
    if "RSF_CHECKPOINTS" not in os.environ:
        return None
    below = Path(os.environ["RSF_CHECKPOINTS"]) / re.sub(
        r"\W+", "-", f"{device_name()} {precision(settings)}"
    )
    return records.path(*run[:3], below, rate=run[3]).with_suffix("")


class Journal(TrainerCallback):
    """Counts the coins of a training, and saves all that a killed run goes on from.

    It saves every RSF_SAVE_EVERY seconds (600), and at the time RSF_UNTIL (seconds since 1970) once more,
    and stops.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.until = float(os.environ.get("RSF_UNTIL", np.inf))
        self.begun = self.saved = time.time()
        self.counts = {"candidates": [], "kept": [], "seconds": 0.0}
        self.last = None
        with suppress(ValueError, TypeError):  # nothing was saved, or is to be
            self.last = last_whole(folder, 1)
            self.counts = json.loads(Path(f"{self.last}.json").read_text(encoding="utf-8"))

    def __call__(self, block: list, criterion: np.ndarray, coins: np.ndarray) -> None:
        self.counts["candidates"].append(len(coins))
        self.counts["kept"].append(int(coins.sum()))

    def seconds(self) -> float:
        """Return how long the run has trained, in all its sittings."""
        return round(self.counts["seconds"] + time.time() - self.begun, 1)

    def on_step_end(
        self, args: RSFConfig, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        """Save if it is time to."""
        now = time.time()
        if self.folder and now >= min(self.until, self.saved + float(os.environ.get("RSF_SAVE_EVERY", 600))):
            self.saved = now
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(
                self.folder / f"checkpoint-{state.global_step}.json",
                self.counts | {"seconds": self.seconds()},
            )
            control.should_save = True
            control.should_training_stop |= now >= self.until
        return control


def measured(
    run: Run,
    sources: Sequence[str],
    model: PreTrainedModel,
    train: object,
    tested: Sequence,
    labels: np.ndarray,
    settings: dict,
    collate: Callable,
    batch_size: int,
    length: Callable[[object], int] | None = None,
) -> records.Run:
    """Fine-tune a model and return its run, the numbers in the compact form (see `rsf.lab.compact`).

    Parameters
    ----------
    run : its section, arm, seed and, for tuning, its rate
    sources : the lines that say where data and model are from
    model, train, settings, collate : as for `fine_tune`
    tested : test or, with a rate, validation examples, and `labels` (n,), theirs
    batch_size, length : of the test, see `logits`

    Raises
    ------
    TimeoutError
        RSF_UNTIL came before the end of the training; its state is saved.
    """
    tuning = run[3] is not None

    def judge(trained):
        return compact.outcomes(
            logits(trained, tested, collate, batch_size, length),
            labels,
            scalars=tuning,
            each=settings["measure"] == "nll" and not tuning,
        )

    return judged(run, sources, model, train, settings, collate, judge)


def judged(
    run: Run,
    sources: Sequence[str],
    model: PreTrainedModel,
    train: object,
    settings: dict,
    collate: Callable,
    judge: Callable[[PreTrainedModel], dict],
) -> records.Run:
    """As `measured`, the answers judged by a function of the model that returns numbers of a record."""
    experiment, arm, seed, rate = run
    journal = Journal(checkpoints_of(run, settings))
    trainer = fine_tune(model, train, arm, seed, settings, collate, journal, journal)
    steps, seconds = trainer.state.global_step, journal.seconds()
    records.must(
        trainer.is_over(steps),
        f"{experiment} {arm} {seed} is saved after {steps} steps: it goes on from there",
        TimeoutError,
    )
    counts = compact.decisions(journal.counts["candidates"], journal.counts["kept"])
    report = trainer.loader.report
    numbers = {
        **judge(trainer.model),
        **(counts if rate is None else {"acceptance_rate": counts["acceptance_rate"]}),
        "forward_passes": trainer.spent,
        **({"budget": trainer.budget} if np.isfinite(trainer.budget) else {}),
        "scored": report.scored,
        "trained": report.trained,
        "steps": steps,
        **({"stopped": trainer.stopped} if trainer.stopped else {}),
        "learning_rate": settings["learning_rate"],
        **({"precision": precision(settings)} if "precision" in settings else {}),
        "seconds": seconds,
    }
    return records.Run(*sources, device_name(), numbers)


def listing(
    model: PreTrainedModel,
    train: object,
    seed: int,
    settings: dict,
    collate: Callable,
    enough: Callable[[int, int], bool],
    on_decision: Callable | None = None,
    *,
    probability: Callable[[float], float] | None = None,
) -> tuple[int, int]:
    """Fine-tune a model by the published loop, repaired as little as it takes; return (scored, trained).

    Each batch runs through the model twice, in train mode: once for its loss, and once more if it is kept.

    Parameters
    ----------
    model, train, seed, settings, collate, on_decision : as for `fine_tune`
    enough : callable(candidates, forward passes spent) -> bool, asked after each batch
    probability : callable(loss) -> A, default the article's min(1, loss / k)
    """
    probability = probability or (lambda loss: min(1, loss / settings["k"]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = torch.optim.Adam(model.to(device).train().parameters(), lr=settings["learning_rate"])
    coins = np.random.default_rng([seed, 0])
    order = np.random.default_rng([seed, 1])
    scored = trained = 0
    while True:
        shuffled = order.permutation(len(train))
        for start in range(0, len(train), settings["batch_size"]):
            block = [train[int(i)] for i in shuffled[start : start + settings["batch_size"]]]
            batch = {name: value.to(device) for name, value in collate(block).items()}
            with torch.no_grad():
                loss = model(**batch).loss.item()
            kept = bool(coins.random() < probability(loss))
            if kept:
                optimizer.zero_grad()
                model(**batch).loss.backward()
                optimizer.step()
                trained += len(block)
            scored += len(block)
            if on_decision:
                on_decision(block, np.array([loss]), np.array([kept]))
            if enough(scored, FORWARD * scored + TRAIN * trained):
                return scored, trained


def logits(
    model: PreTrainedModel,
    examples: Sequence,
    collate: Callable,
    batch_size: int = 32,
    length: Callable[[object], int] | None = None,
) -> np.ndarray:
    """Return the model's logits in eval mode, (n, labels) float64; by `length` alike ones share a batch."""
    model.eval()
    device = next(model.parameters()).device
    order = sorted(range(len(examples)), key=lambda i: length(examples[i]) if length else i)
    rows = []
    with torch.inference_mode():
        for _, batch in batches(Subset(examples, order), collate, batch_size):
            sent = {name: value.to(device) for name, value in batch.items()}
            rows.append(model(**sent).logits.double().cpu().numpy())
    return np.concatenate(rows)[np.argsort(order)]


def batches(examples: Sequence, collate: Callable, size: int = 32) -> Iterator[tuple[list, dict]]:
    """Yield examples in their order, so many at a time, and the batch of them."""
    for start in range(0, len(examples), size):
        rows = [examples[i] for i in range(start, min(start + size, len(examples)))]
        yield rows, collate(rows)


def accuracy(scores: np.ndarray, examples: object) -> float:
    """Return the share of examples whose label has the largest logit, from `logits` (n, labels)."""
    return float(np.mean(scores.argmax(1) == [row["label"] for row in examples]))


def clock() -> np.ndarray:
    """Return seconds of the wall and of the processor, all that was sent to a GPU being done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def device_name() -> str:
    """Return what a run of torch's runs on, as a record says it."""
    return (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
