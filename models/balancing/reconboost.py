"""ReconBoost (Hua, Xu, Bao, Yang, Huang: ReconBoost: Boosting Can Achieve Modality Reconcilement, ICML 2024, arXiv
2405.09321). M modalities, B clips, C classes.

Modalities take turns. For `recon_epochs` epochs only the encoder of m and its layer of the classifier are trained, the
others being fixed (their BatchNorm in evaluation mode), on what the others have not learnt yet. With F_m the modality
logits, p_m = softmax(F_m)[y], q = softmax(sum of the others' F)[y] and "before" the modality whose turn came before:

    (-recon_weight * mean of log p_m + recon_others * mean of q * log p_m) / C
        + recon_agreement * MSE(softmax F_m, softmax F_before)

where q and F_before have no gradient, F_m has one in every term. All three are means over clips and classes, of which
a one-hot label leaves one class of C in the first two. For as many epochs after it all parameters descend
cross-entropy(sum of all F, y); then it is the turn of the next. Every phase, of one modality or of all, begins with a
fresh optimiser: without momentum, and with the learning rate that the run's schedule has reached.

Defaults are those of the authors' code: 4 epochs a phase, weights 5, 1 and 0.5. It also has SGD with rate 1e-2 and
weight decay 5e-4, `default_settings` of the latter, and pretrained encoders; one MLP head that the modalities share,
where here each has a linear layer of its own.

Any M, in the order of the modalities. Defined for --fusion_method sum, in which each modality has a layer of its own;
with MMCosine too. It replaces the plain loss. Two re-implementations detach both sides of the agreement, which then
does nothing.
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
        Flag("recon_epochs", Number(int, 1), 4, "epochs of a modality's turn in reconboost, and of all together after "
             "it; 4 in its authors' code"),
        Flag("recon_weight", Number(float, 0), 5.0, "weight of a modality's own loss in its turn; 5 in reconboost's "
             "code"),
        Flag("recon_others", Number(float, 0), 1.0, "weight of what the others have learnt, which is taken off it; 1 "
             "in reconboost's code"),
        Flag("recon_agreement", Number(float, 0), 0.5, "weight of its agreement with the modality before; 0.5 in "
             "reconboost's code"))
    default_settings: ClassVar[Mapping[str, object]] = {"weight_decay": 5e-4}
    fusions: ClassVar[tuple[str, ...]] = ("sum",)
    without: ClassVar[Mapping[str, str]] = {**REPLACES_LOSS, **KEEPS_GRAPH}

    def __init__(self, model: MultimodalClassifier, recon_epochs: int, recon_weight: float, recon_others: float,
                 recon_agreement: float):
        super().__init__(model)
        self.epochs, self.weight, self.of_others, self.agreement = (recon_epochs, recon_weight, recon_others,
                                                                    recon_agreement)
        self.modalities = len(model.modalities)
        self.turn: int | None = None  # number of the modality that is trained, None: all

    @classmethod
    def check(cls, epochs: int, *, recon_epochs: int, **others: object) -> None:
        if epochs <= 2 * recon_epochs:
            raise ValueError(f"{epochs} epochs end before the second modality's turn in reconboost, which begins after "
                             f"{2 * recon_epochs}: give more --epochs, or a lower --recon_epochs")

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        phase, epochs_of_phase = divmod(epoch - 1, self.epochs)
        if not epochs_of_phase:
            learner.optimizer.state.clear()
        turns, together = divmod(phase, 2)
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
        boosted = ((self.weight - self.of_others * learnt) * surprise).mean() / own.shape[-1]
        return boosted + self.agreement * agreement


def of_modality(model: MultimodalClassifier, m: int) -> list[nn.Parameter]:
    """The trained parameters of the encoder of modality number m and of its layer of the classifier."""
    return trained(model.encoder(model.modalities[m])) + trained(model.fusion_module.head()[m])
