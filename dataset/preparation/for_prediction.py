"""A part of a video as the files that its data set's preparation would write, for a trained model to look at."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from dataset import ucf101
from dataset.clips import ClipFiles
from dataset.errors import InputError
from dataset.preparation import motion
from dataset.preparation.clips import write_folder_whole, write_frames, write_sound
from dataset.preparation.faces import Detector, found_faces, read_faces, write_faces
from dataset.preparation.reader import read_part, read_sound
from dataset.streams import MotionFiles
from dataset.voxceleb import SAMPLE_RATE, Utterance

JPEG_QUALITY = 95
SPAN_FPS = 25  # frames per second that flow is computed between


def clip_files(video: Path, start: float, end: float | None, folder: Path, label: str, *, sample_rate: int,
               fps: int) -> ClipFiles:
    """Of main_CD.py and main_SSW.py. Raises InputError."""
    part = read_part(video, start, end, sample_rate=sample_rate, fps=fps)
    wav, frames = folder / "sound.wav", folder / "frames"
    write_sound(wav, part.sound, sample_rate)
    write_frames(frames, part.frames, JPEG_QUALITY)
    return ClipFiles(str(video), label, wav, tuple(sorted(frames.glob("*.jpg"))))


def motion_files(video: Path, start: float, end: float | None, folder: Path, label: str, *, num_frames: int,
                 flow: str, flow_frames: int, size: tuple[int, int] = (320, 240)) -> MotionFiles:
    """Of main_UCF.py: frames and flow of the middles of equal parts, from consecutive frames. Larger videos are made
    smaller until they just cover `size` (width, height), which is UCF-101's. Raises InputError."""
    images = [shrunk(image, size) for image in read_part(video, start, end, fps=SPAN_FPS).frames]
    if len(images) < 2:
        raise InputError(f"{video}: motion needs at least two frames")
    settings: Mapping[str, object] = {"flow": flow, "flow_frames": flow_frames}
    frames = dict(enumerate(images))
    numbers = {"frames": motion.evenly_spaced(num_frames, len(images)),
               "flow": motion.evenly_spaced(flow_frames, len(images))}
    motion.write_frames(folder / "frames", len(images), frames, numbers["frames"], settings)
    motion.write_flow(folder / "flow", len(images), frames, numbers["flow"], settings)
    paths = {name: ucf101.image_paths(folder / kind, name, ucf101.read_extract(folder / kind))
             for kind, names in ucf101.KINDS.items() for name in names}
    return MotionFiles(str(video), label, **paths)


def voice_and_faces(video: Path, folder: Path, number: int, detector: Detector | None, fps: float) -> Utterance:
    """Of main_Vox.py, in the layout <folder>/wav, <folder>/faces. Raises InputError: no sound, no face."""
    write_sound(folder / "wav" / f"{number}.wav", read_sound(video, SAMPLE_RATE), SAMPLE_RATE)
    faces = found_faces(read_faces(video, fps, detector), video)
    write_folder_whole(folder / "faces" / str(number), partial(write_faces, faces))
    return Utterance(f"{number}.wav", str(number), number)


def shrunk(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) -> the same, larger images made smaller until they just cover `size` (width, height)."""
    import cv2

    scale = min(1.0, max(size[0] / image.shape[1], size[1] / image.shape[0]))
    if scale == 1.0:
        return image
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
