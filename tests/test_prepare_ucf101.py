"""scripts/prepare_ucf101.py on videos whose motion is known: positions, sign and scale of the flow, interruptions, what
fails and how it is reported."""

import csv
import json
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import REAL_DATA, needs_real_data
from test_prepare import failures, run_command

from dataset.errors import InputError
from dataset.lists import Clip
from dataset.preparation import motion
from dataset.ucf101 import find_clip, image_path
from dataset.whole_files import machine
from scripts import prepare_ucf101

SIZE = (72, 96)  # height and width
SHIFT = (3, -2)  # pixels to the right and down per frame
NAMES = ("Diving/v_Diving_g01_c01", "HandstandPushups/v_HandStandPushups_g01_c01", "Diving/v_Diving_g02_c01",
         "HandstandPushups/v_HandStandPushups_g02_c01")


def texture(side: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 1, (side, side, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.clip(128 + 50 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def write_shifted(path: Path, count: int, shift: tuple[int, int] = SHIFT, size: tuple[int, int] = SIZE) -> None:
    """A window over a fixed texture that moves so that the picture is shifted by `shift` from frame to frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole, middle = texture(400), 150
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25, width=size[1], height=size[0], pix_fmt="yuv420p",
                                      bit_rate=3_000_000)
        for i in range(count):
            x, y = middle - i * shift[0], middle - i * shift[1]
            window = np.ascontiguousarray(whole[y:y + size[0], x:x + size[1]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "shifted.avi"
    write_shifted(path, 31)
    return path


@pytest.fixture
def root(tmp_path, video) -> Path:
    """Two classes of a training and a test video of 31 frames each."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Diving\n2 HandstandPushups\n")
    (lists / "trainlist01.txt").write_text("".join(f"{name}.avi {n}\n" for n, name in enumerate(NAMES[:2], 1)))
    (lists / "testlist01.txt").write_text("".join(f"{name}.avi\n" for name in NAMES[2:]))
    for name in NAMES:
        (tmp_path / "UCF-101" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, tmp_path / f"UCF-101/{name}.avi")
    return tmp_path


def prepare(root: Path, *flags: str) -> dict:
    return prepare_ucf101.main(["--data_root", str(root), "--flow_frames", "5", "--workers", "2", *flags])


def note(root: Path, kind: str, name: str = NAMES[0]) -> dict:
    return json.loads((root / kind / name / "clip.json").read_text())


def flow_of(root: Path, method: str, name: str = NAMES[0]) -> tuple[np.ndarray, np.ndarray]:
    """Median u and v in pixels, as the 8-bit images say, away from the border."""
    found = []
    for part in ("u", "v"):
        levels = [cv2.imread(str(path), 0) for path in sorted((root / f"flow_{method}" / name).glob(f"{part}_*.jpg"))]
        found.append(np.array([np.median(level[12:-12, 12:-12]) for level in levels]) / 255 * 40 - 20)
    return found[0], found[1]


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_flow_of_a_known_shift_has_its_sign_and_its_size_in_pixels(root, method):
    assert prepare(root, "--flow", method) == {"listed": 4, "failed": 0}
    for name in NAMES:
        u, v = flow_of(root, method, name)
        assert len(u) == len(v) == 5
        np.testing.assert_allclose(u, SHIFT[0], atol=0.25)
        np.testing.assert_allclose(v, SHIFT[1], atol=0.25)


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_flow_follows_the_red_picture_and_not_the_blue_one_of_which_luminance_has_less(method, tmp_path):
    """Red moves to the right while blue moves to the left."""
    red, blue = texture(200)[..., 0], texture(200)[..., 2]
    frames = {number: np.stack([blue[20:180, 20 + 3 * number:180 + 3 * number], np.zeros((160, 160), np.uint8),
                                red[20:180, 20 - 3 * number:180 - 3 * number]], -1) for number in (0, 1)}  # BGR
    motion.write_flow(tmp_path / "flow", 2, frames, [0], {"flow": method})
    levels = cv2.imread(str(image_path(tmp_path / "flow", "u", 0)), 0)[12:-12, 12:-12]
    assert np.median(levels) / 255 * 40 - 20 == pytest.approx(3, abs=0.3)


def test_frames_are_evenly_spaced_and_the_next_ones_are_shifted(root, video):
    prepare(root)
    assert note(root, "frames") == {"video_frames": 31, "numbers": [5, 15, 25], "settings": {"num_frames": 3}}
    assert note(root, "flow_dis") == {"video_frames": 31, "numbers": [3, 9, 15, 21, 27],
                                      "settings": {"flow": "dis", "flow_frames": 5}}
    with av.open(str(video)) as container:
        decoded = [frame.to_ndarray(format="bgr24").astype(float) for frame in container.decode(video=0)]
    for number in (5, 15, 25):
        for kind, step in (("rgb", 0), ("next", 1)):
            image = cv2.imread(str(root / f"frames/{NAMES[0]}/{kind}_{number:05d}.jpg")).astype(float)
            errors = [np.abs(image - frame).mean() for frame in decoded]
            assert int(np.argmin(errors)) == number + step and min(errors) < 8
    clip = find_clip(root, Clip(NAMES[1], "HandstandPushups"), ("rgb", "flow", "difference"), "dis")
    assert [len(paths) for paths in clip[2:]] == [3, 3, 5, 5]


def test_fps_takes_frames_by_the_length_of_the_video_and_short_videos_give_what_they_have(root):
    write_shifted(root / f"UCF-101/{NAMES[2]}.avi", 4)
    prepare(root, "--fps", "5")
    assert note(root, "frames")["numbers"] == [2, 7, 12, 17, 22, 27]  # 31 frames at 25 per second: six
    assert note(root, "frames", NAMES[2])["numbers"] == [1]
    assert note(root, "flow_dis", NAMES[2])["numbers"] == [0, 1, 2]


def test_flow_beyond_twenty_pixels_is_clipped_and_no_flow_is_the_level_128():
    levels = motion.to_bytes(np.array([-1000.0, -20, -10, 0, 10, 20, 1000], np.float32))
    assert levels.tolist() == [0, 0, 64, 128, 191, 255, 255]


def test_videos_of_odd_sizes_are_prepared(root):
    write_shifted(root / f"UCF-101/{NAMES[0]}.avi", 6, (1, 1), (74, 50))
    assert prepare(root)["failed"] == 0
    np.testing.assert_allclose(flow_of(root, "dis")[0], 1, atol=0.3)


def test_a_file_name_in_another_case_than_the_lists_is_found(root):
    path = root / f"UCF-101/{NAMES[1]}.avi"
    path.rename(path.with_name(path.name.replace("HandStand", "Handstand")))
    assert prepare(root)["failed"] == 0
    assert note(root, "frames", NAMES[1])["video_frames"] == 31


def test_every_failure_is_named_and_counted_by_class_and_the_others_are_prepared(root, capsys):
    (root / f"UCF-101/{NAMES[0]}.avi").unlink()
    write_shifted(root / f"UCF-101/{NAMES[1]}.avi", 1)
    (root / f"UCF-101/{NAMES[2]}.avi").write_bytes(b"RIFF no video")
    write_shifted(root / "UCF-101/Diving/v_Diving_g09_c01.avi", 3)
    with pytest.raises(InputError, match=r"3 clips cannot be used .*--skip_missing"):
        prepare(root)
    reasons = failures(root)
    assert f"{NAMES[0]}.avi is missing" in reasons[NAMES[0]]
    assert "it has 1 frame, but motion needs at least two" in reasons[NAMES[1]] and NAMES[1] in reasons[NAMES[1]]
    assert "cannot be read as a video" in reasons[NAMES[2]]
    with open(root / "prepare_report.csv", newline="") as file:
        assert list(csv.reader(file)) == [["number", "class", "listed", "usable"], ["1", "Diving", "2", "0"],
                                          ["2", "HandstandPushups", "2", "1"]]
    out = capsys.readouterr().out
    assert "4 clips of 2 classes in the lists (official: 13,320), 1 usable" in out
    assert "1 video is in no list and left out: diving/v_diving_g09_c01" in out
    assert note(root, "flow_dis", NAMES[3])["video_frames"] == 31


def test_a_truncated_video_is_refused(root):
    """Its index at the end says how long it was."""
    path = root / f"UCF-101/{NAMES[0]}.avi"
    write_shifted(path, 60, (1, 0))
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    with pytest.raises(InputError):
        prepare(root)
    assert "truncated" in failures(root)[NAMES[0]]


def test_the_same_command_keeps_finished_clips_and_repairs_the_others(root, capsys):
    prepare(root)
    command = f"python main_UCF.py --train --mmcosine True --scaling 10 --data_root {root} --flow_frames 5"
    assert f"Next: {command}\n" in capsys.readouterr().out
    (root / f"flow_dis/{NAMES[1]}/u_00003.jpg").unlink()
    (root / f"frames/{NAMES[2]}/rgb_00005.jpg").write_bytes(b"\xff\xd8half")
    (root / f"flow_dis/Diving/.999999999-{machine()}.v_Diving_g01_c01").mkdir()
    write_shifted(root / f"UCF-101/{NAMES[3]}.avi", 60, (1, 0))  # of another length than before
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")}
    assert prepare(root)["failed"] == 0
    changed = {path.parent.relative_to(root).as_posix() for path in root.rglob("*.jpg")
               if times.get(path) != path.stat().st_mtime_ns}
    assert changed == {f"flow_dis/{NAMES[1]}", f"frames/{NAMES[2]}", f"frames/{NAMES[3]}", f"flow_dis/{NAMES[3]}"}
    assert note(root, "frames", NAMES[3])["video_frames"] == 60
    assert not (root / f"flow_dis/Diving/.999999999-{machine()}.v_Diving_g01_c01").exists()


def test_videos_may_be_removed_afterwards_and_other_settings_extract_again(root):
    prepare(root)
    before = (root / f"flow_dis/{NAMES[0]}/u_00003.jpg").stat().st_mtime_ns
    prepare(root, "--num_frames", "2")
    assert note(root, "frames")["numbers"] == [7, 22]
    assert (root / f"flow_dis/{NAMES[0]}/u_00003.jpg").stat().st_mtime_ns == before
    for path in (root / "UCF-101").rglob("*.avi"):
        path.unlink()
    assert prepare(root, "--num_frames", "2")["failed"] == 0


def test_flow_of_another_method_has_a_folder_of_its_own(root, capsys):
    prepare(root)
    before = (root / f"flow_dis/{NAMES[0]}/u_00003.jpg").read_bytes()
    prepare(root, "--flow", "farneback")
    assert "--flow farneback" in capsys.readouterr().out
    assert (root / f"flow_dis/{NAMES[0]}/u_00003.jpg").read_bytes() == before
    assert note(root, "flow_farneback")["settings"]["flow"] == "farneback"


def test_tvl1_without_the_contrib_modules_is_a_sentence_with_the_command(root, monkeypatch):
    monkeypatch.delattr(cv2, "optflow", raising=False)
    with pytest.raises(InputError, match=r"--flow tvl1 needs .*pip install 'opencv-contrib-python==\d+\.\d+\.\d+"):
        prepare(root, "--flow", "tvl1")
    assert not (root / "frames").exists()


@pytest.mark.parametrize(("name", "message"), [("UCF-101", "no folder .*UCF-101. data/UCF101/README"),
                                               ("ucfTrainTestlist", r"classInd\.txt is missing. data/UCF101/README")])
def test_missing_folders_are_named_with_the_card(root, name, message):
    shutil.rmtree(root / name)
    with pytest.raises(InputError, match=message):
        prepare(root)


def test_the_script_ends_with_status_2_and_a_sentence_without_data(tmp_path, monkeypatch, capsys):
    assert run_command(monkeypatch, "prepare_ucf101.py", "--data_root", str(tmp_path / "none")) == 2
    assert "classInd.txt is missing" in capsys.readouterr().err


@needs_real_data
def test_flow_of_a_real_clip_that_is_shifted_has_the_shift_in_it(tmp_path):
    """The picture of a real frame, cut out at places that move by a known number of pixels."""
    found, frame = cv2.VideoCapture(str(sorted((REAL_DATA / "cremad/VideoFlash").glob("*.flv"))[0])).read()
    assert found
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    for method in ("dis", "farneback"):
        flow = motion.flow_method(method)(grey[40:280, 60:380].copy(), grey[37:277, 65:385].copy(), None)
        assert np.median(flow[40:-40, 40:-40], axis=(0, 1)) == pytest.approx([-5, 3], abs=0.5), method


