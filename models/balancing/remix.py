"""Data Remixing (Ma, Chen, Deng: Improving Multimodal Learning Balance and Sufficiency through Data
Remixing, ICML 2025, arXiv 2506.11550). M modalities, B clips, C classes.

With F the joint logits and F_m those of modality m, the first `remix_warmup` epochs (10) train all
modalities at once by

    cross-entropy(F, y) + remix_uni * sum_m cross-entropy(F_m, y)       remix_uni: 0.5

Before every epoch after them each training clip is given to the modality that is least certain of
it: the m with the smallest Kullback-Leibler divergence KL(softmax F_m || uniform), by the network in
evaluation mode. Then each batch holds clips of one modality m, whose other inputs are zero, and
descends

    cross-entropy(F, y) + cross-entropy(F_m, y)

An encoder whose input is zero is in evaluation mode then, so that BatchNorm's statistics stay those
of real inputs; this is ours.

Any M: the other inputs are zero together. With MMCosine too. Defined for --fusion_method concat and
sum, whose F_m depends on modality m alone. A batch of one modality has nothing to contrast: --lam is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from . import distributed
from .method import Batch, Clips, Flag, Learner, Method, Number

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier


class Remix(Method):
    title = "data remixing: each clip trains the modality that is less certain of it"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("remix_warmup", Number(int, 1), 10, "first epochs, in which remix trains all modalities at once"),
        Flag("remix_uni", Number(float, 0), 0.5, "weight of remix's uni-modal losses in these epochs"))
    fusions: ClassVar[tuple[str, ...]] = ("concat", "sum")
    without: ClassVar[Mapping[str, str]] = {"lam": "its batches have one modality, with nothing to contrast"}
    needs_training_clips = True

    def __init__(self, model: MultimodalClassifier, remix_warmup: int, remix_uni: float):
        super().__init__(model)
        self.warmup, self.uni = remix_warmup, remix_uni
        self.part: int | None = None  # number of the modality whose part of the clips this batch is, None: all

    @classmethod
    def check(cls, epochs: int, *, remix_warmup: int, **settings: object) -> None:
        if remix_warmup >= epochs:
            raise ValueError(f"--remix_warmup {remix_warmup} is not less than the {epochs} epochs of the run: remix "
                             "would give no clip to a modality")

    @torch.no_grad()
    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        self.groups = None
        if epoch <= self.warmup:
            return
        parts = {}
        for number, (output, _) in enumerate(learner.outputs(clips.trained)):
            place = number * distributed.size() + distributed.rank()  # of this batch among those of all processes
            parts[place] = certainty(output.modality_logits).argmin(0).tolist()
        self.groups = [m for part in distributed.merged(parts).values() for m in part]
        counts = torch.bincount(torch.tensor(self.groups), minlength=len(learner.model.modalities))
        self.note(share=counts.to(output.logits.device) / len(self.groups))

    def step(self, learner: Learner, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        if self.groups is not None and batch.group is None:
            raise ValueError("batches of remix have clips of one modality after its first epochs: Batch.group is its "
                             "number in Method.groups")
        self.part = batch.group
        names = learner.model.modalities
        for m, name in enumerate(names):
            learner.model.encoder(name).train(self.part in (None, m))
        if self.part is not None:
            batch = batch._replace(inputs=[x if m == self.part else torch.zeros_like(x)
                                           for m, x in enumerate(batch.inputs)])
        return learner.plain_step(batch)

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        if self.part is not None:
            return loss + F.cross_entropy(output.modality_logits[self.part], labels)
        return loss + self.uni * sum(F.cross_entropy(logits, labels) for logits in output.modality_logits)


def certainty(logits: Tensor) -> Tensor:
    """(..., C) -> (...): KL(softmax || uniform) in nats."""
    log = logits.log_softmax(-1)
    return (log.exp() * log).sum(-1) + math.log(logits.shape[-1])
