"""Putting a run back where its last.pt left it, after a check that the file is one that this run wrote."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dataset.errors import InputError
from models import MultimodalClassifier
from utils import distributed
from utils.distributed import print_once
from utils.training import checkpoint
from utils.training.engine import PARTS, Compute, Learner
from utils.training.precision import choice, dtype_named
from utils.training.report import described
from utils.training.same_data import Clips, check_same_data, note_other_order
from utils.training.trained import Trained

IN_LAST_PT = (*PARTS, "history", "class_norms", "iterations", "wall_seconds", "facts", "epoch")
OF_THE_SCHEDULE = ("step_size", "gamma", "base_lrs")  # the run's settings fix them


def restore(last: Trained, learner: Learner, facts: Mapping[str, object], clips: Clips,
            metrics: Sequence[str]) -> dict:
    """Puts `learner` where a last.pt left it -> its content. Raises InputError: not a last.pt, of other data, or
    damaged. metrics: names that every record of the history has."""
    path, saved = last.path, checkpoint.checked(last.content, last.path, IN_LAST_PT)
    check_same_data(saved, clips, facts, path, "start a new run with --train")
    note_other_order(saved, clips, path)
    note_other_processes(saved["facts"], path)
    note_other_machine(saved["facts"], learner, path)
    checkpoint.load_model(learner.model, saved, path)
    wrong = [*wrong_history(saved, learner.model, metrics), *wrong_state(saved, learner)]
    if wrong:
        raise InputError(f"{path} cannot be resumed from: {' and '.join(wrong)} in it cannot be this run's. It is "
                         "damaged, or was written by another program")
    learner.load_state_dict(saved)
    return saved


def in_own_precision(compute: Compute, last: Trained) -> Compute:
    """For a run with --amp auto: `compute` in the precision that the run of a last.pt was started in, also where this
    machine would choose another."""
    before = last.facts.get("precision")
    precision = dtype_named(before)
    if precision in (None, compute.precision):
        return compute
    now = choice("auto", compute.device)
    print_once(f"note: {last.path} is of a run in {before} and goes on so; a new run would choose "
               f"{str(now.precision).removeprefix('torch.')} here ({now.reason})")
    return compute._replace(precision=precision)


def note_other_processes(facts: Mapping[str, object], path: Path) -> None:
    before = facts.get("processes", distributed.size())
    if before != distributed.size():
        print_once(f"note: {path} was written by a run of {before} processes, now there are {distributed.size()}: "
                   "results will differ a little from those of an uninterrupted run")


def note_other_machine(facts: Mapping[str, object], learner: Learner, path: Path) -> None:
    now = described(learner.compute.device, learner.compute.precision)
    before = {name: facts.get(name, value) for name, value in now.items()}
    if before != now:
        print_once(f"note: {path} was written on {before['device']} in {before['precision']}, this is {now['device']} "
                   f"in {now['precision']}: results will differ a little from those of an uninterrupted run")


def wrong_history(saved: Mapping, model: MultimodalClassifier, metrics: Sequence[str]) -> list[str]:
    """Which parts of the history are not what a run writes."""
    wrong = []
    if not all(isinstance(record, dict) and record.get("epoch") == epoch
               and all(is_number(record.get(name)) for name in metrics)
               for epoch, record in enumerate(saved["history"], 1)):
        wrong.append("the history")
    if saved["epoch"] != len(saved["history"]):
        wrong.append("the epoch")
    shape = model.class_weights().shape[:2]
    norms = saved["class_norms"]
    if len(norms) != len(saved["history"]) or not all(isinstance(x, Tensor) and x.shape == shape for x in norms):
        wrong.append("the norms of the class weights")
    return wrong


def wrong_state(saved: Mapping, learner: Learner) -> list[str]:
    """Which parts of the learner's state are of another form than its own; PyTorch's schedulers take any state."""
    method, optimizer, scheduler, scaler = (saved[name] for name in ("method", "optimizer", "scheduler", "scaler"))
    wrong = []
    if not same_form(learner.method.state_dict(), method):
        wrong.append("the state of the balancing method")
    if not fits_optimizer(optimizer, scheduler, learner):
        wrong.append("the state of the optimizer")
    own = learner.scheduler.state_dict()
    same = all(scheduler.get(name) == own[name] for name in OF_THE_SCHEDULE)
    known = {name: scheduler.get(name, value) for name, value in own.items()}  # other versions of PyTorch have others
    if not same or known["last_epoch"] != saved["epoch"] or not same_form(own, known):
        wrong.append("the state of the learning rate schedule")
    if not same_form(learner.scaler.state_dict(), scaler):
        wrong.append("the state of the loss scaler")
    return wrong


def fits_optimizer(saved: Mapping, scheduler: Mapping, learner: Learner) -> bool:
    """Whether a state has this optimizer's groups with its settings, the schedule's learning rates, and for its
    parameters tensors of their shapes; after an epoch SGD has its momentum."""
    groups, states = saved.get("param_groups"), saved.get("state")
    own = learner.optimizer.state_dict()["param_groups"]
    if not isinstance(states, dict) or not isinstance(groups, list) or len(groups) != len(own):
        return False
    for mine, theirs in zip(own, groups, strict=True):
        if not isinstance(theirs, dict) or not is_number(theirs.get("lr")):
            return False
        how = dict.fromkeys(("lr", "fused", "foreach"))  # these two may differ between devices
        if {**mine, **theirs, **how} != {**mine, **how}:
            return False
    rates = [group["lr"] for group in groups]
    if scheduler.get("_last_lr", rates) != rates:
        return False
    if scheduler.get("last_epoch") and not states and not learner.scaler.is_enabled():  # which may have skipped all
        return False
    shapes = dict(enumerate(x.shape for group in learner.optimizer.param_groups for x in group["params"]))
    return all(number in shapes and isinstance(state, dict) and all(
        value is None or is_number(value) or (isinstance(value, Tensor) and value.shape in (shapes[number], ()))
        for value in state.values()) for number, state in states.items())


def same_form(own: object, saved: object) -> bool:
    """Whether two states have the same keys, shapes and kinds of values."""
    if isinstance(own, Tensor):
        return isinstance(saved, Tensor) and saved.shape == own.shape
    if isinstance(own, dict):
        return isinstance(saved, dict) and saved.keys() == own.keys() and all(
            same_form(value, saved[name]) for name, value in own.items())
    if isinstance(own, list | tuple):
        return isinstance(saved, list | tuple) and len(own) == len(saved) and all(map(same_form, own, saved))
    return is_number(saved) if is_number(own) else isinstance(saved, type(own))


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
