"""Classification metrics from the logits the network returns: B clips, C classes, M modalities.

A batch is reduced to one row of sums on its device; rows are added over batches and processes, and only then divided,
so that every clip counts once whatever the batch sizes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models import ClassifierOutput


def row_names(modalities: Sequence[str]) -> list[str]:
    """What the columns of `batch_sums` hold: the number of clips, then sums over them."""
    each = [f"{metric}_{name}" for metric in ("accuracy", "loss", "logit") for name in modalities]
    return ["clips", "loss", "accuracy", *each]


def batch_sums(output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
    """One row, (3 + 3 M,), as `row_names` says; `loss` () is the batch mean. Nothing here waits for the device.

    The logit of a modality is its logit of the true class.
    """
    clips, modalities = len(labels), len(output.modality_logits)
    logits = output.modality_logits.detach().float()  # (M, B, C)
    every = labels.expand(modalities, -1)  # (M, B)
    correct = (logits.argmax(-1) == every).sum(1)
    losses = F.cross_entropy(logits.flatten(0, 1), every.flatten(), reduction="none").unflatten(0, every.shape).sum(1)
    true_logits = logits.gather(2, every.unsqueeze(2)).sum((1, 2))
    joint = torch.stack([torch.full_like(loss, clips), loss.detach() * clips,
                         (output.logits.argmax(-1) == labels).sum().to(loss)]).float()
    return torch.cat([joint, correct.float(), losses, true_logits])


def means(row: Tensor, names: Sequence[str]) -> dict[str, float]:
    """A row of sums -> {metric: mean over the clips}. Waits for the device."""
    clips, *sums = row.double().tolist()
    return {name: value / clips for name, value in zip(names[1:], sums, strict=True)}
