"""A run of an entry script that is really started in this process, and what crosses its borders.

The tests look at network inputs and outputs, updates, files, pictures and print, not inside, so that they survive a
rebuild. Library borders only: module and optimiser hooks, torch.save, figures before they are drawn, loaders.
B clips, T frames, M modalities, C classes.
"""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import matplotlib.axes
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
)

from models import ClassifierOutput, MultimodalClassifier
from utils.training.classification import Classification

State = dict[str, Tensor]
DRAWS = 3000


class Pass(NamedTuple):
    """A forward pass. inputs: {modality: what its encoder got}."""

    training: bool
    inputs: dict[str, Tensor]
    output: ClassifierOutput


class Update(NamedTuple):
    """A step of the optimiser: its class, and lr, momentum, weight_decay ... of each parameter group."""

    kind: str
    groups: list[dict]


class Epoch(NamedTuple):
    training: list[Pass]
    evaluation: list[Pass]  # what the run evaluates at its end belongs to the last epoch


class Line(NamedTuple):
    """A line of a picture."""

    axes: matplotlib.axes.Axes
    x: np.ndarray
    y: np.ndarray
    label: str


class Borders:
    """The passes and updates in the order in which they happened."""

    def __init__(self):
        self.log: list[Pass | Update] = []

    @property
    def updates(self) -> list[Update]:
        return [entry for entry in self.log if isinstance(entry, Update)]

    @property
    def passes(self) -> list[Pass]:
        return [entry for entry in self.log if isinstance(entry, Pass)]

    @property
    def training(self) -> list[Pass]:
        return [entry for entry in self.passes if entry.training]

    @property
    def evaluation(self) -> list[Pass]:
        return [entry for entry in self.passes if not entry.training]

    def learning_rates(self) -> list[float]:
        """Of every update, of its only parameter group."""
        return [update.groups[0]["lr"] for update in self.updates]

    def epochs(self) -> list[Epoch]:
        epochs: list[Epoch] = []
        for entry in self.passes:
            if entry.training and (not epochs or epochs[-1].evaluation):
                epochs.append(Epoch([], []))
            epochs[-1][0 if entry.training else 1].append(entry)
        return epochs


class Enough(Exception):
    """Stops a run that has shown what it was started for."""


