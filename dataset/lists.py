"""Clip lists of the CREMA-D layout: `train.csv` and `test.csv` (rows `clip,LABEL`), `stat.csv` (one class per line).

UTF-8 with or without BOM, LF or CRLF, empty lines ignored.
"""

import csv
import io
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dataset.errors import InputError, counted, first_few
from dataset.names import composed
from dataset.whole_files import write_whole

# ./ ../ // and / at either end, control characters and line ends: such names are not those of files below a folder
NOT_A_NAME = re.compile("(^|/)\\.{0,2}(/|$)|[\0-\x1f\x7f-\x9f\u2028\u2029]")


class Clip(NamedTuple):
    name: str
    label: str


class Lists(NamedTuple):
    """classes (C names, sorted: the index of a class is its label), train and test clips."""

    classes: list[str]
    train: list[Clip]
    test: list[Clip]


def read_lists(root: Path, how_to_get: str) -> Lists:
    """Reads the three lists of `root` and checks them against each other.

    Raises InputError: a file is missing (the message ends in `how_to_get`), a row is malformed, a label is not in
    stat.csv, a clip is listed twice or in both lists, a class has no training clip.
    """
    for name in ("stat.csv", "train.csv", "test.csv"):
        if not (root / name).is_file():
            raise InputError(f"no {name} in the data folder {root}. {how_to_get}")
    classes = read_classes(root / "stat.csv")
    train, test = (read_clips(root / name, classes) for name in ("train.csv", "test.csv"))
    both = sorted({clip.name for clip in train} & {clip.name for clip in test})
    if both:
        told = f"{counted(len(both), 'clip', 'is')} in {root / 'train.csv'} and in test.csv: {first_few(both)}"
        raise InputError(f"{told}. Remove them from one of the two.")
    check_every_class_has_a_clip(classes, train, root / "train.csv")
    return Lists(classes, train, test)


def read_classes(path: Path) -> list[str]:
    """The classes in sorted order, whatever their order in the file (as in the release)."""
    classes = sorted(row[0] for _, row in read_rows(path))
    twice = [name for name, n in Counter(classes).items() if n > 1]
    if twice:
        raise InputError(f"{path} names a class twice: {first_few(twice)}")
    if len(classes) < 2:
        raise InputError(f"{path} names {len(classes)} classes, at least 2 are needed (one per line)")
    return classes


def read_clips(path: Path, classes: Sequence[str]) -> list[Clip]:
    """The rows `clip,LABEL` of a list, in file order."""
    clips, first_line = [], {}
    for line, row in read_rows(path):
        if len(row) < 2 or not row[0]:
            raise InputError(f"{path}, line {line}: expected clip,LABEL but found {','.join(row)!r}")
        clip = Clip(row[0], row[1])
        if NOT_A_NAME.search(clip.name):
            raise InputError(f"{path}, line {line}: {clip.name!r} is not the name of a clip: expected a file name, or "
                             "a path below the folder of the data without ./ and ../")
        if clip.label not in classes:
            raise InputError(f"{path}, line {line}: label {clip.label!r} is not in stat.csv ({first_few(classes)})")
        if clip.name in first_line:
            raise InputError(f"{path}, line {line}: clip {clip.name} is already listed in line {first_line[clip.name]}")
        first_line[clip.name] = line
        clips.append(clip)
    if not clips:
        raise InputError(f"{path} lists no clip")
    return clips


def read_lines(path: Path, how_to_get: str = "") -> Iterator[tuple[int, str]]:
    """(line number, text) of every line that is not blank. Raises InputError: the file is missing
    (the message ends in `how_to_get`), or is not UTF-8."""
    check_is_file(path, how_to_get)
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, line


def read_rows(path: Path, how_to_get: str = "", delimiter: str = ",",
              line_ends: bool = False) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, stripped cells) of every row of a csv that is not empty. Raises
    InputError: as `read_lines`, or a quoted cell does not end in its line, unless `line_ends`; a
    stray quotation mark would swallow the next rows."""
    check_is_file(path, how_to_get)
    rows = csv.reader(io.StringIO(read_text(path)), delimiter=delimiter, strict=True)
    first = 1
    try:
        for row in rows:
            if rows.line_num > first and not line_ends:
                raise csv.Error("a quoted cell does not end")
            if any(cells := [cell.strip() for cell in row]):
                yield first, cells
            first = rows.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {first}: {error}. A cell with quotation marks must end in "
                         'its line, and a quotation mark in it is written twice, ""') from None


def read_table(path: Path, columns: Sequence[str], how_to_get: str = "",
               line_ends: bool = True) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of its first line, {column: cell}) of the rows of a csv whose first line names its columns.
    Commas or semicolons. Raises InputError: as `read_rows`, one of `columns` is missing, two
    columns have one name, a row has more or fewer cells than there are columns."""
    first = next(read_lines(path, how_to_get), (1, ""))[1]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    rows = read_rows(path, how_to_get, delimiter, line_ends)
    header = next(rows, (1, []))[1]
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise InputError(f"{path} has two columns named {twice[0]}: remove or rename one of the two")
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}: its first line must name the "
                         f"columns, at least {','.join(columns)} (it has: "
                         f"{first_few(header) or 'nothing'}). {how_to_get}".strip())
    for number, cells in rows:
        if len(cells) != len(header):
            raise InputError(f"{path}, line {number}: {len(cells)} cells, the header names "
                             f"{len(header)} columns")
        yield number, dict(zip(header, cells, strict=True))


