"""What a balancing method may do in training. M modalities, B clips, C classes, D features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..number import Choice, Number
from . import distributed

if TYPE_CHECKING:  # flags are made from METHODS: they need not wait for torchvision
    from torch.optim import Optimizer

    from ..classifier import ClassifierOutput, MultimodalClassifier


class MethodError(ValueError):
    """A method cannot be used as it is, or cannot go on: the message says why and what to do."""


class Flag(NamedTuple):
    """A setting of a method, an argument of its constructor and the flag --<name> of the entry scripts.

    kind: a text's value, or ValueError with a sentence."""

    name: str
    kind: Number | Choice | Callable[[str], object]
    default: object
    help: str


# for `Method.without`; the second for those that use `Learner.gradients`
REPLACES_LOSS = {"lam": "it replaces the loss to which the contrastive one is added"}
KEEPS_GRAPH = {"compile": "it takes gradients of parts of a forward pass, which a compiled network has as a whole"}


class Batch(NamedTuple):
    """This process's part of a batch. share: times it, the mean over this part averages over the processes to the mean
    over the whole batch. lam: weight of the contrastive loss. elapsed: share of the epoch's batches before this one.
    group: that of its clips in `Method.groups`, None where that is None."""

    inputs: Sequence[Tensor]  # of each modality
    labels: Tensor  # (B,)
    share: float
    lam: float
    elapsed: float = 0.0
    group: int | None = None

    def parts(self, count: int) -> list[Batch]:
        """The same clips in up to `count` batches of about the same size, whose shares add up to this one's."""
        clips = len(self.labels)
        split = [x.tensor_split(min(count, clips)) for x in (*self.inputs, self.labels)]
        return [self._replace(inputs=inputs, labels=labels, share=self.share * len(labels) / clips)
                for *inputs, labels in zip(*split, strict=True)]


class Clips(NamedTuple):
    """Loaders of clips as evaluation sees them. trained: those trained on, or with `Method.needs_sample` some of them.
    held_out: those held out from them, with `Method.needs_held_out`."""

    trained: DataLoader
    held_out: DataLoader | None = None


class Learner(Protocol):
    """What a method may use of the class in learner.py."""

    model: MultimodalClassifier
    optimizer: Optimizer

    def plain_step(self, batch: Batch) -> tuple[ClassifierOutput, Tensor]: ...
    def forward(self, batch: Batch) -> tuple[ClassifierOutput, Tensor]: ...
    def descend(self, batch: Batch, output: ClassifierOutput, loss: Tensor) -> None: ...
    def gradients(self, batch: Batch, loss: Tensor,
                  parameters: Sequence[nn.Parameter]) -> dict[nn.Parameter, Tensor]: ...
    def descend_along(self, batch: Batch, output: ClassifierOutput,
                      gradients: Mapping[nn.Parameter, Tensor]) -> None: ...
    def outputs(self, loader: DataLoader) -> Iterator[tuple[ClassifierOutput, Tensor]]: ...
    def state_dict(self) -> Mapping: ...
    def load_state_dict(self, state: Mapping) -> None: ...


class Trial(Protocol):
    """What a method may use of a trial before the first epoch."""

    def train_and_measure(self, epochs: int) -> tuple[Tensor, Tensor]: ...
    def save(self) -> None: ...


