"""The frame of every command: a user's mistake is one sentence on stderr and exit status 2, never a traceback."""

import argparse
import signal
import sys
from collections.abc import Callable

from dataset.errors import InputError

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


def boolean(text: str) -> bool:
    """`True/False/1/0/yes/no` in any case, as an argparse type (`type=bool` takes "False" for true)."""
    if text.lower() not in TRUE + FALSE:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of True, False, 1, 0, yes, no")
    return text.lower() in TRUE


def add_boolean(parser: argparse._ActionsContainer, flag: str, default: bool, help: str) -> None:
    """A flag that stands bare (true) or takes a value: `--mmcosine`, `--mmcosine True`, `--mmcosine False`."""
    parser.add_argument(flag, type=boolean, nargs="?", const=True, default=default, metavar="BOOL", help=help)


def run(main: Callable[[list[str]], object]) -> None:
    """Calls `main(sys.argv[1:])` as a command: InputError -> message and status 2, Ctrl-C -> 130, SIGTERM -> 143."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(f"{sys.argv[0]}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
