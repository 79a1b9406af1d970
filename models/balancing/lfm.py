"""LFM (Yang, Wan, Jiang, Xu: Facilitating Multimodal Classification via Dynamically Learning Modality Gap, NeurIPS
2024), with the learned weight. M modalities, B clips, C classes.

Late fusion: F is the mean of the modality logits F_m. The loss adds the Jensen-Shannon divergence of the modalities'
predictions, which draws the one that learns its labels slower to the other:

    L = 2 * (a1 * cross-entropy(F, y) + a2 * JS(softmax F_1, ..., softmax F_M)),   a1 = 1 - a2

JS is the entropy of the mean minus the mean of the entropies. a2 starts as `lfm_weight` and follows, after each epoch,
the gradient of the cross-entropy of held-out training clips with the rate `lfm_rate`, within [0.05, 0.95]:

    d L_held_out / d a2 = -<grad L_held_out, sum over the epoch's steps of 2 eta * (grad JS - grad cross-entropy)>

with the learning rate eta: exact for one step of plain gradient descent; over an epoch it leaves out how earlier steps
change the gradients of later ones. The rate 1e-4 and the bounds are the paper's, an update an epoch and the start at
0.5 are ours. `lfm_rate` 0 keeps the weight as it is.

Any M. Defined for late fusion: sum and concat; with MMCosine too. It replaces the plain loss. The published code has a
fixed polynomial of the epoch in the place of the learned weight, re-implementations learn it on the test set. The
paper's abstract calls the added loss unsupervised contrastive learning; the divergence above stands in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from . import distributed
from .method import KEEPS_GRAPH, REPLACES_LOSS, Batch, Clips, Flag, Learner, Method, Number, trained

if TYPE_CHECKING:
    from torch import nn

    from ..classifier import ClassifierOutput, MultimodalClassifier

BOUNDS = (0.05, 0.95)  # of a2


class Lfm(Method):
    title = "late fusion whose modalities' predictions are drawn together"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("lfm_weight", Number(float, *BOUNDS), 0.5, "weight a2 of lfm's divergence at the start"),
        Flag("lfm_rate", Number(float, 0), 1e-4, "rate at which lfm learns it on held-out training clips"))
    fusions: ClassVar[tuple[str, ...]] = ("concat", "sum")
    without: ClassVar[Mapping[str, str]] = {**REPLACES_LOSS, **KEEPS_GRAPH}
    needs_held_out = True

    def __init__(self, model: MultimodalClassifier, lfm_weight: float, lfm_rate: float):
        super().__init__(model)
        self.rate = lfm_rate
        self.register_buffer("weight", torch.tensor(lfm_weight))  # a2
        self.moved: dict[nn.Parameter, Tensor] = {}  # -d parameter / d a2, by the epoch's steps so far

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        self.moved = {parameter: torch.zeros_like(parameter) for parameter in trained(learner.model)}

    def step(self, learner: Learner, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        output, _ = learner.forward(batch)
        fit, gap = F.cross_entropy(output.modality_logits.mean(0), batch.labels), divergence(output.modality_logits)
        of_fit, of_gap = (learner.gradients(batch, loss, list(self.moved)) for loss in (fit, gap))
        rate = learner.optimizer.param_groups[0]["lr"]
        steps = [2 * rate * (of_gap[parameter] - of_fit[parameter]) for parameter in self.moved]
        finite = torch.stack([step.isfinite().all() for step in steps]).all()  # else the loss scaler skips the step
        for moved, step in zip(self.moved.values(), steps, strict=True):
            moved += torch.where(finite, step, 0.0)
        update = {parameter: 2 * ((1 - self.weight) * of_fit[parameter] + self.weight * of_gap[parameter])
                  for parameter in self.moved}
        learner.descend_along(batch, output, update)
        return output, 2 * ((1 - self.weight) * fit + self.weight * gap)

    def end_epoch(self, learner: Learner, clips: Clips) -> None:
        slope, seen = torch.zeros_like(self.weight), torch.zeros_like(self.weight)  # slope: d L_held_out / d a2
        for output, labels in learner.outputs(clips.held_out):
            loss = F.cross_entropy(output.modality_logits.mean(0), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, list(self.moved), allow_unused=True, materialize_grads=True)
            slope -= sum((gradient * moved).sum()
                         for gradient, moved in zip(gradients, self.moved.values(), strict=True))
            seen += len(labels)
        slope = distributed.sum_over_processes(slope) / distributed.sum_over_processes(seen)
        self.weight.sub_(self.rate * slope).clamp_(*BOUNDS)


def divergence(logits: Tensor) -> Tensor:
    """(M, B, C) -> the batch's mean Jensen-Shannon divergence of the M predictions, in nats."""
    log = logits.log_softmax(-1)
    mixed = log.logsumexp(0) - math.log(len(logits))  # log of the mean of the predictions, (B, C)
    return (log.exp() * (log - mixed)).sum(-1).mean()
