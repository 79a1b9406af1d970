"""Every entry of ENCODERS against the contract of an encoder; the ResNets against torchvision's, their initialisation
against the release's."""

import inspect
import math

import pytest
import torch
import torchvision
from torch import nn

import main_CD
import main_SSW
import main_Vox
from models import ENCODERS, make_encoders

OF_IMAGES = [name for name, kind in ENCODERS.items() if "in_channels" in inspect.signature(kind).parameters]
OF_WAVES = [name for name in ENCODERS if name not in OF_IMAGES]
RESNETS = ["resnet18", "resnet34", "resnet50"]  # in torchvision under the same names


def build(name: str, channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make_encoders({"any": (name, channels if name in OF_IMAGES else None)})["any"]


def example(name: str, clips: int = 2, channels: int = 3) -> torch.Tensor:
    """Images, or waveforms of 0.35 seconds at 16 kHz."""
    generator = torch.Generator().manual_seed(1)
    shape = (channels, 64, 72) if name in OF_IMAGES else (5520,)
    return torch.randn(clips, *shape, generator=generator)


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Compared with the size of what is expected, which may be small: some encoders start weak."""
    return ((found.float() - expected).norm() / expected.norm()).item()


# ---- the contract of every encoder


def test_both_kinds_of_encoders_are_there_and_every_script_builds_all_that_it_declares():
    assert set(RESNETS) <= set(OF_IMAGES)
    assert "se_resnet34" in OF_WAVES
    declared = {(name, modality.in_channels) for script in (main_CD, main_SSW, main_Vox)
                for modality in script.MODALITIES for name in modality.encoders}
    for name, channels in declared:
        assert type(make_encoders({"any": (name, channels)})["any"]) is ENCODERS[name]


@pytest.mark.parametrize("channels", [1, 10])  # 2 and 3 are those of the tests below
@pytest.mark.parametrize("name", OF_IMAGES)
def test_features_of_images_of_any_channels_and_sizes_are_512(name, channels):
    encoder = build(name, channels).eval()
    for height, width in ((64, 64), (65, 97)):
        assert encoder(torch.randn(2, channels, height, width)).shape == (2, 512)


@pytest.mark.parametrize("name", OF_WAVES)
def test_features_of_waveforms_of_any_length_are_512(name):
    encoder = build(name).eval()
    for samples in (5520, 9001):
        assert encoder(torch.randn(2, samples)).shape == (2, 512)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("name", OF_IMAGES)
def test_features_of_a_clip_are_the_mean_of_its_frames(name, frames):
    encoder, clips = build(name, 2).eval().double(), torch.randn(2, 2, frames, 33, 40, dtype=torch.float64)
    features = encoder(clips)
    assert features.shape == (2, 512)
    for b in range(2):
        each = [encoder(clips[b:b + 1, :, t])[0] for t in range(frames)]
        assert far(features[b], sum(each) / frames) < 1e-6


@pytest.mark.parametrize("name", ENCODERS)
def test_clips_do_not_mix_in_evaluation(name):
    encoder, x = build(name).eval().double(), example(name, clips=3).double()
    both = encoder(x)
    for b in range(3):
        assert far(both[b], encoder(x[b:b + 1])[0]) < 1e-6
    assert far(both[0], both[1]) > 1e-3


@pytest.mark.parametrize("name", ENCODERS)
def test_a_state_dict_makes_another_encoder_the_same(name, tmp_path):
    encoder, x = build(name), example(name)
    encoder(x)  # statistics that are not the initial ones
    torch.save(encoder.state_dict(), tmp_path / "a.pt")
    other = build(name, seed=1)
    assert not torch.equal(other.eval()(x), encoder.eval()(x))
    other.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    assert torch.equal(other(x), encoder(x))


@pytest.mark.parametrize("name", ENCODERS)
def test_one_seed_gives_one_initialisation(name):
    torch.testing.assert_close(build(name).state_dict(), build(name).state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ENCODERS)
def test_bfloat16_autocast_is_near_float32_and_not_the_same(name):
    encoder, x = build(name).eval(), example(name, clips=4)
    expected = encoder(x).detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(x).detach()
    assert 0 < far(found, expected) < 0.05


@pytest.mark.parametrize("name", ENCODERS)
def test_channels_last_gives_the_same(name):
    encoder, x = build(name).eval(), example(name)
    expected = encoder(x).detach()
    encoder.to(memory_format=torch.channels_last)
    assert far(encoder(x), expected) < 1e-4
    if name in OF_IMAGES:
        assert far(encoder(x.contiguous(memory_format=torch.channels_last)), expected) < 1e-4


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_every_parameter(name):
    encoder = build(name)
    features = encoder(example(name))
    (features * torch.randn(features.shape)).sum().backward()
    without = [name for name, parameter in encoder.named_parameters()
               if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    assert not without


# ---- the ResNets


@pytest.mark.parametrize("name", RESNETS)
def test_equals_torchvision_with_the_same_weights_and_its_last_layer_replaced(name):
    ours, other = build(name), getattr(torchvision.models, name)()
    other.fc = ours.projection
    state = {key: value for key, value in ours.state_dict().items() if not key.startswith("projection.")}
    missing, unexpected = other.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith("fc.") for key in missing)
    x = torch.randn(2, 3, 48, 40)
    for training in (True, False):  # training first: evaluation then uses statistics that are not the initial ones
        torch.testing.assert_close(ours.train(training)(x), other.train(training)(x))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RESNETS)
def test_state_dict_has_torchvisions_keys_and_only_the_first_convolution_differs(name, channels):
    with torch.device("meta"):  # names and shapes, without values
        theirs, ours = (net.state_dict() for net in (getattr(torchvision.models, name)(), build(name, channels)))
    expected = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    expected["conv1.weight"] = torch.Size((64, channels, 7, 7))
    if name == "resnet50":
        expected.update({"projection.weight": torch.Size((512, 2048)), "projection.bias": torch.Size((512,))})
    found = {key: value.shape for key, value in ours.items()}
    assert found == expected
    assert len(found) == {"resnet18": 120, "resnet34": 216, "resnet50": 320}[name]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "count"), [("resnet18", 20), ("resnet34", 36), ("resnet50", 53)])
def test_convolutions_start_normal_with_the_fan_out_standard_deviation(name, count, channels):
    convolutions = {key: m for key, m in build(name, channels).named_modules() if isinstance(m, nn.Conv2d)}
    assert len(convolutions) == count
    for key, conv in convolutions.items():
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        expected, size = math.sqrt(2 / fan_out), conv.weight.numel()
        error = 5 / math.sqrt(size)  # 5 standard errors of the mean; those of the deviation are smaller
        assert conv.weight.std().item() == pytest.approx(expected, rel=error), key
        assert abs(conv.weight.mean().item()) < error * expected, key
        assert conv.weight.abs().max() > 2.5 * expected, key  # a uniform distribution ends at 1.73


@pytest.mark.parametrize(("name", "count"), [("resnet18", 20), ("resnet34", 36), ("resnet50", 53)])
def test_batch_normalisation_starts_near_one_and_without_bias(name, count):
    norms = [m for m in build(name).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == count
    weights = torch.cat([m.weight.detach() for m in norms])  # 4800 and more
    assert weights.mean().item() == pytest.approx(1, abs=0.0015)
    assert weights.std().item() == pytest.approx(0.02, rel=0.06)
    assert all((m.bias == 0).all() for m in norms)


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).float()


def features_with_rounding(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What bfloat16 has to cost: inputs and outputs of all convolutions and normalisations rounded to it, computed in
    float32."""
    hooks = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            hooks += [module.register_forward_pre_hook(lambda _, given: (rounded(given[0]),)),
                      module.register_forward_hook(lambda _, given, out: rounded(out))]
    features = net(x).detach()
    for hook in hooks:
        hook.remove()
    return features


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 257, 38), (1, 257, 58), (3, 64, 64)])
@pytest.mark.parametrize("name", RESNETS)
def test_bfloat16_costs_no_more_than_its_rounding_at_the_least_input_sizes(name, channels, height, width):
    """oneDNN's bfloat16 convolutions give garbage on narrower maps (torch 2.11), see main_CD.py."""
    net = build(name, channels).to(memory_format=torch.channels_last)
    x = torch.randn(8, channels, height, width)
    expected = net(x).detach()
    error = far(features_with_rounding(net, x), expected)
    assert error > 0
    for _ in range(3):  # freed NaNs are what a kernel that reads beyond its input would find
        poison = [torch.full((2**k,), float("nan")) for k in range(8, 24)]
        del poison
        with torch.autocast("cpu", torch.bfloat16):
            features = net(x).detach()
        assert far(features, expected) < 1.3 * error
