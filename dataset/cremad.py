"""Clips in the CREMA-D layout: CREMA-D, or any other dataset in the same layout (stat.csv lists the classes).

    <root>/stat.csv train.csv test.csv         see dataset/lists.py
    <root>/AudioWAV/<clip>.wav
    <root>/Image-01-FPS/<clip>/*.jpg           in the natural order of their names (2 before 10); or .png
    <root>/image/<clip>.jpg                    instead: one image a clip

Suffixes may be in upper case, and names on disk in another normal form of Unicode than in the lists.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from dataset.clips import FURTHER, MODALITIES, ClipFiles, find_each
from dataset.errors import InputError
from dataset.files import check_audio, check_image
from dataset.frames import find_frames
from dataset.lists import Clip, read_text
from dataset.names import on_disk
from dataset.whole_files import read_json

EMOTIONS = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "FEA": "fear", "DIS": "disgust", "ANG": "angry"}
PAPER_COUNTS = {"train": 6698, "test": 744}  # the lists of OGM-GE, which the paper uses
AUDIO_FOLDER = "AudioWAV"
VARIANT_NOTE = "prepare_variant.json"  # of a variant of prepared data, as scripts/prepare_grid.py makes them


def not_comparable(usable: Mapping[str, int]) -> str:
    """The message for an incomplete test or training set of the paper's lists.

    usable: {split: number of usable clips}.
    """
    told = " and ".join(f"{usable[split]:,} of {count:,} {name} clips" for (split, name), count in zip(
        (("train", "training"), ("test", "test")), PAPER_COUNTS.values(), strict=True) if split in usable)
    return f"of the paper's lists, {told} are usable: results are not comparable with the paper's"


def audio_path(root: Path, name: str) -> Path:
    return on_disk(root / AUDIO_FOLDER / f"{name}.wav")


def frames_folder(root: Path, fps: int = 1) -> Path:
    """The folder that holds one folder of frames per clip."""
    return root / f"Image-{fps:02d}-FPS"


def frames_rule(root: Path, fps: int = 1) -> str | None:
    """The --frames of prepare_cremad.py that extracted the frames: `ogm_ge` or `middle`.

    None if no note says so: the frames are from another program or from a version up to 0.2. Raises
    InputError: the note cannot be read.
    """
    folder = frames_folder(root, fps)
    note = folder.with_name(f"{folder.name}.txt")
    return read_text(note).strip() if note.is_file() else None


def frames_told(root: Path, fps: int = 1) -> str:
    """A sentence that compares the frames of a folder with those of the paper's release."""
    folder, rule = frames_folder(root, fps), frames_rule(root, fps)
    if rule == "ogm_ge" and folder.is_dir():
        return f"{folder} holds those of --frames ogm_ge, to which the paper's release refers"
    if not folder.is_dir():
        return f"{root} has no {folder.name}: it is not known which frames its single images are"
    which = f"those of --frames {rule}" if rule else (
        "frames without a note (scripts/prepare_cremad.py up to version 0.2 took the middles of equal parts)")
    return (f"{folder} holds {which}. They may not be the paper's: to get those of its release, remove that folder "
            "and run scripts/prepare_cremad.py")


def clip_folder(root: Path, fps: int, name: str) -> Path:
    """The folder of a clip's frames."""
    return on_disk(frames_folder(root, fps) / name)


def variant_of(root: Path) -> str | None:
    """Which variant of a data set is below `root`, such as `babble_snr -5.0, voices 6`.

    Variants have clips of the same names and other files. None: the data is no variant. Raises
    InputError: the note is damaged.
    """
    path = root / VARIANT_NOTE
    if not path.is_file():
        return None
    note = read_json(path, f"prepare {root} again")
    if note.get("babble_snr") is None:  # a fold: the same files in other lists
        return None
    return ", ".join(f"{name} {value}" for name, value in note.items() if not name.endswith("sha256"))  # those of lists


def find_clip(root: Path, clip: Clip, fps: int = 1, modalities: Sequence[str] = MODALITIES) -> ClipFiles:
    """The files of one clip, after a check that they exist and have valid headers. Raises InputError."""
    audio = audio_path(root, clip.name)
    frames: tuple[Path, ...] = ()
    if "audio" in modalities:
        check_audio(audio)
    if "visual" in modalities:
        frames = clip_frames(root, clip.name, fps)
    further = tuple((name, FURTHER[name].find(root, clip.name)) for name in modalities if name in FURTHER)
    return ClipFiles(clip.name, clip.label, audio, frames, further)


def clip_frames(root: Path, name: str, fps: int) -> tuple[Path, ...]:
    """`Image-<fps>-FPS/<name>/*.jpg`, else the single `image/<name>.jpg`. Raises InputError."""
    folder = clip_folder(root, fps, name)
    single = on_disk(root / "image" / f"{name}.jpg")
    frames = find_frames(folder)
    if not frames and single.is_file():
        check_image(single)
        frames = (single,)
    if not frames:
        raise InputError(f"no frames: neither {folder}/*.jpg nor {single} exists")
    return frames


def find_clips(root: Path, clips: Iterable[Clip], fps: int = 1,
               modalities: Sequence[str] = MODALITIES) -> tuple[list[ClipFiles], dict[str, str]]:
    """(files of the usable clips, {name: error} of the others), both in the order of the list."""
    return find_each(partial(find_clip, root, fps=fps, modalities=modalities), clips)
