"""What a balancing method may do in training. M modalities, B clips, C classes, D features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:  # flags are made from METHODS: they need not wait for torchvision
    from models import ClassifierOutput, MultimodalClassifier


class Flag(NamedTuple):
    """A method's own flag --<name>; kind: of its value, as argparse's `type`."""

    name: str
    kind: Callable[[str], object]
    default: object
    help: str


class Stateful(Protocol):
    """What can be put back to where it was: a Learner."""

    def state_dict(self) -> Mapping: ...
    def load_state_dict(self, state: Mapping) -> None: ...


class Trial(Protocol):
    """utils/training/trial.py."""

    def train_and_measure(self, epochs: int) -> tuple[Tensor, Tensor]: ...
    def save(self) -> None: ...


class Method(nn.Module):
    """Does nothing: what training is without a balancing method, and what the others build on.

    A method is a module, so its parameters are trained, saved and restored with the network; gradients of parameters
    that are its own are averaged over processes for it. title: for the help. flags: what its constructor takes beside
    the model.
    """

    title: ClassVar[str] = "joint training as it is"
    flags: ClassVar[tuple[Flag, ...]] = ()

    def __init__(self, model: MultimodalClassifier):
        super().__init__()

    @classmethod
    def uses(cls) -> set[str]:
        """Names of its flags."""
        return {flag.name for flag in cls.flags}

    @classmethod
    def check(cls, epochs: int, **settings: object) -> None:
        """Raises ValueError for settings that cannot be meant so in a run of `epochs`, told to the user."""

    def prepare(self, learner: Stateful, epochs: int, trial: Trial) -> None:
        """Before the first of a run's `epochs`, and again when a run is resumed that has none behind it: may try things
        out and save what was found, and must leave the rest of `learner` as it was."""

    def facts(self) -> dict[str, float]:
        """What result.json should say of it."""
        return {}

    def begin_epoch(self, epoch: int) -> None:
        """Before an epoch; the first is 1."""

    def end_epoch(self) -> None:
        """After an epoch, before it is saved: what processes have gathered each for itself is brought together."""

    def loss(self, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        """The loss to descend, from the `loss` of the plain training; all are means over the batch."""
        return loss

    def adjust_gradients(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor) -> None:
        """After backward, before the update: changes the parameters' `grad` in place."""
