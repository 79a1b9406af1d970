"""Errors of the machine as one sentence: memory that ran out, processes that were ended from outside. And which of
several processes says why the run ends.

Only what the type and the text of an error make certain is told in other words, and the text is always shown; any other
error keeps its traceback.
"""

import errno
import os
import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dataset.errors import InputError
from dataset.whole_files import with_unit

if TYPE_CHECKING:  # slow to import
    from types import TracebackType

    from torch.distributed import Store

WAIT = 1.0  # seconds
LESS = "choose a smaller --batch_size, --image_size or --num_frames, or compute batches in parts with --accumulate"
HOST_MEMORY = f"{{memory}} is not enough: {LESS}, or fewer --num_workers"
SHARED_MEMORY = ("the shared memory (/dev/shm), through which loader processes hand over clips, is full: choose fewer "
                 "--num_workers (0: none), or make it larger (Docker: --shm-size)")
LOADER = "a loader process was ended from outside"
LOADER_KILLED = f"{LOADER} by SIGKILL, as the system does when memory runs out: choose fewer --num_workers, or {LESS}"
LOADER_GONE = ("a loader process has ended without a message. The system's log (dmesg) tells whether memory ran out: "
               "then choose fewer --num_workers")
OTHER_PROCESS = ("another process of this run has ended. Its own message says why; without a message it was ended from "
                 "outside, with kill -9 or by the system when memory ran out (dmesg tells). Continue with --resume")
# {what the text of the error has: what is said}; libraries raise all of these as RuntimeError or OSError
KNOWN = {
    r"unable to mmap .* from file <.*\.bin>: Cannot allocate memory":  # before the next: that is about other files
        "the memory that this process may address is not enough for the decoded clips of --cache, which are not "
        "damaged: raise its limit (ulimit -v), or start a run with a smaller --cache_size",
    r"DataLoader worker \(pid.*(Bus error|shared memory)": SHARED_MEMORY,
    r"unable to (write to|open shared memory|mmap|resize).*(No space left on device|Cannot allocate memory)":
        SHARED_MEMORY,
    r"Too many open files":
        "this process may not open as many files as it needs: raise the limit (ulimit -n), or choose fewer "
        "--num_workers",
    r"DataLoader worker \(pid.*killed by signal: Killed": LOADER_KILLED,
    r"DataLoader worker \(pid.*killed by signal: (Terminated|Interrupt|Hangup|User defined|CPU time)":
        f"{LOADER} by a signal: continue with --resume",
    r"DataLoader worker \(pid.*killed by signal: (Segmentation fault|Aborted|Illegal|Floating)":
        "a library crashed in a loader process; with --num_workers 0 the crash is in this process, and "
        "`python -X faulthandler` tells where",
    r"DataLoader worker \(pid\(s\).*exited unexpectedly$": LOADER_GONE,
    r"CUDA out of memory|CUDA error: out of memory|STATUS_ALLOC_FAILED":
        f"the memory of the GPU is not enough: {LESS}, --amp bf16 or fp16, or --cache ram instead of device or auto",
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|Cannot allocate memory|std::bad_alloc": HOST_MEMORY,
    r"can't start new thread":
        "the system does not let this process start another thread: its memory (ulimit -v) or the number of processes "
        "(ulimit -u) is limited. Raise the limit, or choose fewer --num_workers and OMP_NUM_THREADS=1",
    r"gloo/transport.*(Connection closed by peer|Connection reset by peer|Broken pipe)|ncclRemoteError|"
    r"NCCL.*(remote process exited|Connection (closed|reset) by)": OTHER_PROCESS,
}
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def machine_error(error: BaseException) -> InputError | None:
    """What to tell the user of an `error` that the machine caused; None for others."""
    error = settled(error)
    said = None
    if isinstance(error, MemoryError):
        said = HOST_MEMORY
    elif is_lost_loader(error):
        said = LOADER_GONE
    elif isinstance(error, RuntimeError | OSError | ImportError):
        said = next((said for pattern, said in KNOWN.items() if re.search(pattern, str(error), re.DOTALL)), None)
    return InputError(f"{said.format(memory=memory())} ({in_short(error)})") if said else None


def memory() -> str:
    """The memory that ran out: the machine's, or what this process may use of it."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return "the memory of this machine"
    return f"the memory that this process may use ({with_unit(limit)}, ulimit -v)"


def file_error(error: OSError) -> InputError | None:
    """The message for an error about a file or a full disk; None for other errors, such as one
    of a connection."""
    if isinstance(error.filename, str | bytes | os.PathLike) and type(error).__module__ == "builtins":
        return InputError(f"{os.fsdecode(error.filename)} cannot be read or written: {error.strerror or error}")
    if error.errno in DISK_FULL:
        return InputError(f"a file cannot be written: {error.strerror or error}")
    return None


def is_lost_loader(error: BaseException) -> bool:
    """Whether the error is of a connection to a loader process: the last step was in multiprocessing, on behalf of
    torch's DataLoader. EOFError and ConnectionResetError come from many other places as well."""
    if not isinstance(error, EOFError | ConnectionResetError | BrokenPipeError):
        return False
    modules = [frame.tb_frame.f_globals.get("__name__", "") for frame in steps(error.__traceback__)]
    return bool(modules) and modules[-1].startswith(("multiprocessing.", "torch.multiprocessing.")) and any(
        name.startswith("torch.utils.data") for name in modules)


def steps(traceback: "TracebackType | None") -> list["TracebackType"]:
    """From where the error was caught to where it was raised."""
    found = []
    while traceback:
        found.append(traceback)
        traceback = traceback.tb_next
    return found


def settled(error: BaseException) -> BaseException:
    """The cause of `error`: torch's message that a loader process was killed rather than the broken
    connection that follows.

    A loader process that dies breaks its connection. torch's signal handler raises the reason a
    moment before or after that, wherever this process is then; in a finaliser Python drops it.
    Raises SystemExit or KeyboardInterrupt if this process is being stopped together with its loader
    processes, whose ends are then no failure.
    """
    if "DataLoader worker" in str(error):
        stop = stop_before(error)
        if stop:
            raise stop
    if "is killed by signal" in str(error.__context__):
        return settled(error.__context__)
    try:
        time.sleep(WAIT if is_lost_loader(error) or "killed by signal: Terminated" in str(error) else 0)
    except RuntimeError as reason:
        return reason
    return error


@contextmanager
def stops_first() -> Iterator[None]:
    """An error in this `with` block that only follows from a stop of this process becomes that stop."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        settled(error)
        raise


def stop_before(error: BaseException) -> BaseException | None:
    """The SystemExit or KeyboardInterrupt during whose handling the error was raised."""
    while error and not isinstance(error, SystemExit | KeyboardInterrupt):
        error = error.__context__
    return error


def in_short(error: BaseException) -> str:
    """The text of an error in one line. Of one that was raised in a loader process, which has the traceback in its
    text, the last line as well; of one without a text, its type."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return f"{lines[0]} {lines[-1]}" if lines[0].startswith("Caught ") and len(lines) > 1 else " ".join(lines)


def report_failure(store: "Store | None", rank: int, text: str) -> tuple[bool, str]:
    """(whether this process failed first and has to report it, the message of the first process).

    The end of a process breaks the connections of the others, so that their errors say nothing
    more.
    """
    if not store:
        return True, text
    report = f"{rank} {text}"
    try:
        first = store.compare_set("failure", "", report).decode()  # sets it where there is none yet
    except RuntimeError:  # the process with the store has ended as well
        return False, text
    return first == report, first.partition(" ")[2]
