"""One process or many: torchrun's environment, exact sums over the processes, and `--gpu_ids` without torchrun."""

import logging
import os
import platform
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dataset.errors import DiskError, InputError
from models.balancing.distributed import (  # noqa: F401 (some for those who import this module)
    average_gradients,
    broadcast_model,
    from_main,
    is_main,
    means_over_processes,
    merged,
    rank,
    size,
    sum_over_processes,
)
from utils.failures import machine_error, report_failure
from utils.run_log import Log

Result = TypeVar("Result")

log = Log()  # of this process's session


def worker_context(workers: int) -> str | None:
    """How a DataLoader starts its workers.

    Among several processes they come from a fork server, some seconds slower: a fork of this process, with the threads
    of gloo or NCCL, may inherit a lock that nobody ever opens (seen under torchrun)."""
    return "forkserver" if workers and size() > 1 else None


def is_launched() -> bool:
    """Whether torchrun (or `launch`) started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def session(device: str, gpu_ids: list[int]) -> Iterator[torch.device]:
    """Joins the other processes of a torchrun launch, if there is one, and gives this process its device."""
    chosen = choose_device(device, gpu_ids, int(os.environ.get("LOCAL_RANK", 0)) if is_launched() else 0)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    store = join("nccl" if chosen.type == "cuda" else "gloo") if is_launched() else None
    log.close()  # what was printed before belongs to no run
    failed = True
    try:
        yield chosen
        failed = False
    except Exception as error:
        said = machine_error(error) or error
        text = f"error: {said}\n" if isinstance(said, InputError) else traceback.format_exc()
        first, text = report_failure(store, rank(), text)
        with suppress(DiskError):  # the error may be about that disk
            log.write(text)
        if not first:
            sys.exit(2)
        if said is not error:
            raise said from error
        raise
    finally:  # after an error NCCL's end may wait for processes that are waiting for this one; gloo's does not
        if dist.is_initialized() and not (failed and chosen.type == "cuda"):
            dist.destroy_process_group()
        log.close()


def join(backend: str) -> dist.Store:
    """Joins the processes that torchrun started -> the store that they share."""
    store, number, processes = next(dist.rendezvous("env://"))
    # long: before training a process may wait for the others to look at a million files
    store.set_timeout(timedelta(hours=2))
    dist.init_process_group(backend, store=store, rank=number, world_size=processes, timeout=timedelta(hours=2))
    return store


def choose_device(device: str, gpu_ids: list[int], local_rank: int) -> torch.device:
    """`auto`, `cpu` or `cuda[:i]` and the listed cards -> the device of the process `local_rank` on this machine."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() or gpu_ids else "cpu"
    chosen = parse_device(device)
    if chosen.type == "cpu":
        return chosen
    if local_rank and (chosen.index is not None or 0 < len(gpu_ids) <= local_rank):
        raise InputError("more processes than cards were asked for: start as many as --gpu_ids lists, without an index "
                         "in --device")
    index = gpu_ids[local_rank] if gpu_ids else local_rank if chosen.index is None else chosen.index
    if index >= torch.cuda.device_count():
        raise InputError(f"CUDA device {index} was asked for, this machine has {torch.cuda.device_count()}: "
                         "correct --gpu_ids / --device, or use --device cpu")
    return torch.device("cuda", index)


def parse_device(device: str) -> torch.device:
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: expected auto, cpu, cuda or cuda:<index>")
    return chosen


def launch(script: str, argv: Sequence[str], processes: int) -> None:
    """Runs `python script argv...` in `processes` processes on this machine, through torchrun's launcher.

    A process that fails ends the others, and this one with its exit status.
    """
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d",
                          rdzv_endpoint="localhost:0", run_id=str(os.getpid()), max_restarts=0)
    try:
        elastic_launch(config, sys.executable)("-u", script, *argv)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise InputError(f"process {rank} of {processes} was ended by {signal_name(-failure.exitcode)}, from "
                             "outside, or by the system when memory ran out (its log, dmesg, tells): continue with "
                             "--resume") from None
        sys.exit(failure.exitcode)
    except SignalException as stop:
        sys.exit(128 + stop.sigval)


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextmanager
def failing_together() -> Iterator[None]:
    """An InputError in any process, raised in this `with` block, ends them all, and is reported once, with the name of
    its machine if that is another one than the main process's.

    Every process must reach the block; none leaves it before all have.
    """
    error = None
    try:
        yield
    except InputError as raised:
        error = raised
    if size() > 1:
        here = platform.node()
        ends: list[tuple[InputError | None, str]] = [(None, here)] * size()
        dist.all_gather_object(ends, (error, here))
        error, machine = next((end for end in ends if end[0]), (None, here))
        if error and machine != here:
            error = type(error)(f"on {machine}: {error}")
    if error and not is_main():
        sys.exit(2)
    if error:
        raise error


def from_first_here(value: Result) -> Result:
    """The value of the first process on this machine, in each of its processes."""
    machine = os.environ.get("GROUP_RANK", "0")  # torchrun's number of the machine
    return merged({machine: value} if is_first_here() else {})[machine]


def print_once(text: str) -> None:
    """Prints on the main process, and into the log."""
    if is_main():
        print(text, flush=True)
        log.write(f"{text}\n")


class Printed(logging.Handler):
    """Prints what the methods in models/ have to say."""

    def emit(self, record: logging.LogRecord) -> None:
        print_once(record.getMessage())


logging.getLogger("models").setLevel(logging.INFO)
logging.getLogger("models").addHandler(Printed())


def log_to(path: Path) -> None:
    """Appends to this file what the session has printed and will print, and the error that ends it."""
    if is_main():
        log.open(path)


def is_first_here() -> bool:
    """Whether this is the first process on its machine."""
    return not is_launched() or os.environ["LOCAL_RANK"] == "0"
