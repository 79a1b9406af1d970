"""Features and logits of clips by a trained network, and the angles between features and class weights.

N clips, M modalities, D features, C classes.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from models import MultimodalClassifier
from models.mmcosine import unit
from utils.training.engine import Compute, outputs


class Features(NamedTuple):
    """Of N clips, on the CPU, in float32."""

    labels: np.ndarray  # (N,) class indices
    encoded: np.ndarray  # (M, N, D) as the encoders give them
    fused: np.ndarray  # (M, N, D) after fusion
    modality_logits: np.ndarray  # (M, N, C)


@torch.inference_mode()
def extract(model: MultimodalClassifier, loader: DataLoader, compute: Compute) -> Features:
    """The features of every clip of `loader`, in one process."""
    batches = [(labels, *(part.float().transpose(0, 1) for part in (output.features, output.fused,
                                                                    output.modality_logits)))
               for output, labels in outputs(model, loader, compute)]
    labels, *others = (torch.cat(column).cpu().numpy() for column in zip(*batches, strict=True))
    return Features(labels, *(other.swapaxes(0, 1) for other in others))


def angles(fused: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Degrees between the feature of each modality and that modality's weight of the true class, (M, N).

    fused (M, N, D), weights (M, C, D), labels (N,). What cos(h_m, W_m) of the paper's Eq. 3 is the cosine of; 90 for a
    zero feature.
    """
    own = torch.from_numpy(weights)[:, labels].double()  # (M, N, D)
    cosines = (unit(torch.from_numpy(fused).double()) * unit(own)).sum(-1)
    return torch.rad2deg(torch.arccos(cosines.clamp(-1, 1))).numpy()


def seen_by_head(fused: np.ndarray, mmcosine: bool) -> np.ndarray:
    """(M, N, D) -> (N, M D), the modalities side by side; under MMCosine each of length 1, as its head takes them."""
    seen = unit(torch.from_numpy(fused)).numpy() if mmcosine else fused
    return np.concatenate(list(seen), axis=-1)
