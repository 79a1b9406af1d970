"""Utterances in the VoxCeleb layout: who is speaking, from voice and face.

    <root>/train.csv                              rows wav,faces,identity,n_frames
    <root>/train/wav/<id>/<video>/<utt>.wav
    <root>/train/faces/<id>/<video>/<utt>/0000000.png ...
    <root>/test_pairs.csv                         trials label,utt1,utt2, or the official label utt1 utt2
    <root>/test/wav/..., <root>/test/faces/...    as in train

A folder of faces may also have the release's flat name, <id>#<video>#<utt>.txt#000.mp4. Paths in lists may begin
with a slash. Shapes: U utterances, C identities, N samples, T frames, S pixels per side of the network input.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from dataset.crops import cut
from dataset.errors import InputError
from dataset.files import check_audio, check_image, read_audio, read_excerpt
from dataset.frames import frame_indices, image_transform, read_frames
from dataset.names import find_images, on_disk
from dataset.packed import Media, Packed, to_float

SAMPLE_RATE = 16000  # Hz
TEST_FRAME = 2  # the frame that is evaluated, or the last one of fewer
CHECKED_AT_ONCE = 500  # utterances
CROP_AREA, CROP_RATIO = (0.7, 1.0), (0.9, 1.1)  # of training crops: they keep most of the aligned face


class Utterance(NamedTuple):
    """wav and faces are relative to the folders `wav` and `faces`; label: of the identity, or just a number."""

    wav: str
    faces: str
    label: int


class Utterances(Protocol):
    """A sequence of utterances, not necessarily a list: a million of them are stored in arrays."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Utterance: ...


def samples_of(frames: int) -> int:
    """The number of samples in so many mel frames of 10 ms: 200 frames are 32,240 samples."""
    return frames * 160 + 240


def voice_path(root: Path, utterance: Utterance) -> Path:
    return on_disk(root / "wav" / utterance.wav)


def find_faces(folder: Path, name: str) -> list[Path]:
    """The images of folder/name, or of the flat folder of that utterance, sorted. Raises InputError: none found."""
    flat = f"{name.replace('/', '#')}.txt#000.mp4"
    for place in (on_disk(folder / name), folder / flat):
        images = find_images(place)
        if images:
            return [place / file for file in images]
    raise InputError(f"no faces of {name}: neither {folder / name} nor {folder / flat} holds images. Prepare it again, "
                     "or remove the utterance from the list")


def find_problems(root: Path, utterances: Utterances, modalities: Sequence[str], part: int = 0,
                  of_parts: int = 1) -> dict[int, str]:
    """{index: what is wrong} of the utterances whose files are missing, empty or have damaged headers.

    Checks every `of_parts`-th block of the list from block `part` on, so that processes can share the work.
    """
    parts = [range(start, min(start + CHECKED_AT_ONCE, len(utterances)))
             for start in range(0, len(utterances), CHECKED_AT_ONCE)][part::of_parts]

    def check(part: range) -> dict[int, str]:
        problems = {}
        for index in part:
            try:
                check_utterance(root, utterances[index], modalities)
            except InputError as error:
                problems[index] = str(error)
        return problems

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = tqdm(pool.map(check, parts), total=len(parts), desc=f"checking {root}", leave=False, disable=None,
                       unit=f" x {CHECKED_AT_ONCE} utterances")
        return {index: reason for problems in checked for index, reason in problems.items()}


def check_utterance(root: Path, utterance: Utterance, modalities: Sequence[str]) -> None:
    """Raises InputError, naming the file. Only the first face is checked."""
    if "audio" in modalities:
        check_audio(voice_path(root, utterance))
    if "visual" in modalities:
        check_image(find_faces(root / "faces", utterance.faces)[0])


