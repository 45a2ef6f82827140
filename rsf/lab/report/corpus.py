"""The corpus card's tables: how hard the embedded reviews are, and what carries over to real ones."""

import numpy as np

from rsf.lab import data, records
from rsf.lab.report.overview import accuracies


def corpus_table():
    """Return the corpus card's table: how many reviews of each kind, and how TF-IDF with logistic regression does on them."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    reviews = data.load("imdb", source="embedded")
    baseline = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    right = baseline.fit(reviews.train["text"], reviews.train["label"]).predict(
        reviews.test["text"]
    ) == np.array(reviews.test["label"])
    kinds, train_kinds = np.array(reviews.test["kind"]), np.array(reviews.train["kind"])
    rows = [
        "| kind | train | test | TF-IDF with logistic regression, test accuracy, % |",
        "| --- | --- | --- | --- |",
    ]
    for kind in dict.fromkeys(sorted(kinds)):
        rows.append(
            f"| {kind} | {np.sum(train_kinds == kind)} | {np.sum(kinds == kind)} | {100 * right[kinds == kind].mean():.0f} |"
        )
    rows.append(f"| all | {len(train_kinds)} | {len(kinds)} | {100 * right.mean():.0f} |")
    return "\n".join(rows)


def transfer_table():
    """Return the corpus card's lines on real reviews."""
    rows = []
    for experiment, kinds in (
        ("mini-reviews-plain", "of the kind `plain`"),
        ("mini-reviews", "of all kinds"),
    ):
        accuracy, section = 100 * accuracies(experiment)["plain"], records.protocol(experiment)
        each = ", ".join(f"{value:.1f}" for value in accuracy)
        rows.append(
            f"| {section['train']} training reviews {kinds} | {len(accuracy)} | {accuracy.mean():.1f} ({each}) |"
        )
    head = f"| fine-tuned on | seeds | accuracy on {section['test']:,} real IMDb test reviews, % |"
    return "\n".join([head, "| --- | --- | --- |", *rows])
