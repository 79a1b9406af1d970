"""A run's folder while it is written: by one process at a time, and without leftovers of killed ones.

The writing process holds a lock on train.log. It is a record lock of POSIX: the system drops it when the process ends,
however that happens, and loader workers, which may outlive a killed process by seconds, do not inherit it.
"""

import fcntl
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from dataset.errors import InputError, first_few
from dataset.whole_files import read_json, remove_leftovers
from utils import distributed
from utils.distributed import print_once

LOG = "train.log"
START_FILES = ("args.json", LOG, "events.out.tfevents.*", ".[0-9]*-*.*")  # all that a run has before its first last.pt
IN_ARGS = {"dataset", "modality", "epochs"}  # by which an args.json is known as a run's


@contextmanager
def held(folder: Path, resume: bool) -> Iterator[None]:
    """Makes the folder of a new run, or enters that of a resumed one, on the main process; no other process may then.

    Temporary files of processes that have ended are removed, before and after. So is, at the end, a new folder that
    holds no more than a start, because that failed. Raises InputError: another process writes there, or the folder
    holds something else.
    """
    lock = None
    with distributed.failing_together():
        if distributed.is_main():
            lock = enter(folder, resume)
    try:
        yield
    finally:
        if lock:
            remove_leftovers(folder)
            if not resume and is_start(folder):
                shutil.rmtree(folder, ignore_errors=True)
            lock.close()


def enter(folder: Path, resume: bool) -> TextIO:
    """The locked log. Raises InputError."""
    try:
        killed = not resume and folder.exists()
        if killed:
            check_is_start(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_of(folder)
        remove_leftovers(folder)
        if killed:
            check_is_start(folder)  # again: the process that had the lock may have finished its run
            if (folder / "args.json").exists():
                print_once(f"the run in {folder} was killed before its first last.pt: it starts again")
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink()
    except OSError as error:
        raise InputError(f"the run's folder {folder} cannot be made or written ({error.strerror}): choose another "
                         "--run_name or --ckpt_path") from None
    return lock


def lock_of(folder: Path) -> TextIO:
    """The log, locked. Raises InputError: another process has locked it."""
    log = (folder / LOG).open("a", encoding="utf-8")
    try:
        fcntl.lockf(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        log.close()
        raise InputError(f"another process is writing to {folder}: wait until it has ended, or choose another "
                         "--run_name") from None
    except OSError as error:  # file systems without locks
        print_once(f"note: {log.name} cannot be locked ({error.strerror}): a second process that writes there would "
                   "not be noticed")
    return log


def is_start(folder: Path) -> bool:
    """Whether a folder holds at most what a run writes before its first last.pt."""
    return folder.is_dir() and not others(folder)


def others(folder: Path) -> list[str]:
    """The names of the files in a folder that no start has written: all, where args.json and the log are not a run's.
    """
    own = {path.name for pattern in START_FILES for path in folder.glob(pattern)} if is_ours(folder) else set()
    return sorted({path.name for path in folder.iterdir()} - own)


def is_ours(folder: Path) -> bool:
    """Whether args.json is a run's; before it is written, there are no events and the log is empty."""
    path, log = folder / "args.json", folder / LOG
    if not path.exists():
        return not any(folder.glob("events.out.tfevents.*")) and (not log.exists() or log.stat().st_size == 0)
    try:
        return read_json(path).keys() >= IN_ARGS
    except InputError:
        return False


def check_is_start(folder: Path) -> None:
    """Raises InputError: a folder in which no new run can be started."""
    if is_start(folder):
        return
    then = f", or continue that run with --resume {shlex.quote(str(folder))}" if (folder / "last.pt").is_file() else ""
    holds = first_few(others(folder), 3) if folder.is_dir() else "it is a file"
    raise InputError(f"the run's folder {folder} is there already ({holds}): choose another --run_name or "
                     f"--ckpt_path{then}")


def check_resumable(folder: Path) -> None:
    """Raises InputError: it holds no last.pt, because it is no run's, or one that was killed at its start."""
    if (folder / "last.pt").is_file():
        return
    if not is_start(folder):
        raise InputError(f"--resume {folder}: there is no run to continue, it holds no last.pt. Give the folder that "
                         "the run printed")
    lock_of(folder).close()  # the start may still go on
    raise InputError(f"--resume {folder}: the run was stopped before its first last.pt, there is nothing to continue. "
                     "Start it again with the command that started it, or remove the folder")
