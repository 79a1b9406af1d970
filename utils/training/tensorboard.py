"""TensorBoard: one writer a run, on the main process.

Tags: data/logit_a, data/logit_v (the release's: mean logit of the true class, a point an iteration) and
train/loss_per_iteration; train/*, eval/* a point an epoch; the settings as the HPARAMS table and as text.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from utils.training.experiment import RECORDED

RELEASE_NAMES = {"audio": "a", "visual": "v"}
def logit_name(modality: str) -> str:
    return f"logit_{RELEASE_NAMES.get(modality, modality)}"


def read_logits(folder: Path, modalities: Sequence[str]) -> dict[str, np.ndarray]:
    """{modality: (iterations, 2), number of the iteration and mean logit of the true class}; {} without events."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = {name: f"data/{logit_name(name)}" for name in modalities}
    if not set(tags.values()) <= set(events.Tags()["scalars"]):
        return {}
    return {name: np.array([(event.step, event.value) for event in events.Scalars(tag)]) for name, tag in tags.items()}


class Events:
    """Writes into `folder`, or nothing when it is None. `done`: the iterations a resumed run has behind it; events
    of later ones, left by a run that was killed, are hidden."""

    def __init__(self, folder: Path | None, done: int = 0):
        self.writer = SummaryWriter(str(folder), purge_step=done + 1) if folder else None

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def iterations(self, columns: Mapping[str, Tensor], first: int) -> None:
        """columns: {"loss": (n,), "logit_<modality>": (n,)} of n iterations, the first of which has number `first`."""
        for name, column in columns.items():
            metric, _, modality = name.partition("_")
            group, short = ("data", logit_name(modality)) if metric == "logit" else ("train", "loss_per_iteration")
            for step, value in enumerate(column.tolist(), first):
                self.scalars(group, {short: value}, step)

    def figure(self, tag: str, figure: Figure) -> None:
        if self.writer:
            self.writer.add_figure(tag, figure)

    def epoch(self, train: Mapping[str, float], held_out: Mapping[str, float], epoch: int) -> None:
        self.scalars("train", train, epoch)
        self.scalars("eval", held_out, epoch)
        if self.writer:
            self.writer.flush()

    def finish(self, settings: Mapping[str, object], scores: Mapping[str, float], epoch: int) -> None:
        """The settings and what came of them, then closes. (`add_hparams` would open a second writer.)"""
        if not self.writer:
            return
        compared = {name: settings[name] for name in RECORDED if name != "demo"}
        for summary in hparams(compared, {f"result/{name}": value for name, value in scores.items()}):
            self.writer.file_writer.add_summary(summary)
        self.scalars("result", scores, epoch)
        rows = "\n".join(f"| {name} | `{value}` |" for name, value in settings.items())
        self.writer.add_text("hyperparameters", f"| flag | value |\n|---|---|\n{rows}")
        self.close()

    def close(self) -> None:
        if self.writer:
            self.writer.close()
