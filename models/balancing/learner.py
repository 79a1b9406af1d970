"""Training steps of a network under a balancing method, in any training loop. M modalities, B clips, C classes."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..classifier import ClassifierOutput, MultimodalClassifier
from ..contrastive import contrastive_loss
from ..fusion import FUSIONS
from . import METHODS, distributed, make_method
from .method import Batch, Clips, Method, MethodError, Trial, trained

NO_CLIPS = ("{} looks at held-out training clips: give the Learner clips=Clips(trained, held_out), two loaders whose "
            "batches are (inputs, labels)")


class Learner:
    """A network, its optimizer and its balancing method.

        learner = Learner(model, optimizer, method="ogm_ge", alpha=0.8)
        for epoch in range(1, epochs + 1):
            learner.begin_epoch(epoch)
            for inputs, labels in loader:
                output, loss = learner.step(inputs, labels)
            learner.end_epoch()

    A method that does nothing between epochs needs no `begin_epoch` and no `end_epoch`: without them all steps are of
    the first epoch. A method that needs something else raises MethodError, with a sentence that says what to give it.

    model: the network itself, on its device. Where torch.distributed is initialised, the learner gives every process
    the weights of the first one and averages gradients (by DistributedDataParallel for methods with the plain step).
    optimizer: one of torch.optim, with the parameters of `model`. Parameters of the method are added to the group that
    has the parameters of the fusion; a method with a learning rate for each encoder splits a single group.
    method: a name in METHODS, with its `settings` (the others have their defaults), or a Method for `model`.
    clips: for methods that look at held-out clips; loaders whose batches are (inputs, labels), as `step` takes them.
    teachers: {modality: encoder trained alone}, for methods that need them; they are copied.
    precision: of the forward pass, by autocast; float16 with a loss scaler.

    Raises ValueError: an unknown method or setting, a value out of its range, a network that the method is not defined
    for, an optimizer that it cannot use.
    """

    parts: ClassVar[tuple[str, ...]] = ("model", "method", "optimizer", "scaler")  # of the state

    def __init__(self, model: MultimodalClassifier, optimizer: Optimizer, method: str | Method = "none", *,
                 clips: Clips | None = None, teachers: Mapping[str, nn.Module] | None = None,
                 precision: torch.dtype = torch.float32, **settings: object):
        if not isinstance(model, MultimodalClassifier):
            raise TypeError(f"the network is a {type(model).__name__}: give the MultimodalClassifier itself, neither "
                            "wrapped nor compiled")
        self.device = next(model.parameters()).device
        self.model, self.optimizer, self.clips, self.precision = model, optimizer, clips, precision
        self.name = method if isinstance(method, str) else type(method).__name__
        self.settings = chosen_settings(method, settings) if isinstance(method, str) else None
        check_network(self.name, METHODS[method] if isinstance(method, str) else type(method), model)
        self.method = (made_method(method, model, self.settings) if isinstance(method, str) else method).to(self.device)
        give_teachers(self.name, self.method, model, teachers)
        check_optimizer(self.name, self.method, model, optimizer)
        add_parameters(self.name, self.method, model, optimizer)
        for module in (model, self.method):
            distributed.broadcast_model(module)
        parallel = distributed.size() > 1 and not self.method.has_own_step()
        self.network = DistributedDataParallel(model) if parallel else model
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == torch.float16)
        self.begun = False  # whether an epoch has begun
        self.prepared = type(self.method).prepare is Method.prepare and not self.method.needs_length
        self.batches: int | None = None  # of the epoch
        self.steps = 0  # of the epoch so far

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    # ---- what a training loop calls

    def prepare(self, epochs: int, trial: Trial | None = None) -> None:
        """Before the first of `epochs`: the method's trials, if it has any, and its schedule; optional for the others.

        trial: how it trains and measures; by default on `clips`, with the learning rate that the optimizer has.
        Raises MethodError: with these settings the method would do nothing in so many epochs, or cannot go on.
        """
        self.check_settings(epochs)
        has_trials = type(self.method).prepare is not Method.prepare
        if has_trials and not self.prepared and trial is None and self.clips is None:
            raise MethodError(NO_CLIPS.format(self.name))
        self.prepared = True
        self.method.begin_run(epochs)
        self.method.prepare(self, epochs, trial or TrialOnClips(self))
        self.train()

    def begin_epoch(self, epoch: int, batches: int | None = None) -> None:
        """Before the first batch of an epoch, which is 1 for the first: what the method does then, and the network in
        training mode. batches: how many the epoch has, for methods that follow its progress."""
        self.check_clips()
        self.begun, self.batches, self.steps = True, batches, 0
        self.method.begin_epoch(epoch, self, self.clips)
        self.train()

    def step(self, inputs: Sequence[Tensor], labels: Tensor, lam: float = 0.0, share: float = 1.0,
             group: int | None = None) -> tuple[ClassifierOutput, Tensor]:
        """The training step on a batch -> (output, the loss that was descended).

        inputs: of each modality, in the order of `model.modalities`. labels: (B,). lam: weight of the contrastive loss.
        share: 1, unless the processes have parts of different sizes: the size of this part divided by their mean size.
        group: of the clips of the batch in `method.groups`, where the method has set them in this epoch.
        """
        self.check_step(inputs, lam)
        elapsed = self.steps / self.batches if self.batches else 0.0
        self.steps += 1
        return self.method.step(self, Batch(inputs, labels, share, lam, elapsed, group))

    def end_epoch(self) -> dict[str, float]:
        """After the last batch of an epoch -> what the method did in it, such as {"coefficient_audio": 0.7}. May leave
        the network in evaluation mode."""
        self.check_clips()
        distributed.broadcast_model(self.model)
        self.method.end_epoch(self, self.clips)
        return self.method.quantities()

    def state_dict(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in self.parts}

    def load_state_dict(self, state: Mapping) -> None:
        own = [{name: group.get(name) for name in ("fused", "foreach")} for group in self.optimizer.param_groups]
        for name in self.parts:
            getattr(self, name).load_state_dict(state[name])
        for group, how in zip(self.optimizer.param_groups, own, strict=True):
            group.update(how)  # how it computes is this device's and precision's, not those of the file
        self.prepared = True

    # ---- what must be given first

    def check_settings(self, epochs: int, before: str = "") -> None:
        """Raises MethodError: with these settings the method would do nothing in a training of so many epochs."""
        try:
            if self.settings is not None:
                self.method.check(epochs, **self.settings)
        except ValueError as error:
            raise MethodError(before + without_dashes(error)) from None

    def check_clips(self) -> None:
        if self.method.needs_sample and self.clips is None:
            raise MethodError(f"{self.name} looks at a tenth of the training clips before each epoch: give the Learner "
                              "clips=Clips(trained), a loader of them whose batches are (inputs, labels)")
        if self.method.needs_held_out and (self.clips is None or self.clips.held_out is None):
            raise MethodError(NO_CLIPS.format(self.name))
        if self.method.needs_training_clips and self.clips is None:
            raise MethodError(f"{self.name} looks at all training clips: give the Learner clips=Clips(trained), a "
                              "loader in the order of the data set, whose batches are (inputs, labels)")

    def check_step(self, inputs: Sequence[Tensor], lam: float) -> None:
        if not self.prepared and self.method.needs_length:
            raise MethodError(f"{self.name} follows the length of the training: call learner.prepare(epochs) first")
        if not self.prepared:
            raise MethodError(f"{self.name} has trials before the first epoch: give the Learner clips=Clips(trained, "
                              "held_out), and call learner.prepare(epochs)")
        by_epochs = type(self.method).end_epoch is not Method.end_epoch or self.method.needs_sample
        if not self.begun and (by_epochs or self.method.needs_length):
            raise MethodError(f"{self.name} works by epochs: call learner.begin_epoch(epoch) before the batches of "
                              "each, and learner.end_epoch() after them")
        if not self.begun:
            self.check_settings(1, "without learner.begin_epoch(epoch) all steps are of the first epoch: ")
            self.begin_epoch(1)
        if self.method.needs_progress and not self.batches:
            raise MethodError(f"{self.name} follows the progress of an epoch: call learner.begin_epoch(epoch, "
                              "batches=len(loader))")
        if lam and "lam" in self.method.without:
            raise ValueError(f"lam cannot be combined with {self.name}: {self.method.without['lam']}")
        names = self.model.modalities
        if isinstance(inputs, Tensor) or len(inputs) != len(names):
            given = "one tensor" if isinstance(inputs, Tensor) else f"{len(inputs)} tensors"
            raise ValueError(f"inputs are a tensor for each of the modalities {', '.join(names)}, not {given}")

    # ---- what methods call

    def train(self) -> None:
        """Training mode, of the encoders that are trained: the statistics of a frozen encoder's BatchNorm stay."""
        self.network.train()
        for name in self.model.modalities:
            if not trained(self.model.encoder(name)):
                self.model.encoder(name).eval()

    def plain_step(self, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        """One forward, one backward, one update -> (output, the loss that was descended)."""
        output, loss = self.forward(batch)
        self.descend(batch, output, loss)
        return output, loss

    def forward(self, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        """(output, loss): the cross-entropy of the joint logits, plus lam times the contrastive loss (not computed for
        lam = 0), and what the method makes of it."""
        with self.autocast():
            output = self.network(*batch.inputs)
            loss = F.cross_entropy(output.logits, batch.labels)
            if batch.lam:
                loss = loss + batch.lam * contrastive_loss(output.fused, batch.labels)
            return output, self.method.loss(self.model, output, batch.labels, loss)

    def descend(self, batch: Batch, output: ClassifierOutput, loss: Tensor) -> None:
        """One update along the gradients of `loss`, of all parameters."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss * batch.share).backward()
        self.average_and_update(batch, output)

    def average_and_update(self, batch: Batch, output: ClassifierOutput) -> None:
        """One update along the gradients of each process, where DistributedDataParallel has not averaged them yet."""
        distributed.average_gradients(self.method)
        if self.network is self.model:
            distributed.average_gradients(self.model)
        self.update(batch, output)

    def gradients(self, batch: Batch, loss: Tensor, parameters: Sequence[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
        """d loss / d parameter of the whole batch: over the clips of all processes, without the scaler's factor; 0 for
        parameters that the loss does not depend on. The graph is kept, for the gradients of another loss.

        Only for methods with a `step` of their own.
        """
        one = self.scaler.scale(torch.ones((), device=self.device))
        found = torch.autograd.grad(self.scaler.scale(loss * batch.share), parameters, retain_graph=True,
                                    allow_unused=True, materialize_grads=True)
        return {parameter: gradient / one for parameter, gradient in
                zip(parameters, distributed.means_over_processes(found), strict=True)}

    def descend_along(self, batch: Batch, output: ClassifierOutput, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """One update along these gradients; parameters without one stay as they are, with their momentum."""
        self.optimizer.zero_grad()
        for parameter, gradient in gradients.items():
            parameter.grad = self.scaler.scale(gradient)
        self.update(batch, output)

    def update(self, batch: Batch, output: ClassifierOutput) -> None:
        """One update along the parameters' `grad`: averaged over the processes, times the scaler's factor."""
        self.scaler.unscale_(self.optimizer)
        self.method.adjust_gradients(self.model, output, batch.labels)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def outputs(self, loader: Iterable) -> Iterator[tuple[ClassifierOutput, Tensor]]:
        """(output, labels (B,)) of every batch of `loader`, in evaluation mode."""
        self.model.eval()
        for inputs, labels in loader:
            with self.autocast():
                output = self.model(*(x.to(self.device) for x in inputs))
            yield output, labels.to(self.device)


class TrialOnClips:
    """What a method may try out before the first epoch: training on `clips.trained` of the learner, at the learning
    rate of its optimizer, and measuring on both of `clips`."""

    def __init__(self, learner: Learner):
        self.learner = learner

    def train_and_measure(self, epochs: int) -> tuple[Tensor, Tensor]:
        """Trains for so many epochs -> means of the method's `losses` over the clips that were trained on, and over
        those held out from them, (1 + M,) each."""
        learner, clips = self.learner, self.learner.clips
        for _ in range(epochs):
            learner.train()
            for inputs, labels in clips.trained:
                inputs = [x.to(learner.device) for x in inputs]
                learner.method.step(learner, Batch(inputs, labels.to(learner.device), share=1.0, lam=0.0))
        distributed.broadcast_model(learner.model)
        return mean_losses(learner, clips.trained), mean_losses(learner, clips.held_out)

    def save(self) -> None:
        """Nothing is saved in the middle of the trials."""


@torch.no_grad()
def mean_losses(learner: Learner, loader: Iterable) -> Tensor:
    """(1 + M,): means of the method's `losses` over every clip of the loader, over all processes."""
    total, clips = 0, torch.zeros((), device=learner.device)
    for output, labels in learner.outputs(loader):
        loss = F.cross_entropy(output.logits, labels)
        total = total + len(labels) * learner.method.losses(output, labels, loss)
        clips += len(labels)
    return distributed.sum_over_processes(total) / distributed.sum_over_processes(clips)


def chosen_settings(name: str, given: Mapping[str, object]) -> dict[str, object]:
    """Every setting of a method by name: the given value, or the default. Raises ValueError, with a sentence."""
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r}: choose from {', '.join(METHODS)}")
    flags = {flag.name: flag for flag in METHODS[name].flags}
    for unknown in given.keys() - flags.keys():
        known = f"its settings are {', '.join(flags)}" if flags else "it has no settings"
        raise ValueError(f"{name} has no setting {unknown!r}: {known}")
    values = {}
    for setting, flag in flags.items():
        value = given.get(setting, METHODS[name].default_settings.get(setting, flag.default))
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        try:
            values[setting] = flag.kind(text)
        except ValueError as error:
            raise ValueError(f"{setting} of {name}: {error}") from None
    return values


def made_method(name: str, model: MultimodalClassifier, settings: Mapping[str, object]) -> Method:
    """Raises ValueError: the constructor refuses the settings."""
    try:
        return make_method(name, model, settings)
    except ValueError as error:
        raise ValueError(f"{name}: {without_dashes(error)}") from None


def without_dashes(error: ValueError) -> str:
    """The error's text with settings named as arguments of the Learner: `opm_warmup`, not the flag `--opm_warmup`."""
    return re.sub(r"--(?=\w)", "", str(error))


def check_network(name: str, kind: type[Method], model: MultimodalClassifier) -> None:
    """Raises ValueError: the method is not defined for this network."""
    modalities = len(model.modalities)
    if kind is not Method and modalities < 2:
        raise ValueError(f"{name} balances modalities: it needs at least two, the network has {modalities}")
    if modalities > kind.most_modalities:
        raise ValueError(f"{name} is defined for {kind.most_modalities} modalities, the network has {modalities}")
    fusion = next((name for name, fusion in FUSIONS.items() if type(model.fusion_module) is fusion), "another")
    if kind.fusions and fusion not in kind.fusions:
        raise ValueError(f"{name} is defined for the fusion {' or '.join(kind.fusions)}, the network has {fusion}")
    if model.mmcosine and "mmcosine" in kind.without:
        raise ValueError(f"{name} cannot be combined with MMCosine: {kind.without['mmcosine']}")
    if getattr(model, "_compiled_call_impl", None) and "compile" in kind.without:
        raise ValueError(f"{name} cannot be combined with a compiled network: {kind.without['compile']}")


def give_teachers(name: str, method: Method, model: MultimodalClassifier,
                  teachers: Mapping[str, nn.Module] | None) -> None:
    """Puts copies of the teachers into the method. Raises ValueError: they are not those that the method needs."""
    if teachers is None and isinstance(method, METHODS.get(name, ())) and method.needs_teachers:
        raise ValueError(f"{name} needs an encoder of each modality that was trained alone: give "
                         f"teachers={{modality: encoder}} for {', '.join(model.modalities)}")
    if teachers is None:
        return
    if not method.needs_teachers:
        raise ValueError(f"teachers have no effect with {name}: leave them out")
    if teachers.keys() != set(model.modalities):
        raise ValueError(f"teachers are those of {', '.join(teachers)}, the modalities are "
                         f"{', '.join(model.modalities)}: give a teacher for each")
    for modality in model.modalities:
        method.teachers[modality] = copy.deepcopy(teachers[modality])
    method.teachers.to(next(model.parameters()).device).requires_grad_(False).eval()


def check_optimizer(name: str, method: Method, model: MultimodalClassifier, optimizer: Optimizer) -> None:
    """Raises ValueError: the optimizer is of another network, or the method cannot use it."""
    known = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if known.isdisjoint(model.parameters()):
        raise ValueError("the optimizer has no parameter of this network: make it from model.parameters()")
    if method.optimizers and type(optimizer).__name__.lower() not in method.optimizers:
        raise ValueError(f"{name} is defined for the optimizer {' or '.join(method.optimizers)}, it was given "
                         f"{type(optimizer).__name__}")
    if method.has_own_step() and any(group.get("fused") for group in optimizer.param_groups):
        raise ValueError(f"{name} gives some parameters no gradient in some steps, which a fused optimizer needs: make "
                         "the optimizer without fused=True")


def add_parameters(name: str, method: Method, model: MultimodalClassifier, optimizer: Optimizer) -> None:
    """Adds what the method trains to the optimizer, and splits its group where encoders need rates of their own."""
    groups = optimizer.param_groups
    known = {parameter for group in groups for parameter in group["params"]}
    fusion = set(model.fusion_module.parameters())
    of_fusion = next((group for group in groups if not fusion.isdisjoint(group["params"])), groups[0])
    of_fusion["params"].extend(parameter for parameter in trained(method) if parameter not in known)
    if not method.rate_per_encoder or len(groups) == 1 + len(model.modalities):
        return
    if len(groups) > 1:
        raise ValueError(f"{name} gives each encoder a learning rate: make the optimizer with one group of all "
                         "parameters")
    for modality in model.modalities:
        encoder = trained(model.encoder(modality))
        groups[0]["params"] = [each for each in groups[0]["params"] if each not in set(encoder)]
        optimizer.add_param_group({**groups[0], "params": encoder})
