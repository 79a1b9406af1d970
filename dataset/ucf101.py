"""UCF-101: 101 actions in short videos, listed in the official text files.

    <root>/ucfTrainTestlist/classInd.txt            the classes: `1 ApplyEyeMakeup`, counted from 1
    <root>/ucfTrainTestlist/trainlist01.txt         `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`; 02 and 03 alike
    <root>/ucfTrainTestlist/testlist01.txt          the same without the number
    <root>/UCF-101/<Class>/<video>.avi
    <root>/frames/<Class>/<video>/                  rgb_<n>.jpg: frame n, next_<n>.jpg: frame n + 1; clip.json
    <root>/flow_<method>/<Class>/<video>/           u_<n>.jpg, v_<n>.jpg: flow from frame n to n + 1; clip.json

The last two are written by scripts/prepare_ucf101.py; n counts from 0. The class of a video is its folder: files of
HandstandPushups are called v_HandStandPushups_*.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dataset.clips import find_each
from dataset.errors import InputError, counted, first_few
from dataset.files import check_image
from dataset.lists import NOT_A_NAME, Clip, partition, read_lines, split_stratified
from dataset.streams import MotionFiles

SPLITS = (1, 2, 3)
OFFICIAL_CLIPS = 13320
OFFICIAL_COUNTS = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}  # training and test clips
FLOWS = ("dis", "farneback", "tvl1")  # how scripts/prepare_ucf101.py can compute optical flow
LISTS, NOTE = "ucfTrainTestlist", "clip.json"
KINDS = {"frames": ("rgb", "next"), "flow": ("u", "v")}  # the two kinds of images in a prepared folder
GROUP = re.compile(r"(?P<group>.+_g\d+)_c\d+")  # clips of a group are cut from the same video


class Extract(NamedTuple):
    """What clip.json says of a prepared folder: the length of the video, the numbers of the extracted frames, and the
    settings they were extracted with."""

    video_frames: int
    numbers: tuple[int, ...]
    settings: Mapping[str, object]


def video_path(root: Path, name: str) -> Path:
    return root / "UCF-101" / f"{name}.avi"


def frames_folder(root: Path) -> Path:
    return root / "frames"


def flow_folder(root: Path, method: str) -> Path:
    return root / f"flow_{method}"


# ---- the official lists


def read_classes(root: Path, how_to_get: str) -> list[str]:
    """The classes of classInd.txt in the order of their numbers.

    Raises InputError: missing (the message ends in `how_to_get`), malformed, numbers that are not 1, 2, ..., one class.
    """
    path = root / LISTS / "classInd.txt"
    classes: dict[int, str] = {}
    for line, text in read_lines(path, how_to_get):
        words = text.split()
        if len(words) != 2 or not words[0].isdecimal():
            raise InputError(f"{path}, line {line}: expected a number and a class, found {' '.join(words)!r}")
        number, name = int(words[0]), words[1]
        if number in classes or name in classes.values():
            raise InputError(f"{path}, line {line}: number {number} or class {name} is already in the file")
        classes[number] = name
    if sorted(classes) != list(range(1, len(classes) + 1)) or len(classes) < 2:
        raise InputError(f"{path} numbers {len(classes)} classes; expected at least 2, numbered from 1 without gaps")
    return [classes[number] for number in sorted(classes)]


def read_split(root: Path, split: int, classes: Sequence[str], how_to_get: str) -> tuple[list[Clip], list[Clip]]:
    """(training clips, test clips), named `<Class>/<video>`, in the order of the lists.

    Raises InputError: a list is missing, a row is malformed or listed twice, its number is not that of its folder, a
    clip or a group of clips is in both lists.
    """
    paths = [root / LISTS / f"{name}list{split:02d}.txt" for name in ("train", "test")]
    train, test = (read_clips(path, classes, how_to_get) for path in paths)
    both = sorted({clip.name for clip in train} & {clip.name for clip in test})
    if both:
        told = f"{counted(len(both), 'clip', 'is')} in {paths[0]} and in {paths[1].name}: {first_few(both)}"
        raise InputError(f"{told}. Remove them from one of the two")
    shared = sorted({group_of(clip.name) for clip in train} & {group_of(clip.name) for clip in test})
    if shared:
        told = f"{counted(len(shared), 'group', 'has')} clips in {paths[0]} and in {paths[1].name}: {first_few(shared)}"
        raise InputError(f"{told}. Clips of a group are cut from the same video: keep them in one of the two lists")
    return train, test


def read_clips(path: Path, classes: Sequence[str], how_to_get: str) -> list[Clip]:
    clips, first_line = [], {}
    for line, text in read_lines(path, how_to_get):
        words = text.split()
        place = Path(words[0])
        if len(words) > 2 or len(place.parts) != 2 or place.suffix.lower() != ".avi" or NOT_A_NAME.search(words[0]):
            raise InputError(f"{path}, line {line}: expected <Class>/<video>.avi and perhaps the number of the class, "
                             f"found {' '.join(words)!r}")
        name, label = place.with_suffix("").as_posix(), place.parent.name
        if label not in classes:
            raise InputError(f"{path}, line {line}: {label} is not in classInd.txt ({first_few(list(classes))})")
        if len(words) == 2 and words[1] != str(classes.index(label) + 1):
            raise InputError(f"{path}, line {line}: the number {words[1]} and the folder {label} disagree, classInd.txt"
                             f" gives {label} the number {classes.index(label) + 1}. Correct the line")
        if name in first_line:
            raise InputError(f"{path}, line {line}: {name} is already listed in line {first_line[name]}")
        first_line[name] = line
        clips.append(Clip(name, label))
    if not clips:
        raise InputError(f"{path} lists no clip")
    return clips


def group_of(name: str) -> str:
    """`Archery/v_Archery_g08_c01` -> `Archery/v_Archery_g08`; the name itself where no group can be read from it."""
    found = GROUP.fullmatch(name)
    return found["group"] if found else name


def split_by_group(clips: Sequence[Clip], fraction: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Splits off round(fraction * n) of the groups of every class, at least one: (rest, held out), in list order."""
    groups = list(dict.fromkeys(Clip(group_of(clip.name), clip.label) for clip in clips))
    held_out = {group.name for group in split_stratified(groups, fraction, seed)[1]}
    return partition(clips, {clip for clip in clips if group_of(clip.name) in held_out})


