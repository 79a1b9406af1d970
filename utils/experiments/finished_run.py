"""Finished runs: settings, metrics and history from their folders; data, best weights and features when asked for."""

import json
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from torch.utils.data import Dataset

from dataset.errors import InputError, first_few
from dataset.whole_files import read_json
from models.balancing import METHODS
from utils import distributed
from utils.experiments import entry_script
from utils.experiments.features import Features, extract
from utils.experiments.flags import Machine
from utils.training import checkpoint, experiment, report, tensorboard, train
from utils.training.classification import Classification
from utils.training.run import is_finished
from utils.training.same_data import check_same_data

METRICS = ("accuracy", "eer", "min_dcf", "last_", "loss", "logit", "best_val_", "best_test_",
           "selection_bonus", "probe_")  # begin with these
NEEDED_RESULTS = ("classes", "best_epoch", "seed", "mmcosine", "dataset")  # to open data and network again
NEEDED_SETTINGS = ("dataset", "modality", "fusion_method", "modulation", "lam", "mmcosine", "scaling", "random_seed")


class FinishedRun:
    """settings: of args.json. result: of result.json. Data is seen as evaluation sees it, without augmentation.

    Raises InputError: a missing or damaged file.
    """

    def __init__(self, folder: Path, machine: Machine | None = None):
        self.folder, self.name, self.machine = folder, folder.name, machine or Machine()
        self.result = read_json(folder / "result.json")
        self.measure = "accuracy" if "accuracy" in self.result else "eer"
        self.settings = read_json(folder / "args.json")
        check_is_of_a_run(self.settings, folder / "args.json", NEEDED_SETTINGS)
        check_is_of_a_run(self.result, folder / "result.json", ["modalities", self.measure])

    @cached_property
    def modalities(self) -> list[str]:
        return list(self.result["modalities"])

    @cached_property
    def title(self) -> str:
        return experiment.title(self.settings, report.parts_of(self.result))

    @cached_property
    def history(self) -> list[dict]:
        """The records of metrics.jsonl, one per epoch."""
        path = self.folder / "metrics.jsonl"
        try:
            records = [dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError, TypeError, RecursionError):
            records = []
        split = "val" if records and f"val_{self.measure}" in records[0] else "test"
        shown = [f"{split}_{name}" for name in report.metric_names(self.measure, self.modalities).values()]
        if not records or not all(isinstance(record.get(name), float | int) for record in records for name in shown):
            raise InputError(f"{path} is missing or damaged: restore it, or train the run again")
        return records

    @cached_property
    def task(self) -> Classification:
        """Data, and the network with its best weights. Raises InputError: data that is missing, or not the run's."""
        machine, path = self.machine, self.folder / "best.pt"
        root = ["--data_root", str(machine.data_root)] if machine.data_root else []
        script = entry_script.of_run(self.folder, script_name(self), ["parse", "build"])
        args = script.parse(["--ckpt_path", str(path), "--device", machine.device, "--num_workers",
                             str(machine.num_workers), *root])
        args.train = True  # the training clips are wanted as well
        task = script.build(args, distributed.choose_device(machine.device, [], 0))
        content = checkpoint.checked(args.trained.content, path, ["facts"])
        if content.get("epoch", self.result["best_epoch"]) != self.result["best_epoch"]:
            raise InputError(f"{path} holds epoch {content['epoch']}, result.json is of epoch "
                             f"{self.result['best_epoch']}: finish the run with --resume "
                             f"{shlex.quote(str(self.folder))}")
        check_same_data(content, task.clips, task.facts, path, "name the run's data with --data_root")
        checkpoint.load_model(task.model, content, path)
        train.place(task.model, task.compute, compiled=False)
        return task

    @cached_property
    def train_features(self) -> Features:
        return self.features(self.task.data.train.for_evaluation())

    @cached_property
    def test_features(self) -> Features:
        return self.features(self.task.data.test)

    def features(self, dataset: Dataset) -> Features:
        return extract(self.task.model, self.task.loaders.evaluation(dataset), self.task.compute)

    def close(self) -> None:
        """Frees data, network and features."""
        for name in ("task", "train_features", "test_features"):
            self.__dict__.pop(name, None)

    @cached_property
    def events_folder(self) -> Path:
        elsewhere = self.settings.get("tensorboard_path")
        return experiment.events_folder(self.folder, Path(elsewhere) if elsewhere else None)

    def logits(self) -> dict[str, np.ndarray]:
        """As `tensorboard.read_logits`."""
        return tensorboard.read_logits(self.events_folder, self.modalities)

    def probes(self) -> dict[str, float]:
        """{modality: accuracy of its linear probe, a fraction}, from scripts/probe.py.

        {} if there is none, or, with a message, if it is not of the best epoch.
        """
        path = self.folder / "probes.json"
        if not path.is_file():
            return {}
        content = read_json(path)
        if content.get("best_epoch") != self.result["best_epoch"]:
            print(f"{path} left out: it is not of the best epoch, {self.result['best_epoch']}. Run scripts/probe.py "
                  f"{self.folder} again")
            return {}
        if not all(isinstance(content.get(name), float | int) for name in self.modalities):
            raise InputError(f"{path} lacks the accuracy of a modality: run scripts/probe.py {self.folder} again")
        return {name: content[name] for name in self.modalities}

    def class_norms(self) -> np.ndarray | None:
        """(epochs, M, C) ||W_m,c|| after every epoch; None for a run without class_norms.npy."""
        path = self.folder / "class_norms.npy"
        try:
            norms = np.load(path) if path.is_file() else None
        except (ValueError, EOFError, BadZipFile):
            norms = np.empty(0)
        if norms is not None and getattr(norms, "shape", ())[1:] != (len(self.modalities), len(self.result["classes"])):
            raise InputError(f"{path} is damaged: remove it, and its picture is left out")
        return norms


