"""MLB, multi-loss balancing (Kontras, Chatzichristos, Blaschko, De Vos: Improving Multimodal Learning with Multi-Loss
Gradient Modulation, BMVC 2024, arXiv 2405.07930). M modalities, B clips, C classes.

Multi-loss training in which every encoder learns slower or faster by how far it is ahead or behind. With s_m the mean
probability of the true class over the batch by the head of modality m, and rho_m = s of the other / s_m (for M > 2 the
mean of the others'), all gradients of m's encoder and head are multiplied by

    1 + tanh(a * (rho_m - 1))              for rho_m <= 1: slower, by up to 1 - tanh(a)
    1 + (b - 1) * tanh(a * (rho_m - 1))    for rho_m > 1: faster, up to b times

a is `mlb_alpha`, b `mlb_beta`: 0.5 and 10 on CREMA-D, 2 and 1 on AVE. Fusion and classifier follow the plain sum of the
losses.

Any M, any fusion, with MMCosine too, under which the heads stay linear. With several processes the scores are of the
whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..fusion import mean_of_others
from .method import Flag, Number
from .multiloss import UNI_WEIGHT, MultiLoss
from .ogm import scores

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier


class Mlb(MultiLoss):
    title = "multiloss, with encoders that learn slower ahead and faster behind"
    flags: ClassVar[tuple[Flag, ...]] = (
        UNI_WEIGHT,
        Flag("mlb_alpha", Number(float, 0, exclusive=True), 0.5, "how steeply mlb's coefficients follow the ratio"),
        Flag("mlb_beta", Number(float, 1), 10.0, "largest coefficient of mlb, of an encoder far behind"))

    def __init__(self, model: MultimodalClassifier, uni_weight: float, mlb_alpha: float, mlb_beta: float):
        super().__init__(model, uni_weight)
        self.alpha, self.beta = mlb_alpha, mlb_beta

    @classmethod
    def check(cls, epochs: int, *, uni_weight: float, **settings: object) -> None:
        if not uni_weight:
            raise ValueError("mlb judges the modalities by their heads, which learn nothing with "
                             "--uni_weight 0")

    @torch.no_grad()
    def adjust_gradients(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor) -> None:
        score = scores(self.heads.logits(output.features), labels)
        ratio = mean_of_others(score) / score
        steps = torch.tanh(self.alpha * (ratio - 1))
        coefficients = 1 + torch.where(ratio > 1, (self.beta - 1) * steps, steps)
        self.note(ratio=ratio, coefficient=coefficients)
        for name, head, coefficient in zip(model.modalities, self.heads, coefficients, strict=True):
            for parameter in (*model.encoder(name).parameters(), *head.parameters()):
                if parameter.grad is not None:
                    parameter.grad.mul_(coefficient)
