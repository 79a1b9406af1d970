"""Synthesis of the demo's voices: vocal folds, formants, and a way of speaking per emotion. N samples."""

from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter

SAMPLE_RATE = 16000  # Hz


class Prosody(NamedTuple):
    """A way of speaking."""

    pitch: float = 0.0  # octaves above the speaker's own
    fall: float = 0.1  # octaves from beginning to end
    accent: float = 0.08  # octaves by which the pitch rises in a syllable
    rate: float = 4.0  # syllables per second
    attack: float = 0.3  # where in a syllable it is loudest, 0 to 1
    dark: float = 0.5  # 0 to 1: how much of the high overtones is taken away
    breath: float = 0.05  # loudness of the breath against the voice
    tremor: float = 0.0  # octaves, up and down
    loud: float = 0.0  # decibels


PROSODIES = {
    "NEU": Prosody(),
    "HAP": Prosody(pitch=0.5, fall=-0.3, accent=0.45, rate=5.0, attack=0.4, dark=0.3, loud=3),
    "SAD": Prosody(pitch=-0.05, fall=0.2, accent=0.02, rate=2.7, attack=0.5, dark=0.85, breath=0.3, loud=-6),
    "FEA": Prosody(pitch=0.7, fall=-0.1, accent=0.05, rate=6.5, dark=0.5, breath=0.3, tremor=0.07),
    "DIS": Prosody(pitch=-0.2, fall=0.6, accent=0.2, rate=3.3, attack=0.15, dark=0.65, breath=0.15, loud=-1),
    "ANG": Prosody(pitch=0.3, fall=0.4, accent=0.25, rate=4.5, attack=0.1, dark=0.0, loud=6),
}
# standard deviation of the random variation of a way of speaking
PROSODY_SCATTER = Prosody(0.08, 0.08, 0.04, 0.3, 0.06, 0.06, 0.03, 0.006, 1.5)
VOWELS = np.array([[730, 1090, 2440, 3500, 4500], [390, 1990, 2550, 3500, 4500], [530, 1840, 2480, 3500, 4500],
                   [570, 840, 2410, 3500, 4500]])  # the formants of a vowel, Hz
BANDWIDTHS = (80, 100, 140, 200, 250)  # of the formants, Hz


class Voice(NamedTuple):
    """Properties shared by all clips of a speaker."""

    pitch: float  # Hz
    formants: float | np.ndarray  # factors on VOWELS: one for all formants, or one each
    manner: Prosody = Prosody(*[0.0] * len(Prosody._fields))  # added to every way of speaking


def random_voice(rng: np.random.Generator) -> Voice:
    height = rng.uniform(0, 1)  # low voices come with long vocal tracts
    return Voice(pitch=100 * 2 ** (1.1 * height), formants=0.92 + 0.2 * height + rng.normal(0, 0.02))


def speak(label: str, voice: Voice, rng: np.random.Generator, difficulty: float) -> np.ndarray:
    """A sound (N,) in [-1, 1] of 1.0 to 1.6 s: a few syllables in the way of an emotion, in a noisy room."""
    strength = 1 - 0.3 * min(difficulty, 1) * rng.uniform()
    neutral = np.array(PROSODIES["NEU"])
    mean = neutral + strength * (PROSODIES[label] - neutral) + voice.manner
    prosody = Prosody(*(mean + difficulty * rng.normal(0, PROSODY_SCATTER)))
    time = np.arange(round(rng.uniform(1.02, 1.6) * SAMPLE_RATE)) / SAMPLE_RATE
    source = sing(time, voice.pitch, prosody, rng)
    sound = np.zeros_like(time)
    for begin, end in syllables(time[-1], prosody.rate, rng):
        shape = loudness(time, begin, end, prosody.attack)
        sound += shape_vowel(source * shape, voice.formants * VOWELS[rng.integers(len(VOWELS))])
    sound *= 0.25 * 10 ** (np.clip(prosody.loud, -12, 8) / 20) / np.abs(sound).max()
    room = np.clip(difficulty, 0, 3) * rng.uniform(0.001, 0.008) * rng.normal(size=time.size)
    return sound + room  # at most 0.63 + 0.15, so it never clips


def sing(time: np.ndarray, speaker_pitch: float, prosody: Prosody, rng: np.random.Generator) -> np.ndarray:
    """The sound of the vocal folds (N,): pulses, flat but for `dark`, with breath."""
    progress = time / time[-1]
    beat = np.sin(np.pi * prosody.rate * time) ** 2
    flutter = np.sin(2 * np.pi * (6.5 * time + rng.uniform()))
    octaves = prosody.pitch - prosody.fall * (progress - 0.5) + prosody.accent * beat + prosody.tremor * flutter
    phase = np.cumsum(speaker_pitch * 2**octaves / SAMPLE_RATE) % 1
    opening = np.where(phase < 0.6, phase**2 * (0.6 - phase) * 27, 0)  # Rosenberg's pulse: opens slowly, shuts fast
    breath = max(prosody.breath, 0) * rng.normal(size=time.size)
    dark = np.clip(prosody.dark, 0, 0.97)
    return lfilter([1 - dark], [1, -dark], np.diff(opening, prepend=0) * 10) + 0.1 * breath


def syllables(duration: float, rate: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """(begin, end) in seconds, about `rate` a second after a short silence."""
    length = 1 / np.clip(rate, 1.5, 9)
    begins = np.arange(rng.uniform(0, 0.12), duration - 0.5 * length, length)
    begins = begins + rng.normal(0, 0.1 * length, len(begins))
    return [(begin, begin + length * rng.uniform(0.75, 1)) for begin in begins]


def loudness(time: np.ndarray, begin: float, end: float, attack: float) -> np.ndarray:
    """The envelope (N,) of a syllable, with its peak (1) at the fraction `attack`."""
    peak = np.clip(attack, 0.05, 0.9)
    place = np.interp(time, [begin, begin + peak * (end - begin), end], [0, 0.5, 1])
    return np.sin(np.pi * place) ** 1.5


def shape_vowel(source: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """The vocal tract: one resonance per formant (Hz), in series. (N,) -> (N,)"""
    for formant, bandwidth in zip(formants, BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
        poles = [1, -2 * radius * np.cos(2 * np.pi * formant / SAMPLE_RATE), radius**2]
        source = lfilter([sum(poles)], poles, source)
    return source