def check_is_file(path: Path, how_to_get: str) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing. {how_to_get}".strip())


def read_text(path: Path) -> str:
    """UTF-8 with or without BOM, accents composed (Unicode NFC): a name is one name, however it is written. Raises
    InputError: it is not UTF-8."""
    try:
        return composed(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None


def check_every_class_has_a_clip(classes: Sequence[str], clips: Iterable[Clip], where: object,
                                 otherwise: str = "remove the class from stat.csv") -> None:
    """Raises InputError; the message ends with what to do `otherwise`."""
    empty = sorted(set(classes) - {clip.label for clip in clips})
    if empty:
        raise InputError(f"no training clip of class {first_few(empty)} in {where}: add some, or {otherwise}")


def write_lists(root: Path, lists: Lists) -> None:
    """Writes stat.csv, train.csv and test.csv."""
    for name, rows in (("stat.csv", [[label] for label in lists.classes]), ("train.csv", lists.train),
                       ("test.csv", lists.test)):
        write_clips(root / name, rows)


def write_clips(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Writes one list: one row per clip, or per class."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(path, text.getvalue())


def split_stratified(clips: Sequence[Clip], fraction: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Splits off round(fraction * n) clips of every class, at least one: (rest, held out), both in list order."""
    by_class = group(clips, lambda clip: clip.label)
    rng = random.Random(seed)
    held_out = set()
    for label in sorted(by_class):
        members = sorted(by_class[label])
        if len(members) < 2:
            raise InputError(f"class {label} has {len(members)} clip, a split needs at least 2")
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out.update(rng.sample(members, count))
    return partition(clips, held_out)


def split_by_speaker(clips: Sequence[Clip], fraction: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Splits off round(fraction * n) whole speakers, at least one: no speaker is in both parts."""
    by_speaker = by_speakers(clips)
    count = min(max(1, round(fraction * len(by_speaker))), len(by_speaker) - 1)
    speakers = random.Random(seed).sample(sorted(by_speaker), count)
    return partition(clips, {clip for speaker in speakers for clip in by_speaker[speaker]})


def by_speakers(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """{speaker: clips}, the speaker being the clip's name up to the first underscore: 1001 of 1001_DFA_ANG_XX. Raises
    InputError: a single speaker, or one for each clip."""
    by_speaker = group(clips, lambda clip: clip.name.split("_")[0])
    if len(by_speaker) < 2 or len(by_speaker) == len(clips):
        raise InputError(f"a split by speaker needs clips named <speaker>_..., several per speaker: found "
                         f"{len(by_speaker)} speakers in {len(clips)} clips ({first_few([c.name for c in clips])})")
    return by_speaker


def split_whole_groups(clips: Sequence[Clip], fraction: float, seed: int,
                       groups: Mapping[str, str]) -> tuple[list[Clip], list[Clip]]:
    """Splits off whole groups of about `fraction` of the clips: no group is in both parts. A group whose clips are the
    last ones of a class in the rest stays there. groups: {name of a clip: its group}."""
    by_group = group(clips, lambda clip: groups[clip.name])
    left, held_out = Counter(clip.label for clip in clips), set()
    for name in random.Random(seed).sample(sorted(by_group), len(by_group)):
        members = Counter(clip.label for clip in by_group[name])
        if len(held_out) + len(by_group[name]) > max(1, fraction * len(clips)) and held_out:
            continue
        if all(left[label] > count for label, count in members.items()):
            held_out.update(by_group[name])
            left -= members
    if not held_out:
        raise InputError(f"the {len(by_group)} groups cannot be split so that every class keeps a training clip: more "
                         "groups are needed")
    return partition(clips, held_out)


def group(clips: Iterable[Clip], key: Callable[[Clip], str]) -> dict[str, list[Clip]]:
    groups = defaultdict(list)
    for clip in clips:
        groups[key(clip)].append(clip)
    return groups


def partition(clips: Iterable[Clip], held_out: set[Clip]) -> tuple[list[Clip], list[Clip]]:
    rest, held = [], []
    for clip in clips:
        (held if clip in held_out else rest).append(clip)
    return rest, held
