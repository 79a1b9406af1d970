"""A run of an entry script as its borders show it: what went through the network, was printed and drawn."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import NamedTuple

import matplotlib.axes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from borders import MEAN, STD, Borders, Pass, watched
from PIL import Image
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from models import ClassifierOutput


class Line(NamedTuple):
    """What matplotlib's Axes.plot was given."""

    axes: matplotlib.axes.Axes
    x: np.ndarray
    y: np.ndarray
    label: str


class Epoch(NamedTuple):
    training: list[Pass]
    evaluation: list[Pass]  # what the run evaluates at its end is the last epoch's too


class Enough(Exception):
    """Stops a run that has shown what it was started for."""


class Observed(NamedTuple):
    """fits: whether the figures that could be mistaken for each other differ. result: {} of a stopped run."""

    result: dict
    folder: Path
    borders: Borders
    printed: str
    lines: list[Line]
    fits: bool = True

    def records(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def epochs(self) -> list[Epoch]:
        found, before = [], False
        for one in self.borders.log:
            if isinstance(one, Pass):
                if one.training and not before:
                    found.append(Epoch([], []))
                found[-1][0 if one.training else 1].append(one)
                before = one.training
        return found


def observe(main: Callable[[Sequence[str]], dict], argv: Sequence[str],
            copies: Mapping[int, Path] | None = None, updates_wanted: float = inf) -> Observed:
    """main(argv), stopped after so many updates. copies: {number of an update: where the run's folder is then copied
    to}."""
    given = dict(pairwise(argv))
    folder = Path(given.get("--resume") or Path(given["--ckpt_path"]) / given.get("--run_name", ""))
    updates = 0

    def copy(*_: object) -> None:
        nonlocal updates
        updates += 1
        if copies and updates in copies:
            shutil.copytree(folder, copies[updates], copy_function=copied)
        if updates == updates_wanted:
            raise Enough

    with watched() as borders, drawn() as lines, redirect_stdout(io.StringIO()) as printed, ExitStack() as stack:
        stack.callback(register_optimizer_step_post_hook(copy).remove)
        result = {}
        with suppress(Enough):
            result = main(argv)
    return Observed(result, folder, borders, printed.getvalue(), lines)


def copied(source: str, target: str) -> None:
    """Checkpoints, which are replaced and never written into, by a link."""
    (os.link if source.endswith(".pt") else shutil.copy2)(source, target)


@contextmanager
def drawn() -> Iterator[list[Line]]:
    """What is drawn as a line in this process."""
    lines: list[Line] = []
    with pytest.MonkeyPatch.context() as patch:
        plot = matplotlib.axes.Axes.plot

        def recorded(axes: matplotlib.axes.Axes, x: Sequence, y: Sequence, *rest: object, **options: object) -> list:
            lines.append(Line(axes, np.atleast_1d(x), np.atleast_1d(y), str(options.get("label", ""))))
            return plot(axes, x, y, *rest, **options)

        patch.setattr(matplotlib.axes.Axes, "plot", recorded)
        yield lines


def first_that_fits(runs: Iterable[Observed], fits: Callable[[Observed], bool]) -> Observed:
    """The first run in which what could be mistaken for each other differs, so that the next are not made; or the last.

    Rounding on another machine may make a seed unfit. Whether one fitted is a test of its own, the last one: a mistake
    in the code shall be told by the test that is about it.
    """
    for run in runs:
        found = run._replace(fits=fits(run))
        if found.fits:
            break
    return found


def joined(passes: Sequence[Pass]) -> tuple[dict[str, Tensor], ClassifierOutput]:
    """Inputs and outputs of several passes as of one batch."""
    inputs = {name: torch.cat([one.inputs[name] for one in passes]) for name in passes[0].inputs}
    fields = zip(*(one.output for one in passes), strict=True)
    return inputs, ClassifierOutput(*(torch.cat(parts, dim=parts[0].dim() - 2) for parts in fields))


def loaded(model: nn.Module, checkpoint: Path) -> nn.Module:
    """With a checkpoint's weights, for evaluation."""
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    return model.eval()


def accuracies(output: ClassifierOutput, labels: Sequence[int], modalities: Sequence[str]) -> dict[str, float]:
    """{accuracy, accuracy_<modality>}, {accuracy} of one modality alone; the loss too."""
    truth = np.array(labels)
    parts = dict(zip(modalities, output.modality_logits, strict=True)) if len(modalities) > 1 else {}
    found = {f"accuracy_{name}": float((logits.argmax(1).numpy() == truth).mean()) for name, logits in parts.items()}
    return {"accuracy": float((output.logits.argmax(1).numpy() == truth).mean()), **found,
            "loss": float(F.cross_entropy(output.logits, torch.tensor(labels)))}


def picture(rgb: np.ndarray, size: int) -> Tensor:
    """(H, W, 3) uint8 -> the network's input (3, size, size) in evaluation: resized by PIL, ImageNet's statistics."""
    small = torch.from_numpy(np.array(Image.fromarray(rgb).resize((size, size), Image.Resampling.BILINEAR)))
    return (small.permute(2, 0, 1) / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
