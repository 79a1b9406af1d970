"""The audio encoder of VoxCeleb: its mel against librosa, its blocks against explicit sums, its size."""

import librosa
import numpy as np
import pytest
import torch
from torch import nn

from dataset.voxceleb import samples_of
from models import SpeakerClassifier
from models.speaker import LogMel, SEBasicBlock, SelfAttentivePooling, SEResNet34, SqueezeExcitation, emphasise


@pytest.fixture(scope="module")
def encoder() -> SEResNet34:
    torch.manual_seed(0)
    return SEResNet34().eval()


def wave(samples: int = 32240, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16000
    return (0.3 * np.sin(2 * np.pi * 440 * time * (1 + time)) + 0.05 * rng.normal(size=samples)).astype(np.float32)


def naive_log_mel(samples: np.ndarray) -> np.ndarray:
    """(40, frames) by librosa, in float64."""
    emphasised = np.array([samples[i] - 0.97 * (samples[i - 1] if i else samples[1]) for i in range(len(samples))])
    mel = librosa.feature.melspectrogram(
        y=emphasised, sr=16000, n_fft=512, hop_length=160, win_length=400, window="hamming", n_mels=40, htk=True,
        norm=None, power=2.0, center=True, pad_mode="reflect", fmin=0, fmax=8000)
    log = np.log(mel + 1e-6)
    return (log - log.mean(1, keepdims=True)) / np.sqrt(log.var(1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("samples", [32240, 64240, 5000])
def test_mel_equals_librosas(samples):
    found = LogMel()(torch.from_numpy(wave(samples))[None])
    assert found.shape == (1, 1, 40, 1 + samples // 160)
    assert found[0, 0].numpy() == pytest.approx(naive_log_mel(wave(samples).astype(np.float64)), abs=2e-3)


def test_mel_of_200_frames_has_202_columns_and_silence_is_zero():
    assert samples_of(200) == 32240 and samples_of(400) == 64240
    assert torch.allclose(LogMel()(torch.zeros(2, samples_of(200))), torch.zeros(2, 1, 40, 202), atol=1e-3)


def test_mel_is_float32_under_autocast_and_takes_no_gradient():
    samples = torch.from_numpy(wave())[None].requires_grad_()
    plain = LogMel()(samples)
    with torch.autocast("cpu", torch.bfloat16):
        found = LogMel()(samples)
    assert found.dtype == torch.float32 and torch.equal(found, plain) and not found.requires_grad


def test_emphasis_subtracts_the_sample_before():
    expected = torch.tensor([[1 - 0.97 * 2, 2 - 0.97, 4 - 1.94]])
    assert torch.allclose(emphasise(torch.tensor([[1.0, 2.0, 4.0]])), expected)


def test_squeeze_excitation_scales_each_channel_by_its_gate():
    torch.manual_seed(0)
    module, x = SqueezeExcitation(16), torch.randn(2, 16, 5, 7)
    first, second = module.fc[0], module.fc[2]
    assert first.out_features == 2
    for clip in range(2):
        means = torch.stack([x[clip, k].mean() for k in range(16)])
        gate = torch.sigmoid(second.weight @ torch.relu(first.weight @ means + first.bias) + second.bias)
        for k in range(16):
            assert torch.allclose(module(x)[clip, k], gate[k] * x[clip, k], atol=1e-6)


def test_block_is_convolution_relu_norm_twice_squeezed_and_added():
    torch.manual_seed(0)
    block, x = SEBasicBlock(8, 16, stride=2).eval(), torch.randn(2, 8, 6, 10)
    inner = block.bn2(block.conv2(block.bn1(torch.relu(block.conv1(x)))))
    expected = torch.relu(block.se(inner) + block.downsample[1](block.downsample[0](x)))
    assert block(x).shape == (2, 16, 3, 5) and torch.allclose(block(x), expected, atol=1e-6)
    assert isinstance(SEBasicBlock(8, 8, stride=1).downsample, nn.Identity)


def test_pooling_is_a_mean_over_time_with_weights_of_each_channel():
    torch.manual_seed(0)
    pooling, x = SelfAttentivePooling(6, hidden=4).eval(), torch.randn(3, 6, 9)
    scores = pooling.attention[3](pooling.attention[2](torch.relu(pooling.attention[0](x))))
    weights = scores.exp() / scores.exp().sum(2, keepdim=True)
    expected = torch.stack([(weights[:, :, t] * x[:, :, t]) for t in range(9)]).sum(0)
    assert torch.allclose(pooling(x), expected, atol=1e-6)


def test_convolutions_start_normal_with_the_fan_out_deviation_and_normalisation_at_one():
    torch.manual_seed(1)
    modules = list(SEResNet34().modules())
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 1 + 2 * (3 + 4 + 6 + 3) + 3
    for one in convolutions:
        expected = (2 / (one.out_channels * one.kernel_size[0] * one.kernel_size[1])) ** 0.5
        error = 5 / one.weight.numel() ** 0.5  # five standard errors of the mean
        assert one.weight.std().item() == pytest.approx(expected, rel=error)
        assert abs(one.weight.mean().item()) < error * expected
        assert one.weight.abs().max() > 2.5 * expected  # a uniform distribution ends at 1.73
    for one in modules:
        if isinstance(one, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (one.weight == 1).all() and (one.bias == 0).all()


def test_encoder_has_the_size_of_the_papers(encoder):
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 6_389_324


def test_encoder_takes_any_length_and_its_stages_have_the_shapes_of_the_paper(encoder):
    shapes = []
    hooks = [stage.register_forward_hook(lambda module, given, out: shapes.append(tuple(out.shape[1:3])))
             for stage in encoder.stages]
    for samples in (samples_of(33), samples_of(200)):
        assert encoder(torch.from_numpy(wave(samples))[None]).shape == (1, 512)
    for hook in hooks:
        hook.remove()
    assert shapes[:4] == [(32, 40), (64, 20), (128, 10), (256, 5)]


@pytest.mark.parametrize("frames", [33, 200])
def test_encoder_in_bfloat16_is_near_float32_at_the_least_length_too(encoder, frames):
    """Below some width oneDNN's bfloat16 convolutions give garbage (torch 2.11): --audio_frames starts above it."""
    samples = torch.from_numpy(np.stack([wave(samples_of(frames), seed) for seed in range(4)]))
    with torch.inference_mode():
        plain = encoder(samples)
        with torch.autocast("cpu", torch.bfloat16):
            cosines = torch.cosine_similarity(plain, encoder(samples).float())
    assert cosines.min() > 0.99


def test_classifier_learns_from_both_encoders_but_not_through_the_mel():
    torch.manual_seed(0)
    model = SpeakerClassifier(3, "gated", mmcosine=True)
    output = model(torch.from_numpy(np.stack([wave(samples_of(33), seed) for seed in range(2)])),
                   torch.randn(2, 3, 2, 64, 64))
    assert output.logits.shape == (2, 3) and output.modality_logits.shape == (2, 2, 3)
    nn.functional.cross_entropy(output.logits, torch.tensor([0, 2])).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == ["fusion_module.fc_out.bias"]
