"""Synthesis of the demo's bird songs: a repeated motif of whistles and trills. N samples."""

from typing import NamedTuple

import numpy as np

SAMPLE_RATE = 16000  # Hz
DURATION = 1.2  # seconds of a recording


class Syllable(NamedTuple):
    """One tone that glides."""

    begin: float  # Hz
    end: float  # Hz
    bend: float  # octaves by which the pitch is higher in the middle
    length: float  # seconds
    trill: float  # of its loudness, beats per second; 0: a whistle
    overtone: float  # loudness of the octave above


class Song(NamedTuple):
    """The song shared by all birds of a species: the motif, and the silence (seconds) after a syllable."""

    syllables: tuple[Syllable, ...]
    gap: float


def random_song(rng: np.random.Generator) -> Song:
    return Song(tuple(random_syllable(rng) for _ in range(rng.integers(1, 4))), gap=rng.uniform(0.03, 0.1))


def random_syllable(rng: np.random.Generator) -> Syllable:
    begin = 1300 * 2 ** rng.uniform(0, 2.1)
    return Syllable(begin, np.clip(begin * 2 ** rng.choice([-0.7, 0, 0.7]), 1000, 5500),
                    bend=rng.choice([-0.4, 0, 0.4]), length=rng.uniform(0.07, 0.22), trill=rng.choice([0, 0, 28, 55]),
                    overtone=rng.choice([0, 0.5]))


def sister_song(song: Song, rng: np.random.Generator) -> Song:
    """A species that differs slightly from `song`: it sings higher."""
    higher = 2 ** rng.uniform(0.03, 0.05)
    return song._replace(syllables=tuple(
        syllable._replace(begin=syllable.begin * higher, end=syllable.end * higher) for syllable in song.syllables))


def record_song(song: Song, others: list[Song], rng: np.random.Generator, difficulty: float) -> np.ndarray:
    """A sound (N,) in [-1, 1]: the bird from a random moment on, other birds in the distance, wind."""
    near = 0.3 * sing(song, rng, difficulty)
    far = sum(min(difficulty, 2) * rng.uniform(0.08, 0.25) * sing(other, rng, difficulty) for other in others)
    wind = np.convolve(rng.normal(size=near.size), np.full(12, 1 / 12), "same")
    hiss = rng.normal(size=near.size)
    return np.clip(near + far + difficulty * (rng.uniform(0.01, 0.08) * wind + rng.uniform(0.002, 0.02) * hiss), -1, 1)


def sing(song: Song, rng: np.random.Generator, difficulty: float) -> np.ndarray:
    """The repeated motif (N,), in the pitch and tempo of one bird."""
    pitch, tempo = 2 ** (difficulty * rng.normal(0, 0.12)), 2 ** (difficulty * rng.normal(0, 0.2))
    count = round(DURATION * SAMPLE_RATE)
    silence = np.zeros(round(song.gap / tempo * SAMPLE_RATE))
    motif = np.concatenate([part for syllable in song.syllables for part in (tone(syllable, pitch, tempo), silence)])
    return np.roll(np.resize(np.concatenate([motif, silence, silence]), 2 * count), rng.integers(count))[:count]


def tone(syllable: Syllable, pitch: float, tempo: float) -> np.ndarray:
    place = np.linspace(0, 1, round(syllable.length / tempo * SAMPLE_RATE))
    octaves = place * np.log2(syllable.end / syllable.begin) + syllable.bend * np.sin(np.pi * place)
    frequency = pitch * syllable.begin * 2**octaves
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    overtone = syllable.overtone * (2 * frequency < 0.48 * SAMPLE_RATE)
    swell = np.sin(np.pi * place) ** 0.5 * np.sin(np.pi * syllable.trill * syllable.length * place + 0.5 * np.pi) ** 2
    return swell * (np.sin(phase) + overtone * np.sin(2 * phase)) / (1 + syllable.overtone)
