"""The frame of every command: a user's mistake is one sentence on stderr and exit status 2, never a traceback."""

import math
import signal
import sys
from argparse import ArgumentTypeError, _ActionsContainer
from collections.abc import Callable
from pathlib import Path

from utils.errors import InputError

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


def boolean(text: str) -> bool:
    """`True/False/1/0/yes/no` in any case, as an argparse type (`type=bool` takes "False" for true)."""
    if text.lower() not in TRUE + FALSE:
        raise ArgumentTypeError(f"{text!r} is not one of True, False, 1, 0, yes, no")
    return text.lower() in TRUE


def add_boolean(parser: _ActionsContainer, flag: str, default: bool, help: str) -> None:
    """A flag that stands bare (true) or takes a value: `--mmcosine`, `--mmcosine True`, `--mmcosine False`."""
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
            bounds += f" and {'less than' if exclusive else 'at most'} {high:g}" if high < math.inf else ""
            raise ArgumentTypeError(f"{text} is out of range: expected {bounds}")
        return value

    return convert


def run(main: Callable[[list[str]], object]) -> None:
    """Calls `main(sys.argv[1:])`. Status 2 and a message for InputError, OSError; 130 for Ctrl-C, 143 for SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error.filename} cannot be read or written: {error.strerror}",
              file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
