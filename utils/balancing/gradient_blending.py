"""Gradient-Blending (Wang, Tran, Feiszli: What Makes Training Multi-Modal Classification Networks Hard?, CVPR 2020,
arXiv 1905.12681), the offline variant.

Each modality has a linear head of its own on its encoder's features. The blended loss is sum_k w_k L_k over the joint
loss and those of the heads, with weights fixed before training by how much each of them, trained alone for some epochs,
generalises and overfits (k, T on clips trained on, V on held-out clips, 0 before and N after):

    w_k proportional to G_k / O_k^2,   G = L_V(0) - L_V(N),   O = (L_V(N) - L_T(N)) - (L_V(0) - L_T(0))

and summing to 1. What gains nothing on held-out clips gets weight 0. M modalities, B clips, C classes, D features.
"""

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset.errors import InputError
from models import ClassifierOutput, MultimodalClassifier
from utils.balancing.method import Method, Stateful, Trial
from utils.distributed import say

LEAST_OVERFITTING = 0.1  # nats, what a mean over some hundred clips can tell: less would get all the weight


class GradientBlending(Method):
    """blend_epochs: of each of the two trials that find the weights; they come on top of the run's own epochs."""

    uses: ClassVar[tuple[str, ...]] = ("blend_epochs",)

    def __init__(self, model: MultimodalClassifier, blend_epochs: int):
        super().__init__(model)
        modalities, classes, dim = model.class_weights().shape
        if modalities < 2:
            raise ValueError("Gradient-Blending blends the losses of modalities: it needs at least two")
        self.blend_epochs, self.modalities = blend_epochs, model.modalities
        self.heads = nn.ModuleList(nn.Linear(dim, classes) for _ in range(modalities))
        self.register_buffer("weights", torch.full((1 + modalities,), 1 / (1 + modalities)))

    def losses(self, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        """(1 + M,): the joint loss, and each head's."""
        with torch.autocast(labels.device.type, enabled=False):
            heads = [F.cross_entropy(head(x.float()), labels)
                     for head, x in zip(self.heads, output.features, strict=True)]
        return torch.stack([loss, *heads])

    def loss(self, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        return (self.weights * self.losses(output, labels, loss)).sum()

    def prepare(self, learner: Stateful, trial: Trial) -> None:
        """Finds the weights. The heads do not touch each other's encoders, so one trial serves all modalities.

        trial(epochs, losses): trains `learner` so long -> means of `losses` over clips trained on and held out.
        Raises InputError when they are not finite.
        """
        before = copy.deepcopy(learner.state_dict())
        found = []
        for alone in (torch.eye(1 + len(self.modalities))[0], torch.tensor([0.0] + [1.0] * len(self.modalities))):
            self.weights.copy_(alone)
            ends = [torch.stack(trial(epochs, self.losses)) for epochs in (0, self.blend_epochs)]  # (2, 1 + M) each
            found.append(blend(*ends))
            learner.load_state_dict(before)
        weights = torch.cat([found[0][:1], found[1][1:]])
        if not weights.isfinite().all():
            raise InputError("a loss is not finite in the trials of Gradient-Blending: try a lower --learning_rate")
        weights = weights if weights.any() else torch.ones_like(weights)  # nothing gained: nothing to tell them apart
        self.weights.copy_(weights / weights.sum())
        named = zip(("joint", *self.modalities), self.weights.tolist(), strict=True)
        say("Gradient-Blending weights: " + ", ".join(f"{name} {weight:.3f}" for name, weight in named))


def blend(start: Tensor, end: Tensor) -> Tensor:
    """Losses (2, K) of clips trained on and held out, before and after -> unnormalised weights (K,)."""
    gain = (start[1] - end[1]).clamp(min=0)
    overfitting = (end[1] - end[0]) - (start[1] - start[0])
    return gain / overfitting.clamp(min=LEAST_OVERFITTING).square()
