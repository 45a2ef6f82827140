"""The experiments of the protocol, one run at a time: the same function in a notebook, on a CPU and on a GPU.

python -m rsf experiment imdb-small          every arm and seed of that section, a result file each; goes on where it stopped
"""

import tempfile
import time

import numpy as np
import torch
from transformers import PrinterCallback

from rsf import rules
from rsf.lab import data, models, records
from rsf.selection import RSFConfig, RSFTrainer


def rule(arm, settings):
    """Return a fresh rule for an arm of the protocol."""
    if arm == "plain":
        return rules.constant(1)
    article = rules.clipped(settings["k"])
    return {"article": article, "twin": article, "random": rules.random_like(article, settings["window"])}[
        arm
    ]


def fine_tune(model, train, arm, seed, settings, collate, on_decision=lambda block, criterion, kept: None):
    """Fine-tune a model in place by one arm of the protocol and return the trainer.

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a torch module that returns loss and logits
    train : data set with len, its items what `collate` takes lists of
    arm, seed, settings : see results/protocol.toml
    collate : callable(list of items) -> dict of tensors
    on_decision : callable(block, criterion, kept), told each decision
    """
    with tempfile.TemporaryDirectory() as folder:
        args = RSFConfig(
            output_dir=folder,
            seed=seed,
            unit=settings["unit"],
            scoring_dropout=settings["scoring_dropout"],
            twin=arm == "twin",
            num_train_epochs=settings["passes"],
            per_device_train_batch_size=settings["batch_size"],
            learning_rate=settings["learning_rate"],
            lr_scheduler_type=settings["schedule"],
            max_grad_norm=settings.get("max_grad_norm", 1.0),
            train_sampling_strategy=settings.get("sampling", "random"),
            optim=settings["optimizer"],
            weight_decay=settings["weight_decay"],
            bf16=settings["bf16"],
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
            rule=rule(arm, settings),
            on_decision=on_decision,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer


def listing(
    model,
    train,
    seed,
    settings,
    collate,
    enough,
    on_decision=lambda block, criterion, kept: None,
    *,
    probability=None,
):
    """Fine-tune a model by the published loop, repaired as little as it takes to run, and return what was scored and trained on.

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
    size, coins, order, scored, trained = (
        settings["batch_size"],
        np.random.default_rng([seed, 0]),
        np.random.default_rng([seed, 1]),
        0,
        0,
    )
    while True:
        shuffled = order.permutation(len(train))
        for start in range(0, len(train), size):
            block = [train[int(i)] for i in shuffled[start : start + size]]
            batch = {name: value.to(device) for name, value in collate(block).items()}
            with torch.no_grad():
                loss = model(**batch).loss.item()
            if kept := bool(coins.random() < probability(loss)):
                optimizer.zero_grad()
                model(**batch).loss.backward()
                optimizer.step()
            scored, trained = scored + len(block), trained + kept * len(block)
            on_decision(block, np.array([loss]), np.array([kept]))
            if enough(scored, scored + 3 * trained):
                return scored, trained


def logits(model, examples, collate, batch_size=32):
    """Return the model's logits in eval mode, (n, labels) float64."""
    model.eval()
    device, rows = next(model.parameters()).device, []
    with torch.inference_mode():
        for start in range(0, len(examples), batch_size):
            batch = collate([examples[i] for i in range(start, min(start + batch_size, len(examples)))])
            rows.append(
                model(**{name: value.to(device) for name, value in batch.items()})
                .logits.double()
                .cpu()
                .numpy()
            )
    return np.concatenate(rows)


def imdb(experiment, arm, seed):
    """Run one arm with one seed of an IMDb section of the protocol and write its file; returns the path."""
    settings = records.protocol(experiment)
    reviews = data.load("imdb", source="hub,local")  # published numbers come from real data
    if settings.get("train_data") == "embedded":
        embedded = data.load("imdb", source="embedded")
        kinds = settings.get("train_kinds", embedded.train["kind"])
        reviews = reviews._replace(
            train=embedded.train.filter(lambda row: row["kind"] in kinds),
            source=f"train: {embedded.source}; test: {reviews.source}",
        )
    rng = np.random.default_rng(seed)
    checkpoint = models.load("bert", 2, rng, source=settings["model"])
    tokenizer = checkpoint.tokenizer

    def encode(rows):
        return tokenizer(rows["text"], truncation=True, max_length=settings["tokens"])

    def collate(rows, padding=settings["padding"]):
        batch = [{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]} for row in rows]
        padded = tokenizer.pad(batch, padding=padding, max_length=settings["tokens"], return_tensors="pt")
        return {**padded, "labels": torch.tensor([row["label"] for row in rows])}

    in_test = set(reviews.test["text"])
    candidates = np.array([i for i, text in enumerate(reviews.train["text"]) if text not in in_test])
    chosen = rng.permutation(candidates)[: settings["train"]]
    tested = np.sort(np.random.default_rng(0).permutation(len(reviews.test))[: settings["test"]])
    train = reviews.train.select_columns(["text", "label"]).select(chosen).add_column("index", chosen)
    model, test, full = (
        checkpoint.model,
        reviews.test.select(tested),
        lambda rows: collate(rows, "max_length"),
    )
    if (
        "top" in settings
    ):  # only so many layers are trained; what the frozen ones below make of each review is computed once
        lower, model = models.split_layers(model, settings["top"])
        train, test = (
            models.lower_outputs(lower, tokenizer, part["text"], part["label"], settings["tokens"])
            for part in (train, test)
        )
        collate = full = models.pad_hidden
    else:
        train, test = (part.map(encode, batched=True, remove_columns="text") for part in (train, test))

    decisions, curve, watched = {"index": [], "criterion": [], "kept": []}, [], 0.0  # one row a coin
    clock = lambda: np.array([time.perf_counter(), time.process_time()])  # noqa: E731
    some = [test[int(i)] for i in np.linspace(0, len(test) - 1, settings.get("watched", 0))]

    def remember(block, criterion, kept):
        nonlocal watched
        decisions["index"].append([int(row["index"]) for row in block])
        decisions["criterion"].append(round(float(criterion.mean()), 5))
        decisions["kept"].append(int(kept.all()))
        if some and len(decisions["kept"]) % settings["watch_every"] == 0:  # with the clock stopped
            stopped = clock()
            curve.append(
                [round((stopped - begun - watched)[0], 1), accuracy(logits(model, some, collate), some)]
            )
            model.train()
            watched += clock() - stopped

    def accuracy(scores, examples):
        return float(np.mean(scores.argmax(1) == [row["label"] for row in examples]))

    begun = clock()
    if arm == "listing":
        budget = round(3 * settings["passes"] * len(train))
        scored, trained = listing(
            model, train, seed, settings, full, lambda _, spent: spent >= budget, remember
        )
        steps = sum(decisions["kept"])
    else:
        trainer = fine_tune(model, train, arm, seed, settings, collate, remember)
        report, steps, budget = trainer.loader.report, trainer.state.global_step, trainer.budget
        scored, trained = report.scored, report.trained
    wall, cpu = clock() - begun - watched
    scores = logits(model, test, collate)
    margin = scores[:, 1] - scores[:, 0]  # > 0: positive
    numbers = {
        "accuracy": accuracy(scores, test),
        "acceptance_rate": float(
            np.average(decisions["kept"], weights=[len(block) for block in decisions["index"]])
        ),
        "forward_passes": scored + 3 * trained,
        "budget": budget,
        "steps": steps,
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),  # of all threads: what a shared machine does not change
        "test_index": tested.tolist(),
        "test_label": [int(row["label"]) for row in test],
        "test_margin": [round(float(value), 4) for value in margin],
        **({"curve": curve} if some else {}),
        **{f"decision_{name}": value for name, value in decisions.items()},
    }
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return records.write(
        experiment, arm, seed, data=reviews.source, model=checkpoint.source, device=device, numbers=numbers
    )
