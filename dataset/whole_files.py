"""Files that are written whole or not at all."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def write_whole(path: Path, content: str | Callable[[Path], None]) -> None:
    """Writes text, or whatever `content(path)` writes, under a temporary name in the same folder and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # keeps the suffix, which writers look at
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str] = ()) -> None:
    """Writes a table with a header: `columns` first, then every other key of the rows in the order in which they come.

    A cell is empty where a row has no such key, or None.
    """
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())
