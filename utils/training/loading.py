"""Batches that depend on (seed, epoch, index) alone: not on the number of workers, nor on what ran before.

That is what makes a resumed run equal the uninterrupted one: there is no state of samplers and workers to restore.
"""

from collections.abc import Iterator, Sequence, Sized

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from dataset.draws import draws_of_clip
from dataset.errors import InputError
from utils import distributed
from utils.training.cached import Cache, CachedTraining, KeptBatches

Key = tuple[int, int]  # (epoch, index of the clip)


def mixed_seed(*numbers: int) -> int:
    """One 64-bit seed out of several numbers, e.g. (seed, epoch, index)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class TrainBatches:
    """Shuffled batches of `batch_size` over all processes, of which each gets its part. Set `epoch` before iterating.

    Every clip comes once an epoch. The last batch is smaller when they do not divide; if it has fewer clips than there
    are processes it joins the batch before it.

    groups: the group of each clip, if a batch is to hold clips of one group; a group of fewer clips than there are
    processes joins the largest.
    """

    def __init__(self, clips: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1):
        if clips < processes or batch_size < processes:
            raise InputError(f"{clips} training clips in batches of {batch_size} cannot be shared by {processes} "
                             "processes: use fewer")
        self.clips, self.batch_size, self.seed, self.rank, self.processes = clips, batch_size, seed, rank, processes
        self.epoch = 0
        self.groups: Sequence[int] | None = None

    def batches(self) -> list[tuple[int | None, list[int]]]:
        """(group, clips over all processes) of each batch of the epoch."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        order = torch.randperm(self.clips, generator=generator).tolist()
        if self.groups is None:
            return [(None, batch) for batch in self.cut(order)]
        members: dict[int, list[int]] = {}
        for clip in order:
            members.setdefault(self.groups[clip], []).append(clip)
        largest = max(members, key=lambda group: (len(members[group]), -group))
        few = [group for group, clips in members.items() if len(clips) < self.processes and group != largest]
        for group in few:
            members[largest] += members.pop(group)
        batches = [(group, batch) for group in sorted(members) for batch in self.cut(members[group])]
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]

    def cut(self, clips: list[int]) -> list[list[int]]:
        starts = list(range(0, len(clips), self.batch_size))
        if len(clips) - starts[-1] < self.processes:
            starts.pop()
        return [clips[start:stop] for start, stop in zip(starts, [*starts[1:], len(clips)], strict=True)]

    def __len__(self) -> int:
        return len(self.batches())

    def __iter__(self) -> Iterator[list[Key]]:
        for _, clips in self.batches():
            yield [(self.epoch, clip) for clip in clips[self.rank::self.processes]]


class EvaluationBatches:
    """Every clip once over all processes, in order: each process takes every n-th batch, none is padded.

    So a batch holds the same clips whatever the number of processes, and its results are the same to the last bit.
    """

    def __init__(self, clips: int, batch_size: int, rank: int = 0, processes: int = 1):
        keys = [(0, index) for index in range(clips)]
        self.batches = [keys[start:start + batch_size] for start in range(0, clips, batch_size)][rank::processes]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


class SeededDataset(Dataset):
    """`dataset[index]` under the key (epoch, index). What is random in it depends on `seed` and the key alone.

    A data set with `draws` gets its uniform numbers from dataset/draws.py, in any other torch's generator is seeded
    meanwhile. An item of a Subset is that of the whole data set.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> object:
        (epoch, index), whole = key, self.dataset
        if isinstance(whole, Subset):
            index, whole = whole.indices[index], whole.dataset
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(mixed_seed(self.seed, epoch, index))  # torch.manual_seed: GPUs as well
        try:
            if count := getattr(whole, "draws", 0):
                return whole.item(index, draws_of_clip(self.seed, epoch, index, count))
            return whole[index]
        except InputError as error:
            return error  # raised in a worker it would reach the user as a traceback
        finally:
            torch.set_rng_state(before)


def collate(items: Sequence[object]) -> object:
    """A batch of stacked tensors, or the first InputError among the items."""
    errors = [item for item in items if isinstance(item, InputError)]
    return errors[0] if errors else default_collate(items)


def make_loader(dataset: Dataset, batches: Sized, seed: int, workers: int, device: torch.device) -> DataLoader:
    """`batches` (TrainBatches or EvaluationBatches) of `dataset`, made in `workers` processes (0: in this one)."""
    return DataLoader(SeededDataset(dataset, seed), batch_sampler=batches, collate_fn=collate, num_workers=workers,
                      pin_memory=device.type == "cuda", persistent_workers=workers > 0,
                      multiprocessing_context=distributed.worker_context(workers),
                      generator=torch.Generator().manual_seed(seed))


class Loaders:
    """How clips become batches in this process; batch_size: over all processes together. cache, cache_size: as the
    flags."""

    def __init__(self, batch_size: int, seed: int, num_workers: int, device: torch.device, cache: str = "off",
                 cache_size: int = 256):
        self.batch_size, self.seed, self.num_workers, self.device = batch_size, seed, num_workers, device
        self.cache = None if cache == "off" else Cache(cache, cache_size, num_workers, device)

    def training(self, dataset: Dataset) -> DataLoader | CachedTraining:
        """Shuffled; set `batch_sampler.epoch` before iterating."""
        batches = TrainBatches(len(dataset), self.batch_size, self.seed, distributed.rank(), distributed.size())
        if self.cache:
            return self.cache.training(dataset, batches, self.seed)
        return make_loader(dataset, batches, self.seed, self.num_workers, self.device)

    def evaluation(self, dataset: Dataset) -> DataLoader | KeptBatches:
        """Every clip once, in order; a cache keeps the batches for the next pass."""
        loader = self.once(dataset)
        return self.cache.evaluation(loader) if self.cache else loader

    def once(self, dataset: Dataset) -> DataLoader:
        """Every clip once, in order, for a single pass."""
        batches = EvaluationBatches(len(dataset), self.batch_size, distributed.rank(), distributed.size())
        return make_loader(dataset, batches, self.seed, self.num_workers, self.device)


def check_batch(batch: object) -> dict[str, torch.Tensor]:
    """The batch, or the InputError that a worker met while making it."""
    if isinstance(batch, InputError):
        raise batch
    return batch
