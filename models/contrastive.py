"""The auxiliary contrastive loss of the paper's supplement (CCL), weighted by `--lam`."""

from itertools import combinations

import torch
from torch import Tensor

from .mmcosine import unit

TEMPERATURE = 0.1
EPS = 1e-10


def contrastive_loss(features: Tensor, labels: Tensor) -> Tensor:
    """Features (M, B, D) and labels (B,) -> scalar; the mean over all pairs of modalities when M > 2.

    For the pair (a, v): P = row-softmax of cos(a_i, v_j) / 0.1 over the batch's j. The loss of row i is the mean of
    -log(P_ij + 1e-10) over the j of i's class (i itself included) plus the mean of -log(1 - P_ij + 1e-10) over the
    others (0 when there is no other); the result is the mean over rows. Raises ValueError for M < 2.
    """
    if len(features) < 2:
        raise ValueError("the contrastive loss compares modalities: it needs at least two")
    with torch.autocast(features.device.type, enabled=False):
        same = (labels[:, None] == labels[None, :]).to(torch.promote_types(features.dtype, torch.float32))  # (B, B)
        pairs = [pair_loss(a, v, same) for a, v in combinations(unit(features), 2)]
        return torch.stack(pairs).mean()


def pair_loss(a: Tensor, v: Tensor, same: Tensor) -> Tensor:
    """a, v (B, D) of unit length, same (B, B) 1 where the labels agree -> scalar."""
    p = torch.softmax(a @ v.T / TEMPERATURE, dim=1)
    other = 1 - same
    attract = (-torch.log(p + EPS) * same).sum(1) / same.sum(1)
    repel = (-torch.log(1 - p + EPS) * other).sum(1) / other.sum(1).clamp(min=1)
    return (attract + repel).mean()
