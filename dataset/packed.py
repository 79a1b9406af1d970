"""What is decoded once of all clips, and how training batches are made of it: tensors in, tensors out.

N clips, B clips of a batch, F images, C channels, h x w stored pixels, H x W pixels of the image's file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dataset.crops import random_boxes

FULL_SCALE = 32768  # of int16 samples


class Media(NamedTuple):
    """What one clip consists of. sound: {modality: (n,) float32}; images: {stream: its images, (C, H, W) uint8}."""

    sound: Mapping[str, np.ndarray]
    images: Mapping[str, Sequence[np.ndarray]]


class Packable(Protocol):
    """A data set of which training batches can be made from what is decoded once.

    labels: of each clip. audio_samples: of an item's sound. image_size: S of its images (S x S). files(i): what
    `media(i)` reads. decoding: the settings that `media` depends on. plan: what is drawn for every clip for an epoch,
    as `Packed.gather` takes it. finish: the batch as the loader would make it, on the device that the gathered tensors
    are on by then.
    """

    labels: Sequence[int]
    audio_samples: int
    image_size: int

    def __len__(self) -> int: ...
    def files(self, index: int) -> Sequence[Path]: ...
    def media(self, index: int) -> Media: ...
    @property
    def decoding(self) -> Mapping[str, object]: ...
    def plan(self, packed: "Packed", random: np.random.Generator) -> dict[str, Tensor]: ...
    def finish(self, gathered: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


class Sound(NamedTuple):
    """samples int16 of all clips, of which clip i has `length[i]` from `first[i]` on, (N,) each: (K,), or (N, n) where
    all have the same length."""

    samples: Tensor
    first: Tensor
    length: Tensor

    def excerpts(self, clips: Tensor, starts: Tensor, samples: int) -> Tensor:
        """(B, samples) int16 from place starts (B,) on; a clip that ends before begins again."""
        if self.samples.shape[1:] == (samples,):
            return self.samples.index_select(0, clips)
        places = starts.unsqueeze(1) + torch.arange(samples, device=starts.device)  # (B, samples)
        return self.samples.view(-1)[self.first[clips].unsqueeze(1) + places % self.length[clips].unsqueeze(1)]

    def random_starts(self, samples: int, random: np.random.Generator) -> np.ndarray:
        """(N,): where an excerpt of so many samples begins; 0 in clips that are no longer."""
        spare = (self.length.cpu().numpy() - samples).clip(min=0)
        return (random.random(len(spare)) * (spare + 1)).astype(int)


class Images(NamedTuple):
    """pixels (F, C, h, w) uint8 of all clips, of which clip i has `count[i]` from `first[i]` on; (N,) each. sizes
    (F, 2): height and width of each image's file."""

    pixels: Tensor
    first: Tensor
    count: Tensor
    sizes: Tensor

    def take(self, places: Tensor) -> Tensor:
        """(..., C, h, w): the images at these places (...)."""
        taken = self.pixels.flatten(1).index_select(0, places.flatten())  # five times as fast as self.pixels[places]
        return taken.view(*places.shape, *self.pixels.shape[1:])

    def random_frames(self, wanted: int, random: np.random.Generator) -> np.ndarray:
        """(N, T): places of T = `wanted` images of each clip, chosen as `frame_indices` does for training."""
        count = self.count.cpu().numpy()[:, None]
        places = (np.arange(wanted) + random.random((len(count), wanted))) * count / wanted
        return self.first.cpu().numpy()[:, None] + np.minimum(places.astype(int), count - 1)

    def random_boxes(self, images: np.ndarray, area: tuple[float, float], ratio: tuple[float, float],
                     random: np.random.Generator) -> np.ndarray:
        """Boxes (..., 4) of training crops in the images of these places (...)."""
        return random_boxes(random, self.sizes.cpu().numpy()[images], area, ratio)


class Packed(NamedTuple):
    """All clips of a data set."""

    sound: Mapping[str, Sound]
    images: Mapping[str, Images]

    def device(self) -> torch.device:
        """Where it is."""
        return next(iter([*self.sound.values(), *self.images.values()])).first.device

    def gather(self, plan: Mapping[str, Tensor], clips: Tensor, samples: int) -> dict[str, Tensor]:
        """What was planned for the clips (B,) of a batch: {modality: its sound (B, samples) int16, stream: its images
        (B, T, C, h, w) uint8}, and whatever else the plan has of them.

        plan: {modality of sound: where it begins (N,), stream of images: their places (N, T)}, and others (N, ...).
        """
        gathered = {name: drawn[clips] for name, drawn in plan.items()}
        sound = {name: one.excerpts(clips, gathered[name], samples) for name, one in self.sound.items()}
        return {**gathered, **sound, **{name: one.take(gathered[name]) for name, one in self.images.items()}}

    def to(self, device: torch.device) -> "Packed":
        """The same, on the device."""
        return Packed(*({name: type(one)(*(tensor.to(device) for tensor in one)) for name, one in part.items()}
                        for part in self))


def to_float(samples: Tensor) -> Tensor:
    return samples.float() / FULL_SCALE
