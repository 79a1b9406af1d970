"""--log_gradients: how strongly each encoder is pulled, and whether the joint loss pulls it where its
own modality would. Estimated on a few batches of each epoch, for every balancing method alike. M
modalities.

With g the gradient of the cross-entropy of the joint logits and g_m that of modality m's logits, both
with respect to the parameters of encoder m and over the whole batch,

    norm_<m>     length of g
    ratio_<m>    the epoch's mean length of g divided by the mean of the other encoders'
    cosine_<m>   cosine between g and g_m

before the method changes anything: of the loss without its terms. The training itself is the same to
the last bit.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.balancing.learner import Learner
from models.balancing.method import Batch, trained
from models.fusion import mean_of_others

BATCHES = 4  # of an epoch that are measured, evenly spaced


class GradientLog:
    """What was measured in this epoch. parts: into which --accumulate cuts a batch; the first one is measured."""

    def __init__(self, parts: int = 1):
        self.parts = parts
        self.measured: list[Tensor] = []  # (2, M) each: norms and cosines

    def look(self, learner: Learner, batch: Batch, number: int, batches: int) -> None:
        """Measures batch `number`, counted from 0, of an epoch of so many batches, if it is one of those to measure;
        before its step, over all processes. Nothing of the learner changes but that its network is in training mode."""
        count = min(BATCHES, batches)
        if number in {batches * place // count for place in range(count)}:
            learner.train()
            part = batch.parts(self.parts)[0]._replace(share=batch.share)
            self.measured.append(measure(learner, part))

    def means(self, modalities: Iterable[str]) -> dict[str, float]:
        """The epoch's means, then begins anew. Batches in which float16 let a gradient overflow are left out; {} where
        none is left. With one modality its norm alone."""
        whole = [rows for rows in self.measured if rows.isfinite().all()]
        self.measured = []
        if not whole:
            return {}
        norms, cosines = torch.stack(whole).mean(0)
        columns = {"norm": norms}
        if len(norms) > 1:
            columns |= {"ratio": norms / mean_of_others(norms), "cosine": cosines}
        return {f"{name}_{modality}": value for name, column in columns.items()
                for modality, value in zip(modalities, column.tolist(), strict=True)}


def measure(learner: Learner, batch: Batch) -> Tensor:
    """(2, M): the norms and cosines on a batch, in the mode that the network has."""
    model, rows = learner.model, []
    before = [buffer.clone() for buffer in model.buffers()]  # BatchNorm's statistics
    devices = [learner.device] if learner.device.type == "cuda" else []
    with torch.random.fork_rng(devices), learner.autocast():
        output = model.forward(*batch.inputs)
    joint = F.cross_entropy(output.logits, batch.labels)
    for name, logits in zip(model.modalities, output.modality_logits, strict=True):
        encoder = trained(model.encoder(name))
        alone = F.cross_entropy(logits, batch.labels)
        g, own = (flat(learner.gradients(batch, loss, encoder).values()) for loss in (joint, alone))
        rows.append(torch.stack([g.norm(), F.cosine_similarity(g, own, dim=0)]))
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
    return torch.stack(rows).T.double()


def flat(gradients: Iterable[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])
