"""MLA (Zhang, Yoon, Bansal, Yao: Multimodal Representation Learning by Alternating Unimodal Adaptation, CVPR 2024,
arXiv 2311.10707). M modalities, B clips, C classes, D features.

All modalities share one linear head W. In each batch they take turns: modality m descends cross-entropy(W z_m, y), by
an update of its encoder and W. Then W is protected in the direction of its features: with r the mean of z_m over the
whole batch (over all processes) and b / B the share of the epoch's batches that are done,

    a = 0.1^(b / B + 1),   k = P r^T,   P <- P - k k^T / (a + r k)

and the next modality's gradient of W is multiplied by P^T, which nearly takes out what it would do to W r: of it only
a / (a + r k) is left. P starts as the identity, so that the first gradient of all is as it is.
Momentum, if the optimiser has any, comes after the projection and still carries earlier modalities' gradients.

`--mla_norm frobenius` also divides P by its Frobenius norm. That division stands only in the part of the published code
that never runs, and it leaves so little of the head's gradient (2 to 4 % at D = 512) that the head hardly learns.

Any M, in the order of the modalities. Defined for --fusion_method sum, whose layers are kept
equal to W; with MMCosine the class weights are normalised, and a projection that protects W z does not protect their
cosine: refused. It replaces the plain loss. The joint prediction is that of the sum of the logits, as everywhere here;
the paper's, the mean of the softmaxes or one weighted by their entropies, is what scripts/ensemble.py gives for the
run. The published code looks for the projection's parameter under a name that its layer does not have: the projection
never runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import distributed
from .method import KEEPS_GRAPH, REPLACES_LOSS, Batch, Choice, Flag, Learner, Method, trained

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier


NORMS = ("none", "frobenius")


class Mla(Method):
    title = "modalities in turn, with one head"
    needs_progress = True
    fusions: ClassVar[tuple[str, ...]] = ("sum",)
    without: ClassVar[Mapping[str, str]] = {**REPLACES_LOSS, **KEEPS_GRAPH,
                                            "mmcosine": "its projection protects W z, not the cosine"}

    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("mla_norm", Choice(NORMS), "none", "by what mla divides its projection: the norm of its authors' code"),)

    def __init__(self, model: MultimodalClassifier, mla_norm: str):
        super().__init__(model)
        self.norm = mla_norm
        tie(model.fusion_module.head())
        self.register_buffer("projection", torch.eye(model.class_weights().shape[2]))  # P

    def parameter_groups(self, model: MultimodalClassifier) -> list[list[nn.Parameter]]:
        copies = {parameter for layer in model.fusion_module.head()[1:] for parameter in layer.parameters()}
        return [[parameter for parameter in group if parameter not in copies]
                for group in super().parameter_groups(model)]

    def step(self, learner: Learner, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        output, _ = learner.forward(batch)
        head, losses, kept = learner.model.fusion_module.head()[0], [], []
        for name, z in zip(learner.model.modalities, output.features, strict=True):
            losses.append(F.cross_entropy(head(z.to(head.weight.dtype)), batch.labels))
            own = [*trained(learner.model.encoder(name)), *head.parameters()]
            gradients = learner.gradients(batch, losses[-1], own)
            whole = gradients[head.weight]
            gradients[head.weight] = whole @ self.projection.T
            kept.append(gradients[head.weight].norm() / whole.norm())
            learner.descend_along(batch, output, gradients)
            self.protect(z.detach().to(head.weight.dtype), batch)
        tie(learner.model.fusion_module.head())
        self.note(kept=torch.stack(kept))
        return output, torch.stack(losses).sum()

    def protect(self, z: Tensor, batch: Batch) -> None:
        """Takes the features (B, D) of the modality that has had its turn into P."""
        r, = distributed.means_over_processes([z.mean(0, keepdim=True) * batch.share])  # (1, D)
        k = self.projection @ r.T  # (D, 1)
        reduced = self.projection - k @ k.T / (0.1 ** (batch.elapsed + 1) + r @ k)
        self.projection.copy_(reduced / reduced.norm() if self.norm == "frobenius" else reduced)


@torch.no_grad()
def tie(layers: list[nn.Linear]) -> None:
    """Makes the others equal to the first."""
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
