"""Clips decoded once: their sound and images in a few large files, from which any batch is a matter of copying.

    <folder>/<digest>/audio.bin      int16 samples of every clip, one clip after the other
    <folder>/<digest>/visual.bin     uint8 pixels of every image (3, h, w), or of any other modality's
    <folder>/<digest>/index.json     what they hold; written last

The digest is over the clips' files (path, bytes, time of the last change) and over the settings that decide what is
decoded, so changed files are never served from what was packed before. Files are mapped into memory, so processes
share them. h x w: stored pixels, H x W: pixels of the image's file.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dataset.errors import InputError
from dataset.packed import FULL_SCALE, Images, Packable, Packed, Sound
from dataset.whole_files import disk_error, disk_errors, read_json, temporary_name, write_whole

SAMPLED = 32  # clips that are decoded to learn the size of the images and of the whole
INDEX = "index.json"
FORMAT = 2  # of what is packed: another one when the decoding or the files change


class Estimate(NamedTuple):
    """From some of the clips: (h, w) of each stream of images, and bytes of all clips."""

    stored: Mapping[str, tuple[int, int]]
    size: int


class Decoded(Dataset):
    """Item i: clip i as it is stored: {stream: int16 (n,) or uint8 (K, C, h, w)}, and {stream: [[H, W], ...]}; or the
    InputError met."""

    def __init__(self, dataset: Packable, stored: Mapping[str, tuple[int, int]]):
        self.dataset, self.stored = dataset, stored

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], dict[str, list[tuple[int, int]]]] | InputError:
        try:
            media = self.dataset.media(index)
        except InputError as error:
            return error  # raised in a worker it would reach the user as a traceback
        arrays = {name: to_int16(wave) for name, wave in media.sound.items()}
        arrays |= {name: np.stack([resized(image, self.stored[name]) for image in images])
                   for name, images in media.images.items()}
        return arrays, {name: [image.shape[-2:] for image in images] for name, images in media.images.items()}


def to_int16(wave: np.ndarray) -> np.ndarray:
    """float32 in [-1, 1] -> int16: exact for sound that was read from 16 bits."""
    return (wave * FULL_SCALE).round().clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(C, H, W) -> (C, h, w), as it is if it has this size."""
    if image.shape[-2:] == size:
        return image
    flat = cv2.resize(np.ascontiguousarray(image.transpose(1, 2, 0)), size[::-1], interpolation=cv2.INTER_AREA)
    return np.atleast_3d(flat).transpose(2, 0, 1)


def estimate(dataset: Packable, cache_size: int) -> Estimate:
    """Images are stored in the size that is usual in the data set, or smaller, with a shorter side of `cache_size`."""
    some = [dataset.media(int(index)) for index in np.linspace(0, len(dataset) - 1, min(SAMPLED, len(dataset)))]
    stored, size = {}, sum(2 * len(wave) for media in some for wave in media.sound.values())
    for name in some[0].images:
        images = [image for media in some for image in media.images[name]]
        height, width = np.median([image.shape[-2:] for image in images], axis=0)
        scale = min(1, cache_size / min(height, width))
        stored[name] = max(1, round(height * scale)), max(1, round(width * scale))
        size += sum(len(image) * stored[name][0] * stored[name][1] for image in images)
    return Estimate(stored, round(size / len(some) * len(dataset)))


