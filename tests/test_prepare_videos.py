"""prepare_videos.py: videos of one's own and of official lists, cut exactly, split without leaks, trained on."""

import csv
import os
import shutil
import struct
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile
from conftest import REAL_DATA, SMALL, needs_real_data

from dataset.cremad import audio_path
from dataset.errors import DiskError, InputError
from dataset.lists import Clip, split_whole_groups
from dataset.preparation import clips as prep
from dataset.preparation import reader
from dataset.preparation.official_lists import without_shared
from dataset.preparation.reader import read_part
from dataset.preparation.videos import Source, from_folders, from_list
from scripts.prepare_videos import main, next_command

RATE = 25  # frames per second


def make_video(path: Path, seconds: float = 2.0, sound: bool = True, size: tuple[int, int] = (64, 48), shade: int = 0,
               times: list[float] | None = None, late: float = 0.0, codecs: tuple[str, str] = ("mpeg4", "aac"),
               longest_gop: int = 12, gap: int | None = None, longer: float = 0.0) -> Path:
    """Frame n shows the eight bits of n + shade as stripes; a second of sound k (from 0) is a tone of 200 (k + 1) Hz.
    times: of the frames, instead of 25 a second. late: seconds after which the sound begins. gap: the second in which
    there is none. longer: seconds that it goes on after the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        options = {"qscale": "2", "g": str(longest_gop), "sc_threshold": "0"}  # key frames at no other places
        video = file.add_stream(codecs[0], rate=RATE, options=options)
        clock = Fraction(1, 1000 if times else RATE)
        video.width, video.height, video.pix_fmt, video.codec_context.time_base = *size, "yuv420p", clock
        audio = file.add_stream(codecs[1], rate=16000, layout="mono") if sound else None
        for number, time in enumerate(times or np.arange(round(seconds * RATE)) / RATE):
            stripes = np.repeat([255 * (number + shade >> bit & 1) for bit in range(8)], size[0] // 8).astype(np.uint8)
            image = np.broadcast_to(stripes[None, :, None], (size[1], size[0], 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(time / clock), clock
            file.mux(video.encode(frame))
        file.mux(video.encode())
        if audio:
            at = np.arange(round((seconds + longer - late) * 16000)) / 16000
            wave = (8000 * np.sin(2 * np.pi * 200 * (np.floor(at + late) + 1) * at)).astype(np.int16)
            for begin in range(0, len(wave), 1024):
                if gap is not None and gap <= begin / 16000 < gap + 1:
                    continue
                piece = av.AudioFrame.from_ndarray(wave[None, begin:begin + 1024], format="s16", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 16000, begin + round(late * 16000), Fraction(1, 16000)
                file.mux(audio.encode(piece))
            file.mux(audio.encode())
    return path


def number_of(frame: np.ndarray, shade: int = 0) -> int:
    stripes = frame.mean((0, 2)).reshape(8, -1).mean(1) > 127
    return sum(1 << bit for bit in range(8) if stripes[bit]) - shade


def pitch(sound: np.ndarray) -> float:
    """Hz of the loudest tone."""
    return float(np.abs(np.fft.rfft(sound * np.hanning(len(sound)))).argmax() * 16000 / len(sound))


# ---- a part of a video


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_part_has_the_frames_and_the_sound_of_its_time(tmp_path, suffix):
    video = make_video(tmp_path / f"v{suffix}", 4.0)
    for start, end, fps in ((0.0, 4.0, 1), (1.0, 2.0, 4), (2.4, 3.9, 2), (3.0, None, 1)):
        found = read_part(video, start, end, fps=fps)
        stop = end or reader.read_length(video)
        count = max(1, round((stop - start) * fps))
        middles = [start + (k + 0.5) * (stop - start) / count for k in range(count)]
        assert [number_of(frame) for frame in found.frames] == [int(time * RATE + 1e-6) for time in middles]
        assert len(found.sound) == round((stop - start) * 16000)
    heard = read_part(video, 2.0, 3.0).sound
    assert pitch(heard) == pytest.approx(600, abs=5) and np.abs(heard[:400]).max() > 4000


def test_frames_of_a_varying_rate_are_those_on_screen(tmp_path):
    times = [0.0, 0.1, 1.5, 1.6, 1.7, 2.9]
    video = make_video(tmp_path / "v.mp4", 3.0, times=times)
    found = read_part(video, 1.4, 1.8, fps=10)  # at 1.45, 1.55, 1.65 and 1.75 s
    assert [number_of(frame) for frame in found.frames] == [1, 2, 3, 4]


def test_a_last_frame_that_is_shown_for_long_is_no_truncated_video(tmp_path):
    path = tmp_path / "still.mp4"
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=RATE)
        video.width, video.height, video.pix_fmt, video.codec_context.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        packets = []
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = 100 * number, Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode()
        packets[-1].duration = 5000
        file.mux(packets)
    assert reader.read_length(path) == pytest.approx(5.2, abs=0.1)
    assert next(read_part(path, 4.0, 5.0).frames).mean() > 160


def test_sound_that_begins_late_or_is_not_there_is_silence(tmp_path):
    late = read_part(make_video(tmp_path / "late.mkv", 3.0, late=1.0))
    assert not late.sound[:15500].any() and pitch(late.sound[17000:31000]) == pytest.approx(400, abs=5)
    none = read_part(make_video(tmp_path / "none.mp4", 1.0, sound=False))
    assert none.sound.shape == (16000,) and not none.sound.any()


def test_only_what_is_needed_of_a_long_video_is_decoded(tmp_path, monkeypatch):
    video = make_video(tmp_path / "long.mp4", 60.0, size=(32, 32))
    decoded = []
    monkeypatch.setattr(reader, "time_of", lambda *given, time_of=reader.time_of: decoded.append(1) or time_of(*given))
    quick, frame = read_part(video, 50.0, 51.0), []
    frame += quick.frames
    looked = len(decoded)
    monkeypatch.setattr(reader, "EARLIER", ())
    slow = read_part(video, 50.0, 51.0)
    frame += slow.frames
    assert looked < 120 < len(decoded) - looked, "a look at the clock a frame"
    assert number_of(frame[0]) == number_of(frame[1])
    assert np.abs(quick.sound[2000:].astype(int) - slow.sound[2000:]).max() < 600  # the decoder starts anew


@pytest.mark.parametrize(("suffix", "codecs", "longest_gop"), [
    (".ts", ("libx264", "aac"), 250),  # seeks to between key frames
    (".mpg", ("mpeg2video", "mp2"), 12)])  # seeks to amid a frame of sound
def test_a_part_is_right_where_a_seek_ends_at_a_place_that_cannot_be_decoded(tmp_path, monkeypatch, suffix, codecs,
                                                                            longest_gop):
    video = make_video(tmp_path / f"v{suffix}", 30.0, size=(32, 32), codecs=codecs, longest_gop=longest_gop)
    places = (3, 14, 25, 28.5)
    found = [read_part(video, start, start + 1) for start in places]
    frames = [number_of(next(part.frames)) for part in found]
    monkeypatch.setattr(reader, "EARLIER", ())  # from the beginning
    for start, part, number in zip(places, found, frames, strict=True):
        whole = read_part(video, start, start + 1)
        assert number_of(next(whole.frames)) == number == pytest.approx((start + 0.5) * RATE % 256, abs=3)
        assert np.abs(part.sound[2000:].astype(int) - whole.sound[2000:]).max() < 600  # a decoder starts anew
        assert np.abs(part.sound[2000:]).max() > 2000


def test_sound_after_a_seek_to_amid_a_frame_is_decoded_from_there(tmp_path, monkeypatch):
    video = make_video(tmp_path / "v.mpg", 20.0, size=(32, 32), codecs=("mpeg2video", "mp2"))
    looked = []
    monkeypatch.setattr(reader, "time_of", lambda *given, time_of=reader.time_of: looked.append(1) or time_of(*given))
    assert pitch(read_part(video, 14, 14.8).sound) == pytest.approx(3000, abs=20)
    assert len(looked) < 100, "frames of sound of 72 ms"


def test_sound_stays_at_its_time_after_a_gap(tmp_path):
    sound = read_part(make_video(tmp_path / "v.mkv", 6.0, size=(32, 32), gap=2)).sound.reshape(6, 16000)[:, 2000:-2000]
    assert not sound[2].any()
    assert [pitch(sound[k]) for k in (0, 1, 3, 4, 5)] == pytest.approx([200, 400, 800, 1000, 1200], abs=5)


def test_sound_whose_channels_and_rate_change_goes_on(monkeypatch):
    def tone(layout: str, rate: int) -> av.AudioFrame:
        wave = (8000 * np.sin(2 * np.pi * 400 * np.arange(rate) / rate)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(wave, 1 + (layout == "stereo"))[None], format="s16", layout=layout)
        frame.sample_rate = rate
        return frame

    frames = [reader.Timed(0.0, tone("mono", 16000)), reader.Timed(1.0, tone("stereo", 48000))]
    monkeypatch.setattr(reader, "decoded", lambda *_: iter(frames))
    sound = reader.sound_between(Path("x"), None, 0.0, 2.0, 16000).reshape(2, 16000)
    assert [pitch(half) for half in sound] == pytest.approx([400, 400], abs=2)
    assert np.abs(sound).max(1) == pytest.approx([8000, 8000], abs=100)


def test_a_video_ends_with_its_picture(tmp_path):
    for suffix in (".mkv", ".mp4"):
        video = make_video(tmp_path / f"v{suffix}", 3.0, longer=3.0)
        assert reader.read_length(video) == pytest.approx(3.0, abs=0.05)
        assert len(list(read_part(video).frames)) == 3


def test_parts_that_are_next_to_nothing_and_frames_without_times_are_refused(tmp_path):
    video = make_video(tmp_path / "v.mp4", 1.2, sound=False)
    for end in (1.2, None):
        with pytest.raises(InputError, match=r"shorter than 0\.01 s"):
            read_part(video, 1.1999, end)
    with pytest.raises(InputError, match=r"v\.h264 does not state when its frames are shown: convert it to mp4"):
        list(read_part(make_video(tmp_path / "v.h264", 1.0, sound=False, codecs=("libx264", ""))).frames)


def test_a_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video = make_video(Path("talk.mp4"), 1.0).rename("12:30 talk.mp4")
    assert read_part(video).sound.any() and reader.read_sound(video, 16000).any()
    assert number_of(next(reader.read_frames(video, [0.5]))) == 12


def test_frames_are_decoded_while_they_are_read(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(reader, "picture", lambda *given, picture=reader.picture: shown.append(1) or picture(*given))
    found = read_part(make_video(tmp_path / "v.mp4", 2.0), fps=5)
    assert not shown and next(found.frames).shape == (48, 64, 3) and len(shown) == 1


def test_a_phone_s_video_is_turned_as_players_turn_it(tmp_path):
    video = make_video(tmp_path / "v.mp4", 1.0)
    content = bytearray(video.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix:matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    video.write_bytes(content)
    shown = next(reader.read_frames(video, [0.5]))  # OpenCV turns it
    assert shown.shape == next(read_part(video).frames).shape == (64, 48, 3)


@needs_real_data
def test_real_videos_give_what_the_other_preparations_read():
    for path in sorted((REAL_DATA / "cremad" / "VideoFlash").glob("*.flv"))[:2]:
        found = read_part(path)
        times = reader.middle_times(reader.read_length(path), 1)
        expected = list(reader.read_frames(path, times))
        assert all(np.abs(a.astype(int) - b).mean() < 3 for a, b in zip(found.frames, expected, strict=True))
        whole = reader.read_sound(path, 16000)
        count = min(len(whole), len(found.sound))
        assert np.array_equal(found.sound[:count], whole[:count])


# ---- from folders


@pytest.fixture
def folders(tmp_path) -> Path:
    for number in range(8):
        make_video(tmp_path / "videos" / "ab"[number % 2] / f"clip {number}.mp4", 0.8, sound=number != 3, shade=number)
    return tmp_path / "videos"


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_folders_by_class_become_a_data_set_that_is_trained_on(folders, tmp_path, capsys, tiny_encoders):
    from main_CD import main as train

    root = tmp_path / "data" / "mine"
    counts = main(["--videos", str(folders), "--data_root", str(root), "--fps", "2"])
    assert counts == {"clips": 8, "missing": 0, "failed": 0, "silent": 1, "train": 6, "test": 2}
    assert rows(root / "stat.csv") == [["a"], ["b"]]
    for name, label in rows(root / "train.csv") + rows(root / "test.csv"):
        assert name.startswith(f"{label}/clip ") and soundfile.info(root / "AudioWAV" / f"{name}.wav").frames == 12800
        frames = sorted((root / "Image-02-FPS" / name).glob("*.jpg"))
        assert [number_of(cv2.imread(str(file)), int(name[-1])) for file in frames] == [5, 15]  # 0.2 and 0.6 s
    printed = capsys.readouterr().out
    assert "1 clip is silent or without a sound stream: b/clip 3" in printed
    flags = printed.strip().splitlines()[-1].removeprefix("Next: python main_CD.py ").split()
    assert flags[-6:] == ["--audio_seconds", "0.8", "--fps", "2", "--num_frames", "2"]
    result = train([*flags, "--epochs", "1", "--ckpt_path", str(tmp_path / "runs"), *SMALL[:2], *SMALL[4:]])
    assert (result["n_train"], result["n_test"]) == (6, 2)


def test_a_second_start_decodes_only_what_has_changed(folders, tmp_path, monkeypatch):
    argv = ["--videos", str(folders), "--data_root", str(tmp_path / "mine")]
    main(argv)
    read = []
    monkeypatch.setattr("dataset.preparation.video_clips.read_part",
                        lambda path, *place, **rates: read.append(path) or read_part(path, *place, **rates))
    main(argv)
    assert read == []
    make_video(folders / "a" / "clip 0.mp4", 0.8, shade=9)
    main(argv)
    assert [path.name for path in read] == ["clip 0.mp4"]
    (folders / "a" / "clip 0.mp4").write_bytes(b"half a download")
    before = frame_of(tmp_path / "mine", "a/clip 0")
    with pytest.raises(InputError, match="1 clip cannot be used"):
        main(argv)
    assert frame_of(tmp_path / "mine", "a/clip 0") == before
    with pytest.raises(InputError, match=r"prepared with .*'fps': 1.*not with .*'fps': 3"):
        main([*argv, "--fps", "3"])


def frame_of(root: Path, name: str, shade: int = 0) -> int:
    return number_of(cv2.imread(str(root / "Image-01-FPS" / name / "frame_00001.jpg")), shade)


def test_a_clip_is_made_again_from_another_video_whatever_its_age_and_of_another_part(tmp_path):
    root = tmp_path / "mine"
    for folder, shade in (("new", 0), ("old", 40)):
        for k, name in enumerate("abcd"):
            video = make_video(tmp_path / folder / f"{name}.mp4", 1.0, sound=False, size=(16, 16), shade=shade + k)
            os.utime(video, (9, 9))
    listed = write(tmp_path / "clips.csv", "path,label\na.mp4,x\nb.mp4,x\nc.mp4,y\nd.mp4,y\n")
    argv = ["--list", str(listed), "--data_root", str(root), "--videos"]
    main([*argv, str(tmp_path / "new")])
    assert frame_of(root, "a") == 12
    main([*argv, str(tmp_path / "old")])
    assert frame_of(root, "a") == 52
    os.utime(shutil.copy(tmp_path / "new" / "a.mp4", tmp_path / "old" / "a.mp4"), (8, 8))
    main([*argv, str(tmp_path / "old")])
    assert (frame_of(root, "a"), frame_of(root, "b")) == (12, 53)
    (root / "AudioWAV" / "b.wav").write_bytes(b"RIFF")
    main([*argv, str(tmp_path / "old")])
    assert soundfile.info(root / "AudioWAV" / "b.wav").frames == 16000


def test_a_stop_after_the_sound_leaves_no_frames_of_the_old_video(folders, tmp_path, monkeypatch):
    argv = ["--videos", str(folders), "--data_root", str(tmp_path / "mine"), "--workers", "1"]
    main(argv)
    make_video(folders / "a" / "clip 0.mp4", 0.8, shade=9)

    def full(*_):
        raise DiskError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="the disk is full"):
        patch.setattr(prep, "write_frames", full)
        main(argv)
    assert not (tmp_path / "mine" / "Image-01-FPS" / "a" / "clip 0").exists()
    main(argv)
    assert frame_of(tmp_path / "mine", "a/clip 0", 9) == 10


def test_videos_that_cannot_be_read_are_named_and_the_rest_goes_on(folders, tmp_path):
    (folders / "a" / "text.mp4").write_text("no video")
    (folders / "b" / "empty.mp4").touch()
    for k, name in enumerate(("two\nlines.mp4", " space .mp4")):
        make_video(folders / "a" / name, 0.2, shade=20 + k)
    (folders / "a" / "link.mp4").symlink_to("nothing")
    for _ in range(2):  # the lists can be read again
        with pytest.raises(InputError, match=r"5 clips cannot be used .*--skip_missing"):
            main(["--videos", str(folders), "--data_root", str(tmp_path / "mine")])
    assert {row[0] for row in rows(tmp_path / "mine" / "prepare_failures.csv")[1:]} == {
        "a/text", "b/empty", "a/two\nlines", "a/ space ", "a/link"}
    assert len(rows(tmp_path / "mine" / "train.csv")) == 6


@pytest.mark.parametrize(("change", "told"), [
    (lambda root: shutil.rmtree(root), "no folder"),
    (lambda root: [shutil.move(file, root) for file in root.glob("*/*")] and [root.joinpath(x).rmdir() for x in "ab"],
     "holds no folder, only 8 videos"),
    (lambda root: (root / "empty").mkdir(), "empty holds no video"),
    (lambda root: make_video(root / "single" / "x.mp4", 0.2), "a single clip of single"),
    (lambda root: shutil.rmtree(root / "b"), "at least two classes"),
    (lambda root: shutil.copy(root / "a" / "clip 0.mp4", root / "b" / "other.mp4"),
     r"1 clip is a copy, .*: b/other of a/clip 0 \(in two classes, a and b\)"),
    (lambda root: shutil.copy(root / "a" / "clip 0.mp4", root / "a" / "clip 0 (1).mp4"),
     r"1 clip is a copy, .*: a/clip 0 of a/clip 0 \(1\)\. Remove"),
    (lambda root: make_video(root / "a" / "clip 0" / "x.mp4", 0.2), "the clips a/clip 0 and a/clip 0/x cannot both"),
    (lambda root: shutil.copy(root / "a" / "clip 0.mp4", root / "a" / "clip 0.mov"), "both be the clip a/clip 0")])
def test_folders_that_cannot_be_meant_so_are_refused(folders, tmp_path, change, told):
    change(folders)
    with pytest.raises(InputError, match=told):
        main(["--videos", str(folders), "--data_root", str(tmp_path / "mine")])
    assert not (tmp_path / "mine" / "AudioWAV").exists()


# ---- from a list


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def test_a_list_cuts_several_clips_of_a_video_into_its_splits(tmp_path):
    make_video(tmp_path / "talk one.mp4", 4.0)
    listed = write(tmp_path / "clips.csv", "label;path;start;end;split\nx;talk one.mp4;0;1;train\ny;talk one.mp4;1;2;"
                   "train\nx;talk one.mp4;2;3;test\ny;talk one.mp4;3;;val\n", "utf-8-sig")
    counts = main(["--list", str(listed), "--data_root", str(tmp_path / "mine")])
    assert (counts["train"], counts["test"], counts["failed"]) == (2, 1, 0)
    assert rows(tmp_path / "mine" / "train.csv") == [["talk one_0_1", "x"], ["talk one_1_2", "y"]]
    assert rows(tmp_path / "mine" / "val.csv") == [["talk one_3", "y"]]
    wave, _ = soundfile.read(tmp_path / "mine" / "AudioWAV" / "talk one_1_2.wav")
    assert len(wave) == 16000 and pitch(wave) == pytest.approx(400, abs=5)
    frame = cv2.imread(str(tmp_path / "mine" / "Image-01-FPS" / "talk one_2_3" / "frame_00001.jpg"))
    assert number_of(frame) == 62  # at 2.5 s


@pytest.mark.parametrize(("text", "told"), [
    ("", "no column path, label"), ("path,kind\na.mp4,x", "no column label"), ("path,label\n", "lists no clip"),
    ("path,label\na.mp4,x\na.mp4,x", "lists the clip a twice"),
    ('path,label\na.mp4,"x\ny"', "line 2: .*must end in its line"), ("path,label\na.mp4,x\x7f", "line 2: .*of a class"),
    ("path,label\n.,x", "line 2: .*no path of a file"), ("path,label\n/,x", "line 2: .*no path of a file"),
    (f'path,label\na.mp4,"{"x" * 200_000}', "line 2: field larger"),
    ("path,label\na.mp4,x\na.mp4,y", "with the labels x and y"),
    ("path,label\na.mp4", "line 2: 1 cells"), ("path,label\na.mp4,", "line 2: path or label is empty"),
    ("path,label\n../a.mp4,x", "line 2: .*no path of a file below"), ('path,label\n"a\nb.mp4",x', "line 2"),
    ("path,label,start,end\na.mp4,x,2,1", "line 2: the clip ends at 1 s, before it starts at 2 s"),
    ("path,label,start,end\na.mp4,x,-1,1", "line 2: start '-1' is no time"),
    ("path,label,start,end\na.mp4,x,0,later", "line 2: end 'later' is no time"),
    ("path,label,split\na.mp4,x,dev", "line 2: split 'dev' is none of"),
    ("path,label,split\na.mp4,x,train\nb.mp4,y,", "split of some clips only; 1 have none: b")])
def test_a_list_that_cannot_be_meant_so_is_refused_with_its_line(tmp_path, text, told):
    listed = write(tmp_path / "clips.csv", text)
    with pytest.raises(InputError, match=told):
        main(["--list", str(listed), "--data_root", str(tmp_path / "mine")])


def test_parts_beyond_the_end_and_missing_videos_are_named(tmp_path):
    for k, name in enumerate("abc"):
        make_video(tmp_path / f"{name}.mp4", 0.8, sound=False, shade=k)
    listed = write(tmp_path / "clips.csv", "path,label,start,end\na.mp4,x,,\nb.mp4,x,,\nc.mp4,y,,\nb.mp4,y,0,0.5\n"
                   "a.mp4,y,5,6\na.mp4,y,0,9\ngone.mp4,x,,\n")
    with pytest.raises(InputError, match="3 clips cannot be used"):
        main(["--list", str(listed), "--data_root", str(tmp_path / "mine")])
    reasons = dict(rows(tmp_path / "mine" / "prepare_failures.csv")[1:])
    assert "lasts 0.80 s: there is nothing at 5 s" in reasons["a_5_6"]
    assert "lasts 0.80 s, the part ends at 9 s" in reasons["a_0_9"]
    assert reasons["gone"] == f"its video is not there: there is no file {tmp_path / 'gone.mp4'}"
    assert rows(tmp_path / "mine" / "missing.csv")[1:] == [["", "x", "3", "1"], ["", "y", "4", "0"]]
    make_video(tmp_path / "gone.mp4", 0.8, sound=False, shade=9)
    with pytest.raises(InputError, match="2 clips cannot be used"):
        main(["--list", str(listed), "--data_root", str(tmp_path / "mine")])
    assert not (tmp_path / "mine" / "missing.csv").exists()


def test_the_next_command_takes_the_length_that_most_clips_have_whatever_the_longest_one(tmp_path):
    for name, length in (("a", 1.2), ("b", 9.0), ("c", 1.1)):
        prep.write_sound(audio_path(tmp_path, name), np.zeros(round(16000 * length), np.int16), 16000)
    told = next_command(tmp_path, ["a", "b", "c"], 1)
    assert told.endswith("--audio_seconds 1.2")


def test_a_group_is_never_on_both_sides(tmp_path):
    make_video(tmp_path / "v.mp4", 2.4, sound=False, size=(16, 16))
    lines = [f"v.mp4,{'xy'[k % 2]},person{k // 3},{k / 10},{k / 10 + 0.1:g}" for k in range(24)]
    listed = write(tmp_path / "clips.csv", "\n".join(["path,label,person,start,end", *lines]))
    main(["--list", str(listed), "--data_root", str(tmp_path / "mine"), "--group", "person"])
    person = {f"v_{k / 10:g}_{k / 10 + 0.1:g}": k // 3 for k in range(24)}
    train, test = ({person[name] for name, _ in rows(tmp_path / "mine" / f"{part}.csv")} for part in ("train", "test"))
    assert train and test and not train & test
    with pytest.raises(InputError, match="no column speaker"):
        main(["--list", str(listed), "--data_root", str(tmp_path / "other"), "--group", "speaker"])


def test_lists_that_would_be_others_now_are_not_kept_without_a_word(tmp_path, capsys):
    make_video(tmp_path / "v.mp4", 2.4, sound=False, size=(16, 16))
    lines = [f"v.mp4,{'xy'[k % 2]},person{k // 2},{k / 10},{k / 10 + 0.1:g}" for k in range(8)]
    listed = write(tmp_path / "clips.csv", "\n".join(["path,label,person,start,end", *lines]))
    argv = ["--list", str(listed), "--data_root", str(tmp_path / "mine")]
    main(argv)
    before = rows(tmp_path / "mine" / "train.csv")
    for flags, told in ((["--group", "person"], "group was None and is person; 8 clips have another .* group"),
                        (["--seed", "5", "--test_fraction", "0.5"], "seed was 0 and is 5; test_fraction was 0.2 and")):
        with pytest.raises(InputError, match=rf"{told}.*: remove train.csv, test.csv and stat.csv there"):
            main([*argv, *flags])
    listed.write_text(listed.read_text().replace("v.mp4,y,person0", "v.mp4,x,person0") + "\nv.mp4,y,person9,2,2.1")
    with pytest.raises(InputError, match=r"1 clip has another label, split or group \(v_0\.1_0\.2\): remove"):
        main(argv)
    listed.write_text(listed.read_text().replace("v.mp4,x,person0,0.1", "v.mp4,x,person0,0.15"))
    with pytest.raises(InputError, match=r"1 clip is gone \(v_0\.1_0\.2\): remove"):
        main(argv)
    (tmp_path / "mine" / "prepare_videos_lists.json").unlink()
    main(argv)
    assert rows(tmp_path / "mine" / "train.csv") == before
    printed = capsys.readouterr().out
    assert "are kept as they are: there is no prepare_videos_lists.json" in printed
    assert "prepared clips are in no list" in printed


@pytest.mark.parametrize(("splits", "told"), [("train train", "no clip is of the test split"),
                                              ("train test", "no training clip of class y in the training split")])
def test_given_splits_that_cannot_be_trained_on_are_refused_before_the_work(tmp_path, splits, told):
    for k, name in enumerate("ab"):
        make_video(tmp_path / f"{name}.mp4", 0.2, sound=False, shade=k)
    one, two = splits.split()
    listed = write(tmp_path / "clips.csv", f"path,label,split\na.mp4,x,{one}\nb.mp4,y,{two}\n")
    with pytest.raises(InputError, match=told):
        main(["--list", str(listed), "--data_root", str(tmp_path / "mine")])
    assert not (tmp_path / "mine" / "AudioWAV").exists()


@pytest.mark.parametrize(("text", "told"), [
    ("path,label,start\na.mp4,x,\nlink.mp4,y,", r"1 clip is a copy, .*link of a \(in two classes, x and y\)"),
    ("path,label,start\na.mp4,x,\na.mp4,y,0", r"a_0 of a \(in two classes, x and y\)"),
    ("path,label,start\na.mp4,x,0.1\nlink.mp4,x,0.1", r"link_0\.1 of a_0\.1\. Remove"),
    ("path,label,start\na.mp4,x,\na.mkv,y,", r"a\.mp4 and .*a\.mkv would both be the clip a: rename")])
def test_a_part_of_a_video_is_listed_once_under_whatever_name(tmp_path, text, told):
    make_video(tmp_path / "a.mp4", 0.2, sound=False)
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    make_video(tmp_path / "a.mkv", 0.2, sound=False)
    with pytest.raises(InputError, match=told):
        from_list(write(tmp_path / "clips.csv", text), tmp_path)


def test_rows_are_read_line_by_line_and_every_clip_needs_a_group(tmp_path):
    text = "path,label,person\na.mp4,x,{}ann\nb.mp4,y,ben\n\nc.mp4,x,cem{}\n"
    assert len(from_list(write(tmp_path / "clips.csv", text.format("", "")), tmp_path, "person")) == 3
    with pytest.raises(InputError, match=r"line 2: .*must end in its line"):
        from_list(write(tmp_path / "clips.csv", text.format('"', '"')), tmp_path)
    with pytest.raises(InputError, match=r"line 3: person is empty: with --group"):
        from_list(write(tmp_path / "clips.csv", text.format("", "").replace("ben", "")), tmp_path, "person")


def test_times_are_named_as_they_are_written(tmp_path):
    listed = write(tmp_path / "clips.csv", "path,label,start,end\nv.mp4,x,10000.12,10000.20\nv.mp4,y,10000.14,10000.21")
    assert [source.name for source in from_list(listed, tmp_path)] == ["v_10000.12_10000.2", "v_10000.14_10000.21"]


def test_files_that_are_ignored_are_counted(folders, tmp_path, capsys):
    for name in ("loose.mp4", "a/notes.txt", ".hidden", "a/._clip 0.mp4", "b/Thumbs.db", ".DS_Store"):
        (folders / name).touch()
    for k, suffix in enumerate((".MTS", ".m2ts", ".vob", ".asf")):
        (folders / "b" / f"{k}{suffix}").touch()
    assert len(from_folders(folders)) == 12
    assert "2 files are left out, as no videos by their names, or in no class: loose.mp4, a/notes.txt" in (
        capsys.readouterr().out)


@pytest.mark.parametrize("seed", range(5))
def test_a_split_by_whole_groups_has_about_the_wanted_part_and_keeps_every_class_in_training(seed):
    rng = np.random.default_rng(seed)
    clips = [Clip(f"{k}", "abcd"[rng.integers(4)]) for k in range(300)]
    groups = {clip.name: f"{rng.integers(40)}" for clip in clips}
    train, test = split_whole_groups(clips, 0.2, seed, groups)
    assert sorted([*train, *test]) == sorted(clips)
    assert not {groups[clip.name] for clip in train} & {groups[clip.name] for clip in test}
    assert 0.15 < len(test) / 300 <= 0.2 and {clip.label for clip in train} == set("abcd")
    assert split_whole_groups(clips, 0.2, seed, groups) == (train, test)
    with pytest.raises(InputError, match="1 groups cannot be split"):
        split_whole_groups(clips, 0.2, seed, dict.fromkeys(groups, "one"))


# ---- official lists


def official(root: Path, form: str) -> list[str]:
    """Lists of this form, and videos for them -> flags."""
    videos = root / "videos"
    ids = [f"id_{k}-x" for k in range(6)]
    for k, name in enumerate(ids):
        cut = {"ave": name, "kinetics_sounds": f"{name}_000010_000020", "vggsound": f"{name}_000010"}[form]
        make_video(videos / f"{cut}.mp4", 1.0, shade=k)
    if form == "vggsound":
        listed = [f'{name},10,"dog, {"barking" if k % 2 else "growling"}",{"test" if k > 3 else "train"}'
                  for k, name in enumerate([*ids, "gone"])]
        return ["--videos", str(videos), "--list", str(write(root / "vggsound.csv", "\n".join(listed) + "\n\n"))]
    line = {"ave": "{label}&{name}&good&0&1", "kinetics_sounds": "{name}_000010_000020,10,{label}"}[form]
    listed = [line.format(name=name, label=("Church bell", "Male speech, man")[k % 2] if form == "ave" else k % 2)
              for k, name in enumerate([*ids, "gone"])]
    head = ["Category&VideoID&Quality&StartTime&EndTime"] if form == "ave" else []
    flags = ["--videos", str(videos)]
    for split, part in (("train", listed[:4]), ("test", listed[4:])):
        flags += [f"--{split}_list", str(write(root / f"{split}.txt", "\n".join([*head, *part]) + "\n"))]
    return flags


@pytest.mark.parametrize("form", ["ave", "kinetics_sounds", "vggsound"])
def test_official_lists_are_trained_on_and_what_is_gone_is_counted(form, tmp_path, capsys, tiny_encoders):
    from main_CD import main as train

    root = tmp_path / "data"
    with pytest.raises(InputError, match="1 clip cannot be used"):
        main(["--format", form, *official(tmp_path, form), "--data_root", str(root)])
    counted = Counter({row[0]: int(row[3]) for row in rows(root / "missing.csv")[1:] if int(row[3])})
    assert counted == {"test": 1} and "test: 3 listed, 1 of them without a video" in capsys.readouterr().out
    assert (len(rows(root / "train.csv")), len(rows(root / "test.csv")), len(rows(root / "stat.csv"))) == (4, 2, 2)
    result = train(["--train", "--dataset", form, "--data_root", str(root), "--epochs", "1", "--ckpt_path",
                    str(tmp_path / "runs"), *SMALL])
    assert (result["n_train"], result["n_test"]) == (4, 2)


def test_videos_of_several_splits_are_told_and_left_out_on_demand():
    sources = [Source(f"{split}{k}", "x", None, split=split, group=f"{k}")
               for split, videos in (("train", "0123"), ("val", "34"), ("test", "045")) for k in videos]
    kept, told = without_shared(sources, drop=False)
    assert kept == sources and "1 videos are in the train and in the test split: 0" in told[0]
    assert "1 videos are in the train and in the val split: 3" in told[1] and "val and in the test split: 4" in told[2]
    kept, told = without_shared(sources, drop=True)
    assert [source.name for source in kept] == ["train1", "train2", "val3", "test0", "test4", "test5"]
    assert told[-1] == "--drop_shared: 3 clips left out"


@pytest.mark.parametrize(("form", "line"), [("ave", "a&b&c&0"), ("ave", "a&b&good&3&2"), ("kinetics_sounds", "a,10"),
                                            ("vggsound", "a,b,c,train"), ("vggsound", "a,1,c,dev")])
def test_a_line_of_another_form_is_refused_with_its_number(tmp_path, form, line):
    (tmp_path / "videos").mkdir()
    listed = write(tmp_path / "list.txt", line)
    flags = ["--list", str(listed)] if form == "vggsound" else ["--train_list", str(listed), "--test_list", str(listed)]
    with pytest.raises(InputError, match=r"list\.txt, line 1: "):
        main(["--format", form, "--videos", str(tmp_path / "videos"), "--data_root", str(tmp_path / "out"), *flags])


def test_a_clip_that_two_lists_name_can_be_dropped(tmp_path):
    flags = official(tmp_path, "ave")
    with (tmp_path / "train.txt").open("a") as file:
        file.write("Church bell&gone&good&0&1\n")
    flags = ["--format", "ave", *flags, "--data_root", str(tmp_path / "out")]
    with pytest.raises(InputError, match=r"gone_0_1 is in the train and in the test list: .* --drop_shared"):
        main(flags)
    with pytest.raises(InputError, match=r"1 clip cannot be used .*"):
        main([*flags, "--drop_shared"])


def test_two_downloads_of_one_name_are_refused(tmp_path):
    flags = official(tmp_path, "ave")
    shutil.copy(tmp_path / "videos" / "id_0-x.mp4", tmp_path / "videos" / "id_0-x.mkv")
    with pytest.raises(InputError, match="two videos are called id_0-x"):
        main(["--format", "ave", *flags, "--data_root", str(tmp_path / "out")])


@pytest.mark.parametrize("flags", [[], ["--format", "ave"], ["--format", "vggsound"], ["--videos", "x", "--group", "y"],
                                   ["--videos", "x", "--drop_shared"], ["--videos", "x", "--val_list", "y"]])
def test_flags_that_do_not_go_together_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as error:
        main([*flags, "--data_root", "nowhere"])
    assert error.value.code == 2
