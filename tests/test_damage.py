"""Images that are damaged behind valid first and last bytes: named, counted, left out on request, decoded once."""

import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SMALL

from dataset.errors import InputError
from dataset.files import check_image, read_image
from dataset.preparation import clips as prep
from dataset.whole_files import machine
from main_CD import load_splits, main, parse
from utils.training import damage

PICTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8), (5, 5), 2)


def overwrite_middle(path: Path, count: int = 60) -> None:
    """Damage that leaves the size, the beginning and the end."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle:middle + count] = np.random.default_rng(1).bytes(count)
    path.write_bytes(data)


def only_ends_like_a_jpeg(path: Path) -> None:
    path.write_bytes(b"not an image at all" + b"\xff\xd9")


@pytest.fixture(params=[".jpg", ".png"])
def image(request, tmp_path) -> Path:
    path = tmp_path / f"frame{request.param}"
    cv2.imwrite(str(path), PICTURE)
    return path


def test_an_image_that_is_damaged_behind_valid_ends_is_refused_by_name_with_the_reason(image, capfd):
    overwrite_middle(image)
    check_image(image)  # its ends alone show nothing
    with pytest.raises(InputError, match="^" + re.escape(str(image)) + r" cannot .* damaged: (Corrupt JPEG|libpng)"):
        read_image(image)
    assert capfd.readouterr().err == "", "a line of the library without the file's name"


def test_what_others_write_to_stderr_meanwhile_is_passed_on_and_is_no_damage(image, capfd, monkeypatch):
    decode = cv2.imdecode

    def with_a_warning(*arguments):
        os.write(2, b"libpng warning: iCCP: known incorrect sRGB profile\n")
        return decode(*arguments)

    monkeypatch.setattr(cv2, "imdecode", with_a_warning)
    assert read_image(image).shape == (96, 128, 3)
    assert capfd.readouterr().err == "libpng warning: iCCP: known incorrect sRGB profile\n"


def test_stderr_is_as_before_after_images_whole_and_damaged(image, capfd):
    before = sorted(os.listdir("/proc/self/fd"))
    read_image(image)
    overwrite_middle(image)
    with pytest.raises(InputError):
        read_image(image)
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n" and sorted(os.listdir("/proc/self/fd")) == before


def test_a_preparation_extracts_frames_with_damage_again(tmp_path):
    prep.write_frames(tmp_path / "clip", [PICTURE, PICTURE], 95)
    assert prep.has_frames(tmp_path / "clip")
    overwrite_middle(tmp_path / "clip" / "frame_00002.jpg")
    assert not prep.has_frames(tmp_path / "clip")


@pytest.fixture
def copied(tiny_data, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns(damage.DECODED)))


def flags(root: Path, *more: str) -> list[str]:
    return ["--train", "--dataset", "tiny", "--data_root", str(root), "--ckpt_path", str(root.parent / "runs"),
            *SMALL, *more]


def frame_of(root: Path, split: str) -> Path:
    clip = (root / f"{split}.csv").read_text().split(",")[0]
    return next((root / "Image-01-FPS" / clip).glob("*.jpg"))


@pytest.mark.parametrize("harm", [overwrite_middle, only_ends_like_a_jpeg])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_frame_stops_a_run_before_training_and_can_be_skipped_by_count(copied, split, harm, capsys):
    frame = frame_of(copied, split)
    harm(frame)
    with pytest.raises(InputError, match=f"1 of 36 clips cannot be used:\n  {frame.parent.name}: {frame} cannot be "):
        main(flags(copied))
    assert not (copied.parent / "runs").exists(), "a run was begun"
    splits = load_splits(parse(flags(copied, "--skip_missing")))
    counts = {"train": 24, "test": 12}
    counts[split] -= 1
    assert {"train": len(splits.train), "test": len(splits.test)} == counts
    assert frame.parent.name not in {clip.name for part in (splits.train, splits.test) for clip in part.clips}
    assert "1 of 36 clips" in capsys.readouterr().out


def test_the_second_start_decodes_only_what_has_changed(copied, monkeypatch):
    decoded = []
    monkeypatch.setattr(damage, "read_image", lambda path: decoded.append(path) or read_image(path))
    load_splits(parse(flags(copied)))
    assert len(decoded) == len(set(decoded)) == len(list(copied.glob("Image-01-FPS/*/*.jpg")))
    decoded.clear()
    load_splits(parse(flags(copied)))
    assert decoded == []
    frame = frame_of(copied, "test")
    overwrite_middle(frame)
    for _ in range(2):  # damaged ones are not remembered
        with pytest.raises(InputError):
            load_splits(parse(flags(copied)))
    assert decoded == [frame, frame]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"x": 3}'])
def test_a_damaged_list_of_decoded_images_is_made_again(copied, content):
    (copied / damage.DECODED).write_text(content)
    load_splits(parse(flags(copied)))
    assert len(json.loads((copied / damage.DECODED).read_text())) >= 36


def test_what_a_killed_start_left_of_the_list_is_removed(copied):
    left = copied / f".999999999-{machine()}.{damage.DECODED}"
    left.touch()
    load_splits(parse(flags(copied)))
    assert not left.exists() and (copied / damage.DECODED).is_file()


def test_without_the_visual_modality_no_image_is_decoded(copied):
    only_ends_like_a_jpeg(frame_of(copied, "train"))
    assert len(load_splits(parse(flags(copied, "--modality", "audio"))).train) == 24


def test_many_images_are_decoded_by_the_loaders_processes_with_the_same_findings(tmp_path, monkeypatch):
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}.jpg")
        cv2.imwrite(str(paths[-1]), PICTURE)
    overwrite_middle(paths[4])
    alone = damage.find_damaged(paths, 0)
    monkeypatch.setattr(damage, "WORTH_WORKERS", 1)
    assert damage.find_damaged(paths, 2) == alone and list(alone) == [paths[4]]


def test_a_folder_that_cannot_be_written_to_is_a_note(copied, monkeypatch, capsys):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert len(load_splits(parse(flags(copied))).train) == 24
    assert "Read-only file system" in (out := capsys.readouterr().out) and "decode every image again" in out


def test_a_list_of_decoded_images_that_is_nested_too_deep_is_written_anew(tmp_path):
    (tmp_path / damage.DECODED).write_text("[" * 200_000)
    assert damage.read_known(tmp_path) == {}
