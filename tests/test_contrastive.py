"""The contrastive loss against double loops over pairs of clips, and its degenerate batches."""

import math

import pytest
import torch

from models import contrastive_loss

LABELS = torch.tensor([0, 0, 1, 2, 1, 0])


def draw(modalities: int = 2, clips: int = 6, dim: int = 4) -> torch.Tensor:
    return torch.randn(modalities, clips, dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def loops(a: list, v: list, labels: list[int]) -> float:
    """The supplement's loss in Python floats, for one pair of modalities."""

    def cosine(x, y):
        return sum(p * q for p, q in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)

    total = 0.0
    for i, x in enumerate(a):
        scores = [math.exp(cosine(x, y) / 0.1) for y in v]
        positives, negatives = [], []
        for j, score in enumerate(scores):
            p = score / sum(scores)
            if labels[j] == labels[i]:
                positives.append(-math.log(p + 1e-10))
            else:
                negatives.append(-math.log(1 - p + 1e-10))
        total += sum(positives) / len(positives) + (sum(negatives) / len(negatives) if negatives else 0.0)
    return total / len(a)


def test_two_modalities_equal_the_loops_over_rows_of_the_first():
    features = draw()
    expected = loops(*features.tolist(), LABELS.tolist())
    assert contrastive_loss(features, LABELS).item() == pytest.approx(expected, rel=1e-9)
    assert expected != pytest.approx(loops(*features.flip(0).tolist(), LABELS.tolist()))  # rows are the first's


@pytest.mark.parametrize("modalities", [3, 4])
def test_more_modalities_give_the_mean_over_their_pairs(modalities):
    features = draw(modalities).tolist()
    pairs = [loops(features[m], features[n], LABELS.tolist()) for m in range(modalities)
             for n in range(m + 1, modalities)]
    assert contrastive_loss(draw(modalities), LABELS).item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-9)


def test_gradient_equals_finite_differences():
    assert torch.autograd.gradcheck(lambda f: contrastive_loss(f, LABELS), draw(dim=3).requires_grad_())


def test_loss_does_not_change_when_features_are_rescaled():
    factor = torch.tensor([[[0.01]], [[300.0]]], dtype=torch.float64)
    torch.testing.assert_close(contrastive_loss(draw() * factor, LABELS), contrastive_loss(draw(), LABELS))


@pytest.mark.parametrize("clips", [1, 6])
def test_a_batch_of_one_class_has_a_finite_loss_and_gradient(clips):
    features, labels = draw(clips=clips), torch.full((clips,), 3)
    loss = contrastive_loss(features.requires_grad_(), labels)
    assert loss.item() == pytest.approx(loops(*features.tolist(), labels.tolist()), abs=1e-9)
    loss.backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("labels", [[0, 1], [1, 0], [0, 0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saturated_probabilities_give_a_finite_loss_and_gradient(labels, dtype):
    a = torch.tensor([[1e3, 0], [-1e3, 0]], dtype=dtype)
    for v in (a, -a):  # every clip on itself, or on the clip of the other class
        features = torch.stack([a, v]).requires_grad_()
        loss = contrastive_loss(features, torch.tensor(labels))
        loss.backward()
        assert loss.dtype == torch.float32 and 0 <= loss.item() < 50 and features.grad.isfinite().all()


def test_zero_features_have_a_finite_loss_and_gradient():
    features = torch.zeros(2, 6, 4, requires_grad=True)
    contrastive_loss(features, LABELS).backward()
    assert features.grad.isfinite().all()


def test_bfloat16_autocast_changes_nothing():
    features = draw().float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = contrastive_loss(features, LABELS)
    assert torch.equal(inside, contrastive_loss(features, LABELS))
