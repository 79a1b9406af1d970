"""OPM, on-the-fly prediction modulation (Wei, Hu, Du, Wen: On-the-fly Modulation for Balanced Multimodal Learning,
TPAMI 2024). M modalities, B clips, D features.

With the scores s_m of `ogm`, and "others" the mean over the other modalities, the features of a modality in the lead
are dropped, clip by clip, with the probability

    rho_m = tanh(relu(s_m / s_others - 1))
    q_m = clip(q_base * (1 + lambda * rho_m), 0, 1)   where rho_m > 0, else 0

A dropped feature is a vector of zeros before fusion; what is kept of a batch is divided by 1 - theta, with theta the
mean of q_m over all feature numbers: over m, since all modalities have D. This is done to a batch with the probability
`opm_share`, after the first `opm_warmup` epochs (six), and not in evaluation. The paper leaves out clips that have lost
every modality; none can, because the modality with the lowest score has q_m = 0. q_base is `opm_base` (the paper: 0.4
to 0.5), lambda `opm_lambda`.

Any M, any fusion; with MMCosine too, where dividing the features changes nothing under sum and concat. It replaces the
plain loss by that of the features that are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fusion import mean_of_others
from . import distributed
from .method import REPLACES_LOSS, Batch, Clips, Flag, Learner, Method, Number
from .ogm import scores

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier


class Opm(Method):
    title = "drops features of the modality in the lead"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("opm_base", Number(float, 0, 1), 0.5, "least probability q_base with which opm drops a leading feature"),
        Flag("opm_lambda", Number(float, 0), 0.5, "how much more with a wider lead, lambda"),
        Flag("opm_share", Number(float, 0, 1), 0.7, "share of the batches in which opm drops features"),
        Flag("opm_warmup", Number(int, 0), 6, "first epochs, in which opm drops nothing"))
    without = REPLACES_LOSS

    def __init__(self, model: MultimodalClassifier, opm_base: float, opm_lambda: float, opm_share: float,
                 opm_warmup: int):
        super().__init__(model)
        self.base, self.strength, self.share = opm_base, opm_lambda, opm_share
        self.warmup, self.active = opm_warmup, False
        self.draws = self.coin = torch.zeros(())  # of this step

    @classmethod
    def check(cls, epochs: int, *, opm_warmup: int, **settings: object) -> None:
        if opm_warmup >= epochs:
            raise ValueError(f"--opm_warmup {opm_warmup} is not less than the {epochs} epochs of the run: opm would "
                             "drop nothing")

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        self.active = epoch > self.warmup

    def step(self, learner: Learner, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        """The numbers of all clips are drawn in every process, of which it takes those of its own clips (as the loader
        deals them out): a clip is dropped alike whatever the number of processes."""
        clips = round(len(batch.labels) * distributed.size() / batch.share)
        draws = torch.rand(clips, len(batch.inputs))[distributed.rank()::distributed.size()]  # (B, M)
        self.draws, self.coin = (drawn.to(batch.labels.device, non_blocking=True) for drawn in (draws, torch.rand(())))
        return learner.plain_step(batch)

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        if not self.active:
            return loss
        q = probabilities(scores(output.modality_logits.detach(), labels), self.base, self.strength)
        q = torch.where(self.coin < self.share, q, 0.0)
        self.note(probability=q)
        kept = (self.draws >= q).T.unsqueeze(2)  # (M, B, 1)
        return F.cross_entropy(model.classify(output.features * kept / (1 - q.mean())).logits, labels)


def probabilities(score: Tensor, base: float, strength: float) -> Tensor:
    """(M,) scores -> q (M,)."""
    rho = torch.tanh((score / mean_of_others(score) - 1).relu())
    return torch.where(rho > 0, (base * (1 + strength * rho)).clamp(0, 1), 0.0)
