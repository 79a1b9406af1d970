"""A run's folder: what was asked, what was measured, checkpoints, TensorBoard events, result.

    args.json  metrics.jsonl  best.pt  last.pt  events.out.tfevents.*  curves.png  result.json

Every process holds a Run with the same history; only the main one writes.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dataset.errors import InputError
from dataset.files import write_whole
from utils import checkpoint, distributed, report
from utils.events import Events
from utils.metrics import row_names
from utils.plots import plot_curves


class Run:
    """settings: the command line's, kept in args.json and in the checkpoints.

    split: what is evaluated after each epoch and chooses the best one: "test" (the paper's protocol) or "val".
    saved: the content of the last.pt that is resumed, whose history and clock go on.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object], modalities: Sequence[str], split: str,
                 events_folder: Path | None = None, saved: Mapping | None = None):
        self.folder, self.settings, self.modalities, self.split = folder, dict(settings), tuple(modalities), split
        saved = saved or {"history": [], "iterations": 0, "wall_seconds": 0.0}
        self.history: list[dict] = list(saved["history"])  # a record of figures an epoch
        self.iterations = saved["iterations"]
        self.start = time.time() - saved["wall_seconds"]
        self.events = Events(events_folder if distributed.is_main() else None, self.iterations)
        self.write("args.json", json.dumps(self.settings, indent=2) + "\n")

    def write(self, name: str, text: str) -> None:
        if distributed.is_main():
            write_whole(self.folder / name, text)

    def save(self, name: str, content: Mapping) -> None:
        if distributed.is_main():
            described = {"args": self.settings, "epoch": len(self.history)}
            checkpoint.save(self.folder / name, {**content, **described})

    def log_iterations(self, rows: Tensor) -> None:
        """Rows of sums (iterations, columns as `row_names`) -> TensorBoard. Raises InputError, naming where it
        happened, when a loss is not finite."""
        names = row_names(self.modalities)
        averages = dict(zip(names[1:], (rows[:, 1:] / rows[:, :1]).T, strict=True))
        self.check_finite(averages["loss"])
        logged = {name: column for name, column in averages.items() if name == "loss" or name.startswith("logit")}
        self.events.iterations(logged, self.iterations + 1)
        self.iterations += len(rows)

    def check_finite(self, losses: Tensor) -> None:
        bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        if bad:
            raise InputError(f"the loss is {losses[bad[0]].item()} in epoch {len(self.history) + 1}, at iteration "
                             f"{self.iterations + bad[0] + 1} of the run. {self.folder / 'last.pt'} holds the last "
                             "whole epoch; try a lower --learning_rate, or --amp off")

    def end_epoch(self, train: Mapping[str, float], held_out: Mapping[str, float], state: Mapping) -> None:
        """Adds the epoch's record; writes checkpoints, metrics.jsonl and events; prints a line.

        train: the epoch's figures, `lr`, `seconds`, `clips_per_second` and others among them. state: for last.pt.
        """
        record = {"epoch": len(self.history) + 1, **report.prefixed("train", train),
                  **report.prefixed(self.split, held_out)}
        self.history.append(record)
        if self.best() is record:
            self.save("best.pt", {"model": state["model"]})
        self.save_last(state)
        self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.history))
        self.events.epoch(train, held_out, record["epoch"])
        distributed.say(report.epoch_line(record, self.split, self.modalities, self.settings["epochs"]))

    def save_last(self, state: Mapping) -> None:
        """last.pt, all that --resume needs."""
        self.save("last.pt", {**state, "history": self.history, "iterations": self.iterations,
                              "wall_seconds": self.wall_seconds()})

    def best(self) -> dict:
        """The record of the epoch with the highest joint accuracy, the first of equals."""
        return max(self.history, key=lambda record: record[f"{self.split}_accuracy"])

    def wall_seconds(self) -> float:
        return time.time() - self.start

    def finish(self, scores: Mapping[str, float], facts: Mapping[str, object]) -> dict:
        """Writes result.json and curves.png and prints the table -> what result.json holds.

        scores: the test set's figures to report. facts: the counts of clips, the device, the precision.
        """
        result = report.result(self.settings, self.history, self.best(), self.split, scores)
        result.update(facts, **report.environment(), wall_seconds=self.wall_seconds())
        self.write("result.json", json.dumps(result, indent=2) + "\n")
        self.events.finish(self.settings, scores, result["best_epoch"])
        if distributed.is_main():
            plot_curves(self.history, self.split, self.modalities, report.title(result), self.folder / "curves.png")
        distributed.say(report.summary(result, self.modalities, self.split, self.folder))
        return result
