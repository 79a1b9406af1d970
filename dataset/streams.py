"""What a video shows and how it moves, as tensors: RGB frames, optical flow, and differences of consecutive frames.

Shapes: T frames, K flow fields, H x W pixels, S the side of the square network input.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.errors import InputError
from dataset.frames import frame_indices, image_transform, read_frames

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
        images = self.read_images(self.clips[index])
        sizes = {tuple(image.shape[-2:]) for image in images.values()}
        if len(sizes) > 1:
            raise InputError(f"the frames and the flow of {self.clips[index].name} differ in size ({sizes}): remove "
                             "them and run scripts/prepare_ucf101.py again")
        images = move_together(images, self.image_size, self.train)
        item = {}
        if "rgb" in self.modalities:
            item["rgb"] = images["rgb"]
        if "flow" in self.modalities:
            item["flow"] = torch.stack([images["u"], images["v"]], 1).flatten(0, 1)  # (2 K, S, S)
        if "difference" in self.modalities:
            item["difference"] = images["next"].short() - images["rgb"].short()
        return {**item, "label": self.labels[index]}

    def read_images(self, clip: MotionFiles) -> dict[str, Tensor]:
        """{"rgb", "next": (T, 3, H, W), "u", "v": (K, H, W)} uint8, those that the modalities need."""
        images = {}
        if {"rgb", "difference"} & set(self.modalities):
            chosen = frame_indices(len(clip.rgb), self.num_frames, self.train)
            names = ("rgb", "next") if "difference" in self.modalities else ("rgb",)
            images |= {name: read_frames([getattr(clip, name)[i] for i in chosen]) for name in names}
        if "flow" in self.modalities:
            chosen = frame_indices(len(clip.u), self.flow_frames, self.train)
            images |= {name: read_frames([getattr(clip, name)[i] for i in chosen])[:, 0] for name in ("u", "v")}
        return images


def move_together(images: Mapping[str, Tensor], image_size: int, train: bool) -> dict[str, Tensor]:
    """{name: (..., H, W) uint8} -> {name: (..., S, S) uint8}: one crop for all, in training also one flip for all,
    under which the horizontal flow "u" changes its sign."""
    layers = {name: image.flatten(0, -3) for name, image in images.items()}
    together = image_transform(image_size, train, flip=False)(torch.cat(list(layers.values())))
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
