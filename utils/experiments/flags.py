"""Flags of the scripts that open finished runs. Nothing here is slow to import: --help is answered at once."""

from argparse import ArgumentParser
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
