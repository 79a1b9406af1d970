"""Front ends against scipy, librosa and torchvision."""

import librosa
import numpy as np
import pytest
import torch
from scipy.signal import get_window, spectrogram
from torchvision.transforms import v2

from dataset.frontends import NormaliseFrames, OgmGeSpectrogram, Spectrogram, tukey_window


def noise(samples: int, level: float = 0.1, seed: int = 0) -> np.ndarray:
    """Noise and a tone, float32."""
    tone = np.sin(np.arange(samples) * 0.2)
    return (level * (np.random.default_rng(seed).standard_normal(samples) + tone)).astype(np.float32)


def by_scipy(wave: np.ndarray) -> np.ndarray:
    """The release's front end, in float64."""
    power = spectrogram(np.clip(wave.astype(np.float64), -1, 1), 16000, nperseg=512, noverlap=353)[2]
    log = np.log(power + 1e-7)
    return (log - log.mean()) / (log.std() + 1e-9)


def silence_then_noise() -> np.ndarray:
    return np.concatenate([np.zeros(8000, np.float32), noise(8000)])


@pytest.mark.parametrize("wave", [noise(3200), noise(3200, 1e-4), noise(16000, 2.0), silence_then_noise(),
                                  noise(3200) + np.float32(0.3)],
                         ids=["noise", "faint", "over full scale", "half silent", "with an offset"])
def test_spectrogram_equals_scipys_within_1e_5_of_its_standard_deviation(wave):
    found = Spectrogram()(torch.from_numpy(wave)[None])
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[0, 0].numpy(), by_scipy(wave), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("samples", [512, 670, 671, 48000])
def test_spectrogram_has_the_shape_of_scipys(samples):
    wave = noise(samples)
    columns = spectrogram(wave, 16000, nperseg=512, noverlap=353)[2].shape
    assert tuple(Spectrogram()(torch.from_numpy(wave)[None]).shape) == (1, 1, *columns)
    assert samples != 48000 or columns == (257, 299)


def test_each_clip_of_a_batch_is_normalised_on_its_own():
    waves = torch.from_numpy(np.stack([noise(2000, 0.5), noise(2000, 1e-3, seed=1), np.zeros(2000, np.float32)]))
    batch = Spectrogram()(waves)
    for wave, found in zip(waves, batch, strict=True):
        torch.testing.assert_close(found, Spectrogram()(wave[None])[0])
    torch.testing.assert_close(batch[:2].mean((1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(batch[:2].std((1, 2, 3), correction=0), torch.ones(2))


@pytest.mark.parametrize("front_end", [Spectrogram, OgmGeSpectrogram])
def test_sound_is_clipped_to_full_scale(front_end):
    loud = torch.from_numpy(noise(3000, 3.0))[None]
    assert torch.equal(front_end()(loud), front_end()(loud.clamp(-1, 1)))
    assert not torch.equal(front_end()(loud), front_end()(loud.clamp(-2, 2) / 2))


def test_silence_gives_zeros():
    assert (Spectrogram()(torch.zeros(2, 3200)) == 0).all()


@pytest.mark.parametrize("level", [-1 / 32768, 1.0])
def test_a_constant_that_float32_averages_exactly_gives_zeros(level):
    assert (Spectrogram()(torch.full((1, 3200), level)) == 0).all()


@pytest.mark.parametrize("level", [0.1, 0.3])
def test_any_constant_gives_zeros(level):
    assert Spectrogram()(torch.full((1, 3200), level)).abs().max() < 1e-3


@pytest.mark.parametrize("front_end", [Spectrogram, OgmGeSpectrogram])
def test_bfloat16_autocast_changes_nothing_and_checkpoints_hold_no_window(front_end):
    wave = torch.from_numpy(noise(3000))[None]
    with torch.autocast("cpu", torch.bfloat16):
        inside = front_end()(wave)
    assert torch.equal(inside, front_end()(wave)) and not front_end().state_dict()


@pytest.mark.parametrize("length, alpha", [(512, 0.25), (400, 0.5), (63, 0.3)])
def test_window_equals_scipys(length, alpha):
    np.testing.assert_allclose(tukey_window(length, alpha).numpy(), get_window(("tukey", alpha), length), atol=1e-12)


@pytest.mark.parametrize("samples", [22050 * 3, 4000])
def test_ogm_ge_spectrogram_equals_librosas(samples):
    half_silent = noise(samples, seed=1)
    half_silent[:samples // 2] = 0
    waves = np.stack([noise(samples), half_silent])
    found = OgmGeSpectrogram()(torch.from_numpy(waves))
    assert found.dtype == torch.float32 and found.shape[:3] == (2, 1, 257)
    assert samples == 4000 or found.shape[3] == 188
    for wave, one in zip(waves, found, strict=True):
        magnitude = np.abs(librosa.stft(wave.astype(np.float64), n_fft=512, hop_length=353))
        np.testing.assert_allclose(one[0].numpy(), np.log(magnitude + 1e-7), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("frames", [1, 3])
def test_normalised_frames_equal_torchvisions(frames):
    images = torch.randint(0, 256, (2, frames, 3, 20, 24), dtype=torch.uint8)
    other = v2.Compose([v2.ToDtype(torch.float32, scale=True),
                        v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))])
    found = NormaliseFrames()(images)
    assert found.shape == (2, 3, frames, 20, 24) and found.dtype == torch.float32
    for b in range(2):
        for t in range(frames):
            torch.testing.assert_close(found[b, :, t], other(images[b, t]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 3])
def test_normalised_frames_flatten_to_channels_last_images_without_a_copy(frames):
    found = NormaliseFrames()(torch.randint(0, 256, (2, frames, 3, 20, 24), dtype=torch.uint8))
    images = found.transpose(1, 2).flatten(0, 1)
    assert images.data_ptr() == found.data_ptr() and images.is_contiguous(memory_format=torch.channels_last)
