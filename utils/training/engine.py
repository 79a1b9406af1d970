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

from models import ClassifierOutput, MultimodalClassifier, contrastive_loss
from models.balancing import Method
from models.balancing.method import Batch, trained
from utils import distributed
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


class Learner:
    """The network and everything that changes with it: saved and restored as one.

    method: how the modalities are balanced in training; its parameters are trained with the network's. One with steps
    of its own combines gradients that are averaged over the processes here: DistributedDataParallel would average them
    too early. accumulate: parts that the plain step computes a batch in, to need less memory.
    """

    def __init__(self, model: MultimodalClassifier, compute: Compute, optimizer: str, learning_rate: float,
                 weight_decay: float, lr_decay_step: int, lr_decay_ratio: float, method: Method | None = None,
                 accumulate: int = 1):
        self.model, self.compute, self.accumulate = model, compute, accumulate
        self.method = (method or Method(model)).to(compute.device)
        for module in (model, self.method):
            distributed.broadcast_model(module)
        parallel = distributed.size() > 1 and not self.method.has_own_step()
        self.network = DistributedDataParallel(model) if parallel else model
        fused = takes_fused(compute, self.method)
        groups = [{"params": group} for group in self.method.parameter_groups(model)]
        self.optimizer = OPTIMIZERS[optimizer](groups, lr=learning_rate, weight_decay=weight_decay, fused=fused)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, lr_decay_step, lr_decay_ratio)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == torch.float16)

    def train(self) -> None:
        """Training mode, of the encoders that are trained: the statistics of a frozen encoder's BatchNorm stay."""
        self.network.train()
        for name in self.model.modalities:
            if not trained(self.model.encoder(name)):
                self.model.encoder(name).eval()

    def step(self, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        """The plain step: one forward, one backward, one update -> (output, the loss that was descended)."""
        if self.accumulate > 1:
            return self.step_in_parts(batch)
        output, loss = self.forward(batch)
        self.descend(batch, output, loss)
        return output, loss

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

    def forward(self, batch: Batch) -> tuple[ClassifierOutput, Tensor]:
        """(output, loss): the cross-entropy of the joint logits, plus lam times the contrastive loss (not computed for
        lam = 0), and what the method makes of it."""
        with self.compute.autocast():
            output = self.network(*batch.inputs)
            loss = F.cross_entropy(output.logits, batch.labels)
            if batch.lam:
                loss = loss + batch.lam * contrastive_loss(output.fused, batch.labels)
            return output, self.method.loss(self.model, output, batch.labels, loss)

    def descend(self, batch: Batch, output: ClassifierOutput, loss: Tensor) -> None:
        """One update along the gradients of `loss`, of all parameters."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss * batch.share).backward()
        self.average_and_update(batch, output)

    def average_and_update(self, batch: Batch, output: ClassifierOutput) -> None:
        """One update along the gradients of each process, where DistributedDataParallel has not averaged them yet."""
        distributed.average_gradients(self.method)
        if self.network is self.model:
            distributed.average_gradients(self.model)
        self.update(batch, output)

    def gradients(self, batch: Batch, loss: Tensor, parameters: Sequence[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
        """d loss / d parameter of the whole batch: over the clips of all processes, without the scaler's factor; 0 for
        parameters that the loss does not depend on. The graph is kept, for the gradients of another loss.

        Only for methods with a `step` of their own.
        """
        one = self.scaler.scale(torch.ones((), device=self.compute.device))
        found = torch.autograd.grad(self.scaler.scale(loss * batch.share), parameters, retain_graph=True,
                                    allow_unused=True, materialize_grads=True)
        return {parameter: gradient / one for parameter, gradient in
                zip(parameters, distributed.means_over_processes(found), strict=True)}

    def descend_along(self, batch: Batch, output: ClassifierOutput, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """One update along these gradients; parameters without one stay as they are, with their momentum."""
        self.optimizer.zero_grad()
        for parameter, gradient in gradients.items():
            parameter.grad = self.scaler.scale(gradient)
        self.update(batch, output)

    def update(self, batch: Batch, output: ClassifierOutput) -> None:
        """One update along the parameters' `grad`: averaged over the processes, times the scaler's factor."""
        self.scaler.unscale_(self.optimizer)
        self.method.adjust_gradients(self.model, output, batch.labels)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def outputs(self, loader: DataLoader) -> Iterator[tuple[ClassifierOutput, Tensor]]:
        """(output, labels (B,)) of every batch of `loader`, in evaluation mode."""
        yield from outputs(self.model, loader, self.compute)

    def state_dict(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in PARTS}

    def load_state_dict(self, state: Mapping) -> None:
        own = [{name: group[name] for name in ("fused", "foreach")} for group in self.optimizer.param_groups]
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        for group, how in zip(self.optimizer.param_groups, own, strict=True):
            group.update(how)  # how it computes is this device's and precision's, not those of the file


def joined(outputs: Sequence[ClassifierOutput]) -> ClassifierOutput:
    """The outputs of several batches as that of one, without their graphs."""
    logits, *rest = zip(*outputs, strict=True)
    return ClassifierOutput(torch.cat(logits).detach(), *(torch.cat(part, dim=1).detach() for part in rest))


def train_one_epoch(learner: Learner, loader: DataLoader, lam: float, run: Run | None = None,
                    title: str = "") -> dict[str, float]:
    """One pass over `loader` -> the epoch's means over its clips.

    The method takes a step a batch, `Learner.step` if it does not say otherwise. lam: weight of the contrastive loss.
    run: logs the iterations, if given. title: of the progress bar.
    """
    learner.train()
    pending, total = [], 0
    batches = zip(progress(loader, title), loader.batch_sampler.sizes, strict=True)
    for number, (batch, clips) in enumerate(batches):  # clips: of the batch over all processes
        inputs, labels = learner.compute.prepare(check_batch(batch))
        share = len(labels) * distributed.size() / clips  # DDP averages over processes: this makes it the batch's mean
        output, loss = learner.method.step(learner, Batch(inputs, labels, share, lam, number / len(loader)))
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
