"""InfoReg (Huang, Wei, Yang, Hu: Adaptive Unimodal Regulation for Balanced Multimodal Information Acquisition, CVPR
2025, arXiv 2503.18595). M modalities, B clips, D features.

Multi-loss training, in which the encoder of a leading modality is held back while it still learns fast. Tr_m(t) is the
mean over the steps of epoch t of the squared length of the gradient of encoder m. In epoch t, where

    (Tr_m(t - 1) - Tr_m(t - 2)) / Tr_m(t - 1) > K   and   Delta_m > 0

its gradient gets alpha_m * (theta_m - theta_m at the epoch's start), with alpha_m = exp(beta * tanh(Delta_m)) and
Delta_m the modality's mean probability of the true class over the batch minus the mean of the others', by the heads of
multi-loss. So the first two epochs are those of `multiloss`. K is `inforeg_threshold`, 0.05, beta `inforeg_beta`, 0.95,
both as in the paper. That the probabilities are those of the heads, and that a gradient counts before the term is added
and only where float16 leaves it finite, is our choice.

Any M, any fusion, with MMCosine too. With several processes gradients and scores are of the whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..fusion import mean_of_others
from . import distributed
from .method import Clips, Flag, Learner, Number, trained
from .multiloss import UNI_WEIGHT, MultiLoss
from .ogm import scores

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier


class InfoReg(MultiLoss):
    title = "multiloss, with leading encoders held back while their gradients grow"
    flags: ClassVar[tuple[Flag, ...]] = (
        UNI_WEIGHT, Flag("inforeg_threshold", Number(float, 0), 0.05, "growth K from which inforeg holds back"),
        Flag("inforeg_beta", Number(float, 0), 0.95, "strength beta of inforeg's regulation"))

    def __init__(self, model: MultimodalClassifier, uni_weight: float, inforeg_threshold: float, inforeg_beta: float):
        super().__init__(model, uni_weight)
        self.threshold, self.beta = inforeg_threshold, inforeg_beta
        modalities = len(model.modalities)
        self.register_buffer("traces", torch.zeros(2, modalities))  # Tr of the last epoch but one, and of the last
        self.register_buffer("sums", torch.zeros(modalities))  # of this epoch's squared gradients so far
        self.register_buffer("steps", torch.zeros(modalities))
        self.start: dict[nn.Parameter, Tensor] = {}  # the encoders' parameters at the epoch's start

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        encoders = [learner.model.encoder(name) for name in learner.model.modalities]
        self.start = {parameter: parameter.detach().clone() for encoder in encoders for parameter in trained(encoder)}

    def end_epoch(self, learner: Learner, clips: Clips | None) -> None:
        self.traces.copy_(torch.stack([self.traces[1], self.sums / self.steps.clamp(min=1)]))
        self.sums.zero_()
        self.steps.zero_()

    def adjust_gradients(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor) -> None:
        strengths = self.strengths(output.features.detach(), labels)
        for m, (name, strength) in enumerate(zip(model.modalities, strengths, strict=True)):
            parameters = [parameter for parameter in trained(model.encoder(name)) if parameter.grad is not None]
            square = sum((parameter.grad.square().sum() for parameter in parameters), start=self.sums.new_zeros(()))
            self.sums[m] += torch.where(square.isfinite(), square, 0.0)
            self.steps[m] += square.isfinite()
            for parameter in parameters:
                parameter.grad += strength * (parameter.detach() - self.start[parameter])

    @torch.no_grad()
    def strengths(self, features: Tensor, labels: Tensor) -> Tensor:
        """alpha (M,), 0 for an encoder that is not held back."""
        before, last = self.traces
        growing = (before > 0) & (last - before > self.threshold * last)
        clips = distributed.sum_over_processes(features.new_full((), len(labels), dtype=self.sums.dtype))
        score = scores(self.heads.logits(features), labels) / clips
        gap = score - mean_of_others(score)
        return torch.where(growing & (gap > 0), torch.exp(self.beta * torch.tanh(gap)), 0.0)
