"""PMR (Fan, Xu, Wang, Wang, Guo: Prototypical Modal Rebalance for Multimodal Learning, CVPR 2023, arXiv 2211.07089).

Every class c has a prototype in each modality m, the mean of its features there. They make a classifier without
weights, p_m = softmax over c of -||f_m - prototype_m,c||, and with it two terms of one modality alone:

    loss + alpha * sum_m b_m * cross-entropy(p_m, y) - mu * sum_m e_m * H(p_m)
    b_m = clip(lead of the others over m - 1, 0, 1),   e_m = clip(lead of m over the others - 1, 0, 1)

The first pulls the features of a weak modality towards its prototypes. The second, the paper's prototypical entropy
regularisation, is for the first `pmr_entropy_epochs` epochs: H is the entropy of p_m in nats, the batch's mean, and a
leading modality that is certain early is penalised. The lead is the ratio of the summed probabilities of the true
class. Prototypes follow the epochs' means with momentum; the first epoch gives the first ones and has neither term.

alpha is `alpha` (the paper: 1 or 2), mu is `pmr_entropy`; its default 0.1 and the 10 epochs are ours. --pmr_entropy 0
leaves the second term out, as the published code does, and as runs of older versions of this code did.
M modalities (any number: the others' mean is compared), B clips, C classes, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fusion import mean_of_others
from . import distributed
from .method import Clips, Flag, Learner, Method, Number
from .ogm import ALPHA, scores

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier

MOMENTUM = 0.5  # share of the old prototypes after an epoch


class Pmr(Method):
    """From the second epoch on: the first one gives the first prototypes."""

    title = "prototypical modal rebalance"
    flags: ClassVar[tuple[Flag, ...]] = (
        ALPHA, Flag("pmr_entropy", Number(float, 0), 0.1, "weight mu of pmr's entropy term; 0: without"),
        Flag("pmr_entropy_epochs", Number(int, 1), 10, "first epochs, in which pmr has its entropy term"))
    whole_batches = True  # of which the scores are

    def __init__(self, model: MultimodalClassifier, alpha: float, pmr_entropy: float, pmr_entropy_epochs: int):
        super().__init__(model)
        if len(model.modalities) < 2:
            raise ValueError("PMR weighs modalities against each other: it needs at least two")
        self.alpha, self.of_entropy, self.entropy_epochs, self.early = alpha, pmr_entropy, pmr_entropy_epochs, False
        shape = model.class_weights().shape  # (M, C, D)
        for name, size in (("prototypes", shape), ("sums", shape), ("counts", shape[1:2]), ("known", shape[1:2])):
            self.register_buffer(name, torch.zeros(size))

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        self.early = epoch <= self.entropy_epochs

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
        features = output.features.to(self.sums.dtype)  # (M, B, D)
        self.sums.index_add_(1, labels, features.detach())
        self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=self.counts.dtype))
        logits = -torch.cdist(features, self.prototypes)  # (M, B, C)
        score = scores(logits.detach(), labels)
        others, known = mean_of_others(score), self.known.min()  # known: 0 until every class has prototypes
        behind = known * (others / score - 1).clamp(0, 1)  # (M,)
        each = torch.stack([F.cross_entropy(one, labels) for one in logits])
        loss = loss + self.alpha * (behind * each).sum()
        if self.early and self.of_entropy:
            log = logits.log_softmax(-1)
            entropy = -(log.exp() * log).sum(-1).mean(-1)  # (M,)
            ahead = known * (score / others - 1).clamp(0, 1)
            loss = loss - self.of_entropy * (ahead * entropy).sum()
        return loss
