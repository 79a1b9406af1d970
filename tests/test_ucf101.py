"""UCF-101's lists and prepared files, and the tensors that are made of them: which rows become which clips, one crop
and one flip for all images of a clip, and what is refused by name."""

import json
import shutil
from pathlib import Path

import cv2
import marked_ucf101 as marked
import numpy as np
import pytest
import torch
from marked_ucf101 import CLASSES, clip_name, make_marked_actions
from torch import Tensor

from dataset import ucf101
from dataset.crops import CROP_DRAWS
from dataset.errors import InputError
from dataset.frontends import NormaliseDifference, NormaliseFlow, NormaliseFrames
from dataset.lists import Clip
from dataset.streams import MotionDataset, MotionFiles, opposite

EVERY = ("rgb", "flow", "difference")


@pytest.fixture(scope="module")
def actions(tmp_path_factory) -> Path:
    return make_marked_actions(tmp_path_factory.mktemp("ucf") / "marked")


@pytest.fixture
def copied(actions, tmp_path) -> Path:
    return Path(shutil.copytree(actions, tmp_path / "copy"))


def lists(root: Path, name: str) -> Path:
    return root / "ucfTrainTestlist" / f"{name}.txt"


def read(root: Path, split: int = 1) -> tuple[list[Clip], list[Clip]]:
    return ucf101.read_split(root, split, ucf101.read_classes(root, "Get it"), "Get it")


# ---- lists


def test_classes_are_in_the_order_of_their_numbers_and_clips_are_of_their_folders_class(actions):
    assert ucf101.read_classes(actions, "") == list(CLASSES)
    train, test = read(actions)
    assert [clip.name for clip in train] == [clip_name(number) for number in range(12)]
    assert [clip.label for clip in test] == [CLASSES[number % 3] for number in range(12, 18)]
    assert Clip("HandstandPushups/v_HandStandPushups_g01_c01", "HandstandPushups") in train


def test_another_split_has_other_lists(actions):
    assert {clip.name for clip in read(actions, 2)[1]} == {clip_name(number) for number in range(6)}


@pytest.mark.parametrize(("row", "message"), [
    ("Archery/v_Archery_g09_c01.avi 1", "line 13: the number 1 and the folder Archery disagree, classInd.txt gives "
                                        "Archery the number 3"),
    ("Diving/v_Diving_g09_c01.avi 3", r"line 13: Diving is not in classInd.txt \(Walking, "),
    ("v_Archery_g09_c01.avi 3", "line 13: expected <Class>/<video>.avi"),
    ("Archery/v_Archery_g09_c01.mp4 3", "line 13: expected <Class>/<video>.avi"),
    ("Archery/v_Archery_g09_c01.avi 3 4", "line 13: expected <Class>/<video>.avi"),
    ("../v_Archery_g09_c01.avi 3", "line 13: expected <Class>/<video>.avi"),
    (f"{clip_name(0)}.avi 1", "line 13: .* is already listed in line 1"),
])
def test_a_wrong_row_is_refused_with_file_and_line(copied, row, message):
    path = lists(copied, "trainlist01")
    path.write_text(f"{path.read_text().strip()}\n{row}\n")
    with pytest.raises(InputError, match=message) as error:
        read(copied)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("text", "message"), [
    ("1 A\n2 A\n", "line 2: number 2 or class A is already"), ("1 A\n1 B\n", "line 2: number 1 or class B"),
    ("0 A\n1 B\n", "numbered from 1 without gaps"), ("1 A\n3 B\n", "numbered from 1 without gaps"),
    ("1 A\n", "numbers 1 classes"), ("A 1\n", "line 1: expected a number and a class, found 'A 1'"), ("", "0 classes")])
def test_a_wrong_class_file_is_refused(tmp_path, text, message):
    lists(tmp_path, "classInd").parent.mkdir()
    lists(tmp_path, "classInd").write_text(text)
    with pytest.raises(InputError, match=message):
        ucf101.read_classes(tmp_path, "")


@pytest.mark.parametrize("name", ["classInd", "trainlist01", "testlist01"])
def test_a_missing_list_is_named_with_the_way_to_get_it(copied, name):
    lists(copied, name).unlink()
    with pytest.raises(InputError, match=rf"{name}\.txt is missing\. Get it"):
        read(copied)


