"""Names of files: which are media by their suffix, which are hidden, when two are the same, and their order."""

import errno
import itertools
import os
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

# the suffixes of all scripts, in lower case; upper and lower case are the same everywhere
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv", ".mpg", ".mpeg", ".m4v", ".wmv", ".ts", ".3gp", ".ogv",
          ".mts", ".m2ts", ".vob", ".asf", ".f4v", ".3g2", ".mxf", ".dv", ".qt")
SOUNDS = (".wav", ".m4a", ".flac", ".mp3", ".ogg", ".opus", ".aac", ".wma", ".aif", ".aiff")
IMAGES = (".jpg", ".jpeg", ".png")
SAME_SUFFIX = {".jpeg": ".jpg", ".mpeg": ".mpg"}
# beside names that begin with a dot, as macOS' ._ files do: what systems and their archives add to folders
OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin",
              "system volume information", "icon\r"}
LONGEST_SUFFIX = max(map(len, (*VIDEOS, *SOUNDS, *IMAGES)))
DIGITS = re.compile("([0-9]+)")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: hidden, or made by an operating system."""
    return name.startswith(".") or name.lower() in OF_SYSTEMS


def is_named(name: str, suffixes: Collection[str]) -> bool:
    """Whether a file that is not hidden has one of these suffixes (lower case)."""
    return os.path.splitext(name)[1].lower() in suffixes and not is_hidden(name)


def composed(name: str) -> str:
    """Unicode NFC: macOS and its archives write an accent as a character of its own (NFD)."""
    return unicodedata.normalize("NFC", name)


def canonical(name: str) -> str:
    """Equal for two names of the same file: composed, with the suffix in lower case (.jpeg is .jpg)."""
    stem, suffix = os.path.splitext(composed(name))
    return stem + SAME_SUFFIX.get(suffix.lower(), suffix.lower())


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A key to sort by: 2.jpg is before 10.jpg. Zero-padded numbers stay in their order."""
    return [int(part) if index % 2 else part for index, part in enumerate(DIGITS.split(name))], name


def find_images(folder: Path) -> list[str]:
    """The names of the images in a folder in their natural order; [] if there is no folder."""
    try:
        return sorted((name for name in os.listdir(folder) if is_named(name, IMAGES)), key=natural_order)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return []
        raise


def on_disk(path: Path) -> Path:
    """The existing path that `path` means: itself, or the same name in another spelling (see
    `canonical`).

    Folders above may be spelled differently too. `path` if there is none.
    """
    if os.path.lexists(path) or path.name in ("", ".."):
        return path
    folder = on_disk(path.parent)
    if not os.path.isdir(folder):
        return path
    there = (name for name in spellings(path.name) if os.path.lexists(folder / name))
    name = next(there, None) or (None if path.name.isascii() else of_any_form(path.name, folder))
    return folder / name if name else path


def of_any_form(name: str, folder: Path) -> str | None:
    """The name of the same file in a folder; accents in it may be partly composed and partly not."""
    wanted = canonical(name)
    return next((other for other in sorted(os.listdir(folder)) if canonical(other) == wanted), None)


def spellings(name: str) -> list[str]:
    """How a file of this name may be called."""
    stem, suffix = os.path.splitext(name)
    suffixes = [suffix, *(other for pair in SAME_SUFFIX.items() if suffix.lower() in pair for other in pair)]
    written = [way for kind in suffixes
               for way in (kind, kind.lower(), kind.upper(), *in_any_case(kind))]
    stems = [stem, *(unicodedata.normalize(form, stem) for form in ("NFC", "NFD"))]
    return list(dict.fromkeys(stem + way for stem in stems for way in written))


def in_any_case(suffix: str) -> Iterator[str]:
    """.mp4, .mP4, .Mp4, .MP4; nothing for a suffix that is longer than those of media."""
    if len(suffix) <= LONGEST_SUFFIX:
        letters = [dict.fromkeys((letter.lower(), letter.upper())) for letter in suffix]
        yield from map("".join, itertools.product(*letters))


def last_name(folder: Path) -> str:
    """The name of a folder, also of `.` and `..`."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def beside(folder: Path, ending: str) -> Path:
    """The path beside `folder` whose name has the ending: `data/digits`, `-fold0` ->
    `data/digits-fold0`.

    `.` has the name of the current folder.
    """
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(named.name + ending)


def cut_to(name: str, most: int) -> str:
    """The beginning of a name, of at most so many bytes."""
    return os.fsencode(name)[:most].decode(errors="ignore")


def first_suffixes(suffixes: Sequence[str], most: int = 5) -> str:
    """`.mp4, .mkv, ...`, for messages."""
    return ", ".join([*suffixes[:most], *(["..."] if len(suffixes) > most else [])])
