"""Dialled numbers: the tones of a telephone's keys, as ITU-T Q.23 sets them, of varied tempo and in noise."""

from itertools import product

import numpy as np

HERTZ = 8000  # samples a second
TONES = dict(zip("123456789*0#", product((697, 770, 852, 941), (1209, 1336, 1477)), strict=True))  # hertz


def dialled(rng: np.random.Generator) -> tuple[int, np.ndarray, str]:
    """Return three keys dialled one after the other: the rate, the sound in noise, and the digits."""
    digits = "".join(map(str, rng.integers(0, 10, 3)))
    parts = [np.zeros(int(rng.uniform(200, 1200)))]
    for digit in digits:
        time = np.arange(int(rng.uniform(400, 2400))) / HERTZ
        parts += [sum(np.sin(2 * np.pi * one * time) for one in TONES[digit])]
        parts += [np.zeros(int(rng.uniform(320, 2400)))]
    sound = np.concatenate(parts)
    return HERTZ, sound + rng.uniform(0.5, 2.5) * rng.normal(size=len(sound)), digits
