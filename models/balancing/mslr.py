"""MSLR, modality-specific learning rates (Yao, Mihalcea: Modality-specific Learning Rates for Effective Multimodal
Additive Late-fusion, Findings of ACL 2022). M modalities, B clips.

The encoder of each modality has a learning rate of its own, by how its accuracy goes: with acc_m the accuracy of the
modality logits F_m on held-out training clips after the last epoch,

    lr_m = lr * c_m * acc_m / mean of acc_m over the last k epochs

so that an encoder which still improves learns faster and one that overfits slower. lr is the run's rate with its decay;
fusion and classifier keep it. c_m is `mslr_factors`, one number for all or one each (others report 0.7,1.3), k is
`mslr_window`, 5 to 20 there. The mean includes the last epoch itself; in the first epoch, and while a modality has
had no clip right, lr_m = lr * c_m.

Any M, any fusion, with MMCosine too. With an optimiser that divides by the gradients' size (adam, adamw) the rates work
in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from . import distributed
from .method import Clips, Flag, Learner, Method, Number

if TYPE_CHECKING:
    from ..classifier import MultimodalClassifier

positive = Number(float, 0, exclusive=True)


def factors(text: str) -> str:
    """Positive numbers with commas between them, as they are. Raises ValueError: it is something else."""
    for part in text.split(","):
        positive(part)
    return text


class Mslr(Method):
    title = "a learning rate for each encoder, by its held-out accuracy"
    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("mslr_factors", factors, "1", "factor c of mslr's rates, or one for each modality: 0.7,1.3"),
        Flag("mslr_window", Number(int, 1), 5, "epochs k over whose mean accuracy mslr compares the last one's"))
    needs_held_out = True
    rate_per_encoder = True

    def __init__(self, model: MultimodalClassifier, mslr_factors: str, mslr_window: int):
        super().__init__(model)
        modalities, each = len(model.modalities), [float(part) for part in mslr_factors.split(",")]
        if len(each) not in (1, modalities):
            raise ValueError(f"--mslr_factors has {len(each)} numbers, the run {modalities} modalities "
                             f"({', '.join(model.modalities)}): give one number, or one for each")
        self.factors = each * (modalities // len(each))
        # of the last epochs, the newest last; -1: there was none yet
        self.register_buffer("accuracies", torch.full((mslr_window, modalities), -1.0))

    def begin_epoch(self, epoch: int, learner: Learner, clips: Clips | None) -> None:
        known = self.accuracies >= 0
        last, mean = self.accuracies[-1], (self.accuracies * known).sum(0) / known.sum(0).clamp(min=1)
        ratios = torch.where(mean > 0, last / mean, 1.0).tolist()
        rest, *encoders = learner.optimizer.param_groups
        for group, factor, ratio in zip(encoders, self.factors, ratios, strict=True):
            group["lr"] = rest["lr"] * factor * ratio
        self.note(rate=self.accuracies.new_tensor([group["lr"] for group in encoders]))

    @torch.no_grad()
    def end_epoch(self, learner: Learner, clips: Clips) -> None:
        right, seen = torch.zeros_like(self.accuracies[0]), torch.zeros_like(self.accuracies[0, 0])
        for output, labels in learner.outputs(clips.held_out):
            right += (output.modality_logits.argmax(-1) == labels).sum(1)
            seen += len(labels)
        accuracy = distributed.sum_over_processes(right) / distributed.sum_over_processes(seen)
        self.accuracies.copy_(torch.cat([self.accuracies[1:], accuracy[None]]))
