"""Metrics: of classification from the logits the network returns, of verification from the scores of trials.

B clips, C classes, M modalities, N trials. A batch is reduced to one row of sums on its device; rows are added over
batches and processes, and only then divided, so that every clip counts once whatever the batch sizes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
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


class ErrorRates(NamedTuple):
    """Of every threshold that matters, from rejecting all trials to accepting all: fractions, (K,) each."""

    miss: np.ndarray  # targets that are rejected, 1 to 0
    false_alarm: np.ndarray  # non-targets that are accepted, 0 to 1


def error_rates(scores: ArrayLike, labels: ArrayLike) -> ErrorRates:
    """Scores (N,), higher for the same identity, and labels (N,), 1 or True for targets -> their trade-off.

    Trials of equal score are accepted or rejected together, so their order does not matter.
    Raises ValueError: unequal lengths, a label that is neither 0 nor 1, a score that is not finite, no target or no
    non-target.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    check_trials(scores, labels)
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    targets = np.cumsum(labels[order] == 1)[last_of_equals]  # accepted at each threshold
    accepted = np.flatnonzero(last_of_equals) + 1
    miss = 1 - np.append(0, targets) / targets[-1]
    false_alarm = np.append(0, accepted - targets) / (len(labels) - targets[-1])
    return ErrorRates(miss, false_alarm)


def check_trials(scores: np.ndarray, labels: np.ndarray) -> None:
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"a score and a label a trial are needed, got shapes {scores.shape} and {labels.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} scores are NaN or infinite")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 1 for targets (the same identity) and 0 for non-targets")
    for value, name in ((1, "target (label 1)"), (0, "non-target (label 0)")):
        if not (labels == value).any():
            raise ValueError(f"there is no {name} among {len(labels)} trials: error rates need both kinds")


def equal_error_rate(scores: ArrayLike, labels: ArrayLike) -> float:
    """Where as many targets are rejected as non-targets accepted, a fraction; linear between thresholds.

    Arguments and errors as in `error_rates`.
    """
    return crossing(error_rates(scores, labels))


def crossing(rates: ErrorRates) -> float:
    """The equal error rate of a trade-off."""
    miss, false_alarm = rates
    gap = miss - false_alarm  # falls from 1 to -1
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(false_alarm[after - 1] + share * (false_alarm[after] - false_alarm[after - 1]))


def min_dcf(scores: ArrayLike, labels: ArrayLike, p_target: float, c_miss: float = 1, c_fa: float = 1) -> float:
    """The least detection cost c_miss p P_miss + c_fa (1 - p) P_fa over all thresholds (NIST), divided by the cost of
    the better of rejecting all and accepting all. p_target: prior probability p of a target, in (0, 1).

    Arguments and errors otherwise as in `error_rates`.
    """
    if not 0 < p_target < 1 or min(c_miss, c_fa) <= 0:
        raise ValueError(f"need 0 < p_target < 1 and positive costs, got {p_target}, {c_miss} and {c_fa}")
    miss, false_alarm = error_rates(scores, labels)
    of_miss, of_false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    return float((of_miss * miss + of_false_alarm * false_alarm).min() / min(of_miss, of_false_alarm))
