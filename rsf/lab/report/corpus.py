"""The corpus card's tables: how hard the embedded reviews are, and what carries over to real ones."""

import numpy as np

from rsf.lab import data, records
from rsf.lab.report.parts import table
from rsf.lab.report.sweep import values


def corpus_table() -> str:
    """Return the corpus card's table: how many reviews of each kind, and what TF-IDF makes of them."""
    from rsf.lab.tasks import topics

    reviews = data.load("imdb", source="embedded")
    baseline = topics.counted_words().fit(reviews.train["text"], reviews.train["label"])
    right = baseline.predict(reviews.test["text"]) == np.array(reviews.test["label"])
    kinds = np.array(reviews.test["kind"])
    train_kinds = np.array(reviews.train["kind"])
    rows = [
        (kind, sum(train_kinds == kind), sum(kinds == kind), f"{100 * right[kinds == kind].mean():.0f}")
        for kind in sorted(set(kinds))
    ]
    rows.append(("all", len(train_kinds), len(kinds), f"{100 * right.mean():.0f}"))
    return table(["kind", "train", "test", "TF-IDF with logistic regression, test accuracy, %"], rows)


def transfer_table() -> str:
    """Return the corpus card's lines on real reviews."""
    rows = []
    for experiment, kinds in (
        ("mini-reviews-plain", "of the kind `plain`"),
        ("mini-reviews", "of all kinds"),
    ):
        accuracy = np.array(values(experiment, "plain"))
        rows.append(
            (
                f"{records.protocol(experiment)['train']} training reviews {kinds}",
                len(accuracy),
                f"{accuracy.mean():.1f} ({', '.join(f'{value:.1f}' for value in accuracy)})",
            )
        )
    tested = records.protocol("mini-reviews")["test"]
    return table(["fine-tuned on", "seeds", f"accuracy on {tested:,} real IMDb test reviews, %"], rows)
