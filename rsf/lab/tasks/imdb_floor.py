"""The floor under the sections imdb-last-*: counted words and logistic regression on the same reviews.

python -m rsf experiment floor-imdb
"""

import time

import numpy as np

from rsf.lab import compact, models, records
from rsf.lab.tasks import topics
from rsf.lab.tasks.imdb_last_layer import HEAD, parts, sources


def run(experiment: str, arm: str, seed: int) -> records.Run:
    """Run "same words", which sees what the sections see of a review, or "whole reviews", with one seed."""
    settings = records.protocol(experiment)
    reviews, checkpoint = sources()
    rng = np.random.default_rng(seed)
    models.draw(checkpoint.model, HEAD, rng)  # as there, so that the reviews are the same
    chosen = rng.permutation(parts()[1])[: settings["train"]]
    begin, end = settings["test_places"]
    tested = np.sort(np.random.default_rng(0).permutation(len(reviews.test))[begin:end])

    def seen(part, index):
        texts = part.select(index)["text"]
        if arm == "whole reviews":
            return texts
        encoded = checkpoint.tokenizer(list(texts), truncation=True, max_length=settings["tokens"])
        return [checkpoint.tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded["input_ids"]]

    begun = time.perf_counter()
    model = topics.counted_words(tuple(settings["ngrams"]), settings["C"])
    model.fit(seen(reviews.train, chosen), np.array(reviews.train["label"])[chosen])
    numbers = compact.outcomes(
        model.predict_log_proba(seen(reviews.test, tested)), np.array(reviews.test["label"])[tested]
    )
    numbers["seconds"] = round(time.perf_counter() - begun, 1)
    return records.Run(reviews.source, "scikit-learn, TF-IDF and logistic regression", "CPU", numbers)
