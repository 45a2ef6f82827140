"""What a record keeps of a run in little room: scalars, a bit a test example, counts by twentieth of the run.

Numbers of a run in the compact form (`outcomes` and `decisions` make most of them):

accuracy, nll              of the test examples; nll is the mean negative log-likelihood of the right label
calibration                20 bins of confidence: how many answers, how many right, their mean confidence
right                      right or wrong of each test example in the order of the test set, bits in base64
nll_each                   nll of each test example, float16 in base64, only where nll decides a claim
by_class                   accuracy of each class, of tasks with several
f1, f1_each                of questions, whose accuracy is the exact match; f1_each as nll_each
bits, bits_each            of texts: bits per character; accuracy is the share below two of them
errors, errors_each        of speech: the digit error rate; accuracy is how many sounds are without an error
bleu, chrf                 of translations, from 0 to 1; accuracy is the exact match
acceptance_rate            kept / candidates, counted in the section's unit (batches or examples)
candidates_by_twentieth, kept_by_twentieth    the same counts in each twentieth of the run
scored, trained            examples; forward_passes = scored + 3 trained
budget, steps, learning_rate, seconds

A tuning run keeps the scalars only. What can be made from other numbers is made again by `rsf.lab.verify`.
"""

import base64

import numpy as np

PARTS = 20  # of a run, and bins of confidence
LESS = ("nll", "bits", "errors")  # measures of which less is better


def pack(right: np.ndarray) -> str:
    """Return truth values (n,) as bits in base64.

    >>> pack([True, False, True])
    'oA=='
    """
    return base64.b64encode(np.packbits(np.asarray(right, dtype=bool))).decode()


def unpack(text: str, size: int) -> np.ndarray:
    """Return the truth values (size,) that `pack` made into a text.

    >>> unpack("oA==", 3).tolist()
    [True, False, True]

    Raises
    ------
    ValueError
        The text does not hold so many.
    """
    data = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    bits = np.unpackbits(data).astype(bool)
    if len(data) != -(-size // 8) or bits[size:].any():
        raise ValueError(f"the bits are {len(data)} bytes, {size} truth values take {-(-size // 8)}")
    return bits[:size]


def pack_values(values: np.ndarray) -> str:
    """Return numbers (n,) as float16 in base64: two bytes a number, three decimal digits."""
    return base64.b64encode(np.asarray(values).clip(-65504, 65504).astype("<f2")).decode()


def unpack_values(text: str) -> np.ndarray:
    """Return the numbers (n,) that `pack_values` made into a text.

    >>> unpack_values(pack_values([0.5, 2.0])).tolist()
    [0.5, 2.0]
    """
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(float)


def significant(values: np.ndarray, digits: int = 6) -> list[float]:
    """Return values (n,) rounded to significant digits, so that none but 0 becomes 0.

    >>> significant([0.00001234567, -2.3456789])
    [1.23457e-05, -2.34568]
    """
    return [float(f"{value:.{digits}g}") for value in values]


def by_parts(counts: list[int]) -> list[int]:
    """Return the sums of counts (n,) in 20 parts of equal length, by `numpy.array_split`.

    >>> by_parts([1] * 41)[:3]
    [3, 2, 2]
    """
    return [int(part.sum()) for part in np.array_split(np.asarray(counts, dtype=int), PARTS)]


def decisions(candidates: list[int], kept: list[int]) -> dict:
    """Return the acceptance rate and the counts by twentieth of the run, from those of each decision (n,)."""
    return {
        "acceptance_rate": sum(kept) / sum(candidates),
        "candidates_by_twentieth": by_parts(candidates),
        "kept_by_twentieth": by_parts(kept),
    }


def outcomes(logits: np.ndarray, labels: np.ndarray, *, scalars: bool = False, each: bool = False) -> dict:
    """Return accuracy, nll, calibration and the packed bits, from logits (n, classes) and labels (n,).

    With `scalars`, as for tuning, only accuracy and nll; with `each` also `nll_each`.
    """
    logits = np.asarray(logits, dtype=np.float64)
    log_likelihood = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    right = logits.argmax(1) == labels
    nll = -log_likelihood[np.arange(len(logits)), labels]
    found = {"accuracy": float(right.mean()), "nll": float(nll.mean())}
    if each:
        found["nll_each"] = pack_values(nll)
    return (
        found
        if scalars
        else found
        | {
            "calibration": calibration(np.exp(log_likelihood.max(1)), right, logits.shape[1]),
            "right": pack(right),
        }
    )


def calibration(confidence: np.ndarray, right: np.ndarray, classes: int) -> dict:
    """Return how many answers, how many right ones and their mean confidence in 20 bins of confidence (n,).

    The bins are equally wide, from 1 / classes, the least confidence, to 1. An empty bin has mean 0.
    """
    confidence = np.asarray(confidence)
    place = np.floor((confidence - 1 / classes) / (1 - 1 / classes) * PARTS).clip(0, PARTS - 1).astype(int)
    count = np.bincount(place, minlength=PARTS)
    return {
        "count": count.tolist(),
        "right": np.bincount(place, right, PARTS).astype(int).tolist(),
        "confidence": [
            round(value, 4)
            for value in (np.bincount(place, confidence, PARTS) / np.maximum(count, 1)).tolist()
        ],
    }
