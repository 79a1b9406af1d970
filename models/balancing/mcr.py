"""MCR (Kontras, Strypsteen, Chatzichristos, Liang, Blaschko, De Vos: Balancing Multimodal Training Through
Game-Theoretic Regularization, NeurIPS 2025, arXiv 2411.07335). M modalities, B clips, C classes, D features.

What modality m alone knows of the label is measured by how much the prediction changes when its features are permuted
within the batch, over some permutations:

    MIPD_m = mean of JS(softmax F(Z), softmax F(Z with z_m permuted))

Each encoder plays for its own: that of m raises MIPD_m and lowers the others' mean, for which the features of the other
modalities are detached, so that no encoder is moved by another one's play; fusion and classifier get no gradient from
it, since the players' gradients cancel there. With a linear classifier G_m of each modality's own on its encoder's
features z_m, which has no part in the prediction (equation 1, algorithm 1):

    loss + mcr_uni * sum_m cross-entropy(G_m z_m, y) + mcr_mipd * sum_m (mean of MIPD_others - MIPD_m) + L_con

L_con is the supervised contrastive loss between the features of every two modalities, in both directions: the mean over
a clip's positives (the clips of its class in the other modality) of -log softmax(cosines / 0.5). Only features are
permuted, no encoder runs again. The defaults are the authors' on CREMA-D with a ResNet-18: weights 0.01 and 0.1, 32
permutations; they start from encoders that were trained alone, with rate 1e-4 and batches of 32. The paper's third
term, its conditional entropy bottleneck, is not included.

Any M, any fusion, with MMCosine too. With several processes, permutations and contrasts are within each one's part of a
batch. One re-implementation computes the regulariser and returns the loss without it.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..mmcosine import unit
from .heads import UniModalHeads
from .lfm import jensen_shannon
from .method import Flag, Method, Number

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier

TEMPERATURE = 0.5


class Mcr(Method):
    title = "modalities that compete for their influence on the prediction"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("mcr_uni", Number(float, 0), 0.01, "weight of the losses of each modality's own classifier in mcr; 0.01 "
             "is its authors' on CREMA-D"),
        Flag("mcr_mipd", Number(float, 0), 0.1, "weight of mcr's game of influence; 0.1 is its authors' on CREMA-D"),
        Flag("mcr_permutations", Number(int, 1), 32, "permutations of a batch that mcr measures influence by; 32 are "
             "its authors' on CREMA-D"))

    def __init__(self, model: MultimodalClassifier, mcr_uni: float, mcr_mipd: float, mcr_permutations: int):
        super().__init__(model)
        self.of_uni, self.of_mipd, self.permutations = mcr_uni, mcr_mipd, mcr_permutations
        self.heads = UniModalHeads(model)  # G_m

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        alone = self.heads.losses(output.features, labels).sum()
        orders = torch.stack([torch.randperm(len(labels)) for _ in range(self.permutations)])
        pairs = [contrast(a, b, labels) for a, b in permutations(unit(output.features), 2)]
        played = self.game(model, output.features, orders.to(labels.device, non_blocking=True))
        return loss + self.of_uni * alone + self.of_mipd * played + sum(pairs) / len(pairs)

    def game(self, model: MultimodalClassifier, features: Tensor, orders: Tensor) -> Tensor:
        """(M, B, D), permutations (P, B) -> sum over players m of (mean of MIPD_others - MIPD_m), for m's encoder."""
        total, modalities, measured = torch.zeros((), device=features.device), len(features), []
        for player in range(modalities):
            z = torch.stack([one if m == player else one.detach() for m, one in enumerate(features)])
            logits = model.classify(z).logits
            for m in range(modalities):
                sign = -1 if m == player else 1 / (modalities - 1)
                mipd = influence(model, z, logits, m, orders)
                total = total + sign * mipd
                measured += [mipd.detach()] if m == player else []
        self.note(influence=torch.stack(measured))
        return total


def influence(model: MultimodalClassifier, z: Tensor, logits: Tensor, m: int, orders: Tensor) -> Tensor:
    """MIPD_m: how much the prediction from z changes when the features of modality number m are permuted."""
    repeated = z.repeat(1, len(orders), 1)  # (M, P * B, D): permutation after permutation
    permuted = torch.stack([one[orders.flatten()] if n == m else again
                            for n, (one, again) in enumerate(zip(z, repeated, strict=True))])
    return jensen_shannon(torch.stack([logits.repeat(len(orders), 1), model.classify(permuted).logits]))


def contrast(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    """a, b (B, D) of unit length -> the supervised contrastive loss of a's clips against b's."""
    with torch.autocast(a.device.type, enabled=False):
        log = (a @ b.T / TEMPERATURE).log_softmax(1)  # (B, B)
    same = (labels[:, None] == labels).to(log.dtype)
    return -((log * same).sum(1) / same.sum(1)).mean()
