"""The folder of a run. Every process holds a Run with the same history; only the main process writes.

    args.json                 all settings
    train.log                 what was printed, without progress bars
    last.pt                   the state after the last epoch: --resume continues from it
    best.pt                   the weights of the best epoch
    metrics.jsonl             one record per epoch
    class_norms.npy           (epochs, M, C) norms of the class weights
    events.out.tfevents.*     TensorBoard (tensorboard.py); elsewhere with --tensorboard_path
    predictions.npz           at the end, of a run that classifies (predictions.py)
    curves.png, result.json   at the end
    diverged.json             instead, where a metric was not finite: which, and in which epoch

verification.py adds <list>.scores.txt and det.png, confusion.py per_class.csv, confusions.csv and confusions.png.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.errors import InputError
from dataset.whole_files import read_json, write_whole
from utils import distributed
from utils.training import checkpoint, experiment, report
from utils.training.metrics import row_names
from utils.training.plots import plot_curves
from utils.training.run_folder import LOG
from utils.training.same_data import Clips
from utils.training.tensorboard import Events, layout

DIVERGED = "diverged.json"


class Run:
    """One training run: its history, and the files written about it.

    settings: all flags, stored in args.json and in the checkpoints. facts: about data and machine, stored in the
    checkpoints and in result.json. split: the data evaluated after each epoch, which chooses the best epoch: "test"
    (the paper's protocol) or "val". shown: {what is measured: name of the metric}, e.g. {"joint": "accuracy"}; the
    first metric chooses the epoch. clips: {split: {name: label}}, stored in the checkpoints. saved: the content of
    last.pt, if the run is resumed. Raises InputError: best.pt is not that run's.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object], facts: Mapping[str, object],
                 modalities: Sequence[str], split: str, shown: Mapping[str, str], higher_is_better: bool = True,
                 events_folder: Path | None = None, clips: Clips | None = None, saved: Mapping | None = None):
        self.folder, self.settings, self.facts = folder, dict(settings), dict(facts)
        self.modalities, self.split, self.shown = tuple(modalities), split, shown
        self.choose, self.clips = max if higher_is_better else min, dict(clips or {})
        self.tests_every_epoch = split == "val" and bool(settings.get("test_every_epoch"))
        self.resumed = saved is not None
        saved = saved or {"history": [], "class_norms": [], "iterations": 0, "wall_seconds": 0.0}
        self.history: list[dict] = list(saved["history"])  # one record per epoch
        self.saved_epochs = len(self.history)  # in last.pt
        self.class_norms = list(saved["class_norms"])  # (M, C) per epoch
        self.iterations = saved["iterations"]
        self.start = time.time() - saved["wall_seconds"]
        self.environment = report.environment()  # now: another commit may be checked out before the run ends
        with distributed.failing_together():
            if self.history and distributed.is_main():
                self.check_best(saved["model"])
        distributed.log_to(folder / LOG)
        if distributed.is_main():
            (folder / DIVERGED).unlink(missing_ok=True)
        self.write("args.json", json.dumps(self.settings, indent=2) + "\n")
        if self.history:
            self.write_history()  # a run that was killed after last.pt has written them without the last epoch
        self.events_folder = events_folder
        self.events = Events(events_folder if distributed.is_main() else None, self.iterations,
                             layout(self.modalities, shown))

    def write(self, name: str, content: str | Callable[[Path], None]) -> None:
        if distributed.is_main():
            write_whole(self.folder / name, content)

    def save(self, name: str, content: Mapping) -> None:
        if distributed.is_main():
            described = {"args": self.settings, "facts": self.facts, "epoch": len(self.history),
                         "clips": self.clips}
            checkpoint.save(self.folder / name, {**content, **described})

    def log_iterations(self, rows: Tensor) -> None:
        """Writes iterations to TensorBoard. rows: sums, (iterations, columns as `row_names`). Raises InputError when
        a loss is not finite."""
        names = row_names(self.modalities)
        averages = dict(zip(names[1:], (rows[:, 1:] / rows[:, :1]).T, strict=True))
        for iteration, loss in enumerate(averages["loss"].tolist(), self.iterations + 1):
            self.check_finite({"loss": loss}, f"iteration {iteration} of the run")
        logged = {name: column for name, column in averages.items() if name == "loss" or name.startswith("logit")}
        self.events.iterations(logged, self.iterations + 1)
        self.iterations += len(rows)

    def check_finite(self, metrics: Mapping[str, float], where: str) -> None:
        """Raises InputError when a metric is not finite."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                self.write(DIVERGED, json.dumps({"metric": name, "value": str(value), "epoch": len(self.history) + 1}))
                raise InputError(f"the {name} is {value} in epoch {len(self.history) + 1} ({where}). "
                                 f"{self.folder / 'last.pt'} holds the last whole epoch before; try a lower "
                                 "--learning_rate, or --amp off")

    def end_epoch(self, train: Mapping[str, float], held_out: Mapping[str, float], class_norms: Tensor,
                  state: Mapping, test: Mapping[str, float] | None = None,
                  balance: Mapping[str, Mapping[str, float]] | None = None) -> None:
        """Adds the epoch's record; writes checkpoints, metrics.jsonl, class_norms.npy and events; prints a line.

        train: the epoch's metrics, with `lr`, `seconds` and `clips_per_second`. class_norms: (M, C), the norm of every
        class weight. state: for last.pt. test: metrics of the test set, where it chooses nothing. balance:
        {"method": what the balancing method did, "gradient": the encoders' gradients, with --log_gradients}; its keys
        are prefixes in the record and groups in TensorBoard.
        """
        test, balance = test or {}, balance or {}
        self.check_finite({**train, **held_out, **test}, "at its end")
        record = {"epoch": len(self.history) + 1, **report.prefixed("train", train),
                  **report.prefixed(self.split, held_out), **report.prefixed("test", test)}
        for group, values in balance.items():
            record.update(report.prefixed(group, values))
        self.history.append(record)
        self.class_norms.append(class_norms.cpu())
        self.save_last(state)
        if self.best() is record:  # after last.pt, from which a resumed run can write it again
            self.save("best.pt", {"model": state["model"]})
        self.write_history()
        self.events.epoch({"train": train, "eval": held_out, "test": test, **balance}, record["epoch"])
        distributed.print_once(report.epoch_line(record, self.split, self.shown, self.settings["epochs"]))

    def check_best(self, model: Mapping[str, Tensor]) -> None:
        """That best.pt holds the best epoch of the history; it is written again where a run was killed before it was.

        model: the weights of the last epoch. Raises InputError: it is missing, or holds another epoch.
        """
        path, best = self.folder / "best.pt", self.best()["epoch"]
        if path.is_file() and checkpoint.load_own(path, ["epoch"])["epoch"] == best:
            return
        if best < len(self.history):
            raise InputError(f"{path} is missing or does not hold epoch {best}, the best one of "
                             f"{path.with_name('last.pt')}: put the run's own back, or start a new run")
        self.save("best.pt", {"model": model})

    def save_last(self, state: Mapping) -> None:
        """Writes last.pt."""
        self.save("last.pt", {**state, "history": self.history, "class_norms": self.class_norms,
                              "iterations": self.iterations, "wall_seconds": self.wall_seconds()})
        self.saved_epochs = len(self.history)

    def write_history(self) -> None:
        """Writes metrics.jsonl and class_norms.npy."""
        self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.history))
        norms = torch.stack(self.class_norms).numpy()  # (epochs, M, C)
        self.write("class_norms.npy", lambda temporary: np.save(temporary, norms))

    def best(self) -> dict:
        """The record of the best epoch; of several equal ones the first."""
        name = next(iter(self.shown.values()))
        return self.choose(self.history, key=lambda record: record[f"{self.split}_{name}"])

    def selection(self, scores: Mapping[str, float]) -> dict[str, float]:
        """What chose the epoch: the best validation metric; and where the test set was measured after every epoch too,
        what its best epoch would have given, and how much better that looks. {} where the test set chose the epoch."""
        name, bonus = next(iter(self.shown.values())), {}
        if self.split == "test":
            return bonus
        if self.tests_every_epoch:
            best = self.choose(record[f"test_{name}"] for record in self.history)
            more = best - scores[name] if self.choose is max else scores[name] - best
            bonus = {f"best_test_{name}": best, "selection_bonus": more}
        return {f"best_val_{name}": self.best()[f"val_{name}"], **bonus}

    def wall_seconds(self) -> float:
        return time.time() - self.start

    def finish(self, scores: Mapping[str, float]) -> dict:
        """Writes result.json and curves.png and prints the table -> what result.json holds. scores: the reported test
        metrics."""
        self.check_finite(scores, "evaluation of the best epoch")
        result = report.result(self.settings, self.history[-1], self.best()["epoch"], self.split, scores)
        result.update(self.selection(scores))
        seconds = statistics.median(record["train_seconds"] for record in self.history)
        result.update(self.facts, **self.environment, wall_seconds=self.wall_seconds(), epoch_seconds=seconds)
        self.write("result.json", json.dumps(result, indent=2) + "\n")
        title = experiment.title(self.settings, report.parts_of(self.facts))
        self.events.finish(self.settings, scores, result["best_epoch"])
        if distributed.is_main():
            plot_curves(self.history, self.split, self.shown, self.modalities, self.class_norms[-1].shape[1], title,
                        self.folder / "curves.png")
        distributed.print_once(report.summary(title, result, self.shown, self.split, self.folder, self.events_folder))
        return result


def is_finished(folder: Path) -> bool:
    """Whether the run has a result of all its epochs: a finished run that is resumed for more epochs still has the
    old result. Raises InputError: a damaged file."""
    return (folder / "result.json").is_file() and (
        read_json(folder / "result.json").get("epochs") == read_json(folder / "args.json").get("epochs"))
