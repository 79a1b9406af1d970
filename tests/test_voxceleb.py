"""Utterances in the VoxCeleb layout: which files, which samples, which faces, and what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch

from dataset.errors import InputError
from dataset.files import read_excerpt
from dataset.voxceleb import Utterance, UtteranceDataset, find_faces, find_problems, samples_of

RATE = 16000
BOTH = ("audio", "visual")


def write_sound(path: Path, samples: np.ndarray, rate: int = RATE, **options) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return samples


def ramp(samples: int) -> np.ndarray:
    """Every sample tells its place."""
    return np.linspace(-0.9, 0.9, samples).astype(np.float32)


def write_faces(folder: Path, count: int, size: tuple[int, int] = (70, 80), suffix: str = "png") -> None:
    """Grey pictures, the shade of number i is 20 i."""
    folder.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:07d}.{suffix}"), np.full((*size, 3), 20 * number, np.uint8))


@pytest.fixture
def root(tmp_path) -> Path:
    write_sound(tmp_path / "wav/id1/v/1.wav", ramp(80000), subtype="FLOAT")
    write_faces(tmp_path / "faces/id1/v/1", 7)
    return tmp_path


def dataset(root: Path, train: bool, **options) -> UtteranceDataset:
    settings = {"audio_frames": 200, "num_frames": 2, "image_size": 64, "modalities": BOTH, **options}
    return UtteranceDataset(root, [Utterance("id1/v/1.wav", "id1/v/1", 4)], train=train, **settings)


def test_evaluation_takes_the_beginning_and_the_third_face(root):
    item = dataset(root, train=False)[0]
    assert torch.equal(item["audio"], torch.from_numpy(ramp(80000)[:samples_of(200)]))
    assert item["visual"].shape == (1, 3, 64, 64) and item["visual"].unique().tolist() == [40] and item["label"] == 4
    write_faces(root / "faces/id1/v/2", 2)
    short = UtteranceDataset(root, [Utterance("id1/v/1.wav", "id1/v/2", 0)], train=False, audio_frames=33, num_frames=2,
                             image_size=64, modalities=("visual",))[0]
    assert short["visual"].unique().tolist() == [20] and short.keys() == {"visual", "label"}


def test_training_takes_an_excerpt_from_anywhere_and_faces_spread_over_the_clip(root):
    torch.manual_seed(0)
    items = [dataset(root, train=True)[0] for _ in range(60)]
    whole, wanted = ramp(80000), samples_of(200)
    starts = []
    for item in items:
        start = int(np.abs(whole - item["audio"][0].item()).argmin())
        assert np.array_equal(item["audio"].numpy(), whole[start:start + wanted])
        starts.append(start)
    assert min(starts) < 5000 and max(starts) > 80000 - wanted - 5000 and len(set(starts)) > 50
    shades = {tuple(int(frame.float().mean()) // 20 for frame in item["visual"]) for item in items}
    assert {first for first, _ in shades} == {0, 1, 2, 3} and {second for _, second in shades} == {3, 4, 5, 6}


def test_only_the_excerpt_is_read_from_the_file(root, monkeypatch):
    read, asked = soundfile.SoundFile.read, []

    def counting(self, frames=-1, **options):
        asked.append(frames)
        return read(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    dataset(root, train=True, modalities=("audio",))[0]
    assert asked == [samples_of(200)]


@pytest.mark.parametrize("seconds", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("place", [0.0, 0.99])
def test_short_sound_is_repeated(tmp_path, seconds, place):
    short = write_sound(tmp_path / "a.wav", ramp(round(seconds * RATE)), subtype="FLOAT")
    expected = np.concatenate([short] * 25)[:32240]
    assert np.array_equal(read_excerpt(tmp_path / "a.wav", RATE, 32240, place), expected)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_other_rates_and_stereo_are_resampled_and_mixed_down(tmp_path, rate):
    time = np.arange(5 * rate) / rate
    left, right = np.sin(2 * np.pi * 500 * time), np.sin(2 * np.pi * 800 * time)
    write_sound(tmp_path / "a.wav", 0.5 * np.stack([left, right], 1), rate)
    found = read_excerpt(tmp_path / "a.wav", RATE, 32240, 0.0)
    time = np.arange(32240) / RATE
    expected = 0.25 * (np.sin(2 * np.pi * 500 * time) + np.sin(2 * np.pi * 800 * time))
    assert found.shape == (32240,) and found.dtype == np.float32
    assert np.abs(found - expected)[200:-200].max() < 5e-3


@pytest.mark.parametrize("break_it, message", [
    (lambda path: path.unlink(), "is missing"), (lambda path: path.write_bytes(b""), "is empty"),
    (lambda path: path.write_bytes(b"x" * 3000), "cannot be read as audio"),
    (lambda path: write_sound(path, np.zeros(0, np.float32)), "no sound"),
    (lambda path: write_sound(path, np.full(9000, np.nan, np.float32), subtype="FLOAT"), "NaN or infinite"),
    (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git-lfs pointer")])
def test_broken_sound_is_found_before_training_and_refused_while_reading(root, break_it, message):
    break_it(root / "wav/id1/v/1.wav")
    with pytest.raises(InputError, match=message):
        dataset(root, train=True)[0]
    problems = find_problems(root, [Utterance("id1/v/1.wav", "id1/v/1", 0)], BOTH)
    assert list(problems) == [0] and message in problems[0] and "1.wav" in problems[0]
    assert not find_problems(root, [Utterance("id1/v/1.wav", "id1/v/1", 0)], ("visual",))


def test_faces_are_found_in_both_layouts_sorted_and_hidden_files_left(tmp_path):
    write_faces(tmp_path / "id1/v/1", 3)
    (tmp_path / "id1/v/1/.x.png").write_bytes(b"")
    (tmp_path / "id1/v/1/notes.txt").write_bytes(b"")
    write_faces(tmp_path / "id1#v#2.txt#000.mp4", 2, suffix="jpg")
    (tmp_path / "id1/v/2").mkdir()  # empty: the flat one counts
    write_faces(tmp_path / "id1/v/3", 1, suffix="JPG")
    assert [path.name for path in find_faces(tmp_path, "id1/v/3")] == ["0000000.JPG"]
    assert [path.name for path in find_faces(tmp_path, "id1/v/1")] == [f"{i:07d}.png" for i in range(3)]
    for name in ("id1/v/2", "id1#v#2.txt#000.mp4"):
        assert [path.name for path in find_faces(tmp_path, name)] == ["0000000.jpg", "0000001.jpg"]


def test_missing_empty_and_broken_faces_are_counted_by_place(root):
    (root / "faces/id2").mkdir()
    write_faces(root / "faces/id3", 1)
    (root / "faces/id3/0000000.png").write_bytes((root / "faces/id3/0000000.png").read_bytes()[:60])
    utterances = [Utterance("id1/v/1.wav", faces, 0) for faces in ("id1/v/1", "id2", "id3", "id4")]
    problems = find_problems(root, utterances, BOTH)
    assert list(problems) == [1, 2, 3]
    for place, message in ((1, "no faces of id2: neither"), (2, "cannot be read as an image"), (3, "no faces of id4")):
        assert message in problems[place]


@pytest.mark.parametrize("processes", [1, 3])
def test_many_utterances_are_checked_each_once_by_one_of_the_processes(root, processes):
    utterances = [Utterance("id1/v/1.wav" if i % 700 else "gone.wav", "id1/v/1", i) for i in range(1501)]
    found = [place for part in range(processes) for place in find_problems(root, utterances, BOTH, part, processes)]
    assert sorted(found) == [0, 700, 1400]


def test_faces_of_different_sizes_are_scaled_alike(root):
    write_faces(root / "faces/id1/v/9", 1)
    cv2.imwrite(str(root / "faces/id1/v/9/0000001.png"), np.full((200, 300, 3), 77, np.uint8))
    item = UtteranceDataset(root, [Utterance("id1/v/1.wav", "id1/v/9", 0)], train=True, audio_frames=33, num_frames=2,
                            image_size=64, modalities=("visual",))[0]
    assert item["visual"].shape == (2, 3, 64, 64)
