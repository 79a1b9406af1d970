"""Babble: the speech of several other sentences at once, added to a word at a given signal-to-noise ratio.

N samples of a clip. Samples are int16 at one rate.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from dataset.errors import InputError

QUIETEST = 2.0  # of 32767, root mean square over a word: weaker babble is changed by rounding
VOICES = 6  # other sentences that speak at once
PEAK = 32000  # of 32767: where a mixture would exceed it, all of it is made quieter, speech and babble alike


def add_babble(clip: np.ndarray, word: slice, voices: Sequence[np.ndarray], snr: float,
               rng: np.random.Generator) -> np.ndarray:
    """(N,) int16 with babble: over the samples `word`, the clip has `snr` dB more power than the babble.

    Each voice is taken from a random place on and has the same power over the clip, also where it pauses: the noise of
    a pause is then as loud as speech. One that is too short begins again. Raises InputError: the word or a voice is
    silent, or the word is too quiet for babble so much weaker.
    """
    noise = np.zeros(len(clip))
    for voice in voices:
        start = rng.integers(max(1, len(voice) - len(clip) + 1))
        part = np.resize(voice[start:], len(clip)).astype(float)
        power = np.mean(part**2)
        if power == 0:
            raise InputError("a sentence of the babble is silent over the whole clip")
        noise += part / np.sqrt(power)
    signal = clip.astype(float)
    powers = [float(np.mean(x[word]**2)) for x in (signal, noise)]
    if min(powers) == 0:
        raise InputError("the word, or the babble over it, is silent")
    gain = np.sqrt(powers[0] / powers[1] / 10 ** (snr / 10))
    if gain * np.sqrt(powers[1]) < QUIETEST:
        raise InputError(f"the word is so quiet that babble {snr:g} dB below it would be lost in rounding")
    mixture = signal + noise * gain
    return np.rint(mixture * min(1.0, PEAK / np.abs(mixture).max())).astype(np.int16)


def choose_voices(name: str, speech: Mapping[str, np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The sentences that babble over the clip `name`. speech: {clip: its sentence} of the clip's own part of the split,
    of more than VOICES clips."""
    others = sorted(speech.keys() - {name})
    return [speech[others[index]] for index in rng.choice(len(others), VOICES, replace=False)]


def generator(seed: int, name: str) -> np.random.Generator:
    """Of one clip: the same for every level of noise, whatever was drawn for other clips. Which sentences it chooses
    depends on the names of all clips of the part as well."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")])
