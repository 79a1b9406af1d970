"""scripts/prepare_ssw60.py: real media where they lie beside the repository, made-up ones everywhere (frame i is grey
of level 3 * i)."""

import csv
import os
import shutil
import signal
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile
from conftest import REAL_DATA, needs_real_data
from films import SECONDS, hear, is_upright, look, next_command, two_tones
from processes import start_command, status_at_end
from test_prepare import failures, levels, run_command, write_video, write_wav

import main_SSW
from dataset.errors import InputError
from dataset.files import read_audio
from dataset.whole_files import machine
from scripts import prepare_ssw60

TABLES = ("video_ml", "audio_ml", "images_inat", "images_nabirds")


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> dict[str, Path]:
    """Videos of 2 s at 25 frames a second: with sound, without, and one of a second."""
    root = tmp_path_factory.mktemp("videos")
    for name, count, sound in (("sound", 50, "aac"), ("mute", 50, None), ("short", 25, "aac")):
        write_video(root / f"{name}.mp4", count, 25, "mpeg4", sound=sound)
    return {path.stem: path for path in root.iterdir()}


@pytest.fixture
def root(tmp_path, videos) -> Path:
    """Two species; videos 1 (mute) and 2 of each split, recordings and photographs 1 and 2 of each split."""
    (tmp_path / "taxa.csv").write_text("label,species_code,common_name\n0,snogoo,Snow Goose\n1,wooduc,Wood Duck\n")
    for table in TABLES:
        rows = [f"{split}{label + 1},{label},{split},25,99999" for split in ("train", "test") for label in (0, 1)]
        (tmp_path / f"{table}.csv").write_text("\n".join(["asset_id,label,split,fps,frame_count", *rows]))
        (tmp_path / table).mkdir()
    for split in ("train", "test"):
        for number, kind in ((1, "mute"), (2, "sound")):
            (tmp_path / f"video_ml/{split}{number}.mp4").symlink_to(videos[kind])
            write_wav(tmp_path / f"audio_ml/{split}{number}.wav")
            for table in ("images_inat", "images_nabirds"):
                cv2.imwrite(str(tmp_path / table / f"{split}{number}.jpg"), np.full((40, 60, 3), 99, np.uint8))
    return tmp_path


def prepare(root: Path, *flags: str) -> dict:
    return prepare_ssw60.main(["--data_root", str(root), *flags])


def test_videos_become_frames_and_sound_or_a_note_that_there_is_none(root, capsys):
    assert prepare(root) == {"listed": 16, "failed": 0, "without_sound": 2}
    for split in ("train", "test"):
        assert levels(root / f"video_ml-1fps/{split}2") == [12, 37], "the middles, whatever frame_count says"
        assert soundfile.info(root / f"video_ml-16000Hz/{split}2.wav").duration == pytest.approx(2, abs=0.1)
        assert soundfile.info(root / f"audio_ml-16000Hz/{split}2.wav").samplerate == 16000
        assert (root / f"video_ml-16000Hz/{split}1.silent").is_file()
        assert not (root / f"video_ml-16000Hz/{split}1.wav").exists()
    out = capsys.readouterr().out
    assert "video_ml        test   listed 2, usable 2, without sound 1, official 1,938" in out
    assert f"Next: python main_SSW.py --train --mmcosine True --scaling 20 --data_root {root}\n" in out


