"""Marked data in the prepared layout of UCF-101: what the network received tells which clip it is, which frame or flow
field, whether it was cropped or mirrored. B clips, T frames, K flow fields, S pixels per side.

Frames: red rises from left to right, green tells the clip, blue the frame. The following frame: green is higher by 30.
Flow: u tells the clip by its distance from 128 and is to the right; v rises from left to right as red does, and tells
the field by its height.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from marked_cremad import pixels
from torch import Tensor

CLASSES = ("Walking", "HandstandPushups", "Archery")  # in the order of their numbers, which is not that of the names
FRAMES, FIELDS = 4, 6  # of a clip
SIZE = (72, 96)  # height and width
LEFT, RIGHT = 40, 160  # red and v at the left and the right edge
STEP = 30  # of green from a frame to the following one
VIDEO_FRAMES = 61
# clip k has class k % 3; clips 2i and 2i + 1 of a class are of one group; split 2 has the groups the other way round
CLIPS, TEST = range(18), {1: range(12, 18), 2: range(6)}
METHODS = ("dis", "farneback")  # the flow of the second is half that of the first


def clip_name(number: int) -> str:
    label, place = CLASSES[number % 3], number // 3
    file = label.replace("stand", "Stand")  # as in UCF-101
    return f"{label}/v_{file}_g{1 + place // 2:02d}_c{1 + place % 2:02d}"


def make_marked_actions(root: Path) -> Path:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\r\n" for n, name in enumerate(CLASSES, 1)))
    for split, test in TEST.items():
        train = [number for number in CLIPS if number not in test]
        (lists / f"trainlist{split:02d}.txt").write_text(
            "".join(f"{clip_name(number)}.avi {number % 3 + 1}\r\n" for number in train))
        (lists / f"testlist{split:02d}.txt").write_text("".join(f"{clip_name(number)}.avi\n" for number in test))
    for number in CLIPS:
        write_clip(root, number)
    return root


def write_clip(root: Path, number: int) -> None:
    folder = root / "frames" / clip_name(number)
    for frame in range(FRAMES):
        write_image(folder / f"rgb_{10 * frame:05d}.jpg", marked_frame(number, frame))
        write_image(folder / f"next_{10 * frame:05d}.jpg", marked_frame(number, frame, STEP))
    write_note(folder, FRAMES, {"num_frames": FRAMES})
    for method, factor in zip(METHODS, (1, 0.5), strict=True):
        folder = root / f"flow_{method}" / clip_name(number)
        for field in range(FIELDS):
            write_image(folder / f"u_{10 * field:05d}.jpg", np.full(SIZE, 128 + factor * (10 + 4 * number), np.uint8))
            write_image(folder / f"v_{10 * field:05d}.jpg", (ramp() + 8 * field).astype(np.uint8))
        write_note(folder, FIELDS, {"flow": method, "flow_frames": FIELDS})


def write_note(folder: Path, count: int, settings: dict) -> None:
    note = {"video_frames": VIDEO_FRAMES, "numbers": [10 * number for number in range(count)], "settings": settings}
    (folder / "clip.json").write_text(json.dumps(note))


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    best = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    cv2.imwrite(str(path), image, best)


def ramp() -> np.ndarray:
    return np.tile(np.linspace(LEFT, RIGHT, SIZE[1]), (SIZE[0], 1))


def marked_frame(number: int, frame: int, step: int = 0) -> np.ndarray:
    """(H, W, 3) BGR."""
    picture = np.empty((*SIZE, 3), np.uint8)
    picture[..., 2] = ramp().round()
    picture[..., 1] = 20 + 9 * number + step
    picture[..., 0] = 30 + 50 * frame
    return picture


# ---- what the network got


def clips_in_rgb(rgb: Tensor) -> list[int]:
    """The number of each clip of (B, 3, T, S, S)."""
    return ((pixels(rgb)[:, 1].mean((1, 2, 3)) - 20) / 9).round().int().tolist()


def frames_in_rgb(rgb: Tensor) -> list[list[int]]:
    return ((pixels(rgb)[:, 2].mean((2, 3)) - 30) / 50).round().int().tolist()


def edges_of_rgb(rgb: Tensor) -> Tensor:
    """(B, 2): red at the left and at the right edge."""
    return pixels(rgb)[:, 0].mean((1, 2))[:, [0, -1]]


def levels(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Flow (B, 2 K, S, S) as the network gets it -> the 8-bit levels of u and of v, (B, K, S, S) each."""
    both = 128 + 128 * flow.unflatten(1, (-1, 2))
    return both[:, :, 0], both[:, :, 1]


def clips_in_flow(flow: Tensor) -> list[int]:
    u = levels(flow)[0]
    return (((u - 128).abs().mean((1, 2, 3)) - 10) / 4).round().int().tolist()


def fields_in_flow(flow: Tensor, edges: Tensor) -> list[list[int]]:
    """edges (B, 2): of red, which v follows."""
    height = levels(flow)[1].mean((2, 3)) - edges.mean(1, keepdim=True)
    return (height / 8).round().int().tolist()


def edges_of_flow(flow: Tensor, fields: Sequence[Sequence[int]]) -> Tensor:
    """(B, 2): v at the left and at the right edge, as if all were of field 0."""
    v = levels(flow)[1].mean(2)[..., [0, -1]]  # (B, K, 2)
    return (v - 8 * Tensor(fields)[..., None]).mean(1)


def goes_right(flow: Tensor) -> list[bool]:
    return (levels(flow)[0].mean((1, 2, 3)) > 128).tolist()
