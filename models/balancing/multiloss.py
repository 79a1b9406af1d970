"""Multi-loss training, also called joint training with uni-modal losses: the baseline that MMPareto (Wei and Hu, ICML
2024, arXiv 2405.17730), MCR and others compare with. M modalities, B clips, D features.

Each modality has a linear head G_m of its own on its encoder's features z_m, so that every encoder gets a gradient
which the other modalities cannot take away:

    loss + lambda * sum_m cross-entropy(G_m z_m, y)

lambda is `uni_weight`, 1 as in MMPareto. The prediction is that of the joint network; the heads are not
used after training. Any M; with MMCosine the heads stay linear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .heads import UniModalHeads
from .method import Flag, Method, Number

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier

UNI_WEIGHT = Flag("uni_weight", Number(float, 0), 1.0, "weight lambda of the losses of each modality alone in "
                  "multiloss, inforeg, mlb and dnr; 1 as in MMPareto's, 0 for dnr as in its authors' code")


class MultiLoss(Method):
    title = "joint training with a loss of each modality alone"
    flags: ClassVar[tuple[Flag, ...]] = (UNI_WEIGHT,)

    def __init__(self, model: MultimodalClassifier, uni_weight: float):
        super().__init__(model)
        self.uni_weight, self.heads = uni_weight, UniModalHeads(model)

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        return loss + self.uni_weight * self.heads.losses(output.features, labels).sum()
