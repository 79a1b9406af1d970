"""What a flag means. It is said once, where the flag is declared:

    group.add_argument("--cache_size", type=int, default=256, role=MACHINE, needs="cache", compared=True, help="...")

Resuming, evaluation, exports, names of runs, sweeps and tables follow from it. A flag without a role cannot be
declared.
"""

import argparse
from argparse import Action, _ActionsContainer, _ArgumentGroup
from collections.abc import Callable, Mapping
from typing import NamedTuple

from utils import cli

NETWORK = "network"  # what is trained: kept by an evaluation, which cannot change it
INPUT = "input"  # what the network gets: an evaluation says where it differs from the training
TRAINING = "training"  # how it is trained: has no effect on an evaluation
DATA = "data"  # what it is trained and measured on: an evaluation may be of other data
MACHINE = "machine"  # where and how fast it runs: belongs to a command, not to a run
OUTPUT = "output"  # what to do, and where to write: as MACHINE
ROLES = (NETWORK, INPUT, TRAINING, DATA, MACHINE, OUTPUT)

Settings = Mapping[str, object]  # flags as plain values, by name
MayChange = Callable[[Settings, Settings, int], bool]  # (settings before, settings now, whole epochs of the run)


class Meaning(NamedTuple):
    """A flag's role, and what is special about it; None stands for what is usual in its role.

    needs: the flag without which this one has no effect; it is then refused on the command line.
    idle: whether it has no effect beside the other settings of a run; it is then left out of names and comparisons.
    compared: whether runs that differ in it are different runs.
    from_checkpoint: whether an evaluation that does not give it takes it from the checkpoint's run.
    evaluated: for TRAINING, whether an evaluation uses it too.
    may_change: whether a run may be resumed with another value.
    named: "run", if it may be part of a run's name and always tells rows of a table apart; "result", if it is only in
    result.json; else "".
    private: whether it says where or on which machine the run was made, which an export leaves out.
    of_sweep: whether a sweep gives it to each of its runs.
    """

    role: str
    needs: str = ""
    idle: Callable[[Settings], bool] | None = None
    compared: bool | None = None
    from_checkpoint: bool | None = None
    evaluated: bool | None = None
    may_change: MayChange | None = None
    named: str = ""
    private: bool = False
    of_sweep: bool = False

    def is_compared(self) -> bool:
        return self.role not in (MACHINE, OUTPUT) if self.compared is None else self.compared

    def is_from_checkpoint(self) -> bool:
        return self.role not in (MACHINE, OUTPUT) if self.from_checkpoint is None else self.from_checkpoint

    def can_change(self, before: Settings, now: Settings, epochs: int) -> bool:
        return self.may_change(before, now, epochs) if self.may_change else not self.is_compared()

    def is_idle(self, settings: Settings) -> bool:
        return self.lacks_need(settings) or bool(self.idle and self.idle(settings))

    def lacks_need(self, settings: Settings) -> bool:
        return bool(self.needs) and settings.get(self.needs) in (None, False, 0, "off")


def always(before: Settings, now: Settings, epochs: int) -> bool:
    """For `may_change`."""
    return True


class Container(_ActionsContainer):
    """`add_argument` takes the fields of a `Meaning` too."""

    def add_argument(self, *names: str, **arguments: object) -> Action:
        meaning = {name: arguments.pop(name) for name in Meaning._fields if name in arguments}
        if arguments.get("action") != "help" and meaning.get("role") not in ROLES:
            raise ValueError(f"the flag {names[0]} is declared without a role: add role=, one of {', '.join(ROLES)} "
                             "(utils/training/roles.py)")
        action = super().add_argument(*names, **arguments)
        if meaning:
            action.meaning = Meaning(**meaning)
        return action


class Group(Container, _ArgumentGroup):
    """Flags under one heading of --help."""


class RoleParser(Container, cli.Parser):
    """A parser whose flags have a meaning."""

    def add_argument_group(self, *args: object, **arguments: object) -> Group:
        group = Group(self, *args, **arguments)
        self._action_groups.append(group)
        return group

    @property
    def actions(self) -> dict[str, Action]:
        """{name: the flag} in the order of declaration; its `meaning` is a `Meaning`."""
        return {action.dest: action for action in self._actions if action.default is not argparse.SUPPRESS}

    def meanings(self) -> dict[str, Meaning]:
        return {name: action.meaning for name, action in self.actions.items()}

    def idle(self, settings: Settings) -> set[str]:
        """The flags that have no effect beside the others: runs that differ in them alone are the same."""
        return {name for name, meaning in self.meanings().items() if meaning.is_idle(settings)}
