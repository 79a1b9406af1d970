"""Which clips are to be cut from which videos: from folders by class, or from a list of one's own."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dataset.errors import InputError, check_name, counted, first_few, readable
from dataset.lists import NOT_A_NAME, read_table
from dataset.names import VIDEOS, composed, first_suffixes, is_hidden, is_named, on_disk
from dataset.preparation.clips import walk

SPLITS = ("train", "val", "test")
COLUMNS = ("path", "label", "split", "start", "end")


class Source(NamedTuple):
    """A clip: its name and label, the video it is cut from (None: not there), from `start` to `end` seconds (None: its
    end). split: "" where none is given. group: clips of a group stay on one side of a split. looked_for: where the
    video should be, if a list says so."""

    name: str
    label: str
    video: Path | None
    start: float = 0.0
    end: float | None = None
    split: str = ""
    group: str = ""
    looked_for: Path | None = None


def from_folders(root: Path) -> list[Source]:
    """`<root>/<class>/**/*.mp4`; says how many files are none of these. Raises InputError: no class, a class without a
    video, one video twice, two videos that would be one clip."""
    if not root.is_dir():
        raise InputError(f"no folder {root}: with --videos name one that holds a folder of videos for each class")
    entries = sorted(path for path in root.iterdir() if not is_hidden(path.name))
    classes = [path for path in entries if path.is_dir()]
    if not classes:
        loose = [path.name for path in entries if is_named(path.name, VIDEOS)]
        only = f", only {counted(len(loose), 'video')}" if loose else ""
        raise InputError(f"{root} holds no folder{only}: put the videos into one folder for each class, or name them "
                         "in a csv with --list")
    sources, others = [], [path for path in entries if path not in classes]
    for folder in classes:
        check_name(folder)
        label = composed(folder.name)
        check_label(label)
        every = [Path(place, file) for place, files in walk(folder) for file in files]
        videos = [path for path in every if is_named(path.name, VIDEOS)]
        others += [path for path in every if not is_named(path.name, VIDEOS)]
        if not videos:
            raise InputError(f"the folder {folder} holds no video ({first_suffixes(VIDEOS)}): add some, or remove the "
                             "folder")
        sources += [Source(name_of(path.relative_to(root)), label, path) for path in videos]
    tell_left_out([path.relative_to(root) for path in others], "no videos by their names, or in no class")
    check_unique(sources, str(root))
    check_not_nested(sources)
    check_copies(sources)
    return sources


def tell_left_out(files: Sequence[Path], why: str) -> None:
    """Prints how many files are left out, and the first of them. why: what they are."""
    if files:
        they = counted(len(files), "file", "is")
        print(f"{they} left out, as {why}: {first_few([readable(path) for path in files])}")


def check_label(label: str) -> None:
    """Raises InputError: stat.csv could not hold it."""
    if NOT_A_NAME.search(label) or label != label.strip():
        raise InputError(f"{label!r} cannot be the name of a class: leave out line ends and spaces at its ends")


def name_of(path: Path) -> str:
    return composed(path.with_suffix("").as_posix())


def check_unique(sources: Sequence[Source], where: str) -> None:
    """Raises InputError: two videos give a clip of one name."""
    first: dict[str, Source] = {}
    for source in sources:
        if source.name in first:
            raise InputError(f"{where}: {first[source.name].video} and {source.video} would both be the clip "
                             f"{source.name}: rename one, or list it once")
        first[source.name] = source


def check_not_nested(sources: Sequence[Source]) -> None:
    """Raises InputError: the frames of a clip would be in the folder of another clip's."""
    names = {source.name for source in sources}
    nested = [(name, above) for name in sorted(names) for above in map(str, Path(name).parents) if above in names]
    if nested:
        name, above = nested[0]
        raise InputError(f"the clips {above} and {name} cannot both be prepared, as the one would be a folder of the "
                         f"other: rename a video or a folder ({len(nested)} such pairs)")


