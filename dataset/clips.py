"""Clips of any dataset: where their media files are, and the tensors that are made of them.

Shapes: N samples, T frames of H x W pixels, S the side of the square network input.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.crops import CROP_DRAWS, PAPER_CROP, Crop, cut
from dataset.errors import InputError
from dataset.files import read_audio
from dataset.frames import frame_indices, read_frames, resize
from dataset.packed import Media, Packed, to_float

MODALITIES = ("audio", "visual")
# {modality beside these: its module, with `find`, `read` and `FrontEnd` as scripts/new.py modality writes them}
FURTHER: dict[str, ModuleType] = {
}
Listed = TypeVar("Listed")  # a clip as a list names it; has a `name`
Found = TypeVar("Found")  # the clip with its files


class ClipFiles(NamedTuple):
    """A clip's name, label and media files; audio is None for a video without a sound stream. further: (modality, file)
    of each of FURTHER that is used."""

    name: str
    label: str
    audio: Path | None
    frames: tuple[Path, ...]
    further: tuple[tuple[str, Path], ...] = ()


def find_each(find: Callable[[Listed], Found], listed: Iterable[Listed]) -> tuple[list[Found], dict[str, str]]:
    """Calls `find` for every listed clip -> (files of the clips, {name: error} of those that cannot
    be used).

    Both are in the order of the list.
    """
    found, problems = [], {}
    for clip in listed:
        try:
            found.append(find(clip))
        except InputError as error:
            problems[clip.name] = str(error)
    return found, problems


class ClipDataset(Dataset):
    """Item i: {"audio": (N,) float32, "visual": (T, 3, S, S) uint8, "label": class index}, only the chosen modalities.

    Sound is repeated or cut to `audio_seconds`. Of longer sound the beginning is taken; with `move_sound`, a random
    part in training and the middle in evaluation. A video without a sound stream gives silence. `crop`: of training
    frames, alike for all of a clip. What is random in training is decided by `draws` uniform numbers: `item` takes
    them, `dataset[i]` draws them from torch's global generator. Items raise InputError for media that cannot be
    decoded.
    """

    def __init__(self, clips: Sequence[ClipFiles], classes: Sequence[str], *, train: bool, sample_rate: int = 16000,
                 audio_seconds: float = 3.0, num_frames: int = 1, image_size: int = 224,
                 modalities: Sequence[str] = MODALITIES, move_sound: bool = False, crop: Crop = PAPER_CROP):
        self.clips, self.train, self.sample_rate, self.num_frames = clips, train, sample_rate, num_frames
        self.labels = [classes.index(clip.label) for clip in clips]
        self.audio_samples, self.move_sound = round(audio_seconds * sample_rate), move_sound
        self.image_size, self.crop, self.modalities = image_size, crop, modalities

    def for_evaluation(self) -> "ClipDataset":
        """The same clips as in evaluation: nothing random."""
        same = copy(self)
        same.train = False
        return same

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def draws(self) -> int:
        """Number of uniform numbers that decide a training item: one for the beginning of the
        sound, one for each frame, CROP_DRAWS for the crop. 0 in evaluation."""
        return (1 + self.num_frames + CROP_DRAWS) * self.train

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        return self.item(index, torch.rand(self.draws, dtype=torch.float64).numpy() if self.train else None)

    def item(self, index: int, draws: np.ndarray | None) -> dict[str, Tensor | int]:
        """draws: (`self.draws`,) uniform numbers; None in evaluation."""
        read = {"audio": self.read_sound, "visual": self.read_frames}
        clip = self.clips[index]
        item = {name: read[name](clip, draws) for name in self.modalities if name in read}
        further = {name: FURTHER[name].read(path) for name, path in clip.further}
        return {**item, **further, "label": self.labels[index]}

    def read_sound(self, clip: ClipFiles, draws: np.ndarray | None) -> Tensor:  # (N,)
        if clip.audio is None:
            return torch.zeros(self.audio_samples)
        wave = read_audio(clip.audio, self.sample_rate)
        spare = len(wave) - self.audio_samples
        if self.move_sound and spare > 0:
            begin = spare // 2 if draws is None else int(draws[0] * (spare + 1))
            wave = wave[begin:]
        return torch.from_numpy(np.resize(wave, self.audio_samples))  # np.resize repeats, then cuts

    def read_frames(self, clip: ClipFiles, draws: np.ndarray | None) -> Tensor:  # (T, 3, S, S)
        where, crop = (None, None) if draws is None else (draws[1:-CROP_DRAWS], draws[-CROP_DRAWS:])
        frames = read_frames([clip.frames[i] for i in frame_indices(len(clip.frames), self.num_frames, where)])
        if crop is None:
            return resize(frames, self.image_size)
        return self.crop(frames.flatten(0, 1), crop, self.image_size).unflatten(0, (-1, 3))

    # What follows makes training batches out of clips that were decoded once: see `Packable`.

    @property
    def decoding(self) -> dict[str, object]:
        """Raises InputError: a modality is neither sound nor frames."""
        further = [name for name in self.modalities if name not in MODALITIES]
        if further:
            raise InputError(f"--cache keeps sound and frames, not {' or '.join(further)}: leave out --cache")
        sound = {"sample_rate": self.sample_rate, "samples": None if self.move_sound else self.audio_samples}
        return {"modalities": list(self.modalities), **(sound if "audio" in self.modalities else {})}

    def files(self, index: int) -> list[Path]:
        clip = self.clips[index]
        sound = [clip.audio] if clip.audio and "audio" in self.modalities else []
        return [*sound, *(clip.frames if "visual" in self.modalities else ())]

    def media(self, index: int) -> Media:
        clip, sound = self.clips[index], {}
        if "audio" in self.modalities:
            wave = read_audio(clip.audio, self.sample_rate) if clip.audio else np.zeros(1, np.float32)
            sound["audio"] = wave if self.move_sound else np.resize(wave, self.audio_samples)
        return Media(sound, {"visual": list(read_frames(clip.frames).numpy())} if "visual" in self.modalities else {})

    def plan(self, packed: Packed, draws: np.ndarray) -> dict[str, Tensor]:
        """What the uniform numbers of N clips, `draws` (N, self.draws), decide in an epoch.

        audio (N,): where the sound begins. visual (N, T): which frames. boxes (N, 4) and flips
        (N,): the crop of each clip.
        """
        plan, crops = {}, draws[:, -CROP_DRAWS:]
        if "audio" in self.modalities:
            plan["audio"] = packed.sound["audio"].starts(self.audio_samples, draws[:, 0])
        if "visual" in self.modalities:
            images = packed.images["visual"]
            plan["visual"] = images.places(draws[:, 1:-CROP_DRAWS])
            plan["boxes"] = self.crop.boxes(crops, images.sizes_of(plan["visual"][:, 0]))
            plan["flips"] = self.crop.flips(crops)
        return {name: torch.from_numpy(drawn) for name, drawn in plan.items()}

    def finish(self, gathered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        batch = {}
        if "audio" in self.modalities:
            batch["audio"] = to_float(gathered["audio"])
        if "visual" in self.modalities:
            frames = gathered["visual"]  # of a clip all are cut alike, as if they were channels of one image
            cropped = cut(frames.flatten(1, 2), gathered["boxes"], gathered["flips"], self.image_size)
            batch["visual"] = cropped.unflatten(1, frames.shape[1:3])
        return batch
