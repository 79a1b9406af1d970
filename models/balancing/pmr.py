"""PMR (Fan, Xu, Wang, Wang, Guo: Prototypical Modal Rebalance for Multimodal Learning, CVPR 2023, arXiv 2211.07089).
M modalities, B clips, C classes, D features.

Every class c has a prototype in each modality m, the mean of its features there. They make a classifier without
weights, p_m = softmax over c of -||f_m - prototype_m,c||, and with it two terms of one modality alone:

    loss + alpha * sum_m b_m * cross-entropy(p_m, y) - mu * sum over the leading m of H(p_m)
    b_m = clip(lead of the others over m - 1, 0, 1)

The first pulls the features of a weak modality towards its prototypes. The second, the paper's prototypical entropy
regularisation (PER), is for the first `pmr_entropy_epochs` epochs: H is the entropy of p_m in nats, the batch's mean,
and a leading modality that is certain early is penalised. The lead is the ratio of the summed probabilities of the true
class; m leads where its lead over the others (their mean, for M > 2) is more than 1.

Prototypes are measured before every epoch, the first included (algorithm 1), on a tenth of the training clips by the
network in evaluation mode; later ones keep MOMENTUM of the old. Until every class has a prototype there is no term.

alpha is `pmr_alpha`, 1 (the authors take 1 or 2), mu is `pmr_entropy`, 1e-2 (1e-2 or 1e-3); the 10 epochs are ours.
--pmr_entropy 0 leaves the second term out, as the authors' code does. Any M, any fusion, with MMCosine too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fusion import mean_of_others
from . import distributed
from .method import Clips, Flag, Learner, Method, Number
from .ogm import scores

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier

MOMENTUM = 0.2  # share of the old prototypes; the authors' code


class Pmr(Method):
    title = "prototypical modal rebalance"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("pmr_alpha", Number(float, 0), 1.0, "weight alpha of pmr's prototypes; its authors take 1 or 2"),
        Flag("pmr_entropy", Number(float, 0), 0.01, "weight mu of pmr's entropy term; 0.01 or 0.001 in the paper, 0: "
             "without, as its code"),
        Flag("pmr_entropy_epochs", Number(int, 1), 10, "first epochs, in which pmr has its entropy term; ours"))
    whole_batches = True  # of which the scores are
    needs_sample = True

    def __init__(self, model: MultimodalClassifier, pmr_alpha: float, pmr_entropy: float, pmr_entropy_epochs: int):
        super().__init__(model)
        if len(model.modalities) < 2:
            raise ValueError("PMR weighs modalities against each other: it needs at least two")
        self.alpha, self.of_entropy, self.entropy_epochs = pmr_alpha, pmr_entropy, pmr_entropy_epochs
        self.early = False
        shape = model.class_weights().shape  # (M, C, D)
        self.register_buffer("prototypes", torch.zeros(shape))
        self.register_buffer("known", torch.zeros(shape[1]))  # 1: the class has prototypes

    @torch.no_grad()
    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips) -> None:
        self.early = epoch <= self.entropy_epochs
        sums, counts = torch.zeros_like(self.prototypes), torch.zeros_like(self.known)
        for output, labels in learner.outputs(clips.trained):
            sums.index_add_(1, labels, output.features.to(sums.dtype))
            counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
        self.move(*(distributed.sum_over_processes(total) for total in (sums, counts)))

    def move(self, sums: Tensor, counts: Tensor) -> None:
        """The prototypes follow the means of features (M, C, D) of so many clips (C,); of classes without any they
        stay."""
        seen = counts > 0
        means = sums / counts.clamp(min=1)[:, None]
        share = torch.where(self.known > 0, MOMENTUM, 0.0)[:, None]
        moved = share * self.prototypes + (1 - share) * means
        self.prototypes.copy_(torch.where(seen[:, None], moved, self.prototypes))
        self.known.copy_(torch.maximum(self.known, seen.to(self.known.dtype)))

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        features = output.features.to(self.prototypes.dtype)  # (M, B, D)
        logits = -torch.cdist(features, self.prototypes)  # (M, B, C)
        score = scores(logits.detach(), labels)
        lead, known = score / mean_of_others(score), self.known.min()  # known: 0 until every class has prototypes
        self.note(ratio=lead)
        behind = known * (1 / lead - 1).clamp(0, 1)  # (M,)
        each = torch.stack([F.cross_entropy(one, labels) for one in logits])
        loss = loss + self.alpha * (behind * each).sum()
        if self.early and self.of_entropy:
            log = logits.log_softmax(-1)
            entropy = -(log.exp() * log).sum(-1).mean(-1)  # (M,)
            loss = loss - self.of_entropy * (known * (lead > 1) * entropy).sum()
        return loss
