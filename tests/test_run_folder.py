"""A run's folder: one process at a time, nothing left of killed ones, and what the next start or resume says of it."""

import errno
import io
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
import torch
from conftest import REPO

from dataset.errors import InputError
from dataset.whole_files import machine, remove_leftovers
from main_CD import main
from utils.experiments.finished_run import open_run
from utils.experiments.flags import Machine
from utils.training import checkpoint, train
from utils.training.run import is_finished

pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")

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
        (folder / f".{process}-{machine()}.last.pt").write_bytes(b"half a checkpoint")
    main(["--resume", str(folder)])
    assert [path.name for path in folder.glob(".*")] == [f".{living}-{machine()}.last.pt"]


def test_temporary_files_are_removed_at_the_end_of_a_run(copied_runs, ended, monkeypatch):
    folder = copied_runs["plain"]
    monkeypatch.setattr(train, "fit", lambda *_: (folder / f".{ended}-{machine()}.best.pt").touch())
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


def test_the_seconds_of_an_epoch_are_the_median_which_one_long_epoch_does_not_change(copied_runs):
    folder = copied_runs["plain"]
    content = torch.load(folder / "last.pt", weights_only=True)
    for record, seconds in zip(content["history"], (0.0, 900.0), strict=True):
        record["train_seconds"] = seconds
    (folder / "last.pt").unlink()
    torch.save(content, folder / "last.pt")
    result = main(["--resume", str(folder), "--epochs", "3", "--num_workers", "0"])
    seconds = [json.loads(line)["train_seconds"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert seconds[:2] == [0, 900] and 0 < seconds[2] < 300
    assert result["epoch_seconds"] == seconds[2]


def test_nothing_else_is_taken_for_a_leftover(tmp_path, ended):
    others = (".2020.backup", f".{ended}.last.pt", f".{ended}-0123abcd.last.pt", f"{ended}-{machine()}.last.pt")
    for name in (*others, f".{ended}-{machine()}.last.pt"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)  # .<pid>-0123abcd: of another machine, where the process may live
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_a_run_that_lost_its_last_pt_keeps_its_folder(train_argv, tmp_path, monkeypatch):
    def lose(task, learner, run, *_):
        (run.folder / "metrics.jsonl").touch()
        (run.folder / "last.pt").unlink()
        raise SystemExit(143)

    monkeypatch.setattr(train, "fit", lose)
    with pytest.raises(SystemExit):
        main(train_argv)
    assert (tmp_path / "run" / "metrics.jsonl").exists() and (tmp_path / "run" / "args.json").exists()


@pytest.mark.parametrize(("name", "text"), [("args.json", "{}"), ("args.json", '{"theme": "mine"}'),
                                            ("train.log", "my notes"), ("events.out.tfevents.1.mine", "x")])
def test_files_of_something_else_are_no_start(train_argv, tmp_path, name, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text(text)
    with pytest.raises(InputError, match=rf"is there already \({name}"):
        main([*train_argv, "--tensorboard_path", "/dev/null/x"])
    assert (tmp_path / "run" / name).read_text() == text


def test_an_empty_folder_is_no_killed_start(train_argv, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    main([*train_argv, "--epochs", "1"])
    assert "killed" not in capsys.readouterr().out


# ---- best.pt belongs to last.pt


def test_a_best_pt_that_was_not_written_any_more_is_made_of_last_pt(train_argv, tmp_path, monkeypatch):
    main([*train_argv, "--run_name", "whole", "--epochs", "2"])
    main([*train_argv, "--epochs", "1"])
    first = (tmp_path / "run" / "best.pt").read_bytes()
    (tmp_path / "run" / "best.pt").unlink()  # killed between the two files of the first epoch
    monkeypatch.setattr(train, "fit", lambda *_: None)
    main(["--resume", str(tmp_path / "run"), "--epochs", "1"])
    made, before = (torch.load(io.BytesIO(content), weights_only=True)
                    for content in ((tmp_path / "run" / "best.pt").read_bytes(), first))
    assert all(made["model"][name].equal(value) for name, value in before["model"].items())
    assert made["epoch"] == before["epoch"] == 1


def test_a_best_pt_of_another_epoch_is_refused(train_argv, tmp_path):
    main([*train_argv, "--epochs", "2"])
    folder = tmp_path / "run"
    last = torch.load(folder / "last.pt", weights_only=True)
    last["history"][0]["test_accuracy"] = 2.0  # so that the first epoch is the best one
    torch.save(last, folder / "last.pt")
    best = torch.load(folder / "best.pt", weights_only=True)
    torch.save({**best, "epoch": 2}, folder / "best.pt")
    with pytest.raises(InputError, match=r"best\.pt is missing or does not hold epoch 1"):
        main(["--resume", str(folder), "--epochs", "3"])
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "best_epoch": 1}))
    with pytest.raises(InputError, match=r"best\.pt holds epoch 2, result\.json is of epoch 1"):
        assert open_run(folder, Machine(device="cpu", num_workers=0)).task


# ---- before the first last.pt


@pytest.fixture
def killed_start(copied_runs, tmp_path, ended) -> Path:
    """What a run of train_argv leaves that is killed while it writes its first last.pt."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("args.json", "train.log"):
        shutil.copy(copied_runs["plain"] / name, folder)
    (folder / "events.out.tfevents.1.killed").write_bytes(b"")
    (folder / f".{ended}-{machine()}.last.pt").write_bytes(b"half a checkpoint")
    return folder


def test_a_start_that_was_killed_cannot_be_resumed_but_started_again(killed_start, train_argv, capsys):
    with pytest.raises(InputError, match=r"nothing to continue\. Start it again .* or remove the folder"):
        main(["--resume", str(killed_start)])
    result = main([*train_argv, "--epochs", "1"])
    assert f"the run in {killed_start} was killed before its first last.pt" in capsys.readouterr().out
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


def test_a_resume_on_another_device_is_noted(copied_runs, capsys):
    folder = copied_runs["plain"]
    main(["--resume", str(folder)])
    assert "was written on" not in capsys.readouterr().out
    content = checkpoint.load(folder / "last.pt")
    content["facts"] |= {"device": "a card", "precision": "bfloat16"}
    checkpoint.save(folder / "last.pt", content)
    main(["--resume", str(folder)])
    assert "last.pt was written on a card in bfloat16, this is cpu" in capsys.readouterr().out


def test_a_resume_by_another_number_of_processes_is_noted(copied_runs, capsys):
    folder = copied_runs["plain"]
    content = checkpoint.load(folder / "last.pt")
    content["facts"]["processes"] = 2
    checkpoint.save(folder / "last.pt", content)
    main(["--resume", str(folder)])
    assert "note: " in (printed := capsys.readouterr().out) and "a run of 2 processes, now there are 1" in printed


def test_a_finished_run_that_is_resumed_to_more_epochs_is_not_finished(tmp_path):
    for name, epochs in (("result.json", 3), ("args.json", 5)):
        (tmp_path / name).write_text(f'{{"epochs": {epochs}}}')
    assert not is_finished(tmp_path)
    (tmp_path / "args.json").write_text('{"epochs": 3}')
    assert is_finished(tmp_path)
