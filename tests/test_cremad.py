"""Clips in the CREMA-D layout: which files, which frames, what an item holds, and what is refused."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import REAL_DATA, needs_real_data
from PIL import Image

from dataset.clips import ClipDataset
from dataset.cremad import find_clip, find_clips
from dataset.errors import InputError, report_problems
from dataset.frames import frame_indices
from dataset.lists import Clip, read_lists

RATE = 16000


def write_sound(root: Path, name: str, samples: int = 1600, **options) -> np.ndarray:
    wave = np.random.default_rng(len(name)).uniform(-0.9, 0.9, samples).astype(np.float32)
    (root / "AudioWAV").mkdir(exist_ok=True)
    soundfile.write(root / "AudioWAV" / f"{name}.wav", wave, RATE, subtype="FLOAT", **options)
    return wave


def write_frames(folder: Path, names: Sequence[str], size: tuple[int, int] = (48, 36)) -> None:
    """Images (width, height) whose red is 60 times their place, and whose green grows from left to right."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        image = np.zeros((size[1], size[0], 3), np.uint8)
        image[..., 0] = 60 * i
        image[..., 1] = np.linspace(0, 255, size[0])
        Image.fromarray(image).save(folder / f"{name}.jpg", quality=95)


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("a", "b", "c"):
        write_sound(tmp_path, name)
        write_frames(tmp_path / "Image-01-FPS" / name, ["0001", "0002", "0003"])
    return tmp_path


def dataset(root: Path, names: Sequence[str] = ("a",), train: bool = False, fps: int = 1,
            modalities: Sequence[str] = ("audio", "visual"), **options) -> ClipDataset:
    clips = [find_clip(root, Clip(name, "HAP"), fps, modalities) for name in names]
    return ClipDataset(clips, ["ANG", "HAP"], train=train, modalities=modalities,
                       **{"audio_seconds": 0.2, "image_size": 32, **options})


@pytest.mark.parametrize("available, wanted", [(1, 1), (2, 1), (3, 1), (4, 1), (10, 3), (9, 3), (3, 3), (2, 3), (1, 4),
                                               (300, 16)])