class Method(nn.Module):
    """Does nothing: what training is without a balancing method, and what the others build on.

    A method is a module, so its parameters are trained, saved and restored with the network; gradients of parameters
    that are its own are averaged over processes for it. It changes the loss (`loss`), the gradients of the one backward
    pass (`adjust_gradients`), or takes over the step (`step`).
    """

    title: ClassVar[str] = "joint training as it is"  # for the help
    flags: ClassVar[tuple[Flag, ...]] = ()  # what its constructor takes beside the model
    most_modalities: ClassVar[int] = 6  # that it is defined for
    fusions: ClassVar[tuple[str, ...]] = ()  # that it is defined for; (): all
    optimizers: ClassVar[tuple[str, ...]] = ()  # that it is defined for; (): all
    default_settings: ClassVar[Mapping[str, object]] = {}  # {flag of the run: its default under this method}
    without: ClassVar[Mapping[str, str]] = {}  # {flag that it cannot be combined with: why}
    needs_held_out: ClassVar[bool] = False  # whether its hooks get `Clips` of all clips, some of them held out
    needs_sample: ClassVar[bool] = False  # whether they get `Clips` of a tenth of the training clips
    needs_length: bool = False  # whether `begin_run` must have told it the length of the run; may be of the instance
    needs_progress: ClassVar[bool] = False  # whether its step uses `Batch.elapsed`
    needs_training_clips: ClassVar[bool] = False  # whether they get `Clips` of all training clips, none held out
    whole_batches: ClassVar[bool] = False  # whether its loss cannot be computed on parts of a batch
    needs_teachers: ClassVar[bool] = False  # whether it has `teachers`, encoders loaded from --<modality>_teacher
    rate_per_encoder: ClassVar[bool] = False  # whether encoders have optimiser groups of their own, after group 0

    def __init__(self, model: MultimodalClassifier):
        super().__init__()
        self.noted: dict[str, tuple[Tensor, Tensor]] = {}  # this epoch's sum and count of each quantity, on the device
        self.modality_names = model.modalities
        self.groups: list[int] | None = None  # of each training clip: a batch then holds clips of one group

    @classmethod
    def uses(cls) -> set[str]:
        """Names of its flags."""
        return {flag.name for flag in cls.flags}

    @classmethod
    def check(cls, epochs: int, **settings: object) -> None:
        """Raises ValueError for settings that cannot be meant so in a run of `epochs`, told to the user."""

    @classmethod
    def has_own_step(cls) -> bool:
        return cls.step is not Method.step

    def parameter_groups(self, model: MultimodalClassifier) -> list[list[nn.Parameter]]:
        """The optimiser's groups: one of all trained parameters, or with `rate_per_encoder` one of the fusion's and
        the method's own and then one of each encoder, in the order of `model.modalities`."""
        encoders = [trained(model.encoder(name)) for name in model.modalities]
        if not self.rate_per_encoder:
            return [trained(model) + trained(self)]
        return [trained(model.fusion_module) + trained(self), *encoders]

    def prepare(self, learner: Learner, epochs: int, trial: Trial) -> None:
        """Before the first of a run's `epochs`, and again when a run is resumed that has none behind it: may try things
        out and save what was found, and must leave the rest of `learner` as it was."""

    def facts(self) -> dict[str, float]:
        """What result.json should say of it."""
        return {}

    @torch.no_grad()
    def note(self, **values: Tensor) -> None:
        """Adds to the epoch's means of `quantities`. Each value is a number () or one of each modality (M,), as it was
        in this step (or once an epoch); values that are not finite are left out."""
        for name, value in values.items():
            finite = value.isfinite()
            total, count = self.noted.get(name, (0.0, 0.0))
            self.noted[name] = total + value.where(finite, 0.0).double(), count + finite.double()

    def quantities(self) -> dict[str, float]:
        """What the method did in the epoch that has ended, the same in every process: the means of what `note` was
        given since the last call, with _<modality> added to the name where there is one of each modality. Every
        process must call it."""
        means = {}
        for name, noted in self.noted.items():
            total, count = distributed.sum_over_processes(torch.stack(noted)).tolist()
            totals, counts = ([total], [count]) if isinstance(total, float) else (total, count)
            names = [name] if isinstance(total, float) else [f"{name}_{modality}" for modality in self.modality_names]
            means.update({key: total / count for key, total, count in zip(names, totals, counts, strict=True) if count})
        self.noted = {}
        return means

    def begin_run(self, epochs: int) -> None:
        """Before the first epoch of a run that is to have so many `epochs`, and again where it is resumed."""

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        """Before an epoch; the first is 1. clips: None unless the method `needs_held_out`, `needs_sample`
        or `needs_training_clips`."""

    def end_epoch(self, learner: Learner, clips: Clips | None) -> None:
        """After an epoch and its change of the learning rate, before it is evaluated and saved: what processes have
        gathered each for itself is brought together; weights and rates may be changed, in every process alike."""

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        """The loss to descend, from the `loss` of the plain training; all are means over this process's part of the
        batch. `model.classify` gives the output for other features."""
        return loss

    def adjust_gradients(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor) -> None:
        """After backward, before the update: changes the parameters' `grad` in place."""

    def step(self, learner: Learner, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        """One training step on a batch -> (output and loss, for the metrics). One that overrides it may call
        `learner.forward`, and then `learner.descend` with a loss, or `learner.gradients` of several losses and
        `learner.descend_along` what it makes of them; several updates a batch are allowed."""
        return learner.plain_step(batch)


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that are trained."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
