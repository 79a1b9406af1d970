"""Errors of the machine as one sentence: memory that ran out, processes that were ended from outside. And which of
several processes says why the run ends."""

import re
import time
from typing import TYPE_CHECKING

from dataset.errors import InputError

if TYPE_CHECKING:  # slow to import
    from torch.distributed import Store

LOST = (ConnectionResetError, EOFError)
WAIT = 1.0  # seconds
LESS = "choose a smaller --batch_size, --image_size or --num_frames, or compute batches in parts with --accumulate"
HOST_MEMORY = f"the memory of this machine is not enough: {LESS}, or fewer --num_workers"
LOADER = ("a loader process was ended from outside, probably by the system because memory, or the shared memory "
          f"(/dev/shm), ran out: choose fewer --num_workers, or {LESS}")
# {what the text of the error has: what is said}; libraries raise all of these as RuntimeError or OSError
KNOWN = {
    r"unable to mmap .* from file <.*\.bin>":  # before the next, which is about files without a folder
        "the memory that this process may address is not enough for the decoded clips of --cache, which are not "
        "damaged: raise its limit (ulimit -v), or start a run with a smaller --cache_size",
    r"DataLoader worker \(pid.*(Bus error|shared memory)|unable to (write to|open shared memory|mmap|resize)":
        "the shared memory (/dev/shm), through which loader processes hand over clips, is full: choose fewer "
        "--num_workers (0: none), or make it larger (Docker: --shm-size)",
    r"DataLoader worker \(pid": LOADER,
    r"CUDA out of memory|CUDA error: out of memory|ALLOC_FAILED":
        f"the memory of the GPU is not enough: {LESS}, --amp bf16 or fp16, or --cache ram instead of device or auto",
    r"DefaultCPUAllocator|Cannot allocate memory": HOST_MEMORY,
    r"gloo/transport|NCCL": "another process of this run has ended without a message, perhaps because memory ran out",
}


def machine_error(error: BaseException) -> InputError | None:
    """What to tell the user of an `error` that the machine caused; None for others."""
    error = settled(error)
    said = HOST_MEMORY if isinstance(error, MemoryError) else LOADER if isinstance(error, LOST) else None
    if not said and isinstance(error, RuntimeError | OSError):
        said = next((said for pattern, said in KNOWN.items() if re.search(pattern, str(error), re.DOTALL)), None)
    return InputError(f"{said} ({first_line(error)})") if said else None


def settled(error: BaseException) -> BaseException:
    """The error that says more: a loader process that dies breaks its connection, and a moment before or after torch's
    signal handler raises why it died, wherever this process is then. In a finaliser Python drops that error."""
    if "is killed by signal" in str(error.__context__):
        return error.__context__
    try:
        time.sleep(WAIT if isinstance(error, LOST) else 0)
    except RuntimeError as reason:
        return reason
    return error


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def report_failure(store: "Store | None", rank: int, text: str) -> tuple[bool, str]:
    """(whether this process is the first that fails and has to say why, what the first one says).

    The error of a process that ends breaks the connections of the others, whose own errors say nothing more.
    """
    if not store:
        return True, text
    own = f"{rank} {text}"
    try:
        first = store.compare_set("failure", "", own).decode()  # sets it where there is none yet
    except RuntimeError:  # the process with the store has ended as well
        return False, text
    return first == own, first.partition(" ")[2]
