"""MMPareto (Wei and Hu: MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance, ICML 2024, arXiv
2405.17730), algorithm 1. M modalities, B clips.

The losses are those of `multiloss` with lambda 1. The encoder of m has a gradient of the joint loss, g_F, and one of
its own head's loss, g_m, each over all its parameters as one vector and of the whole batch (the mean over processes,
before anything is combined). Where they agree, <g_F, g_m> > 0, their weights are 1/2 and 1/2. Where they conflict,
they are those of the shortest vector between the two, which conflicts with neither:

    k = <g_m - g_F, g_m> / ||g_F - g_m||^2 for g_F, in [0.001, 0.999],   1 - k for g_m
    h = 2 k g_F + 2 (1 - k) g_m

h is stretched to the length of g_F + g_m where it is shorter, and the update goes along gamma * h. Fusion, classifier
and heads follow the plain sum of the losses. gamma is `pareto_gamma`, 1.5 as in the paper on CREMA-D.

Any M: every encoder has its own g_m. Two backward passes a step for any M, since the heads do not touch each other's
encoders. The published code stretches one parameter tensor at a time; one re-implementation reads both gradients after
both backward passes, so that its cosine is always 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .heads import UniModalHeads
from .method import KEEPS_GRAPH, Batch, Flag, Learner, Method, Number, trained

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier

LEAST = 0.001  # weight of either gradient


class MMPareto(Method):
    title = "multiloss, whose gradients are combined so that they do not conflict"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("pareto_gamma", Number(float, 0, exclusive=True), 1.5, "factor gamma of mmpareto's encoder gradients"),)
    without = KEEPS_GRAPH

    def __init__(self, model: MultimodalClassifier, pareto_gamma: float):
        super().__init__(model)
        self.gamma, self.heads = pareto_gamma, UniModalHeads(model)

    def step(self, learner: Learner, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        output, joint = learner.forward(batch)
        alone = self.heads.losses(output.features, batch.labels).sum()
        parameters = trained(learner.model) + trained(self)
        of_joint, of_alone = (learner.gradients(batch, loss, parameters) for loss in (joint, alone))
        update = {parameter: of_joint[parameter] + of_alone[parameter] for parameter in parameters}
        shares, cosines = [], []
        for name in learner.model.modalities:
            own = trained(learner.model.encoder(name))
            first, second = ([gradients[parameter] for parameter in own] for gradients in (of_joint, of_alone))
            k, stretch = weights(first, second)
            shares.append(k)
            cosines.append(cosine(first, second))
            for parameter in own:
                combined = 2 * k * of_joint[parameter] + 2 * (1 - k) * of_alone[parameter]
                update[parameter] = self.gamma * stretch * combined
        self.note(cosine=torch.stack(cosines), weight=torch.stack(shares))
        learner.descend_along(batch, output, update)
        return output, joint + alone


def cosine(joint: Sequence[Tensor], alone: Sequence[Tensor]) -> Tensor:
    """Of the two gradients of an encoder."""
    return torch.cosine_similarity(*(torch.cat([each.flatten() for each in part]) for part in (joint, alone)), dim=0)


def weights(joint: Sequence[Tensor], alone: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The two gradients of an encoder -> (k, by what h is stretched), without waiting for the device."""
    jj, aa, ja = (sum((a * b).sum() for a, b in zip(one, other, strict=True))
                  for one, other in ((joint, joint), (alone, alone), (joint, alone)))
    tiny = torch.finfo(jj.dtype).tiny
    shortest = ((aa - ja) / (jj + aa - 2 * ja).clamp(min=tiny)).clamp(LEAST, 1 - LEAST)
    k = torch.where(ja > 0, 0.5, shortest)
    length = (4 * (k * k * jj + (1 - k) * (1 - k) * aa + 2 * k * (1 - k) * ja)).clamp(min=tiny).sqrt()  # of h
    return k, ((jj + aa + 2 * ja).clamp(min=0).sqrt() / length).clamp(min=1)
