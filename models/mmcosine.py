"""MMCosine (Xu, Feng, Zhang, Hu; ICASSP 2023, arXiv 2303.05338), equations 2 to 4.

M modalities, B clips, D features, C classes. The logits of modality m are

    l_m = s * cos(h_m, W_m)

with its features h_m and its class weights W_m L2-normalised *per modality*: whatever the lengths of features and
weights, no modality's logits leave [-s, s]. No bias, no margin. The joint logits are the sum over m, in [-M s, M s].
"""

import math

import torch
from torch import Tensor


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