def with_weights(paths: Sequence[Path]) -> list[Path]:
    """The paths that hold weights, or do not exist.

    `runs/sweep/*` also names logs, tables, searches and ensembles; they are left out, with a note.
    If none holds weights all paths are returned, and `open_run` reports what is wrong.
    """
    kept = [path for path in paths
            if (path / "best.pt").is_file() or (path / "last.pt").is_file() or not path.exists()]
    left_out = [path.name for path in paths if path not in kept]
    if kept and left_out:
        print(f"note: {len(left_out)} files and folders without weights are left out: {first_few(left_out)}")
    return kept or list(paths)


def open_run(folder: Path, machine: Machine) -> FinishedRun:
    """A finished run whose data and network can be opened. Raises InputError: no run, an unfinished one, or one that
    does not classify."""
    if not is_finished(folder):
        if (folder / "last.pt").is_file():
            raise InputError(f"the run in {folder} is not finished (it has no result.json of all its epochs): continue "
                             f"it with --resume {shlex.quote(str(folder))}")
        raise InputError(f"there is no run in {folder} (no result.json, no last.pt): give the folder that training "
                         "printed")
    run = FinishedRun(folder, machine)
    name = script_name(run)
    if "accuracy" not in run.result:
        raise InputError(f"{folder} was made by {name}: only runs that classify can be opened, such as those of "
                         "main_CD.py and main_SSW.py")
    needed = (*NEEDED_RESULTS, *report.metric_names("accuracy", run.modalities).values())
    missing = [name for name in needed if name not in run.result]
    if missing:
        raise InputError(f"{folder / 'result.json'} has no {', '.join(missing)}: it is damaged, or of another version")
    if not entry_script.is_here(name):
        raise InputError(f"{folder} was made by {name}, which is not in {entry_script.REPO}: put it there")
    return run


def check_is_of_a_run(values: Mapping[str, object], path: Path, needed: Collection[str]) -> None:
    """Raises InputError: what the JSON or csv file `path` holds lacks what is `needed`, or its metrics are no finite
    numbers: it is damaged, or not of a run of this version."""
    missing = [name for name in needed if name not in values]
    if missing:
        raise InputError(f"{path} has no {', '.join(missing)}: it is damaged, or of another version. Move "
                         f"{path.parent} away")
    wrong = [name for name, value in values.items() if name.startswith(METRICS) and not is_number(value)]
    wrong += [] if str(values.get("modulation", "none")) in METHODS else ["modulation"]
    if wrong:
        raise InputError(f"{path} is damaged, or of another version: {wrong[0]} is {values[wrong[0]]!r}. Move "
                         f"{path.parent} away")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def script_name(run: FinishedRun) -> str:
    """The entry script that made the run."""
    return str(run.result.get("script") or "an unknown script")


def labels(runs: Sequence[FinishedRun]) -> tuple[str, list[str]]:
    """(what the titles of all runs share, what distinguishes each: parts of its title, or its folder)."""
    parts = [run.title.split(" · ") for run in runs]
    shared = [part for part in parts[0] if all(part in other for other in parts)]
    own = [" · ".join(part for part in one if part not in shared) for one in parts]
    if len(set(own)) < len(own):
        names = [run.name for run in runs]
        own = names if len(set(names)) == len(names) else [str(run.folder) for run in runs]
    return " · ".join(shared), own