def check_copies(sources: Sequence[Source]) -> None:
    """Raises InputError: clips are the same part of the same video, under whatever names."""
    contents = contents_of({source.video for source in sources if source.video})
    first: dict[tuple, Source] = {}
    copies = []
    for source in sources:
        if source.video in contents:
            other = first.setdefault((contents[source.video], source.start, source.end), source)
            copies += [(other, source)] * (other is not source)
    if copies:
        copies.sort(key=lambda pair: pair[0].label == pair[1].label)
        told = [f"{source.name} of {other.name}" + f" (in two classes, {other.label} and {source.label})"
                * (other.label != source.label) for other, source in copies]
        they = counted(len(copies), "clip", "is")
        raise InputError(f"{they} {'a copy' if len(copies) == 1 else 'copies'}, the same part of the same video, which "
                         f"could be trained on and tested: {first_few(told, 20)}. Remove one of each two")


def contents_of(videos: Iterable[Path]) -> dict[Path, object]:
    """{video: what only files of the same content share}. What is empty or cannot be read is left out: it is named when
    it is prepared."""
    by_size, contents = defaultdict(list), {}
    for video in videos:
        with suppress(OSError):
            by_size[video.stat().st_size].append(video)
    for size, same in by_size.items():
        for video in same if size else ():
            with suppress(OSError), video.open("rb") as file:
                contents[video] = hashlib.file_digest(file, "sha256").digest() if len(same) > 1 else video
    return contents


# ---- a list of one's own


def from_list(path: Path, folder: Path, group: str | None = None, labelled: bool = True) -> list[Source]:
    """Rows path,label and, if there are such columns, split, start, end (seconds); several clips of one video are
    several rows. group: the column that names what must not be on both sides of a split. labelled: whether there must
    be a label.

    Paths are below `folder`. Comma or semicolon, with or without BOM. Raises InputError, which names the line.
    """
    needed = ["path", *["label"] * labelled, *([group] if group else [])]
    sources = []
    how_to = f"Name a csv with the columns {','.join(needed)}."
    for line, cells in read_table(path, needed, how_to, line_ends=False):
        row = {"label": "" if labelled else "none", **cells}
        try:
            if group and not row[group]:
                raise InputError(f"{group} is empty: with --group every clip needs one")
            sources.append(source_of(row, folder, row[group] if group else ""))
        except InputError as error:
            raise InputError(f"{path}, line {line}: {error}") from None
    check_list(sources, path)
    if labelled:
        check_not_nested(sources)
        check_copies(sources)
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
    if not Path(row["path"]).name or NOT_A_NAME.search(name_of(Path(row["path"])).lstrip("/")):
        raise InputError(f"{row['path']!r} is no path of a file below {folder}: leave out ./ and ../")
    name = part_name(name_of(Path(row["path"])).lstrip("/"), start, end)
    video = on_disk(folder / row["path"])
    return Source(name, row["label"], video if os.path.isfile(video) else None, start or 0.0, end, split, group,
                  looked_for=folder / row["path"])


def part_name(name: str, start: float | None, end: float | None) -> str:
    """The name of a clip: that of its video, and its times as they were written."""
    times = [] if start is None and end is None else [start or 0.0] if end is None else [start or 0.0, end]
    return "_".join([name, *(f"{time:.15g}" for time in times)])


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
        if other is not source and other.video and source.video and other.video != source.video:
            raise InputError(f"{path}: {other.video} and {source.video} would both be the clip {source.name}: rename "
                             "one of them")
        if other is not source:
            labels = f" with the labels {other.label} and {source.label}" if other.label != source.label else ""
            raise InputError(f"{path} lists the clip {source.name} twice{labels}: remove one of the rows")
    without = [source.name for source in sources if not source.split]
    if 0 < len(without) < len(sources):
        raise InputError(f"{path} names the split of some clips only; {len(without)} have none: {first_few(without)}")
