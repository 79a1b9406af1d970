"""InfoReg (Huang, Wei, Yang, Hu: Adaptive Unimodal Regulation for Balanced Multimodal Information Acquisition, CVPR
2025, arXiv 2503.18595). M modalities, B clips, D features.

Multi-loss training, in which the encoder of a leading modality is held back while it still learns fast. Tr_m(t) is the
mean over the steps of epoch t of the squared length of the gradient of encoder m. In epoch t, where

    (Tr_m(t - 1) - Tr_m(t - 2)) / Tr_m(t - 1) > K   and   Delta_m > 0

its gradient gets alpha_m * (theta_m - theta_m at the epoch's start), with alpha_m = exp(beta * tanh(Delta_m)). With s_m
the mean probability of the true class over the batch, Delta_m is the mean of s_m - s_n over the modalities n with
s_n < s_m (equations 9 and 10), so that every encoder but that of the lowest score is held back. The first two epochs
are those of `multiloss`.

K is `inforeg_threshold`, beta `inforeg_beta`: 0.04 and 0.9 in the paper. The authors' code has another formula,
alpha_m = beta * exp(tanh(Delta_m)), with K 0.05 and beta 0.95: `--inforeg_formula code --inforeg_threshold 0.05
--inforeg_beta 0.95`. Our choices: the probabilities are those of the heads of multi-loss, or of the modality logits
where the heads learn nothing (`--uni_weight 0`); a gradient counts before the term is added, and only where float16
leaves it finite.

Any M, any fusion, with MMCosine too. With several processes gradients and scores are of the whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from . import distributed
from .method import Choice, Clips, Flag, Learner, Number, trained
from .multiloss import UNI_WEIGHT, MultiLoss
from .ogm import scores

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier


FORMULAS = ("paper", "code")


class InfoReg(MultiLoss):
    title = "multiloss, with leading encoders held back while their gradients grow"
    flags: ClassVar[tuple[Flag, ...]] = (
        UNI_WEIGHT, Flag("inforeg_threshold", Number(float, 0), 0.04, "growth K from which inforeg holds back"),
        Flag("inforeg_beta", Number(float, 0), 0.9, "strength beta of inforeg's regulation"),
        Flag("inforeg_formula", Choice(FORMULAS), "paper", "strength of a lead of Delta: exp(beta tanh Delta), or with "
             "`code` beta exp(tanh Delta), as in its authors' code (with K 0.05 and beta 0.95)"))

    def __init__(self, model: MultimodalClassifier, uni_weight: float, inforeg_threshold: float, inforeg_beta: float,
                 inforeg_formula: str):
        super().__init__(model, uni_weight)
        self.threshold, self.beta, self.formula = inforeg_threshold, inforeg_beta, inforeg_formula
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
        self.note(trace=self.traces[1])
        self.sums.zero_()
        self.steps.zero_()

    def adjust_gradients(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor) -> None:
        strengths = self.strengths(output, labels)
        self.note(strength=strengths)
        for m, (name, strength) in enumerate(zip(model.modalities, strengths, strict=True)):
            parameters = [parameter for parameter in trained(model.encoder(name)) if parameter.grad is not None]
            square = sum((parameter.grad.square().sum() for parameter in parameters), start=self.sums.new_zeros(()))
            self.sums[m] += torch.where(square.isfinite(), square, 0.0)
            self.steps[m] += square.isfinite()
            for parameter in parameters:
                parameter.grad += strength * (parameter.detach() - self.start[parameter])

    @torch.no_grad()
    def strengths(self, output: ClassifierOutput, labels: Tensor) -> Tensor:
        """alpha (M,), 0 for an encoder that is not held back."""
        before, last = self.traces
        growing = (before > 0) & (last - before > self.threshold * last)
        clips = distributed.sum_over_processes(torch.full_like(self.sums[0], len(labels)))
        logits = self.heads.logits(output.features) if self.uni_weight else output.modality_logits
        gap = lead(scores(logits, labels) / clips)
        alpha = torch.exp(self.beta * torch.tanh(gap)) if self.formula == "paper" else self.beta * torch.tanh(gap).exp()
        return torch.where(growing & (gap > 0), alpha, 0.0)


def lead(score: Tensor) -> Tensor:
    """(M,) -> Delta (M,): the mean difference to the lower scores, 0 for the lowest."""
    gaps = (score[:, None] - score).relu()  # (M, M)
    return gaps.sum(1) / (gaps > 0).sum(1).clamp(min=1)
