"""Gradient-Blending (Wang, Tran, Feiszli: What Makes Training Multi-Modal Classification Networks Hard?, CVPR 2020,
arXiv 1905.12681), the offline variant.

Each modality has a linear head of its own on its encoder's features. The blended loss is sum_k w_k L_k over the joint
loss and those of the heads, with weights fixed before training by how much each of them, trained alone for some epochs,
generalises and overfits (k, T on clips trained on, V on held-out clips, 0 before and N after):

    w_k proportional to G_k / O_k^2,   G = L_V(0) - L_V(N),   O = (L_V(N) - L_T(N)) - (L_V(0) - L_T(0))

and summing to 1. A head that gains nothing on held-out clips gets weight 0; the joint loss must gain. M modalities,
B clips, C classes, D features.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .heads import UniModalHeads
from .method import Flag, Learner, Method, MethodError, Number, Trial

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier

logger = logging.getLogger(__name__)
LEAST_OVERFITTING = 0.1  # nats, what a mean over some hundred clips can tell: less would get all the weight


class GradientBlending(Method):
    """blend_epochs: of each of the two trials that find the weights; they come on top of the run's own epochs."""

    title = "Gradient-Blending, offline"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("blend_epochs", Number(int, 0), 0, "of each of gblend's two trials; 0: as many as the run has"),)

    def __init__(self, model: MultimodalClassifier, blend_epochs: int):
        super().__init__(model)
        modalities = len(model.modalities)
        if modalities < 2:
            raise ValueError("Gradient-Blending blends the losses of modalities: it needs at least two")
        self.blend_epochs, self.modalities = blend_epochs, model.modalities
        self.heads = UniModalHeads(model)
        self.register_buffer("weights", torch.full((1 + modalities,), 1 / (1 + modalities)))
        # losses before and after the trials, of clips trained on and held out; nan: not measured yet
        self.register_buffer("measured", torch.full((2, 2, 1 + modalities), torch.nan))

    def losses(self, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        """(1 + M,): the joint loss, and each head's."""
        return torch.cat([loss[None], self.heads.losses(output.features, labels)])

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        return (self.weights * self.losses(output, labels, loss)).sum()

    def prepare(self, learner: Learner, epochs: int, trial: Trial) -> None:
        """Finds the weights. The heads do not touch each other's encoders, so one trial serves all modalities.

        Each measurement is saved: a resumed run continues with the next one.
        Raises MethodError: a loss is not finite, or the joint one gains nothing.
        """
        length = self.blend_epochs or epochs
        for end, trained, which in ((0, 0, slice(None)), (1, length, slice(1)), (1, length, slice(1, None))):
            if self.measured[end, :, which].isnan().any():
                if trained:
                    logger.info(f"Gradient-Blending: trial of {'the joint loss' if which.stop else 'the heads'} alone")
                self.measure(learner, trial, end, trained, which)
                trial.save()
            before, after = self.measured[:, 1, 0].tolist()
            if after >= before:
                raise MethodError(f"Gradient-Blending: after a trial of {length} epochs the joint loss of held-out "
                                 f"clips is {after:.3f}, before it was {before:.3f}. Its weight would be 0, the joint "
                                 "head learn nothing: try a shorter trial (--blend_epochs) or a lower --learning_rate")
        weights = blend(*self.measured)
        self.weights.copy_(weights / weights.sum())
        logger.info("Gradient-Blending: " + ", ".join(f"{name} {weight:.3f}" for name, weight in self.facts().items()))

    def measure(self, learner: Learner, trial: Trial, end: int, epochs: int, which: slice) -> None:
        """measured[end, :, which]: the losses `which` after `epochs` of training by them alone."""
        before, measured = copy.deepcopy(learner.state_dict()), self.measured.clone()
        self.weights.zero_()
        self.weights[which] = 1
        measured[end, :, which] = torch.stack(trial.train_and_measure(epochs))[:, which]
        learner.load_state_dict(before)
        if not measured[end, :, which].isfinite().all():
            raise MethodError("a loss is not finite in the trials of Gradient-Blending: try a lower --learning_rate")
        self.measured.copy_(measured)

    def facts(self) -> dict[str, float]:
        named = zip(("joint", *self.modalities), self.weights.tolist(), strict=True)
        return {f"blend_weight_{name}": weight for name, weight in named}


def blend(start: Tensor, end: Tensor) -> Tensor:
    """Losses (2, K) of clips trained on and held out, before and after -> unnormalised weights (K,)."""
    gain = (start[1] - end[1]).clamp(min=0)
    overfitting = (end[1] - end[0]) - (start[1] - start[0])
    return gain / overfitting.clamp(min=LEAST_OVERFITTING).square()
