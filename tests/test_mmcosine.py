"""MMCosine against the paper's equations, written out with angles and loops."""

import math

import pytest
import torch

from models import mmcosine_logits, scale_lower_bound


def by_angles(features, weight, scaling: float) -> torch.Tensor:
    """l_m[b][c] = s cos(angle between features[m][b] and weight[m][c]), one number at a time in Python floats."""

    def logit(x: list[float], w: list[float]) -> float:
        length = math.sqrt(sum(v * v for v in x)) * math.sqrt(sum(v * v for v in w))
        cosine = sum(v * u for v, u in zip(x, w, strict=True)) / length if length else 0.0
        return scaling * math.cos(math.acos(min(1.0, max(-1.0, cosine)))) if length else 0.0

    return torch.tensor([[[logit(x, w) for w in ws] for x in xs]
                         for xs, ws in zip(features.tolist(), weight.tolist(), strict=True)], dtype=torch.float64)


def draw(modalities: int = 2, clips: int = 4, classes: int = 3, dim: int = 5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(modalities, clips, dim, generator=generator, dtype=torch.float64).to(dtype)
    return features, torch.randn(modalities, classes, dim, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("modalities", [1, 2, 3, 5])
@pytest.mark.parametrize("scaling", [0.5, 10])
def test_logits_equal_scaled_cosines_of_angles(modalities, scaling):
    features, weight = draw(modalities)
    torch.testing.assert_close(mmcosine_logits(features, weight, scaling), by_angles(features, weight, scaling))


def test_logits_in_the_plane_are_the_cosine_of_the_difference_of_directions():
    feature_degrees, class_degrees = [[0, 30, 180], [45, 90, 270]], [[0, 60], [90, 135]]

    def vectors(degrees, lengths):
        return torch.tensor([[[r * math.cos(math.radians(d)), r * math.sin(math.radians(d))] for d in row]
                             for row, r in zip(degrees, lengths, strict=True)], dtype=torch.float64)

    expected = torch.tensor([[[8 * math.cos(math.radians(f - c)) for c in classes] for f in features]
                             for features, classes in zip(feature_degrees, class_degrees, strict=True)],
                            dtype=torch.float64)
    logits = mmcosine_logits(vectors(feature_degrees, (3.0, 0.1)), vectors(class_degrees, (20.0, 0.5)), 8)
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("low, high", [(0.01, 100), (1e-6, 1e6)])
def test_logits_do_not_change_when_any_feature_or_class_vector_is_rescaled(low, high):
    features, weight = draw(3)
    generator = torch.Generator().manual_seed(1)

    def rescaled(vectors):  # every vector by a factor of its own
        exponent = torch.rand(*vectors.shape[:2], 1, generator=generator, dtype=torch.float64)
        return vectors * low * (high / low) ** exponent

    torch.testing.assert_close(mmcosine_logits(rescaled(features), rescaled(weight), 10),
                               mmcosine_logits(features, weight, 10))


@pytest.mark.parametrize("modalities", [2, 3, 5])
def test_modality_logits_stay_within_s_and_reach_it_and_joint_logits_within_m_times_s(modalities):
    _, weight = draw(modalities, dim=64, dtype=torch.float32)
    features = torch.cat([weight * 7, -weight * 0.01, draw(modalities, 50, dim=64, dtype=torch.float32)[0]], dim=1)
    logits = mmcosine_logits(features, weight, 10)
    assert logits.abs().max() <= 10 * (1 + 1e-6)
    assert logits.sum(0).abs().max() <= modalities * 10 * (1 + 1e-6)
    for c in range(3):  # on its own class weight, and opposite to it
        torch.testing.assert_close(logits[:, c, c], torch.full((modalities,), 10.0))
        torch.testing.assert_close(logits.sum(0)[3 + c, c], torch.tensor(-10.0 * modalities))


@pytest.mark.parametrize("dtype, out", [(torch.float64, torch.float64), (torch.float32, torch.float32),
                                        (torch.bfloat16, torch.float32), (torch.float16, torch.float32)])
def test_logits_are_exact_for_every_dtype_and_gradients_reach_both_arguments(dtype, out):
    features, weight = (t.requires_grad_() for t in draw(dtype=dtype))
    logits = mmcosine_logits(features, weight, 10)
    assert logits.dtype == out
    torch.testing.assert_close(logits.double(), by_angles(features, weight, 10), rtol=1e-5, atol=1e-5)
    logits.square().sum().backward()
    for leaf in (features, weight):
        assert leaf.grad.dtype == dtype and leaf.grad.isfinite().all() and (leaf.grad != 0).any()


def test_gradient_equals_finite_differences():
    features, weight = (t.requires_grad_() for t in draw(clips=2, dim=3))
    assert torch.autograd.gradcheck(lambda f, w: mmcosine_logits(f, w, 10), (features, weight))


def test_bfloat16_autocast_changes_nothing():
    features, weight = draw(dtype=torch.float32, dim=64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = mmcosine_logits(features, weight, 10)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, mmcosine_logits(features, weight, 10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_vectors_give_logits_of_exactly_zero_and_a_bounded_gradient(dtype):
    features, weight = draw(dtype=dtype)
    features[0, 1] = 0
    weight[1, 2] = 0
    features.requires_grad_()
    weight.requires_grad_()
    logits = mmcosine_logits(features, weight, 10)
    assert (logits[0, 1] == 0).all() and (logits[1, :, 2] == 0).all()
    assert (logits[0, 0] != 0).all()
    logits.sum().backward()
    for leaf in (features, weight):
        assert leaf.grad.isfinite().all() and leaf.grad.abs().max() < 100


@pytest.mark.parametrize("classes, published, tight", [(6, 2.216, 2.585), (60, 4.194, 4.264), (101, 4.510, 4.555),
                                                       (5842, 6.632, 6.633)])
def test_scale_lower_bounds_are_the_published_numbers(classes, published, tight):
    assert scale_lower_bound(classes) == pytest.approx(published, abs=5e-4)
    assert scale_lower_bound(classes, tight=True) == pytest.approx(tight, abs=5e-4)


def best_posterior(classes: int, scaling: float, modalities: int) -> float:
    """Class weights on a regular simplex (corners e_c - 1/C of R^C), every feature on its own class weight."""
    corners = [[(i == c) - 1 / classes for i in range(classes)] for c in range(classes)]
    one = by_angles(torch.tensor([[corners[0]]]).double(), torch.tensor([corners]).double(), scaling)[0, 0]
    scores = [math.exp(modalities * logit) for logit in one.tolist()]
    return scores[0] / sum(scores)


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("posterior", [0.9, 0.99])
@pytest.mark.parametrize("classes", [2, 6, 60])
def test_on_a_simplex_the_tight_bound_reaches_the_posterior_exactly_and_the_papers_falls_short(classes, posterior,
                                                                                               modalities):
    tight = scale_lower_bound(classes, posterior, modalities, tight=True)
    assert best_posterior(classes, tight, modalities) == pytest.approx(posterior, abs=1e-6)
    loose = scale_lower_bound(classes, posterior, modalities)
    assert loose < tight and best_posterior(classes, loose, modalities) < posterior


def test_no_three_directions_in_the_plane_do_better_than_the_tight_bound():
    scaling = scale_lower_bound(3, 0.9, modalities=1, tight=True)
    angle = torch.arange(0, 360, 10) * math.pi / 180
    a, b, feature = torch.meshgrid(angle, angle, angle, indexing="ij")
    scores = torch.stack([scaling * torch.cos(feature - w) for w in (torch.zeros_like(a), a, b)])
    posterior = torch.softmax(scores, 0)  # (class, a, b, feature)
    worst = posterior.amax(-1).amin(0)  # each class with its best feature; the least of the classes
    assert worst.max().item() == pytest.approx(0.9, abs=1e-5)


@pytest.mark.parametrize("classes, posterior, modalities", [(1, 0.99, 2), (0, 0.99, 2), (6, 0.0, 2), (6, 1.0, 2),
                                                            (6, math.nan, 2), (6, 0.99, 0)])
def test_impossible_arguments_of_the_bound_are_refused(classes, posterior, modalities):
    with pytest.raises(ValueError, match="num_classes >= 2"):
        scale_lower_bound(classes, posterior, modalities)
