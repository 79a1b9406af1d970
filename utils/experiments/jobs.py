"""Python programs run side by side: each has its own GPU and log, and none outlives the program that started it."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from utils.distributed import print_once
from utils.experiments import grid
from utils.experiments.grid import PlannedRun

POLL = 0.1  # seconds between two checks of the running programs
GRACE = 60.0  # seconds that a program has to end after SIGTERM

# What a child does first: it asks the kernel (PR_SET_PDEATHSIG) for a SIGTERM when its parent dies, even of SIGKILL;
# ends when that has happened already; becomes the program.
FOLLOW = ("import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); parent, *argv = sys.argv[1:]; "
          "os.getppid() == int(parent) or sys.exit(143); os.execv(sys.executable, [sys.executable, *argv])")


class Job(NamedTuple):
    """argv: of the Python program, its file first. log: its output is appended to this file."""

    name: str
    argv: Sequence[str]
    log: Path


def job_of(run: PlannedRun, script: Path) -> Job:
    """Starts or resumes a run of the entry script."""
    return Job(run.name, [str(script), *grid.command(run)], run.folder.with_name(f"{run.name}.log"))


@contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Waits until no other sweep works in the folder, and yields the lock.

    Child processes inherit the lock: a child that outlives its parent keeps other sweeps waiting.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_once(f"waiting for another sweep in {folder}, or the runs that it started, to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def run_jobs(jobs: Sequence[Job], workers: int, gpus: Sequence[str], lock: int) -> Iterator[tuple[Job, int]]:
    """Runs all jobs, `workers` at a time -> (job, exit status) of each as it ends.

    gpus: names that CUDA_VISIBLE_DEVICES may have. An exception (Ctrl-C and SIGTERM among them), and closing the
    generator, stops what is running.
    """
    waiting, running = deque(jobs), {}
    try:
        while waiting or running:
            for worker in [worker for worker in range(workers) if worker not in running][:len(waiting)]:
                job = waiting.popleft()
                running[worker] = job, start(job, environment(worker, workers, gpus), lock)
            time.sleep(POLL)
            for worker, (job, process) in list(running.items()):
                if process.poll() is not None:
                    del running[worker]
                    yield job, process.returncode
    finally:
        stop([process for _, process in running.values()])


def start(job: Job, environment: Mapping[str, str], lock: int) -> subprocess.Popen:
    print_once(f"{job.name}: started, log {job.log}")
    with job.log.open("ab") as log:  # in a new session, so that Ctrl-C does not reach it twice
        return subprocess.Popen([sys.executable, "-c", FOLLOW, str(os.getpid()), *job.argv], env=environment,
                                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock],
                                start_new_session=True)


def environment(worker: int, workers: int, gpus: Sequence[str]) -> dict[str, str]:
    """Environment variables of a job: alone it has the whole machine, else one GPU and its share of the cores."""
    variables = dict(os.environ)
    if workers > 1:
        variables.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)]
    return variables


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [name.strip() for name in named.split(",")][:count] if named else [str(index) for index in range(count)]


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """SIGTERM to all, and SIGKILL to those that have not ended after GRACE seconds."""
    if processes:
        print_once(f"stopping {len(processes)} runs; start the same command again to continue")
    for process in processes:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
