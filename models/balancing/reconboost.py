"""ReconBoost (Hua, Xu, Bao, Yang, Huang: ReconBoost: Boosting Can Achieve Modality Reconcilement, ICML 2024, arXiv
2405.09321). M modalities, B clips, C classes.

Modalities take turns. For `recon_epochs` epochs only the encoder of m and its layer of the classifier are trained, the
others being fixed (their BatchNorm in evaluation mode), on what the others have not learnt yet. With F_m the modality
logits, p_m = softmax(F_m)[y], q = softmax(sum of the others' F)[y] and "before" the modality whose turn came before:

    recon_weight * mean of -log p_m + mean of q * log p_m + recon_agreement * MSE(softmax F_m, softmax F_before)

where q and F_before have no gradient; the MSE is the mean over clips and classes. For as many epochs after it all
parameters descend cross-entropy(sum of all F, y); then it is the turn of the next. The paper's values are the defaults:
4 epochs each, weights 5 and 0.5.

Any M, in the order of the modalities. Defined for --fusion_method sum, in which each modality has a layer of its own;
with MMCosine too. It replaces the plain loss. The published code detaches both sides of the agreement, which then does
nothing, as do two re-implementations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from .method import KEEPS_GRAPH, REPLACES_LOSS, Batch, Clips, Flag, Learner, Method, Number, trained

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier


class ReconBoost(Method):
    title = "modalities in turn, each on what the others have not learnt"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("recon_epochs", Number(int, 1), 4, "epochs of a modality's turn in reconboost, and of all after it"),
        Flag("recon_weight", Number(float, 0), 5.0, "weight of a modality's own loss in its turn"),
        Flag("recon_agreement", Number(float, 0), 0.5, "weight of its agreement with the modality before"))
    fusions: ClassVar[tuple[str, ...]] = ("sum",)
    without: ClassVar[Mapping[str, str]] = {**REPLACES_LOSS, **KEEPS_GRAPH}

    def __init__(self, model: MultimodalClassifier, recon_epochs: int, recon_weight: float, recon_agreement: float):
        super().__init__(model)
        self.epochs, self.weight, self.agreement = recon_epochs, recon_weight, recon_agreement
        self.modalities = len(model.modalities)
        self.turn: int | None = None  # number of the modality that is trained, None: all

    @classmethod
    def check(cls, epochs: int, *, recon_epochs: int, **others: object) -> None:
        if epochs <= 2 * recon_epochs:
            raise ValueError(f"{epochs} epochs end before the second modality's turn in reconboost, which begins after "
                             f"{2 * recon_epochs}: give more --epochs, or a lower --recon_epochs")

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        turns, together = divmod((epoch - 1) // self.epochs, 2)
        self.turn = None if together else turns % self.modalities

    def step(self, learner: Learner, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        parameters = trained(learner.model)
        if self.turn is not None:
            own = learner.model.modalities[self.turn]
            for name in learner.model.modalities:
                if name != own:
                    learner.model.encoder(name).eval()
            parameters = of_modality(learner.model, self.turn)
        output, loss = learner.forward(batch)
        learner.descend_along(batch, output, learner.gradients(batch, loss, parameters))
        return output, loss

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        if self.turn is None:
            return loss
        own, others = output.modality_logits[self.turn], output.modality_logits.detach()
        before = others[self.turn - 1].softmax(-1)  # the last modality's, for the first
        rest = others.sum(0) - others[self.turn]
        surprise = F.cross_entropy(own, labels, reduction="none")  # -log p, (B,)
        learnt = rest.softmax(-1).gather(1, labels[:, None]).squeeze(1)  # q
        agreement = F.mse_loss(own.softmax(-1), before)
        return ((self.weight - learnt) * surprise).mean() + self.agreement * agreement


def of_modality(model: MultimodalClassifier, m: int) -> list[nn.Parameter]:
    """The trained parameters of the encoder of modality number m and of its layer of the classifier."""
    return trained(model.encoder(model.modalities[m])) + trained(model.fusion_module.head()[m])