class UtteranceDataset(Dataset):
    """Item i: {"audio": (N,) float32 at 16 kHz, "visual": (T, 3, S, S) uint8, "label": int}; chosen modalities only.

    Training: a random excerpt of `audio_frames`, one random face from each of `num_frames` equal parts of the clip.
    Otherwise the first `audio_frames`, and the face with number TEST_FRAME. Items raise InputError.
    """

    def __init__(self, root: Path, utterances: Utterances, *, train: bool, audio_frames: int, num_frames: int,
                 image_size: int, modalities: Sequence[str]):
        self.root, self.utterances, self.train, self.num_frames = root, utterances, train, num_frames
        self.audio_frames, self.image_size = audio_frames, image_size
        self.audio_samples = samples_of(audio_frames)
        self.transform = image_transform(image_size, train, CROP_AREA, CROP_RATIO)
        self.read = {"audio": self.read_voice, "visual": self.read_faces}
        self.modalities = modalities

    def for_evaluation(self) -> "UtteranceDataset":
        """The same utterances as they are evaluated."""
        return UtteranceDataset(self.root, self.utterances, train=False, audio_frames=self.audio_frames,
                                num_frames=self.num_frames, image_size=self.image_size, modalities=self.modalities)

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        utterance = self.utterances[index]
        return {**{name: self.read[name](utterance) for name in self.modalities}, "label": utterance.label}

    def read_voice(self, utterance: Utterance) -> Tensor:  # (N,)
        path = voice_path(self.root, utterance)
        return torch.from_numpy(read_excerpt(path, SAMPLE_RATE, self.audio_samples, anywhere=self.train))

    def read_faces(self, utterance: Utterance) -> Tensor:  # (T, 3, S, S)
        paths = find_faces(self.root / "faces", utterance.faces)
        chosen = frame_indices(len(paths), self.num_frames, True) if self.train else [min(TEST_FRAME, len(paths) - 1)]
        return torch.stack([self.transform(read_frames([paths[i]])[0]) for i in chosen])  # sizes may differ

    # What follows makes training batches out of utterances that were decoded once: see `Packable`.

    @property
    def labels(self) -> list[int]:
        return [self.utterances[index].label for index in range(len(self))]

    @property
    def decoding(self) -> dict[str, object]:
        return {"modalities": list(self.modalities)}

    def files(self, index: int) -> list[Path]:
        utterance = self.utterances[index]
        sound = [voice_path(self.root, utterance)] if "audio" in self.modalities else []
        return [*sound, *(find_faces(self.root / "faces", utterance.faces) if "visual" in self.modalities else ())]

    def media(self, index: int) -> Media:
        files = self.files(index)
        sound = {"audio": read_audio(files.pop(0), SAMPLE_RATE)} if "audio" in self.modalities else {}
        faces = [read_frames([path])[0].numpy() for path in files]
        return Media(sound, {"visual": faces} if faces else {})

    def plan(self, packed: Packed, random: np.random.Generator) -> dict[str, Tensor]:
        """audio (N,): where the excerpt begins. visual (N, T): faces. boxes (N, T, 4), flips (N, T): one of each per
        face."""
        plan = {}
        if "audio" in self.modalities:
            plan["audio"] = packed.sound["audio"].random_starts(self.audio_samples, random)
        if "visual" in self.modalities:
            images = packed.images["visual"]
            plan["visual"] = images.random_frames(self.num_frames, random)
            plan["boxes"] = images.random_boxes(plan["visual"], CROP_AREA, CROP_RATIO, random)
            plan["flips"] = random.random(plan["visual"].shape) < 0.5
        return {name: torch.from_numpy(drawn) for name, drawn in plan.items()}

    def finish(self, gathered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        batch = {}
        if "audio" in self.modalities:
            batch["audio"] = to_float(gathered["audio"])
        if "visual" in self.modalities:
            one_by_one = (gathered[name].flatten(0, 1) for name in ("visual", "boxes", "flips"))
            batch["visual"] = cut(*one_by_one, self.image_size).unflatten(0, gathered["visual"].shape[:2])
        return batch
