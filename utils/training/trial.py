"""What a balancing method may do beside its steps: trials before a run, and looking at held-out clips. M modalities."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dataset.errors import InputError
from models.balancing.method import Clips
from utils import distributed
from utils.distributed import print_once
from utils.training.engine import Learner, outputs, train_one_epoch
from utils.training.loading import Loaders, mixed_seed
from utils.training.run import Run

HELD_OUT = 0.2  # of the training clips, by a trial
HELD_OUT_BY_METHOD = 0.1  # by a method in the whole run
SAMPLED = 0.1  # of the training clips, for a method that looks at some
LEAST_SAMPLED = 5  # clips for each class, in the mean


def hold_out(train: Dataset, val: Dataset | None, loaders: Loaders, seed: int) -> tuple[Dataset, Clips]:
    """(clips to train on, clips for the method to measure on).

    Held out are the run's validation clips, or without any a seeded tenth of the training clips;
    never test clips.
    """
    trained, seen, held_out = train, train.for_evaluation(), val
    if val is None:
        order = np.random.default_rng(seed).permutation(len(train)).tolist()
        count = max(1, round(HELD_OUT_BY_METHOD * len(train)))
        kept = sorted(order[count:])
        trained, seen, held_out = Subset(train, kept), Subset(seen, kept), Subset(seen, sorted(order[:count]))
    return trained, Clips(loaders.evaluation(seen), loaders.evaluation(held_out))


def sample(train: Dataset, classes: int, loaders: Loaders, seed: int) -> Clips:
    """A seeded tenth of the training clips, the same in every epoch, but at least LEAST_SAMPLED
    times the number of classes."""
    count = min(len(train), max(round(SAMPLED * len(train)), LEAST_SAMPLED * classes))
    drawn = np.random.default_rng(seed).permutation(len(train))[:count].tolist()
    return Clips(loaders.evaluation(Subset(train.for_evaluation(), sorted(drawn))))


def all_clips(train: Dataset, loaders: Loaders) -> Clips:
    """All training clips, none held out."""
    return Clips(loaders.evaluation(train.for_evaluation()))


class Trial(NamedTuple):
    """What a balancing method may try out in its `prepare`: Gradient-Blending does."""

    learner: Learner
    dataset: Dataset
    loaders: Loaders
    seed: int
    lam: float
    run: Run

    def train_and_measure(self, epochs: int) -> tuple[Tensor, Tensor]:
        """Trains on a seeded part of the training clips for so many epochs of the run's schedule -> means of the
        method's `losses` over this part and over the held-out one, (1 + M,) each, clips as they come in training."""
        order = np.random.default_rng(self.seed).permutation(len(self.dataset)).tolist()
        count = max(1, round(HELD_OUT * len(self.dataset)))
        trained, held_out = Subset(self.dataset, order[count:]), Subset(self.dataset, order[:count])
        loader = self.loaders.training(trained)
        for epoch in range(1, epochs + 1):
            torch.manual_seed(mixed_seed(self.seed, epoch))
            loader.batch_sampler.epoch = epoch
            found = train_one_epoch(self.learner, loader, self.lam, title=f"trial, epoch {epoch}/{epochs}")
            if not math.isfinite(found["loss"]):
                raise InputError(f"the loss is {found['loss']} in epoch {epoch} of a trial of --modulation "
                                 f"{self.run.settings['modulation']}: try a lower --learning_rate, or --amp off")
            self.learner.scheduler.step()
            print_once(f"trial, epoch {epoch}/{epochs}: loss {found['loss']:.4f}")
        distributed.broadcast_model(self.learner.model)
        return self.mean_losses(trained), self.mean_losses(held_out)

    @torch.no_grad()
    def mean_losses(self, part: Dataset) -> Tensor:
        """(1 + M,), over every clip of `part` once, over all processes."""
        model, compute = self.learner.model, self.learner.compute
        total = torch.zeros(1 + len(model.modalities), device=compute.device)
        for output, labels in outputs(model, self.loaders.evaluation(part), compute):
            loss = F.cross_entropy(output.logits, labels)
            total += len(labels) * self.learner.method.losses(output, labels, loss)
        return distributed.sum_over_processes(total) / len(part)

    def save(self) -> None:
        """Saves what was found so far, so that a resumed run continues from there."""
        self.run.save_last(self.learner.state_dict())
