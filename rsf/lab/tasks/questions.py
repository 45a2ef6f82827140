"""Questions on passages, answered by a part of the passage: the last layer of an encoder at all positions.

Exact match and F1 are SQuAD's own, as the library torchmetrics has them.

python -m rsf experiment questions-tuning
python -m rsf experiment questions
"""

import re
from functools import partial

import numpy as np
import torch
from torchmetrics.functional.text import squad
from transformers import BertForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from rsf.lab import compact, data, models, records, tuning
from rsf.lab.tasks import carry

declared = tuning.declared  # an edge widens the grid
JOIN = " [SEP] "  # between question and passage: the tokenizer's own mark
LONGEST = 30  # tokens of an answer
HEAD = ("qa_outputs.bias", "qa_outputs.weight")


class LastLayerForQuestionAnswering(BertForQuestionAnswering):
    """The last layer of an encoder and a head for the ends of an answer, on outputs of the layers below."""

    main_input_name = "inputs_embeds"

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
    ) -> QuestionAnsweringModelOutput:
        """Return loss and logits of hidden states (batch, tokens, hidden), in any precision."""
        return super().forward(
            inputs_embeds=inputs_embeds.to(self.dtype),
            attention_mask=attention_mask,
            start_positions=start_positions,
            end_positions=end_positions,
        )


def table(rows: object, tokenizer: object, tokens: int) -> list[dict]:
    """Return those questions that fit with their passage into `tokens`, with the ends of their answers.

    Raises
    ------
    ValueError
        An answer is not in its passage where it is said to be.
    """
    data.labelled(rows, "question", "context", "answers")
    texts = [f"{one}{JOIN}{other}" for one, other in zip(rows["question"], rows["context"], strict=True)]
    encoded = tokenizer(texts, return_offsets_mapping=True, verbose=False)
    found = []
    for i, answers in enumerate(rows["answers"]):
        answer, start = [*answers["text"], ""][0], [*answers["answer_start"], 0][0]
        passage = rows[i]["context"]
        records.must(
            answer.strip() and passage[start : start + len(answer)] == answer,
            f"question {i}: its answer {answer!r} is not in its passage at {start}, where "
            f"{passage[start : start + len(answer)]!r} stands",
        )
        offsets = encoded["offset_mapping"][i]
        if len(offsets) <= tokens:
            first = len(texts[i]) - len(passage)
            begin = first + start + len(answer) - len(answer.lstrip())
            end = first + start + len(answer.rstrip()) - 1
            ends = [encoded.char_to_token(i, begin), encoded.char_to_token(i, end)]
            found.append(
                {"text": texts[i], "first": first, "offsets": offsets, "answers": answers, "label": ends}
            )
    return found


def model(settings: dict, rng: np.random.Generator) -> torch.nn.Module:
    """Return the last layer with a head drawn by rng."""
    checkpoint = carry.encoder(2, settings, rng)
    _, upper = models.split_layers(checkpoint.model, 1)
    asked = LastLayerForQuestionAnswering(checkpoint.model.config)
    asked.bert = upper.bert
    asked.bert.pooler = None
    models.draw(asked, HEAD, rng)
    return asked.to(checkpoint.model.dtype)


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Return the batch that the model takes."""
    batch = models.pad_hidden(rows)
    ends = batch.pop("labels")
    return batch | {"start_positions": ends[:, 0], "end_positions": ends[:, 1]}


def answers(model: torch.nn.Module, part: carry.Part, batch_size: int = 32) -> list[str]:
    """Return the part of each passage that scores best: start + end, in order, of at most 30 tokens."""
    model.eval()
    found = []
    for begin in range(0, len(part.shown), batch_size):
        places = range(begin, min(begin + batch_size, len(part.shown)))
        with torch.inference_mode():
            scores = model(**collate([part.rows[i] for i in places]))
        for i, start, end in zip(places, scores.start_logits, scores.end_logits, strict=True):
            row = part.shown[i]
            at = np.array(row["offsets"])
            inside = (at[:, 0] >= row["first"]) & (at[:, 1] > 0)
            both = start.numpy()[: len(at), None] + end.numpy()[: len(at)]
            may = np.triu(np.outer(inside, inside)) & ~np.triu(np.ones(both.shape, bool), LONGEST)
            one, other = np.unravel_index(np.where(may, both, -np.inf).argmax(), both.shape)
            found.append(row["text"][at[one, 0] : at[other, 1]])
    return found


def judged(found: list[str], part: carry.Part, scalars: bool) -> dict:
    """Return exact match (as the accuracy) and F1 of some answers."""
    each = [
        squad([{"prediction_text": text, "id": "0"}], [{"answers": row["answers"], "id": "0"}])
        for text, row in zip(found, part.shown, strict=True)
    ]
    exact, f1 = (np.array([float(one[name]) / 100 for one in each]) for name in ("exact_match", "f1"))
    numbers = {"accuracy": float(exact.mean()), "f1": float(f1.mean())}
    stored = {"right": compact.pack(exact == 1), "f1_each": compact.pack_values(f1)}
    return numbers | ({} if scalars else stored)


def judge(model: torch.nn.Module, part: carry.Part, scalars: bool) -> dict:
    """Return exact match and F1 of a model's answers."""
    return judged(answers(model, part), part, scalars)


def floor(train: list[dict], tested: carry.Part) -> dict:
    """Return the numbers of the sentence that shares most words with the question; it learns nothing."""
    found = []
    for row in tested.shown:
        asked = set(re.findall(r"\w+", row["text"][: row["first"]].lower()))
        sentences = re.split(r"(?<=[.!?])\s+", row["text"][row["first"] :])
        found.append(max(sentences, key=lambda one: len(asked & set(re.findall(r"\w+", one.lower())))))
    return judged(found, tested, False)


TASK = carry.Task(
    name="questions",
    data=("rajpurkar/squad", "SQuAD 1.1, 58 of 442 articles", "passages made from facts"),
    head="last layer of MiniLM, start and end of the answer",
    wrong="the answer is hard to find; a wrong label: another place of the passage",
    measure="f1",
    simple="the sentence that shares most words",
    world=lambda settings: carry.texts("squad", table, *(settings[name] for name in carry.CHOICE)),
    model=model,
    collate=collate,
    judge=judge,
    floor=floor,
)
run = partial(carry.run, TASK)
