"""MMCosine (Xu, Feng, Zhang, Hu; ICASSP 2023, arXiv 2303.05338), equations 2 to 4.

M modalities, B clips, D features, C classes. The logits of modality m are

    l_m = s * cos(h_m, W_m)

with its features h_m and its class weights W_m L2-normalised *per modality*: whatever the lengths of features and
weights, no modality's logits leave [-s, s]. No bias, no margin. The joint logits are the sum over m, in [-M s, M s].
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


def mmcosine_logits(features: Tensor, weight: Tensor, scaling: float) -> Tensor:
    """Modality logits: features (M, B, D), weight (M, C, D) -> (M, B, C).

    Computed in float32 (float64 for float64 input) even under autocast: cosines in bfloat16 are wrong in the third
    digit, times s. A zero vector has cosine 0 with everything, and a bounded gradient.
    """
    with torch.autocast(features.device.type, enabled=False):
        return scaling * (unit(features) @ unit(weight).mT)


def unit(vectors: Tensor) -> Tensor:
    """(..., D) -> each vector divided by its L2 norm, in float32 at least; vectors shorter than 1e-12 count as zero."""
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(norm > 1e-12, norm, 1.0)


def scale_lower_bound(num_classes: int, posterior: float = 0.99, modalities: int = 2, tight: bool = False) -> float:
    """The least s with which the softmax of the joint logits can reach `posterior` for the true class.

    `tight=False` is the paper's Eq. 4, (C-1)/(M(C+1)) ln((C-1)p/(1-p)), whose proof uses a loose inequality.
    `tight=True` has C in place of C+1: class weights on a regular simplex, features on their own class weight.
    Raises ValueError for C < 2, M < 1 or p outside (0, 1).
    """
    if num_classes < 2 or modalities < 1 or not 0 < posterior < 1:
        raise ValueError(f"need num_classes >= 2, modalities >= 1 and 0 < posterior < 1, got {num_classes}, "
                         f"{modalities} and {posterior}")
    log_odds = math.log((num_classes - 1) * posterior / (1 - posterior))
    return (num_classes - 1) / (modalities * (num_classes + (0 if tight else 1))) * log_odds


class HeadOutput(NamedTuple):
    logits: Tensor  # (B, C) joint
    modality_logits: Tensor  # (M, B, C), sums to logits


class MMCosineHead(nn.Module):
    """The head alone, on features of any sizes: `logits, modality_logits = head([audio, visual])`.

    dims: D of each modality, M >= 1 of them. scaling: s. `weights` has the class weights (C, D) of each modality.
    Raises ValueError: a size, number of classes or scaling that is not positive; features of other sizes.
    """

    def __init__(self, dims: Sequence[int], num_classes: int, scaling: float = 10.0):
        super().__init__()
        dims = dims if isinstance(dims, int) else tuple(dims)
        if isinstance(dims, int) or not dims or not all(isinstance(dim, int) and dim > 0 for dim in dims):
            raise ValueError(f"dims are the sizes of the features of each modality, such as (512, 300), not {dims!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if not 0 < scaling < math.inf:
            raise ValueError(f"scaling must be positive and finite, got {scaling}")
        self.dims, self.num_classes, self.scaling = dims, num_classes, scaling
        self.weights = nn.ParameterList(torch.empty(num_classes, dim) for dim in dims)
        for weight in self.weights:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # as nn.Linear

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Features (B, D) of each modality -> joint logits (B, C) and those of the modalities (M, B, C)."""
        sizes = [tuple(x.shape) for x in features]
        fits = len(sizes) == len(self.dims) and all(
            len(size) == 2 and size[1] == dim and size[0] == sizes[0][0]
            for size, dim in zip(sizes, self.dims, strict=True))
        if not fits:
            raise ValueError(f"features have the sizes {', '.join(map(str, sizes)) or 'of none'}; the head takes "
                             f"{', '.join(f'(B, {dim})' for dim in self.dims)}")
        modality_logits = torch.stack([mmcosine_logits(x, weight, self.scaling)
                                       for x, weight in zip(features, self.weights, strict=True)])
        return HeadOutput(modality_logits.sum(0), modality_logits)

    def extra_repr(self) -> str:
        return f"dims={self.dims}, num_classes={self.num_classes}, scaling={self.scaling}"
