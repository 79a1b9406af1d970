"""ARL, asymmetric representation learning (Wei, Luo, Luo: Improving Multimodal Learning via Imbalanced Learning,
arXiv 2507.10203). M modalities, B clips, C classes.

Every encoder's gradient is weighted by how certain its modality is and how large its logits are. With F_m the modality
logits and H the entropy in nats,

    q_m = mean over the batch of 1 / H(softmax F_m),   d_m = sum over the classes of the batch's mean of |F_m|
    w = softmax over m of (4 * q_m / d_m), times M, so that the mean of the weights is 1

and all gradients of encoder m are multiplied by w_m. Beside the joint loss each modality has one of its own through the
same classifier:

    loss + lambda * sum_m cross-entropy(F_m, y)

lambda is `arl_uni`, 1 by default, which is ours. H and d count as 1e-8 at least. The published code computes the
weights and never uses them.

Any M; with MMCosine too. Defined for --fusion_method concat and sum, whose F_m depends on modality m alone. With
several processes q and d are of the whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from . import distributed
from .method import Flag, Method, Number

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier

LEAST = 1e-8  # entropy, and sum of the logits
TEMPERATURE = 4.0


class Arl(Method):
    title = "encoders' gradients weighted by certainty, and a loss of each modality alone"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("arl_uni", Number(float, 0), 1.0, "weight lambda of arl's uni-modal losses"),)
    fusions: ClassVar[tuple[str, ...]] = ("concat", "sum")

    def __init__(self, model: MultimodalClassifier, arl_uni: float):
        super().__init__(model)
        self.uni = arl_uni

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        return loss + self.uni * sum(F.cross_entropy(logits, labels) for logits in output.modality_logits)

    @torch.no_grad()
    def adjust_gradients(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor) -> None:
        weights = self.weights(output.modality_logits.detach())
        self.note(weight=weights)
        for name, weight in zip(model.modalities, weights, strict=True):
            for parameter in model.encoder(name).parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(weight)

    def weights(self, logits: Tensor) -> Tensor:
        """(M, B, C) of this process's clips -> w (M,)."""
        log = logits.log_softmax(-1)
        entropy = (-log.exp() * log).sum(-1).clamp(min=LEAST)  # (M, B)
        sums = torch.stack([(1 / entropy).sum(1), logits.abs().sum((1, 2))])  # their quotient needs no counts of clips
        certainty, size = distributed.sum_over_processes(sums)
        return len(logits) * torch.softmax(TEMPERATURE * certainty / size.clamp(min=LEAST), 0)
