"""sweep.py --launcher: jobs submitted by submitit, here with its local executor in place of a cluster's."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from conftest import REPO

from dataset.errors import InputError
from scripts import sweep
from utils.experiments import entry_script, grid, slurm
from utils.experiments.jobs import Job
from utils.experiments.slurm import Remote, parse_options

pytest.importorskip("submitit")
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE, LocalJob, LocalJobEnvironment

FAKE = REPO / "tests" / "fake_entry.py"


def launch(out: Path, *more: str):
    return sweep.main(["--script", str(FAKE), "--output", str(out), "--random_seed", "0", "1", "--launcher", "local",
                       *more])


def test_every_run_is_a_job_that_fails_alone_and_is_continued_by_the_same_command(tmp_path, capsys,
                                                                                                 monkeypatch):
    monkeypatch.chdir(tmp_path)  # jobs find the repository from anywhere
    with pytest.raises(InputError, match=r"1 of 2 runs failed:\n.*seed1 \(exit status 1\): .*bad luck"):
        launch(tmp_path, "--", "--fails", "1")
    assert capsys.readouterr().out.count(": job ") == 2
    (tmp_path / "mended").touch()
    runs = launch(tmp_path, "--", "--fails", "1")
    assert [run.result["accuracy"] for run in runs] == [0.5, 0.51]
    assert (tmp_path / "fake-concat-plain-seed0.log").read_text() == "begins\n"
    assert (tmp_path / "fake-concat-plain-seed1.log").read_text().endswith("goes on\n")


def planned(tmp_path: Path) -> grid.PlannedRun:
    script = entry_script.load(FAKE)
    return grid.plan(script, {"random_seed": ["0"]}, ["--seconds", "0.5"], tmp_path)[0]


def test_a_job_that_gets_submitits_signal_stops_its_run_and_is_submitted_again(tmp_path, monkeypatch):
    remote, log = Remote(planned(tmp_path), FAKE, tmp_path / "run.log"), tmp_path / "run.log"
    delayed = DelayedSubmission(remote)
    delayed.set_timeout(60, 3)
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "7")
    paths = JobPaths(tmp_path, job_id="7")
    handler = SignalHandler(LocalJobEnvironment(), paths, delayed)

    def preempt():
        while not log.exists() or "begins" not in log.read_text():
            time.sleep(0.01)
        for pid in (remote.process.pid, os.getpid()):  # Slurm may signal all processes of a job
            os.kill(pid, signal.SIGUSR2)

    def too_long(*_):
        raise TimeoutError("the job waits for ever")

    before = [(number, signal.signal(number, function)) for number, function in
              ((signal.SIGUSR2, handler.checkpoint_and_try_requeue), (signal.SIGALRM, too_long))]
    signal.alarm(10)
    threading.Thread(target=preempt).start()
    try:
        with pytest.raises(SystemExit, match=str(LOCAL_REQUEUE_RETURN_CODE)):
            remote()
    finally:
        signal.alarm(0)
        for number, function in before:
            signal.signal(number, function)
    assert remote.process.wait() == 143 and log.read_text() == "begins\nstopped\n"
    again = DelayedSubmission.load(paths.submitted_pickle).function
    assert again() == 0
    assert log.read_text().endswith("goes on\n")
    assert json.loads((again.run.folder / "result.json").read_text())["accuracy"] == 0.5


def test_a_job_that_ends_before_its_log_is_there_says_why_and_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalJob, "_results_timeout_s", 0)
    ended = subprocess.Popen(["false"])
    ended.wait()
    submitted, log = LocalJob(tmp_path, "7", process=ended), tmp_path / "run.log"
    submitted.paths.stderr.write_text("Traceback\nModuleNotFoundError: No module named 'utils'\n")
    assert slurm.status_of(submitted, log) == 1
    assert log.read_text().endswith("(state: FINISHED): ModuleNotFoundError: No module named 'utils'\n")
    submitted.paths.stderr.unlink()  # cancelled before it began
    assert slurm.status_of(submitted, log) == 1 and log.read_text().endswith("it printed nothing\n")
    assert "no output" in sweep.failure(Job("run", [], tmp_path / "removed.log"), 1)


def test_options_are_names_with_values():
    assert parse_options(["timeout_min=5", "slurm_partition=gpu"]) == {"timeout_min": 5, "slurm_partition": "gpu"}
    for text in ("timeout", "=5"):
        with pytest.raises(InputError, match="expected NAME=VALUE"):
            parse_options([text])


def test_how_often_a_job_whose_time_is_over_starts_again_reaches_submitit(tmp_path, monkeypatch):
    def executor(folder, **given):
        raise RuntimeError(str(given["slurm_max_num_timeout"]))

    monkeypatch.setattr("submitit.AutoExecutor", executor)
    for more, times in (([], 3), (["--slurm", "slurm_max_num_timeout=9", "timeout_min=5"], 9)):
        with pytest.raises(InputError, match=f"--launcher slurm: {times}$"):
            launch(tmp_path, *more)


@pytest.mark.parametrize(("more", "told"), [(["--slurm", "colour=red"], "colour"),
                                            (["--launcher", "here", "--slurm", "a=1"], "no effect without"),
                                            (["--launcher", "slurm"], "[Ss]lurm|srun|sbatch")])
def test_what_cannot_be_launched_is_told(tmp_path, monkeypatch, more, told):
    monkeypatch.setenv("PATH", "")  # no sbatch
    with pytest.raises(InputError, match=told):
        launch(tmp_path, *more)


def submitted(tmp_path: Path, step: str, told: str, *flags: str) -> tuple[subprocess.CompletedProcess, str]:
    """scripts/slurm.sbatch with an srun that does `step` and a scontrol that says `told` of the job -> how it ended,
    and what srun and `scontrol requeue` were called with."""
    (tmp_path / "bin").mkdir()
    for name, body in (("srun", f'echo "$@" >> $LOG; echo $$ > $LOG.srun\n{step}'), ("scancel", "kill $(< $LOG.srun)"),
                       ("scontrol", f'case $1 in requeue) echo "$@" >> $LOG;; *) echo "{told}";; esac')):
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    log = tmp_path / "log"
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_RESTART_COUNT": "1",
                   "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node", "SLURM_NNODES": "1", "LOG": str(log)}
    argv = ["bash", str(REPO / "scripts" / "slurm.sbatch"), "main_CD.py", str(tmp_path / "run"), *flags]
    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30)
    return ended, log.read_text() if log.exists() else ""


@pytest.mark.parametrize(("files", "flags", "started", "kept"), [
    ({}, "--mmcosine True", "new", True),
    ({"args.json": 9}, "--mmcosine True", "new", False),  # it was killed before its first last.pt
    ({"thesis.doc": 9}, "--mmcosine True", "new", True),
    ({"args.json": 9, "best.pt": 9, "result.json": 9}, "--epochs 20", "new", True),  # its last.pt was removed
    ({"args.json": 9, "last.pt": 9}, "--scaling 20", "resumed", True),  # the entry script refuses what cannot change
    ({"args.json": 9, "last.pt": 9, "result.json": 9}, "--scaling 20", "", True),
    ({"args.json": 9, "last.pt": 9, "result.json": 9}, "--epochs 5 --epochs 9", "", True),
    ({"args.json": 9, "last.pt": 9, "result.json": 9}, "--epochs 20", "resumed", True),
    ({"args.json": 9, "last.pt": 9, "result.json": 9}, "--epochs=20", "resumed", True),
    ({"args.json": 20, "last.pt": 9, "result.json": 9}, "", "resumed", True)])  # stopped while it did more epochs
def test_a_job_resumes_with_its_flags_and_removes_nothing_but_its_own_start(tmp_path, files, flags, started, kept):
    (tmp_path / "run").mkdir()
    for name, epochs in files.items():
        (tmp_path / "run" / name).write_text(json.dumps({"lam": 0, "epochs": epochs}, indent=2))
    ended, log = submitted(tmp_path, "", "node", *flags.split())
    new = " ".join(["--train --ckpt_path", str(tmp_path), "--run_name run", *flags.split()])
    resumed = f"{new} --resume {tmp_path / 'run'}"
    assert log.partition("main_CD.py ")[2].rstrip() == {"new": new, "resumed": resumed, "": ""}[started]
    assert ended.returncode == 0 and ("no flag is used" in ended.stdout) == (not started)
    assert {path.name for path in (tmp_path / "run").glob("*")} == (set(files) if kept else set())


RUNNING, CANCELLED = "JobState=RUNNING PreemptTime=None", "JobState=COMPLETING PreemptTime=None"
PREEMPTED = "JobState=RUNNING PreemptTime=2026-01-02T03:04:05"


@pytest.mark.parametrize(("step", "told", "status", "again"), [
    ("kill -USR1 $PPID", RUNNING, 143, True),  # its time is nearly over
    ("trap 'exit 0' TERM; kill -USR1 $PPID", RUNNING, 0, False),  # it was at its end
    ("kill -TERM $PPID $$", CANCELLED, 143, False), ("kill -TERM $$", PREEMPTED, 143, True),
    ("exit 2", RUNNING, 2, False), ("exit 0", PREEMPTED, 0, False)])
def test_a_job_is_submitted_again_when_slurm_stops_it_and_not_when_the_user_does(tmp_path, step, told, status, again):
    ended, log = submitted(tmp_path, f"{step}\nwhile :; do sleep 0.05; done", told)
    assert ended.returncode == status and ("requeue 7" in log) == again
