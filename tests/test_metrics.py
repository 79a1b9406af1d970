"""Metrics against loops over single clips, over batches of different sizes."""

import math

import pytest
import torch
import torch.nn.functional as F

from models import ClassifierOutput
from utils.training.metrics import batch_sums, means, row_names

NAMES = ("audio", "visual", "flow")


def output_of(clips: int, modalities: int, seed: int, dtype=torch.float32) -> tuple[ClassifierOutput, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    each = (3 * torch.randn(modalities, clips, 4, generator=generator)).to(dtype).requires_grad_()
    labels = torch.randint(0, 4, (clips,), generator=generator)
    nothing = torch.zeros(modalities, clips, 2)
    return ClassifierOutput(each.sum(0), each, nothing, nothing), labels


def cross_entropy(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(x) for x in logits)) - logits[label]


def naive(batches: list, modalities: int) -> dict[str, float]:
    """Every figure one clip at a time, then its mean over all clips."""
    figures: dict[str, list[float]] = {}
    for output, labels in batches:
        for i, label in enumerate(labels.tolist()):
            joint = output.logits[i].tolist()
            figures.setdefault("loss", []).append(cross_entropy(joint, label))
            figures.setdefault("accuracy", []).append(float(joint.index(max(joint)) == label))
            for m in range(modalities):
                own = output.modality_logits[m, i].tolist()
                figures.setdefault(f"loss_{NAMES[m]}", []).append(cross_entropy(own, label))
                figures.setdefault(f"accuracy_{NAMES[m]}", []).append(float(own.index(max(own)) == label))
                figures.setdefault(f"logit_{NAMES[m]}", []).append(own[label])
    return {name: sum(values) / len(values) for name, values in figures.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_means_over_ragged_batches_equal_the_means_over_single_clips(modalities, dtype):
    batches = [output_of(clips, modalities, seed, dtype) for seed, clips in enumerate((8, 1, 5, 3))]
    rows = [batch_sums(output, labels, F.cross_entropy(output.logits.float(), labels)) for output, labels in batches]
    names = row_names(NAMES[:modalities])
    assert all(row.shape == (len(names),) and row.dtype == torch.float32 for row in rows)
    found = means(torch.stack(rows).sum(0), names)
    assert found == pytest.approx(naive(batches, modalities), rel=1e-5, abs=1e-6)
    assert 0 < found["accuracy"] < 1


def test_sums_hold_no_graph_and_count_the_clips():
    output, labels = output_of(5, 2, 0)
    row = batch_sums(output, labels, F.cross_entropy(output.logits, labels))
    assert not row.requires_grad and row[row_names(NAMES[:2]).index("clips")] == 5


def test_a_loss_that_is_not_finite_stays_visible():
    output, labels = output_of(2, 2, 0)
    row = batch_sums(output, labels, torch.tensor(math.nan))
    assert math.isnan(means(row, row_names(NAMES[:2]))["loss"])
