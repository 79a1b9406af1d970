"""Frames and optical flow of a video, as dataset/ucf101.py reads them: for scripts/prepare_ucf101.py and the demo.

Shapes: H x W pixels.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from dataset.errors import InputError
from dataset.files import read_image
from dataset.preparation.clips import write_folder_whole
from dataset.streams import FLOW_BOUND
from dataset.ucf101 import KINDS, NOTE, Extract, image_path, image_paths, read_extract

JPEG_QUALITY = 95
CONTRIB = ("--flow tvl1 needs OpenCV with its contrib modules in place of opencv-python: pip uninstall opencv-python, "
           "then pip install 'opencv-contrib-python=={version}'. Or use --flow dis, which needs nothing else")

FlowMethod = Callable[[np.ndarray, np.ndarray, None], np.ndarray]


def flow_method(name: str) -> FlowMethod:
    """One of ucf101.FLOWS: maps two grey images (H, W) uint8, and None, to the flow (H, W, 2) float32 between them, by
    how many pixels to the right (u) and down (v) every point of the first has moved in the second.

    Make one for each thread. Raises InputError: tvl1 without the contrib modules.
    """
    if name == "dis":
        return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc
    if name == "farneback":
        return farneback
    if not hasattr(cv2, "optflow"):
        raise InputError(CONTRIB.format(version=".".join(cv2.__version__.split(".")[:3]) + ".*"))
    return cv2.optflow.DualTVL1OpticalFlow_create().calc


def farneback(first: np.ndarray, second: np.ndarray, _: None) -> np.ndarray:
    return cv2.calcOpticalFlowFarneback(first, second, None, pyr_scale=0.5, levels=3, winsize=15, iterations=3,
                                        poly_n=5, poly_sigma=1.2, flags=0)


def to_bytes(flow: np.ndarray) -> np.ndarray:
    """Flow in pixels -> uint8 of the same shape: clipped to +-20 pixels, then -20 is 0, 0 is 128 and 20 is 255."""
    scaled = (np.clip(flow, -FLOW_BOUND, FLOW_BOUND) + FLOW_BOUND) * (255 / (2 * FLOW_BOUND))
    return np.rint(scaled).astype(np.uint8)


def evenly_spaced(count: int, video_frames: int) -> tuple[int, ...]:
    """The numbers of `count` frames, each with a following one: the middles of equal parts of the video; all of them
    where there are fewer. Raises InputError: a video of one frame."""
    pairs = video_frames - 1
    if pairs < 1:
        raise InputError("it has 1 frame, but motion needs at least two: remove it from the lists")
    return tuple(sorted({int((i + 0.5) * pairs / count) for i in range(count)}))


def write_frames(folder: Path, video_frames: int, frames: Mapping[int, np.ndarray], numbers: Iterable[int],
                 settings: Mapping[str, object]) -> None:
    """Writes the frames of these numbers, and those that follow them, as `rgb` and `next` images."""
    images = {number: (frames[number], frames[number + 1]) for number in numbers}
    write_images(folder, "frames", images, video_frames, settings)


def write_flow(folder: Path, video_frames: int, frames: Mapping[int, np.ndarray], numbers: Iterable[int],
               settings: Mapping[str, object]) -> None:
    """Computes the flow from the frames of these numbers to those that follow them; writes it as `u` and `v` images.

    settings: the name of the method is in `flow`.
    """
    method = flow_method(str(settings["flow"]))
    images = {}
    for number in numbers:
        first, second = (cv2.cvtColor(frames[n], cv2.COLOR_BGR2GRAY) for n in (number, number + 1))
        images[number] = tuple(np.moveaxis(to_bytes(method(first, second, None)), -1, 0))
    write_images(folder, "flow", images, video_frames, settings)


def write_images(folder: Path, kind: str, images: Mapping[int, tuple[np.ndarray, np.ndarray]], video_frames: int,
                 settings: Mapping[str, object]) -> None:
    """Writes two images per number, called as KINDS says, and clip.json: all of them or none."""
    def fill(temporary: Path) -> None:
        for number, pair in images.items():
            for name, image in zip(KINDS[kind], pair, strict=True):
                jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
                image_path(temporary, name, number).write_bytes(jpeg)  # cv2.imwrite hides a full disk
        note = Extract(video_frames, tuple(images), settings)._asdict()
        (temporary / NOTE).write_text(json.dumps(note) + "\n", encoding="utf-8")

    write_folder_whole(folder, fill)


def read_whole(folder: Path, kind: str, settings: Mapping[str, object]) -> Extract | None:
    """What clip.json says, if the folder was written with these settings and all its images can be decoded."""
    try:
        extract = read_extract(folder)
        for name in KINDS[kind]:
            for path in image_paths(folder, name, extract):
                read_image(path)
    except InputError:
        return None
    return extract if extract.settings == settings else None
