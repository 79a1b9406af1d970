"""Data and runs that several tests share: the demo set at its smallest, trained at the smallest sizes."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"  # a test process a core: threads of their own would fight over the cores

import pytest

if TYPE_CHECKING:
    from finished import Run

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would children

REPO = Path(__file__).resolve().parent.parent
REAL_DATA = REPO.parent / "shared" / "realdata"  # real media, beside the checkout; tests that use it skip without
SMALL = ["--image_size", "64", "--audio_seconds", "0.6", "--batch_size", "8", "--num_workers", "0", "--device", "cpu"]

ODD, SHOWN = os.fsdecode(b"caf\xe9"), r"caf\udce9"  # a file's name that is not UTF-8, and how messages show it

needs_real_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real media beside the checkout")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """24 training and 12 test clips of the six emotions."""
    from dataset.demo.emotions import make_demo

    root = tmp_path_factory.mktemp("data") / "tiny"
    make_demo(root, train_per_class=4, test_per_class=2)
    return root


@pytest.fixture(scope="module")
def tiny_encoders() -> Iterator[None]:
    """Small networks in place of the ResNets in this process (not in those that it starts)."""
    from tiny_encoders import tiny

    with tiny():
        yield


@pytest.fixture(scope="module")
def without_pictures() -> Iterator[Callable]:
    """Pictures are made and not drawn in this process -> what would draw them. For tests that do not look at pixels: of
    a run of small networks, drawing its curves is three quarters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    def print_png(canvas: FigureCanvasAgg, path: Path) -> None:
        Path(path).write_bytes(b"\x89PNG, not drawn")

    drawing = FigureCanvasAgg.print_png
    with patch.object(FigureCanvasAgg, "print_png", print_png):
        yield drawing


@pytest.fixture
def with_pictures(without_pictures) -> Iterator[None]:
    """They are drawn, in a module that is `without_pictures`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with patch.object(FigureCanvasAgg, "print_png", without_pictures):
        yield


@pytest.fixture
def real_encoders(tiny_encoders) -> Iterator[None]:
    """The ResNets, in a module that has `tiny_encoders`."""
    from tiny_encoders import real

    with real():
        yield


@pytest.fixture
def train_argv(tiny_data, tmp_path) -> list[str]:
    """Flags of a training run on the tiny data, into tmp_path/run."""
    return ["--train", "--dataset", "tiny", "--data_root", str(tiny_data), "--epochs", "2", "--learning_rate", "0.01",
            "--ckpt_path", str(tmp_path), "--run_name", "run", *SMALL]


@pytest.fixture(scope="session")
def tiny_voices(tmp_path_factory) -> Path:
    """Eight training utterances of four identities, the trials of six utterances of three others."""
    from dataset.demo.identities import make_demo

    root = tmp_path_factory.mktemp("data") / "voices"
    make_demo(root, train_identities=4, train_utterances=2, test_identities=3, test_utterances=2)
    return root


@pytest.fixture(scope="session")
def finished_runs(tiny_data, tmp_path_factory) -> dict[str, Path]:
    """Folders of two finished runs of two epochs on the tiny data, plain and mmcosine, with the networks of
    `tiny_encoders`, which tests that open them need too. Not to be written into."""
    from tiny_encoders import tiny

    from main_CD import main

    root = tmp_path_factory.mktemp("runs")
    argv = ["--train", "--dataset", "tiny", "--data_root", str(tiny_data), "--epochs", "2", "--learning_rate", "0.01",
            "--ckpt_path", str(root), "--amp", "off", *SMALL]
    with tiny():
        main([*argv, "--run_name", "plain"])
        main([*argv, "--run_name", "mmcosine", "--mmcosine"])
    return {name: root / name for name in ("plain", "mmcosine")}


@pytest.fixture
def copied_runs(finished_runs, tmp_path) -> dict[str, Path]:
    """The same in folders of their own, to be written into (their files by replacing them: they are hard links)."""
    return {name: Path(shutil.copytree(folder, tmp_path / "runs" / name, copy_function=os.link))
            for name, folder in finished_runs.items()}


@pytest.fixture(scope="session")
def varied_runs(tmp_path_factory) -> dict[str, "Run"]:
    """The runs of finished.py, of small networks, which tests that open them need too. Not to be written into."""
    from finished import make_runs
    from tiny_encoders import tiny

    with tiny():
        return make_runs(tmp_path_factory.mktemp("varied"))


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> dict[str, Path]:
    from films import make_films

    return make_films(tmp_path_factory.mktemp("films"))
