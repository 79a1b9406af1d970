"""Clips in the CREMA-D layout: CREMA-D itself, or any other dataset laid out so (classes come from stat.csv).

    <root>/stat.csv train.csv test.csv         see dataset/lists.py
    <root>/AudioWAV/<clip>.wav
    <root>/Image-01-FPS/<clip>/*.jpg           sorted by name; or one image: <root>/image/<clip>.jpg

Shapes: N samples, T frames of H x W pixels, S the side of the square network input.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.errors import InputError
from dataset.files import check_audio, check_image, read_audio
from dataset.frames import frame_indices, image_transform, read_frames
from dataset.lists import Clip

EMOTIONS = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "FEA": "fear", "DIS": "disgust", "ANG": "angry"}
PAPER_COUNTS = {"train": 6698, "test": 744}  # the lists of OGM-GE, which the paper uses
MODALITIES = ("audio", "visual")
AUDIO_FOLDER = "AudioWAV"


class ClipFiles(NamedTuple):
    """A clip's name and label, and where its media lie."""

    name: str
    label: str
    audio: Path
    frames: tuple[Path, ...]


def audio_path(root: Path, name: str) -> Path:
    return root / AUDIO_FOLDER / f"{name}.wav"


def frames_folder(root: Path, fps: int = 1) -> Path:
    """The folder of the clips' folders of frames."""
    return root / f"Image-{fps:02d}-FPS"


def find_clip(root: Path, clip: Clip, fps: int = 1, modalities: Sequence[str] = MODALITIES) -> ClipFiles:
    """The files of one clip, their presence and headers checked. Raises InputError."""
    audio = audio_path(root, clip.name)
    frames: tuple[Path, ...] = ()
    if "audio" in modalities:
        check_audio(audio)
    if "visual" in modalities:
        frames = find_frames(root, clip.name, fps)
    return ClipFiles(clip.name, clip.label, audio, frames)


def find_frames(root: Path, name: str, fps: int) -> tuple[Path, ...]:
    """`Image-<fps>-FPS/<name>/*.jpg` sorted by name, else the single `image/<name>.jpg`. Raises InputError."""
    folder = frames_folder(root, fps) / name
    frames = tuple(sorted(folder.glob("[!.]*.jpg")))
    single = root / "image" / f"{name}.jpg"
    if not frames and single.is_file():
        frames = (single,)
    if not frames:
        raise InputError(f"no frames: neither {folder}/*.jpg nor {single} exists")
    for path in frames:
        check_image(path)
    return frames


def find_clips(root: Path, clips: Iterable[Clip], fps: int = 1,
               modalities: Sequence[str] = MODALITIES) -> tuple[list[ClipFiles], dict[str, str]]:
    """(the clips whose files are there, {name: what is wrong} of the others), in list order."""
    found, problems = [], {}
    for clip in clips:
        try:
            found.append(find_clip(root, clip, fps, modalities))
        except InputError as error:
            problems[clip.name] = str(error)
    return found, problems


class ClipDataset(Dataset):
    """Item i: {"audio": (N,) float32, "visual": (T, 3, S, S) uint8, "label": class index}, the asked modalities only.

    Sound is repeated until `audio_seconds` and cut there. Randomness (training only) comes from torch's global
    generator. Items raise InputError for media that cannot be decoded.
    """

    def __init__(self, clips: Sequence[ClipFiles], classes: Sequence[str], *, train: bool, sample_rate: int = 16000,
                 audio_seconds: float = 3.0, num_frames: int = 1, image_size: int = 224,
                 modalities: Sequence[str] = MODALITIES):
        self.clips, self.train, self.sample_rate, self.num_frames = clips, train, sample_rate, num_frames
        self.labels = [classes.index(clip.label) for clip in clips]
        self.audio_samples = round(audio_seconds * sample_rate)
        self.transform = image_transform(image_size, train)
        self.read = {"audio": self.read_sound, "visual": self.read_frames}
        self.modalities = modalities

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        item = {name: self.read[name](self.clips[index]) for name in self.modalities}
        return {**item, "label": self.labels[index]}

    def read_sound(self, clip: ClipFiles) -> Tensor:  # (N,)
        wave = read_audio(clip.audio, self.sample_rate)
        return torch.from_numpy(np.resize(wave, self.audio_samples))  # np.resize repeats, then cuts

    def read_frames(self, clip: ClipFiles) -> Tensor:  # (T, 3, S, S)
        chosen = frame_indices(len(clip.frames), self.num_frames, self.train)
        return self.transform(read_frames([clip.frames[i] for i in chosen]))
