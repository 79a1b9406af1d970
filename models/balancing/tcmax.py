"""TCMax (Yu, Wu, Yang, Lu: Multimodal Classification via Total Correlation Maximization, ICLR 2026, arXiv 2602.13015).
M modalities, B clips, C classes.

The network is trained to tell the pairs that belong together, and their class, from all pairs of the batch. With
F(a_j, v_k) the joint logits of the sound of clip j and the pictures of clip k,

    loss = -mean_i log( exp F(a_i, v_i)[y_i] / sum over j, k, c of exp F(a_j, v_k)[c] )

Where the joint logits are the sum of modality logits l_m that depend on one modality each, the sum over all pairs (for
M > 2 over all combinations of the modalities' clips) is a product for each class, and no pair is ever formed:

    log sum over j, k, c of exp F(a_j, v_k)[c] = log sum_c exp( sum_m log sum_j exp l_m,j[c] )

It is computed in float32 or better. There is nothing to set.

Any M, with MMCosine too. Defined for --fusion_method concat and sum; under film and gated the logits are not such a
sum. It replaces the plain loss. With several processes the pairs are of the whole batch. The authors' code saves the
last epoch's weights as its best ones; here, as everywhere, the best epoch's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from . import distributed
from .method import REPLACES_LOSS, Method

if TYPE_CHECKING:
    from ..classifier import ClassifierOutput, MultimodalClassifier


class TcMax(Method):
    title = "total correlation: true pairs against all pairs of the batch"
    fusions: ClassVar[tuple[str, ...]] = ("concat", "sum")
    without = REPLACES_LOSS
    whole_batches = True  # whose pairs it takes

    def loss(self, model: MultimodalClassifier, output: ClassifierOutput, labels: Tensor, loss: Tensor) -> Tensor:
        logits = output.modality_logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # (M, B, C)
        true = logits.sum(0).gather(1, labels[:, None]).mean()
        every = all_clips(logits.logsumexp(1)).sum(0).logsumexp(0)  # (M, C) -> (C,) -> ()
        clips = distributed.sum_over_processes(logits.new_full((), len(labels)))
        modalities, _, classes = logits.shape
        # of a clip of the batch, so that the mean over all processes' clips has the gradient of the whole
        part = every.detach() + clips / len(labels) * (every - every.detach())
        self.note(total_correlation=modalities * clips.log() + math.log(classes) - every.detach() + true.detach())
        return part - true


def all_clips(sums: Tensor) -> Tensor:
    """The log of a sum of exponentials over this process's clips -> that over the clips of all processes, with the
    gradient of this process's."""
    if distributed.size() == 1:
        return sums
    rows = sums.new_zeros(distributed.size(), *sums.shape)
    rows[distributed.rank()] = sums.detach()
    rows = [*distributed.sum_over_processes(rows)]
    rows[distributed.rank()] = sums
    return torch.stack(rows).logsumexp(0)
