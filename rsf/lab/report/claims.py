"""Every claim of the article, a line each, with its verdict, which is computed and never written down.

A claim is *measured*: the protocol asks it, in a section or in the words of a `claim`, and
`rsf.lab.verdicts` judges it from the files. Or *checked*: an identity, or what a program does; it rests on a
line PASS and on the counter-check beside it in one cell's stored output, which `pytest --nbval` makes again.
Or it is *not asked here*. Where a section, a file, a seed or a check is missing, no verdict can stand.
"""

import json
import re
from typing import NamedTuple

from rsf.checks import Judgement, in_general
from rsf.lab import records, verdicts
from rsf.lab.report.parts import table

BUDGET = "keeping batches by their loss improves a fine-tuned model at a limited compute budget"
WHOLE = f"{BUDGET} (quantifier: in general, so every declared case)"
OWN = (
    "sample from the pretrained model; accept or reject by a criterion, and if rejected sample again; "
    "fine-tune on what was accepted; repeat: this improves the model at a limited compute budget"
)
TASK = "the rule improves fine-tuning on any task"
FOUND = "what the rule keeps over training finds wrong labels better than the loss at its end"


class Claim(NamedTuple):
    """A claim in words of ours, where it stands in the article, and what would decide it."""

    article: str
    words: str
    quantifier: str
    notebook: str
    asks: tuple[str, ...] = ()  # sections of the protocol, claims of it, or both as "section: claim"
    checks: tuple[tuple[str, str, str], ...] = ()  # notebook, begin of its line PASS, what it must refuse
    contrary: bool = False  # the checks are of the claim's contrary
    note: str = ""  # why nothing asks it


CLAIMS = (
    Claim(
        "1.2",
        "It is a new method.",
        "in general",
        "15",
        note="dates decide it; notebook 15 names its neighbours",
    ),
    Claim(
        *("1.2", "It needs no change of the model: only what it is trained on changes.", "exactly", "07"),
        checks=(("07", "no rule is the Trainer, bit for bit", "that half is the Trainer"),),
    ),
    Claim(
        *("1.2", "Distillation and pruning change a model much, or cost more in training.", "may", "13"),
        asks=("compression",),
    ),
    Claim(
        *("1.2, 5.1", "It improves a pretrained model at a limited budget (sentiment).", "in general", "07"),
        asks=(WHOLE,),
    ),
    Claim("1.2, 5.1", "The same, where a last layer is trained.", "in general", "08", asks=(BUDGET,)),
    Claim(
        *("2.1, 3.3", "Keeping with min(1, p/(k q)) draws exactly from p (k large enough).", "exactly", "01"),
        checks=(("01", "ten laws, rates and waiting times", "the candidates of all ten"),),
    ),
    Claim(
        *("2.1", "The target need not be normalised.", "exactly", "09"),
        checks=(("09", "the optimum is the law of what is kept", "laws of another beta"),),
    ),
    Claim(
        *("2.1", "It keeps few samples in many dimensions.", "may", "02"),
        checks=(("02", "21 rates as predicted", "a standard deviation of 1.25"),),
    ),
    Claim("2.2", "Fine-tuning overfits where examples are few.", "may", "08", note="no contrast declares it"),
    Claim(
        *("2.3, 3.1", "Rejection controls what the model is trained for.", "exactly", "04"),
        checks=(("04", "E[A grad loss] = grad E[Phi], to 1e-12", "the gradient of the mean loss"),),
    ),
    Claim("2.3", "With few examples, that helps accuracy.", "case", "08", asks=("imdb-last-few",)),
    Claim(
        *("2.3", "With few examples, it gives better probabilities than stopping.", "case", "08"),
        asks=("imdb-last-few-nll",),
    ),
    Claim(
        *("2.3, 3.3", "The more is rejected, the more a kept sample costs.", "exactly", "02"),
        checks=(("02", "six rates and six laws", "draws of the t law as normal ones"),),
    ),
    Claim("3.3", "Rejecting more may perform better.", "may", "08", asks=("imdb-last-updates",)),
    Claim(
        *("3.1, 3.2", "A model improves by its own samples, judged and drawn again.", "in general", "10"),
        asks=(f"{OWN}, against controls of the same schedule (quantifier: in general)",),
    ),
    Claim(
        *("3.1, 3.2", "The same, in our first runs, with fewer controls.", "in general", "10"),
        asks=(f"{OWN} (quantifier: in general)",),
    ),
    Claim("3.1, 3.2", "The same, for a chat model.", "case", "11", asks=("gsm8k-chat",)),
    Claim(
        *("4.1, 4.3", "What the listing makes of its data can be trained on.", "exactly", "06"),
        checks=(("06", "columns, side by side, are the mended batch", "rows"),),
        contrary=True,
    ),
    Claim(
        *("4.3", "With the rate 0.5 it rejects half.", "exactly", "06"),
        checks=(("06", "as many as the formula says", "one half in the last four passes"),),
        contrary=True,
    ),
    Claim(
        *("3.3, 4.3", "The listing's rule draws from the formula's p.", "exactly", "06"),
        checks=(("06", "same law (chi2)", "draws from p"),),
        contrary=True,
    ),
    Claim(
        *("4.3", "The listing's model, BERT, improves on IMDb.", "in general", "07"),
        asks=("imdb-article", "imdb-full"),
    ),
    Claim("5.2", "It helps text classification by topic.", "case", "12", asks=(f"topics: {TASK}",)),
    Claim("5.3", "It helps question answering.", "case", "12", asks=(f"questions-one-pass: {TASK}",)),
    Claim("5.4", "It helps translation.", "case", "12", asks=(f"translation: {TASK}",)),
    Claim("5.5, 8.2", "It helps speech recognition.", "case", "12", asks=(f"speech: {TASK}",)),
    Claim("8.2", "It helps vision.", "case", "12", asks=(f"images: {TASK}",)),
    Claim(
        "5, 8.2",
        "It helps on each of these tasks.",
        "in general",
        "12",
        asks=(TASK, f"translation: {TASK}", f"speech: {TASK}"),
    ),
    Claim(
        "6",
        "Tools and resources follow.",
        "exactly",
        "15",
        note="that section is empty; notebook 15 fills it",
    ),
    Claim(
        *("7", "Interpretability, safety and fairness ask for study.", "in general", "14"),
        note="no claim of an effect",
    ),
    Claim(
        *("7", "Ours: what it keeps finds wrong labels better than the loss at the end.", "case", "14"),
        asks=(f"groups: {FOUND}",),
    ),
    Claim("7", "Ours: hard first harms under wrong labels.", "case", "08", asks=("imdb-last-wrong",)),
    Claim("7", "Ours: the same, a whole model.", "case", "08", asks=("imdb-whole-model-wrong",)),
    Claim("8.1", "It improves any language model.", "in general", "12", asks=(f"language: {TASK}",)),
    Claim("8.1", "The gain may differ between models.", "may", "12", asks=("imdb-models",)),
    Claim("8.3", "It improves a distilled model further.", "case", "13", asks=("distilled",)),
    Claim("8.3", "It improves a pruned model further.", "case", "13", asks=("pruned",)),
)


