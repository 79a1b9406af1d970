"""UMT, Uni-Modal Teacher (Du, Teng, Li, Liu, Yuan, Wang, Yuan, Zhao: On Uni-Modal Feature Learning in Supervised
Multi-Modal Learning, ICML 2023, arXiv 2305.01233). M modalities, B clips, D features.

A joint network from scratch, whose encoders are drawn to what encoders learn that are trained alone. With z_m the
features of the encoder of m and t_m those of its teacher, an encoder of a finished run of that modality,

    loss + umt_weight * sum_m mean over the clips of ||z_m - t_m||^2

the squared distance being summed over the D features. Teachers are frozen, their BatchNorm in evaluation mode; they see
the student's own inputs, augmentation included. The weight's default 0.01 is ours.

Any M, any fusion, with MMCosine too. Teachers have the architecture of the encoders that they teach; they are kept in
last.pt, so that a resumed run does not need their files.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from .method import Batch, Flag, Learner, Method, Number

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier


class Umt(Method):
    title = "encoders that are drawn to the features of encoders trained alone"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("umt_weight", Number(float, 0, exclusive=True), 0.01, "weight of umt's distances to the teachers"),)
    needs_teachers = True

    def __init__(self, model: MultimodalClassifier, umt_weight: float):
        super().__init__(model)
        self.weight = umt_weight
        encoders = {name: copy.deepcopy(model.encoder(name)) for name in model.modalities}
        self.teachers = nn.ModuleDict(encoders).requires_grad_(False).eval()
        self.inputs: Sequence[Tensor] = ()  # of this step

    def step(self, learner: Learner, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        self.inputs = batch.inputs
        return learner.plain_step(batch)

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        with torch.no_grad():
            taught = torch.stack([teacher(x) for teacher, x in zip(self.teachers.values(), self.inputs, strict=True)])
        precision = torch.promote_types(taught.dtype, torch.float32)
        distances = (output.features.to(precision) - taught.to(precision)).square().sum(-1)  # (M, B)
        return loss + self.weight * distances.mean(1).sum()