@dataclass(repr=False)
class Started:
    """A run that was started. result: what main returned, {} of a stopped run."""

    argv: list[str]
    result: dict = field(default_factory=dict)
    borders: Borders = field(default_factory=Borders)
    printed: str = ""
    figures: list[Figure] = field(default_factory=list)  # as they were when a PNG of them was asked for
    entered: list[dict[str, Tensor]] = field(default_factory=list)  # inputs of every pass, also of a stopped one
    heads: list[State] = field(default_factory=list)  # fusion_module.* before every pass
    states: list[State] = field(default_factory=list)  # the network before the first training passes

    @property
    def folder(self) -> Path:
        given = dict(pairwise(self.argv))
        return Path(given.get("--resume") or Path(given["--ckpt_path"]) / given.get("--run_name", ""))

    @property
    def lines(self) -> list[Line]:
        return [Line(axes, *line.get_xydata().T, line.get_label())
                for figure in self.figures for axes in figure.axes for line in axes.get_lines()]

    def records(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def epochs(self) -> list[Epoch]:
        return self.borders.epochs()


@contextmanager
def watched() -> Iterator[Borders]:
    """Records every pass of a MultimodalClassifier and every update, in this process."""
    borders = Borders()

    def after_pass(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(module, MultimodalClassifier):
            named = {name: x.detach().float().cpu() for name, x in zip(module.modalities, inputs, strict=True)}
            borders.log.append(Pass(module.training, named, ClassifierOutput(*(x.detach().float() for x in output))))

    def after_update(optimizer: torch.optim.Optimizer, *_: object) -> None:
        groups = [{name: value for name, value in group.items() if name != "params"}
                  for group in optimizer.param_groups]
        borders.log.append(Update(type(optimizer).__name__, groups))

    handles = [register_module_forward_hook(after_pass), register_optimizer_step_post_hook(after_update)]
    try:
        yield borders
    finally:
        for handle in handles:
            handle.remove()


def start(main: Callable[[list[str]], dict], argv: Sequence[object], steps: int = 0, passes: int = 0,
          updates: int = 0, saves: str = "pt", copies: Mapping[int, Path] | None = None,
          steer: Mapping[int, Callable[[MultimodalClassifier, Started], None]] | None = None) -> Started:
    """main(argv), watched. predictions.npz is left out (tests/test_predictions.py), so that every evaluation counts.

    steps: of how many training passes the states before them are kept.
    passes, updates: the run is stopped at that pass, or after that update.
    saves: how the names of checkpoints end that are written; others are empty files.
    copies: {number of an update: where the run's folder is then copied to}.
    steer: {number of an update: what is then done, with the network and the run}.
    """
    run = Started([str(part) for part in argv])
    printed = io.StringIO()
    network: list[MultimodalClassifier] = []

    def before_pass(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not isinstance(module, MultimodalClassifier):
            return
        network[:] = [module]
        state = module.state_dict()
        run.entered.append({name: x.detach().clone() for name, x in zip(module.modalities, inputs, strict=True)})
        run.heads.append(cloned({name: x for name, x in state.items() if name.startswith("fusion_module.")}))
        if module.training and len(run.states) < steps:
            run.states.append(cloned(state))
        if len(run.entered) == passes:
            raise Enough

    def after_update(*_: object) -> None:
        number = len(run.borders.updates)
        if steer and number in steer:
            steer[number](network[0], run)
        if copies and number in copies:
            shutil.copytree(run.folder, copies[number], copy_function=copy_file)
        if number == updates:
            raise Enough

    def save(content: object, path: Path, write: Callable = torch.save) -> None:
        write(content, path) if Path(path).name.endswith(saves) else Path(path).touch()

    def print_png(canvas: FigureCanvasAgg, path: Path) -> None:
        run.figures.append(canvas.figure)
        Path(path).write_bytes(b"\x89PNG, not drawn: it takes half a second")

    with ExitStack() as stack:
        run.borders = stack.enter_context(watched())
        for handle in (register_module_forward_pre_hook(before_pass),
                       register_optimizer_step_post_hook(after_update)):
            stack.callback(handle.remove)
        for change in (patch.object(FigureCanvasAgg, "print_png", print_png), patch.object(torch, "save", save),
                       patch.object(Classification, "write_predictions"),
                       redirect_stdout(printed), redirect_stderr(printed), suppress(Enough)):
            stack.enter_context(change)
        run.result = main(run.argv)
    run.printed = printed.getvalue()
    return run


def copy_file(source: str, target: str) -> None:
    """Checkpoints, which are replaced and never written into, by a link."""
    (os.link if source.endswith(".pt") else shutil.copy2)(source, target)


def cloned(tensors: Mapping[str, Tensor]) -> State:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


# ---- checkpoints and outputs


def content_of(path: Path) -> dict:
    return torch.load(path, weights_only=True, mmap=True)


def weights_of(path: Path) -> State:
    return content_of(path)["model"]


def loaded(model: nn.Module, checkpoint: Path) -> nn.Module:
    """With a checkpoint's weights, for evaluation."""
    model.load_state_dict(weights_of(checkpoint))
    return model.eval()


def joined(passes: Sequence[Pass]) -> tuple[dict[str, Tensor], ClassifierOutput]:
    """Inputs and outputs of several passes as of one batch."""
    inputs = {name: torch.cat([one.inputs[name] for one in passes]) for name in passes[0].inputs}
    fields = zip(*(one.output for one in passes), strict=True)
    return inputs, ClassifierOutput(*(torch.cat(parts, dim=parts[0].dim() - 2) for parts in fields))


def accuracies(output: ClassifierOutput, labels: Sequence[int], modalities: Sequence[str]) -> dict[str, float]:
    """{accuracy, accuracy_<modality>}, {accuracy} of one modality alone; the loss too."""
    truth = np.array(labels)
    parts = dict(zip(modalities, output.modality_logits, strict=True)) if len(modalities) > 1 else {}
    measured = {f"accuracy_{name}": float((logits.argmax(1).numpy() == truth).mean())
                for name, logits in parts.items()}
    return {"accuracy": float((output.logits.argmax(1).numpy() == truth).mean()), **measured,
            "loss": float(F.cross_entropy(output.logits, torch.tensor(labels)))}


def redrawn(inputs: Callable[[Started], Sequence[Tensor]], fits: Callable[[ClassifierOutput], bool],
            *layers: str) -> Callable[[MultimodalClassifier, Started], None]:
    """For `steer`: draws the weights of layers of the fusion (fc_out) until the outputs for these inputs, in
    evaluation mode, are as a test needs them. So no test depends on how well its run has learnt."""

    def redraw(network: MultimodalClassifier, run: Started) -> None:
        training = network.training
        network.eval()
        modules = [network.fusion_module.get_submodule(name) for name in layers or ("fc_out",)]
        with torch.no_grad():
            encoded = zip(network.modalities, inputs(run), strict=True)
            features = torch.stack([network.encoder(name)(x) for name, x in encoded])
            for seed in range(DRAWS):
                random = torch.Generator().manual_seed(seed)
                for module in modules:
                    rows, columns = module.weight.shape
                    scales = (2 * torch.randn(rows, 1, generator=random)).exp()  # a few rows count: draws differ
                    drawn = scales * torch.randn(rows, columns, generator=random)
                    module.weight.copy_(drawn * (module.weight.norm() / drawn.norm()))
                if fits(network.classify(features)):
                    network.train(training)
                    return
        raise AssertionError(f"none of {DRAWS} draws gives the figures that the test is about")

    return redraw
