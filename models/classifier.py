"""The multimodal classifier: encoders -> fusion -> modality logits -> their sum.

M modalities, B clips, D features, C classes. The joint logits are always the sum of the modality logits, plain or
MMCosine: that one line is what everything else stands on.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .encoders import ResNet18, ResNet34
from .fusion import FUSIONS
from .mmcosine import mmcosine_logits
from .speaker import SEResNet34


class ClassifierOutput(NamedTuple):
    """What a forward pass returns; the loss and every metric are taken from these logits, and from no others."""

    logits: Tensor  # (B, C) joint
    modality_logits: Tensor  # (M, B, C), sums to logits
    fused: Tensor  # (M, B, D) features after fusion
    features: Tensor  # (M, B, D) features as the encoders give them


class MultimodalClassifier(nn.Module):
    """Any number of named encoders, each giving (B, dim), under one fusion and one classifier.

    encoders: {modality: module}, in the order of the arguments of `forward`; state-dict keys `<modality>_net.*`.
    fusion: a name in FUSIONS. mmcosine: cosine logits with the fixed scale `scaling` instead of the plain linear ones.
    Raises ValueError for an unknown fusion, a scaling that is not positive and finite, film or gated with one modality.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], num_classes: int, fusion: str = "concat",
                 mmcosine: bool = False, scaling: float = 10.0, dim: int = 512):
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion {fusion!r} is not one of {', '.join(FUSIONS)}")
        if not 0 < scaling < math.inf:
            raise ValueError(f"scaling must be positive and finite, got {scaling}")
        self.modalities = tuple(encoders)
        self.mmcosine, self.scaling = mmcosine, scaling
        for name, encoder in encoders.items():
            self.add_module(f"{name}_net", encoder)
        self.fusion_module = FUSIONS[fusion](len(encoders), dim, num_classes)
        for layer in self.fusion_module.head():
            layer.bias.requires_grad_(not mmcosine)  # unused under cosine, kept for checkpoint compatibility

    def encoder(self, modality: str) -> nn.Module:
        return self.get_submodule(f"{modality}_net")

    def forward(self, *inputs: Tensor) -> ClassifierOutput:
        encoded = [self.encoder(name)(x) for name, x in zip(self.modalities, inputs, strict=True)]
        return self.classify(torch.stack(encoded))

    def classify(self, features: Tensor) -> ClassifierOutput:
        """What fusion and classifier make of features (M, B, D)."""
        fused = self.fusion_module(features)
        modality_logits = self.modality_logits(fused)
        return ClassifierOutput(modality_logits.sum(0), modality_logits, fused, features)

    def modality_logits(self, fused: Tensor) -> Tensor:
        """(M, B, D) -> (M, B, C), in float32 at least for both heads: comparing them compares the methods alone."""
        weight, bias = self.fusion_module.class_weights()
        if self.mmcosine:
            return mmcosine_logits(fused, weight, self.scaling)
        dtype = torch.promote_types(torch.promote_types(fused.dtype, weight.dtype), torch.float32)
        with torch.autocast(fused.device.type, enabled=False):
            return torch.baddbmm(bias.unsqueeze(1).to(dtype), fused.to(dtype), weight.mT.to(dtype))

    def class_weights(self) -> Tensor:
        """The class weights of each modality, (M, C, D)."""
        return self.fusion_module.class_weights()[0]


class AVClassifier(MultimodalClassifier):
    """The paper's network: spectrogram (B, 1, F, T') and frames (B, 3, T, H, W), a ResNet-18 from scratch for each.

    `modalities=("audio",)` or `("visual",)` is the uni-modal baseline; `forward` then takes that one input.
    """

    def __init__(self, num_classes: int, fusion: str = "concat", mmcosine: bool = False, scaling: float = 10.0,
                 modalities: Sequence[str] = ("audio", "visual")):
        channels = {"audio": 1, "visual": 3}
        encoders = {name: ResNet18(channels[name]) for name in modalities}
        super().__init__(encoders, num_classes, fusion, mmcosine, scaling)


class SpeakerClassifier(MultimodalClassifier):
    """The paper's network of VoxCeleb: waveform (B, N) at 16 kHz and faces (B, 3, T, H, W) of C identities.

    A 34-layer SE-ResNet for the voice, a ResNet-34 for the face, both from scratch.
    """

    def __init__(self, num_classes: int, fusion: str = "concat", mmcosine: bool = False, scaling: float = 10.0,
                 modalities: Sequence[str] = ("audio", "visual")):
        kinds = {"audio": SEResNet34, "visual": ResNet34}
        super().__init__({name: kinds[name]() for name in modalities}, num_classes, fusion, mmcosine, scaling)
