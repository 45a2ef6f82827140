"""Passages made from facts, and questions about them: the answers are known exactly.

>>> row = made()[0]
>>> (answer,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
>>> row["context"][start : start + len(answer)] == answer
True
"""

import numpy as np

WORDS = {
    "thing": ("lighthouse", "bridge", "mill", "theatre", "library", "harbour", "school", "chapel"),
    "place": ("Norby", "Ashdale", "Kilmore", "Tarnwick", "Eastholm", "Brackley", "Sorrel Bay", "Old Hythe"),
    "name": ("Ada Lind", "Tom Varga", "Ines Duarte", "Karl Oberg", "Mina Sato", "Peter Hale", "Ruth Amsel"),
    "stuff": ("grey stone", "red brick", "oak", "iron", "pale limestone", "pine", "slate"),
    "year": tuple(map(str, range(1650, 1990))),
    "number": tuple(map(str, range(200, 9000, 10))),
}
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

    A passage tells five facts about two things, in any order; the question is about one of them.
    """
    rng = np.random.default_rng(0)
    rows = []
    for i in range(number):
        words = {what: rng.permutation(WORDS[what])[:2].tolist() for what in WORDS}
        told = []
        for j in range(2):
            facts = {what: both[j] for what, both in words.items()}
            told += [
                (text.format(**facts), asked.format(**facts), facts[what]) for text, asked, what in FACTS
            ]
        told = [told[j] for j in rng.permutation(len(told))[:5]]
        passage = " ".join(text for text, _, _ in told)
        text, asked, answer = told[rng.integers(5)]
        start = passage.index(text) + text.index(answer)
        rows.append(
            {
                "context": passage,
                "question": asked,
                "answers": {"text": [answer], "answer_start": [start]},
                "split": "train" if i < number - test else "test",
            }
        )
    return rows
