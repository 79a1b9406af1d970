"""scripts/prepare_voxceleb.py: from videos of people who speak to sound, faces and lists."""

import csv
import shutil
import sys
from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile
from conftest import ODD, REAL_DATA, SHOWN, needs_real_data
from films import hear, look, next_command, two_tones

import main_Vox
from dataset.errors import InputError
from dataset.identities import read_train_list
from dataset.preparation import faces, reader
from dataset.trials import read_trials
from dataset.whole_files import machine
from main_Vox import load_data
from main_Vox import parse as parse_vox
from scripts import prepare_voxceleb
from scripts.prepare_voxceleb import main

RATE = 44100


def write_video(path: Path, seconds: float = 2.0, size: tuple[int, int] = (96, 64), sound: bool = True) -> None:
    """A grey picture (width, height) that grows brighter, and a tone in stereo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="stereo") if sound else None
        for number in range(round(10 * seconds)):
            picture = np.full((size[1], size[0], 3), 20 + 10 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if audio:
            tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
            frame.sample_rate = RATE
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


@pytest.fixture(scope="session")
def source_videos(tmp_path_factory) -> Path:
    """Two identities with two utterances each, of 2 s."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("id1/v/1", "id1/w/2", "id2/v/1", "id2/v/2"):
        write_video(folder / f"{name}.mp4")
    return folder


@pytest.fixture
def videos(source_videos, tmp_path) -> Path:
    return Path(shutil.copytree(source_videos, tmp_path / "mp4"))


def argv(videos: Path, tmp_path: Path, split: str = "train") -> list[str]:
    return ["--video", str(videos), "--data_root", str(tmp_path / "out"), "--split", split, "--workers", "2"]


def test_videos_become_wavs_faces_and_a_training_list(videos, tmp_path, capsys):
    assert main(argv(videos, tmp_path)) == {"utterances": 4, "failed": 0, "rows": 4}
    out = tmp_path / "out/train"
    info = soundfile.info(str(out / "wav/id1/w/2.wav"))
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16") and 1.9 < info.duration < 2.2
    pictures = sorted((out / "faces/id1/w/2").iterdir())
    assert [path.name for path in pictures] == [f"{i:07d}.png" for i in range(4)]  # 2 s at 2 a second
    shades = [cv2.imread(str(path)).mean() for path in pictures]
    assert cv2.imread(str(pictures[0])).shape == (224, 224, 3)
    assert shades == sorted(shades) and shades[0] + 100 < shades[3]
    listed = read_train_list(tmp_path / "out/train.csv", "")
    assert listed.identities == ["id1", "id2"] and listed[1].wav == "id1/w/2.wav" and listed[1].faces == "id1/w/2"
    assert (tmp_path / "out/train.csv").read_text().splitlines()[0] == "id1/v/1.wav,id1/v/1,id1,4"
    assert "python main_Vox.py --train" in capsys.readouterr().out and not list(out.rglob(".*"))


def test_test_videos_become_trials_unless_some_are_there(videos, tmp_path):
    main(argv(videos, tmp_path, "test"))
    path = tmp_path / "out/test_pairs.csv"
    trials = read_trials(path, "")
    assert len(trials.labels) == 4 and trials.labels.sum() == 2
    path.write_text("1,id1/v/1.wav,id1/w/2.wav\n0,id1/v/1.wav,id2/v/1.wav\n")
    assert main(argv(videos, tmp_path, "test"))["rows"] == 2


def test_what_was_prepared_is_what_main_vox_reads(videos, tmp_path):
    main(argv(videos, tmp_path))
    for number in (7, 8):
        (videos / f"id{number - 6}").rename(videos / f"id{number}")
    main(argv(videos, tmp_path, "test"))
    data = load_data(parse_vox(["--train", "--data_root", str(tmp_path / "out")]))
    assert data.train[0]["audio"].shape == (32240,) and data.test.utterances[0]["visual"].shape == (1, 3, 224, 224)


