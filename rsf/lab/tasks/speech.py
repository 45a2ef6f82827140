"""Digits that are heard: spectra of a sound, and a small transformer that writes what it hears, by CTC (see
`carry`).

    digit error rate = (substituted + left out + put in) / digits, as the library jiwer counts them

Recordings are spoken digits; embedded are dialled numbers (`tones`).

python -m rsf experiment speech-tuning
python -m rsf experiment speech
"""

import io
from functools import lru_cache, partial
from importlib import import_module

import jiwer
import numpy as np
import torch
from scipy.io import wavfile
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertForCTC
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function
from transformers.modeling_outputs import CausalLMOutput

from rsf.lab import arms, compact, data, models, records, tuning
from rsf.lab.data import tones
from rsf.lab.tasks import carry

declared = tuning.declared  # an edge widens the grid
FSDD = ("mteb/free-spoken-digit-dataset", "c34455c99604d35cb8d27328c267be1478efc903")
BLANK = 10  # the class of no digit
HANN = window_function(256, "hann")
FILTERS = mel_filter_bank(129, 40, 0, tones.HERTZ / 2, tones.HERTZ)  # 40 bands


def heard(hertz: int, sound: np.ndarray, digits: str, place: object = "of yours") -> torch.Tensor:
    """Return the logarithm of the power in 40 bands of a sound (samples,): (frames, 40), one each 20 ms.

    Raises
    ------
    ValueError
        The sound has another rate than 8 kHz, several channels, no frame or no digits.
    """
    sound = np.asarray(sound, dtype=float)
    wrong = {
        f"{hertz} samples a second, not {tones.HERTZ}: resample it": hertz != tones.HERTZ,
        f"the shape {sound.shape}, not (samples,): take one channel": sound.ndim != 1,
        "at most 256 samples, all alike or no digits: leave it out": len(sound) < 257
        or not np.ptp(sound)
        or not digits.isdecimal(),
    }
    records.must(not any(wrong.values()), f"sound {place} has {next(filter(wrong.get, wrong), '')}")
    bands = spectrogram(sound / np.ptp(sound), HANN, 256, 160, power=2.0, mel_filters=FILTERS, log_mel="log")
    return torch.tensor((bands.T - bands.mean()) / bands.std())


@lru_cache
def read(source: str, dtype: str) -> carry.World:
    """Return spoken digits, or dialled numbers."""

    def recorded(files, digits):
        return [(*wavfile.read(io.BytesIO(one)), str(said)) for one, said in zip(files, digits, strict=True)]

    def hub(impatient):
        datasets = import_module("datasets")
        both, where = data.pinned(impatient, *FSDD)
        rows = datasets.concatenate_datasets([both["train"], both["test"]])
        rows = data.labelled(rows.cast_column("audio", datasets.Audio(decode=False)), "audio", "label")
        sounds = recorded([one["bytes"] for one in rows["audio"]], rows["label"])
        return sounds, np.arange(len(rows)) >= len(both["train"]), where

    def local(_):
        (rows,), where = data.copied("fsdd", "the Free Spoken Digit Dataset", "recordings")
        data.labelled(rows, "audio", "digit", "index")
        test = np.array(rows["index"]) < 5  # the official split
        return recorded(rows["audio"], rows["digit"]), test, where

    def embedded(_):
        rng = np.random.default_rng(data.ORDER)
        return [tones.dialled(rng) for _ in range(700)], np.arange(700) >= 500, "embedded, dialled numbers"

    sounds, test, where = data.first_available(
        {"hub": hub, "local": local, "embedded": embedded}, "data set speech", source
    )
    rows = [
        {"bands": heard(*one, i).to(getattr(torch, dtype)), "digits": one[2], "index": i}
        for i, one in enumerate(sounds)
    ]
    parts = [carry.Part(rows, rows).take(np.flatnonzero(test == one)) for one in (False, True)]
    said = f"speech: {where} ({len(rows) - test.sum():,} train, {test.sum():,} test)"
    return carry.World(*parts, (said, "a conformer with CTC, random weights"))


