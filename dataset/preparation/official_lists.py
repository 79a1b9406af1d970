"""The official lists of AVE, Kinetics-Sounds and VGGSound: which clips are to be cut from which downloaded videos."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dataset.errors import InputError, first_few
from dataset.lists import read_lines, read_rows
from dataset.names import VIDEOS, composed, is_named
from dataset.preparation.clips import walk
from dataset.preparation.videos import SPLITS, Source, part_name, seconds, tell_left_out

HOW_TO_GET = "See the dataset card in data/ for where to get it."


def ave(path: Path, split: str, videos: "Videos") -> Iterator[Source]:
    """`Category&VideoID&Quality&StartTime&EndTime`, with or without that line: the part in which the event is seen and
    heard, of a ten-second video."""
    for line, text in read_lines(path, HOW_TO_GET):
        cells = text.split("&")
        if len(cells) != 5:
            raise InputError(f"{path}, line {line}: expected Category&VideoID&Quality&StartTime&EndTime, found "
                             f"{text!r}")
        if cells[1] == "VideoID":
            continue
        label, name, start, end = cells[0].strip(), cells[1].strip(), *times(path, line, cells[3:])
        yield Source(part_name(f"{safe(label)}/{name}", start, end), label, videos.find(name), start, end, split, name)


def kinetics_sounds(path: Path, split: str, videos: "Videos") -> Iterator[Source]:
    """`ID_start_end,10,label`: ten seconds, from a video named so, or cut from the whole one named ID."""
    for line, text in read_lines(path, HOW_TO_GET):
        cells = [cell.strip() for cell in text.split(",")]
        found = re.fullmatch(r"(.+)_(\d+)_(\d+)", cells[0]) if len(cells) == 3 else None
        if not found:
            raise InputError(f"{path}, line {line}: expected ID_start_end,10,label, found {text!r}")
        yield cut_or_whole(found[1], float(found[2]), float(found[3]), cells[2], split, videos)


def vggsound(path: Path, videos: "Videos") -> Iterator[Source]:
    """`id,start,label,split`: ten seconds, from a video named id_<start, six digits>, or cut from the whole one."""
    for line, row in read_rows(path, HOW_TO_GET):
        if len(row) != 4 or row[3] not in ("train", "test") or not row[1].isdecimal():
            raise InputError(f"{path}, line {line}: expected id,start,label,split, found {','.join(row)!r}")
        name, start, label, split = row
        yield cut_or_whole(name, float(start), float(start) + 10, label, split, videos)


def cut_or_whole(name: str, start: float, end: float, label: str, split: str, videos: "Videos") -> Source:
    """The video that was already cut, else the part of the whole one."""
    clip = part_name(name, start, end)
    for stem in (f"{name}_{start:06.0f}_{end:06.0f}", clip, f"{name}_{start:06.0f}", f"{name}_{start:g}"):
        if videos.find(stem):
            return Source(clip, label, videos.find(stem), 0.0, None, split, name)
    return Source(clip, label, videos.find(name), start, end, split, name)


class Videos:
    """The videos below a folder by their names without suffix. Raises InputError: no folder, two of one name."""

    def __init__(self, root: Path):
        if not root.is_dir():
            raise InputError(f"no folder {root}: name the folder of the downloaded videos with --videos")
        self.found: dict[str, Path] = {}
        others = []
        for path in (Path(place, file) for place, files in walk(root) for file in files):
            if not is_named(path.name, VIDEOS):
                others.append(path)
                continue
            other = self.found.setdefault(composed(path.stem), path)
            if other != path:
                raise InputError(f"two videos are called {path.stem}: {other} and {path}. Remove one of them")
        tell_left_out([path.relative_to(root) for path in others], "no videos by their names")

    def find(self, stem: str) -> Path | None:
        return self.found.get(stem)


def times(path: Path, line: int, cells: Sequence[str]) -> tuple[float, float]:
    """Raises InputError: not two times in order."""
    try:
        start, end = (seconds(cell.strip(), "time") for cell in cells)
    except InputError as error:
        raise InputError(f"{path}, line {line}: {error}") from None
    if start is None or end is None or end <= start:
        raise InputError(f"{path}, line {line}: the part from {cells[0]} to {cells[1]} is empty")
    return start, end


def safe(label: str) -> str:
    """As the name of a folder."""
    return re.sub(r"[^\w-]+", "_", label)


def check_once(sources: Sequence[Source]) -> None:
    """Raises InputError: the lists name a clip twice."""
    first: dict[str, Source] = {}
    for source in sources:
        other = first.setdefault(source.name, source)
        if other.split != source.split:
            raise InputError(f"the clip {source.name} is in the {other.split} and in the {source.split} list: leave it "
                             "out of one with --drop_shared")
        if other is not source:
            raise InputError(f"the {source.split} list names the clip {source.name} twice: remove one of the rows")


def without_shared(sources: Sequence[Source], drop: bool) -> tuple[list[Source], list[str]]:
    """(the clips, what is said about videos that several splits share). drop: their clips are left out of the training
    split, and of the validation split where they are in the test split too."""
    of_split = {split: {source.group for source in sources if source.split == split} for split in SPLITS}
    told, gone = [], {split: set() for split in SPLITS}
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        shared = of_split[one] & of_split[other]
        if shared:
            told.append(f"{len(shared)} videos are in the {one} and in the {other} split: {first_few(sorted(shared))}")
            gone[one] |= shared
    if told and not drop:
        told.append("Clips of one video on both sides make results look too good: leave them out with --drop_shared")
    kept = [source for source in sources if not (drop and source.group in gone[source.split])]
    if drop and told:
        told.append(f"--drop_shared: {len(sources) - len(kept)} clips left out")
    return kept, told
