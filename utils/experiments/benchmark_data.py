"""Data of the sizes that each entry script is made for, to measure its speed on: CREMA-D, SSW60, UCF-101, VoxCeleb.

Pictures have detail at every scale, as photographs have, and sound is noise. There are few different files; clips
beyond them are links to the same.
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import soundfile

from dataset.cremad import audio_path, frames_folder
from dataset.errors import InputError
from dataset.ssw60 import Asset
from dataset.ucf101 import KINDS, LISTS, NOTE, flow_folder, image_path
from dataset.ucf101 import frames_folder as rgb_folder

CLASSES = {"main_SSW.py": 60, "main_UCF.py": 101}
DIFFERENT = 64  # clips
RATE = 16000  # samples per second


def make_data(script: str, root: Path, clips: int) -> list[str]:
    """Writes so many training clips (and some test clips) below `root` -> the script's flags that use them. Raises
    InputError: fewer clips than the data set's classes."""
    if clips < CLASSES.get(script, 1):
        raise InputError(f"--clips {clips}: the data of {script} has {CLASSES[script]} classes, and each needs a "
                         f"training clip: give --clips {CLASSES[script]} or more")
    return WRITERS[script](root, clips)


def make_cremad(root: Path, clips: int) -> list[str]:
    """480x360 frames, one of each clip is used; 2.5 s of sound, which is repeated to 3 s."""
    train, test = names("clip", clips), names("test", DIFFERENT)
    for number, name in numbered([*train, *test]):
        put(root, frames_folder(root) / name / "frame_00001.jpg", number, picture, (360, 480))
        put(root, audio_path(root, name), number, sound, 2.5)
    classes = min(6, clips)
    write_rows(root / "stat.csv", [[f"class{k}"] for k in range(classes)])
    for file, part in (("train.csv", train), ("test.csv", test)):
        write_rows(root / file, [[name, f"class{k % classes}"] for k, name in enumerate(part)])
    return ["--data_root", str(root), "--dataset", "benchmark"]


def make_ssw60(root: Path, clips: int) -> list[str]:
    """Ten 640x360 frames of each video, of which three are used; 10 s of sound."""
    parts = {"train": names("1", clips), "test": names("2", DIFFERENT)}
    write_rows(root / "taxa.csv", [["label", "common_name"], *([k, f"species {k}"] for k in range(60))])
    rows = [[name, k % 60, split] for split, part in parts.items() for k, name in enumerate(part)]
    write_rows(root / "video_ml.csv", [["asset_id", "label", "split"], *rows])
    for number, name in numbered([row[0] for row in rows]):
        asset = Asset(f"video_ml/{name}", "", "", None)
        for frame in range(1, 11):
            put(root, asset.frames(root, 1) / f"frame_{frame:05d}.jpg", 10 * number + frame, picture, (360, 640))
        put(root, asset.sound(root, RATE), number, sound, 10)
    return ["--data_root", str(root), "--dataset", "benchmark"]


def make_ucf101(root: Path, clips: int) -> list[str]:
    """Three 320x240 frames and 16 flow fields of each video."""
    classes = [f"Class{k:03d}" for k in range(101)]
    parts = {"train": range(clips), "test": range(10**6, 10**6 + 101)}
    write_rows(root / LISTS / "classInd.txt", [[f"{k} {name}"] for k, name in enumerate(classes, 1)])
    for split, numbers in parts.items():
        listed = [f"{classes[k % 101]}/v_{classes[k % 101]}_g{k:07d}_c01" for k in numbers]
        write_rows(root / LISTS / f"{split}list01.txt", [[f"{name}.avi"] for name in listed])
        for number, name in numbered(listed):
            for kind, folder, count in (("frames", rgb_folder(root), 3), ("flow", flow_folder(root, "dis"), 16)):
                for what in KINDS[kind]:
                    for frame in range(count):
                        put(root, image_path(folder / name, what, frame), 16 * number + frame, picture, (240, 320))
                note = {"video_frames": 180, "numbers": list(range(count)),
                        "settings": {"flow": "dis", "flow_frames": 16}}
                (folder / name / NOTE).write_text(json.dumps(note), encoding="utf-8")
    return ["--data_root", str(root), "--dataset", "benchmark"]


def make_voxceleb(root: Path, clips: int) -> list[str]:
    """Eight seconds of voice and 16 faces of 256x256 an utterance."""
    for folder, part in (("train", names("id", clips)), ("test", names("other", 40))):
        for number, name in numbered(part):
            put(root, root / folder / "wav" / name / "v/00001.wav", number, sound, 8)
            for face in range(16):
                put(root, root / folder / "faces" / name / f"v/00001/{face:07d}.jpg", number, picture, (256, 256))
        stems = [f"{name}/v/00001" for name in part]
        if folder == "train":
            write_rows(root / "train.csv", [[f"{stem}.wav", stem, name, 16]
                                            for stem, name in zip(stems, part, strict=True)])
        else:
            write_rows(root / "test_pairs.csv", [[k % 2, f"{stems[0]}.wav", f"{stem}.wav"]
                                                 for k, stem in enumerate(stems[1:])])
    return ["--data_root", str(root), "--dataset", "benchmark"]


WRITERS: dict[str, Callable[[Path, int], list[str]]] = {
    "main_CD.py": make_cremad, "main_SSW.py": make_ssw60, "main_UCF.py": make_ucf101, "main_Vox.py": make_voxceleb}


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number:07d}" for number in range(count)]


def numbered(listed: Sequence[str]) -> Iterable[tuple[int, str]]:
    """(number of its content, name) of each clip."""
    return ((place % DIFFERENT, name) for place, name in enumerate(listed))


def put(root: Path, path: Path, content: int, write: Callable[..., None], *settings: object) -> None:
    """A link to the file that `write` makes of this content and these settings."""
    source = root / "different" / f"{write.__name__}-{content}{path.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not source.exists():
        source.parent.mkdir(exist_ok=True)
        write(source, np.random.default_rng(content), *settings)
    os.link(source, path)


def picture(path: Path, rng: np.random.Generator, size: tuple[int, int]) -> None:
    coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) + rng.normal(0, 8, (*size, 3))
    cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))


def sound(path: Path, rng: np.random.Generator, seconds: float) -> None:
    soundfile.write(path, rng.normal(0, 0.1, round(RATE * seconds)), RATE)


def write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
