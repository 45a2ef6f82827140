"""Passages made from facts, and questions about them: the answers are known exactly.

>>> row = made()[0]
>>> (answer,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
>>> row["context"][start : start + len(answer)] == answer
True
"""

import numpy as np

PLACES = ("Norby", "Ashdale", "Kilmore", "Tarnwick", "Eastholm", "Brackley", "Sorrel Bay", "Old Hythe")
NAMES = ("Ada Lind", "Tom Varga", "Ines Duarte", "Karl Oberg", "Mina Sato", "Peter Hale", "Ruth Amsel")
THINGS = ("lighthouse", "bridge", "mill", "theatre", "library", "harbour", "school", "chapel")
STUFF = ("grey stone", "red brick", "oak", "iron", "pale limestone", "pine", "slate")
FACTS = (  # a sentence and a question about the part in braces
    ("The {thing} of {place} was built in {year}.", "When was the {thing} of {place} built?", "year"),
    ("{name} designed the {thing} of {place}.", "Who designed the {thing} of {place}?", "name"),
    (
        "The walls of the {thing} of {place} are {stuff}.",
        "What are the walls of the {thing} of {place} made of?",
        "stuff",
    ),
    (
        "Each summer {number} people visit the {thing} of {place}.",
        "How many people visit the {thing} of {place} each summer?",
        "number",
    ),
)


def made(number: int = 720, test: int = 240) -> list[dict]:
    """Return questions on passages as SQuAD has them (context, question, answers), and a split.

    A passage tells each kind of fact of two things, in any order; the question is about one of the facts.
    """
    rng = np.random.default_rng(0)
    rows = []
    for i in range(number):
        told = []
        for thing, place in zip(rng.permutation(THINGS)[:2], rng.permutation(PLACES)[:2], strict=True):
            facts = {
                "thing": thing,
                "place": place,
                "year": str(rng.integers(1650, 1990)),
                "name": rng.choice(NAMES),
                "stuff": rng.choice(STUFF),
                "number": str(10 * rng.integers(20, 900)),
            }
            told += [(text.format(**facts), asked.format(**facts), facts[what]) for text, asked, what in FACTS]
        told = [told[j] for j in rng.permutation(len(told))]
        passage = " ".join(text for text, _, _ in told)
        text, asked, answer = told[rng.integers(len(told))]
        start = passage.index(text) + text.index(answer)
        rows.append(
            {
                "context": passage,
                "question": asked,
                "answers": {"text": [str(answer)], "answer_start": [start]},
                "split": "train" if i < number - test else "test",
            }
        )
    return rows
