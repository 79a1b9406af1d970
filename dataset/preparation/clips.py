"""Shared by scripts/prepare_*.py: decoding of sound and video, parallel work, interrupted runs.

Threads instead of processes: PyAV and OpenCV release the interpreter lock while they decode (two threads are as fast as
two processes), and a killed run leaves no process behind. Run only one preparation of a data folder at a time.

Shapes: N samples, T frames of H x W pixels.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile
from tqdm import tqdm

from dataset.errors import DiskError, InputError, report_problems
from dataset.files import check_is_media, read_image
from dataset.whole_files import disk_error, temporary_name, write_csv, write_whole

FAILURES = "prepare_failures.csv"
ROUNDING = 1e-6  # frames; 1.36 s at 25 frames per second is frame 34, although 1.36 * 25 may come out below
MISSING_END = 0.5  # seconds; headers may include sound after the last frame; more means a truncated file

# A broken file becomes an InputError with its name; the decoders' own messages would break the progress bar.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class NoSoundError(InputError):
    """A video without a sound stream, or with an empty one."""


def media_url(path: Path) -> str:
    """As FFmpeg opens it: else it would take `12:30 talk.mp4` for an address of the protocol `12`."""
    return f"file:{path}"


def read_sound(path: Path, sample_rate: int) -> np.ndarray:
    """The first sound stream of a video or sound file as int16 (N,): channels averaged, resampled (libswresample).

    Averaged in 16 bits: libswresample mixes floats louder by sqrt(2), which clips loud stereo.
    Raises NoSoundError without a sound stream; InputError: missing, empty, cannot be decoded.
    """
    check_is_media(path)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
    try:
        with av.open(media_url(path)) as container:
            if not container.streams.audio:
                raise NoSoundError(f"{path} has no sound stream")
            parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        if not parts:
            raise NoSoundError(f"the sound stream of {path} is empty")
        parts += resampler.resample(None)  # what the filter still holds
    except av.FFmpegError as error:
        raise InputError(f"the sound of {path} cannot be decoded ({error}): download it again") from None
    return np.concatenate([part.to_ndarray()[0] for part in parts])


def write_sound(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Writes int16 samples (N,) as a 16-bit wav, whole or not at all."""
    write_whole(path, lambda temporary: soundfile.write(temporary, samples, sample_rate))


def open_video(path: Path) -> cv2.VideoCapture:
    """A video that has a frame rate. Raises InputError: missing, empty, not a video."""
    check_is_media(path)
    video = cv2.VideoCapture(media_url(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])  # the clips run in parallel
    if not video.isOpened() or not video.get(cv2.CAP_PROP_FPS) > 0:
        raise InputError(f"{path} cannot be read as a video: download it again")
    return video


def read_duration(path: Path) -> float:
    """Length of a video in seconds, by its header. Raises InputError."""
    video = open_video(path)
    duration = video.get(cv2.CAP_PROP_FRAME_COUNT) / video.get(cv2.CAP_PROP_FPS)
    if not duration > 0:
        raise InputError(f"the header of {path} states no duration: download it again, or remux it with ffmpeg -c copy")
    return duration


def middle_times(duration: float, fps: float) -> list[float]:
    """The middles (seconds) of n equal segments of about 1/fps seconds: n = max(1, round(duration * fps))."""
    count = max(1, round(duration * fps))
    return [(i + 0.5) * duration / count for i in range(count)]


def read_frames(path: Path, times: Iterable[float]) -> Iterator[np.ndarray]:
    """Yields the frames on screen at `times` (seconds, ascending), uint8 BGR (H, W, 3) as cv2.imencode takes them.

    Frame number floor(time * frame rate), counted from the start: neither seeking nor the frame times stated in an mpg
    are exact.
    Raises InputError: not a video, no frame can be decoded, or the video ends before one of the times.
    """
    video = open_video(path)
    rate = video.get(cv2.CAP_PROP_FPS)
    image, count = None, 0
    for time in times:
        while count <= int(time * rate + ROUNDING):
            found, following = video.read()
            if not found:
                check_end(path, count / rate, time)
                break
            image, count = following, count + 1
        yield image


def check_end(path: Path, end: float, wanted: float) -> None:
    """Raises InputError when a video that ends at `end` seconds ends well before the `wanted` time."""
    if end == 0:
        raise InputError(f"no frame of {path} can be decoded: download it again")
    if wanted - end > MISSING_END:
        raise InputError(f"{path} ends at {end:.2f} s, but a frame at {wanted:.2f} s is needed: it is truncated "
                         "or damaged, download it again")


