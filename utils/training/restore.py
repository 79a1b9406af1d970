"""Putting a run back where its last.pt left it."""

from collections.abc import Mapping
from pathlib import Path

from dataset.errors import InputError
from utils import distributed
from utils.distributed import print_once
from utils.training import checkpoint
from utils.training.engine import PARTS, Compute, Learner
from utils.training.precision import choice, dtype_named
from utils.training.report import described
from utils.training.same_data import Clips, check_same_data, note_other_order
from utils.training.trained import Trained

IN_LAST_PT = (*PARTS, "history", "class_norms", "iterations", "wall_seconds", "facts", "epoch")


def restore(last: Trained, learner: Learner, facts: Mapping[str, object], clips: Clips) -> dict:
    """Puts `learner` where a last.pt left it -> its content. Raises InputError: not a last.pt, of other data, or
    of another program."""
    path, saved = last.path, checkpoint.checked(last.content, last.path, IN_LAST_PT)
    check_same_data(saved, clips, facts, path, "start a new run with --train")
    note_other_order(saved, clips, path)
    note_other_processes(saved["facts"], path)
    note_other_machine(saved["facts"], learner, path)
    checkpoint.load_model(learner.model, saved, path)
    try:
        learner.load_state_dict(saved)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InputError(f"{path} cannot be resumed from ({reason}): it was written by another program, or with "
                         "another version of torch") from error
    return saved


def in_own_precision(compute: Compute, last: Trained) -> Compute:
    """For a run with --amp auto: `compute` in the precision that the run of a last.pt was started in, also where this
    machine would choose another."""
    before = last.facts.get("precision")
    precision = dtype_named(before)
    if precision in (None, compute.precision):
        return compute
    now = choice("auto", compute.device)
    print_once(f"note: {last.path} was computed in {before}, and the run continues in it; a new run would choose "
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
