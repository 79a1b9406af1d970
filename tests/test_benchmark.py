"""scripts/benchmark.py: what it counts and times."""

import csv
import re
from collections.abc import Iterator

import pytest
import torch
from finished import MACHINE
from harness import watched
from torch._subclasses.fake_tensor import FakeTensorMode

from dataset import packing
from dataset.errors import InputError
from models import AVClassifier
from models.balancing.method import Batch
from scripts import benchmark
from utils.experiments import machine_speed
from utils.training.engine import Compute, Learner


def test_benchmark_divides_the_clips_it_has_computed_by_the_time_that_takes(monkeypatch, capsys, tmp_path,
                                                                            tiny_encoders):
    with watched() as borders:
        def clock() -> float:  # a second a training pass, a tenth one of evaluation, hardly any for a look
            clock.looks += 1
            return len(borders.training) + len(borders.evaluation) / 10 + clock.looks / 10**6 + clock.decoding

        def decode(*arguments: object) -> None:  # six seconds
            clock.decoding += 6
            pack(*arguments)

        clock.looks = clock.decoding = 0
        pack = packing.pack
        monkeypatch.setattr(packing, "pack", decode)
        monkeypatch.setattr("time.perf_counter", clock)
        monkeypatch.setattr(machine_speed, "MATRIX", {"cpu": 8})
        monkeypatch.setattr(machine_speed, "COPIED", {"cpu": 8})
        found, = benchmark.main(["--batch_size", "2", "--clips", "4", "--rounds", "1", "--image_size", "64",
                                 "--amp", "off", "--csv", str(tmp_path / "rows.csv"), *MACHINE])
    monkeypatch.undo()
    for what, expected in (("bare step", 2), ("epoch, cache off", 2), ("epoch, cache ram", 2), ("evaluation", 20),
                           ("first epoch, cache off", 2), ("first epoch, cache ram", 0.5)):
        assert found[what] == pytest.approx(expected, rel=1e-3), what
    assert 0 < found["waiting, cache off"] < 1e-4 and 0.1 < found["memory, GB"] < 100
    assert (len(borders.training), len(borders.evaluation)) == (13, 4)  # one counts operations; two rounds
    crops = [tuple(seen.inputs["visual"].flatten().tolist()) for seen in borders.training[1:]]
    assert len(set(crops)) == 4, "two batches of either loader; bare steps take the first of them again and again"
    lines = capsys.readouterr().out.splitlines()
    assert any(re.search(r"epoch, cache ram +2\.0 +[+-]0\.0% over the bare steps", line) for line in lines)
    with (tmp_path / "rows.csv").open() as file:
        assert float(next(csv.DictReader(file))["evaluation"]) == pytest.approx(20, rel=1e-3)


def test_the_benchmark_tells_a_folder_that_is_not_there_before_it_measures(tmp_path):
    with pytest.raises(InputError, match=r"--csv .*rows\.csv: there is no folder .*none, make it first"):
        benchmark.main(["--csv", str(tmp_path / "none" / "rows.csv"), "--clips", "1000000"])


def test_the_benchmark_tells_how_long_steps_wait_and_what_making_a_loader_takes(monkeypatch):
    now = [0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Slow:  # five seconds to make, three a batch
        batch_sampler = ()

        def training(self, dataset: object) -> "Slow":
            now[0] += 5
            return self

        def __iter__(self) -> Iterator[int]:
            for number in range(2):
                now[0] += 3
                yield number

    watched = benchmark.Watched(Slow(), None)
    for _ in watched:
        now[0] += 10
    assert (watched.made, watched.waited) == (5, 6)


def test_the_benchmark_counts_the_operations_of_a_training_step(tiny_encoders):
    with FakeTensorMode():
        network = AVClassifier(6, mmcosine=True)  # two ResNet-18
        learner = Learner(network, Compute(torch.device("cpu"), torch.float32, {}), "sgd", 0.1, 0, 10, 0.1)
        inputs = [torch.randn(2, 1, 257, 299), torch.randn(2, 3, 1, 224, 224)]
        batch = Batch(inputs, torch.zeros(2, dtype=torch.int64), 1.0, 0.0)
        assert benchmark.operations(benchmark.Setting("", None, learner, {}, batch)) == pytest.approx(27.7, rel=0.01)
