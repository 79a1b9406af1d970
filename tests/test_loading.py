"""Batches over processes and epochs; items that depend on (seed, epoch, index) alone; errors out of workers."""

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from dataset.errors import InputError
from utils.training.loading import EvaluationBatches, SeededDataset, TrainBatches, check_batch, make_loader

CPU = torch.device("cpu")
SIZES = [(24, 8), (25, 8), (26, 8), (31, 8), (7, 8), (3, 3), (9, 4), (10, 1000)]


class Draws(Dataset):
    """Item i: its index and four random numbers, after having drawn some more."""

    def __init__(self, clips: int = 10, broken: Sequence[int] = ()):
        self.clips, self.broken = clips, broken

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> dict:
        if index in self.broken:
            raise InputError(f"/data/{index}.wav is broken: download it again")
        item = {"audio": torch.rand(4), "label": index}
        torch.rand(index)  # leaves another state behind for each index
        return item


def epoch_of(clips: int, batch_size: int, processes: int, epoch: int = 0, seed: int = 0) -> list[list[list]]:
    """[process][batch] -> keys."""
    parts = [TrainBatches(clips, batch_size, seed, rank, processes) for rank in range(processes)]
    for part in parts:
        part.epoch = epoch
    return [list(part) for part in parts]


def flat(batches: list[list]) -> list:
    return [key for batch in batches for key in batch]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("clips, batch_size", SIZES)
def test_every_clip_comes_once_an_epoch_over_all_processes(clips, batch_size, processes):
    for epoch in (0, 5):
        parts = epoch_of(clips, batch_size, processes, epoch)
        assert sorted(key for part in parts for key in flat(part)) == [(epoch, i) for i in range(clips)]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("clips, batch_size", SIZES)
def test_processes_step_together_and_none_gets_an_empty_batch(clips, batch_size, processes):
    parts = epoch_of(clips, batch_size, processes)
    assert {len(part) for part in parts} == {len(TrainBatches(clips, batch_size, 0, 0, processes))}
    for step in zip(*parts, strict=True):
        sizes = [len(batch) for batch in step]
        assert min(sizes) > 0 and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("clips, batch_size, processes, sizes", [
    (10, 4, 1, [4, 4, 2]), (9, 4, 1, [4, 4, 1]), (8, 4, 1, [4, 4]), (9, 4, 2, [4, 5]), (10, 4, 2, [4, 4, 2]),
    (10, 4, 3, [4, 6]), (11, 4, 3, [4, 4, 3]), (3, 8, 3, [3])])
def test_a_last_batch_too_small_for_the_processes_joins_the_one_before(clips, batch_size, processes, sizes):
    steps = zip(*epoch_of(clips, batch_size, processes), strict=True)
    assert [sum(map(len, step)) for step in steps] == sizes


@pytest.mark.parametrize("processes", [2, 3])
def test_a_global_batch_holds_the_same_clips_whatever_the_number_of_processes(processes):
    together = [set(flat(step)) for step in zip(*epoch_of(24, 6, processes, epoch=2), strict=True)]
    assert together == [set(batch) for batch in epoch_of(24, 6, 1, epoch=2)[0]]


def test_the_order_changes_with_epoch_and_seed_and_not_otherwise():
    def order(epoch: int, seed: int) -> list[int]:
        return [index for _, index in flat(epoch_of(30, 4, 1, epoch, seed)[0])]

    orders = [order(epoch, seed) for epoch in (0, 1, 2) for seed in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i]) and order(0, 0) != list(range(30))
    torch.rand(3)
    batches = TrainBatches(30, 4, seed=1)
    list(batches)
    batches.epoch = 2  # after another epoch, as when training goes on
    assert [index for _, index in flat(list(batches))] == order(2, 1)


@pytest.mark.parametrize("clips, batch_size, processes", [(1, 8, 2), (8, 1, 2), (0, 8, 1)])
def test_fewer_clips_than_processes_are_refused(clips, batch_size, processes):
    with pytest.raises(InputError, match=f"{clips} training clips in batches of {batch_size} .* {processes} processes"):
        TrainBatches(clips, batch_size, 0, 0, processes)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("clips, batch_size", [*SIZES, (2, 4), (0, 4)])
def test_evaluation_takes_every_clip_once_and_repeats_none_to_fill_a_shard(clips, batch_size, processes):
    parts = [EvaluationBatches(clips, batch_size, rank, processes) for rank in range(processes)]
    assert sorted(index for part in parts for _, index in flat(list(part))) == list(range(clips))
    shards = [len(flat(list(part))) for part in parts]
    assert max(shards) - min(shards) <= batch_size  # whole batches are dealt out
    for part in parts:
        assert len(list(part)) == len(part) and all(0 < len(batch) <= batch_size for batch in part)
        assert list(part) == list(part)


def items(workers: int, epochs: Sequence[int], seed: int = 3) -> dict[tuple[int, int], list[float]]:
    """{(epoch, index): what was drawn} of one loader over several epochs."""
    loader = make_loader(Draws(), TrainBatches(10, 4, seed), seed, workers, CPU)
    found = {}
    for epoch in epochs:
        loader.batch_sampler.epoch = epoch
        for batch in loader:
            found.update({(epoch, i): x for i, x in zip(batch["label"].tolist(), batch["audio"].tolist(), strict=True)})
    return found


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_items_are_the_same_for_any_number_of_workers_and_whatever_ran_before(workers):
    torch.manual_seed(workers)
    torch.rand(17)
    both = items(workers, (4, 5))
    reference = items(0, (5,))
    assert {key: x for key, x in both.items() if key[0] == 5} == reference
    assert len({tuple(x) for x in both.values()}) == 20  # every (epoch, clip) draws its own
    assert items(0, (5,), seed=4).keys() == reference.keys() and items(0, (5,), seed=4) != reference


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_generators_alone(workers):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    items(workers, (0, 1))
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


def test_loading_leaves_the_generator_of_the_gpu_alone(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    SeededDataset(Draws(), seed=0)[(0, 1)]
    assert not seeds


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_clip_reaches_the_caller_as_its_own_sentence(workers):
    loader = make_loader(Draws(broken=(2, 3, 7)), EvaluationBatches(10, 4), 0, workers, CPU)
    batches = list(loader)
    del loader  # now: left to the garbage collector, in a cycle with the caught errors, its workers take 10 s to end
    assert check_batch(batches[2]) is batches[2] and batches[2]["label"].tolist() == [8, 9]  # the others still come
    for batch, index in ((batches[0], 2), (batches[1], 7)):
        with pytest.raises(InputError) as caught:
            check_batch(batch)
        assert type(caught.value) is InputError
        assert str(caught.value) == f"/data/{index}.wav is broken: download it again"


def test_batches_are_stacked_with_the_types_of_the_items():
    batch = next(iter(make_loader(Draws(), EvaluationBatches(10, 4), 0, 0, CPU)))
    assert Counter({name: tuple(x.shape) for name, x in batch.items()}) == Counter(audio=(4, 4), label=(4,))
    assert batch["audio"].dtype == torch.float32 and batch["label"].dtype == torch.int64
