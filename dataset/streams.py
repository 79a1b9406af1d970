"""What a video shows and how it moves, as tensors: RGB frames, optical flow, and differences of consecutive frames.

Shapes: T frames, K flow fields, H x W pixels, S the side of the square network input.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.crops import AT_ONCE, cut
from dataset.errors import InputError
from dataset.frames import CROP_AREA, CROP_RATIO, frame_indices, image_transform, read_frames
from dataset.packed import Media, Packed

FLOW_BOUND = 20  # pixels from one frame to the next that the 8 bits of a flow image reach in either direction
STILL = 128  # the 8-bit value of no motion


class MotionFiles(NamedTuple):
    """A clip's images; those that no modality needs are (). rgb, next: frames and the ones that follow them. u, v:
    horizontal and vertical flow, from the same pairs of frames."""

    name: str
    label: str
    rgb: tuple[Path, ...] = ()
    next: tuple[Path, ...] = ()
    u: tuple[Path, ...] = ()
    v: tuple[Path, ...] = ()

    @property
    def frames(self) -> tuple[Path, ...]:
        """All of them."""
        return self.rgb + self.next + self.u + self.v


class MotionDataset(Dataset):
    """Item i: {"rgb": (T, 3, S, S) uint8, "flow": (2 K, S, S) uint8, "difference": (T, 3, S, S) int16, "label": class
    index}, only the chosen modalities. Flow is u and v of the first field, of the second, ...; a difference is the
    following frame minus the frame.

    One random crop and one random flip are drawn for all images of a clip, whatever its modalities, and u is negated
    where the clip is flipped. Randomness (training only) comes from torch's global generator. Items raise InputError
    for images that cannot be decoded or differ in size.
    """

    audio_samples = 0  # it has no sound

    def __init__(self, clips: Sequence[MotionFiles], classes: Sequence[str], *, train: bool, num_frames: int = 3,
                 flow_frames: int = 16, image_size: int = 224,
                 modalities: Sequence[str] = ("rgb", "flow", "difference")):
        self.clips, self.train, self.num_frames, self.flow_frames = clips, train, num_frames, flow_frames
        self.labels = [classes.index(clip.label) for clip in clips]
        self.image_size, self.modalities = image_size, modalities

    def for_evaluation(self) -> "MotionDataset":
        """The same clips as in evaluation: nothing random."""
        same = copy(self)
        same.train = False
        return same

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        clip, chosen = self.clips[index], {}
        for first, names in self.streams().items():
            places = frame_indices(len(getattr(clip, first)), self.wanted(first), self.train)
            chosen |= {name: [getattr(clip, name)[i] for i in places] for name in names}
        images = move_together(self.read_images(clip, chosen), self.image_size, self.train)
        return {**self.modalities_of(images), "label": self.labels[index]}

    def streams(self) -> dict[str, tuple[str, ...]]:
        """The images that the modalities need, those of the same frames together, under the name of the first."""
        streams = {}
        if {"rgb", "difference"} & set(self.modalities):
            streams["rgb"] = ("rgb", "next") if "difference" in self.modalities else ("rgb",)
        if "flow" in self.modalities:
            streams["u"] = ("u", "v")
        return streams

    def wanted(self, stream: str) -> int:
        """Images of a clip."""
        return self.flow_frames if stream in ("u", "v") else self.num_frames

    def read_images(self, clip: MotionFiles, paths: Mapping[str, Sequence[Path]]) -> dict[str, Tensor]:
        """{"rgb", "next": (T, 3, H, W), "u", "v": (K, H, W)} uint8, those in `paths`. Raises InputError."""
        images = {name: read_frames(files) for name, files in paths.items()}
        sizes = {tuple(image.shape[-2:]) for image in images.values()}
        if len(sizes) > 1:
            raise InputError(f"the frames and the flow of {clip.name} differ in size ({sizes}): remove them and run "
                             "scripts/prepare_ucf101.py again")
        return {name: image[:, 0] if name in ("u", "v") else image for name, image in images.items()}

    def modalities_of(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The chosen modalities, from cropped images (..., T, 3, S, S) or (..., K, S, S)."""
        made = {}
        if "rgb" in self.modalities:
            made["rgb"] = images["rgb"]
        if "flow" in self.modalities:
            made["flow"] = torch.stack([images["u"], images["v"]], -3).flatten(-4, -3)  # (..., 2 K, S, S)
        if "difference" in self.modalities:
            made["difference"] = images["next"].short() - images["rgb"].short()
        return made

    # What follows makes training batches out of clips that were decoded once: see `Packable`.

    @property
    def decoding(self) -> dict[str, object]:
        return {"modalities": list(self.modalities)}

    def files(self, index: int) -> list[Path]:
        clip = self.clips[index]
        return [path for names in self.streams().values() for name in names for path in getattr(clip, name)]

    def media(self, index: int) -> Media:
        clip = self.clips[index]
        paths = {name: getattr(clip, name) for names in self.streams().values() for name in names}
        images = self.read_images(clip, paths)
        return Media({}, {name: list((image if image.ndim == 4 else image.unsqueeze(1)).numpy())
                          for name, image in images.items()})

    def plan(self, packed: Packed, random: np.random.Generator) -> dict[str, Tensor]:
        """rgb, next (N, T), u, v (N, K): images. boxes (N, 4), flips (N,): one of each per clip."""
        plan = {}
        for first, names in self.streams().items():
            images = packed.images[first]
            plan |= dict.fromkeys(names, images.random_frames(self.wanted(first), random))
        plan["boxes"] = images.random_boxes(plan[first][:, 0], CROP_AREA, CROP_RATIO, random)
        plan["flips"] = random.random(len(self)) < 0.5
        return {name: torch.from_numpy(drawn) for name, drawn in plan.items()}

    def finish(self, gathered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        boxes, flips = gathered["boxes"], gathered["flips"]
        images = {}
        for name in (name for names in self.streams().values() for name in names):
            cropped = cut(gathered[name].flatten(1, 2), boxes, flips, self.image_size)  # (B, T * 3 or K, S, S)
            images[name] = cropped if name in ("u", "v") else cropped.unflatten(1, (-1, 3))
        if "u" in images:
            images["u"] = torch.where(flips.view(-1, 1, 1, 1), opposite(images["u"]), images["u"])
        return self.modalities_of(images)


def move_together(images: Mapping[str, Tensor], image_size: int, train: bool) -> dict[str, Tensor]:
    """{name: (..., H, W) uint8} -> {name: (..., S, S) uint8}: one crop for all, in training also one flip for all,
    under which the horizontal flow "u" changes its sign."""
    from torchvision.tv_tensors import Image  # here, because it takes a second that --help need not wait for

    layers = {name: image.flatten(0, -3) for name, image in images.items()}
    parts = [Image(part) for part in torch.cat(list(layers.values())).split(AT_ONCE)]
    together = torch.cat(image_transform(image_size, train, flip=False)(parts)).as_subclass(Tensor)
    flipped = train and bool(torch.rand(()) < 0.5)
    if flipped:
        together = together.flip(-1)
    parts = together.split([len(layer) for layer in layers.values()])
    moved = {name: part.unflatten(0, images[name].shape[:-2]) for name, part in zip(images, parts, strict=True)}
    if flipped and "u" in moved:
        moved["u"] = opposite(moved["u"])
    return moved


def opposite(flow: Tensor) -> Tensor:
    """uint8 flow with the opposite sign; no motion stays no motion."""
    return (2 * STILL - flow.short()).clamp(max=255).to(torch.uint8)
