"""Frames of a clip: which are used, how they are read and cropped. T frames of H x W pixels, S pixels per side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dataset.errors import InputError, first_few
from dataset.files import check_image, read_image
from dataset.names import canonical, find_images

CROP_AREA, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of training crops; torchvision's defaults


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


def frame_indices(available: int, wanted: int, train: bool) -> list[int]:
    """`wanted` indices into `available` frames: one from each of `wanted` equal segments, a random one for training,
    the middle one for evaluation. With fewer frames than segments some are repeated."""
    offset = torch.rand(wanted) if train else torch.full((wanted,), 0.5)
    places = (torch.arange(wanted) + offset) * available / wanted
    return places.long().clamp(max=available - 1).tolist()


def image_transform(image_size: int, train: bool, area: tuple[float, float] = CROP_AREA,
                    ratio: tuple[float, float] = CROP_RATIO, flip: bool = True) -> nn.Module:
    """(..., C, H, W) uint8 -> (..., C, S, S) uint8. All frames of a clip get the same crop and flip.

    area, ratio: of training crops, relative area and width over height. flip: whether half of the training clips are
    mirrored.
    """
    from torchvision.transforms import v2  # here, because it takes a second that --help need not wait for

    if train:
        crop = v2.RandomResizedCrop(image_size, scale=area, ratio=ratio, antialias=True)
        return v2.Compose([crop, v2.RandomHorizontalFlip()]) if flip else crop
    return v2.Resize((image_size, image_size), antialias=True)


def read_frames(paths: Sequence[Path]) -> Tensor:
    """Images of one size -> (T, 3, H, W) uint8 RGB. Raises InputError: broken, or of different sizes."""
    images = [read_image(path) for path in paths]
    if len({image.shape for image in images}) > 1:
        raise InputError(f"the frames in {paths[0].parent} differ in size: extract them again")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
