"""The audio encoder of speaker verification: a 34-layer SE-ResNet on a mel spectrogram, with self-attentive pooling.

B clips, N samples, T frames of 10 ms, F mel bins (40, then 20, 10, 5 down the stages), K channels.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

SAMPLE_RATE = 16000  # Hz
MEL_BINS = 40
HOP = 160  # samples between two frames: 10 ms
BLOCKS, CHANNELS = (3, 4, 6, 3), (32, 64, 128, 256)


class LogMel(nn.Module):
    """waveform (B, N) at 16 kHz -> (B, 1, 40, 1 + N // 160): pre-emphasis, mel, log, mean 0 and variance 1 per bin.

    Takes no gradient, and is computed in float32 whatever the precision of the network after it.
    """

    def __init__(self):
        super().__init__()
        try:
            import torchaudio  # here: the package needs it for this encoder alone
        except ModuleNotFoundError as error:
            if error.name != "torchaudio":
                raise
            raise ModuleNotFoundError("the encoder of the voice (SpeakerClassifier, se_resnet34) needs torchaudio for "
                                      "its mel spectrogram: pip install torchaudio", name="torchaudio") from None

        self.mel = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, n_fft=512, win_length=400, hop_length=HOP,
                                                        n_mels=MEL_BINS, window_fn=torch.hamming_window)
        self.normalise = nn.InstanceNorm1d(MEL_BINS)

    def forward(self, waveform: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(waveform.device.type, enabled=False):
            mel = self.mel(emphasise(waveform.float()))  # (B, F, T)
            return self.normalise((mel + 1e-6).log()).unsqueeze(1)


def emphasise(waveform: Tensor, coefficient: float = 0.97) -> Tensor:
    """Pre-emphasis (B, N) -> (B, N): x[n] - 0.97 x[n-1], with the reflected sample x[1] before the first."""
    before = torch.cat([waveform[:, 1:2], waveform[:, :-1]], dim=1)
    return waveform - coefficient * before


class SEBasicBlock(nn.Module):
    """conv-ReLU-BN-conv-BN, squeeze-and-excitation (reduction 8), shortcut, ReLU: (B, K, F, T) -> (B, K', F', T')."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcitation(channels)
        self.downsample = nn.Identity()
        if stride > 1 or in_channels != channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False),
                                            nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.relu(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return self.relu(y + self.downsample(x))


class SqueezeExcitation(nn.Module):
    """Weighs each channel by a gate made of all channels' means (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, reduction: int = 8):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, channels // reduction), nn.ReLU(inplace=True),
                                nn.Linear(channels // reduction, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class SelfAttentivePooling(nn.Module):
    """(B, K, T) -> (B, K): the mean over time, weighted for each channel by attention."""

    def __init__(self, channels: int, hidden: int = 128):
        super().__init__()
        self.attention = nn.Sequential(nn.Conv1d(channels, hidden, kernel_size=1), nn.ReLU(), nn.BatchNorm1d(hidden),
                                       nn.Conv1d(hidden, channels, kernel_size=1), nn.Softmax(dim=2))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.attention(x)).sum(2)


class SEResNet34(nn.Module):
    """waveform (B, N) at 16 kHz -> features (B, 512). 6,389,324 parameters."""

    # Parts in released checkpoints -> here; None: constants that are not needed (the pre-emphasis).
    other_names: ClassVar = {"layer1.": "stages.0.", "layer2.": "stages.1.", "layer3.": "stages.2.",
                             "layer4.": "stages.3.", "attention.": "pooling.attention.", "torchfb.0.": None,
                             "torchfb.1.": "mel.mel."}

    def __init__(self):
        super().__init__()
        self.mel = LogMel()
        self.conv1 = nn.Conv2d(1, CHANNELS[0], kernel_size=3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        stages, before = [], CHANNELS[0]
        for stage, (blocks, channels) in enumerate(zip(BLOCKS, CHANNELS, strict=True)):
            strides = [2 if stage else 1] + [1] * (blocks - 1)
            stages.append(nn.Sequential(*(SEBasicBlock(before if i == 0 else channels, channels, stride)
                                          for i, stride in enumerate(strides))))
            before = channels
        self.stages = nn.Sequential(*stages)
        pooled = CHANNELS[-1] * (MEL_BINS // 8)
        self.pooling = SelfAttentivePooling(pooled)
        self.fc = nn.Linear(pooled, 512)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, waveform: Tensor) -> Tensor:
        x = self.bn1(self.relu(self.conv1(self.mel(waveform))))
        x = self.stages(x)  # (B, 256, 5, T)
        return self.fc(self.pooling(x.flatten(1, 2)))
