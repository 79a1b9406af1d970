"""Marked data in SSW60's layout: green tells the clip, blue the frame, red rises from left to right; a low tone tells
the clip, a high one rises and so tells which part of a sound is heard. B clips, T frames.
"""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from marked_cremad import picture, pixels
from torch import Tensor
from torchvision.models import ResNet18_Weights, resnet18

SIZE, IMAGE = 64, 96  # pixels a side as the network gets it and in the file
SECONDS = 0.6  # of sound that the network gets
FRAMES = 6  # of a video
LOW, HIGH = 4500, 7500  # Hz, at the beginning and the end of a sound
# label in taxa.csv: species, in the order of the labels; the names, the labels as text and the file are in other orders
SPECIES = {0: "Marsh Owl", 2: "Yew Tit", 10: "Ash Wren"}
CLASSES = list(SPECIES.values())


class Clip(NamedTuple):
    """kind: index of the class."""

    number: int
    collection: str
    split: str
    kind: int
    seconds: float = 1.8
    frames: int = FRAMES
    silent: bool = False
    reliable: bool = True

    @property
    def name(self) -> str:
        return f"x{(7 * self.number) % 50:02d}"  # sorted otherwise than listed


KINDS = {("video_ml", "train"): (0, 1, 2, 0, 1, 2, 0, 1, 2), ("video_ml", "test"): (0, 2, 0, 1, 2, 0, 1),
         ("audio_ml", "train"): (2, 1, 0, 0, 1, 2), ("audio_ml", "test"): (1, 0, 1, 2),
         ("images_inat", "train"): (1, 2, 0, 1, 0, 2), ("images_inat", "val"): (2, 0, 1, 1),
         ("images_inat", "test"): (0, 1, 2), ("images_nabirds", "train"): (0, 2, 1), ("images_nabirds", "test"): (2, 1)}
CLIPS = [Clip(number, *place, kind) for number, (place, kind) in enumerate(
    (place, kind) for place, kinds in KINDS.items() for kind in kinds)]
SILENT, UNRELIABLE, SHORT, FEW = (2, 10), (5, 12), (4, 13), (7, 14)  # videos: one of training and one of test
CLIPS = [clip._replace(silent=clip.number in SILENT, reliable=clip.number not in UNRELIABLE,
                       seconds=0.25 if clip.number in SHORT else 1.8, frames=2 if clip.number in FEW else FRAMES)
         for clip in CLIPS]


def numbers(split: str, *collections: str) -> list[int]:
    """Of the clips of collections, in the order of the tables."""
    return [clip.number for name in collections for clip in listed(name) if clip.split == split]


def listed(collection: str) -> list[Clip]:
    """The rows of a table: the splits are mixed."""
    return sorted((clip for clip in CLIPS if clip.collection == collection), key=lambda clip: clip.name)


