"""Memory that runs out and processes that are ended from outside: one sentence, exit status 2, no traceback."""

import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import SMALL
from torch.utils.data import DataLoader, Dataset

from dataset.errors import InputError
from utils import cli, distributed, failures
from utils.failures import machine_error


class Clips(Dataset):
    """The item with number `harmful` ends its loader's process with a signal, or asks for far too much memory."""

    def __init__(self, harmful: int = -1, ended_by: int = 0):
        self.harmful, self.ended_by = harmful, ended_by

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == self.harmful and self.ended_by:
            os.kill(os.getpid(), self.ended_by)
            time.sleep(60)
        return torch.zeros(10**15 if index == self.harmful else 1)


def use(loader: DataLoader) -> None:
    with distributed.session("cpu", []):
        for _ in loader:
            pass


@pytest.mark.parametrize("ended_by, said", [(signal.SIGKILL, "a loader process was ended from outside.*fewer --num_w"),
                                            (signal.SIGBUS, r"the shared memory \(/dev/shm\)")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see failures.settled
def test_a_loader_process_that_the_system_ends_is_one_sentence(ended_by, said):
    with pytest.raises(InputError, match=said):
        use(DataLoader(Clips(5, ended_by), num_workers=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_that_is_not_enough_is_one_sentence_wherever_it_runs_out(workers):
    with pytest.raises(InputError, match="the memory of this machine is not enough: choose a smaller --batch_size"):
        use(DataLoader(Clips(5), num_workers=workers))


@pytest.mark.parametrize("error, said", [
    (MemoryError(), r"^the memory of this machine is not enough.*\(MemoryError\)$"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee"),
     r"^the memory of the GPU is not enough: .*--amp bf16.*or --cache ram.*\(CUDA out of memory. Tried .* GiB.\)$"),
    (OSError(12, "Cannot allocate memory"), "^the memory of this machine"),
    (RuntimeError("unable to mmap 9 bytes from file </a/b.bin>: Cannot allocate memory (12)"), "--cache.*ulimit -v"),
    (RuntimeError("unable to mmap 9 bytes from file </torch_7_8_9>: Cannot allocate memory (12)"), "--shm-size"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is"), "^the shared memory.*--shm-size"),
    (ConnectionResetError(104, "Connection reset by peer"), "^a loader process was ended"),
    (RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:3"), "^another process")])
def test_errors_of_the_machine_are_known_by_type_and_text(error, said, monkeypatch):
    monkeypatch.setattr(failures, "WAIT", 0)
    assert re.search(said, str(machine_error(error)))


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), ValueError("DataLoader worker (pid 3)"), KeyError(""),
                                   InputError("a.wav: Cannot allocate memory"), OSError(2, "No such file", "a"),
                                   RuntimeError("")])
def test_other_errors_are_not_called_the_machines(error):
    assert machine_error(error) is None


def test_a_command_ends_with_status_2_and_the_sentence_after_an_error_of_the_machine(monkeypatch, capsys):
    def main(argv: list[str]) -> None:
        torch.zeros(10**15)

    monkeypatch.setattr(sys, "argv", ["tool.py"])
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1
    assert err.startswith("tool.py: error: the memory of this machine")


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def main(argv: list[str]) -> None:
        raise RuntimeError("mat1 and mat2")

    monkeypatch.setattr(sys, "argv", ["tool.py"])
    with pytest.raises(RuntimeError, match="mat1"):
        cli.run(main)


def test_of_two_errors_about_a_loader_process_the_one_with_the_reason_counts():
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__context__ = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. ")
    assert "--shm-size" in str(machine_error(error))


def test_the_first_process_that_fails_speaks_for_all(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 2)
    store.set_timeout(timedelta(seconds=5))
    said = {1: "error: a.wav\n", 0: "error: a.wav\n", 2: "the connection is closed\n"}
    found = {rank: failures.report_failure(store, rank, text) for rank, text in said.items()}
    assert found == {rank: (rank == 1, "error: a.wav\n") for rank in said}


def test_an_error_of_one_process_in_an_epoch_is_told_once_and_logged(tiny_data, tmp_path):
    """A wav is damaged after the check: the second of two processes meets it in the first epoch."""
    argv = ["--train", "--dataset", "tiny", "--data_root", str(tiny_data), "--epochs", "1", "--ckpt_path",
            str(tmp_path), "--run_name", "run", "--modality", "audio", *SMALL]
    script = tmp_path / "harmed.py"
    script.write_text(HARMED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*torchrun, str(script), *argv], capture_output=True, text=True,
                          cwd=Path(__file__).parent.parent,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)})
    own = [line for line in done.stderr.splitlines() if "harmed.py: error: " in line]
    assert done.returncode and len(own) == 1 and own[0].endswith("a.wav is damaged"), done.stderr
    # torchrun's own report holds one traceback, its own
    assert done.stderr.count("Traceback") <= 1 and "gloo" not in done.stderr, done.stderr
    assert (tmp_path / "run" / "train.log").read_text().endswith("error: a.wav is damaged\n")


HARMED = """
import main_CD
from dataset.clips import ClipDataset
from dataset.errors import InputError
from utils import cli, distributed, failures

read = ClipDataset.__getitem__

def harmed(self, index):
    if distributed.rank() == 1:
        raise InputError("a.wav is damaged")
    return read(self, index)

ClipDataset.__getitem__ = harmed
if __name__ == "__main__":
    cli.run(main_CD.main)
"""