class ConformerForCTC(Wav2Vec2BertForCTC):
    """The library's conformer, its loss in the type of the logits (the library's is float32 in any case)."""

    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor | None = None
    ) -> CausalLMOutput:
        """Return logits of each frame and, of digits (batch, digits) padded with -100, their mean loss."""
        outputs = super().forward(input_features, attention_mask)
        if labels is not None:
            log_p = outputs.logits.log_softmax(-1).transpose(0, 1)
            sizes = attention_mask.sum(-1), (labels >= 0).sum(-1)
            outputs.loss = ctc_loss(log_p, labels[labels >= 0], *sizes, blank=BLANK, zero_infinity=True)
        return outputs


def model(settings: dict, rng: np.random.Generator) -> torch.nn.Module:
    """Return a small conformer that writes digits, with weights from rng."""
    config = Wav2Vec2BertConfig(
        vocab_size=BLANK + 1,
        pad_token_id=BLANK,
        feature_projection_input_dim=FILTERS.shape[1],
        hidden_size=settings["width"],
        intermediate_size=2 * settings["width"],
        num_hidden_layers=settings["layers"],
        num_attention_heads=4,
        conv_depthwise_kernel_size=7,
        initializer_range=0.1,
        hidden_dropout=settings["dropout"],
        conformer_conv_dropout=settings["dropout"],
        final_dropout=settings["dropout"],
        layerdrop=0.0,
        apply_spec_augment=False,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,  # of more digits than a sound has frames
    )
    network = ConformerForCTC(config)
    models.draw(network, [name for name, _ in network.named_parameters() if "norm" not in name], rng)
    return network.to(getattr(torch, settings["dtype"]))


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Return the batch that the model takes."""
    digits = [torch.tensor(list(map(int, row["digits"]))) for row in rows]
    ones = [torch.ones(len(row["bands"]), dtype=torch.long) for row in rows]
    return {
        "input_features": pad_sequence([row["bands"] for row in rows], batch_first=True),
        "attention_mask": pad_sequence(ones, batch_first=True),
        "labels": pad_sequence(digits, batch_first=True, padding_value=-100),
    }


def judge(model: torch.nn.Module, part: carry.Part, scalars: bool) -> dict:
    """Return the numbers of what a model writes: of each frame the likeliest class, once if it repeats."""
    model.eval()
    written = []
    for rows, batch in arms.batches(part.rows, collate):
        with torch.inference_mode():
            paths = model(**batch).logits.argmax(-1)
        once = [
            torch.unique_consecutive(path[: len(row["bands"])]) for path, row in zip(paths, rows, strict=True)
        ]
        written += ["".join(map(str, one[one != BLANK].tolist())) for one in once]
    return judged(written, part, scalars)


def judged(written: list[str], part: carry.Part, scalars: bool) -> dict:
    """Return the digit error rate, and as accuracy how many of the sounds are written without an error."""
    asked = [" ".join(row["digits"]) for row in part.shown]  # all of one length, so that the mean is all's
    each = np.array([jiwer.wer(one, " ".join(text)) for one, text in zip(asked, written, strict=True)])
    stored = {"right": compact.pack(each == 0), "errors_each": compact.pack_values(each)}
    numbers = {"accuracy": float(np.mean(each == 0)), "errors": float(each.mean())}
    return numbers | ({} if scalars else stored)


def floor(train: list[dict], tested: carry.Part) -> dict:
    """Return the numbers of logistic regression on mean spectra, of as many parts as digits."""
    number = len(train[0]["digits"])
    seen, asked = (
        [part.mean(0).numpy() for row in rows for part in row["bands"].tensor_split(number)]
        for rows in (train, tested.shown)
    )
    linear = LogisticRegression(max_iter=1000).fit(seen, [one for row in train for one in row["digits"]])
    found = linear.predict(asked).reshape(-1, number)
    return judged(["".join(row) for row in found], tested, False)


TASK = carry.Task(
    name="speech",
    data=(FSDD[0], "Free Spoken Digit Dataset, 3,000", "dialled numbers, in noise"),
    head="a small conformer with CTC, trained here",
    wrong="the digit is hard to hear; a wrong label: a five called nine",
    measure="errors",
    simple="logistic regression on mean spectra",
    world=lambda settings: read(settings["source"], settings["dtype"]),
    model=model,
    collate=collate,
    judge=judge,
    floor=floor,
)
run = partial(carry.run, TASK)
