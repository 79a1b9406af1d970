"""AGM (Li et al.: Boosting Multi-modal Model Performance with Adaptive Gradient Modulation, ICCV 2023, arXiv
2308.07686). M modalities, B clips, C classes, D features.

The response of modality m is its Shapley value in the joint logits F, other modalities being masked by features of 0:

    phi_m = sum over sets S without m of |S|! (M - |S| - 1)! / M! * (F(S with m) - F(S)),   F(no modality) = 0

so that the responses add up to F; for two, phi_a = (F(a, v) - F(0, v) + F(a, 0)) / 2. With s_m the batch's mean of
-log softmax(phi_m)[y], S_m the mean of the s_m of all steps before, and "others" the mean over the other modalities,

    r_m = exp(s_others - s_m),   tau_m = exp(S_others - S_m),   kappa_m = exp(alpha * min(tau_m - r_m, 10))

the gradient of cross-entropy(sum_m phi_m, y) that flows into phi_m is multiplied by kappa_m: a modality that is further
ahead than on average learns slower. alpha is `agm_alpha`, 1 by default; the authors take 1 to 3. s_m is of the whole
batch, over all processes; -log has the ceiling -log(1e-8). As in the authors' runs, the last epoch with this is
`agm_ends`, 20, counted from 0. After it kappa is 1, and gradients are still clipped.

kappa is an exponential of a difference of exponentials, at most e^(10 alpha): a modality that falls behind its mean
lead is pushed the harder the worse it gets. Therefore the authors' code clips: in a step in which an entry of the
gradient of the head's weight (`fusion_module.head()`) leaves [-1, 1], the gradients of all parameters are scaled to a
total norm of 1. `agm_clip` is that norm; with 0 gradients are never scaled. They are tested and scaled as the update
takes them: averaged over the processes and without the factor of float16's loss scaler.

Any M, any fusion; with MMCosine phi_m = l_m, since a feature of 0 has cosine 0. It replaces the plain loss.
"""


from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fusion import mean_of_others
from . import distributed
from .method import REPLACES_LOSS, Clips, Flag, Learner, Method, Number

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier

CEILING = -math.log(1e-8)
LARGEST = 10.0  # of tau - r
LARGEST_HEAD_GRADIENT = 1.0  # of an entry, with which nothing is scaled


class Agm(Method):
    title = "adaptive gradient modulation by Shapley values"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("agm_alpha", Number(float, 0, 8), 1.0, "strength alpha of agm; its authors take 1 to 3"),
        Flag("agm_clip", Number(float, 0), 1.0, "total norm to which agm scales the gradients of a step in which that "
             "of one of the head's weights leaves [-1, 1]; 1 in its authors' code; 0: never"),
        Flag("agm_ends", Number(int, 0), 20, "last epoch, counted from 0, in which agm multiplies gradients"))
    without = REPLACES_LOSS
    whole_batches = True  # of which the running means are

    def __init__(self, model: MultimodalClassifier, agm_alpha: float, agm_clip: float, agm_ends: int):
        super().__init__(model)
        self.alpha, self.clip = agm_alpha, agm_clip
        self.last, self.active = agm_ends, True
        self.register_buffer("means", torch.zeros(len(model.modalities)))  # S_m
        self.register_buffer("steps", torch.zeros(()))

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        self.active = epoch - 1 <= self.last

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        phi = responses(model, output.features)
        kappa = self.coefficients(phi.detach(), labels)[:, None, None]
        return F.cross_entropy((phi.detach() + kappa * (phi - phi.detach())).sum(0), labels)  # its value is exactly phi

    def coefficients(self, phi: Tensor, labels: Tensor) -> Tensor:
        """kappa (M,); takes the batch into the running means."""
        own = phi.log_softmax(-1).gather(2, labels.expand(len(phi), -1).unsqueeze(2))  # (M, B, 1)
        sums = torch.cat([(-own).clamp(max=CEILING).sum((1, 2)), phi.new_full((1,), len(labels))])
        sums = distributed.sum_over_processes(sums)
        s = sums[:-1] / sums[-1]
        r, tau = (torch.exp(mean_of_others(score) - score) for score in (s, self.means))
        self.steps += 1
        self.means += (s - self.means) / self.steps
        kappa = torch.exp(self.alpha * (tau - r).clamp(max=LARGEST)) if self.active else torch.ones_like(r)
        self.note(factor=kappa)
        return kappa

    def adjust_gradients(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor) -> None:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        largest = torch.stack([layer.weight.grad.abs().amax() for layer in model.fusion_module.head()]).amax()
        clipped = largest > LARGEST_HEAD_GRADIENT
        if self.clip:
            self.note(clipped=clipped.float())
            total = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]).norm()
            factor = torch.where(clipped, self.clip / total, 1.0)
            for gradient in gradients:
                gradient.mul_(factor)


def responses(model: MultimodalClassifier, features: Tensor) -> Tensor:
    """(M, B, D) -> phi (M, B, C)."""
    modalities = range(len(features))
    logits = {(): 0.0}
    for size in range(1, len(features) + 1):
        for present in combinations(modalities, size):
            kept = [one if m in present else torch.zeros_like(one) for m, one in enumerate(features)]
            logits[present] = model.classify(torch.stack(kept)).logits
    return torch.stack([sum(share(len(present), len(features)) * (logits[present] - logits[minus(present, m)])
                            for present in logits if m in present) for m in modalities])


def share(present: int, modalities: int) -> float:
    """Weight of what a modality adds to a set, with which the set has `present` modalities."""
    return math.factorial(present - 1) * math.factorial(modalities - present) / math.factorial(modalities)


def minus(present: tuple[int, ...], m: int) -> tuple[int, ...]:
    return tuple(other for other in present if other != m)
