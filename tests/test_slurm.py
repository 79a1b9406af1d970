"""sweep.py --launcher: jobs submitted by submitit, here with its local executor in place of a cluster's."""

import json
import os
import pickle
import subprocess
from pathlib import Path

import pytest
from conftest import REPO

from dataset.errors import InputError
from scripts import sweep
from utils.experiments import entry_script, grid, slurm
from utils.experiments.slurm import Remote, parse_options

pytest.importorskip("submitit")
FAKE = REPO / "tests" / "fake_entry.py"


def launch(out: Path, *more: str):
    return sweep.main(["--script", str(FAKE), "--output", str(out), "--random_seed", "0", "1", "--launcher", "local",
                       *more])


def test_every_run_is_a_job_that_fails_alone_and_is_continued_by_the_same_command(tmp_path, capsys):
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


def test_a_preempted_job_is_submitted_again_and_resumes(tmp_path, monkeypatch):
    remote = Remote(planned(tmp_path), FAKE, tmp_path / "run.log")
    monkeypatch.setattr(slurm.subprocess.Popen, "wait", lambda process: 0)
    remote()
    while "begins" not in (tmp_path / "run.log").read_text():
        pass
    monkeypatch.undo()
    again = remote.checkpoint().function
    assert remote.process.returncode == 143 and "stopped" in (tmp_path / "run.log").read_text()
    again = pickle.loads(pickle.dumps(again))  # submitit stores it
    assert again() == 0
    assert (tmp_path / "run.log").read_text().endswith("goes on\n")
    assert json.loads((again.run.folder / "result.json").read_text())["accuracy"] == 0.5


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
