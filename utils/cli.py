"""Flag types, and `run`, which every command starts with: a user's mistake is answered with one sentence on stderr and
exit status 2, never with a traceback."""

import argparse
import math
import signal
import sys
from argparse import ArgumentTypeError, _ActionsContainer
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

from dataset.errors import InputError
from utils.failures import machine_error

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Gives the default of every flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


class DocstringHelpFormatter(argparse.RawDescriptionHelpFormatter, HelpFormatter):
    """The same, with the lines of the description, a script's docstring, left as they are."""


def boolean(text: str) -> bool:
    """`True/False/1/0/yes/no` in any case, as an argparse type (`type=bool` takes "False" for true)."""
    if text.lower() not in TRUE + FALSE:
        raise ArgumentTypeError(f"{text!r} is not one of True, False, 1, 0, yes, no")
    return text.lower() in TRUE


def add_boolean(parser: _ActionsContainer, flag: str, default: bool, help: str) -> None:
    """A flag with an optional value: `--mmcosine` (true), `--mmcosine True`, `--mmcosine False`."""
    parser.add_argument(flag, type=boolean, nargs="?", const=True, default=default, metavar="BOOL", help=help)


def number(kind: Callable[[str], float], low: float, high: float = math.inf, exclusive: bool = False) -> Callable:
    """An argparse type: an int or a float in [low, high], in (low, high) with `exclusive`; never nan or infinite."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is not {'a whole number' if kind is int else 'a number'}") from None
        if not low <= value <= high or value in (math.inf, -math.inf) or (exclusive and value in (low, high)):
            bounds = f"{'more than' if exclusive else 'at least'} {low:g}"
            bounds += f" and {'less than' if exclusive else 'at most'} {high:,}" if high < math.inf else ""
            raise ArgumentTypeError(f"{text} is out of range: expected {bounds}")
        return value

    return convert


def run(main: Callable[[list[str]], object]) -> None:
    """Calls `main(sys.argv[1:])`. The exit status is 2, with a message, after an InputError, an OSError or an error of
    the machine (utils/failures.py); 130 after Ctrl-C, 143 after SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8; stderr does this already
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        said = machine_error(error) or error
        if isinstance(said, OSError):
            said = f"{said.filename or 'a file'} cannot be read or written: {said.strerror or said}"
        elif not isinstance(said, InputError):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {said}", file=sys.stderr)
        sys.exit(2)