def test_empty_lists_and_clips_or_groups_in_both_lists_are_refused(copied):
    path = lists(copied, "testlist01")
    text = path.read_text()
    path.write_text(f"{text}{clip_name(4)}.avi\n")
    with pytest.raises(InputError, match=rf"1 clip is in .*trainlist01\.txt and in testlist01\.txt: {clip_name(4)}"):
        read(copied)
    path.write_text(text + clip_name(4).replace("c02", "c09") + ".avi\n")
    with pytest.raises(InputError, match=r"1 group has clips in .*_g01\. Clips of a group are cut from"):
        read(copied)
    path.write_text("\r\n")
    with pytest.raises(InputError, match=r"testlist01\.txt lists no clip"):
        read(copied)


def test_numbers_may_be_missing_in_the_training_and_given_in_the_test_list(copied):
    for name in ("trainlist01", "testlist01"):
        rows = [row.split()[0] for row in lists(copied, name).read_text().splitlines()]
        given = [f"{row} {1 + CLASSES.index(row.split('/')[0])}" for row in rows]
        lists(copied, name).write_text("\n".join(given if name.startswith("test") else rows))
    assert [len(part) for part in read(copied)] == [12, 6]


def test_held_out_clips_are_whole_groups_of_every_class(actions):
    clips = read(actions)[0]
    rest, held_out = ucf101.split_by_group(clips, 0.5, seed=0)
    assert sorted(rest + held_out) == sorted(clips) and {clip.label for clip in held_out} == set(CLASSES)
    groups = [{ucf101.group_of(clip.name) for clip in part} for part in (rest, held_out)]
    assert not groups[0] & groups[1] and [len(part) for part in groups] == [3, 3]
    others = [ucf101.split_by_group(clips, 0.5, seed)[1] for seed in range(1, 6)]
    assert any(other != held_out for other in others)
    assert rest == [clip for clip in clips if clip in rest], "in the order of the list"


def test_names_without_a_group_are_groups_of_their_own():
    assert ucf101.group_of("A/v_A_g08_c01") == "A/v_A_g08" and ucf101.group_of("A/holiday") == "A/holiday"


# ---- files


def find(root: Path, number: int = 0, modalities: tuple[str, ...] = EVERY, flow: str = "dis") -> MotionFiles:
    return ucf101.find_clip(root, Clip(clip_name(number), CLASSES[number % 3]), modalities, flow)


def test_a_clip_has_the_files_that_its_modalities_need(actions):
    whole = find(actions)
    assert [len(paths) for paths in whole[2:]] == [4, 4, 6, 6]
    assert [path.name for path in whole.next] == [f"next_{n:05d}.jpg" for n in (0, 10, 20, 30)]
    assert all("flow_dis" in str(path) for path in whole.u)
    assert all("flow_farneback" in str(path) for path in find(actions, flow="farneback").v)
    assert [len(paths) for paths in find(actions, modalities=("flow",))[2:]] == [0, 0, 6, 6]
    assert find(actions, modalities=("rgb",)).u == ()


@pytest.mark.parametrize(("file", "content", "message"), [
    ("frames/{}/rgb_00020.jpg", None, "is half extracted, 1 of 4 rgb images are missing"),
    ("frames/{}/next_00020.jpg", None, "is half extracted, 1 of 4 next images are missing"),
    ("flow_dis/{}/u_00050.jpg", None, "is half extracted, 1 of 6 u images are missing"),
    ("flow_dis/{}/clip.json", None, "does not exist or is incomplete"),
    ("flow_dis/{}/clip.json", "half", "is damaged"), ("flow_dis/{}/clip.json", "{}", "is damaged"),
    ("flow_dis/{}/v_00000.jpg", "", "is empty"), ("frames/{}/rgb_00000.jpg", "\xff\xd8half", "truncated or damaged"),
])
def test_half_extracted_and_broken_clips_are_found_before_training(copied, file, content, message):
    path = copied / file.format(clip_name(2))
    path.unlink() if content is None else path.write_text(content, encoding="latin-1")
    good, problems = ucf101.find_clips(copied, read(copied)[0], EVERY, "dis")
    assert len(good) == 11 and list(problems) == [clip_name(2)]
    assert message in problems[clip_name(2)] and str(copied) in problems[clip_name(2)]


