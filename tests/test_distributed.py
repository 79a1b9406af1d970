"""Several processes compute what one does."""

import os
import platform
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from one_step import SETTINGS
from processes import SERVER
from test_engine import CLASSES, CLIPS, CPU, Vectors
from torch import nn
from torch.utils.data import Subset

from dataset.errors import InputError
from models import MultimodalClassifier
from models.balancing import METHODS
from utils.distributed import choose_device, failing_together, from_first_here
from utils.training.engine import Compute, Learner, evaluate, train_one_epoch
from utils.training.loading import EvaluationBatches, Loaders, TrainBatches, make_loader
from utils.training.trial import Trial, hold_out

EPOCHS = {"inforeg": 3, "reconboost": 3}  # of others 2: what it does begins with the third
BATCHES = {"remix": 7}  # clips; of others 4. Its groups are of 7 and 4: no process lacks clips of a batch
WITHIN_A_PART = ("mcr",)  # methods that compare the clips of each process's part of a batch


def encoder() -> nn.Module:
    """4 numbers -> 8 features, by a convolution: OGM changes gradients of these alone."""
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 8, 2), nn.Flatten())


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double()


class Unsaved(Trial):
    """Of no run."""

    def save(self) -> None:
        pass


def train_and_evaluate(rank: int, processes: int) -> tuple[torch.Tensor, dict, dict]:
    """(weights after some epochs by each method, figures, the evaluation's): batches of 4, 4 and 3 clips, MMCosine, no
    BatchNorm. In float64, so that sums in another order are no excuse."""
    compute = Compute(CPU, torch.float32, {"audio": Double(), "visual": Double()})
    weights, trained = [], {}
    _, clips = hold_out(Vectors(), Subset(Vectors(), range(4)), Loaders(3, 0, 0, CPU), 0)
    for name, kind in METHODS.items():
        torch.manual_seed(0)
        model = MultimodalClassifier({"audio": encoder(), "visual": encoder()}, CLASSES, (*kind.fusions, "concat")[0],
                                     mmcosine="mmcosine" not in kind.without, dim=8).double()
        learner = Learner(model, compute, "sgd", 0.1, 1e-4, 100, 0.1, kind(model, **SETTINGS[name]).double(),
                          accumulate=2 if name == "none" else 1)
        loader = make_loader(Vectors(), TrainBatches(CLIPS, BATCHES.get(name, 4), 0, rank, processes), 0, 0, CPU)
        learner.method.prepare(learner, 1, Unsaved(learner, Vectors(), Loaders(3, 3, 0, CPU), 3, 0.0, None))
        found = learner.method.state_dict()
        trained.update({f"{name} {key} {i}": number for key, value in found.items()
                        for i, number in enumerate(value.flatten().tolist())})
        # trials end alike but for the last bits, which the training after them would magnify
        learner.method.load_state_dict({name: value.round(decimals=3) for name, value in found.items()})
        for epoch in range(1, EPOCHS.get(name, 2) + 1):
            torch.manual_seed(epoch)
            learner.method.begin_epoch(epoch, learner, clips)
            figures = train_one_epoch(learner, loader, lam=0)
            if name not in WITHIN_A_PART:
                trained.update({f"{name} {figure}": value for figure, value in figures.items()})
            learner.method.end_epoch(learner, clips)
        if name not in WITHIN_A_PART:
            compared = model
            state = [*model.state_dict().values(), *learner.method.state_dict().values()]
            weights += [value.flatten().double() for value in state]
    test = make_loader(Vectors(), EvaluationBatches(CLIPS, 4, rank, processes), 0, 0, CPU)
    return torch.cat(weights), trained, evaluate(compared, test, compute)


def one_of(rank: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=processes)
    torch.save(train_and_evaluate(rank, processes), f"{folder}/{rank}.pt")
    Path(folder, f"{rank}.txt").write_text(fail_in_one(rank))
    dist.destroy_process_group()


def fail_in_one(rank: int, failing: int = 1) -> str:
    """How an error of process `failing` ends in this one."""
    try:
        with failing_together():
            if rank == failing:
                raise InputError(f"of process {failing}")
    except InputError as error:
        return str(error)
    except SystemExit as exit:
        return f"exit {exit.code}"
    return "went on"


def test_processes_train_and_evaluate_as_one_does_also_on_ragged_batches_and_end_together(tmp_path):
    processes = 3
    weights, trained, evaluated = train_and_evaluate(0, 1)
    torch.multiprocessing.start_processes(one_of, (processes, str(tmp_path)), processes, start_method=SERVER)
    for rank in range(processes):
        theirs, their_trained, their_evaluated = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(theirs, weights, rtol=1e-9, atol=1e-12)
        assert their_trained == pytest.approx(trained, rel=1e-6)  # in float32, as what trials find
        assert their_evaluated == pytest.approx(evaluated, rel=1e-6)
    ends = [(tmp_path / f"{rank}.txt").read_text() for rank in range(processes)]
    assert ends == ["of process 1", "exit 2", "exit 2"]


def of_two_machines(rank: int, folder: str) -> None:
    """Two processes on each; how errors end in this one, and what the first one of its machine says: <rank>.txt."""
    os.environ.update(TORCHELASTIC_RUN_ID="tests", GROUP_RANK=str(rank // 2), LOCAL_RANK=str(rank % 2))
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=4)
    platform.node = lambda: f"node{rank // 2}"
    said = [fail_in_one(rank, failing) for failing in (1, 2)]
    Path(folder, f"{rank}.txt").write_text(f"{said} {from_first_here(rank)}")
    dist.destroy_process_group()


def test_processes_of_a_machine_take_what_its_own_first_one_says_and_errors_name_another_machine(tmp_path):
    torch.multiprocessing.start_processes(of_two_machines, (str(tmp_path),), 4, start_method=SERVER)
    told = [(tmp_path / f"{rank}.txt").read_text() for rank in range(4)]
    assert told == ["['of process 1', 'on node1: of process 2'] 0", *[f"['exit 2', 'exit 2'] {k}" for k in (0, 2, 2)]]


def test_each_process_gets_its_own_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [choose_device("cuda", [], rank).index for rank in (0, 1)] == [0, 1]
    assert [choose_device("auto", [3, 1], rank).index for rank in (0, 1)] == [3, 1]
    assert choose_device("cuda:2", [], 0).index == 2
    for device, cards, rank in (("cuda", [0, 1], 2), ("cuda:0", [], 1)):
        with pytest.raises(InputError, match="more processes than cards"):
            choose_device(device, cards, rank)
    with pytest.raises(InputError, match="expected auto, cpu, cuda"):
        choose_device("gpu", [], 0)