def test_report_counts_by_species_collection_and_split(root):
    prepare(root)
    with open(root / "prepare_report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(TABLES) * 2 * 2
    assert rows[-4:] == [{"collection": "video_ml", "split": split, "label": str(label), "common_name": name,
                          "listed": "1", "usable": "1", "without_sound": str(1 - label)}
                         for split in ("train", "test") for label, name in ((0, "Snow Goose"), (1, "Wood Duck"))]


def test_a_video_of_a_second_gives_one_frame(root, videos):
    path = root / "video_ml/train2.mp4"
    path.unlink()
    path.symlink_to(videos["short"])
    prepare(root, "--collections", "video_ml")
    assert levels(root / "video_ml-1fps/train2") == [12]


def test_a_sound_stream_without_sound_is_silence_too(root):
    path = root / "video_ml/train2.mp4"
    path.unlink()
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
        container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for _ in range(25):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert prepare(root, "--collections", "video_ml")["without_sound"] == 3
    assert "is empty" in (root / "video_ml-16000Hz/train2.silent").read_text()


def test_frames_are_shrunk_never_enlarged_and_keep_their_shape(tmp_path, root):
    write_video(tmp_path / "large.mp4", 10, 25, "mpeg4", side=160)
    path = root / "video_ml/train1.mp4"
    path.unlink()
    path.symlink_to(tmp_path / "large.mp4")
    prepare(root, "--collections", "video_ml", "--short_side", "100")
    sizes = [cv2.imread(str(next((root / f"video_ml-1fps/train{i}").glob("*.jpg")))).shape for i in (1, 2)]
    assert sizes == [(100, 100, 3), (64, 64, 3)]


def test_every_bad_asset_is_named_with_its_reason_and_the_rest_is_written(root, videos):
    bad = {"video_ml/train1.mp4": "is missing", "video_ml/train2.mp4": "truncated", "audio_ml/train1.wav": "0 samples",
           "audio_ml/train2.wav": "NaN", "images_inat/test1.jpg": "is empty", "images_inat/test2.jpg": "truncated",
           "video_ml/test2.mp4": "cannot be read as a video"}
    for name in bad:
        (root / name).unlink()
    write_video(root / "whole.flv", 50, 25, "flv")  # of an mp4 nothing can be read without its end
    (root / "video_ml/train2.mp4").write_bytes((root / "whole.flv").read_bytes()[:3000])
    soundfile.write(root / "audio_ml/train1.wav", np.zeros(0), 16000)
    soundfile.write(root / "audio_ml/train2.wav", np.full(999, np.nan), 16000, subtype="FLOAT")
    (root / "images_inat/test1.jpg").write_bytes(b"")
    (root / "images_inat/test2.jpg").write_bytes((root / "images_nabirds/test2.jpg").read_bytes()[:150])
    (root / "video_ml/test2.mp4").write_bytes(b"no video" * 300)
    with pytest.raises(InputError, match=r"7 clips cannot be used.*python main_SSW\.py --train"):
        prepare(root)
    found = failures(root)
    assert found.keys() == {name.split(".")[0] for name in bad}
    assert all(reason in found[name.split(".")[0]] for name, reason in bad.items()), found
    assert (root / "video_ml-1fps/test1").is_dir()
    with open(root / "prepare_report.csv", newline="") as file:
        assert sum(int(row["usable"]) for row in csv.DictReader(file)) == 9


def test_a_photograph_that_is_damaged_behind_valid_ends_is_reported(root):
    path = root / "images_inat" / "train2.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2:len(data) // 2 + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(InputError, match="1 clip cannot be used"):
        prepare(root)
    [(name, reason)] = failures(root).items()
    assert name == "images_inat/train2" and f"{path} cannot be read as an image" in reason and "Corrupt JPEG" in reason


def test_a_second_run_does_only_what_is_not_there(root):
    prepare(root)
    made = [path for path in root.glob("*-*/**/*") if path.is_file()]
    times = {path: path.stat().st_mtime_ns for path in made}
    (root / "video_ml-16000Hz/test2.wav").write_bytes(b"")  # as after a power failure
    (root / f"video_ml-1fps/.999999999-{machine()}.half").mkdir()
    (root / "video_ml/train2.mp4").unlink()  # no longer needed
    prepare(root)
    assert read_audio(root / "video_ml-16000Hz/test2.wav", 16000).size > 16000
    assert not list(root.glob("*/.*"))
    assert [path for path in made if path.stat().st_mtime_ns != times[path]] == [root / "video_ml-16000Hz/test2.wav"]


def test_a_killed_run_leaves_whole_clips_only_and_goes_on(root, videos):
    names = [f"clip{i:03d}" for i in range(100)]
    (root / "video_ml.csv").write_text("\n".join(["asset_id,label,split", *(f"{name},0,train" for name in names)]))
    for name in names:
        (root / f"video_ml/{name}.mp4").symlink_to(videos["sound"])
    flags = ["--collections", "video_ml", "--fps", "10", "--workers", "1"]
    frames = root / "video_ml-10fps"
    process = start_command("scripts.prepare_ssw60", "--data_root", str(root), *flags, output=root / "printed.txt")
    while process.exitcode is None and len(list(frames.glob("[!.]*"))) < 5:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert status_at_end(process) == -signal.SIGKILL
    done = list(frames.glob("[!.]*"))
    assert 5 <= len(done) < len(names)
    assert all(len(list(path.glob("*.jpg"))) == 20 for path in done)
    assert prepare(root, *flags[:4])["failed"] == 0
    assert len(list(frames.glob("*/*.jpg"))) == 20 * len(names) and not list(root.glob("*/.*"))


@pytest.mark.parametrize(("argv", "part"), [
    (["--collections", "videos"], "invalid choice"), (["--fps", "0"], "at least 1"),
    (["--short_side", "8"], "at least 64"), (["--root", "x"], "unrecognized arguments")])
def test_wrong_flags_are_refused(argv, part, capsys):
    with pytest.raises(SystemExit) as exit:
        prepare_ssw60.main(argv)
    assert exit.value.code == 2
    assert part in capsys.readouterr().err


def test_commands_without_the_tarball_say_where_it_is(tmp_path, monkeypatch, capsys):
    assert run_command(monkeypatch, "prepare_ssw60.py", "--data_root", str(tmp_path / "nowhere")) == 2
    assert "taxa.csv is missing. data/SSW60/README.md explains where" in capsys.readouterr().err


def test_a_folder_without_any_media_is_one_short_message(root):
    shutil.rmtree(root / "video_ml")
    with pytest.raises(InputError, match=r"none of the 4 clips.*video_ml/test1: .*test1\.mp4 is missing"):
        prepare(root, "--collections", "video_ml")


@needs_real_data
def test_real_media_of_every_kind_become_clips(root):
    # no sound; several streams of each kind; Matroska with Opus; portrait of 1.1 s
    sources = {"train1": "demo.mp4", "train2": "nasa_13013.mp4", "test1": "flipping_a_pancake.mkv",
               "test2": "bento.mp4"}
    for name, source in sources.items():
        (root / f"video_ml/{name}.mp4").unlink()
        (root / f"video_ml/{name}.mp4").symlink_to(REAL_DATA / "clips" / source)
    assert prepare(root, "--collections", "video_ml")["without_sound"] == 1
    counts = {name: len(list((root / f"video_ml-1fps/{name}").iterdir())) for name in sources}
    assert counts == {"train1": 10, "train2": 13, "test1": 10, "test2": 1}
    first = {name: cv2.imread(str(root / f"video_ml-1fps/{name}/frame_00001.jpg")) for name in sources}
    assert first["train2"].shape == (180, 320, 3), "not the first of two video streams"
    assert first["test2"].shape == (454, 256, 3), "the portrait is not upright"
    assert all(image.std() > 5 for image in first.values())
    for name, seconds in (("train2", 13.06), ("test1", 10.38), ("test2", 1.0)):
        assert soundfile.info(root / f"video_ml-16000Hz/{name}.wav").duration == pytest.approx(seconds, abs=0.1)


def test_a_video_that_got_its_sound_later_is_not_silent_any_more(root, videos):
    prepare(root, "--collections", "video_ml")
    path = root / "video_ml/train1.mp4"
    path.unlink()
    path.symlink_to(videos["sound"])
    assert prepare(root, "--collections", "video_ml")["without_sound"] == 1
    assert (root / "video_ml-16000Hz/train1.wav").is_file() and not (root / "video_ml-16000Hz/train1.silent").exists()


def test_preparing_one_collection_keeps_what_is_known_of_the_others(root, capsys):
    (root / "images_inat/train1.jpg").unlink()
    with pytest.raises(InputError, match="1 clip cannot be used"):
        prepare(root)
    rows = (root / "prepare_report.csv").read_text().splitlines()
    capsys.readouterr()
    prepare(root, "--collections", "audio_ml")
    assert "images_inat/train1" in (root / "prepare_failures.csv").read_text()
    assert sorted((root / "prepare_report.csv").read_text().splitlines()) == sorted(rows)
    assert "--modality audio --pretrain_on audio_ml" in capsys.readouterr().out


def test_everything_is_prepared_from_linked_folders(root, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    for name in ("video_ml", "audio_ml", "images_inat"):
        (root / name).rename(disk / name)
        (root / name).symlink_to(disk / name)
    assert prepare(root)["failed"] == 0


def test_prepare_ssw60_makes_what_main_ssw_reads_at_the_asked_rates_and_sizes(tmp_path, films, capsys):
    (tmp_path / "taxa.csv").write_text("label,common_name\n0,Snow Goose\n1,Wood Duck\n")
    for table in ("video_ml", "audio_ml", "images_inat", "images_nabirds"):
        rows = [f"{split}{label},{label},{split}" for split in ("train", "test") for label in (0, 1)]
        (tmp_path / f"{table}.csv").write_text("\n".join(["asset_id,label,split", *rows]) + "\n")
        (tmp_path / table).mkdir()
        for row in rows:
            path = tmp_path / table / row.split(",")[0]
            if table == "video_ml":
                path.with_suffix(".mp4").symlink_to(films["mp4"])
            elif table == "audio_ml":
                stereo = np.stack([two_tones(32000, 700, 300), np.zeros(SECONDS * 32000)], 1)
                soundfile.write(path.with_suffix(".wav"), stereo, 32000)
            else:
                cv2.imwrite(str(path.with_suffix(".jpg")), np.full((70, 80, 3), 99, np.uint8))
    found = prepare_ssw60.main(["--data_root", str(tmp_path), "--fps", "3", "--sample_rate", "22050", "--short_side",
                                "64", "--workers", "2"])
    assert found == {"listed": 16, "failed": 0, "without_sound": 0}
    command = next_command(capsys.readouterr().out)
    args = main_SSW.get_args_parser().parse_args(command[1:])
    assert (command[0], args.data_root, args.fps, args.audio_frontend) == ("main_SSW.py", tmp_path, 3, "ogm_ge")
    for split in ("train", "test"):
        seen = [look(path) for path in sorted((tmp_path / f"video_ml-3fps/{split}1").iterdir())]
        assert [one.frame for one in seen] == [4, 12, 20, 29, 37, 45]  # (i + 1/2) / 3 seconds
        assert all(map(is_upright, seen)) and seen[0].shape == (64, 96, 3)
        rate, loudest, height, length = hear(tmp_path / f"video_ml-22050Hz/{split}1.wav")
        assert (rate, loudest) == (22050, [440, 1320]) and height == pytest.approx(0.25, abs=0.02)
        assert length == pytest.approx(SECONDS, abs=0.1)
        rate, loudest, height, length = hear(tmp_path / f"audio_ml-22050Hz/{split}1.wav")
        assert (rate, loudest) == (22050, [700, 300]) and length == pytest.approx(SECONDS, abs=0.01)
        assert height == pytest.approx(0.25, abs=0.02)
