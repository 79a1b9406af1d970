"""Front ends: they turn a batch of the data loader into network input, on the device.

Shapes: B clips, N samples, T frames, S pixels per side. Statistics are computed in float32 whatever the precision of
the network.
"""

import torch
from torch import Tensor, nn

from dataset.streams import STILL

FLOOR = 1e-7  # added to power (the paper's front end) or magnitude (OGM-GE's) before the logarithm
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Spectrogram(nn.Module):
    """The paper's: log of `scipy.signal.spectrogram(x, 16000, nperseg=512, noverlap=353)`, mean 0 and std 1 per clip.

    waveform (B, N) -> (B, 1, 257, (N - 353) // 159); 3 s give 299 columns. scipy's defaults: Tukey(0.25) window, the
    mean of each segment removed, density scaling, one-sided.
    """

    sample_rate = 16000
    segment, hop = 512, 512 - 353

    def __init__(self):
        super().__init__()
        window = tukey_window(self.segment, 0.25).float()
        one_sided = torch.full((self.segment // 2 + 1,), 2.0)
        one_sided[0] = one_sided[-1] = 1.0
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("density", one_sided / (self.sample_rate * window.square().sum()), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        waveform = waveform.clamp(-1, 1)
        # this shift, removed again with the segments' means, makes constant sound exactly silent
        segments = (waveform - waveform[:, :1]).unfold(-1, self.segment, self.hop)  # (B, columns, 512)
        segments = (segments - segments.mean(-1, keepdim=True)) * self.window
        power = torch.view_as_real(torch.fft.rfft(segments)).square().sum(-1) * self.density  # (B, columns, 257)
        # log(power + FLOOR) up to a constant, which the mean removes: silence is exactly 0, not rounding noise / 1e-9
        spectrogram = torch.log1p(power / FLOOR).transpose(1, 2)
        std, mean = torch.std_mean(spectrogram, dim=(1, 2), keepdim=True, correction=0)
        return ((spectrogram - mean) / (std + 1e-9)).unsqueeze(1)


class OgmGeSpectrogram(nn.Module):
    """OGM-GE's: log(|librosa.stft(y, n_fft=512, hop_length=353)| + 1e-7) at 22,050 Hz, not normalised.

    waveform (B, N) -> (B, 1, 257, 1 + N // 353); 3 s give 188 columns. The edges are padded with zeros, as librosa
    does from 0.9 on.
    """

    sample_rate = 22050

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(512), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(waveform.clamp(-1, 1), n_fft=512, hop_length=353, window=self.window, center=True,
                              pad_mode="constant", return_complex=True)
        return torch.log(spectrum.abs() + FLOOR).unsqueeze(1)


class NormaliseFrames(nn.Module):
    """frames (B, T, 3, S, S) uint8 -> (B, 3, T, S, S) float32 with ImageNet's mean and standard deviation removed.

    The memory layout is channels_last over B * T images, so that the network's first convolution copies nothing.
    """

    def __init__(self):
        super().__init__()
        # (x / 255 - mean) / std as one multiplication and one addition
        self.register_buffer("scale", 1 / (255 * torch.tensor(IMAGENET_STD)).view(3, 1, 1), persistent=False)
        shift = -(torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD)).view(3, 1, 1)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        images = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        images = torch.addcmul(self.shift, images.float(), self.scale)  # (B * T, 3, S, S)
        return images.unflatten(0, frames.shape[:2]).transpose(1, 2)


class NormaliseDifference(NormaliseFrames):
    """Differences of frames (B, T, 3, S, S) int16 -> (B, 3, T, S, S) float32, divided by ImageNet's standard deviation.

    It is the difference of two frames that NormaliseFrames has normalised: no change is 0.
    """

    def __init__(self):
        super().__init__()
        self.shift.zero_()


class NormaliseFlow(nn.Module):
    """Stacked optical flow (B, 2 K, S, S) uint8 -> (B, 2 K, S, S) float32 from -1 to 1, which is -20 to 20 pixels from
    one frame to the next. No motion is 0."""

    def forward(self, flow: Tensor) -> Tensor:
        values = flow.contiguous(memory_format=torch.channels_last).float()  # (B, 2 K, S, S), moved while it is small
        return values.sub_(STILL).div_(STILL)


AUDIO_FRONTENDS = {"mmcosine": Spectrogram, "ogm_ge": OgmGeSpectrogram}


def tukey_window(length: int, alpha: float) -> Tensor:
    """scipy's periodic Tukey window, float64: flat, with cosine tapers over `alpha / 2` of the length at either end."""
    place = torch.arange(length, dtype=torch.float64)
    taper = alpha * length / 2
    rising = 0.5 * (1 - torch.cos(torch.pi * place / taper))
    falling = 0.5 * (1 - torch.cos(torch.pi * (length - place) / taper))
    ones = torch.ones_like(place)
    return torch.where(place < taper, rising, torch.where(place > length - taper, falling, ones))
