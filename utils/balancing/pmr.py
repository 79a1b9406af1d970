"""PMR without its entropy term (Fan, Xu, Wang, Wang, Guo: Prototypical Modal Rebalance for Multimodal Learning, CVPR
2023, arXiv 2211.07089).

Every class c has a prototype in each modality m, the mean of its features there. They make a classifier without
weights, p_m = softmax over c of -||f_m - prototype_m,c||, and with it a loss of one modality alone:

    loss + alpha * sum_m b_m * cross-entropy(p_m, y),   b_m = clip(lead of the others over m - 1, 0, 1)

so that the features of a weak modality are pulled towards its prototypes. The lead is the ratio of the summed
probabilities of the true class. Prototypes follow the epochs' means with momentum. The paper's
entropy term of the first epochs is not implemented.
M modalities, B clips, C classes, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.fusion import mean_of_others
from utils import distributed
from utils.balancing.method import Clips, Flag, Learner, Method
from utils.balancing.ogm import ALPHA, scores

if TYPE_CHECKING:
    from models import ClassifierOutput, MultimodalClassifier

MOMENTUM = 0.5  # share of the old prototypes after an epoch


class Pmr(Method):
    """From the second epoch on: the first one gives the first prototypes."""

    title = "prototypical modal rebalance without its entropy term"
    flags: ClassVar[tuple[Flag, ...]] = (ALPHA,)

    def __init__(self, model: MultimodalClassifier, alpha: float):
        super().__init__(model)
        if len(model.modalities) < 2:
            raise ValueError("PMR weighs modalities against each other: it needs at least two")
        self.alpha = alpha
        shape = model.class_weights().shape  # (M, C, D)
        for name, size in (("prototypes", shape), ("sums", shape), ("counts", shape[1:2]), ("known", shape[1:2])):
            self.register_buffer(name, torch.zeros(size))

    def end_epoch(self, learner: Learner, clips: Clips | None) -> None:
        """The prototypes take in the features of the epoch before; those of a class without clips stay."""
        sums, counts = (distributed.sum_over_processes(total.clone()) for total in (self.sums, self.counts))
        seen = counts > 0
        means = sums / counts.clamp(min=1)[:, None]
        share = torch.where(self.known > 0, MOMENTUM, 0.0)[:, None]
        moved = share * self.prototypes + (1 - share) * means
        self.prototypes.copy_(torch.where(seen[:, None], moved, self.prototypes))
        self.known.copy_(torch.maximum(self.known, seen.float()))
        self.sums.zero_()
        self.counts.zero_()

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        features = output.features.float()  # (M, B, D)
        self.sums.index_add_(1, labels, features.detach())
        self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=self.counts.dtype))
        if not self.known.all():
            return loss
        logits = -torch.cdist(features, self.prototypes)  # (M, B, C)
        score = scores(logits.detach(), labels)
        behind = (mean_of_others(score) / score - 1).clamp(0, 1)  # (M,)
        each = torch.stack([F.cross_entropy(one, labels) for one in logits])
        return loss + self.alpha * (behind * each).sum()