def test_an_interrupted_run_goes_on_and_does_nothing_twice(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reader, "read_frames", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        main(argv(videos, tmp_path))
    monkeypatch.undo()
    out = tmp_path / "out/train"
    (out / f"faces/id1/v/.999999999-{machine()}.1").mkdir(parents=True)  # what a killed run leaves
    (out / f"wav/id1/v/.999999999-{machine()}.1.wav").write_bytes(b"half")
    main(argv(videos, tmp_path))
    assert not list(out.rglob(".999999999*")) and len(list(out.rglob("*.png"))) == 16
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*g")}
    capsys.readouterr()
    main(argv(videos, tmp_path))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*g")} == before
    assert "0 utterances with new faces" in capsys.readouterr().out


def test_utterances_that_fail_are_listed_with_their_reason_and_the_rest_is_ready(videos, tmp_path, capsys):
    (videos / "id1/v/1.mp4").write_bytes(b"no video at all" * 100)
    (videos / "loose.mp4").write_bytes(b"x")
    write_video(videos / "id1/v/silent.mp4", sound=False)
    shutil.copy(videos / "id2/v/1.mp4", videos / "id2/v/with space.mp4")
    with pytest.raises(InputError, match="4 clips cannot be used"):
        main(argv(videos, tmp_path))
    rows = (tmp_path / "out/train/prepare_failures.csv").read_text().splitlines()
    reasons = dict(row.split(",", 1) for row in rows[1:])
    assert reasons.keys() == {"id1/v/1", "loose", "id1/v/silent", "id2/v/with space"}
    assert "has no sound stream" in reasons["id1/v/silent"] and "identity's folder" in reasons["loose"]
    assert "comma or a space" in reasons["id2/v/with space"] and "id1/v/1.mp4" in reasons["id1/v/1"]
    assert len(read_train_list(tmp_path / "out/train.csv", "")) == 3
    assert "4 of 7 clips cannot be used" in capsys.readouterr().out


def test_frames_without_a_face_are_left_out_and_counted(videos, tmp_path, monkeypatch, capsys):
    def bright_only(image: np.ndarray) -> np.ndarray | None:
        return faces.TEMPLATE / 2 if image.mean() > 100 else None

    monkeypatch.setitem(prepare_voxceleb.DETECTORS, "mtcnn", lambda: bright_only)
    write_video(videos / "id2/v/dark.mp4", seconds=0.5)
    with pytest.raises(InputError, match="1 clip cannot be used"):
        main([*argv(videos, tmp_path), "--detector", "mtcnn"])
    assert len(list((tmp_path / "out/train/faces/id1/v/1").iterdir())) == 2
    printed = capsys.readouterr().out
    assert "8 of 17 frames; 9 frames without a face skipped" in printed and "no face found in 1 frames" in printed


@pytest.mark.parametrize("change", [("--fps", "3"), ("--detector", "mtcnn")])
def test_one_folder_is_not_prepared_in_two_ways(videos, tmp_path, change):
    main(argv(videos, tmp_path))
    with pytest.raises(InputError, match=r"was prepared with --detector none --fps 2\.0"):
        main([*argv(videos, tmp_path), *change])
    (tmp_path / "out/train/prepare.json").write_text("{")
    with pytest.raises(InputError, match=r"prepare\.json is missing or damaged"):
        main(argv(videos, tmp_path))


def test_a_detector_that_is_not_installed_leaves_the_folder_as_it_was(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(InputError, match="pip install"):
        main([*argv(videos, tmp_path), "--detector", "mtcnn"])
    assert main(argv(videos, tmp_path))["rows"] == 4


def test_what_was_damaged_since_is_made_again(videos, tmp_path):
    main(argv(videos, tmp_path))
    out = tmp_path / "out/train"
    (out / "wav/id1/v/1.wav").write_bytes(b"")
    shutil.rmtree(out / "faces/id2/v/2")
    (out / "faces/id2/v/2").mkdir()
    assert main(argv(videos, tmp_path))["rows"] == 4
    assert soundfile.info(str(out / "wav/id1/v/1.wav")).frames > 0 and len(list((out / "faces/id2/v/2").iterdir())) == 4


def test_one_odd_file_does_not_end_the_work_on_the_others(videos, tmp_path, monkeypatch):
    def failing(image: np.ndarray) -> None:
        raise RuntimeError("torch.cat(): expected a non-empty list")

    path = tmp_path / "aac/id1/v/1.wav"
    for video in sorted(videos.rglob("*.mp4")):
        path = (tmp_path / "aac" / video.relative_to(videos)).with_suffix(".wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(8000, 0.1), 8000)
    soundfile.write(path, np.zeros(0), 8000)
    with pytest.raises(InputError, match="1 clip cannot be used"):
        main([*argv(videos, tmp_path), "--audio", str(tmp_path / "aac")])
    assert "is empty" in (tmp_path / "out/train/prepare_failures.csv").read_text()
    monkeypatch.setitem(prepare_voxceleb.DETECTORS, "mtcnn", lambda: failing)
    with pytest.raises(InputError, match=r"none of the 4 .* unexpected RuntimeError: torch\.cat"):
        main([*argv(videos, tmp_path / "x"), "--detector", "mtcnn"])


def test_a_list_that_was_put_there_is_kept_and_ones_own_is_made_anew(videos, tmp_path, capsys):
    main(argv(videos, tmp_path))
    shutil.copytree(videos / "id2", videos / "id3")
    assert main(argv(videos, tmp_path))["rows"] == 6
    path = tmp_path / "out/train.csv"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[:4]) + "\n")
    capsys.readouterr()
    assert main(argv(videos, tmp_path))["rows"] == 4 and path.read_text().splitlines() == rows[:4]
    assert "2 of 6 prepared utterances are not in it: id3/v/1, id3/v/2" in capsys.readouterr().out


def test_linked_folders_are_followed_and_two_files_of_one_name_told(videos, tmp_path):
    shutil.move(videos / "id2", tmp_path / "elsewhere")
    (videos / "id2").symlink_to(tmp_path / "elsewhere")
    (videos / "id1/back").symlink_to(videos)
    shutil.copy(videos / "id1/v/1.mp4", videos / "id1/v/1.avi")
    with pytest.raises(InputError, match="1 clip cannot be used"):
        main(argv(videos, tmp_path))
    assert "there are files .avi and .mp4" in (tmp_path / "out/train/prepare_failures.csv").read_text()
    assert {row[:3] for row in (tmp_path / "out/train.csv").read_text().splitlines()} == {"id1", "id2"}


def test_folders_that_hold_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*gone"):
        main(argv(tmp_path / "gone", tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no file of \.mp4"):
        main(argv(tmp_path / "empty", tmp_path))


@needs_real_data
@pytest.mark.parametrize("detector", ["none", "mtcnn"])
def test_real_faces_and_voices_are_prepared(tmp_path, detector, capsys):
    if detector == "mtcnn":
        pytest.importorskip("facenet_pytorch")
    for number, path in enumerate(sorted((REAL_DATA / "cremad/VideoFlash").glob("*.flv"))[:2]):
        target = tmp_path / f"flv/id{number}/v/{path.stem}.flv"
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    clip = tmp_path / "flv/id3/v/dog.mp4"
    clip.parent.mkdir(parents=True)
    shutil.copy(REAL_DATA / "clips/bento.mp4", clip)
    if detector == "none":
        assert main(argv(tmp_path / "flv", tmp_path))["rows"] == 3
    else:  # a dog has no face
        with pytest.raises(InputError, match="1 clip cannot be used"):
            main([*argv(tmp_path / "flv", tmp_path), "--detector", detector])
    listed = read_train_list(tmp_path / "out/train.csv", "")
    assert listed.identities[:2] == ["id0", "id1"]


def test_an_utterance_whose_name_is_not_utf_8_is_named_and_the_others_prepared(videos, tmp_path):
    some = next(videos.rglob("*.mp4"))
    some.with_name(f"{ODD}.mp4").symlink_to(some)
    with pytest.raises(InputError, match="1 clip cannot be used"):
        main(argv(videos, tmp_path))
    with (tmp_path / "out" / "train" / "prepare_failures.csv").open(newline="") as file:
        [_, (name, reason)] = csv.reader(file)
    assert name.endswith(f"/{SHOWN}") and "is not UTF-8" in reason
    assert ODD not in (tmp_path / "out" / "train.csv").read_text()


def test_prepare_voxceleb_makes_each_sides_own_list_with_the_voices_of_the_audio_folder(tmp_path, films, capsys):
    names = [f"id{person}/v{video}/{utterance:05d}" for person in (1, 2, 3) for video in (1, 2) for utterance in (1, 2)]
    (tmp_path / "tone.wav").parent.mkdir(exist_ok=True)
    soundfile.write(tmp_path / "tone.wav", np.stack([two_tones(44100, 880, 220), np.zeros(2 * 44100)], 1), 44100)
    for name in names:
        for folder, source in (("video", films["mp4"]), ("audio", tmp_path / "tone.wav")):
            path = tmp_path / folder / f"{name}{source.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(source)
    argv = ["--video", str(tmp_path / "video"), "--data_root", str(tmp_path / "out"), "--workers", "2"]
    sides = {"train": ["--fps", "1.5", "--audio", str(tmp_path / "audio")], "test": ["--fps", "1"]}
    commands = {}
    for split, flags in sides.items():
        prepare_voxceleb.main([*argv, "--split", split, *flags])
        commands[split] = main_Vox.get_args_parser().parse_args(next_command(capsys.readouterr().out)[1:])
        assert commands[split].data_root == tmp_path / "out"
    assert commands["train"].train and not commands["test"].train
    for split, tones, frames in (("train", [880, 220], [8, 25, 41]), ("test", [440, 1320], [12, 37])):
        rate, loudest, height, _ = hear(tmp_path / "out" / split / "wav" / f"{names[5]}.wav")
        assert (rate, loudest) == (16000, tones) and height == pytest.approx(0.25, abs=0.02)
        seen = [look(path) for path in sorted((tmp_path / "out" / split / "faces" / names[5]).iterdir())]
        assert [one.frame for one in seen] == frames and seen[0].shape == (224, 224, 3)
        middle = [40 + 175 * 32 / 191, 40 + 175 * 159 / 191, 40, 215]  # the square in the middle
        assert np.abs(np.array(seen[0][2:]) - middle).max() < 14
    rows = (tmp_path / "out/train.csv").read_text().splitlines()
    assert sorted(rows) == sorted(f"{name}.wav,{name},{name.split('/')[0]},3" for name in names)
    pairs = [row.split(",") for row in (tmp_path / "out/test_pairs.csv").read_text().splitlines()]
    assert all(label == str(int(a.split("/")[0] == b.split("/")[0])) for label, a, b in pairs)
    assert Counter(label for label, *_ in pairs) == {"1": 18, "0": 18}  # all pairs of four utterances, as many others
    assert {name.removesuffix(".wav") for _, *both in pairs for name in both} == set(names)
    (tmp_path / "out/test_pairs.csv").unlink()
    prepare_voxceleb.main([*argv, "--split", "test", "--fps", "1", "--seed", "1"])
    assert [row.split(",") for row in (tmp_path / "out/test_pairs.csv").read_text().splitlines()] != pairs