def place_of(dataset: Packable, folder: Path, cache_size: int) -> Path:
    """Where below `folder` these clips are packed, or would be."""
    digest = hashlib.sha256(json.dumps([FORMAT, dict(dataset.decoding), cache_size], default=str).encode())
    for index in range(len(dataset)):
        files = dataset.files(index)
        digest.update(f"{len(files)} files\n".encode())  # none, for a silent video of which only sound is wanted
        for path in files:
            state = path.stat()
            digest.update(f"{path.absolute()}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return folder / digest.hexdigest()[:16]


def pack(dataset: Packable, place: Path, stored: Mapping[str, tuple[int, int]], workers: int,
         context: str | None = None, show: bool = False) -> None:
    """Decodes every clip into the folder `place`, which appears when it is complete. Raises InputError: it is there and
    damaged, DiskError.

    workers: processes that decode, context: how they are started, as DataLoader's. show: a progress bar.
    """
    if place.exists() and not (place / INDEX).is_file():
        raise damaged(place / INDEX)
    temporary = temporary_name(place)
    with disk_errors(place.parent):
        temporary.mkdir(parents=True)
    loader = DataLoader(Decoded(dataset, stored), batch_size=None, num_workers=workers,
                        multiprocessing_context=context)
    bar = tqdm(loader, desc="decoding each clip once", unit="clip", leave=False, disable=None if show else True)
    try:
        write_whole(temporary / INDEX, json.dumps(write_streams(temporary, bar)))
        put_in_place(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: Path, place: Path) -> None:
    """Renames the folder, unless another run has packed the same clips meanwhile. Raises DiskError."""
    try:
        temporary.replace(place)
    except OSError as error:
        if not (place / INDEX).is_file():
            raise disk_error(place.parent, error) from error


def write_streams(folder: Path, clips: Iterable) -> dict[str, dict[str, list]]:
    """Writes <stream>.bin for the items of `Decoded` -> {"lengths": {stream: samples or images of each clip}, "shapes":
    {stream: shape of one of these}, "sizes": {stream of images: (H, W) of each}}. Raises DiskError; an OSError of the
    processes that decode stays what it is."""
    files, lengths, shapes, sizes = {}, {}, {}, {}
    try:
        for clip in clips:
            if isinstance(clip, InputError):
                raise clip
            arrays, of_files = clip
            for name, array in arrays.items():
                with disk_errors(folder.parent):
                    if name not in files:
                        files[name], lengths[name] = (folder / f"{name}.bin").open("wb"), []
                    files[name].write(np.ascontiguousarray(array))
                lengths[name].append(len(array))
                shapes[name] = array.shape[1:]
            for name, shape in of_files.items():
                sizes.setdefault(name, []).extend(shape)
        with disk_errors(folder.parent):
            for file in files.values():
                file.close()
    finally:
        for file in files.values():
            with suppress(OSError):  # what could not be written was an error then
                file.close()
    return {"lengths": lengths, "shapes": shapes, "sizes": sizes}


class Stream(NamedTuple):
    """What the index says of one .bin file: its shape, the first place and the length of each clip, and (H, W) of each
    image, None for sound."""

    shape: Sequence[int]
    first: Tensor
    length: Tensor
    sizes: Tensor | None


def load(place: Path, clips: int) -> Packed:
    """What `pack` wrote of so many clips, mapped into memory. Raises InputError: damaged; RuntimeError: there is not
    enough memory to map it."""
    index = read_json(place / INDEX, f"remove {place}: it is made again")
    try:
        streams = {name: stream_of(index, name) for name in index["lengths"]}
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RuntimeError):  # another kind of content
        raise damaged(place / INDEX) from None
    if not streams or any(len(stream.length) != clips for stream in streams.values()):
        raise damaged(place / INDEX)
    sound, images = {}, {}
    for name, (shape, first, length, sizes) in streams.items():
        if sizes is None:
            sound[name] = Sound(mapped(place / f"{name}.bin", shape, torch.int16), first, length)
        else:
            images[name] = Images(mapped(place / f"{name}.bin", shape, torch.uint8), first, length, sizes)
    return Packed(sound, images)


def stream_of(index: Mapping, name: str) -> Stream:
    """Raises whatever Python or torch does where the index holds something else."""
    lengths, shape = index["lengths"][name], index["shapes"][name]
    if any(type(size) is not int or size < 0 for size in (*lengths, *shape)):
        raise ValueError("no lengths")
    length = torch.tensor(lengths)
    first = length.cumsum(0) - length
    if shape:
        return Stream((sum(lengths), *shape), first, length, torch.tensor(index["sizes"][name]).view(sum(lengths), 2))
    equal = len(set(lengths)) == 1
    return Stream((len(lengths), lengths[0]) if equal else (sum(lengths),), first, length, None)


def damaged(path: Path) -> InputError:
    return InputError(f"{path} is missing or damaged: remove {path.parent}: it is made again")


def mapped(path: Path, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The file as a tensor. Raises InputError: it has another size; RuntimeError: not enough memory."""
    count = math.prod(shape)
    if not path.is_file() or path.stat().st_size != count * dtype.itemsize:
        raise damaged(path)
    return torch.from_file(str(path), shared=False, size=count, dtype=dtype).view(shape)
