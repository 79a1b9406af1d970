"""What is decoded once of all clips, and how training batches are made of it: tensors in, tensors out.

N clips, B clips of a batch, F images, C channels, h x w stored pixels, H x W pixels of the image's file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dataset.frames import places_in

FULL_SCALE = 32768  # of int16 samples


class Media(NamedTuple):
    """What one clip consists of. sound: {modality: (n,) float32}; images: {stream: its images, (C, H, W) uint8}."""

    sound: Mapping[str, np.ndarray]
    images: Mapping[str, Sequence[np.ndarray]]


class Packable(Protocol):
    """A data set whose training batches can be made from clips that were decoded once.

    labels: class index of each clip. audio_samples: length of an item's sound. image_size: S of its
    images, (S, S). files(i): the files that `media(i)` reads. decoding: the settings that `media`
    depends on. draws: number of uniform numbers that decide a training item. plan(packed, draws):
    what the numbers of all clips decide in an epoch, as `Packed.gather` takes it. finish(gathered):
    the batch, the same as the loader's, on the device of the gathered tensors.
    """

    labels: Sequence[int]
    audio_samples: int
    image_size: int

    def __len__(self) -> int: ...
    def files(self, index: int) -> Sequence[Path]: ...
    def media(self, index: int) -> Media: ...
    @property
    def decoding(self) -> Mapping[str, object]: ...
    @property
    def draws(self) -> int: ...
    def item(self, index: int, draws: np.ndarray | None) -> dict[str, Tensor | int]: ...
    def plan(self, packed: "Packed", draws: np.ndarray) -> dict[str, Tensor]: ...
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

    def starts(self, samples: int, draws: np.ndarray) -> np.ndarray:
        """draws (N,) -> (N,): where an excerpt of so many samples begins; 0 in clips that are no longer."""
        spare = (self.length.cpu().numpy() - samples).clip(min=0)
        return (draws * (spare + 1)).astype(int)


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

    def places(self, draws: np.ndarray) -> np.ndarray:
        """draws (N, T) -> (N, T): places of T images of each clip, chosen as `frame_indices` does for training."""
        return self.first.cpu().numpy()[:, None] + places_in(self.count.cpu().numpy(), draws.shape[-1], draws)

    def sizes_of(self, images: np.ndarray) -> np.ndarray:
        """(..., 2): height and width of the files of the images at these places (...)."""
        return self.sizes.cpu().numpy()[images]


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
