"""Training crops: torchvision's RandomResizedCrop and RandomHorizontalFlip, for one image or many, on any device.

What is random about a crop is given as CROP_DRAWS uniform numbers, so that an image that is read from its file and
the same image out of a cache are cropped alike.

N clips, B images of a batch, C channels, h x w pixels, S pixels per side. A box is (top, left, height, width) in parts
of the image: (0, 0, 1, 1) is all of it.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ATTEMPTS = 10  # to draw a box that fits, as torchvision
CROP_DRAWS = 2 * ATTEMPTS + 3  # numbers that decide a crop: area and ratio of each attempt, top, left, flip
AT_ONCE = 4  # channels of uint8 that PyTorch resizes the quick way on a CPU: a third of the time for 32


class Crop(NamedTuple):
    """How training images are cropped.

    area: of the box, relative to the image's, least and most. ratio: its width over its height, drawn uniformly in the
    logarithm. flip: whether half of the images are mirrored. The defaults are torchvision's and the paper's.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def boxes(self, draws: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """draws (..., CROP_DRAWS), sizes (..., 2) height and width in pixels -> boxes (..., 4) float64."""
        return boxes_of(draws[..., :-1], sizes, self.area, self.ratio)

    def flips(self, draws: np.ndarray) -> np.ndarray:
        """draws (..., CROP_DRAWS) -> (...) bool."""
        return (draws[..., -1] < 0.5) & self.flip

    def __call__(self, image: Tensor, draws: np.ndarray, size: int) -> Tensor:
        """(C, h, w) uint8 of a file, draws (CROP_DRAWS,) -> (C, S, S) uint8."""
        box = torch.from_numpy(self.boxes(draws, np.array(image.shape[-2:])))
        return cut(image[None], box[None], torch.tensor([bool(self.flips(draws))]), size)[0]


PAPER_CROP = Crop()


def boxes_of(draws: np.ndarray, sizes: np.ndarray, area: tuple[float, float],
             ratio: tuple[float, float]) -> np.ndarray:
    """As `Crop.boxes`; draws (..., CROP_DRAWS - 1)."""
    height, width = sizes[..., 0, None].astype(float), sizes[..., 1, None].astype(float)
    attempts = draws[..., :2 * ATTEMPTS]
    target = height * width * (area[0] + (area[1] - area[0]) * attempts[..., ::2])
    low, high = np.log(ratio)
    aspect = np.exp(low + (high - low) * attempts[..., 1::2])
    widths, heights = np.round(np.sqrt(target * aspect)), np.round(np.sqrt(target / aspect))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.argmax(-1)[..., None]  # attempt
    found = np.concatenate([np.take_along_axis(heights, first, -1), np.take_along_axis(widths, first, -1)], -1)
    limit = np.concatenate([height, width], -1)
    box = np.where(fits.any(-1)[..., None], found, largest(limit, ratio))  # (..., 2)
    spare = limit - box
    anywhere = np.floor(draws[..., 2 * ATTEMPTS:] * (spare + 1))
    corner = np.where(fits.any(-1)[..., None], anywhere, spare // 2)
    return np.concatenate([corner / limit, box / limit], -1)


def largest(limit: np.ndarray, ratio: tuple[float, float]) -> np.ndarray:
    """(..., 2) height and width of the largest box with a ratio in `ratio` in an image of size
    `limit`."""
    height, width = limit[..., 0], limit[..., 1]
    heights, widths = np.round(width / ratio[0]), np.round(height * ratio[1])
    return np.stack([np.minimum(height, heights), np.minimum(width, widths)], -1)


def cut(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """images (B, C, h, w) uint8, boxes (B, 4), flips (B,) bool -> (B, C, S, S) uint8: each box resized to the square,
    bilinearly with antialiasing as torchvision's, and mirrored where `flips` is true.

    Boxes are rounded to whole stored pixels.
    """
    first = in_pixels(boxes[:, :2], images)
    length = (in_pixels(boxes[:, :2] + boxes[:, 2:], images) - first).clamp(min=1)  # (B, 2)
    if images.is_cuda:
        return cut_together(images, first, length, flips, size)
    return torch.stack([cut_one(*one, size) for one in zip(images, first.int(), length.int(), flips, strict=True)])


def in_pixels(points: Tensor, images: Tensor) -> Tensor:
    """(B, 2) in parts of the images (B, C, h, w) -> (B, 2), rounded. A tensor of h and w, made here, would have to be
    copied to the GPU, and the host would wait for that."""
    height, width = images.shape[-2:]
    return torch.stack([points[:, 0] * height, points[:, 1] * width], 1).round()


def cut_one(image: Tensor, first: Tensor, length: Tensor, flip: Tensor, size: int) -> Tensor:
    """(C, h, w) -> (C, S, S), by the function that torchvision uses: on a CPU the quickest."""
    (top, left), (height, width) = first.tolist(), length.tolist()
    box = image[None, :, top:top + height, left:left + width]
    found = torch.cat([F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0]
                       for part in box.split(AT_ONCE, 1)])
    return found.flip(-1) if flip else found


def cut_together(images: Tensor, first: Tensor, length: Tensor, flips: Tensor, size: int) -> Tensor:
    """(B, C, h, w) -> (B, C, S, S), by two matrix products: on a GPU without a launch for each image."""
    height, width = images.shape[-2:]
    rows = weights(first[:, 0], length[:, 0], height, size).half()  # (B, S, h); half holds 0 to 255
    columns = weights(first[:, 1], length[:, 1], width, size)  # (B, S, w)
    columns = torch.where(flips.view(-1, 1, 1), columns.flip(1), columns).half()
    narrow = images.half() @ columns.mT.unsqueeze(1)  # (B, C, h, S)
    return (rows.unsqueeze(1) @ narrow).round().clamp(0, 255).to(torch.uint8)


def weights(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """(B, size, pixels): the weights of input pixels in each output pixel when a part of a row is
    resized.

    start, length (B,): the part, in pixels. The weights are triangles around the centre of the
    output pixel, as wide at either side as the larger of an input and an output pixel. They are 0
    outside the part, and those of an output pixel add up to 1.
    """
    start, length = start.float().unsqueeze(1), length.float().unsqueeze(1)
    scale = length / size
    centres = start + (torch.arange(size, device=start.device) + 0.5) * scale  # (B, size)
    places = torch.arange(pixels, device=start.device) + 0.5
    distance = (places - centres.unsqueeze(2)).abs() / scale.clamp(min=1).unsqueeze(2)
    inside = (places > start) & (places < start + length)  # (B, pixels)
    triangle = (1 - distance).clamp(min=0) * inside.unsqueeze(1)
    return triangle / triangle.sum(-1, keepdim=True)
