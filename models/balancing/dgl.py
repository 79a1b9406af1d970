"""DGL (Wei, Luo, Luo: Boosting Multimodal Learning via Disentangled Gradient Learning, ICCV 2025, arXiv 2507.10213).
M modalities, B clips, D features.

The joint loss and the encoders are taken apart. Fusion and classifier descend the joint loss on features that are
detached from the encoders; the encoders descend the loss of each modality alone, through the same fusion and
classifier, which take no gradient from it:

    fusion, classifier:   cross-entropy(F(z_1, ..., z_M), y)
    encoders:             alpha * sum_m cross-entropy(F(z_m, the others 0), y)

so that no encoder's gradient depends on another modality. alpha is `dgl_alpha`, 4 by default; the paper takes 4 to 5.
Under --fusion_method sum, where each modality has a layer of its own, F(z_m, the others 0) is W_m z_m + b_m: the other
layers' biases are left out too. As in the authors' code, all gradients together are scaled down to a norm of at most
`dgl_clip`, 40.

Any M, any fusion; with MMCosine F(z_m, the others 0) = l_m under sum and concat, since a feature of 0 has cosine 0. Two
backward passes a step, one of them through fusion and classifier alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .method import KEEPS_GRAPH, Batch, Flag, Learner, Method, Number, trained

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier


class Dgl(Method):
    title = "encoders that learn from the losses of single modalities, fusion from the joint loss"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("dgl_alpha", Number(float, 0, exclusive=True), 4.0, "weight alpha of dgl's uni-modal losses"),
        Flag("dgl_clip", Number(float, 0), 40.0, "norm to which dgl's gradients are clipped (0: not at all)"))
    without: ClassVar[Mapping[str, str]] = {"lam": "it compares modalities, and no joint loss reaches the encoders",
                                            **KEEPS_GRAPH}

    def __init__(self, model: MultimodalClassifier, dgl_alpha: float, dgl_clip: float):
        super().__init__(model)
        self.alpha, self.clip = dgl_alpha, dgl_clip

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        """What the encoders descend."""
        masks = torch.eye(len(output.features), device=output.features.device)[:, :, None, None]  # (M, M, 1, 1)
        outputs = [model.classify(output.features * mask.to(output.features.dtype)) for mask in masks]
        layer_each = len(model.fusion_module.head()) > 1
        alone = [masked.modality_logits[m] if layer_each else masked.logits for m, masked in enumerate(outputs)]
        return self.alpha * sum(F.cross_entropy(logits, labels) for logits in alone)

    def step(self, learner: Learner, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        output, alone = learner.forward(batch)
        joint = F.cross_entropy(output.logits, batch.labels)
        encoders = [learner.model.encoder(name) for name in learner.model.modalities]
        of_encoders = [parameter for encoder in encoders for parameter in trained(encoder)]
        update = learner.gradients(batch, joint, trained(learner.model.fusion_module))
        if of_encoders:  # all may be frozen
            update.update(learner.gradients(batch, alone, of_encoders))
        norm = torch.stack([gradient.norm() for gradient in update.values()]).norm()
        self.note(norm=norm)
        if self.clip:
            factor = (self.clip / norm.clamp(min=self.clip)).to(norm.dtype)
            update = {parameter: factor * gradient for parameter, gradient in update.items()}
        learner.descend_along(batch, output, update)
        return output, joint + alone
