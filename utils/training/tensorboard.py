"""TensorBoard: one writer per run, on the main process. Logits are means of the true class's logit.

    iteration/loss, iteration/logit_<modality>    one point per iteration
    data/logit_a, data/logit_v                    the same of audio and visual, by the names of the authors' release
    train/<metric>, eval/<metric>                 one point per epoch, as in metrics.jsonl; eval: the held-out data
    method/<quantity>                             one point per epoch: what the balancing method did
    gradient/<quantity>                           with --log_gradients: gradient_log.py
    result/<metric>                               the reported test metrics

CUSTOM SCALARS shows the modalities together, HPARAMS the settings with the result, TEXT all flags.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from dataset.whole_files import disk_error
from utils.training.experiment import RECORDED

RELEASE_TAGS = {"audio": "data/logit_a", "visual": "data/logit_v"}
Method = TypeVar("Method", bound=Callable)
FIRST_COLUMNS = {"fusion_method", "mmcosine", "scaling", "modulation", "random_seed"}  # HPARAMS shows five at first


def read_logits(folder: Path, modalities: Sequence[str]) -> dict[str, np.ndarray]:
    """{modality: (iterations, 2), number of the iteration and mean logit of the true class}; {} without events."""
    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = {name: RELEASE_TAGS.get(name, f"iteration/logit_{name}") for name in modalities}  # these are in older runs
    if not set(tags.values()) <= set(events.Tags()["scalars"]):
        return {}
    return {name: np.array([(event.step, event.value) for event in events.Scalars(tag)]) for name, tag in tags.items()}


def layout(modalities: Sequence[str], shown: Mapping[str, str]) -> dict[str, dict[str, list]]:
    """The charts of CUSTOM SCALARS, for `SummaryWriter.add_custom_scalars`: {category: {title: [kind, tags]}}."""

    def chart(group: str, names: Sequence[str]) -> list:
        return ["Multiline", [f"{group}/{name}$" for name in names]]  # tags are regular expressions

    logits = [f"logit_{name}" for name in modalities]
    measure = next(iter(shown.values()))
    held_out = {"held-out data, per epoch": chart("eval", logits)} if measure == "accuracy" else {}  # trials have none
    return {"logits of the true class": {"per iteration": chart("iteration", logits),
                                         "training, per epoch": chart("train", logits), **held_out},
            measure: {f"{measure}, held-out data, per epoch": chart("eval", list(shown.values()))},
            "class weights": {"mean norm": chart("train", [f"weight_norm_{name}" for name in modalities])}}


def reports_disk_errors(method: Method) -> Method:
    """Decorates a method of Events: an OSError of the writer's thread or of the method is raised
    once, as a DiskError."""

    @wraps(method)
    def wrapped(self: "Events", *values: object) -> None:
        try:
            method(self, *values)
        except OSError as error:
            self.writer = None  # what it still holds cannot be written
            raise disk_error(self.folder, error) from error

    return wrapped


def leave_out_writers(hook: Callable[[threading.ExceptHookArgs], object], error: threading.ExceptHookArgs) -> None:
    """A `threading.excepthook` without tracebacks of TensorBoard's writer threads.

    The error of such a thread is raised when the writer is used next. `hook` gets all other errors.
    """
    if not type(error.thread).__module__.startswith("tensorboard."):
        hook(error)


threading.excepthook = partial(leave_out_writers, threading.excepthook)


class Events:
    """Writes into `folder`, or nothing when it is None. Raises DiskError.

    done: iterations that a resumed run has completed; events of later ones, left by a run that was killed, are hidden.
    charts: as `layout` makes them.
    """

    def __init__(self, folder: Path | None, done: int = 0, charts: Mapping[str, Mapping[str, list]] | None = None):
        self.folder, self.writer = folder, None
        if folder:
            self.open(done, charts)

    @reports_disk_errors
    def open(self, done: int, charts: Mapping[str, Mapping[str, list]] | None) -> None:
        self.writer = SummaryWriter(str(self.folder), purge_step=done + 1)
        if charts:
            self.writer.add_custom_scalars(charts)

    @reports_disk_errors
    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    @reports_disk_errors
    def iterations(self, columns: Mapping[str, Tensor], first: int) -> None:
        """columns: {"loss" or "logit_<modality>": (n,)} of n iterations, the first of which has number `first`."""
        released = {f"logit_{name}": tag for name, tag in RELEASE_TAGS.items()}
        for name, column in columns.items():
            for step, value in enumerate(column.tolist(), first):
                self.scalars("iteration", {name: value}, step)
                if self.writer and name in released:
                    self.writer.add_scalar(released[name], value, step)

    @reports_disk_errors
    def figure(self, tag: str, figure: Figure) -> None:
        if self.writer:
            self.writer.add_figure(tag, figure)

    @reports_disk_errors
    def epoch(self, groups: Mapping[str, Mapping[str, float]], epoch: int) -> None:
        """groups: {"train", "eval" and others: {name: value}}"""
        for group, values in groups.items():
            self.scalars(group, values, epoch)
        if self.writer:
            self.writer.flush()

    @reports_disk_errors
    def finish(self, settings: Mapping[str, object], scores: Mapping[str, float], epoch: int) -> None:
        """The settings and their result, then closes."""
        if not self.writer:
            return
        self.add_hparams(settings, scores)
        self.scalars("result", scores, epoch)
        rows = "\n".join(f"| {name} | `{value}` |" for name, value in settings.items())
        self.writer.add_text("hyperparameters", f"| flag | value |\n|---|---|\n{rows}")
        self.close()

    def add_hparams(self, settings: Mapping[str, object], scores: Mapping[str, float]) -> None:
        """A row of HPARAMS. (`SummaryWriter.add_hparams` would open a second writer.)

        TensorBoard shows five settings and five metrics at first: the settings marked as different between runs, then
        by name; the metrics in their order here.
        """
        values = {name: str(settings[name]) if isinstance(settings[name], bool) else settings[name]
                  for name in RECORDED if name != "demo"}
        metrics = sorted(scores, key=lambda name: name.startswith(("loss", "logit")))
        experiment, *session = hparams(values, {f"result/{name}": scores[name] for name in metrics})
        plugin = experiment.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        for column in content.experiment.hparam_infos:
            column.differs = column.name in FIRST_COLUMNS
        plugin.content = content.SerializeToString()
        for summary in (experiment, *session):
            self.writer.file_writer.add_summary(summary)

    @reports_disk_errors
    def close(self) -> None:
        if self.writer:
            self.writer.close()
