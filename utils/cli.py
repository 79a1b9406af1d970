"""Flag types, and `run`, which every command starts with: a user's mistake is answered with one sentence on stderr and
exit status 2, never with a traceback."""

import argparse
import math
import os
import re
import signal
import sys
from argparse import ArgumentTypeError, Namespace, _ActionsContainer
from collections.abc import Callable, Sequence
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path

from dataset.errors import InputError
from models.number import Number
from utils.failures import file_error, machine_error
from utils.spelling import did_you_mean, invalid_choice

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


class Parser(argparse.ArgumentParser):
    """No abbreviations; a misspelt flag or value is answered with what is probably meant."""

    def __init__(self, **options: object):
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args: Sequence[str] | None = None,
                   namespace: Namespace | None = None) -> Namespace:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [word for word in unknown if re.match("--?[^\\W\\d]", word)]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{did_you_mean(flags, self.flags())}")
        return parsed

    def flags(self) -> list[str]:
        """`--name` of every flag."""
        return [text for action in self._actions for text in action.option_strings]

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, invalid_choice(value, action.choices))


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


def add_boolean(parser: _ActionsContainer, flag: str, default: bool, help: str, **meaning: object) -> None:
    """A flag with an optional value: `--mmcosine` (true), `--mmcosine True`, `--mmcosine False`. meaning: of an entry
    script's flag (utils/training/roles.py)."""
    parser.add_argument(flag, type=boolean, nargs="?", const=True, default=default, metavar="BOOL", help=help,
                        **meaning)


def argparse_type(kind: Callable[[str], object]) -> Callable[[str], object]:
    """An argparse type from a function that raises ValueError with a sentence, which argparse would not show."""

    def convert(text: str) -> object:
        try:
            return kind(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from None

    return convert


def number(kind: type[int] | type[float], low: float, high: float = math.inf, exclusive: bool = False) -> Callable:
    """An argparse type: an int or a float in [low, high], in (low, high) with `exclusive`; never nan or infinite."""
    return argparse_type(Number(kind, low, high, exclusive))


class Output(FileIO):
    """stdout or stderr. What nobody reads any more (`| head -1`) is dropped; on stderr, which has progress bars and
    notes, whatever cannot be written."""

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if self.fileno() == 1 and not isinstance(error, BrokenPipeError):
                raise
            return len(data)


def output(number: int) -> TextIOWrapper:
    """The stream of the file descriptor 1 or 2; one that is closed goes nowhere. Names in it need not be UTF-8."""
    try:
        os.fstat(number)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        os.set_inheritable(number, True)
    stream = Output(number, "w", closefd=False)
    before = sys.__stdout__ or sys.__stderr__  # None for one that was closed
    by_line = number == 2 or stream.isatty() or bool(before and before.write_through)  # the last: python -u
    return TextIOWrapper(BufferedWriter(stream), encoding=before.encoding if before else "utf-8",
                         errors="backslashreplace", line_buffering=by_line)


def stop(*_: object) -> None:
    """After SIGTERM. From now on the end of a child is expected: a signal to a group of processes ends the loader
    processes too, and torch's handler of SIGCHLD would raise that as an error of its own. torchrun sends a second
    SIGTERM, which would disturb what is done at the end."""
    for number in (signal.SIGCHLD, signal.SIGTERM):  # SIG_IGN would report signals that are on their way
        signal.signal(number, lambda *_: None)
    sys.exit(143)


def run(main: Callable[[list[str]], object]) -> None:
    """Calls `main(sys.argv[1:])`. The exit status is 2, with a message, after an InputError, an OSError about a file or
    an error of the machine (utils/failures.py); 130 after Ctrl-C, 143 after SIGTERM."""
    signal.signal(signal.SIGTERM, stop)
    if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__:  # nobody has put others in their place
        sys.stdout, sys.stderr = output(1), output(2)
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        said = machine_error(error) or error
        if isinstance(said, OSError):
            said = file_error(said) or said
        if not isinstance(said, InputError):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {said}", file=sys.stderr)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to be told
        sys.exit(2)
