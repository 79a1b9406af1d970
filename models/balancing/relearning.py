"""Diagnosing & Re-learning (Wei, Li, Feng, Hu: Diagnosing and Re-learning for Balanced Multimodal Learning, ECCV 2024,
arXiv 2407.09705). M modalities, N clips, C classes, D features.

Training on the joint loss alone, with encoders that are partly set back. After every `relearn_every` epochs, at most
`relearn_times` times, the features of each encoder are clustered by k-means, k = C, for the clips trained on and for
clips held out from them apart. The purity of a clustering is the share of the clips that have the most frequent class
of their cluster, and

    d_m = |purity_trained - purity_held_out|,   w_m = tanh(strength * d_m),   theta_m <- w_m theta_0 + (1 - w_m) theta_m

with theta_0 the weights that the encoder of m started from: the wider the gap, the more is learnt again. Fusion and
classifier are not set back. Defaults are those of the authors' code: strength 3 (`relearn_strength`), every 20 epochs,
three times, and no losses of the modalities. Another reading has multi-loss training (`--uni_weight 1`: models/
balancing/multiloss.py), twice, every 10 to 15 epochs. Parameters are set back, BatchNorm's statistics and the
optimizer's momentum are not; features are scaled to [-1, 1], each over the clips that are clustered together.

Any M, any fusion, with MMCosine too. Re-implementations take the test set as the held-out clips.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from . import distributed
from .heads import UniModalHeads
from .method import Clips, Flag, Learner, Method, MethodError, Number
from .multiloss import UNI_WEIGHT

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from ..classifier import ClassifierOutput, MultimodalClassifier

logger = logging.getLogger(__name__)


class Relearning(Method):
    title = "joint training with encoders that are partly set back where they overfit"
    flags: ClassVar[tuple[Flag, ...]] = (
        UNI_WEIGHT,
        Flag("relearn_every", Number(int, 1), 20, "epochs between two times that dnr sets encoders back; 20 in its "
             "authors' code"),
        Flag("relearn_times", Number(int, 1), 3, "how often dnr does so at most; 3 in its authors' code"),
        Flag("relearn_strength", Number(float, 0), 3.0, "factor of dnr's purity gap, 3 in the paper"))
    default_settings: ClassVar[Mapping[str, object]] = {"uni_weight": 0.0}
    needs_held_out = True

    def __init__(self, model: MultimodalClassifier, uni_weight: float, relearn_every: int, relearn_times: int,
                 relearn_strength: float):
        super().__init__(model)
        if find_spec("sklearn") is None:
            raise MethodError("dnr clusters features with scikit-learn, which is not installed: "
                              "pip install scikit-learn")
        self.uni_weight, self.heads = uni_weight, UniModalHeads(model) if uni_weight else None
        self.strength, self.epoch = relearn_strength, 0
        self.epochs = range(relearn_every, relearn_every * relearn_times + 1, relearn_every)
        initial = {name: copy.deepcopy(model.encoder(name)) for name in model.modalities}
        self.initial = nn.ModuleDict(initial).requires_grad_(False)  # theta_0

    @classmethod
    def check(cls, epochs: int, *, relearn_every: int, relearn_times: int, **others: object) -> None:
        times, rest = divmod(epochs, relearn_every)
        if not rest and times <= relearn_times:
            raise ValueError(f"--relearn_every {relearn_every} would set encoders back after the last of {epochs} "
                             "epochs: give more or fewer --epochs, or fewer --relearn_times")
        if relearn_every >= epochs:
            raise ValueError(f"--relearn_every {relearn_every} is not before the last of {epochs} epochs: nothing "
                             "would be learnt again")

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        self.epoch = epoch

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        if self.heads is None:
            return loss
        return loss + self.uni_weight * self.heads.losses(output.features, labels).sum()

    def end_epoch(self, learner: Learner, clips: Clips) -> None:
        if self.epoch not in self.epochs:
            return
        trained, held_out = (purities(learner, loader) for loader in (clips.trained, clips.held_out))
        weights = [float(np.tanh(self.strength * abs(a - b))) for a, b in zip(trained, held_out, strict=True)]
        self.note(share=torch.tensor(weights, device=next(learner.model.parameters()).device))
        for name, a, b, weight in zip(learner.model.modalities, trained, held_out, weights, strict=True):
            logger.info(f"the {name} encoder: purity {a:.3f} trained, {b:.3f} held out; set back by {weight:.3f}")
            set_back(learner.model.encoder(name), self.initial[name], weight)


@torch.no_grad()
def set_back(encoder: nn.Module, initial: nn.Module, weight: float) -> None:
    for now, start in zip(encoder.parameters(), initial.parameters(), strict=True):
        now.lerp_(start, weight)


@torch.no_grad()
def purities(learner: Learner, loader: DataLoader) -> list[float]:
    """The purity of each modality's clusters, the same in every process."""
    own = {(number, distributed.rank()): (output.features.float().cpu(), labels.cpu())
           for number, (output, labels) in enumerate(learner.outputs(loader))}
    batches = list(distributed.merged(own).values())  # in the order of the clips
    labels = torch.cat([labels for _, labels in batches]).numpy()
    features = torch.cat([features for features, _ in batches], dim=1)  # (M, N, D)
    classes = len(learner.model.class_weights()[0])
    return distributed.from_main([purity(one, labels, classes) for one in features] if distributed.is_main() else None)


def purity(features: Tensor, labels: np.ndarray, clusters: int) -> float:
    """(N, D), (N,) -> share of the clips of their cluster's most frequent class, in [0, 1]."""
    from sklearn.cluster import KMeans  # here: slow to import, and --help shall not wait for it

    low, high = features.amin(0), features.amax(0)
    scaled = 2 * (features - low) / (high - low).clamp(min=1e-12) - 1
    clusters = min(clusters, len(labels))
    places = KMeans(clusters, n_init=1, random_state=0).fit_predict(scaled.numpy())
    counts = np.zeros((clusters, labels.max() + 1))
    np.add.at(counts, (places, labels), 1)
    return float(counts.max(1).sum() / len(labels))
