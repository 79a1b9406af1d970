"""OGM-GE (Peng, Wei, Deng, Wang, Hu: Balanced Multimodal Learning via On-the-fly Gradient Modulation, CVPR 2022,
arXiv 2203.15332), equations 8 to 11. M modalities, B clips, C classes.

The score of modality m is sum_i softmax(l_m,i)[y_i] over the batch, its lead rho_m = score_m / score of the other
(their mean, for M > 2). A modality with rho_m > 1 learns slower: the gradients of its encoder's convolutions (of all
its matrices, if it has no 2-D convolution) are multiplied by

    k_m = 1 - tanh(alpha * rho_m)

and k_m = 1 for the others. GE adds Gaussian noise to these gradients of every encoder, of mean 0 and of the standard
deviation that the gradient had before.

The strength `alpha` is 0.8 by default: what the authors run on CREMA-D with OGM-GE (0.1 on VGGSound). Their code has no
default: the flag is required there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..fusion import mean_of_others
from . import distributed
from .method import Clips, Flag, Learner, Method, Number

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier

ALPHA = Flag("alpha", Number(float, 0), 0.8, "strength of ogm and ogm_ge; OGM-GE's authors run 0.8 on CREMA-D "
             "(0.1 on VGGSound), their code has no default")


class Ogm(Method):
    """Gradient modulation in the epochs `modulation_starts` to `modulation_ends`, inclusive and counted from 0."""

    title = "on-the-fly gradient modulation"
    flags: ClassVar[tuple[Flag, ...]] = (
        ALPHA, Flag("modulation_starts", Number(int, 0), 0, "first epoch of ogm and ogm_ge, counted from 0"),
        Flag("modulation_ends", Number(int, 0), 50, "their last epoch, inclusive"))
    noise = False

    def __init__(self, model: MultimodalClassifier, alpha: float, modulation_starts: int, modulation_ends: int):
        super().__init__(model)
        if len(model.modalities) < 2:
            raise ValueError("gradient modulation weighs modalities against each other: it needs at least two")
        self.alpha, self.epochs, self.active = alpha, range(modulation_starts, modulation_ends + 1), False

    @classmethod
    def check(cls, epochs: int, *, alpha: float, modulation_starts: int, modulation_ends: int) -> None:
        last = min(modulation_ends, epochs - 1)
        if modulation_starts > last:
            raise ValueError(f"--modulation_starts {modulation_starts} is after the last epoch of modulation, "
                             f"{last} counted from 0: nothing would be modulated")

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        self.active = epoch - 1 in self.epochs

    def adjust_gradients(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor) -> None:
        score = scores(output.modality_logits.detach(), labels)
        ratio = score / mean_of_others(score)
        coefficients = slow_down(ratio, self.alpha) if self.active else torch.ones_like(ratio)
        self.note(ratio=ratio, coefficient=coefficients)
        if not self.active:
            return
        for name, coefficient in zip(model.modalities, coefficients, strict=True):
            for parameter in modulated(model.encoder(name)):
                if parameter.grad is not None:
                    modulate(parameter.grad, coefficient, self.noise)


class OgmGe(Ogm):
    """Gradient modulation with generalisation enhancement: the noise."""

    title = "ogm, and noise on the gradients"
    noise = True


def scores(modality_logits: Tensor, labels: Tensor) -> Tensor:
    """Modality logits (M, B, C), labels (B,) -> (M,): summed probability of the true class, over all processes."""
    precision = torch.promote_types(modality_logits.dtype, torch.float32)
    probabilities = modality_logits.softmax(-1, dtype=precision)  # (M, B, C)
    own = probabilities.gather(2, labels.expand(len(probabilities), -1).unsqueeze(2))
    return distributed.sum_over_processes(own.sum((1, 2)))


def slow_down(ratio: Tensor, alpha: float) -> Tensor:
    """rho (M,) -> coefficients (M,): 1 - tanh(alpha * rho) for modalities in the lead, 1 for the others."""
    return torch.where(ratio > 1, 1 - torch.tanh(alpha * ratio), 1.0)


def modulated(encoder: nn.Module) -> list[nn.Parameter]:
    """The weights of the encoder's 2-D convolutions; its matrices and other weights, if it has no convolution."""
    convolutions = [parameter for parameter in encoder.parameters() if parameter.dim() == 4]
    return convolutions or [parameter for parameter in encoder.parameters() if parameter.dim() > 1]


def modulate(gradient: Tensor, coefficient: Tensor, noise: bool) -> None:
    """In place: times the coefficient, plus noise of the gradient's own standard deviation. The noise comes from
    torch's global generator, which is seeded alike in every process; drawn into channels_last memory it takes a CPU
    eight times as long."""
    std = gradient.std() + 1e-8 if noise else None
    gradient.mul_(coefficient)
    if std is not None:
        gradient.add_(torch.randn_like(gradient, memory_format=torch.contiguous_format) * std)
