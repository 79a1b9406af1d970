"""What a run prints, kept in a file."""

import io
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from dataset.whole_files import disk_error


class Log:
    """What the main process prints: in memory until `open` names a file, to which it is appended."""

    def __init__(self):
        self.file: TextIO = io.StringIO()

    def open(self, path: Path) -> None:
        printed = self.file.getvalue() if isinstance(self.file, io.StringIO) else ""
        self.path = path
        self.file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)  # 1: line by line
        self.write(printed)

    def write(self, text: str) -> None:
        """Raises DiskError."""
        try:
            self.file.write(text)
        except OSError as error:
            raise disk_error(self.path, error) from error

    def close(self) -> None:
        with suppress(OSError):  # what could not be written was an error then
            self.file.close()
        self.file = io.StringIO()
