"""Training and evaluation, shared by every entry script. B clips, M modalities."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from models import ClassifierOutput, MultimodalClassifier, contrastive_loss
from utils import distributed
from utils.balancing import Method
from utils.training.loading import check_batch, mixed_seed
from utils.training.metrics import batch_sums, means, row_names
from utils.training.run import Run

OPTIMIZERS = {"sgd": partial(torch.optim.SGD, momentum=0.9), "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
PARTS = ("model", "method", "optimizer", "scheduler", "scaler")  # of a Learner's state
FLUSH_EVERY = 50  # iterations between two looks at the device: their figures are logged and checked together

LossFunction = Callable[[ClassifierOutput, Tensor], Tensor]


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


class Learner:
    """The network and everything that changes with it: saved and restored as one.

    method: how the modalities are balanced in training; its parameters are trained with the network's.
    """

    def __init__(self, model: MultimodalClassifier, compute: Compute, optimizer: str, learning_rate: float,
                 weight_decay: float, lr_decay_step: int, lr_decay_ratio: float, method: Method | None = None):
        self.model, self.method = model, (method or Method(model)).to(compute.device)
        distributed.broadcast_model(self.method)  # the network's start is DistributedDataParallel's affair
        self.network = DistributedDataParallel(model) if distributed.size() > 1 else model
        trained = [parameter for module in (model, self.method) for parameter in module.parameters()
                   if parameter.requires_grad]
        fused = compute.device.type == "cuda"  # on a GPU the scaler then skips steps without asking the host
        self.optimizer = OPTIMIZERS[optimizer](trained, lr=learning_rate, weight_decay=weight_decay, fused=fused)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, lr_decay_step, lr_decay_ratio)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == torch.float16)

    def step(self, loss: Tensor, output: ClassifierOutput, labels: Tensor) -> None:
        """One update; `loss` is of this process's part of the batch, as are output and labels."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        distributed.average_gradients(self.method)
        self.scaler.unscale_(self.optimizer)
        self.method.adjust_gradients(self.model, output, labels)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state_dict(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in PARTS}

    def load_state_dict(self, state: Mapping) -> None:
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])


def classification_loss(lam: float) -> LossFunction:
    """Cross-entropy of the joint logits, plus lam times the contrastive loss (not computed at all for lam = 0)."""

    def loss(output: ClassifierOutput, labels: Tensor) -> Tensor:
        cross_entropy = F.cross_entropy(output.logits, labels)
        return cross_entropy + lam * contrastive_loss(output.fused, labels) if lam else cross_entropy

    return loss


def train_one_epoch(learner: Learner, loader: DataLoader, compute: Compute, loss_function: LossFunction,
                    log: Callable[[Tensor], None]) -> dict[str, float]:
    """One pass over `loader`; `log` gets the iterations' rows of sums, some at a time -> the epoch's means."""
    learner.network.train()
    pending, total = [], 0
    batches = zip(progress(loader, f"epoch {loader.batch_sampler.epoch}"), loader.batch_sampler.sizes, strict=True)
    for batch, clips in batches:  # clips: of the batch over all processes
        inputs, labels = compute.prepare(check_batch(batch))
        with compute.autocast():
            output = learner.network(*inputs)
            loss = learner.method.loss(output, labels, loss_function(output, labels))
        share = len(labels) * distributed.size() / clips  # DDP averages over processes: this makes it the batch's mean
        learner.step(loss * share, output, labels)
        pending.append(batch_sums(output, labels, loss))
        if len(pending) == FLUSH_EVERY:
            total, pending = total + flush(pending, log), []
    if pending:
        total = total + flush(pending, log)
    return means(total, row_names(learner.model.modalities))


def flush(pending: list[Tensor], log: Callable[[Tensor], None]) -> Tensor:
    """Rows of the last iterations, over all processes -> logged, checked, and their sum."""
    rows = distributed.sum_over_processes(torch.stack(pending)).double().cpu()
    log(rows)
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
    """A bar on the main process's terminal; none in a log file."""
    return tqdm(loader, desc=title, unit="batch", leave=False, disable=None if distributed.is_main() else True)


def fit(learner: Learner, train_loader: DataLoader, evaluate_held_out: Callable[[], dict[str, float]],
        compute: Compute, loss_function: LossFunction, run: Run, epochs: int, seed: int) -> None:
    """Trains from where `run` stands up to `epochs`; after each, `evaluate_held_out` gives the figures to choose by."""
    for epoch in range(len(run.history) + 1, epochs + 1):
        torch.manual_seed(mixed_seed(seed, epoch))  # for whatever a step draws: the same after a resume
        learner.method.begin_epoch(epoch)
        train_loader.batch_sampler.epoch = epoch
        start = time.perf_counter()
        lr = learner.scheduler.get_last_lr()[0]
        train = train_one_epoch(learner, train_loader, compute, loss_function, run.log_iterations)
        learner.method.end_epoch()
        seconds = time.perf_counter() - start
        learner.scheduler.step()
        distributed.broadcast_model(learner.model)
        held_out = evaluate_held_out()
        clips = train_loader.batch_sampler.clips
        norms = class_norms(learner.model)
        means_of_classes = zip(learner.model.modalities, norms.mean(1).tolist(), strict=True)
        train.update(lr=lr, seconds=seconds, clips_per_second=clips / seconds,
                     **{f"weight_norm_{name}": norm for name, norm in means_of_classes})
        run.end_epoch(train, held_out, norms, learner.state_dict())


def class_norms(model: MultimodalClassifier) -> Tensor:
    """(M, C): ||W_m,c||, how the head weighs the modalities; their means over c are the figures weight_norm_<m>."""
    return torch.linalg.vector_norm(model.class_weights().detach(), dim=-1)
