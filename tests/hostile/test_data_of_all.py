"""Every entry script on data that is missing, damaged, contradictory or something else altogether."""

import importlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from answers import DATA, check_refused, make_all
from conftest import SMALL

pytestmark = pytest.mark.hostile

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    return make_all(tmp_path_factory.mktemp("original"))


@pytest.fixture
def data(originals, tmp_path) -> Callable[[str], Path]:
    """A copy to do harm to: its files are links to the originals until they are replaced."""
    return lambda script: Path(shutil.copytree(originals[script], tmp_path / "data", copy_function=os.link))


def replace(path: Path, content: bytes | str) -> None:
    """Written anew, so that the original stays as it is."""
    path.unlink()
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def in_the_middle(path: Path) -> None:
    """Of what is encoded: damage in the tables before it may leave another valid picture."""
    data = path.read_bytes()
    middle = (data.rindex(b"\xff\xda") + len(data)) // 2
    count = min(60, len(data) - 2 - middle)
    replace(path, data[:middle] + b"\xff" * count + data[middle + count:])


def samples(path: Path, values: np.ndarray, kind: str = "PCM_16") -> None:
    path.unlink()
    soundfile.write(path, values, 16000, subtype=kind)


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


ANY = {"missing": Path.unlink, "empty": lambda path: replace(path, b""), "a folder": folder_instead,
       "a link to itself": link_to_itself, "a pointer": lambda path: replace(path, POINTER),
       "text": lambda path: replace(path, "no media at all " * 99), "a pipe": pipe_instead,
       "random": lambda path: replace(path, np.random.default_rng(0).bytes(3000)),
       "its first half": lambda path: replace(path, path.read_bytes()[:path.stat().st_size // 2])}
WAV = {**ANY, "no samples": lambda path: samples(path, np.zeros(0)),
       "not a number": lambda path: samples(path, np.full(999, np.nan), "FLOAT")}
JPG = {**{what: harm for what, harm in ANY.items() if what != "missing"},  # a clip has others
       "damage in the middle": in_the_middle, "only an end": lambda path: replace(path, b"x" * 99 + b"\xff\xd9")}
MEDIA = [("main_CD", "AudioWAV/*.wav", WAV), ("main_CD", "Image-01-FPS/*/*.jpg", JPG),
         ("main_SSW", "video_ml-16000Hz/*.wav", WAV), ("main_SSW", "video_ml-1fps/*/*.jpg", JPG),
         ("main_Vox", "train/wav/*/*/*.wav", WAV), ("main_Vox", "test/wav/*/*/*.wav", WAV),
         ("main_UCF", "frames/*/*/rgb*.jpg", JPG), ("main_UCF", "flow_dis/*/*/u*.jpg", JPG)]
LIGHT = {"no samples", "missing", "damage in the middle", "a pointer"}


def flags(script: str, root: Path, out: Path) -> list[object]:
    small = ["--flow_frames", "4"] if script == "main_UCF" else []
    small += [part for part in SMALL if script in ("main_CD", "main_SSW") or part not in ("--audio_seconds", "0.6")]
    return ["--train", "--dataset", "x", "--data_root", root, "--ckpt_path", out, "--epochs", "1", *small]


def refused(script: str, root: Path, names: str, *more: object) -> None:
    out = root.parent / "runs"
    check_refused(importlib.import_module(script).main, [*flags(script, root, out), *more], names, root.parent)
    assert not out.exists(), "a folder was begun"


@pytest.mark.parametrize("script, files, harm", [
    pytest.param(script, files, harms[what], id=f"{script}-{files}-{what}", marks=[] if what in LIGHT else pytest.mark.slow)
    for script, files, harms in MEDIA for what in harms])
def test_a_file_that_cannot_be_used_is_named_before_training(data, script, files, harm):
    root = data(script)
    path = sorted(root.glob(files))[0]
    harm(path)
    refused(script, root, re.escape(str(path.parent if "jpg" in path.name else path)))


def rows(path: Path) -> list[str]:
    return path.read_text().splitlines()


def append(path: Path, row: str | bytes) -> None:
    text = path.read_bytes()
    replace(path, text + (row if isinstance(row, bytes) else row.encode()) + b"\n")


LISTS = [
    ("main_CD", "no classes", lambda root: (root / "stat.csv").unlink(), "no stat.csv"),
    ("main_CD", "no train list", lambda root: (root / "train.csv").unlink(), "no train.csv"),
    ("main_CD", "no test list", lambda root: (root / "test.csv").unlink(), "no test.csv"),
    ("main_CD", "empty train list", lambda root: replace(root / "train.csv", ""), r"data/train\.csv lists no clip"),
    ("main_CD", "empty test list", lambda root: replace(root / "test.csv", "\n\n"), r"data/test\.csv lists no clip"),
    ("main_CD", "empty classes", lambda root: replace(root / "stat.csv", ""), "stat.csv names 0 classes"),
    ("main_CD", "a class twice", lambda root: append(root / "stat.csv", rows(root / "stat.csv")[0]),
     "stat.csv names a class twice: ANG"),
    ("main_CD", "a class without clips", lambda root: append(root / "stat.csv", "JOY"),
     "no training clip of class JOY"),
    ("main_CD", "unknown label", lambda root: append(root / "train.csv", "a,JOY"), "line 7.*JOY"),
    ("main_CD", "one column", lambda root: append(root / "train.csv", "lonely"), "line 7"),
    ("main_CD", "five columns", lambda root: append(root / "test.csv", "a,b,c,d,e"), r"test\.csv, line 7"),
    ("main_CD", "a clip twice", lambda root: append(root / "train.csv", rows(root / "train.csv")[0]),
     r"train\.csv, line 7: clip .* already listed"),
    ("main_CD", "train in test", lambda root: append(root / "test.csv", rows(root / "train.csv")[0]),
     r"1 clip is in .*train\.csv and in test\.csv"),
    ("main_CD", "not UTF-8", lambda root: append(root / "train.csv", b"caf\xe9,ANG"), "train.csv.*UTF-8"),
    ("main_CD", "a folder", lambda root: folder_instead(root / "train.csv"), "no train.csv"),
    ("main_CD", "a binary list", lambda root: replace(root / "test.csv", bytes(range(256))), r"test\.csv is not UTF-8"),
    ("main_CD", "a nameless clip", lambda root: append(root / "train.csv", ",ANG"), "line 7"),
    ("main_CD", "a clip that is not there", lambda root: append(root / "train.csv", "nobody,ANG"), "nobody"),
    ("main_CD", "a name above", lambda root: append(root / "train.csv", "../a,ANG"), "line 7"),
    ("main_CD", "a name from the root", lambda root: append(root / "train.csv", "/etc/a,ANG"), "line 7"),
    ("main_CD", "a name with a dot before", lambda root: append(root / "test.csv", "./a,ANG"), "line 7"),
    ("main_CD", "a name with NUL", lambda root: append(root / "train.csv", "a\0b,ANG"),
     "line 7.*is not the name of a clip"),
    ("main_SSW", "no species", lambda root: (root / "taxa.csv").unlink(), r"data/taxa\.csv is missing"),
    ("main_SSW", "empty species", lambda root: replace(root / "taxa.csv", ""), r"taxa\.csv has no column label"),
    ("main_SSW", "other columns", lambda root: replace(root / "taxa.csv", "a,b\n1,2\n"),
     r"taxa\.csv has no column label"),
    ("main_SSW", "no videos", lambda root: (root / "video_ml.csv").unlink(), r"data/video_ml\.csv is missing"),
    ("main_SSW", "videos without columns", lambda root: replace(root / "video_ml.csv", "x\n1\n"),
     r"video_ml\.csv has no column asset_id"),
    ("main_SSW", "empty videos", lambda root: replace(root / "video_ml.csv", rows(root / "video_ml.csv")[0]),
     r"video_ml\.csv lists nothing"),
    ("main_SSW", "an unknown species", lambda root: replace(
        root / "video_ml.csv", (root / "video_ml.csv").read_text().replace(",0,train", ",77,train")),
     "line 2: label '77'"),
    ("main_SSW", "an unknown split", lambda root: replace(
        root / "video_ml.csv", (root / "video_ml.csv").read_text().replace("train", "learn")), "line 2: split 'learn'"),
    ("main_SSW", "a video twice", lambda root: append(root / "video_ml.csv", rows(root / "video_ml.csv")[1]),
     "line 10: train000 is already listed in line 2"),
    ("main_SSW", "not prepared", lambda root: shutil.rmtree(root / "video_ml-1fps"), "prepare_ssw60"),
    ("main_SSW", "not UTF-8", lambda root: append(root / "taxa.csv", b"9,caf\xe9,x"), r"taxa\.csv is not UTF-8"),
    ("main_Vox", "no train list", lambda root: (root / "train.csv").unlink(), r"data/train\.csv is missing"),
    ("main_Vox", "no trials", lambda root: (root / "test_pairs.csv").unlink(), r"no .*data/test_pairs\.csv"),
    ("main_Vox", "empty train list", lambda root: replace(root / "train.csv", ""),
     r"data/train\.csv names 0 identities"),
    ("main_Vox", "empty trials", lambda root: replace(root / "test_pairs.csv", ""), r"test_pairs\.csv has 0 targets"),
    ("main_Vox", "one column", lambda root: append(root / "train.csv", "lonely"), "train.csv.*line"),
    ("main_Vox", "an utterance twice", lambda root: append(root / "train.csv", rows(root / "train.csv")[-1]),
     r"data/train\.csv lists .* twice"),
    ("main_Vox", "label 2", lambda root: append(root / "test_pairs.csv", "2,a/b/c.wav,d/e/f.wav"), "label 0 or 1"),
    ("main_Vox", "with itself", lambda root: append(root / "test_pairs.csv", "1,a/b/c.wav,a/b/c.wav"),
     "line 7: .* paired with itself"),
    ("main_Vox", "outside", lambda root: append(root / "test_pairs.csv", "1,../a.wav,b/c.wav"), "below the folder"),
    ("main_Vox", "targets alone", lambda root: replace(
        root / "test_pairs.csv", "".join(f"{row}\n" for row in rows(root / "test_pairs.csv") if row[0] == "1")),
     "2 targets among 2 trials"),
    ("main_Vox", "a trained identity", lambda root: append(
        root / "test_pairs.csv", "0,{},x/y/z.wav".format(rows(root / "train.csv")[-1].split(",")[0])), "trained on"),
    ("main_Vox", "no faces", lambda root: shutil.rmtree(root / "train" / "faces"), "4 of 4 training .*no faces of"),
    ("main_Vox", "a binary list", lambda root: replace(root / "train.csv", bytes(range(256))),
     r"data/train\.csv, line 1"),
    ("main_UCF", "no lists", lambda root: shutil.rmtree(root / "ucfTrainTestlist"),
     r"ucfTrainTestlist/classInd\.txt is missing"),
    ("main_UCF", "no classes", lambda root: (root / "ucfTrainTestlist/classInd.txt").unlink(),
     r"classInd\.txt is missing"),
    ("main_UCF", "no train list", lambda root: (root / "ucfTrainTestlist/trainlist01.txt").unlink(),
     r"trainlist01\.txt is missing"),
    ("main_UCF", "empty test list", lambda root: replace(root / "ucfTrainTestlist/testlist01.txt", ""),
     r"testlist01\.txt lists no clip"),
    ("main_UCF", "junk", lambda root: append(root / "ucfTrainTestlist/trainlist01.txt", "what is this"),
     r"trainlist01\.txt, line 55"),
]


@pytest.mark.parametrize("script, harm, names", [pytest.param(script, harm, names, id=f"{script}-{what}")
                                                 for script, what, harm, names in LISTS])
def test_lists_that_cannot_be_used_are_refused_by_name(data, script, harm, names):
    root = data(script)
    harm(root)
    refused(script, root, names)


@pytest.mark.parametrize("script", DATA)
@pytest.mark.parametrize("what", ["a file", "an empty folder", "another dataset"])
def test_a_data_folder_that_is_something_else_is_named(data, tmp_path, script, what):
    root = tmp_path / "other"
    if what == "another dataset":
        root = data("main_Vox" if script != "main_Vox" else "main_CD")
    elif what == "a file":
        root.write_text("x")
    else:
        root.mkdir()
    check_refused(importlib.import_module(script).main, flags(script, root, tmp_path / "runs"), str(root), tmp_path)


@pytest.mark.parametrize("script", DATA)
def test_a_place_for_runs_that_is_a_file_is_named(data, script):
    root = data(script)
    (root.parent / "runs").write_text("x")
    check_refused(importlib.import_module(script).main, flags(script, root, root.parent / "runs"),
                  re.escape(str(root.parent / "runs")), root.parent)


@pytest.mark.slow
def test_frames_of_different_sizes_in_one_clip_are_named_when_they_are_drawn(data):
    root = data("main_CD")
    for folder in (root / "Image-01-FPS").iterdir():
        cv2.imwrite(str(folder / "frame_00009.jpg"), np.zeros((20, 30, 3), np.uint8))
    from tiny_encoders import tiny

    with tiny():
        check_refused(importlib.import_module("main_CD").main,
                      [*flags("main_CD", root, root.parent / "runs"), "--num_frames", "3"], "differ in size",
                      root.parent / "elsewhere")
