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

from dataset.crops import AT_ONCE, CROP_DRAWS, PAPER_CROP, Crop, cut
from dataset.errors import InputError
from dataset.frames import frame_indices, read_frames, resize
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
    where the clip is flipped. What is random in training is decided by `draws` uniform numbers: `item` takes them,
    `dataset[i]` draws them from torch's global generator. Items raise InputError for images that cannot be decoded or
    differ in size.
    """

    audio_samples = 0  # it has no sound

    def __init__(self, clips: Sequence[MotionFiles], classes: Sequence[str], *, train: bool, num_frames: int = 3,
                 flow_frames: int = 16, image_size: int = 224,
                 modalities: Sequence[str] = ("rgb", "flow", "difference"), crop: Crop = PAPER_CROP):
        self.clips, self.train, self.num_frames, self.flow_frames = clips, train, num_frames, flow_frames
        self.labels = [classes.index(clip.label) for clip in clips]
        self.image_size, self.modalities, self.crop = image_size, modalities, crop

    def for_evaluation(self) -> "MotionDataset":
        """The same clips as in evaluation: nothing random."""
        same = copy(self)
        same.train = False
        return same

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def draws(self) -> int:
        """Of each frame, of each flow field, of the crop; none in evaluation."""
        return (self.num_frames + self.flow_frames + CROP_DRAWS) * self.train

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        return self.item(index, torch.rand(self.draws, dtype=torch.float64).numpy() if self.train else None)

    def item(self, index: int, draws: np.ndarray | None) -> dict[str, Tensor | int]:
        """draws: (`self.draws`,) uniform numbers; None in evaluation."""
        clip, chosen = self.clips[index], {}
        for first, names in self.streams().items():
            where = None if draws is None else self.draws_of(first, draws)
            places = frame_indices(len(getattr(clip, first)), self.wanted(first), where)
            chosen |= {name: [getattr(clip, name)[i] for i in places] for name in names}
        images = self.read_images(clip, chosen)
        moved = resize_together(images, self.image_size) if draws is None else self.crop_together(images, draws)
        return {**self.modalities_of(moved), "label": self.labels[index]}

    def draws_of(self, stream: str, draws: np.ndarray) -> np.ndarray:
        """The part of draws (..., `self.draws`) that chooses the images of a stream."""
        flow = stream in ("u", "v")
        return draws[..., self.num_frames:-CROP_DRAWS] if flow else draws[..., :self.num_frames]

    def crop_together(self, images: Mapping[str, Tensor], draws: np.ndarray) -> dict[str, Tensor]:
        """{name: (..., H, W) uint8} -> {name: (..., S, S) uint8}: one crop and one flip for all; under the flip the
        horizontal flow "u" changes its sign."""
        crop = draws[-CROP_DRAWS:]
        moved = apart(self.crop(together(images), crop, self.image_size), images)
        if "u" in moved and self.crop.flips(crop):
            moved["u"] = opposite(moved["u"])
        return moved

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

    def plan(self, packed: Packed, draws: np.ndarray) -> dict[str, Tensor]:
        """draws (N, `self.draws`) -> rgb, next (N, T), u, v (N, K): images. boxes (N, 4), flips (N,): one of each per
        clip."""
        plan, crops = {}, draws[:, -CROP_DRAWS:]
        for first, names in self.streams().items():
            images = packed.images[first]
            plan |= dict.fromkeys(names, images.places(self.draws_of(first, draws)))
        plan["boxes"] = self.crop.boxes(crops, images.sizes_of(plan[first][:, 0]))
        plan["flips"] = self.crop.flips(crops)
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


def together(images: Mapping[str, Tensor]) -> Tensor:
    """{name: (..., H, W)} -> (C, H, W), all images as channels of one."""
    return torch.cat([image.flatten(0, -3) for image in images.values()])


def apart(image: Tensor, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(C, S, S) -> {name: (..., S, S)}, in the order and with the leading sizes of `images` (..., H, W)."""
    counts = [one.shape[:-2].numel() for one in images.values()]
    parts = zip(images, image.split(counts), strict=True)
    return {name: part.unflatten(0, images[name].shape[:-2]) for name, part in parts}


def resize_together(images: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """{name: (..., H, W) uint8} -> {name: (..., S, S) uint8}, as images are evaluated."""
    return apart(torch.cat([resize(part, size) for part in together(images).split(AT_ONCE)]), images)


def opposite(flow: Tensor) -> Tensor:
    """uint8 flow with the opposite sign; no motion stays no motion."""
    return (2 * STILL - flow.short()).clamp(max=255).to(torch.uint8)
