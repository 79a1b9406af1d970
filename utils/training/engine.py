"""Training and evaluation, shared by every entry script. B clips, M modalities."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from models import ClassifierOutput, MultimodalClassifier
from models.balancing import Method
from models.balancing import learner as balancing
from models.balancing.method import Batch
from utils import distributed
from utils.training.gradient_log import GradientLog
from utils.training.loading import check_batch
from utils.training.metrics import batch_sums, means, row_names
from utils.training.run import Run

OPTIMIZERS = {"sgd": partial(torch.optim.SGD, momentum=0.9), "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
PARTS = ("model", "method", "optimizer", "scheduler", "scaler")  # of a Learner's state
FLUSH_EVERY = 50  # iterations between two looks at the device: their figures are logged and checked together


class Compute(NamedTuple):
    """Where batches are computed, in which precision, and the front end of each modality."""

    device: torch.device
    precision: torch.dtype
    front_ends: Mapping[str, nn.Module]

    def prepare(self, batch: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """A batch of the loader -> (network inputs, labels (B,)) on the device."""
        on_device = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        inputs = [front_end(on_device[name]) for name, front_end in self.front_ends.items()]
        return inputs, on_device["label"]

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)


def takes_fused(compute: Compute, method: Method) -> bool:
    """Whether the optimizer is PyTorch's fused one, the quickest on a GPU. It needs the gradients of every parameter in
    every step, in the parameters' memory layout, which methods with a step of their own do not give; and where a
    float16 loss scaler skips the first step, as it usually does, SGD's momentum would begin with whatever was in
    memory (torch 2.11)."""
    return compute.device.type == "cuda" and compute.precision != torch.float16 and not method.has_own_step()


class Learner(balancing.Learner):
    """The network and everything that changes with it: saved and restored as one.

    method: how the modalities are balanced in training; its parameters are trained with the network's. accumulate:
    parts that the plain step computes a batch in, to need less memory.
    """

    parts = PARTS

    def __init__(self, model: MultimodalClassifier, compute: Compute, optimizer: str, learning_rate: float,
                 weight_decay: float, lr_decay_step: int, lr_decay_ratio: float, method: Method | None = None,
                 accumulate: int = 1):
        method = (method or Method(model)).to(compute.device)
        fused = takes_fused(compute, method)
        groups = [{"params": group} for group in method.parameter_groups(model)]
        made = OPTIMIZERS[optimizer](groups, lr=learning_rate, weight_decay=weight_decay, fused=fused)
        super().__init__(model, made, method, precision=compute.precision)
        self.compute, self.accumulate = compute, accumulate
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, lr_decay_step, lr_decay_ratio)

    def plain_step(self, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        return self.step_in_parts(batch) if self.accumulate > 1 else super().plain_step(batch)

    def step_in_parts(self, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        """The plain step with the gradients of several parts of the batch added up. BatchNorm normalises each part by
        its own statistics, and losses that compare clips compare those of a part."""
        self.optimizer.zero_grad()
        made, losses = [], []
        parts = batch.parts(self.accumulate)
        for number, part in enumerate(parts, 1):
            wait = number < len(parts) and isinstance(self.network, DistributedDataParallel)
            with self.network.no_sync() if wait else nullcontext():  # the processes average their gradients once
                output, loss = self.forward(part)
                self.scaler.scale(loss * part.share).backward()
            made.append(output)
            losses.append(loss.detach() * (len(part.labels) / len(batch.labels)))
        output = joined(made)
        self.average_and_update(batch, output)
        return output, torch.stack(losses).sum()

    def outputs(self, loader: DataLoader) -> Iterator[tuple[ClassifierOutput, Tensor]]:
        """(output, labels (B,)) of every batch of `loader`, in evaluation mode."""
        yield from outputs(self.model, loader, self.compute)


def joined(outputs: Sequence[ClassifierOutput]) -> ClassifierOutput:
    """The outputs of several batches as that of one, without their graphs."""
    logits, *rest = zip(*outputs, strict=True)
    return ClassifierOutput(torch.cat(logits).detach(), *(torch.cat(part, dim=1).detach() for part in rest))


def train_one_epoch(learner: Learner, loader: DataLoader, lam: float, run: Run | None = None, title: str = "",
                    gradients: GradientLog | None = None) -> dict[str, float]:
    """One pass over `loader` -> the epoch's means over its clips.

    The method takes a step a batch, `Learner.plain_step` if it does not say otherwise.
    lam: weight of the contrastive loss. run: logs the iterations, if given. title: of the progress bar.
    gradients: looks at the batches, if given.
    """
    learner.train()
    pending, total = [], 0
    loader.batch_sampler.groups = learner.method.groups
    planned = loader.batch_sampler.batches()
    for number, (batch, (group, clips)) in enumerate(zip(progress(loader, title), planned, strict=True)):
        inputs, labels = learner.compute.prepare(check_batch(batch))
        # DDP averages over processes: this makes it the mean over the batch
        share = len(labels) * distributed.size() / len(clips)
        batch = Batch(inputs, labels, share, lam, number / len(planned), group)
        if gradients:
            gradients.look(learner, batch, number, len(planned))
        output, loss = learner.method.step(learner, batch)
        pending.append(batch_sums(output, labels, loss))
        if len(pending) == FLUSH_EVERY:
            total, pending = total + flush(pending, run), []
    if pending:
        total = total + flush(pending, run)
    return means(total, row_names(learner.model.modalities))


def flush(pending: list[Tensor], run: Run | None) -> Tensor:
    """Rows of the last iterations, over all processes -> logged, checked, and their sum."""
    rows = distributed.sum_over_processes(torch.stack(pending)).double().cpu()
    if run:
        run.log_iterations(rows)
    return rows.sum(0)


@torch.inference_mode()
def evaluate(model: MultimodalClassifier, loader: DataLoader, compute: Compute) -> dict[str, float]:
    """{loss, accuracy, accuracy_<modality>, loss_<modality>, logit_<modality>}: means over every clip of `loader`."""
    names = row_names(model.modalities)
    total = torch.zeros(len(names), device=compute.device)
    for output, labels in outputs(model, loader, compute):
        total += batch_sums(output, labels, F.cross_entropy(output.logits, labels))
    return means(distributed.sum_over_processes(total), names)


def outputs(model: MultimodalClassifier, loader: DataLoader,
            compute: Compute) -> Iterator[tuple[ClassifierOutput, Tensor]]:
    """(output, labels (B,)) of every batch of `loader`, by the model in evaluation mode."""
    model.eval()
    for batch in progress(loader, "evaluation"):
        inputs, labels = compute.prepare(check_batch(batch))
        with compute.autocast():
            output = model(*inputs)
        yield output, labels


def progress(loader: DataLoader, title: str) -> tqdm:
    """A progress bar on the main process's terminal; none in a log file."""
    return tqdm(loader, desc=title, unit="batch", leave=False, dynamic_ncols=True,
                disable=None if distributed.is_main() else True)
