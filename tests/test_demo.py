"""The demo data: a CREMA-D layout, the same bytes for the same parameters, nothing of the user's ever removed."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from dataset.cremad import EMOTIONS, find_clips
from dataset.demo.emotions import make_demo
from dataset.errors import InputError
from dataset.files import read_audio
from dataset.lists import read_lists, split_by_speaker

SMALL = {"train_per_class": 2, "test_per_class": 1}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shared") / "demo"
    make_demo(root, train_per_class=4, test_per_class=2)
    return root


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def write_times(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*")}


def test_lists_and_files_are_those_of_the_cremad_layout(demo):
    lists = read_lists(demo, how_to_get="")
    assert lists.classes == sorted(EMOTIONS)
    for clips, per_class in ((lists.train, 4), (lists.test, 2)):
        assert [clip.name.split("_")[2] for clip in clips] == [clip.label for clip in clips]
        assert all([clip.label for clip in clips].count(label) == per_class for label in EMOTIONS)
        found, problems = find_clips(demo, clips)
        assert len(found) == len(clips) and not problems
        assert all(len(clip.frames) == 2 for clip in found)


def test_returned_lists_are_the_written_ones(demo):
    assert make_demo(demo, train_per_class=4, test_per_class=2) == read_lists(demo, how_to_get="")


def test_speakers_are_in_both_lists_and_can_be_split(demo):
    lists = read_lists(demo, how_to_get="")
    speakers = [{clip.name.split("_")[0] for clip in clips} for clips in (lists.train, lists.test)]
    assert speakers[0] == speakers[1] == {"9001", "9002"}
    train, test = split_by_speaker(lists.train + lists.test, fraction=0.5, seed=0)
    assert len(train) == len(test) == 18


def test_sound_is_16_khz_pcm_that_never_clips(demo):
    for path in (demo / "AudioWAV").iterdir():
        header = soundfile.info(path)
        assert (header.samplerate, header.channels, header.subtype) == (16000, 1, "PCM_16")
        wave = read_audio(path, 16000)
        assert 1.0 <= wave.size / 16000 <= 1.61
        assert 0.05 < np.abs(wave).max() < 0.95


def test_frames_are_128_pixels_a_side_and_move(demo):
    for folder in (demo / "Image-01-FPS").iterdir():
        first, second = (cv2.imread(str(path)) for path in sorted(folder.iterdir()))
        assert first.shape == second.shape == (128, 128, 3)
        assert first.std() > 20 and not np.array_equal(first, second)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        make_demo(tmp_path / name, seed=seed, **SMALL)
    first, again, other = (content(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    sounds = [name for name in first if name.endswith(".wav")]
    assert all(first[name] != other[name] for name in sounds if name in other)


def test_face_difficulty_does_not_touch_the_sound(tmp_path):
    make_demo(tmp_path / "plain", **SMALL)
    make_demo(tmp_path / "hard", face_difficulty=2, **SMALL)
    plain, hard = content(tmp_path / "plain"), content(tmp_path / "hard")
    assert all((plain[name] == hard[name]) == (not name.endswith(".jpg")) for name in plain if name != "demo.json")


def test_complete_demo_is_reused_without_writing(demo):
    before = write_times(demo)
    make_demo(demo, train_per_class=4, test_per_class=2)
    assert write_times(demo) == before


def test_half_written_demo_is_completed_to_the_same_bytes(tmp_path):
    make_demo(tmp_path, **SMALL)
    whole = content(tmp_path)
    marker = tmp_path / "demo.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "complete": False}))
    for path in [*(tmp_path / "AudioWAV").iterdir()][3:]:
        path.unlink()
    make_demo(tmp_path, **SMALL)
    assert content(tmp_path) == whole


def test_lost_file_is_made_again(tmp_path):
    clip = make_demo(tmp_path, **SMALL).test[0]
    lost = tmp_path / "Image-01-FPS" / clip.name / "frame_00002.jpg"
    lost.unlink()
    make_demo(tmp_path, **SMALL)
    assert lost.is_file()


def test_other_parameters_replace_the_demo_but_not_other_files(tmp_path):
    make_demo(tmp_path, train_per_class=2, test_per_class=2)
    (tmp_path / "notes.txt").write_text("mine")
    make_demo(tmp_path, **SMALL)
    assert len(list((tmp_path / "AudioWAV").iterdir())) == 6 * 3
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name, text", [("train.csv", "1001_DFA_ANG_XX,ANG\n"), ("demo.json", "{}"),
                                        ("demo.json", "not JSON"), ("demo.json", '["a list"]'),
                                        pytest.param("demo.json", "[" * 200_000, id="nested")])
def test_folder_of_something_else_is_refused_and_left_alone(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="holds no demo data"):
        make_demo(tmp_path, **SMALL)
    assert content(tmp_path) == {name: text.encode()}


def test_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(InputError, match="name another folder"):
        make_demo(tmp_path / "demo", **SMALL)


def test_a_list_without_clips_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least 1 clip"):
        make_demo(tmp_path, train_per_class=2, test_per_class=0)
    assert not content(tmp_path)
