"""The encoders: each gives features (B, 512) of one modality, from scratch. ENCODERS names them.

B clips, T frames, K channels. The ResNets are torchvision's networks, with its state-dict keys, without `fc`.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from .speaker import SEResNet34


class FrameResNet(ResNet):
    """Images (B, K, H, W), or clips of T frames (B, K, T, H, W), of K channels -> features (B, 512).

    The frames of a clip go through the 2-D network one by one; features are the mean over T, H and W. A network of
    Bottleneck blocks has 2048 features: `projection` makes them 512.
    block, blocks: the kind of block, and how many of each of the four stages.
    """

    def __init__(self, block: type[BasicBlock | Bottleneck], blocks: list[int], in_channels: int):
        super().__init__(block, blocks)
        self.projection = nn.Identity() if block.expansion == 1 else nn.Linear(512 * block.expansion, 512)
        self.fc = nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return self.projection(super().forward(x))
        frames = x.transpose(1, 2)  # (B, T, K, H, W)
        return self.forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(1)


class ResNet18(FrameResNet):
    def __init__(self, in_channels: int = 3):
        super().__init__(BasicBlock, [2, 2, 2, 2], in_channels)


class ResNet34(FrameResNet):
    def __init__(self, in_channels: int = 3):
        super().__init__(BasicBlock, [3, 4, 6, 3], in_channels)


class ResNet50(FrameResNet):
    def __init__(self, in_channels: int = 3):
        super().__init__(Bottleneck, [3, 4, 6, 3], in_channels)


def initialise(module: nn.Module) -> None:
    """The release's: convolutions kaiming_normal (fan_out, relu), BatchNorm weight N(1, 0.02) and bias 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


# Encoders of images and clips take `in_channels`, encoders of raw waveforms (B, N) take no arguments.
ENCODERS = {
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "se_resnet34": SEResNet34,
}


def make_encoders(choices: Mapping[str, tuple[str, int | None]]) -> dict[str, nn.Module]:
    """{modality: (name in ENCODERS, input channels; None for encoders of raw waveforms)} -> {modality: encoder}."""
    return {modality: ENCODERS[name]() if channels is None else ENCODERS[name](channels)
            for modality, (name, channels) in choices.items()}