def test_evaluation_takes_the_frame_in_the_middle_of_each_equal_segment(available, wanted):
    middle = [(2 * i + 1) * available // (2 * wanted) for i in range(wanted)]
    assert frame_indices(available, wanted, train=False) == middle


@pytest.mark.parametrize("available, wanted", [(1, 1), (7, 1), (10, 3), (9, 3), (3, 3), (2, 3), (1, 4), (2, 5)])
def test_training_takes_any_frame_of_each_segment_and_no_other(available, wanted):
    torch.manual_seed(0)
    draws = [frame_indices(available, wanted, train=True) for _ in range(300)]
    for i in range(wanted):
        segment = set(range(i * available // wanted, -((-(i + 1) * available) // wanted)))  # floor to ceiling
        assert {draw[i] for draw in draws} == segment


@pytest.mark.parametrize("train", [False, True])
def test_fewer_frames_than_wanted_are_repeated_in_order(train):
    chosen = frame_indices(2, 5, train)
    assert len(chosen) == 5 and chosen == sorted(chosen) and {chosen[0], chosen[-1]} == {0, 1}


def test_frames_are_found_in_the_folder_of_their_rate_in_numeric_order(root):
    write_frames(root / "Image-02-FPS" / "a", ["10", "9", "1"])
    assert [path.name for path in find_clip(root, Clip("a", "HAP"), fps=2).frames] == ["1.jpg", "9.jpg", "10.jpg"]
    found = find_clip(root, Clip("a", "HAP"))
    assert [path.relative_to(root).as_posix() for path in found.frames] == [
        f"Image-01-FPS/a/000{i}.jpg" for i in (1, 2, 3)]
    assert found.audio == root / "AudioWAV" / "a.wav" and (found.name, found.label) == ("a", "HAP")


def test_a_single_image_serves_only_where_there_are_no_frames(root):
    write_frames(root / "image", ["a", "d"])
    write_sound(root, "d")
    (root / "Image-01-FPS" / "d").mkdir()  # empty
    assert find_clip(root, Clip("d", "HAP")).frames == (root / "image" / "d.jpg",)
    assert len(find_clip(root, Clip("a", "HAP")).frames) == 3
    item = dataset(root, ["d"], num_frames=3)[0]
    assert item["visual"].shape == (3, 3, 32, 32) and torch.equal(item["visual"][0], item["visual"][2])


def test_hidden_files_are_no_frames(root):
    (root / "Image-01-FPS" / "a" / "._0001.jpg").write_bytes(b"Mac OS X resource fork")
    assert len(find_clip(root, Clip("a", "HAP")).frames) == 3


def test_problems_are_named_clip_by_clip_and_the_others_found_in_list_order(root):
    (root / "AudioWAV" / "b.wav").write_text("version https://git-lfs.github.com/spec/v1\n")
    for name, media in (("e", "sound"), ("f", "frames")):
        write_sound(root, name) if media == "sound" else write_frames(root / "Image-01-FPS" / name, ["1"])
    (root / "Image-01-FPS" / "c" / "0002.jpg").write_bytes(b"")
    clips = [Clip(name, "HAP") for name in "fecba"]
    found, problems = find_clips(root, clips)
    assert [clip.name for clip in found] == ["a"] and list(problems) == ["f", "e", "c", "b"]
    for name, reason in (("f", f"{root}/AudioWAV/f.wav is missing"),
                         ("e", f"no frames: neither {root}/Image-01-FPS/e/*.jpg nor {root}/image/e.jpg exists"),
                         ("c", f"{root}/Image-01-FPS/c/0002.jpg is empty"),
                         ("b", f"{root}/AudioWAV/b.wav is a git-lfs pointer")):
        assert problems[name].startswith(reason)


@pytest.mark.parametrize("count, last", [(1, "  0: wrong 0"), (5, "  4: wrong 4"), (6, "  and 1 more: 5"),
                                         (12, "  and 7 more: 5, 6, 7, 8, 9 and 2 more")])
def test_the_report_counts_all_problems_and_names_the_first(count, last):
    lines = report_problems({str(i): f"wrong {i}" for i in range(count)}, total=20).splitlines()
    assert lines[0] == f"{count} of 20 clips cannot be used:" and lines[-1] == last
    assert lines[1:6][:count] == [f"  {i}: wrong {i}" for i in range(min(count, 5))]


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("train", [False, True])
def test_an_item_has_the_promised_shapes_and_types(root, train, frames):
    item = dataset(root, train=train, num_frames=frames)[0]
    assert set(item) == {"audio", "visual", "label"} and item["label"] == 1
    assert item["audio"].shape == (3200,) and item["audio"].dtype == torch.float32
    assert item["visual"].shape == (frames, 3, 32, 32) and item["visual"].dtype == torch.uint8


def test_an_evaluation_frame_that_has_the_size_already_is_not_touched(root):
    write_frames(root / "Image-01-FPS" / "d", ["1"], size=(32, 32))
    write_sound(root, "d")
    image = np.asarray(Image.open(root / "Image-01-FPS" / "d" / "1.jpg")).astype(int)
    found = dataset(root, ["d"])[0]["visual"][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found.astype(int), image, atol=3)


def test_all_frames_of_a_training_clip_get_the_same_crop_and_flip_and_clips_different_ones(root):
    seen = []
    for seed in range(8):
        torch.manual_seed(seed)
        green = dataset(root, train=True, num_frames=3)[0]["visual"][:, 1].int()  # (T, S, S), the same in all frames
        assert (green - green[0]).abs().max() <= 3  # JPEG
        seen.append(green[0])
    assert all((a - b).abs().max() > 10 for i, a in enumerate(seen) for b in seen[:i])
    assert len({bool(green[0, 0] < green[0, -1]) for green in seen}) == 2  # some flipped, some not


def test_a_training_item_is_fixed_by_torchs_seed_alone(root):
    items = []
    for numpy_seed in (1, 2):
        torch.manual_seed(4)
        np.random.seed(numpy_seed)
        items.append(dataset(root, train=True, num_frames=2)[0]["visual"])
    assert torch.equal(*items)


@pytest.mark.parametrize("modality, folder", [("audio", "Image-01-FPS"), ("visual", "AudioWAV")])
def test_one_modality_does_not_need_the_files_of_the_other(root, modality, folder):
    (root / folder).rename(root / "gone")
    item = dataset(root, modalities=(modality,))[0]
    assert set(item) == {modality, "label"}
    assert not find_clips(root, [Clip("a", "HAP")])[0]  # both do


@pytest.mark.parametrize("name, damage, message", [
    ("Image-01-FPS/a/0002.jpg", lambda path: path.write_bytes(path.read_bytes()[:300]), "0002.jpg cannot be read"),
    ("Image-01-FPS/a/0002.jpg", lambda path: Image.new("RGB", (20, 20)).save(path), "the frames in .*a differ in size"),
    ("AudioWAV/a.wav", lambda path: soundfile.write(path, [np.nan] * 99, RATE, subtype="FLOAT"), "a.wav holds NaN"),
    ("AudioWAV/a.wav", lambda path: path.unlink(), "a.wav is missing")])
def test_media_that_cannot_be_decoded_are_refused_by_name(root, name, damage, message):
    data = dataset(root, num_frames=3)  # found before the damage
    damage(root / name)
    with pytest.raises(InputError, match=message):
        data[0]


@needs_real_data
def test_real_recordings_in_this_layout_become_items():
    root = REAL_DATA / "grid_digits"
    lists = read_lists(root, how_to_get="")
    found, problems = find_clips(root, lists.test[:5])
    assert len(found) == 5 and not problems
    item = ClipDataset(found, lists.classes, train=True, num_frames=3, image_size=48)[2]
    assert item["audio"].shape == (48000,) and item["audio"].std() > 1e-3
    assert item["visual"].shape == (3, 3, 48, 48) and re.fullmatch("[A-Z]+", lists.classes[item["label"]])