def write_frames(folder: Path, images: Iterable[np.ndarray], quality: int,
                 notes: Mapping[str, Mapping[str, object]] | None = None) -> None:
    """Writes uint8 BGR images (H, W, 3) as folder/frame_00001.jpg ..., and notes ({name: content}) as JSON files, all
    of them or none. `quality`: 1 to 100."""
    def fill(temporary: Path) -> None:
        for number, image in enumerate(images, start=1):
            jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            (temporary / f"frame_{number:05d}.jpg").write_bytes(jpeg)  # cv2.imwrite hides a full disk
        for name, note in (notes or {}).items():
            (temporary / name).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")

    write_folder_whole(folder, fill)


def write_folder_whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """Calls `fill(path)` with an empty temporary folder beside `folder`, then replaces `folder` by it. Raises
    DiskError."""
    temporary = temporary_name(folder)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        remove_folder(folder)
        temporary.replace(folder)
    except OSError as error:
        raise disk_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """A folder, or the link to one, if it is there."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def walk(folder: Path, above: Sequence[str] = ()) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of the files in it) of a folder and all below it, in order of their names. Linked folders are
    searched as well, as they may be on another disk; not one that contains itself."""
    real = os.path.realpath(folder)
    if real in above:
        return
    names = sorted(os.listdir(folder))
    folders = [name for name in names if os.path.isdir(os.path.join(folder, name))]
    yield str(folder), sorted(set(names) - set(folders))
    for name in folders:
        yield from walk(Path(folder, name), (*above, real))


def has_frames(folder: Path) -> bool:
    """Whether `folder` holds images and all can be decoded (write_folder_whole wrote all or none)."""
    paths = list(folder.glob("[!.]*.jpg"))
    try:
        for path in paths:
            read_image(path)
    except InputError:
        return False
    return bool(paths)


def run_parallel(work: Callable[[str], object], names: Sequence[str], workers: int, description: str,
                 what: str = "clips") -> dict[str, str]:
    """Calls work(name) for every clip, `workers` in parallel, with a progress bar -> {name: reason} of failed clips.

    A clip fails by InputError. A disk that is full or cannot be written stops everything with one InputError, and
    Ctrl-C with its own exception: waiting clips are cancelled, running ones are finished.
    """
    problems: dict[str, str] = {}
    waiting, running = iter(names), {}
    pool = ThreadPoolExecutor(workers)
    try:
        with tqdm(total=len(names), desc=description, unit=f" {what}") as bar:
            while bar.n < len(names):
                for name in islice(waiting, 4 * workers - len(running)):  # a million futures would need too much memory
                    running[pool.submit(work, name)] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    problems |= problem_of(future, name)
                    bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
    return dict(sorted(problems.items()))


def problem_of(future: Future, name: str) -> dict[str, str]:
    """{name: reason} when the work on a clip failed, {} otherwise. Raises InputError for a disk that fails."""
    try:
        future.result()
    except (DiskError, OSError) as error:
        raise InputError(f"clip {name}: {error}. Fix that and run the same command again: finished clips are "
                         "kept") from error
    except InputError as error:
        return {name: str(error)}
    except Exception as error:  # one file that crashes a decoder or detector must not stop the others
        return {name: f"unexpected {type(error).__name__}: {error}"}
    return {}


def check_some_usable(root: Path, names: Sequence[str], problems: dict[str, str]) -> None:
    """Raises InputError if every clip failed, as in a clone without its git-lfs files: one message for all."""
    if len(problems) == len(names):
        name, reason = next(iter(problems.items()))
        raise InputError(f"none of the {len(names)} clips in {root} can be used. The first is {name}: {reason}")


def write_failures(root: Path, problems: dict[str, str], total: int) -> None:
    """Writes and prints the clips that cannot be used; if there are none, removes the file of an earlier run."""
    path = root / FAILURES
    if not problems:
        path.unlink(missing_ok=True)
        return
    write_csv(path, [{"clip": name, "reason": reason} for name, reason in problems.items()])
    print(f"{report_problems(problems, total)}\nfull list: {path}")


def finish(root: Path, problems: dict[str, str], next_command: str) -> None:
    """Prints the next command. Raises InputError (exit status 2) if clips failed; they are listed in FAILURES."""
    if problems:
        raise InputError(f"{len(problems)} clips cannot be used (reasons in {root / FAILURES}); everything else "
                         "is ready. Fix them and run the same command again, or continue without them: "
                         f"{next_command} --skip_missing")
    print(f"Next: {next_command}")
