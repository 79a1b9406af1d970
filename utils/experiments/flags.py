"""Flags of the scripts that open finished runs, and of those that plan runs. Nothing here is slow to import: --help is
answered at once."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.cli import number


class Machine(NamedTuple):
    """What may differ between a run and its evaluation on this machine. data_root: None for the run's own."""

    data_root: Path | None = None
    device: str = "auto"
    num_workers: int = 2


def add_run_flags(parser: ArgumentParser) -> None:
    usual = Machine()
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--data_root", type=Path, help="folder of the data; default: the run's")
    parser.add_argument("--device", default=usual.device, help="auto (a GPU if there is one), cpu, cuda or "
                        "cuda:<index>")
    parser.add_argument("--num_workers", type=number(int, 0, 1024), default=usual.num_workers,
                        help="data loading processes")


def split_argv(argv: Sequence[str],
               parser: ArgumentParser) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """(arguments for `parser`, {flag of the entry script: values}, flags for every run). A flag that is given twice has
    the values of the last time: so the recipes in scripts/*.sh can be changed by further flags."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    own, axes = [], {}
    into = own
    for word in argv[:end]:
        flag, equals, value = word.partition("=")
        if flag.startswith("-") and flag in parser._option_string_actions:
            into = own
        elif flag.startswith("--"):
            into = axes[flag.removeprefix("--")] = [value] if equals else []
            continue
        into.append(word)
    return own, axes, list(argv[end + 1:])