# ---- the prepared files


def find_clips(root: Path, clips: Iterable[Clip], modalities: Sequence[str],
               flow: str) -> tuple[list[MotionFiles], dict[str, str]]:
    """(the clips with usable files, {name: what is wrong} of the others), in list order. flow: the method."""
    return find_each(partial(find_clip, root, modalities=modalities, flow=flow), clips)


def find_clip(root: Path, clip: Clip, modalities: Sequence[str], flow: str) -> MotionFiles:
    """The files of a clip that the modalities need, after a check that they are complete. Raises InputError."""
    files, lengths = {}, {}
    for kind, folder in needed_folders(root, modalities, flow).items():
        extract = read_extract(folder / clip.name)
        if kind == "flow" and extract.settings.get("flow") != flow:
            raise InputError(f"the flow in {folder / clip.name} was made by {extract.settings.get('flow')}, not by "
                             f"{flow}: flow of several methods is not mixed. Prepare it again with --flow {flow}")
        lengths[folder / clip.name] = extract.video_frames
        for name in KINDS[kind]:
            files[name] = image_paths(folder / clip.name, name, extract)
    if len(set(lengths.values())) > 1:
        found = " and ".join(f"{folder} of one of {frames} frames" for folder, frames in lengths.items())
        raise InputError(f"two different videos: {found}. Remove both folders and prepare the clip again")
    return MotionFiles(clip.name, clip.label, **files)


def needed_folders(root: Path, modalities: Sequence[str], flow: str) -> dict[str, Path]:
    """{kind of images: its folder} of those that the modalities need."""
    folders = {}
    if {"rgb", "difference"} & set(modalities):
        folders["frames"] = frames_folder(root)
    if "flow" in modalities:
        folders["flow"] = flow_folder(root, flow)
    return folders


def read_extract(folder: Path) -> Extract:
    """What clip.json says. Raises InputError: not prepared, or damaged."""
    try:
        found = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return Extract(int(found["video_frames"]), tuple(map(int, found["numbers"])), dict(found["settings"]))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} does not exist or is incomplete (it has no {NOTE}): run scripts/prepare_ucf101.py "
                         "again") from None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{folder / NOTE} is damaged: remove {folder} and run scripts/prepare_ucf101.py "
                         "again") from None


def image_paths(folder: Path, name: str, extract: Extract) -> tuple[Path, ...]:
    """`<name>_<n>.jpg` of every frame that clip.json names. Raises InputError: one is missing, or truncated."""
    paths = tuple(image_path(folder, name, number) for number in extract.numbers)
    missing = [path.name for path in paths if not path.is_file()]
    if missing or not paths:
        raise InputError(f"{folder} is half extracted, {len(missing)} of {len(paths)} {name} images are missing: "
                         "remove it and run scripts/prepare_ucf101.py again")
    for path in paths:
        check_image(path)
    return paths


def image_path(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}_{number:05d}.jpg"


def check_prepared(root: Path, modalities: Sequence[str], flow: str, flow_frames: int, clips: Sequence[Clip]) -> None:
    """One message where there would be one for each clip. Raises InputError: a folder that the preparation creates is
    missing, or has fewer flow fields than --flow_frames asks for."""
    for kind, folder in needed_folders(root, modalities, flow).items():
        command = f"python scripts/prepare_ucf101.py --data_root {shlex.quote(str(root))} --flow {flow}"
        if not folder.is_dir():
            raise InputError(f"{folder} does not exist. Create it with: {command}")
        first = next((clip for clip in clips if (folder / clip.name / NOTE).is_file()), None)
        prepared = read_extract(folder / first.name).settings.get("flow_frames", 0) if first else flow_frames
        if kind == "flow" and int(prepared) < flow_frames:
            raise InputError(f"{folder} has {prepared} flow fields per clip, --flow_frames {flow_frames} needs more. "
                             f"Compute them with: {command} --flow_frames {flow_frames}")
