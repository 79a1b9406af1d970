"""Files that are written whole or not at all, and JSON files read back."""

import csv
import errno
import hashlib
import io
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from dataset.errors import DiskError, InputError, check_name

TEMPORARY = re.compile(r"\.(?P<process>\d+)-(?P<machine>[0-9a-f]{8})\.")
LONG, LONGEST_SUFFIX = 100, 20  # bytes of a name; most file systems accept 255, some encrypted ones 143
# how torch.save and libsndfile report that a write failed: without the system's reason
HIDDEN_REASON = re.compile(r"inline_container|PytorchStreamWriter|System error")


def write_whole(path: Path, content: str | Callable[[Path], None]) -> None:
    """Writes text, or whatever `content(path)` writes, under a temporary name in the same folder and renames it.

    Raises InputError: its name is not UTF-8; DiskError: it cannot be written; what was at `path` before is still there.
    """
    check_name(path)
    temporary = temporary_name(path)  # keeps the suffix, which writers look at
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(temporary)
        else:
            temporary.write_text(content, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not HIDDEN_REASON.search(str(error)):
            raise
        raise disk_error(path, error) from error
    finally:
        with suppress(OSError):  # the folder may be what cannot be written to
            temporary.unlink(missing_ok=True)


def disk_error(path: Path, error: Exception) -> InputError:
    """The error that `path` cannot be written, after `error` of the system or of a library: a DiskError, unless only
    its name is too long."""
    if getattr(error, "errno", None) == errno.ENAMETOOLONG:
        return InputError(f"the name {path.name!r} has {len(os.fsencode(path.name))} bytes, too many for its file "
                          "system: rename the file that it is made from")
    reason = getattr(error, "strerror", None) or "the disk is full or does not accept the file"
    folder = next(folder for folder in (path.absolute(), *path.absolute().parents) if os.path.isdir(folder))
    return DiskError(f"{path} cannot be written ({reason}; {with_unit(shutil.disk_usage(folder).free)} free there)")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """An OSError in this `with` block becomes the DiskError that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, error) from error


def with_unit(count: float) -> str:
    """A number of bytes with its unit: `179.1 MB`."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def read_json(path: Path, next_step: str = "") -> dict:
    """A JSON object in a file. Raises InputError: missing or damaged; the message ends in the next step, by default to
    move the folder away."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} is missing or damaged: {next_step or f'move {path.parent} away'}")
    return content


def temporary_name(path: Path) -> Path:
    """Beside `path`, of this process: `.<pid>-<machine>.<name>`. A long name, which would be too long for the file
    system with more before it, becomes a hash with its suffix."""
    name = path.name
    if len(os.fsencode(name)) > LONG:
        suffix = path.suffix if len(path.suffix) <= LONGEST_SUFFIX else ""
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16] + suffix
    return path.with_name(f".{os.getpid()}-{machine()}.{name}")


@cache
def machine() -> str:
    """Where a process id means something: the computer, or the container."""
    namespace = Path("/proc/self/ns/pid")
    here = f"{platform.node()} {os.readlink(namespace) if namespace.is_symlink() else ''}"
    return hashlib.sha256(here.encode()).hexdigest()[:8]


def remove_leftovers(folder: Path) -> None:
    """Removes what has a `temporary_name` in `folder` of a process of this machine that has ended, or had the number of
    this one, which must not be writing there. Of a folder that cannot be read, nothing."""
    try:
        paths = list(folder.iterdir())
    except OSError:  # there is none, or it is another user's
        return
    for path in paths:
        found = TEMPORARY.match(path.name)
        if not found or found["machine"] != machine() or is_running(int(found["process"])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # another process may remove it too
        else:
            with suppress(OSError):  # it may be another user's
                path.unlink()


def is_running(process: int) -> bool:
    """Whether another process has this number."""
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return process != os.getpid()


def write_csv(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str] = ()) -> None:
    """Writes a table with a header: `columns` first, then every other key of the rows in the order in which they come.

    A cell is empty where a row has no such key, or None.
    """
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())
