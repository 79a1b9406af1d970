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
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
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
    (MemoryError("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback:\n  x\nMemoryError: 9 GiB"),
     r"^the memory of this machine is not enough.*\(Caught MemoryError .* process 0. MemoryError: 9 GiB\)$"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee"),
     r"^the memory of the GPU is not enough: .*--amp bf16.*or --cache ram.*\(CUDA out of memory. Tried .* GiB. See\)$"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "^the memory of the GPU"),
    (OSError(12, "Cannot allocate memory"), "^the memory of this machine"),
    (ImportError("libx.so: failed to map: Cannot allocate memory"), "^the memory of this machine"),
    (RuntimeError("unable to mmap 9 bytes from file </a/b.bin>: Cannot allocate memory (12)"), "--cache.*ulimit -v"),
    (RuntimeError("unable to mmap 9 bytes from file </torch_7_8_9>: Cannot allocate memory (12)"), "--shm-size"),
    (RuntimeError("unable to write to file </torch_7_8_9>: No space left on device (28)"), "--shm-size"),
    (RuntimeError("unable to open shared memory object </torch_7> in read-write mode: Too many open files (24)"),
     r"^this process may not open as many files.*ulimit -n.*\(unable to open .*Too many open files \(24\)\)$"),
    (OSError(24, "Too many open files", "a.jpg"), "ulimit -n"),
    (RuntimeError("can't start new thread"), "ulimit -v.*ulimit -u"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is"), "^the shared memory.*--shm-size"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "by SIGKILL, as the system does"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "), "^a library crashed in a"),
    (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "ended without a message.*dmesg"),
    (RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:3"), "^another process"),
    (RuntimeError("NCCL error in: x.cpp:1, remote process exited or there was a network error, NCCL version 2.28"),
     "^another process.*kill -9.*--resume")])
def test_errors_of_the_machine_are_known_by_type_and_text(error, said, monkeypatch):
    monkeypatch.setattr(failures, "WAIT", 0)
    assert re.search(said, str(machine_error(error)))


@pytest.mark.parametrize("error", [
    RuntimeError("mat1 and mat2"), ValueError("DataLoader worker (pid 3)"), KeyError(""), RuntimeError(""),
    InputError("a.wav: Cannot allocate memory"), OSError(2, "No such file", "a"), EOFError("Ran out of input"),
    ConnectionResetError(104, "Connection reset by peer"), ConnectionRefusedError(111, "Connection refused"),
    TimeoutError("timed out"), ChildProcessError(10, "No child processes"), BrokenPipeError(32, "Broken pipe"),
    RuntimeError("NCCL error in: x.cpp:1, invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.28"),
    RuntimeError("NCCL error: unhandled cuda error"), RuntimeError("No backend NCCL is built into this PyTorch"),
    RuntimeError("[gloo/transport/tcp/device.cc:84] ifa != nullptr. Unable to find address for: eth9"),
    RuntimeError("unable to mmap 9 bytes from file </a/b.bin>: Permission denied (13)"),
    RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost"),
    RuntimeError("CUDA error: an illegal memory access was encountered")])
def test_other_errors_are_not_called_the_machines(error, monkeypatch):
    monkeypatch.setattr(failures, "WAIT", 0)
    assert machine_error(error) is None


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "Connection reset by peer")])
def test_a_broken_connection_is_a_loaders_only_where_a_loader_was_asked(error, monkeypatch):
    monkeypatch.setattr(failures, "WAIT", 0)
    for modules, told in ((["torch.utils.data.dataloader", "multiprocessing.connection"], True),
                          (["torch.utils.data.dataloader", "numpy.lib"], False),
                          (["utils.training.train", "multiprocessing.connection"], False)):
        assert bool(machine_error(raised_in(modules, error.with_traceback(None)))) is told, modules


def raised_in(modules: list[str], error: Exception) -> Exception:
    """The error as functions of these modules, each called by the one before, would raise it."""
    call = None
    for name in reversed(modules):
        scope = {"__name__": name, "call": call, "error": error}
        exec("def step():\n    if call:\n        call()\n    raise error", scope)
        call = scope["step"]
    try:
        call()
    except type(error) as caught:
        return caught


