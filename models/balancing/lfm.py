"""LFM (Yang, Wan, Jiang, Xu: Facilitating Multimodal Classification via Dynamically Learning Modality Gap, NeurIPS
2024), and the same with a weight that is learned in the run. M modalities, B clips, C classes.

Late fusion: F is the mean of the modality logits F_m. The loss adds a divergence of the modalities' predictions, which
draws the one that learns its labels slower to the other:

    L = 2 * (a1 * cross-entropy(F, y) + a2 * divergence(softmax F_1, ..., softmax F_M)),   a1 = 1 - a2

`lfm` changes a2 with the epoch. The authors publish what their learning of it gave on CREMA-D as a polynomial of the
epoch e (`SCHEDULE`; counted from 0, of 200 epochs): 0.795 at e = 0, 0.567 at 49, 0.463 at 99, 0.084 at 199, and least,
-0.01, at 183. A run of E epochs has its value at e = 200 * (epoch - 1) / E. `lfm_weight` may be a number instead, which
stays.

The divergence is that of the authors' code by default, `lfm_divergence` reverse_js; p is the mean of the predictions:

    reverse_js = mean over m of KL(p || softmax F_m),   js = mean over m of KL(softmax F_m || p)

Only js is the Jensen-Shannon divergence. Any M. Defined for late fusion: sum and concat; with MMCosine too. It replaces
the plain loss. The paper's abstract calls the added loss unsupervised contrastive learning; the divergence above is
what its code has in that place.

`lfm_learned` keeps a2 through an epoch and then moves it along the slope of the cross-entropy of held-out training
clips after that epoch, with the rate `lfm_rate`, within [0.05, 0.95]:

    a2 <- a2 - lfm_rate * d L_held_out / d a2,   d L_held_out / d a2 = <grad L_held_out, d theta / d a2>

The derivative of the parameters theta goes through every step of the epoch of SGD with its momentum buffer v, learning
rate eta, momentum mu and weight decay lambda, with the Hessian H of L:

    dv <- mu * dv + 2 * (grad divergence - grad cross-entropy) + H dtheta + lambda * dtheta
    dtheta <- dtheta - eta * dv

It is exact but for BatchNorm's running statistics, by which held-out clips are evaluated and which have no
derivative here. The paper's rate of 1e-4 does not move a2 (docs/results/2026-12-01_agm_lfm.md). The default rate, the
start `lfm_start` and one update an epoch are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from . import distributed
from .method import (
    KEEPS_GRAPH,
    REPLACES_LOSS,
    Batch,
    Choice,
    Clips,
    Flag,
    Learner,
    Method,
    MethodError,
    Number,
    trained,
)

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from ..classifier import ClassifierOutput, MultimodalClassifier

BOUNDS = (0.05, 0.95)  # of a learned a2
SCHEDULE = (0.795376296, -3.35472727e-3, -1.22989557e-4, 2.92947416e-6, -2.23835486e-8, 5.39717505e-11)  # of e^0 to e^5
SCHEDULE_EPOCHS = 200


def scheduled_weight(epoch: int, epochs: int) -> float:
    """a2 in an epoch, counted from 1, of a run of `epochs`."""
    e = SCHEDULE_EPOCHS * (epoch - 1) / epochs
    return sum(factor * e ** power for power, factor in enumerate(SCHEDULE))


def weight(text: str) -> str | float:
    """A flag's value: `schedule`, or a number."""
    if text == "schedule":
        return text
    try:
        float(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither schedule nor a number") from None
    return Number(float, 0, 1)(text)


DIVERGENCE = Flag("lfm_divergence", Choice(("reverse_js", "js")), "reverse_js", "divergence of the modalities' "
                  "predictions in lfm: reverse_js, KL(mean || prediction), as in its authors' code; or js, "
                  "KL(prediction || mean)")


class Lfm(Method):
    title = "late fusion whose modalities' predictions are drawn together"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("lfm_weight", weight, "schedule", "weight a2 of lfm's divergence: schedule, its authors' polynomial of "
             "the epoch over the length of the run; or a number from 0 to 1, which stays"), DIVERGENCE)
    fusions: ClassVar[tuple[str, ...]] = ("concat", "sum")
    without: ClassVar[Mapping[str, str]] = REPLACES_LOSS

    def __init__(self, model: MultimodalClassifier, lfm_weight: str | float, lfm_divergence: str):
        super().__init__(model)
        self.divergence = DIVERGENCES[lfm_divergence]
        self.scheduled = self.needs_length = lfm_weight == "schedule"
        self.epochs = SCHEDULE_EPOCHS  # of the run
        self.weight = scheduled_weight(1, self.epochs) if self.scheduled else lfm_weight  # a2

    def begin_run(self, epochs: int) -> None:
        self.epochs = epochs

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        if self.scheduled:
            self.weight = scheduled_weight(epoch, self.epochs)

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        fit, gap = self.terms(output, labels)
        self.note(weight=torch.zeros_like(gap) + self.weight, divergence=gap.detach())
        return 2 * ((1 - self.weight) * fit + self.weight * gap)

    def terms(self, output: ClassifierOutput, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(cross-entropy of the mean logits, divergence of the predictions)"""
        return F.cross_entropy(output.modality_logits.mean(0), labels), self.divergence(output.modality_logits)


class LfmLearned(Lfm):
    title = "lfm with a weight that is learned on held-out training clips"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("lfm_start", Number(float, *BOUNDS), 0.5, "weight a2 with which lfm_learned starts; ours"),
        Flag("lfm_rate", Number(float, 0, exclusive=True), 0.1, "rate at which lfm_learned moves its weight along the "
             "slope of the held-out loss, once an epoch; ours, the paper's 1e-4 does not move it"), DIVERGENCE)
    optimizers: ClassVar[tuple[str, ...]] = ("sgd",)
    without: ClassVar[Mapping[str, str]] = {**REPLACES_LOSS, **KEEPS_GRAPH}
    needs_held_out = True

    def __init__(self, model: MultimodalClassifier, lfm_start: float, lfm_rate: float, lfm_divergence: str):
        super().__init__(model, lfm_start, lfm_divergence)
        self.rate = lfm_rate
        self.register_buffer("learned", torch.tensor(lfm_start))  # a2, in an epoch `weight`
        self.moved: dict[nn.Parameter, tuple[Tensor, Tensor]] = {}  # (d parameter / d a2, d momentum buffer / d a2)

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        groups = learner.optimizer.param_groups
        if any(group[kind] for group in groups for kind in ("nesterov", "dampening", "maximize")):
            raise MethodError("lfm_learned is defined for SGD without nesterov, dampening and maximize")
        self.weight = self.learned
        self.moved = {parameter: (torch.zeros_like(parameter), torch.zeros_like(parameter))
                      for parameter in trained(learner.model)}

    def step(self, learner: Learner, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        output, loss = learner.forward(batch)
        parameters = list(self.moved)
        fit, gap = self.terms(output, batch.labels)
        of_fit, of_gap = (learner.gradients(batch, term, parameters) for term in (fit, gap))
        with_graph = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
        along = sum((gradient * moved).sum()
                    for gradient, (moved, _) in zip(with_graph, self.moved.values(), strict=True))
        of_hessian = learner.gradients(batch, along, parameters)
        self.follow(learner.optimizer, {
            parameter: 2 * (of_gap[parameter] - of_fit[parameter]) + of_hessian[parameter] for parameter in parameters})
        learner.descend_along(batch, output, {
            parameter: 2 * ((1 - self.weight) * of_fit[parameter] + self.weight * of_gap[parameter])
            for parameter in parameters})
        return output, loss.detach()

    @torch.no_grad()
    def follow(self, optimizer: Optimizer, changes: Mapping[nn.Parameter, Tensor]) -> None:
        """One step of SGD on the derivatives by a2. changes: d gradient / d a2. Nothing where one is not finite, since
        the loss scaler then skips the step."""
        finite = torch.stack([change.isfinite().all() for change in changes.values()]).all()
        group_of = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
        for parameter, (moved, velocity) in self.moved.items():
            group = group_of[parameter]
            change = changes[parameter] + group["weight_decay"] * moved
            faster = group["momentum"] * velocity + change
            velocity.copy_(torch.where(finite, faster, velocity))
            moved -= torch.where(finite, group["lr"] * faster, 0.0)

    def end_epoch(self, learner: Learner, clips: Clips) -> None:
        slope, seen = torch.zeros_like(self.learned), torch.zeros_like(self.learned)  # slope: d L_held_out / d a2
        for output, labels in learner.outputs(clips.held_out):
            loss = F.cross_entropy(output.modality_logits.mean(0), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, list(self.moved), allow_unused=True, materialize_grads=True)
            slope += sum((gradient * moved).sum()
                         for gradient, (moved, _) in zip(gradients, self.moved.values(), strict=True))
            seen += len(labels)
        slope = distributed.sum_over_processes(slope) / distributed.sum_over_processes(seen)
        self.note(slope=slope)
        self.learned.sub_(self.rate * slope).clamp_(*BOUNDS)


def jensen_shannon(logits: Tensor) -> Tensor:
    """(M, B, C) -> the batch's mean Jensen-Shannon divergence of the M predictions, in nats."""
    log, mean = log_predictions(logits)
    return (log.exp() * (log - mean)).sum(-1).mean()


def reverse_jensen_shannon(logits: Tensor) -> Tensor:
    """(M, B, C) -> the mean over batch and modalities of the divergence of the mean of the M predictions from each of
    them, in nats."""
    log, mean = log_predictions(logits)
    return (mean.exp() * (mean - log)).sum(-1).mean()


def log_predictions(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(M, B, C) -> logarithms of the predictions (M, B, C) and of their mean (B, C)."""
    log = logits.log_softmax(-1)
    return log, log.logsumexp(0) - math.log(len(logits))


DIVERGENCES: dict[str, Callable[[Tensor], Tensor]] = {"reverse_js": reverse_jensen_shannon, "js": jensen_shannon}
