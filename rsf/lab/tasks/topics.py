"""Topics of news: the last layer of a pretrained encoder, one label of several (see `carry`).

python -m rsf experiment topics-tuning
python -m rsf experiment topics
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from rsf.lab import arms, compact, data, models, tuning
from rsf.lab.models import last_layer
from rsf.lab.tasks import carry

declared = tuning.declared  # an edge widens the grid
HEAD = ("classifier.bias", "classifier.weight")


def table(rows: object, *_: object) -> list[dict]:
    """Return texts and topics; of the embedded reviews the topic is the genre."""
    column = "genre" if "genre" in rows.column_names else "label"
    names = {name: i for i, name in enumerate(sorted(set(data.labelled(rows, column)[column])))}
    return [{"text": text, "label": names[one]} for text, one in zip(rows["text"], rows[column], strict=True)]


def world(settings: dict) -> carry.World:
    """Return what a section asks for."""
    return carry.texts("ag_news", table, *(settings[name] for name in carry.CHOICE))


def model(settings: dict, rng: np.random.Generator) -> torch.nn.Module:
    """Return the last layer with a head drawn by rng."""
    checkpoint = carry.encoder(carry.classes(world(settings)), settings, np.random.default_rng(0))
    upper = last_layer.LastLayer(checkpoint.model)
    models.draw(upper, HEAD, rng, checkpoint.model.config.initializer_range)
    return upper


def judge(collate: Callable, model: torch.nn.Module, part: carry.Part, scalars: bool) -> dict:
    """Return accuracy and all that the compact form has, and the accuracy of each class."""
    return judged(arms.logits(model, part.rows, collate, 128), part, scalars)


def judged(logits: np.ndarray, part: carry.Part, scalars: bool) -> dict:
    """Return the numbers of some logits (n, topics)."""
    labels = np.array([row["label"] for row in part.shown])
    right = logits.argmax(1) == labels
    each = [round(float(right[labels == one].mean()), 4) for one in np.unique(labels)]
    return compact.outcomes(logits, labels, scalars=scalars) | ({} if scalars else {"by_class": each})


def counted_words(ngrams: tuple[int, int] = (1, 2), C: float = 10.0) -> Pipeline:
    """Return counted words, or runs of words, with logistic regression: what a task's model must beat."""
    return make_pipeline(
        TfidfVectorizer(ngram_range=ngrams, sublinear_tf=True), LogisticRegression(C=C, max_iter=1000)
    )


def floor(train: list[dict], tested: carry.Part) -> dict:
    """Return the numbers of counted words and pairs with logistic regression."""
    counted = counted_words()
    counted.fit([row["text"] for row in train], [row["label"] for row in train])
    return judged(counted.predict_log_proba([row["text"] for row in tested.shown]), tested, False)


TASK = carry.Task(
    name="topics",
    data=("fancyzhx/ag_news", "AG News, 20,981 of 120,000", "mini reviews' genre, 12 classes"),
    head="last layer of MiniLM, one label of several",
    wrong="the article looks at odds with its topic; a wrong label: a match report called business",
    measure="accuracy",
    simple="counted words and pairs, logistic regression",
    world=world,
    model=model,
    collate=models.pad_hidden,
    judge=partial(judge, models.pad_hidden),
    floor=floor,
)
run = partial(carry.run, TASK)
