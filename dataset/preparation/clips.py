"""Shared by scripts/prepare_*.py: files written whole, parallel work, interrupted runs.

Threads instead of processes: PyAV and OpenCV release the interpreter lock while they work (two threads are as fast as
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

import cv2
import numpy as np
import soundfile
from tqdm import tqdm

from dataset.errors import DiskError, InputError, counted, report_problems
from dataset.files import read_image
from dataset.names import find_images, is_hidden
from dataset.preparation.reader import print_notes
from dataset.whole_files import disk_error, temporary_name, write_csv, write_whole

FAILURES = "prepare_failures.csv"


def write_sound(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Writes int16 samples (N,) as a 16-bit wav, whole or not at all."""
    write_whole(path, lambda temporary: soundfile.write(temporary, samples, sample_rate))


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
    searched as well, as they may be on another disk; not one that contains itself. What is hidden is left out."""
    real = os.path.realpath(folder)
    if real in above:
        return
    names = sorted(name for name in os.listdir(folder) if not is_hidden(name))
    folders = [name for name in names if os.path.isdir(os.path.join(folder, name))]
    yield str(folder), sorted(set(names) - set(folders))
    for name in folders:
        yield from walk(Path(folder, name), (*above, real))


def has_frames(folder: Path) -> bool:
    """Whether `folder` holds images and all can be decoded (write_folder_whole wrote all or none)."""
    paths = [folder / name for name in find_images(folder)]
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
    print_notes()
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
        told = f"{counted(len(problems), 'clip')} cannot be used (reasons in {root / FAILURES})"
        raise InputError(f"{told}; everything else is ready. Fix them and run the same command again, or continue "
                         f"without them: {next_command} --skip_missing")
    print(f"Next: {next_command}")
