"""Small networks in place of the ResNets, for tests of what surrounds them: a run takes a tenth of the time.

B clips, T frames, K channels, N samples.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

from models import MultimodalClassifier
from models.encoders import ENCODERS

WINDOW, STEP = 400, 40  # samples


class TinyImages(nn.Module):
    """Images (B, K, H, W) or clips (B, K, T, H, W) -> features (B, 512)."""

    def __init__(self, in_channels: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 8, 5, stride=5, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.projection = nn.Linear(16, 512)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 5:
            return torch.stack([self(frame) for frame in x.unbind(2)]).mean(0)
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return self.projection(x.mean((2, 3)))


class TinyImages34(TinyImages):
    """The same with other first weights and another name, by which tests see that it was chosen."""

    def __init__(self, in_channels: int = 3):
        torch.rand(1)
        super().__init__(in_channels)


class TinyImages50(TinyImages34):
    """The same by a third name."""

    def __init__(self, in_channels: int = 3):
        torch.rand(1)
        super().__init__(in_channels)


class TinyVoice(nn.Module):
    """Waveforms (B, N) -> features (B, 512)."""

    def __init__(self):
        super().__init__()
        self.images = TinyImages(1)

    def forward(self, x: Tensor) -> Tensor:
        spectra = torch.fft.rfft(x.float().unfold(1, WINDOW, STEP)).abs()  # (B, windows, frequencies)
        return self.images((spectra + 1e-3).log()[:, None])


class TinyAVClassifier(MultimodalClassifier):
    """AVClassifier with them."""

    def __init__(self, num_classes: int, fusion: str = "concat", mmcosine: bool = False, scaling: float = 10.0,
                 modalities: Sequence[str] = ("audio", "visual")):
        channels = {"audio": 1, "visual": 3}
        encoders = {name: TinyImages(channels[name]) for name in modalities}
        super().__init__(encoders, num_classes, fusion, mmcosine, scaling)


class TinySpeakerClassifier(MultimodalClassifier):
    """SpeakerClassifier with them."""

    def __init__(self, num_classes: int, fusion: str = "concat", mmcosine: bool = False, scaling: float = 10.0,
                 modalities: Sequence[str] = ("audio", "visual")):
        kinds = {"audio": TinyVoice, "visual": TinyImages34}
        super().__init__({name: kinds[name]() for name in modalities}, num_classes, fusion, mmcosine, scaling)


TINY = {"resnet18": TinyImages, "resnet34": TinyImages34, "resnet50": TinyImages50, "se_resnet34": TinyVoice}


@contextmanager
def tiny() -> Iterator[None]:
    with patch.dict(ENCODERS, TINY):
        yield


@contextmanager
def real() -> Iterator[None]:
    """The ResNets again, inside `tiny`."""
    with patch.dict(ENCODERS, REAL):
        yield


REAL = dict(ENCODERS)
