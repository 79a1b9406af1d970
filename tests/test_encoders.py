"""ResNet18 against torchvision's, frame by frame, and its initialisation against the release's."""

import math

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from models.encoders import ResNet18


@pytest.fixture(scope="module")
def encoders() -> dict[int, ResNet18]:
    torch.manual_seed(0)
    return {channels: ResNet18(channels) for channels in (1, 3)}


def test_equals_torchvision_with_the_same_weights_and_its_last_layer_removed(encoders):
    other = resnet18()
    other.fc = nn.Identity()
    other.load_state_dict(encoders[3].state_dict())  # strict: the same keys and shapes
    x = torch.randn(2, 3, 48, 40)
    for training in (True, False):  # training first: evaluation then uses statistics that are not the initial ones
        torch.testing.assert_close(encoders[3].train(training)(x), other.train(training)(x))
    torch.testing.assert_close(encoders[3].state_dict(), other.state_dict())


@pytest.mark.parametrize("channels", [1, 3])
def test_state_dict_has_torchvisions_120_keys_and_only_the_first_convolution_differs(encoders, channels):
    expected = {name: value.shape for name, value in resnet18().state_dict().items() if not name.startswith("fc.")}
    expected["conv1.weight"] = torch.Size((64, channels, 7, 7))
    found = {name: value.shape for name, value in encoders[channels].state_dict().items()}
    assert found == expected and len(found) == 120


@pytest.mark.parametrize("channels, frames", [(3, 1), (3, 3), (1, 2)])
def test_features_of_a_clip_are_the_mean_over_its_frames(encoders, channels, frames):
    encoder, clips = encoders[channels].eval(), torch.randn(2, channels, frames, 33, 40)
    features = encoder(clips)
    assert features.shape == (2, 512)
    for b in range(2):
        each = [encoder(clips[b:b + 1, :, t])[0] for t in range(frames)]
        torch.testing.assert_close(features[b], sum(each) / frames, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_start_normal_with_the_fan_out_standard_deviation(encoders, channels):
    convolutions = {name: m for name, m in encoders[channels].named_modules() if isinstance(m, nn.Conv2d)}
    assert len(convolutions) == 20
    for name, conv in convolutions.items():
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        expected, count = math.sqrt(2 / fan_out), conv.weight.numel()
        error = 5 / math.sqrt(count)  # 5 standard errors of the mean; those of the deviation are smaller
        assert conv.weight.std().item() == pytest.approx(expected, rel=error), name
        assert abs(conv.weight.mean().item()) < error * expected, name
        assert conv.weight.abs().max() > 2.5 * expected, name  # a uniform distribution ends at 1.73


def test_batch_normalisation_starts_near_one_and_without_bias(encoders):
    norms = [m for m in encoders[3].modules() if isinstance(m, nn.BatchNorm2d)]
    torch.manual_seed(0)
    fresh = [m for m in ResNet18(3).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len(fresh) == 20
    weights = torch.cat([m.weight.detach() for m in fresh])  # 4800
    assert weights.mean().item() == pytest.approx(1, abs=0.0015)
    assert weights.std().item() == pytest.approx(0.02, rel=0.06)
    assert all((m.bias == 0).all() for m in fresh)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 257, 38), (1, 257, 58), (3, 64, 64)])
def test_bfloat16_features_stay_near_float32_at_the_least_input_sizes(channels, height, width):
    torch.manual_seed(0)
    net = ResNet18(channels).to(memory_format=torch.channels_last)
    x = torch.randn(8, channels, height, width)
    expected = net(x).detach()
    for _ in range(3):  # freed NaNs are what a kernel that reads beyond its input would find
        poison = [torch.full((2**k,), float("nan")) for k in range(8, 24)]
        del poison
        with torch.autocast("cpu", torch.bfloat16):
            features = net(x).detach().float()
        assert (features - expected).norm() < 0.05 * expected.norm()
