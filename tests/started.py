"""An entry script that is really started in this process, and what shows at its borders beside `watched()`.

Library borders only: module and optimiser hooks, pictures before they are drawn, loaders' processes, torch.compile.
"""

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from borders import Borders, watched
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from models import MultimodalClassifier

State = dict[str, Tensor]


class Enough(Exception):
    """Stops a run that has shown what it was started for."""


@dataclass
class Started:
    """refused: the sentence, "" when nothing was. result: None when refused or stopped."""

    argv: list[str]
    borders: Borders = field(default_factory=Borders)
    result: dict | None = None
    refused: str = ""
    printed: str = ""
    entered: list[dict[str, Tensor]] = field(default_factory=list)  # inputs of every pass, also of one that is stopped
    heads: list[State] = field(default_factory=list)  # fusion_module.* before every pass
    states: list[State] = field(default_factory=list)  # the network before the first training passes
    gradients: list[State] = field(default_factory=list)  # as the optimiser gets them, of the first updates
    others: list[list[tuple[Tensor, Tensor]]] = field(default_factory=list)  # trained beside the network, and gradients
    losses: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # logits and labels that a loss was taken from
    drawn: list[dict[str, dict[str, np.ndarray]]] = field(default_factory=list)  # {axes' title: {label: (N, 2)}}
    workers: list[int] = field(default_factory=list)  # of every loader that was gone through
    compiled: int = 0  # how often a network was

    @property
    def folder(self) -> Path:
        return Path(value_of(self.argv, "--ckpt_path")) / value_of(self.argv, "--run_name")

    def records(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


def value_of(argv: Sequence[str], flag: str) -> str:
    """The last one given."""
    return argv[len(argv) - argv[::-1].index(flag)]


def weights_of(path: Path) -> State:
    return content_of(path)["model"]


def content_of(path: Path) -> dict:
    return torch.load(path, weights_only=True, mmap=True)


def copies(tensors: Mapping[str, Tensor]) -> State:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def start(main: Callable[[list[str]], dict], argv: Sequence[object], steps: int = 0, gradients: int = 0,
          largest: float = torch.inf, inputs: int = 0, updates: int = 0, saves: str = "pt") -> Started:
    """main(argv), watched. steps, gradients: of how many training passes states and gradients are kept, of tensors up
    to `largest` numbers. inputs, updates: the run is stopped at that many passes or updates. saves: how the names of
    checkpoints end that are looked at; others are empty files."""
    seen = Started([str(part) for part in argv])
    streams = io.StringIO()
    with (contextlib.redirect_stdout(streams), contextlib.redirect_stderr(streams), watched() as seen.borders,
          recorded(seen, steps, gradients, largest, inputs, updates), saved(saves)):
        try:
            seen.result = main(seen.argv)
        except Enough:
            pass
        except SystemExit as error:
            assert error.code == 2, streams.getvalue()
            seen.refused = streams.getvalue()
        except Exception as error:  # by its name: its module is going to move
            if type(error).__name__ != "InputError":
                raise
            seen.refused = str(error)
    seen.printed = streams.getvalue()
    return seen


def saved(ending: str) -> AbstractContextManager:
    def save(content: object, path: Path, write: Callable = torch.save) -> None:
        write(content, path) if Path(path).name.endswith(ending) else Path(path).touch()

    return patch.object(torch, "save", save)


@contextmanager
def recorded(seen: Started, steps: int, gradients: int, largest: float, inputs: int, updates: int) -> Iterator[None]:
    network: list[nn.Module] = []

    def before_pass(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if not isinstance(module, MultimodalClassifier):
            return
        network[:] = [module]
        state = module.state_dict()
        seen.entered.append({name: x.detach().clone() for name, x in zip(module.modalities, arguments, strict=True)})
        seen.heads.append(copies({name: x for name, x in state.items() if name.startswith("fusion_module.")}))
        if module.training and len(seen.states) < steps:
            seen.states.append(copies(state))
        if len(seen.entered) == inputs:
            raise Enough

    def before_update(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if len(seen.gradients) < gradients:
            names = {id(parameter): name for name, parameter in network[0].named_parameters()}
            trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            seen.gradients.append({names[id(p)]: p.grad.clone() for p in trained
                                   if id(p) in names and p.grad is not None and p.numel() <= largest})
            seen.others.append([(p.detach().clone(), p.grad.clone()) for p in trained if id(p) not in names])
        if updates and len(seen.borders.updates) == updates - 1:
            raise Enough

    def before_drawing(canvas: FigureCanvasAgg, path: Path) -> None:
        seen.drawn.append({axes.get_title(): {line.get_label(): line.get_xydata().copy() for line in axes.get_lines()}
                           for axes in canvas.figure.axes})
        Path(path).write_bytes(b"\x89PNG, not drawn: it takes half a second")

    def in_this_process(loader: DataLoader, go_through: Callable = DataLoader.__iter__) -> Iterator:
        if loader.num_workers or not hasattr(loader, "asked"):
            loader.asked, loader.num_workers = loader.num_workers, 0
        seen.workers.append(loader.asked)
        return go_through(loader)

    def cross_entropy(logits: Tensor, labels: Tensor, *more: object, taken: Callable = F.cross_entropy,
                      **named: object) -> Tensor:
        if logits.requires_grad:
            seen.losses.append((logits.detach().float(), labels))
        return taken(logits, labels, *more, **named)

    def not_compiled(_: nn.Module) -> None:
        seen.compiled += 1

    with ExitStack() as stack:
        for handle in (register_module_forward_pre_hook(before_pass), register_optimizer_step_pre_hook(before_update)):
            stack.callback(handle.remove)
        stack.enter_context(patch.object(FigureCanvasAgg, "print_png", before_drawing))
        stack.enter_context(patch.object(DataLoader, "__iter__", in_this_process))
        stack.enter_context(patch.object(nn.Module, "compile", not_compiled))
        stack.enter_context(patch.object(F, "cross_entropy", cross_entropy))
        yield


def naive_contrastive(audio: Tensor, visual: Tensor, labels: Tensor) -> Tensor:
    """The supplement's, row by row."""
    rows = []
    for number, label in enumerate(labels):
        alike = torch.stack([F.cosine_similarity(audio[number], other, dim=0) for other in visual]) / 0.1
        share = alike.exp() / alike.exp().sum()
        row = -torch.log(share[labels == label] + 1e-10).mean()
        if (labels != label).any():
            row = row - torch.log(1 - share[labels != label] + 1e-10).mean()
        rows.append(row)
    return torch.stack(rows).mean()
