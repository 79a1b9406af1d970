"""A run's folder: one process at a time, nothing left of killed ones, and what the next start or resume says of it."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO

from dataset.errors import InputError
from main_CD import main
from utils.training import checkpoint, train

pytestmark = pytest.mark.usefixtures("tiny_encoders")

# Writes to the folder it is given, and so does a fork of it, as loader workers are, that lives on when it is killed.
HOLDER = """
import os, sys, time
from pathlib import Path
from utils.training.run_folder import held

with held(Path(sys.argv[1]), resume=sys.argv[2] == "resume"):
    fork = os.fork()
    if fork:
        print(fork, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def living() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


@contextmanager
def writing(folder: Path, how: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """(a process that writes to the folder, the id of its fork)"""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), how], stdout=subprocess.PIPE, text=True,
                          cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)}) as process:
        fork = int(process.stdout.readline())
        try:
            yield process, fork
        finally:
            process.kill()
            os.kill(fork, signal.SIGKILL)


def test_a_second_resume_is_refused_while_the_first_lives_whatever_its_workers_do(copied_runs):
    folder = copied_runs["plain"]
    with writing(folder, "resume") as (process, fork):
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        with pytest.raises(InputError, match=f"another process is writing to {folder}"):
            main(["--resume", str(folder)])
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before, "nothing was written"
        process.kill()
        process.wait()
        os.kill(fork, 0)  # it is there
        main(["--resume", str(folder)])


def test_the_same_run_is_not_started_twice_at_once(train_argv, tmp_path):
    folder = tmp_path / "run"
    with writing(folder, "start"):
        for argv in (train_argv, ["--resume", str(folder)]):
            with pytest.raises(InputError, match=f"another process is writing to {folder}"):
                main(argv)
        assert folder.is_dir(), "the first one's folder is left alone"


def test_temporary_files_of_ended_processes_are_removed_by_resume_and_those_of_living_ones_kept(copied_runs, ended,
                                                                                             living):
    folder = copied_runs["plain"]
    for process in (ended, living):
        (folder / f".{process}.last.pt").write_bytes(b"half a checkpoint")
    main(["--resume", str(folder)])
    assert [path.name for path in folder.glob(".*")] == [f".{living}.last.pt"]


def test_temporary_files_are_removed_at_the_end_of_a_run(copied_runs, ended, monkeypatch):
    folder = copied_runs["plain"]
    monkeypatch.setattr(train, "fit", lambda *_: (folder / f".{ended}.best.pt").touch())
    main(["--resume", str(folder)])
    assert not list(folder.glob(".*"))


def test_resume_completes_what_a_kill_behind_last_pt_left_an_epoch_short(copied_runs):
    folder = copied_runs["plain"]
    whole = {name: (folder / name).read_bytes() for name in ("metrics.jsonl", "class_norms.npy")}
    norms = np.load(folder / "class_norms.npy")
    for name in (*whole, "result.json"):
        (folder / name).unlink()  # the files are hard links
    (folder / "metrics.jsonl").write_bytes(whole["metrics.jsonl"].splitlines(keepends=True)[0])
    np.save(folder / "class_norms.npy", norms[:1])
    main(["--resume", str(folder)])
    assert {name: (folder / name).read_bytes() for name in whole} == whole
    assert json.loads((folder / "result.json").read_text())["epochs"] == 2


# ---- before the first last.pt


@pytest.fixture
def killed_start(copied_runs, tmp_path, ended) -> Path:
    """What a run of train_argv leaves that is killed while it writes its first last.pt."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("args.json", "train.log"):
        shutil.copy(copied_runs["plain"] / name, folder)
    (folder / "events.out.tfevents.1.killed").write_bytes(b"")
    (folder / f".{ended}.last.pt").write_bytes(b"half a checkpoint")
    return folder


def test_a_start_that_was_killed_cannot_be_resumed_but_started_again(killed_start, train_argv, capsys):
    with pytest.raises(InputError, match=r"nothing to continue\. Start it again .* or remove the folder"):
        main(["--resume", str(killed_start)])
    result = main([*train_argv, "--epochs", "1"])
    assert f"{killed_start} holds a start that was killed" in capsys.readouterr().out
    assert json.loads((killed_start / "result.json").read_text()) == result
    assert not list(killed_start.glob(".*")) and len(list(killed_start.glob("events.*"))) == 1


@pytest.mark.parametrize("other", ["thesis.tex", ".git", ".profile"])
def test_a_folder_with_other_files_is_neither_a_run_nor_a_start(killed_start, train_argv, other):
    (killed_start / other).touch()
    with pytest.raises(InputError, match=rf"is there already \({other}\): choose another --run_name") as error:
        main(train_argv)
    assert "--resume" not in str(error.value)
    with pytest.raises(InputError, match=r"it holds no last\.pt\. Give the folder that the run printed"):
        main(["--resume", str(killed_start)])
    assert (killed_start / other).exists() and (killed_start / "args.json").exists()


@pytest.mark.parametrize("reason", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_start_that_failed_leaves_no_folder(train_argv, tmp_path, monkeypatch, reason):
    def fail(*_):
        raise reason

    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.raises(type(reason)):
        main(train_argv)
    assert not (tmp_path / "run").exists()


def test_a_file_in_place_of_the_folder_is_named(train_argv, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match=r"run is there already \(it is a file\)"):
        main(train_argv)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_resume_by_another_number_of_processes_is_noted(copied_runs, capsys):
    folder = copied_runs["plain"]
    content = checkpoint.load(folder / "last.pt")
    content["facts"]["processes"] = 2
    checkpoint.save(folder / "last.pt", content)
    main(["--resume", str(folder)])
    assert "note: " in (printed := capsys.readouterr().out) and "a run of 2 processes, now there are 1" in printed