def make_marked_birds(root: Path) -> Path:
    root.mkdir(parents=True)
    taxa = "".join(f"{label},{SPECIES[label]}\n" for label in (10, 2, 0))
    (root / "taxa.csv").write_text(f"label,common_name\n{taxa}")
    labels = list(SPECIES)
    for collection in dict.fromkeys(clip.collection for clip in CLIPS):
        with open(root / f"{collection}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["split", "asset_id", "reliable_audio", "label"])
            rows.writerows([clip.split, clip.name, clip.reliable, labels[clip.kind]] for clip in listed(collection))
    for clip in CLIPS:
        write_media(root, clip)
    return root


def write_media(root: Path, clip: Clip) -> None:
    """Of videos also what --fps 2 and --audio_frontend ogm_ge take: other frames, the sound at another rate."""
    if clip.collection.startswith("images"):
        write_image(root / clip.collection / f"{clip.name}.jpg", clip.number, 0)
        return
    for rate in (16000, 22050):
        path = root / f"{clip.collection}-{rate}Hz" / f"{clip.name}.wav"
        path.parent.mkdir(exist_ok=True)
        if clip.silent:
            path.with_suffix(".silent").touch()
        else:
            soundfile.write(path, sound(clip, rate), rate, subtype="PCM_16")
    for fps in (1, 2) if clip.collection == "video_ml" else ():
        for frame in range(clip.frames):
            write_image(root / f"video_ml-{fps}fps" / clip.name / f"{frame:04d}.jpg", clip.number,
                        frame + (fps - 1) * FRAMES)


def write_image(path: Path, number: int, frame: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    best = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    cv2.imwrite(str(path), image(number, frame)[..., ::-1], best)


def image(number: int, frame: int) -> np.ndarray:
    marked = np.empty((IMAGE, IMAGE, 3), np.uint8)
    marked[..., 0] = np.linspace(40, 215, IMAGE).round()
    marked[..., 1], marked[..., 2] = 14 + 5 * number, 30 + 18 * frame
    return marked


def sound(clip: Clip, rate: int = 16000) -> np.ndarray:
    """(N,) whole steps of 16 bits, so that the file gives it again."""
    time = np.arange(round(clip.seconds * rate)) / rate
    wave = np.sin(2 * np.pi * (500 + 125 * clip.number) * time) + scipy.signal.chirp(time, LOW, clip.seconds, HIGH)
    return np.round(0.3 * wave * 2**15) / 2**15


# ---- what the network got


def seen_clips(visual: Tensor) -> list[int]:
    """The number of each clip of (B, 3, T, S, S), by its green."""
    return ((pixels(visual)[:, 1].mean((1, 2, 3)) - 14) / 5).round().int().tolist()


def seen_frames(visual: Tensor) -> list[list[int]]:
    """The numbers of each clip's frames, by their blue."""
    return ((pixels(visual)[:, 2].mean((2, 3)) - 30) / 18).round().int().tolist()


def seen_crops(visual: Tensor) -> list[np.ndarray]:
    """(T, 2) of each clip: the red of its frames at the left and at the right, 40 and 215 of a whole one."""
    red = pixels(visual)[:, 0].mean(2)  # (B, T, W)
    return list(red[..., [0, -1]].numpy())


def heard_clips(audio: Tensor) -> list[int | None]:
    """The number of each clip of (B, 1, 257, columns), by its low tone; None for silence."""
    loudest = audio[:, 0, :130].mean(-1).argmax(-1) * 31.25  # Hz
    return [None if not one.any() else round((float(peak) - 500) / 125) for one, peak in
            zip(audio, loudest, strict=True)]


def heard_from(audio: Tensor, seconds: float = 1.8) -> list[float]:
    """The second of a sound at which each excerpt begins, by its high tone."""
    frequencies = (140 + audio[:, 0, 140:].argmax(1)) * 31.25  # (B, columns)
    at = (frequencies.double() - LOW) / (HIGH - LOW) * seconds
    middles = (torch.arange(audio.shape[-1]) * 159 + 256) / 16000
    return (at - middles).median(1).values.tolist()


# ---- what it should get in evaluation


def as_evaluated(root: Path, clip: Clip, modalities: Sequence[str], num_frames: int = 3, fps: int = 1,
                 front_end: str = "mmcosine") -> dict[str, Tensor]:
    """{"audio": (1, 257, columns), "visual": (3, T, S, S)}: the middle of the sound and of each part of the video."""
    found = {}
    if "audio" in modalities:
        found["audio"] = spectrogram(clip) if front_end == "mmcosine" else ogm_ge_spectrogram(clip)
    if "visual" in modalities:
        if clip.collection == "video_ml":
            middles = [int((part + 0.5) * clip.frames / num_frames) for part in range(num_frames)]
            files = [root / f"video_ml-{fps}fps" / clip.name / f"{frame:04d}.jpg" for frame in middles]
        else:
            files = [root / clip.collection / f"{clip.name}.jpg"]
        found["visual"] = torch.stack([picture(cv2.imread(str(file))[..., ::-1], SIZE) for file in files], dim=1)
    return found


def middle(clip: Clip, rate: int) -> np.ndarray:
    """The sound's middle, or all of it repeated; silence."""
    length = round(SECONDS * rate)
    if clip.silent:
        return np.zeros(length)
    wave = sound(clip, rate)
    return np.resize(wave[max(0, len(wave) - length) // 2:], length)


def spectrogram(clip: Clip) -> Tensor:
    if clip.silent:
        return torch.zeros(1, 257, (round(SECONDS * 16000) - 353) // 159)
    power = scipy.signal.spectrogram(middle(clip, 16000), 16000, nperseg=512, noverlap=353)[2]
    logarithm = np.log(power + 1e-7)
    return torch.from_numpy((logarithm - logarithm.mean()) / logarithm.std()).float()[None]


def ogm_ge_spectrogram(clip: Clip) -> Tensor:
    wave = np.pad(middle(clip, 22050), 256)
    starts = range(0, len(wave) - 511, 353)
    window = scipy.signal.get_window("hann", 512)
    columns = [np.abs(np.fft.rfft(wave[start:start + 512] * window)) for start in starts]
    return torch.from_numpy(np.log(np.stack(columns, axis=1) + 1e-7)).float()[None]


@contextmanager
def imagenet_weights(folder: Path) -> Iterator[dict[str, Tensor]]:
    """In it torchvision's ResNet-18 of ImageNet is a file of ours, as if downloaded -> its weights."""
    torch.manual_seed(7)
    state = resnet18().state_dict()
    made = folder / "weights.pth"
    torch.save(state, made)
    name = f"resnet18-{hashlib.sha256(made.read_bytes()).hexdigest()[:8]}.pth"
    (folder / "hub/checkpoints").mkdir(parents=True)
    made.rename(folder / "hub/checkpoints" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder))
        patch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", f"https://download.pytorch.org/models/{name}")
        yield state