def test_flow_of_another_method_or_of_a_video_of_another_length_is_refused(copied):
    note = copied / "flow_dis" / clip_name(1) / "clip.json"
    shutil.copy(copied / "flow_farneback" / clip_name(1) / "clip.json", note)
    with pytest.raises(InputError, match=r"was made by farneback, not by dis: flow of several methods is not mixed"):
        find(copied, 1)
    content = json.loads((copied / "flow_dis" / clip_name(0) / "clip.json").read_text())
    note.write_text(json.dumps({**content, "video_frames": 60}))
    with pytest.raises(InputError, match=r"two different videos: .*frames.* of one of 61 frames and .*flow.* of 60|"
                                         r"two different videos: .* of 61 frames and .* of 60 frames"):
        find(copied, 1)
    assert find(copied, 1, modalities=("flow",)).u, "alone it is whole"


def test_data_that_was_not_prepared_is_told_with_the_command(copied):
    clips = read(copied)[1]
    ucf101.check_prepared(copied, EVERY, "dis", 6, clips)
    with pytest.raises(InputError, match=r"has 6 flow fields per clip, --flow_frames 7 needs more.*--flow_frames 7"):
        ucf101.check_prepared(copied, EVERY, "dis", 7, clips)
    with pytest.raises(InputError, match=r"flow_tvl1 does not exist.*prepare_ucf101\.py --data_root .* --flow tvl1"):
        ucf101.check_prepared(copied, EVERY, "tvl1", 6, clips)
    shutil.rmtree(copied / "flow_dis")
    ucf101.check_prepared(copied, ("rgb", "difference"), "dis", 99, clips)


# ---- tensors


def dataset(root: Path, train: bool, **options) -> MotionDataset:
    clips = [find(root, number) for number in range(6)]
    return MotionDataset(clips, CLASSES, train=train, num_frames=2, flow_frames=3, image_size=48, **options)


def item(data: MotionDataset, index: int, seed: int = 0) -> dict:
    torch.manual_seed(seed)
    return data[index]


@pytest.mark.parametrize("train", [False, True])
def test_items_have_the_promised_shapes(actions, train):
    found = item(dataset(actions, train), 4)
    assert found.pop("label") == 1
    assert {name: (tuple(value.shape), value.dtype) for name, value in found.items()} == {
        "rgb": ((2, 3, 48, 48), torch.uint8), "flow": ((6, 48, 48), torch.uint8),
        "difference": ((2, 3, 48, 48), torch.int16)}
    assert item(dataset(actions, train, modalities=("flow",)), 4).keys() == {"flow", "label"}
    assert item(dataset(actions, train, modalities=("difference",)), 4).keys() == {"difference", "label"}


