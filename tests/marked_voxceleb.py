"""Marked data in the VoxCeleb layout: a face's green tells its utterance, its blue the frame, red rises from left to
right; every voice is noise of its own around its person's tone, so that an excerpt lies at one place of one file.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import soundfile
import torch
from marked_cremad import picture, pixels
from torch import Tensor

RATE, SIZE, FACE = 16000, 64, 96  # Hz, pixels a side as the network gets it and in the file
HOP, MORE = 160, 240  # samples of so many frames of 10 ms: 160 a frame and 240


class Voice(NamedTuple):
    """An utterance. faces: as train.csv names them; count: of its faces."""

    number: int
    name: str
    identity: str
    faces: str
    count: int = 7
    seconds: float = 0.8


# folders and identities are sorted differently, and neither as in train.csv
PEOPLE = {"id40": ("Carl", 4), "id10": ("Zoe", 1), "id30": ("Ann", 2), "id20": ("Mia", 2)}
IDENTITIES = sorted(name for name, _ in PEOPLE.values())
TRAIN = [Voice(number, f"{folder}/v{take % 2}/{take:05d}", name, f"{folder}/v{take % 2}/face{take}")
         for number, (take, folder, name) in enumerate(
             (take, folder, name) for take in range(4) for folder, (name, takes) in PEOPLE.items() if take < takes)]
SHORT, FEW = 2, 4  # of these one voice is too short, one has three faces only
TRAIN[SHORT] = TRAIN[SHORT]._replace(seconds=0.2)
TRAIN[FEW] = TRAIN[FEW]._replace(count=3, faces=TRAIN[FEW].name)  # in a folder of the release's flat name
# numbers of one person are near each other, so that their faces look alike
TEST = [Voice(number, name, name.split("/")[0], name) for name, number in {
    "id90/a/1": 9, "id70/b/1": 21, "id90/a/2": 10, "id80/c/1": 15, "id70/b/2": 22, "id90/d/3": 11, "id80/c/2": 16,
    "id60/e/1": 25, "id60/e/2": 26, "id50/f/1": 29, "id80/g/3": 17, "id50/f/2": 30}.items()]
TEST[1] = TEST[1]._replace(count=2)  # no face of number 2: the last one
TEST[6] = TEST[6]._replace(seconds=0.2)
VOICES = {voice.number: voice for voice in (*TRAIN, *TEST)}
PERSONS = sorted({voice.identity for voice in VOICES.values()})

# trials (label, utterance, utterance), utterances by their place in TEST; the second list has others and more of them
FIRST = ((0, 4, 0), (1, 2, 0), (0, 5, 6), (1, 1, 4), (0, 1, 2), (0, 6, 4), (1, 5, 2), (0, 1, 5))
SECOND = tuple((label, a, b) for a in range(len(TEST) - 1, -1, -1) for b in range(a)
               if (label := int(TEST[a].identity == TEST[b].identity)) or (a + b) % 3 == 0)
SECOND_FILE = "other.txt"  # beside the data, in the official form


def make_marked_voices(root: Path) -> Path:
    for part, voices in (("train", TRAIN), ("test", TEST)):
        for voice in voices:
            path = root / part / "wav" / f"{voice.name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, sound(voice), RATE, subtype="PCM_16")
            flat = f"{voice.name.replace('/', '#')}.txt#000.mp4"
            folder = root / part / "faces" / (flat if voice.number == FEW else voice.faces)
            folder.mkdir(parents=True)
            for frame in range(voice.count):
                cv2.imwrite(str(folder / f"{frame:07d}.png"), face(voice.number, frame)[..., ::-1])
    rows = [f"{voice.name}.wav,{voice.faces},{voice.identity},{voice.count}\n" for voice in TRAIN]
    (root / "train.csv").write_text("wav,faces,identity,n_frames\n" + "".join(rows))
    names = [f"{voice.name}.wav" for voice in TEST]
    (root / "test_pairs.csv").write_text("".join(f"{label},{names[a]},{names[b]}\n" for label, a, b in FIRST))
    (root.parent / SECOND_FILE).write_text("".join(f"{label} /{names[a]} /{names[b]}\n" for label, a, b in SECOND))
    return root


def sound(voice: Voice) -> np.ndarray:
    """(N,) whole steps of 16 bits, so that the file gives it again."""
    rng = np.random.default_rng(voice.number)
    noise = rng.normal(0, 0.1, round(voice.seconds * RATE))
    syllables = rng.uniform(0.01, 1, 40).repeat(len(noise) // 40)  # else the normalised spectrograms would be alike
    tone = 0.3 * np.sin(2 * np.pi * (300 + 400 * PERSONS.index(voice.identity)) * np.arange(len(noise)) / RATE)
    return np.round((syllables * (noise + tone)).clip(-0.9, 0.9) * 2**15) / 2**15


def face(number: int, frame: int) -> np.ndarray:
    picture = np.empty((FACE, FACE, 3), np.uint8)
    picture[..., 0] = np.linspace(40, 215, FACE).round()
    picture[..., 1], picture[..., 2] = 12 + 8 * number, 30 + 25 * frame
    return picture


def heard(waveform: Tensor) -> tuple[int, int]:
    """(number of the utterance, first sample) of what the audio encoder got, (N,), repeated if the file is shorter.

    Raises AssertionError: it is no excerpt of a file.
    """
    got = waveform.double().numpy()
    for voice in VOICES.values():
        whole = sound(voice)
        for start in np.flatnonzero(whole == got[0]):
            length = len(whole) - start
            if np.array_equal(got[:length], whole[start:start + len(got)]):
                assert length >= len(got) or (start == 0 and np.array_equal(got, np.resize(whole, len(got))))
                return voice.number, int(start)
    raise AssertionError("no excerpt of a voice")


def seen(faces: Tensor) -> tuple[int, list[int]]:
    """(number of the utterance, numbers of the frames) of what the visual encoder got, (3, T, S, S)."""
    means = pixels(faces[None])[0].mean((2, 3))  # (3, T)
    numbers = {int(number) for number in ((means[1] - 12) / 8).round()}
    assert len(numbers) == 1, "the faces are of several utterances"
    return numbers.pop(), ((means[2] - 30) / 25).round().int().tolist()


def as_evaluated(voice: Voice, test_frames: int) -> dict[str, Tensor]:
    """{"audio": (N,), "visual": (3, 1, S, S)}: the beginning of the voice, repeated if too short, and face number 2."""
    wave = np.resize(sound(voice), test_frames * HOP + MORE).astype(np.float32)
    visual = picture(face(voice.number, min(2, voice.count - 1)), SIZE)
    return {"audio": torch.from_numpy(wave), "visual": visual[:, None]}
