"""Which clips are to be cut from which videos: from folders by class, or from a list of one's own."""

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dataset.errors import InputError, check_name, first_few
from dataset.lists import NOT_A_NAME, read_text
from dataset.preparation.clips import walk

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv", ".mpg", ".mpeg", ".m4v", ".wmv", ".ts", ".3gp", ".ogv")
SPLITS = ("train", "val", "test")
COLUMNS = ("path", "label", "split", "start", "end")


class Source(NamedTuple):
    """A clip: its name and label, the video it is cut from (None: not there), from `start` to `end` seconds (None: its
    end). split: "" where none is given. group: clips of a group stay on one side of a split."""

    name: str
    label: str
    video: Path | None
    start: float = 0.0
    end: float | None = None
    split: str = ""
    group: str = ""


def from_folders(root: Path) -> list[Source]:
    """`<root>/<class>/**/*.mp4`. Raises InputError: no class, a class without a video, one video in two classes, two
    videos that would be one clip."""
    if not root.is_dir():
        raise InputError(f"no folder {root}: with --videos name one that holds a folder of videos for each class")
    classes = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        loose = [path.name for path in root.iterdir() if path.suffix.lower() in SUFFIXES]
        raise InputError(f"{root} holds no folder{f', only {len(loose)} videos' if loose else ''}: put the videos into "
                         "one folder for each class, or name them in a csv with --list")
    sources = []
    for folder in classes:
        check_name(folder)
        check_label(folder.name)
        found = [Path(place, file) for place, files in walk(folder) for file in files
                 if Path(file).suffix.lower() in SUFFIXES and not file.startswith(".")]
        if not found:
            raise InputError(f"the folder {folder} holds no video ({', '.join(SUFFIXES[:5])}, ...): add some, or "
                             "remove the folder")
        sources += [Source(name_of(path.relative_to(root)), folder.name, path) for path in found]
    check_unique(sources, str(root))
    check_one_class(sources)
    return sources


def check_label(label: str) -> None:
    """Raises InputError: stat.csv could not hold it."""
    if NOT_A_NAME.search(label) or label != label.strip():
        raise InputError(f"{label!r} cannot be the name of a class: leave out line ends and spaces at its ends")


def name_of(path: Path) -> str:
    return path.with_suffix("").as_posix()


def check_unique(sources: Sequence[Source], where: str) -> None:
    """Raises InputError: two videos give a clip of one name."""
    first: dict[str, Source] = {}
    for source in sources:
        if source.name in first:
            raise InputError(f"{where}: {first[source.name].video} and {source.video} would both be the clip "
                             f"{source.name}: rename one, or list it once")
        first[source.name] = source


def check_one_class(sources: Sequence[Source]) -> None:
    """Raises InputError: a file is in the folders of two classes, under whatever names."""
    by_size = defaultdict(list)
    for source in sources:
        by_size[source.video.stat().st_size].append(source)
    for same in by_size.values():
        labels: dict[str, Source] = {}
        for source in same if len({source.label for source in same}) > 1 else ():
            with source.video.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            other = labels.setdefault(content, source)
            if other.label != source.label:
                raise InputError(f"{other.video} and {source.video} are the same file in two classes: remove one")


# ---- a list of one's own


def from_list(path: Path, folder: Path, group: str | None = None, labelled: bool = True) -> list[Source]:
    """Rows path,label and, if there are such columns, split, start, end (seconds); several clips of one video are
    several rows. group: the column that names what must not be on both sides of a split. labelled: whether there must
    be a label.

    Paths are below `folder`. Comma or semicolon, with or without BOM. Raises InputError, which names the line.
    """
    if not path.is_file():
        raise InputError(f"no list {path}: name a csv with the columns path,label with --list")
    text = read_text(path)
    delimiter = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    header = [cell.strip() for cell in rows[0]] if rows else []
    needed = ["path", *["label"] * labelled, *([group] if group else [])]
    missing = [name for name in needed if name not in header]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}: its first line must name the columns, at least "
                         f"{','.join(needed)} (found: {first_few(header) or 'nothing'})")
    sources = []
    for line, cells in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise InputError(f"{path}, line {line}: {len(cells)} cells, the first line names {len(header)} columns")
        row = {"label": "" if labelled else "none", **dict(zip(header, map(str.strip, cells), strict=True))}
        try:
            sources.append(source_of(row, folder, row[group] if group else ""))
        except InputError as error:
            raise InputError(f"{path}, line {line}: {error}") from None
    check_list(sources, path)
    return sources


def source_of(row: Mapping[str, str], folder: Path, group: str) -> Source:
    """Raises InputError; the message does not name file and line."""
    if not row["path"] or not row["label"]:
        raise InputError("path or label is empty")
    check_label(row["label"])
    split = row.get("split", "")
    if split and split not in SPLITS:
        raise InputError(f"split {split!r} is none of {', '.join(SPLITS)}")
    start, end = seconds(row.get("start", ""), "start"), seconds(row.get("end", ""), "end")
    if end is not None and end <= (start or 0.0):
        raise InputError(f"the clip ends at {end:g} s, before it starts at {start or 0:g} s")
    part = "" if start is None and end is None else f"_{start or 0:g}" + ("" if end is None else f"_{end:g}")
    name = Path(row["path"]).with_suffix("").as_posix().lstrip("/") + part
    if NOT_A_NAME.search(name):
        raise InputError(f"{row['path']!r} is no path below {folder}: leave out ./ and ../")
    video = folder / row["path"]
    return Source(name, row["label"], video if video.is_file() else None, start or 0.0, end, split, group)


def seconds(text: str, what: str) -> float | None:
    """A time, None for an empty cell. Raises InputError."""
    if not text:
        return None
    try:
        time = float(text)
    except ValueError:
        time = -1.0
    if not 0 <= time < float("inf"):
        raise InputError(f"{what} {text!r} is no time: expected seconds from the beginning of the video")
    return time


def check_list(sources: Sequence[Source], path: Path) -> None:
    """Raises InputError: nothing is listed, a clip twice, or splits for some clips only."""
    if not sources:
        raise InputError(f"{path} lists no clip")
    first: dict[str, Source] = {}
    for source in sources:
        other = first.setdefault(source.name, source)
        if other is not source:
            labels = f" with the labels {other.label} and {source.label}" if other.label != source.label else ""
            raise InputError(f"{path} lists the clip {source.name} twice{labels}: remove one of the rows")
    without = [source.name for source in sources if not source.split]
    if 0 < len(without) < len(sources):
        raise InputError(f"{path} names the split of some clips only; {len(without)} have none: {first_few(without)}")
