"""The experiments of the protocol, one run at a time: the same function in a notebook, on a CPU and on a GPU.

python -m rsf experiment imdb-small          every arm and seed of that section, a result file each; goes on where it stopped
"""

import tempfile
import time

import numpy as np
import torch
from transformers import PrinterCallback

from rsf import data, models, records, rules
from rsf.trainer import RSFConfig, RSFTrainer


def rule(arm, settings):
    """Return a fresh rule for an arm of the protocol."""
    if arm == "plain":
        return rules.constant(1)
    article = rules.clipped(settings["k"])
    return {"article": article, "twin": article, "random": rules.random_like(article, settings["window"])}[arm]


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
            optim=settings["optimizer"],
            weight_decay=settings["weight_decay"],
            bf16=settings["bf16"],
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = RSFTrainer(model, args, train_dataset=train, data_collator=collate, rule=rule(arm, settings), on_decision=on_decision)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer


def logits(model, examples, collate, batch_size=32):
    """Return the model's logits in eval mode, (n, labels) float64."""
    model.eval()
    device, rows = next(model.parameters()).device, []
    with torch.inference_mode():
        for start in range(0, len(examples), batch_size):
            batch = collate([examples[i] for i in range(start, min(start + batch_size, len(examples)))])
            rows.append(model(**{name: value.to(device) for name, value in batch.items()}).logits.double().cpu().numpy())
    return np.concatenate(rows)


def imdb(experiment, arm, seed):
    """Run one arm with one seed of an IMDb section of the protocol and write its file; returns the path."""
    settings = records.protocol(experiment)
    reviews = data.load("imdb", source="hub,local")  # published numbers come from real data
    if settings.get("train_data") == "embedded":
        embedded = data.load("imdb", source="embedded")
        kinds = settings.get("train_kinds", embedded.train["kind"])
        reviews = reviews._replace(
            train=embedded.train.filter(lambda row: row["kind"] in kinds), source=f"train: {embedded.source}; test: {reviews.source}"
        )
    rng = np.random.default_rng(seed)
    checkpoint = models.load("bert", 2, rng, source=settings["model"])
    tokenizer = checkpoint.tokenizer

    def encode(rows):
        return tokenizer(rows["text"], truncation=True, max_length=settings["tokens"])

    def collate(rows):
        batch = [{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]} for row in rows]
        padded = tokenizer.pad(batch, padding=settings["padding"], max_length=settings["tokens"], return_tensors="pt")
        return {**padded, "labels": torch.tensor([row["label"] for row in rows])}

    in_test = set(reviews.test["text"])
    candidates = np.array([i for i, text in enumerate(reviews.train["text"]) if text not in in_test])
    chosen = rng.permutation(candidates)[: settings["train"]]
    train = (
        reviews.train.select_columns(["text", "label"])
        .select(chosen)
        .add_column("index", chosen)
        .map(encode, batched=True, remove_columns="text")
    )
    tested = np.sort(np.random.default_rng(0).permutation(len(reviews.test))[: settings["test"]])
    test = reviews.test.select(tested).map(encode, batched=True, remove_columns="text")

    decisions = {"index": [], "criterion": [], "kept": []}  # one row a coin

    def remember(block, criterion, kept):
        decisions["index"].append([int(row["index"]) for row in block])
        decisions["criterion"].append(round(float(criterion.mean()), 5))
        decisions["kept"].append(int(kept.all()))

    wall, cpu = time.perf_counter(), time.process_time()
    trainer = fine_tune(checkpoint.model, train, arm, seed, settings, collate, remember)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    margin = np.diff(logits(checkpoint.model, test, collate))[:, 0]  # > 0: positive
    report = trainer.loader.report
    numbers = {
        "accuracy": float(np.mean((margin > 0) == np.array(test["label"]))),
        "acceptance_rate": report.acceptance_rate,
        "forward_passes": trainer.spent,
        "budget": trainer.budget,
        "steps": trainer.state.global_step,
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),  # of all threads: what a shared machine does not change
        "test_index": tested.tolist(),
        "test_label": [int(label) for label in test["label"]],
        "test_margin": [round(float(value), 4) for value in margin],
        **{f"decision_{name}": value for name, value in decisions.items()},
    }
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return records.write(experiment, arm, seed, data=reviews.source, model=checkpoint.source, device=device, numbers=numbers)
