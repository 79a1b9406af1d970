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


@pytest.mark.parametrize(("more", "told"), [(["--slurm", "colour=red"], "colour"),
                                            (["--launcher", "here", "--slurm", "a=1"], "no effect without"),
                                            (["--launcher", "slurm"], "[Ss]lurm|srun|sbatch")])
def test_what_cannot_be_launched_is_told(tmp_path, monkeypatch, more, told):
    monkeypatch.setenv("PATH", "")  # no sbatch
    with pytest.raises(InputError, match=told):
        launch(tmp_path, *more)


@pytest.mark.parametrize(("files", "starts_with", "kept"), [
    ([], "--train --ckpt_path {parent} --run_name run --mmcosine True", True),
    (["args.json"], "--train", False), (["args.json", "last.pt"], "--resume {run}", True),
    (["thesis.doc"], "--train", True), (["last.pt", "result.json"], "", True)])
def test_a_requeued_job_resumes_and_removes_nothing_but_its_own_start(tmp_path, files, starts_with, kept):
    (tmp_path / "run").mkdir()
    for name in files:
        (tmp_path / "run" / name).touch()
    (tmp_path / "bin").mkdir()
    for name, body in (("srun", 'echo "$@" > $LOG'), ("scontrol", "echo node")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_RESTART_COUNT": "1",
                   "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node", "SLURM_NNODES": "1", "LOG": str(tmp_path / "log")}
    run = str(tmp_path / "run")
    subprocess.run(["bash", str(REPO / "scripts" / "slurm.sbatch"), "main_CD.py", run, "--mmcosine", "True"],
                   env=environment, check=True, capture_output=True)
    started = (tmp_path / "log").read_text().partition("main_CD.py ")[2] if (tmp_path / "log").exists() else ""
    assert started.startswith(starts_with.format(parent=tmp_path, run=run)) and bool(started) == bool(starts_with)
    assert {path.name for path in Path(run).glob("*")} == (set(files) if kept else set())
