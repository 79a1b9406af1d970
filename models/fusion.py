"""Fusions: the features of M modalities (M, B, D) -> fused features (M, B, D), still one per modality.

A fusion also owns the classifier's weights, so that state-dict keys are those of the released checkpoints: fc_x
(audio), fc_y (visual), fc_out. B clips, D features, C classes.
"""

import torch
from torch import Tensor, nn

LETTERS = "xyzuvw"  # fc_x and fc_y are the release's names, the others continue them


class Fusion(nn.Module):
    """What all fusions share: layers named fc_x, fc_y, ... and a head, the linear layers that score the classes."""

    least_modalities = 1

    def __init__(self, modalities: int, dim: int, num_classes: int):
        super().__init__()
        if not self.least_modalities <= modalities <= len(LETTERS):
            raise ValueError(f"{type(self).__name__} takes {self.least_modalities} to {len(LETTERS)} modalities, "
                             f"got {modalities}")
        self.modalities, self.dim = modalities, dim

    def add_layer_per_modality(self, out_features: int) -> None:
        for letter in LETTERS[:self.modalities]:
            self.add_module(f"fc_{letter}", nn.Linear(self.dim, out_features))

    def layer_per_modality(self) -> list[nn.Linear]:
        return [self.get_submodule(f"fc_{letter}") for letter in LETTERS[:self.modalities]]

    def head(self) -> list[nn.Linear]:
        """One Linear(M * D, C), or a Linear(D, C) per modality."""
        return [self.fc_out]

    def class_weights(self) -> tuple[Tensor, Tensor]:
        """Weight (M, C, D) and bias (M, C) of each modality: a bias the modalities share is divided among them."""
        head = self.head()
        weight = torch.cat([layer.weight for layer in head], dim=1)  # (C, M * D)
        bias = torch.stack([layer.bias for layer in head]) * (len(head) / self.modalities)  # (M or 1, C)
        weight = weight.unflatten(1, (self.modalities, self.dim)).transpose(0, 1)
        return weight, bias.expand(self.modalities, -1)

    def project(self, features: Tensor) -> Tensor:
        """Each modality through its own layer: (M, B, D) -> (M, B, out)."""
        return torch.stack([layer(x) for layer, x in zip(self.layer_per_modality(), features, strict=True)])


class SumFusion(Fusion):
    """Features as they are; one Linear(D, C) per modality with its own bias, added. The function class of concat."""

    def __init__(self, modalities: int, dim: int, num_classes: int):
        super().__init__(modalities, dim, num_classes)
        self.add_layer_per_modality(num_classes)

    def head(self) -> list[nn.Linear]:
        return self.layer_per_modality()

    def forward(self, features: Tensor) -> Tensor:
        return features


class ConcatFusion(Fusion):
    """Features as they are; one Linear(M * D, C) on their concatenation."""

    def __init__(self, modalities: int, dim: int, num_classes: int):
        super().__init__(modalities, dim, num_classes)
        self.fc_out = nn.Linear(modalities * dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return features


class FiLMFusion(ConcatFusion):
    """Symmetric FiLM (after Perez et al., AAAI 2018): (gamma_m, beta_m) = Linear(f_m); h_a = gamma_v * f_a + beta_v.

    With M > 2 gamma and beta are the means of the other modalities'.
    """

    least_modalities = 2

    def __init__(self, modalities: int, dim: int, num_classes: int):
        super().__init__(modalities, dim, num_classes)
        self.add_layer_per_modality(2 * dim)

    def forward(self, features: Tensor) -> Tensor:
        gamma, beta = mean_of_others(self.project(features)).chunk(2, dim=-1)  # (M, B, D) each
        return gamma * features + beta


class GatedFusion(ConcatFusion):
    """Symmetric gate (after Kiela et al., AAAI 2018): u_m = Linear(f_m); h_a = sigmoid(u_v) * u_a.

    With M > 2 the gate is the sigmoid of the mean of the other modalities' u.
    """

    least_modalities = 2

    def __init__(self, modalities: int, dim: int, num_classes: int):
        super().__init__(modalities, dim, num_classes)
        self.add_layer_per_modality(dim)

    def forward(self, features: Tensor) -> Tensor:
        projected = self.project(features)
        return torch.sigmoid(mean_of_others(projected)) * projected


FUSIONS = {
    "sum": SumFusion,
    "concat": ConcatFusion,
    "film": FiLMFusion,
    "gated": GatedFusion,
}


def mean_of_others(x: Tensor) -> Tensor:
    """(M, ...) -> (M, ...): for each modality the mean over the others. Exactly the other one for M = 2."""
    return torch.stack([x.roll(shift, 0) for shift in range(1, len(x))]).mean(0)
