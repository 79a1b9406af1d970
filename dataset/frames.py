"""Frames of a clip: which are used, how they are read and cropped. T frames of H x W pixels, S pixels per side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.errors import InputError, first_few
from dataset.files import check_image, read_image
from dataset.names import canonical, find_images


def find_frames(folder: Path) -> tuple[Path, ...]:
    """The images of a folder in the natural order of their names (2.jpg before 10.jpg), checked for truncation; () if
    there are none. Raises InputError: truncated, or JPEG and PNG images, which may be pictures of two kinds."""
    names = find_images(folder)
    if len({Path(canonical(name)).suffix for name in names}) > 1:
        raise InputError(f"{folder} holds JPEG and PNG images ({first_few(names)}): keep those of one kind")
    frames = tuple(folder / name for name in names)
    for path in frames:
        check_image(path)
    return frames


def frame_indices(available: int, wanted: int, draws: np.ndarray | None = None) -> list[int]:
    """`wanted` indices into `available` frames: one from each of `wanted` equal segments. With fewer frames than
    segments some are repeated.

    draws: (wanted,) uniform numbers that say where in its segment each is, for training; without them the middle one is
    taken, for evaluation.
    """
    return places_in(np.array(available), wanted, draws).tolist()


def places_in(available: np.ndarray, wanted: int, draws: np.ndarray | None = None) -> np.ndarray:
    """As `frame_indices`, for clips of (...) frames: draws (..., wanted) -> (..., wanted) integers."""
    available = available[..., None]
    offset = np.full(wanted, 0.5) if draws is None else draws
    places = (np.arange(wanted) + offset) * available / wanted
    return np.minimum(places.astype(int), available - 1)


def resize(images: Tensor, size: int) -> Tensor:
    """(..., C, H, W) uint8 -> (..., C, S, S) uint8, as images are evaluated."""
    from torchvision.transforms.v2.functional import resize  # here: it takes a second that --help need not wait for

    return resize(images, [size, size], antialias=True)


def read_frames(paths: Sequence[Path]) -> Tensor:
    """Images of one size -> (T, 3, H, W) uint8 RGB. Raises InputError: broken, or of different sizes."""
    images = [read_image(path) for path in paths]
    if len({image.shape for image in images}) > 1:
        raise InputError(f"the frames in {paths[0].parent} differ in size: extract them again")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
