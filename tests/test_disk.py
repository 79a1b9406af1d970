"""A full disk, or one that does not take a file: one message with the file, the reason and what is safe.

The system's limit on the size of files stands in for a full disk: writes fail in the system all the same.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dataset.demo.emotions import make_demo
from dataset.errors import DiskError, InputError
from dataset.preparation import clips as prep
from dataset.whole_files import write_whole
from scripts import score
from utils import cli, distributed
from utils.training import checkpoint
from utils.training.tensorboard import Events


@contextmanager
def largest_file(count: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {"text": "x" * 50_000,
           "checkpoint": lambda path: torch.save({"a": torch.zeros(50_000)}, path),
           "wav": lambda path: soundfile.write(path, np.zeros(50_000), 16000),
           "npy": lambda path: np.save(path, np.zeros(50_000))}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_does_not_fit_is_named_with_the_free_space_and_the_old_one_stays(tmp_path, kind):
    path = tmp_path / {"wav": "a.wav", "npy": "a.npy"}.get(kind, "a.pt")
    path.write_text("old")
    with largest_file(20_000), pytest.raises(DiskError, match=rf"^{path} cannot be written \(.+; .+ free there\)"):
        write_whole(path, WRITERS[kind])
    assert path.read_text() == "old" and os.listdir(tmp_path) == [path.name]


def test_an_error_that_is_not_the_disks_is_not_called_one(tmp_path):
    def writer(path: Path) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match=r"^mat1"):
        write_whole(tmp_path / "a", writer)


def test_a_checkpoint_that_does_not_fit_says_how_much_is_needed(tmp_path):
    content = {"model": {"a": torch.zeros(100_000), "b": torch.zeros(50_000, dtype=torch.int64)}, "epoch": 3}
    with largest_file(20_000), pytest.raises(DiskError, match=r"free there\), 800 kB needed$"):
        checkpoint.save(tmp_path / "last.pt", content)


def test_a_name_that_is_too_long_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"has 300 bytes, too many for its file system: rename") as error:
        write_whole(tmp_path / ("a" * 300), "text")
    assert not isinstance(error.value, DiskError)  # which would stop a whole preparation


def test_demo_data_that_does_not_fit_is_refused_by_name(tmp_path):
    with largest_file(15_000), pytest.raises(DiskError, match=r"\.wav cannot be written"):
        make_demo(tmp_path / "demo", train_per_class=1, test_per_class=1)


def test_frames_that_do_not_fit_stop_a_preparation_and_leave_none(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    with largest_file(5_000), pytest.raises(DiskError, match=r"clip cannot be written"):
        prep.write_frames(tmp_path / "clip", [noise], 95)
    assert not os.listdir(tmp_path)


def test_a_full_disk_in_the_second_epoch_names_what_is_safe(train_argv, tmp_path):
    from main_CD import main

    save, saved = torch.save, []

    def until_full(content: dict, path: Path) -> None:
        saved.append(path.name)
        with largest_file(1_000_000 if len(saved) > 3 else resource.RLIM_INFINITY):  # the start, and one epoch's two
            save(content, path)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError) as full:
        patch.setattr(torch, "save", until_full)
        main([*train_argv, "--modality", "visual", "--use_tensorboard", "False"])
    run = tmp_path / "run"
    assert f"{run}/" in str(full.value) and "MB needed" in str(full.value)
    assert str(full.value).endswith(f"{run}/last.pt holds 1 whole epoch of the run: fix this, then continue with "
                                    f"--resume {run}")
    assert len(torch.load(run / "last.pt", weights_only=True, mmap=True)["history"]) == 1
    assert "cannot be written" in (run / "train.log").read_text()


def test_events_that_do_not_fit_are_one_error_and_no_traceback_of_a_thread(tmp_path, capfd):
    events = Events(tmp_path)
    with largest_file(2_000), pytest.raises(DiskError, match=rf"^{tmp_path} cannot be written"):
        for step in range(1000):
            events.iterations({"loss": torch.zeros(10)}, 10 * step)
        events.epoch({}, 1)
    events.close()
    assert capfd.readouterr().err == ""


def test_an_events_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=rf"^{tmp_path}/file/events cannot be written"):
        Events(tmp_path / "file" / "events")


def test_a_curve_that_does_not_fit_is_named(tmp_path):
    (tmp_path / "trials").write_text("1 a b\n0 a c\n")
    (tmp_path / "scores").write_text("0.5 a b\n0.1 a c\n")
    argv = [f"--trials={tmp_path}/trials", f"--scores={tmp_path}/scores", f"--det={tmp_path}/d.png"]
    with largest_file(1_000), pytest.raises(DiskError, match=rf"^{tmp_path}/d.png cannot be written"):
        score.main(argv)


def test_a_log_that_does_not_fit_is_named_and_ends_the_session_with_that_error(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.print", lambda *_, **__: None)  # pytest keeps it in a file
    with largest_file(1_000), pytest.raises(DiskError, match=rf"^{tmp_path}/train.log cannot be written"), \
            distributed.session("cpu", []):
        distributed.log_to(tmp_path / "train.log")
        for _ in range(100):
            distributed.print_once("a line of the log")


def test_an_error_that_names_no_file_is_raised_as_it_is(monkeypatch):
    def main(argv: list[str]) -> None:
        raise OSError("100000 requested and 2484 written")

    with pytest.raises(OSError, match="100000 requested"):
        cli.run(main)
