"""scripts/prepare_cremad.py, scripts/prepare_grid.py and what they share. Real media are used where they lie beside
the repository, made-up ones (frame i is grey of level 3 * i) everywhere."""

import csv
import os
import runpy
import shutil
import signal
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile
from conftest import ODD, REAL_DATA, REPO, SHOWN, needs_real_data
from films import HEIGHT, WIDTH, hear, is_upright, lists, look, next_command, two_tones
from processes import start_command, status_at_end

import main_CD
from dataset.cremad import EMOTIONS, PAPER_COUNTS, find_clips
from dataset.errors import InputError
from dataset.lists import read_lists
from dataset.preparation import clips as prep
from dataset.preparation import reader
from dataset.preparation.grid.alignments import read_word
from dataset.whole_files import machine
from scripts import prepare_cremad, prepare_grid

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 265922\n"
ALIGN = "0 20000 sil\n20000 23000 bin\n23000 26000 blue\n26000 28000 at\n28000 31000 f\n31000 31500 sp\n" \
        "31500 37500 two\n37500 44000 now\n44000 74500 sil\n"


def write_video(path: Path, count: int, rate: int | Fraction, codec: str, side: int = 64,
                sound: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, width=side, height=side, pix_fmt="yuv420p", bit_rate=2_000_000)
        noise = container.add_stream(sound, rate=44100, layout="stereo") if sound else None
        for i in range(count):
            image = np.full((side, side, 3), 3 * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
        if noise:
            samples = np.random.default_rng(0).integers(-9000, 9000, (1, 2 * 44100 * count // rate), dtype=np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.rate = 44100
            container.mux(noise.encode(frame))
            container.mux(noise.encode())


def write_wav(path: Path, samples: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(samples).normal(0, 0.1, samples), 16000)


def levels(folder: Path) -> list[int]:
    """The numbers of the frames that the images of a folder show."""
    return [round(cv2.imread(str(path)).mean() / 3) for path in sorted(folder.glob("*.jpg"))]


def failures(root: Path) -> dict[str, str]:
    with open(root / "prepare_failures.csv", newline="") as file:
        return dict(list(csv.reader(file))[1:])


@pytest.fixture(scope="session")
def flv(tmp_path_factory) -> Path:
    """60 frames in 2 seconds."""
    path = tmp_path_factory.mktemp("flv") / "clip.flv"
    write_video(path, 60, 30, "flv")
    return path


@pytest.fixture(scope="session")
def mpg(tmp_path_factory) -> Path:
    """75 frames in 3 seconds, with sound."""
    path = tmp_path_factory.mktemp("mpg") / "clip.mpg"
    write_video(path, 75, 25, "mpeg1video", sound="mp2")
    return path


def make_cremad(root: Path, flv: Path, actors: int = 2, emotions: tuple = ("ANG", "HAP")) -> list[str]:
    names = [f"{1001 + i}_DFA_{emotion}_XX" for i in range(actors) for emotion in emotions]
    (root / "VideoFlash").mkdir(parents=True)
    for name in names:
        write_wav(root / "AudioWAV" / f"{name}.wav")
        (root / "VideoFlash" / f"{name}.flv").symlink_to(flv)
    return names


def prepare(root: Path, *flags: str) -> dict:
    return prepare_cremad.main(["--data_root", str(root), *flags])


def test_frames_of_ogm_ge_are_the_first_of_every_29(tmp_path):
    video = tmp_path / "video.flv"
    write_video(video, 65, Fraction(30000, 1001), "flv")  # 29.97 frames per second, as CREMA-D
    names = make_cremad(tmp_path / "data", video)
    prepare(tmp_path / "data")  # the default
    prepare(tmp_path / "data", "--frames", "ogm_ge", "--fps", "3")
    for name in names:
        assert levels(tmp_path / "data" / "Image-01-FPS" / name) == [0, 29, 58]
        assert levels(tmp_path / "data" / "Image-03-FPS" / name) == [0, 9, 18, 29, 38, 47, 58]


def test_frames_of_two_kinds_do_not_mix_in_one_folder(tmp_path, flv):
    make_cremad(tmp_path, flv)
    prepare(tmp_path, "--frames", "middle")
    (tmp_path / "Image-01-FPS.txt").unlink()  # as versions without --frames left it
    for rule, other in (("middle", "ogm_ge"), ("ogm_ge", "middle")):
        prepare(tmp_path, "--frames", rule)
        with pytest.raises(InputError, match=f"Image-01-FPS holds frames of --frames {rule}"):
            prepare(tmp_path, "--frames", other)
        shutil.rmtree(tmp_path / "Image-01-FPS")


def test_a_folder_with_frames_of_the_former_default_keeps_them_and_says_so(tmp_path, flv, capsys):
    names = make_cremad(tmp_path, flv)
    prepare(tmp_path, "--frames", "middle")
    (tmp_path / "Image-01-FPS.txt").unlink()  # as versions without --frames left it
    shutil.rmtree(tmp_path / "Image-01-FPS" / names[1])
    capsys.readouterr()
    prepare(tmp_path)
    assert "Image-01-FPS holds frames of --frames middle, which are kept. They are not the paper's" in (
        capsys.readouterr().out)
    assert levels(tmp_path / "Image-01-FPS" / names[1]) == [15, 45]


@pytest.mark.parametrize(("duration", "fps", "times"), [(0.2, 1, [0.1]), (1.4, 1, [0.7]), (1.6, 1, [0.4, 1.2])])
def test_number_of_frames_is_seconds_times_fps_rounded_and_at_least_one(duration, fps, times):
    assert reader.middle_times(duration, fps) == pytest.approx(times)


def test_frame_on_screen_is_the_last_one_that_has_begun(flv, mpg):
    for path, times, numbers in [(flv, [0.0, 0.032, 0.034, 1.0, 1.99, 2.2], [0, 0, 1, 30, 59, 59]),
                                 (mpg, [0.0, 0.039, 0.04, 0.04, 1.5, 2.97, 3.1], [0, 0, 1, 1, 37, 74, 74])]:
        assert [round(image.mean() / 3) for image in reader.read_frames(path, times)] == numbers


def test_lists_cover_every_clip_once_and_are_the_same_for_the_same_seed(tmp_path, flv):
    names = make_cremad(tmp_path, flv, actors=6)
    prepare(tmp_path, "--test_fraction", "0.34")
    lists = read_lists(tmp_path, "")
    assert sorted(clip.name for clip in lists.train + lists.test) == sorted(names)
    assert sorted(clip.label for clip in lists.test) == ["ANG", "ANG", "HAP", "HAP"]
    assert all(clip.name.split("_")[2] == clip.label for clip in lists.train + lists.test)
    assert find_clips(tmp_path, lists.train + lists.test)[1] == {}
    first = (tmp_path / "test.csv").read_bytes()
    for name in ("train.csv", "test.csv", "stat.csv"):
        (tmp_path / name).unlink()
    prepare(tmp_path, "--test_fraction", "0.34")
    assert (tmp_path / "test.csv").read_bytes() == first


def test_folds_of_actors_test_each_actor_once(tmp_path, flv):
    root = tmp_path / "data"
    make_cremad(root, flv, actors=5)
    prepare(root, "--split", "speaker", "--folds", "3", "--fps", "2")
    tested = []
    for fold in range(3):
        folder = tmp_path / f"data-fold{fold}"
        lists = read_lists(folder, "")
        train, test = ({clip.name[:4] for clip in clips} for clips in (lists.train, lists.test))
        assert not train & test and len(train | test) == 5
        assert find_clips(folder, [*lists.train, *lists.test], fps=2)[1] == {}
        tested += sorted(test)
    assert sorted(tested) == [f"{1001 + i}" for i in range(5)]


def test_lists_that_are_there_are_kept_and_checked(tmp_path, flv, capsys):
    names = make_cremad(tmp_path, flv)
    (tmp_path / "stat.csv").write_text("HAP\nANG\n")
    (tmp_path / "train.csv").write_text(f"{names[0]},ANG\n{names[1]},HAP\n")
    (tmp_path / "test.csv").write_text(f"{names[2]},ANG\n1009_DFA_ANG_XX,ANG\n")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.csv")}
    with pytest.raises(InputError, match="1 clip cannot be used"):
        prepare(tmp_path)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert list(failures(tmp_path)) == ["1009_DFA_ANG_XX"]
    assert f"1 prepared clip is in no list: {names[3]}" in capsys.readouterr().out


def test_paper_lists_are_recognised_by_their_counts_only(tmp_path, monkeypatch, flv, capsys):
    make_cremad(tmp_path, flv)
    prepare(tmp_path)
    assert "not comparable with the paper's" in capsys.readouterr().out
    monkeypatch.setattr(prepare_cremad, "PAPER_COUNTS", {"train": 2, "test": 2})
    prepare(tmp_path)
    out = capsys.readouterr().out
    assert "as many clips as the paper's lists" in out and "not comparable" not in out


def test_clips_of_the_papers_lists_that_cannot_be_used_are_counted_as_a_run_counts_them(tmp_path, monkeypatch, flv,
                                                                                        capsys):
    names = make_cremad(tmp_path, flv)
    prepare(tmp_path)
    monkeypatch.setitem(PAPER_COUNTS, "test", 2)
    (tmp_path / "stat.csv").write_text("".join(f"{label}\n" for label in EMOTIONS))
    (tmp_path / "train.csv").write_text("".join(f"{names[0][:9]}{label}_XX,{label}\n" for label in EMOTIONS))
    monkeypatch.setitem(PAPER_COUNTS, "train", len(EMOTIONS))
    (tmp_path / "test.csv").write_text("".join(f"{name},{name[9:12]}\n" for name in names[2:]))
    capsys.readouterr()
    with pytest.raises(InputError, match="4 clips cannot be used"):
        prepare(tmp_path)
    told = "of the paper's lists, 2 of 6 training clips and 2 of 2 test clips are usable: results are not comparable"
    out = capsys.readouterr().out
    assert told in out and "4 of 8 clips cannot be used" in out


def test_one_clip_a_class_gives_frames_and_says_how_to_get_lists(tmp_path, flv):
    names = make_cremad(tmp_path, flv, actors=1)
    with pytest.raises(InputError, match=r"class ANG has 1 clip.*by hand"):
        prepare(tmp_path)
    assert levels(tmp_path / "Image-01-FPS" / names[0]) == [0, 30]
    assert not list(tmp_path.glob("*.csv"))


def test_every_bad_clip_is_named_with_its_reason_and_the_rest_is_written(tmp_path, flv):
    names = make_cremad(tmp_path, flv, actors=6)
    wav, video = ({name: tmp_path / folder / f"{name}{end}" for name in names}
                  for folder, end in (("AudioWAV", ".wav"), ("VideoFlash", ".flv")))
    for name in names[1:7]:
        video[name].unlink()
    video[names[1]].write_text(POINTER)
    video[names[2]].write_bytes(b"")
    video[names[3]].write_bytes(b"no video" * 200)
    video[names[4]].write_bytes(flv.read_bytes()[:flv.stat().st_size // 3])
    wav[names[6]].unlink()
    video[names[6]].symlink_to(flv)
    wav[names[7]].write_bytes(b"RIFF" * 500)
    soundfile.write(wav[names[8]], np.zeros(0), 16000)
    (tmp_path / "AudioWAV" / "1009_DFA_JOY_XX.wav").write_bytes(wav[names[0]].read_bytes())
    with pytest.raises(InputError, match="9 clips cannot be used"):
        prepare(tmp_path, "--frames", "middle")
    reasons = ["git lfs pull", "is empty", "cannot be read as a video", "truncated", ".flv is missing",
               ".wav is missing", "cannot be read as audio", "0 samples", "class is unknown"]
    expected = dict(zip([*names[1:9], "1009_DFA_JOY_XX"], reasons, strict=True))
    found = failures(tmp_path)
    assert sorted(found) == sorted(expected)
    assert all(reason in found[name] for name, reason in expected.items())
    lists = read_lists(tmp_path, "")
    assert {clip.name for clip in lists.train + lists.test} == {names[0], *names[9:]}


def test_failure_list_is_gone_once_the_clips_are_mended(tmp_path, flv):
    names = make_cremad(tmp_path, flv, actors=3)
    video = tmp_path / "VideoFlash" / f"{names[0]}.flv"
    video.unlink()
    with pytest.raises(InputError):
        prepare(tmp_path)
    video.symlink_to(flv)
    assert prepare(tmp_path)["failed"] == 0
    assert not (tmp_path / "prepare_failures.csv").exists()


@pytest.mark.parametrize("pattern", ["VideoFlash/*", "AudioWAV/*"])
def test_pointers_everywhere_are_one_short_message(tmp_path, flv, pattern):
    names = make_cremad(tmp_path, flv, actors=20)
    for path in list(tmp_path.glob(pattern)):
        path.unlink()
        path.write_text(POINTER)
    with pytest.raises(InputError, match=rf"none of the 40 clips.*{names[0]}.*git lfs pull") as error:
        prepare(tmp_path)
    assert len(str(error.value)) < 500 + len(str(tmp_path)) * 3
    assert "\n" not in str(error.value)


def test_missing_folders_are_named_with_the_way_to_get_them(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*AudioWAV.*git clone"):
        prepare(tmp_path / "nowhere")
    (tmp_path / "AudioWAV").mkdir()
    with pytest.raises(InputError, match=r"neither .*VideoFlash nor .*Image-01-FPS"):
        prepare(tmp_path)


def test_finished_clips_are_left_alone_and_leftovers_removed(tmp_path, flv):
    names = make_cremad(tmp_path, flv, actors=3)
    prepare(tmp_path)
    frames = tmp_path / "Image-01-FPS"
    times = {path: path.stat().st_mtime_ns for path in frames.glob("*/*.jpg")}
    (frames / f".999999999-{machine()}.clip").mkdir()
    (frames / f".999999999-{machine()}.clip" / "frame_00001.jpg").write_bytes(b"half")
    (frames / names[0] / "frame_00002.jpg").write_bytes(b"")  # as after a power failure
    (tmp_path / "VideoFlash" / f"{names[1]}.flv").unlink()  # no longer needed
    prepare(tmp_path)
    assert sorted(path.name for path in frames.iterdir()) == names
    assert levels(frames / names[0]) == [0, 30]
    assert all(path.stat().st_mtime_ns == when for path, when in times.items() if path.parent.name != names[0])


def test_killed_run_leaves_whole_clips_only_and_goes_on(tmp_path, flv):
    names = make_cremad(tmp_path, flv, actors=120)
    frames = tmp_path / "Image-20-FPS"
    process = start_command("scripts.prepare_cremad", "--data_root", str(tmp_path), "--fps", "20", "--workers", "1",
                    output=tmp_path / "printed.txt")
    while process.exitcode is None and len(list(frames.glob("[!.]*"))) < 5:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert status_at_end(process) == -signal.SIGKILL
    done = [path for path in frames.iterdir() if not path.name.startswith(".")]
    assert 5 <= len(done) < len(names)
    assert all(len(list(path.glob("*.jpg"))) == 40 for path in done)
    assert prepare(tmp_path, "--fps", "20", "--workers", "2")["failed"] == 0
    assert len(list(frames.glob("*/*.jpg"))) == 40 * len(names)
    assert not list(frames.glob(".*"))


def run_command(monkeypatch, script: str, *flags: str) -> int:
    """The exit status of a script, run in this process because the imports of a new one take seconds."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", [script, *flags])
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        runpy.run_path(str(REPO / "scripts" / script), run_name="__main__")
    except SystemExit as stop:
        return stop.code
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def test_command_exits_with_2_and_a_message_when_a_clip_failed(tmp_path, flv, monkeypatch, capsys):
    names = make_cremad(tmp_path, flv, actors=3)
    wav = tmp_path / "AudioWAV" / f"{names[0]}.wav"
    wav.unlink()
    assert run_command(monkeypatch, "prepare_cremad.py", "--data_root", str(tmp_path)) == 2
    out, err = capsys.readouterr()
    assert f"{names[0]}.wav is missing" in out
    assert "error: 1 clip cannot be used" in err and "python main_CD.py --train" in err
    write_wav(wav)
    assert run_command(monkeypatch, "prepare_cremad.py", "--data_root", str(tmp_path)) == 0


def test_grid_command_exits_with_2_and_a_message_when_the_folder_is_missing(tmp_path, monkeypatch, capsys):
    assert run_command(monkeypatch, "prepare_grid.py", "--grid_root", str(tmp_path / "nowhere")) == 2
    assert "prepare_grid.py: error: no folder" in capsys.readouterr().err


def test_full_disk_stops_the_run_with_a_sentence(tmp_path, flv, monkeypatch):
    make_cremad(tmp_path, flv)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prep, "write_folder_whole", no_space)
    with pytest.raises(InputError, match=r"No space left on device.*finished clips are kept"):
        prepare(tmp_path)


@pytest.mark.parametrize("flags", [["--fps", "0"], ["--workers", "-1"], ["--test_fraction", "1"], ["--data", "x"],
                                   ["--test_fraction", "nan"], ["--split", "random"], ["--frames", "first"]])
def test_flags_out_of_range_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        prepare_cremad.main(flags)
    assert stop.value.code == 2


@pytest.mark.parametrize("name", ["1001_DFA_ANG", "1001_DFA_ang_XX", "1001_XYZ_ANG_XX", "1001_DFA_ANG_XX_2", "ANG"])
def test_names_that_do_not_say_a_class_are_reported(name):
    assert list(prepare_cremad.check_names([name, "1001_DFA_ANG_XX", "1040_ITH_SAD_X"])) == [name]


def test_loud_stereo_is_averaged_not_clipped(tmp_path):
    stereo = np.full((44100, 2), 30000, dtype=np.int16)
    stereo[:22050, 1] = 0
    soundfile.write(tmp_path / "a.wav", stereo, 44100)
    mono = reader.read_sound(tmp_path / "a.wav", 16000)
    assert abs(len(mono) - 16000) <= 1 and mono.dtype == np.int16
    np.testing.assert_allclose(mono[[4000, 12000]], [15000, 30000], atol=2)


@needs_real_data
def test_sound_is_read_from_any_container_and_its_absence_is_said():
    seconds = len(reader.read_sound(REAL_DATA / "clips" / "flipping_a_pancake.mkv", 16000)) / 16000
    assert seconds == pytest.approx(10.38, rel=0.01)
    with pytest.raises(InputError, match=r"demo.mp4 has no sound stream"):
        reader.read_sound(REAL_DATA / "clips" / "demo.mp4", 16000)


@needs_real_data
def test_real_cremad_clips_give_upright_faces_and_those_without_video_are_named(tmp_path):
    shutil.copytree(REAL_DATA / "cremad", tmp_path, dirs_exist_ok=True, copy_function=shutil.copyfile)
    with pytest.raises(InputError, match="class ANG has 1 clip"):
        prepare(tmp_path)
    assert sorted(failures(tmp_path)) == [f"1002_DFA_{emotion}_XX" for emotion in sorted(EMOTIONS)]
    folders = sorted((tmp_path / "Image-01-FPS").iterdir())
    assert [folder.name for folder in folders] == [f"1001_DFA_{emotion}_XX" for emotion in sorted(EMOTIONS)]
    for path in (tmp_path / "Image-01-FPS").glob("*/*.jpg"):
        blue, green, red = cv2.imread(str(path))[:60].mean(axis=(0, 1))  # the green screen is behind the head
        assert green > 1.5 * max(blue, red)
        assert cv2.imread(str(path)).shape == (360, 480, 3)


@needs_real_data
def test_real_cremad_clips_of_two_actors_get_lists(tmp_path):
    for source in [*REAL_DATA.glob("cremad/AudioWAV/1001_*"), *REAL_DATA.glob("cremad/VideoFlash/1001_*")]:
        (tmp_path / source.parent.name).mkdir(exist_ok=True)
        for actor in ("1001", "1003"):
            (tmp_path / source.parent.name / source.name.replace("1001", actor)).symlink_to(source)
    assert prepare(tmp_path, "--split", "speaker") == {"clips": 12, "failed": 0, "train": 6, "test": 6}
    lists = read_lists(tmp_path, "")
    assert len(find_clips(tmp_path, lists.train + lists.test)[0]) == 12


def make_grid(root: Path, mpg: Path, digits: tuple = ("two", "two", "six", "six")) -> list[str]:
    (root / "s1").mkdir(parents=True)
    (root / "align").mkdir()
    names = [f"clip{i}" for i in range(len(digits))]
    for name, digit in zip(names, digits, strict=True):
        (root / "s1" / f"{name}.mpg").symlink_to(mpg)
        (root / "align" / f"{name}.align").write_text(ALIGN.replace("two", digit))
    return names


def cut(grid: Path, root: Path, *flags: str) -> dict:
    box = ["--rows", "8", "40", "--columns", "0", "64"]
    return prepare_grid.main(["--grid_root", str(grid), "--data_root", str(root), *box, *flags])


def test_words_are_cut_into_the_layout_of_cremad(tmp_path, mpg):
    names = make_grid(tmp_path / "grid", mpg)
    assert cut(tmp_path / "grid", tmp_path / "out") == {"clips": 4, "failed": 0, "train": 2, "test": 2}
    lists = read_lists(tmp_path / "out", "")
    assert {clip.name: clip.label for clip in lists.train + lists.test} == dict(
        zip(names, ["TWO", "TWO", "SIX", "SIX"], strict=True))
    clips, problems = find_clips(tmp_path / "out", lists.train)
    assert problems == {}
    for clip in clips:
        info = soundfile.info(clip.audio)
        assert (info.frames, info.samplerate, info.channels, info.subtype) == (5760, 16000, 1, "PCM_16")  # 0.24+0.12 s
        assert cv2.imread(str(clip.frames[0])).shape == (32, 64, 3)
        assert levels(clip.frames[0].parent) == [33, 34, 36]  # 1.32, 1.38, 1.44 s at 25 frames a second


def test_sound_is_cut_60_ms_around_the_word_and_within_the_sentence(monkeypatch):
    monkeypatch.setattr(reader, "read_sound", lambda *_: np.arange(20000))
    for start, end, first, last in [(0.5, 0.75, 7040, 12959), (0.01, 0.3, 0, 5759), (1.0, 1.25, 15040, 19999)]:
        sound = prepare_grid.cut_sound(Path("a.mpg"), prepare_grid.Word("two", start, end))
        assert (sound[0], sound[-1]) == (first, last)
    with pytest.raises(InputError, match=r"a.mpg ends at 1.25 s, before the word 'two'"):
        prepare_grid.cut_sound(Path("a.mpg"), prepare_grid.Word("two", 1.2, 1.5))


@pytest.mark.parametrize(("column", "text", "start"), [("command", "bin", 0.8), ("colour", "blue", 0.92),
                                                       ("preposition", "at", 1.04), ("letter", "f", 1.12),
                                                       ("digit", "two", 1.26), ("adverb", "now", 1.5)])
def test_column_names_the_word_whatever_the_silences(tmp_path, column, text, start):
    (tmp_path / "a.align").write_text(ALIGN)
    word = read_word(tmp_path / "a.align", column)
    assert (word.text, word.start) == (text, start)


@pytest.mark.parametrize(("content", "message"), [
    (ALIGN.replace("31500 37500 two\n", ""), "has 5 words"), ("", "has 0 words"),
    (ALIGN.replace("37500 two", "31500 two"), "lasts from 31500 to 31500"),
    (ALIGN.replace("31500 37500", "1.26"), "is no alignment")])
def test_bad_alignments_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "a.align").write_text(content)
    with pytest.raises(InputError, match=f"a.align.*{message}"):
        read_word(tmp_path / "a.align", "digit")


def test_sentences_that_cannot_be_cut_are_named_and_the_rest_is_written(tmp_path, mpg):
    grid, root = tmp_path / "grid", tmp_path / "out"
    names = make_grid(grid, mpg, ("two",) * 6 + ("six",) * 2)
    (grid / "align" / "clip0.align").unlink()
    (grid / "align" / "clip1.align").write_text("0 100 sil\n")
    for name, size in (("clip2", 3000), ("clip3", mpg.stat().st_size // 3)):
        (grid / "s1" / f"{name}.mpg").unlink()
        (grid / "s1" / f"{name}.mpg").write_bytes(mpg.read_bytes()[:size])
    with pytest.raises(InputError, match="4 clips cannot be used"):
        cut(grid, root)
    found = failures(root)
    assert sorted(found) == names[:4]
    assert "no clip0.align" in found["clip0"] and "has 0 words" in found["clip1"]
    assert all(f"{name}.mpg" in found[name] for name in ("clip2", "clip3"))
    lists = read_lists(root, "")
    assert sorted(clip.name for clip in lists.train + lists.test) == names[4:]


def test_speakers_are_kept_apart(tmp_path):
    for place in ("s1/video/mpg_vcd/a.mpg", "s2/a.mpg", "align/a.align", "alignments/s1/a.align", "s2/align/a.align"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert prepare_grid.find_videos(tmp_path, ["s1"]) == {"a": tmp_path / "s1/video/mpg_vcd/a.mpg"}
    assert prepare_grid.find_alignments(tmp_path, ["s1"]) == {"a": tmp_path / "alignments/s1/a.align"}
    assert prepare_grid.find_alignments(tmp_path, ["s3"]) == {"a": tmp_path / "align/a.align"}
    with pytest.raises(InputError, match=r"no \.mpg below a folder s3"):
        prepare_grid.find_videos(tmp_path, ["s3"])
    (tmp_path / "s1/b").mkdir()
    (tmp_path / "s1/b/a.mpg").touch()
    with pytest.raises(InputError, match="two files of clip a"):
        prepare_grid.find_videos(tmp_path, ["s1"])


def test_folds_of_people_test_each_person_once(tmp_path, mpg):
    for speaker in ("s1", "s2", "s3"):
        make_grid(tmp_path / "one", mpg)
        shutil.move(tmp_path / "one" / "s1", tmp_path / "grid" / speaker)
        shutil.move(tmp_path / "one" / "align", tmp_path / "grid" / "alignments" / speaker)
    cut(tmp_path / "grid", tmp_path / "out", "--speakers", "s1", "s2", "s3", "--split", "speaker", "--folds", "3")
    tested = [{clip.name.split("_")[0] for clip in read_lists(tmp_path / f"out-fold{fold}", "").test}
              for fold in range(3)]
    assert sorted(map(sorted, tested)) == [["s1"], ["s2"], ["s3"]]


def test_another_column_does_not_mix_into_the_same_folder(tmp_path, mpg):
    make_grid(tmp_path / "grid", mpg)
    cut(tmp_path / "grid", tmp_path / "out")
    with pytest.raises(InputError, match="choose another --data_root"):
        cut(tmp_path / "grid", tmp_path / "out", "--column", "letter")


def test_box_outside_the_picture_is_refused(tmp_path, mpg):
    make_grid(tmp_path / "grid", mpg)
    with pytest.raises(InputError, match=r"is 64x64: rows \[8, 40\] and columns \[0, 65\] are not inside"):
        cut(tmp_path / "grid", tmp_path / "out", "--columns", "0", "65")
    with pytest.raises(SystemExit):
        cut(tmp_path / "grid", tmp_path / "out", "--columns", "65", "0")


def test_file_names_that_lists_cannot_contain_are_counted_and_the_others_prepared(tmp_path, mpg):
    names = make_grid(tmp_path / "grid", mpg, ("two",) * 3 + ("six",) * 2)
    for folder, suffix in (("s1", "mpg"), ("align", "align")):
        path = tmp_path / "grid" / folder / f"{names[0]}.{suffix}"
        path.rename(path.with_name(f"clip\n0.{suffix}"))
    with pytest.raises(InputError, match="1 clip cannot be used"):
        cut(tmp_path / "grid", tmp_path / "out")
    assert "'clip\\n0' holds characters that lists cannot contain" in (
        tmp_path / "out/prepare_failures.csv").read_text()
    lists = read_lists(tmp_path / "out", "")
    assert sorted(clip.name for clip in lists.train + lists.test) == names[1:]


@needs_real_data
def test_real_sentences_give_the_clips_of_grid_digits(tmp_path):
    with pytest.raises(InputError, match="class THREE has 1 clip"):  # of 12 sentences
        prepare_grid.main(["--grid_root", str(REAL_DATA / "grid_raw"), "--data_root", str(tmp_path)])
    reference = REAL_DATA / "grid_digits"
    wavs = sorted(tmp_path.glob("AudioWAV/*.wav"))
    assert len(wavs) == 12
    for wav in wavs:
        ours, theirs = (soundfile.read(folder / "AudioWAV" / wav.name)[0] for folder in (tmp_path, reference))
        assert abs(len(ours) - len(theirs)) <= 1
        shift = len(theirs) - len(ours)  # theirs begins a sample early where the cut fell between two
        assert np.corrcoef(ours, theirs[shift:])[0, 1] > 0.9999
        for path in sorted((tmp_path / "Image-01-FPS" / wav.stem).glob("*.jpg")):
            same = reference / path.relative_to(tmp_path)
            np.testing.assert_allclose(cv2.imread(str(path)), cv2.imread(str(same)).astype(float), atol=2)


def test_grid_names_such_a_clip_and_cuts_the_others(tmp_path, mpg):
    make_grid(tmp_path / "grid", mpg)
    (tmp_path / "grid" / "s1" / f"{ODD}.mpg").symlink_to(mpg)
    (tmp_path / "grid" / "align" / f"{ODD}.align").write_text(ALIGN)
    with pytest.raises(InputError, match="1 clip cannot be used"):
        cut(tmp_path / "grid", tmp_path / "out")
    [(name, reason)] = failures(tmp_path / "out").items()
    assert name == SHOWN and "is not UTF-8" in reason
    assert len(list((tmp_path / "out" / "AudioWAV").glob("*.wav"))) == 4


def test_cremad_names_such_a_clip_and_prepares_the_others(tmp_path, flv):
    make_cremad(tmp_path, flv)
    write_wav(tmp_path / "AudioWAV" / "a.wav")
    (tmp_path / "AudioWAV" / "a.wav").rename(tmp_path / "AudioWAV" / f"{ODD}.wav")
    with pytest.raises(InputError, match="1 clip cannot be used"):
        prepare(tmp_path)
    assert list(failures(tmp_path)) == [SHOWN] and len(list((tmp_path / "Image-01-FPS").iterdir())) == 4


def test_a_data_folder_whose_name_is_not_utf_8_is_refused_in_a_sentence(tmp_path, flv, monkeypatch, capsys):
    make_cremad(tmp_path / "data", flv)
    (tmp_path / "data").rename(tmp_path / ODD)
    assert run_command(monkeypatch, "prepare_cremad.py", "--data_root", str(tmp_path / ODD)) == 2
    told = capsys.readouterr().err
    assert SHOWN in told and "is not UTF-8: rename" in told and "Traceback" not in told


def test_linked_folders_are_searched_in_order_and_loops_end(tmp_path):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "disk" / "deep" / "a.mpg").touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "b.mpg").touch()
    (root / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(root)
    (root / "itself").symlink_to(root)
    (root / "nowhere").symlink_to(root / "nowhere")
    found = [os.path.join(place, file) for place, files in prep.walk(root) for file in files]
    assert found == [f"{root}/b.mpg", f"{root}/nowhere", f"{root}/link/deep/a.mpg"]


def test_grid_finds_videos_and_alignments_in_linked_folders_and_a_second_link_to_one_does_no_harm(tmp_path, mpg):
    make_grid(tmp_path / "disk", mpg)
    grid = tmp_path / "grid"
    grid.mkdir()
    for name in ("s1", "align"):
        (grid / name).symlink_to(tmp_path / "disk" / name)
    (grid / "again").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(grid)
    assert cut(grid, tmp_path / "out")["clips"] == 4


def test_cremad_is_prepared_from_linked_folders(tmp_path, flv):
    make_cremad(tmp_path / "disk", flv)
    (tmp_path / "data").mkdir()
    for name in ("AudioWAV", "VideoFlash"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "frames").mkdir()
    (tmp_path / "data" / "Image-01-FPS").symlink_to(tmp_path / "disk" / "frames")
    assert prepare(tmp_path / "data") == {"clips": 4, "failed": 0, "train": 2, "test": 2}
    assert len(list((tmp_path / "disk" / "frames").iterdir())) == 4


def test_frames_replace_a_linked_folder_of_damaged_ones_and_leave_what_it_points_to(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.txt").touch()
    (tmp_path / "clip").symlink_to(tmp_path / "elsewhere")
    prep.write_frames(tmp_path / "clip", [np.zeros((20, 20, 3), np.uint8)], 95)
    assert os.listdir(tmp_path / "elsewhere") == ["mine.txt"]
    assert cv2.imread(str(tmp_path / "clip" / "frame_00001.jpg")).shape == (20, 20, 3)


# ---- a film, from the flags to what the entry script reads


def link_cremad(root: Path, flv: Path) -> list[str]:
    names = [f"{1001 + actor}_DFA_{emotion}_XX" for actor in range(8) for emotion in ("SAD", "ANG", "FEA")]
    for folder in ("AudioWAV", "VideoFlash"):
        (root / folder).mkdir(parents=True)
    soundfile.write(root / "a.wav", two_tones(16000), 16000)
    for name in names:
        (root / "VideoFlash" / f"{name}.flv").symlink_to(flv)
        (root / "AudioWAV" / f"{name}.wav").symlink_to(root / "a.wav")
    return names


def test_prepare_cremad_takes_the_middle_frames_at_its_fps_and_splits_as_it_is_told(tmp_path, films, capsys):
    names = link_cremad(tmp_path, films["flv"])
    argv = ["--data_root", str(tmp_path), "--fps", "2", "--test_fraction", "0.25", "--workers", "2",
            "--frames", "middle"]
    assert prepare_cremad.main(argv) == {"clips": 24, "failed": 0, "train": 18, "test": 6}
    command = next_command(capsys.readouterr().out)
    args = main_CD.get_args_parser().parse_args(command[1:])
    assert (command[0], args.data_root, args.fps, args.train) == ("main_CD.py", tmp_path, 2, True)
    for name in names[:2]:
        seen = [look(path) for path in sorted((tmp_path / "Image-02-FPS" / name).iterdir())]
        assert [one.frame for one in seen] == [6, 18, 31, 43]  # at 0.25, 0.75, 1.25, 1.75 s
        assert all(map(is_upright, seen)) and seen[0].shape == (HEIGHT, WIDTH, 3)
    assert (tmp_path / "stat.csv").read_text().split() == ["ANG", "FEA", "SAD"]
    first = lists(tmp_path)
    assert {**first["train"], **first["test"]} == {name: name.split("_")[2] for name in names}
    assert Counter(first["test"].values()) == {"ANG": 2, "FEA": 2, "SAD": 2}
    assert len({name[:4] for name in first["test"]} & {name[:4] for name in first["train"]}) > 0
    found = {}
    for flags in (["--seed", "0"], ["--seed", "1"], ["--split", "speaker"], ["--split", "speaker", "--seed", "1"]):
        for name in ("train.csv", "test.csv", "stat.csv"):
            (tmp_path / name).unlink()
        prepare_cremad.main([*argv, *flags])
        found[tuple(flags)] = lists(tmp_path)
    capsys.readouterr()
    assert found["--seed", "0"] == first != found["--seed", "1"]
    for flags in (("--split", "speaker"), ("--split", "speaker", "--seed", "1")):
        actors = {side: {name[:4] for name in clips} for side, clips in found[flags].items()}
        assert (len(actors["train"]), len(actors["test"])) == (6, 2) and not actors["train"] & actors["test"]
    assert found["--split", "speaker"] != found["--split", "speaker", "--seed", "1"]


def test_prepare_grid_cuts_the_asked_word_of_the_asked_speaker_out_of_sound_and_picture(tmp_path, films, capsys):
    grid, words = tmp_path / "grid", ["two", "two", "six", "six", "two", "six"]
    for number, word in enumerate(words):
        for speaker, end in (("s3", ".mpg"), ("s1", ".mpg"), ("align", ".align")):
            (grid / speaker).mkdir(parents=True, exist_ok=True)
            path = grid / speaker / f"{'other' if speaker == 's1' else 'clip'}{number}{end}"
            if end == ".mpg":
                path.symlink_to(films["mpg"])
            else:  # the letter from 0.2 to 0.6 s, the digit from 1.2 to 1.8
                path.write_text("0 1000 sil\n1000 2000 bin\n2000 3000 blue\n3000 5000 at\n5000 15000 f\n"
                                f"15000 30000 sp\n30000 45000 {word}\n45000 47000 now\n47000 50000 sil\n")
    box = ["--rows", "64", "128", "--columns", "48", "192", "--workers", "2"]
    for column, seconds, tone, frames in (("digit", 0.72, 1320, [33, 37, 41]), ("letter", 0.52, 440, [7, 10, 12])):
        root = tmp_path / column
        argv = ["--grid_root", str(grid), "--data_root", str(root), "--speaker", "s3", "--column", column,
                "--test_fraction", "0.34", *box]
        prepare_grid.main(argv)
        command = next_command(capsys.readouterr().out)
        args = main_CD.get_args_parser().parse_args(command[1:])
        assert (command[0], args.data_root, args.dataset) == ("main_CD.py", root, column)
        rate, loudest, height, length = hear(root / "AudioWAV/clip0.wav")
        assert (rate, loudest) == (16000, [tone, tone]) and length == pytest.approx(seconds, abs=0.001)
        assert height == pytest.approx(0.25, abs=0.03), "the mean of a tone and silence"
        seen = [look(path) for path in sorted((root / "Image-01-FPS/clip0").iterdir())]
        assert [one.frame for one in seen] == frames, "at 1/4, 1/2 and 3/4 of the word"
        assert seen[0].shape == (64, 144, 3)
        at = [40 + 175 * 48 / 191, 215, 40 + 175 * 64 / 127, 215]
        assert np.abs(np.array(seen[0][2:]) - at).max() < 14
        found = lists(root)
        expected = {f"clip{i}": "F" if column == "letter" else word.upper() for i, word in enumerate(words)}
        assert {**found["train"], **found["test"]} == expected
        assert len(found["test"]) == 2