class Line(NamedTuple):
    """A claim, its judgement, and on what that rests: findings, or the cells whose checks ran."""

    claim: Claim
    judgement: Judgement
    findings: list[verdicts.Finding]
    cells: list[str]

    @property
    def kind(self) -> str:
        """Return what kind of evidence the protocol, or a notebook, has for the claim."""
        return "checked" if self.cells else "measured" if self.findings else "not asked here"


def lines() -> list[Line]:
    """Return every claim with its judgement, from results/ and from the notebooks beside it."""
    declared = [one for name in records.sections() for one in verdicts.contrasts(name)]
    return [_line(claim, declared) for claim in CLAIMS]


def _line(claim: Claim, declared: list[verdicts.Contrast]) -> Line:
    cells = [_cell(*check) for check in claim.checks]
    if cells:
        return Line(claim, verdicts.ran(cells, contrary=claim.contrary), [], cells)
    found = {}
    for ask in claim.asks:
        of_ask = [
            one for one in declared if ask in (one.experiment, one.claim, f"{one.experiment}: {one.claim}")
        ]
        found |= {f"{one.name}: {one.claim}": verdicts.judged(one) for one in of_ask}
        found |= {} if of_ask else {ask: None}
    said = {name: one.judgement if one else verdicts.unasked() for name, one in found.items()}
    return Line(
        claim,
        in_general(said) if len(said) > 1 else [*said.values(), verdicts.unasked(claim.note)][0],
        [one for one in found.values() if one],
        [],
    )


def _cell(number: str, passed: str, refused: str) -> str:
    """Return a link to the cell whose stored output has a line PASS and a counter-check, or nothing."""
    for file in _notebooks(number):
        for cell in json.loads((records.RESULTS.parent / "notebooks" / file).read_text("utf-8"))["cells"]:
            text = "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))
            # both lines whole, in one cell
            if all(
                re.search(line, text, re.MULTILINE)
                for line in (
                    rf"^{re.escape(passed)}.*: PASS$",
                    rf"^counter-check: {re.escape(refused)} (is|are) REFUSED, as",
                )
            ):
                return f"[{cell['id']}](../notebooks/{file})"
    return ""


def _notebooks(number: str) -> list[str]:
    return [file.name for file in (records.RESULTS.parent / "notebooks").glob(f"{number}_*.ipynb")]


def evidence(line: Line) -> str:
    """Return on what a judgement rests, in Markdown, with a link to each file or cell."""
    if not line.findings:
        return "; ".join(filter(None, line.cells)) or str(line.judgement)
    rests = []
    for finding in line.findings:
        name = finding.contrast.experiment
        files = [file for file in (f"{name}.jsonl", name) if (records.RESULTS / file).exists()]
        rests.append(str(finding).replace(name, f"[{name}](../results/{[*files, 'protocol.toml'][0]})", 1))
    return "<br>".join(rests)


def claims_table() -> str:
    """Return the table of all claims; its links work from notebooks/ and from results/."""
    rows = []
    for line in lines():
        article, words, quantifier, notebook, *_ = line.claim
        rows.append(
            (
                article,
                words,
                quantifier,
                [*[f"[{notebook}](../notebooks/{file})" for file in _notebooks(notebook)], notebook][0],
                line.kind,
                f"**{line.judgement.word}**",
                evidence(line),
            )
        )
    return table(["§", "claim", "quantifier", "asked in", "evidence is", "verdict", "evidence"], rows)