@pytest.mark.parametrize("error", [
    ConnectionRefusedError(111, "Connection refused"), TimeoutError(110, "timed out"), EOFError("Ran out of input"),
    ChildProcessError(10, "No child processes"), OSError(113, "No route to host"),
    RuntimeError("NCCL error in: x.cpp:1, invalid usage")])
def test_an_error_that_nobody_knows_keeps_its_traceback(error, monkeypatch):
    def main(argv: list[str]) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["tool.py"])
    with pytest.raises(type(error)) as raised:
        cli.run(main)
    assert raised.value is error


@pytest.mark.parametrize("error, said", [
    (PermissionError(13, "Permission denied", "a.wav"), "a.wav cannot be read or written: Permission denied"),
    (FileNotFoundError(2, "No such file or directory", b"a.wav"), "a.wav cannot be read or written: No such file"),
    (OSError(28, "No space left on device"), "a file cannot be written: No space left on device")])
def test_an_error_about_a_file_is_one_sentence(error, said, monkeypatch, capsys):
    def main(argv: list[str]) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["tool.py"])
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith(f"tool.py: error: {said}") and err.count("\n") == 1


def test_memory_that_a_limit_denies_is_told_with_the_limit(monkeypatch):
    monkeypatch.setattr(failures.resource, "getrlimit", lambda _: (4_000_000_000, -1))
    assert str(machine_error(MemoryError())).startswith(
        "the memory that this process may use (4.0 GB, ulimit -v) is not enough: choose a smaller --batch_size")


TRAINS = """
import os, signal, sys
import torch
from torch.utils.data import DataLoader, Dataset
from utils import cli, failures

class Clips(Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return torch.zeros(1)

def main(argv):
    try:
        with failures.stops_first():
            for number, _ in enumerate(DataLoader(Clips(), num_workers=2, batch_size=1)):
                if number == 5:
                    os.killpg(0, getattr(signal, argv[0]))
    except (KeyboardInterrupt, SystemExit):
        print("stopped after 0 epochs", flush=True)
        raise

cli.run(main)
"""


@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_to_a_group_with_loaders_is_told_as_a_stop(name, status):
    done = subprocess.run([sys.executable, "-c", TRAINS, name], cwd=Path(__file__).parent.parent, text=True,
                          capture_output=True, start_new_session=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, "stopped after 0 epochs\n", "")


def test_a_loader_that_is_found_dead_during_a_stop_is_no_failure():
    """torch's handler of SIGCHLD may raise while the stop is already under way."""
    with pytest.raises(SystemExit) as stop, failures.stops_first():
        try:
            sys.exit(143)
        finally:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")
    assert stop.value.code == 143


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


@pytest.mark.parametrize("status, said", [(-9, "SIGKILL"), (-15, "SIGTERM"), (-99, "signal 99")])
def test_a_process_of_several_gpus_that_a_signal_ends_is_told(status, said, monkeypatch):
    failed = ProcessFailure(1, 4711, status, "<N/A>")

    def launched(*_: object) -> None:
        raise ChildFailedError("main_CD.py", {1: failed})

    monkeypatch.setattr(distributed, "elastic_launch", lambda *_: launched)
    with pytest.raises(InputError, match=f"^process 1 of 2 was ended by {said}, .* continue with --resume$"):
        distributed.launch("main_CD.py", [], 2)


def test_a_process_of_several_gpus_that_fails_gives_its_exit_status(monkeypatch):
    def launched(*_: object) -> None:
        raise ChildFailedError("main_CD.py", {0: ProcessFailure(0, 4711, 2, "<N/A>")})

    monkeypatch.setattr(distributed, "elastic_launch", lambda *_: launched)
    with pytest.raises(SystemExit) as stop:
        distributed.launch("main_CD.py", [], 2)
    assert stop.value.code == 2


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
