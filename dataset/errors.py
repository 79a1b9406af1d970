"""The one exception that an entry script turns into a sentence and exit status 2, and how such sentences name many."""

from collections.abc import Mapping, Sequence
from pathlib import Path


class InputError(ValueError):
    """The user's input cannot be used: the message names the file (or flag) and the next step."""


class DiskError(InputError):
    """A file cannot be written, would not fit, or is closed to this user: the message names it and the reason."""


def first_few(names: Sequence[str], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def counted(count: int, noun: str, verb: str = "") -> str:
    """`1 file`, `2 files`; with the verb "is" `1 file is`, `2 files are`, with "has" `2 files have`."""
    verbs = {"is": "are", "has": "have", "was": "were", "holds": "hold"}
    words = [f"{count:,}", noun if count == 1 else f"{noun}s", verb if count == 1 else verbs.get(verb, verb)]
    return " ".join(word for word in words if word)


def report_problems(problems: Mapping[str, str], total: int, what: str = "clips") -> str:
    """One message for all clips that cannot be used: their count, the first few with the reason."""
    lines = [f"{len(problems)} of {total} {what} cannot be used:"]
    lines += [f"  {name}: {reason}" for name, reason in list(problems.items())[:5]]
    if len(problems) > 5:
        lines.append(f"  and {len(problems) - 5} more: {first_few(list(problems)[5:])}")
    return readable("\n".join(lines))


def readable(text: object) -> str:
    """The text with what is not UTF-8 (in names of files) as escapes, `\\udce9`: it can be printed and written."""
    return str(text).encode(errors="backslashreplace").decode()


def check_name(path: Path) -> None:
    """Raises InputError: its name is not UTF-8. Decoders fail on such a name, or crash, and lists cannot hold it."""
    if readable(path) != str(path):
        raise InputError(f"the name of {readable(path)} is not UTF-8: rename the file or its folder")
