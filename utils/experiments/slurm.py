"""`sweep.py --launcher slurm`: a job of a Slurm cluster for each run, submitted by submitit, resumed after preemption.

    pip install submitit
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dataset.errors import InputError
from utils.distributed import print_once
from utils.experiments import grid
from utils.experiments.entry_script import REPO
from utils.experiments.grid import PlannedRun
from utils.experiments.jobs import FOLLOW, Job, job_of

POLL = 1.0  # seconds between two looks at the jobs
TIMEOUTS = 3  # submitit's own default
FOR_SUBMITIT = (signal.SIGUSR1, signal.SIGUSR2)  # submitit calls `checkpoint` on one of them; they would end the run


class Remote:
    """What a job does: starts the run, or continues it when it has a last.pt -> its exit status.

    submitit calls `checkpoint` before the job is preempted or its time is over, and submits what it returns. It does so
    in a signal handler, while `__call__` waits and holds the lock of Popen.wait.
    """

    def __init__(self, run: PlannedRun, script: Path, log: Path):
        self.run, self.script, self.log = run, script, log
        self.process: subprocess.Popen | None = None

    def __call__(self) -> int:
        grid.clear_start(self.run)
        signal.pthread_sigmask(signal.SIG_BLOCK, FOR_SUBMITIT)  # the run inherits that: Slurm may signal all processes
        with self.log.open("ab") as log:
            argv = [sys.executable, "-c", FOLLOW, str(os.getpid()), str(self.script), *grid.command(self.run)]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_SUBMITIT)
        return self.process.wait()

    def checkpoint(self) -> object:
        from submitit.helpers import DelayedSubmission

        if self.process:
            self.process.terminate()  # it says how many whole epochs last.pt holds
            with suppress(ChildProcessError):  # it has ended before
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Remote(self.run, self.script, self.log))


def parse_options(texts: Sequence[str]) -> dict[str, object]:
    """`timeout_min=240 gpus_per_node=1 slurm_partition=gpu` -> the options of `make_executor`."""
    options: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--slurm {text}: expected NAME=VALUE, such as timeout_min=240")
        options[name] = int(value) if value.lstrip("-").isdecimal() else value
    return options


def make_executor(folder: Path, cluster: str, options: Mapping[str, object]) -> object:
    """What submits jobs. cluster: slurm, or local: processes of this machine. options: of submitit's
    update_parameters, and slurm_max_num_timeout: how often a job whose time is over is submitted again.

    Raises InputError: submitit or Slurm is missing, or refuses the options.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise InputError("--launcher slurm needs the package submitit: pip install submitit") from None
    path = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    python = shlex.join(["env", f"PYTHONPATH={path}", sys.executable])  # of jobs, wherever the sweep was started
    parameters = dict(options)
    try:
        executor = submitit.AutoExecutor(
            folder, cluster=cluster, slurm_max_num_timeout=int(parameters.pop("slurm_max_num_timeout", TIMEOUTS)),
            **{f"{cluster}_python": python})
        executor.update_parameters(name="sweep", **parameters)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise InputError(f"--launcher slurm: {error}") from None
    return executor


def run_jobs(runs: Sequence[PlannedRun], script: Path, folder: Path, cluster: str,
             options: Mapping[str, object]) -> Iterator[tuple[Job, int]]:
    """Submits all runs -> (job, exit status) of each as it ends. folder: of submitit's own files. cluster, options: of
    `make_executor`, which may raise InputError.

    An exception, and closing the generator, cancels what is waiting or running.
    """
    executor = make_executor(folder, cluster, options)
    waiting = {}
    try:
        for run in runs:
            job = job_of(run, script)
            submitted = executor.submit(Remote(run, script, job.log))
            waiting[submitted] = job
            print_once(f"{run.name}: job {submitted.job_id}, log {job.log}")
        while waiting:
            time.sleep(POLL)
            for submitted in [one for one in waiting if one.done()]:
                job = waiting.pop(submitted)
                yield job, status_of(submitted, job.log)
    finally:
        if waiting:
            print_once(f"cancelling {len(waiting)} jobs; start the same command again to continue")
        for submitted in waiting:
            submitted.cancel()


def status_of(submitted: object, log: Path) -> int:
    """The exit status of the run; 1 when its job ended without one, and then `log` ends with the reason."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return submitted.result()
    except (FailedJobError, UncompletedJobError):
        said = (submitted.stderr() or "").strip().rpartition("\n")[2] or "it printed nothing"
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\njob {submitted.job_id} ended before its run did (state: {submitted.state}): {said}\n")
        return 1