def inputs(data: MotionDataset, index: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    found = item(data, index, seed)
    return (NormaliseFrames()(found["rgb"][None]), NormaliseFlow()(found["flow"][None]),
            NormaliseDifference()(found["difference"][None]))


def test_one_crop_and_one_flip_are_drawn_for_all_images_of_a_clip_and_u_is_negated(actions):
    data = dataset(actions, train=True)
    mirrored = set()
    for seed in range(12):
        rgb, flow, _ = inputs(data, 3, seed)
        red = marked.edges_of_rgb(rgb)
        fields = marked.fields_in_flow(flow, red)
        torch.testing.assert_close(red, marked.edges_of_flow(flow, fields), rtol=0, atol=2.5)
        assert marked.goes_right(flow) == [bool(red[0, 0] < red[0, 1])]
        assert marked.clips_in_rgb(rgb) == marked.clips_in_flow(flow) == [3]
        mirrored.add(bool(red[0, 0] > red[0, 1]))
        assert fields[0] == sorted(fields[0]) and marked.frames_in_rgb(rgb)[0] == sorted(marked.frames_in_rgb(rgb)[0])
    assert mirrored == {False, True}


def test_evaluation_takes_the_whole_picture_unmirrored_and_the_middle_frames(actions):
    rgb, flow, difference = inputs(dataset(actions, train=True).for_evaluation(), 5, 1)
    red = marked.edges_of_rgb(rgb)
    torch.testing.assert_close(red, torch.tensor([[40.0, 160.0]]), rtol=0, atol=3)
    assert marked.frames_in_rgb(rgb) == [[1, 3]] and marked.fields_in_flow(flow, red) == [[1, 3, 5]]
    assert marked.goes_right(flow) == [True]
    green = difference[0, 1] * 255 * 0.224  # ImageNet's standard deviation of green
    torch.testing.assert_close(green, torch.full_like(green, 30), rtol=0, atol=1.5)
    assert difference[0, [0, 2]].abs().max() < 2 / 255 / 0.224


def test_training_takes_random_frames_and_fields_from_equal_segments(actions):
    data = dataset(actions, train=True)
    frames, fields = set(), set()
    for seed in range(20):
        rgb, flow, _ = inputs(data, 0, seed)
        frames.add(tuple(marked.frames_in_rgb(rgb)[0]))
        fields.add(tuple(marked.fields_in_flow(flow, marked.edges_of_rgb(rgb))[0]))
    assert frames == {(a, b) for a in (0, 1) for b in (2, 3)}
    assert fields <= {(a, b, c) for a in (0, 1) for b in (2, 3) for c in (4, 5)} and len(fields) > 4


def test_no_motion_is_exactly_zero_mirrored_or_not_and_opposite_is_its_own_inverse():
    every = torch.arange(256, dtype=torch.uint8)
    assert opposite(every)[128] == 128 and torch.equal(opposite(opposite(every[1:])), every[1:])
    values = NormaliseFlow()(torch.stack([every[1:], opposite(every[1:])]).view(1, 2, 255, 1)).squeeze()
    assert torch.equal(values[0], -values[1]) and values[0][127] == 0
    torch.testing.assert_close(values[0] * 20, (every[1:].float() / 255 * 40 - 20), rtol=0, atol=0.17)


def test_a_square_that_moves_is_seen_to_move_the_other_way_in_the_mirror():
    """Flow of a mirrored clip, computed anew, is what the data set makes of the clip's flow."""
    from dataset.preparation.motion import flow_method, to_bytes

    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 255, (24, 24), dtype=np.uint8), (0, 0), 1.5)
    frames = [np.full((64, 64), 90, np.uint8) for _ in range(2)]
    for frame, left in zip(frames, (14, 18), strict=True):
        frame[20:44, left:left + 24] = texture
    whole, mirrored = (to_bytes(flow_method("farneback")(*pair, None)) for pair in (
        frames, [np.ascontiguousarray(frame[:, ::-1]) for frame in frames]))
    images = {"u": torch.from_numpy(whole[None, ..., 0]), "v": torch.from_numpy(whole[None, ..., 1])}
    found = {}
    data = MotionDataset([], [], train=True, image_size=64, modalities=("flow",))
    for seed in range(30):
        moved = data.crop_together(images, np.random.default_rng(seed).random(CROP_DRAWS))
        sign = int((moved["u"][0, 20:44].float().mean() - 128).sign())
        found.setdefault(sign, (seed, moved))
    assert found.keys() == {-1, 1}, "to the right as it is, to the left in the mirror"
    # the same crop without the flip gives the same picture as the mirrored clip under the mirrored crop
    assert int((whole[20:44, 14:38, 0].astype(int) - 128).mean()) > 0 > int((mirrored[20:44, 26:50, 0].astype(int)
                                                                          - 128).mean())
    np.testing.assert_allclose(opposite(images["u"].flip(-1))[0], mirrored[..., 0], atol=8)
    np.testing.assert_allclose(images["v"].flip(-1)[0], mirrored[..., 1], atol=8)


def test_frames_and_flow_of_different_sizes_are_refused_by_name(copied):
    folder = copied / "flow_dis" / clip_name(0)
    for path in folder.glob("*.jpg"):
        cv2.imwrite(str(path), np.zeros((36, 48), np.uint8))
    with pytest.raises(InputError, match=rf"the frames and the flow of {clip_name(0)} differ in size"):
        dataset(copied, train=False)[0]


def test_pictures_of_odd_sizes_are_fine(copied):
    for folder in ("frames", "flow_dis"):
        for path in (copied / folder / clip_name(0)).glob("*.jpg"):
            cv2.imwrite(str(path), np.full((33, 71, 3), 128, np.uint8))
    assert dataset(copied, train=True)[0]["flow"].shape == (6, 48, 48)
