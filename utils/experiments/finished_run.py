"""Finished runs, opened again: figures, data, best weights and features, for probes and pictures."""

import importlib.util
import json
import re
from argparse import ArgumentParser, Namespace
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
from torch.utils.data import Dataset

from utils import distributed
from utils.cli import number
from utils.errors import InputError
from utils.experiments.features import Features, extract
from utils.training import checkpoint, options, report, tensorboard, train
from utils.training.classification import Built
from utils.training.run import is_finished, read_json


def add_flags(parser: ArgumentParser) -> None:
    """Which runs, and what of a run's settings may differ on this machine."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--data_root", type=Path, help="folder of the data; default: the run's")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:<index>")
    parser.add_argument("--num_workers", type=number(int, 0), default=2, help="loader processes")


class OpenedRun:
    """A run's folder; data and weights are opened when they are first asked for. Evaluation transforms throughout.

    machine: flags of `add_flags`. Raises InputError: no run, an unfinished one, one that does not classify.
    """

    def __init__(self, folder: Path, machine: Namespace):
        check_finished(folder)
        self.folder, self.machine = folder, machine
        self.result, self.settings = read_json(folder / "result.json"), read_json(folder / "args.json")
        self.history = read_history(folder / "metrics.jsonl")
        self.name, self.modalities = str(folder), list(options.modalities(Namespace(**self.settings)))
        self.script = entry_script(self.result, folder)
        self.title = report.title(self.result)

    @cached_property
    def args(self) -> Namespace:
        """The settings that the checkpoint holds, for this machine; `train`, because the training clips are wanted."""
        root = ["--data_root", str(self.machine.data_root)] if self.machine.data_root else []
        args = self.script.parse(["--ckpt_path", str(self.folder / "best.pt"), "--device", self.machine.device,
                                  "--num_workers", str(self.machine.num_workers), *root])
        args.train = True
        return args

    @cached_property
    def built(self) -> Built:
        """Data sets, the network with its best weights, what computes it. Raises InputError: data that is missing, or
        other than the run's."""
        path = self.folder / "best.pt"
        content = checkpoint.load(path)
        device = distributed.choose_device(self.machine.device, [], 0)
        built = self.script.build(self.args, device)
        train.check_same_data(content["facts"], built.splits.facts(), path, "name it with --data_root")
        checkpoint.load_model(built.model, content, path)
        train.place(built.model, built.compute, compiled=False)
        return built

    @cached_property
    def train_features(self) -> Features:
        return self.features(self.built.splits.train.for_evaluation())

    @cached_property
    def test_features(self) -> Features:
        return self.features(self.built.splits.test)

    def features(self, dataset: Dataset) -> Features:
        loader = train.evaluation_loader(dataset, self.args, self.built.compute)
        return extract(self.built.model, loader, self.built.compute)

    def close(self) -> None:
        """Lets go of data, network and features."""
        for name in ("built", "train_features", "test_features"):
            self.__dict__.pop(name, None)

    def logits(self) -> dict[str, np.ndarray]:
        """As `events.read_logits`."""
        elsewhere = self.settings["tensorboard_path"]
        folder = tensorboard.events_folder(self.folder, Path(elsewhere) if elsewhere else None)
        return tensorboard.read_logits(folder, self.modalities)

    def class_norms(self) -> np.ndarray | None:
        """(epochs, M, C) ||W_m,c|| after every epoch; None of a run from before they were recorded."""
        path = self.folder / "class_norms.npy"
        try:
            return np.load(path) if path.is_file() else None
        except (ValueError, EOFError):
            raise InputError(f"{path} is damaged: remove it, and that picture is left out") from None


def read_history(path: Path) -> list[dict]:
    """The records of metrics.jsonl, one an epoch. Raises InputError: missing or damaged."""
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        records = []
    if not records:
        raise InputError(f"{path} is missing or damaged: restore it, or make the run again")
    return records


def check_finished(folder: Path) -> None:
    """Raises InputError."""
    if is_finished(folder):
        return
    if (folder / "last.pt").is_file():
        raise InputError(f"the run in {folder} is not finished (it has no result.json of all its epochs): go on with "
                         f"it by --resume {folder}")
    raise InputError(f"there is no run in {folder} (no result.json, no last.pt): give the folder that training printed")


def entry_script(result: dict, folder: Path) -> ModuleType:
    """The module that made the run, by the name in its command. Raises InputError: it does not classify."""
    name = re.search(r"\bmain_\w+(?=\.py\b)", result["command"])
    module = importlib.import_module(name[0]) if name and importlib.util.find_spec(name[0]) else None
    if not hasattr(module, "build"):
        raise InputError(f"{folder} was made by {result['command'].split(' -')[0]}: only runs that classify can be "
                         "opened, of main_CD.py or main_SSW.py")
    return module


def labels(runs: list[OpenedRun]) -> tuple[str, list[str]]:
    """(what the titles of all runs share, what tells each apart: parts of its title, its folder if these are equal)."""
    parts = [run.title.split(" · ") for run in runs]
    shared = [part for part in parts[0] if all(part in other for other in parts)]
    own = [" · ".join(part for part in one if part not in shared) for one in parts]
    if len(set(own)) < len(own):
        names = [run.folder.name for run in runs]
        own = names if len(set(names)) == len(names) else [run.name for run in runs]
    return " · ".join(shared), own
