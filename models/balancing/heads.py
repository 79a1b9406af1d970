"""Heads of a method's own, for losses of one modality. M modalities, B clips, C classes, D features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..classifier import MultimodalClassifier


class UniModalHeads(nn.ModuleList):
    """A linear layer G_m for each modality, on the features of its encoder."""

    def __init__(self, model: MultimodalClassifier):
        modalities, classes, dim = model.class_weights().shape
        super().__init__(nn.Linear(dim, classes) for _ in range(modalities))

    def logits(self, features: Tensor) -> Tensor:
        """(M, B, D) -> (M, B, C): G_m z_m, in the precision of the heads, whatever that of the encoders."""
        with torch.autocast(features.device.type, enabled=False):
            return torch.stack([head(x.to(head.weight.dtype)) for head, x in zip(self, features, strict=True)])

    def losses(self, features: Tensor, labels: Tensor) -> Tensor:
        """(M, B, D), (B,) -> (M,): the cross-entropy of each head."""
        return torch.stack([F.cross_entropy(logits, labels) for logits in self.logits(features)])
