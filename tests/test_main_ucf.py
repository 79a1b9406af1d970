"""main_UCF.py from its command line to its run folder: what reaches the network of two and of three modalities, what is
measured, what users get wrong; and real media from videos to a finished run."""

import json
import shutil
from functools import partial
from pathlib import Path

import av
import cv2
import marked_ucf101 as marked
import numpy as np
import pytest
import torch
from conftest import REAL_DATA, needs_real_data
from harness import watched
from marked_ucf101 import CLASSES, clip_name, make_marked_actions
from torchvision.models import resnet18

import main_UCF
from dataset.demo.actions import make_demo
from dataset.errors import InputError
from main_UCF import load_splits, main, parse
from scripts import analyse
from scripts.prepare_ucf101 import main as prepare_ucf101
from scripts.probe import main as probe
from utils.training import checkpoint

CPU = ["--device", "cpu", "--num_workers", "0"]
SMALL = [*CPU, "--amp", "off", "--image_size", "64", "--batch_size", "6", "--num_frames", "2", "--flow_frames", "3"]
EVERY = ("rgb", "flow", "difference")

pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")


@pytest.fixture(scope="module")
def actions(tmp_path_factory) -> Path:
    return make_marked_actions(tmp_path_factory.mktemp("ucf") / "marked")


@pytest.fixture
def copied(actions, tmp_path) -> Path:
    return Path(shutil.copytree(actions, tmp_path / "copy"))


def flags(root: Path, folder: Path, name: str = "run", *more: str) -> list[str]:
    return ["--train", "--dataset", "marked", "--data_root", str(root), "--epochs", "1", "--learning_rate", "0.01",
            "--ckpt_path", str(folder), "--run_name", name, *SMALL, *more]


@pytest.fixture(scope="module")
def three(actions, tiny_encoders, tmp_path_factory):
    """(result, what crossed the borders, folder) of a run of all modalities. Not to be written into."""
    folder = tmp_path_factory.mktemp("runs")
    with watched() as borders:
        result = main(flags(actions, folder, "run", "--modality", *EVERY, "--mmcosine"))
    return result, borders, folder / "run"


# ---- what reaches the network


def test_every_modality_of_a_clip_reaches_its_encoder_under_one_crop_and_flip(three):
    _, borders, _ = three
    seen, mirrored = [], set()
    for one in borders.training:
        rgb, flow, difference = (one.inputs[name] for name in EVERY)
        assert (rgb.shape[1:], flow.shape[1:], difference.shape[1:]) == ((3, 2, 64, 64), (6, 64, 64), (3, 2, 64, 64))
        red = marked.edges_of_rgb(rgb)
        fields = marked.fields_in_flow(flow, red)
        torch.testing.assert_close(red, marked.edges_of_flow(flow, fields), rtol=0, atol=3)
        assert marked.goes_right(flow) == (red[:, 0] < red[:, 1]).tolist()
        mirrored |= set(marked.goes_right(flow))
        assert marked.clips_in_rgb(rgb) == marked.clips_in_flow(flow)
        green = difference[:, 1] * 255 * 0.224
        torch.testing.assert_close(green, torch.full_like(green, marked.STEP), rtol=0, atol=2)
        seen += marked.clips_in_rgb(rgb)
    assert sorted(seen) == list(range(12)) and mirrored == {False, True}


def test_evaluation_sees_the_test_clips_in_order_whole_and_in_the_middle(three):
    _, borders, _ = three
    (one, *_) = borders.evaluation
    assert marked.clips_in_rgb(one.inputs["rgb"]) == marked.clips_in_flow(one.inputs["flow"]) == list(range(12, 18))
    red = marked.edges_of_rgb(one.inputs["rgb"])
    torch.testing.assert_close(red, torch.tensor([[40.0, 160.0]]).expand(6, 2), rtol=0, atol=3)
    assert marked.frames_in_rgb(one.inputs["rgb"]) == [[1, 3]] * 6
    assert marked.fields_in_flow(one.inputs["flow"], red) == [[1, 3, 5]] * 6
    assert all(marked.goes_right(one.inputs["flow"]))


def test_the_result_names_modalities_split_and_flow_and_measures_each_modality(three):
    result, borders, folder = three
    assert (result["modality"], result["modalities"], result["split"], result["flow"]) == ("all", list(EVERY), 1, "dis")
    assert result["classes"] == list(CLASSES) and (result["n_train"], result["n_test"]) == (12, 6)
    (one, *_) = borders.evaluation
    labels = torch.tensor([number % 3 for number in range(12, 18)])
    for place, name in enumerate(EVERY):
        right = (one.output.modality_logits[place].argmax(1) == labels).float().mean().item()
        assert result[f"accuracy_{name}"] == pytest.approx(right)
    assert json.loads((folder / "result.json").read_text()) == result
    assert (folder / "per_class.csv").is_file()


def test_rgb_and_flow_are_the_default_and_the_difference_is_left_out(actions, tmp_path):
    with watched() as borders:
        result = main(flags(actions, tmp_path))
    assert all(tuple(one.inputs) == ("rgb", "flow") for one in borders.log if hasattr(one, "inputs"))
    assert (result["modality"], result["modalities"]) == ("rgb+flow", ["rgb", "flow"])
    assert {key.split("_net.")[0] for key in checkpoint.load(tmp_path / "run/best.pt")["model"] if "_net." in key} == {
        "rgb", "flow"}


def test_rgb_alone_needs_no_flow_and_does_not_name_one(copied, tmp_path):
    for method in marked.METHODS:
        shutil.rmtree(copied / f"flow_{method}")
    result = main(flags(copied, tmp_path, "run", "--modality", "rgb"))
    assert "flow" not in result and result["modality"] == "rgb"


# ---- splits, validation, flow


def test_the_split_chooses_the_lists(actions, tmp_path):
    names = {}
    for split in (1, 2):
        parts = load_splits(parse(flags(actions, tmp_path, "run", "--split", str(split)))).parts()
        names[split] = [[clip.name for clip in part.clips] for part in parts.values()]
        assert names[split][1] == [clip_name(number) for number in marked.TEST[split]]
    assert not set(names[1][1]) & set(names[2][1])


def test_validation_clips_are_whole_groups_and_chosen_by_the_seed(actions, tmp_path):
    held_out = set()
    for seed in range(4):
        parts = load_splits(parse(flags(actions, tmp_path, "run", "--val_fraction", "0.5", "--random_seed",
                                        str(seed)))).parts()
        groups = {name: {clip.name.rpartition("_")[0] for clip in part.clips} for name, part in parts.items()}
        assert not groups["train"] & groups["val"] and len(groups["val"]) == 3
        assert [parts[name].train for name in ("train", "val", "test")] == [True, False, False]
        held_out.add(frozenset(groups["val"]))
    assert len(held_out) > 1


def test_flow_of_the_chosen_method_is_read_recorded_and_not_mixed(actions, tmp_path):
    with watched() as borders:
        result = main(flags(actions, tmp_path, "run", "--flow", "farneback", "--modality", "flow"))
    u = marked.levels(borders.evaluation[0].inputs["flow"])[0].mean((1, 2, 3))
    half = torch.tensor([128.0 + (10 + 4 * number) // 2 for number in range(12, 18)])
    torch.testing.assert_close(u, half, rtol=0, atol=1)
    assert result["flow"] == "farneback"
    best = str(tmp_path / "run/best.pt")
    for flag, value, before in (("--flow", "dis", "farneback"), ("--flow_frames", "4", "3")):
        with pytest.raises(InputError, match=rf"was trained with {flag} {before}: leave that out"):
            main(["--ckpt_path", best, flag, value, *CPU])
    assert main(["--ckpt_path", best, *CPU])["accuracy"] == pytest.approx(result["accuracy"])
    with pytest.raises(InputError, match="leave out --flow"):
        main(["--resume", str(tmp_path / "run"), "--flow", "dis", "--epochs", "2"])


def test_a_checkpoint_is_not_evaluated_on_another_split_whose_test_clips_it_was_trained_on(three):
    _, _, folder = three
    with pytest.raises(InputError, match="6 of the 6 test clips were in the training list"):
        main(["--ckpt_path", str(folder / "best.pt"), "--split", "2", *CPU])


# ---- starts


def test_imagenet_starts_rgb_as_it_is_and_the_others_averaged_over_colours(
        actions, tmp_path, monkeypatch, real_encoders):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    state = resnet18().state_dict()
    torch.save(state, tmp_path / "hub/checkpoints/resnet18-f37072fd.pth")
    monkeypatch.setattr("utils.training.pretraining.provide", lambda *_: None)  # these are not ImageNet's
    result = main(flags(actions, tmp_path, "run", "--modality", "all", "--imagenet", "--learning_rate", "1e-300",
                        "--weight_decay", "0"))
    assert list(result["pretrained"]) == list(EVERY)
    found = checkpoint.load(tmp_path / "run/last.pt")["model"]
    mean = state["conv1.weight"].mean(1, keepdim=True)
    assert torch.equal(found["rgb_net.conv1.weight"], state["conv1.weight"])
    torch.testing.assert_close(found["flow_net.conv1.weight"], mean.expand(-1, 6, -1, -1))
    torch.testing.assert_close(found["difference_net.conv1.weight"], mean.expand(-1, 3, -1, -1))


def test_the_stack_of_flow_decides_the_channels_of_its_encoder_alone(actions):
    options = main_UCF.options
    for frames in (3, 16):
        args = parse(["--train", "--modality", "all", "--flow_frames", str(frames)])
        assert options.encoders(args, main_UCF.MODALITIES) == {
            "rgb": ("resnet18", 3), "flow": ("resnet18", 2 * frames), "difference": ("resnet18", 3)}


def test_defaults_are_as_documented():
    args = parse(["--train"])
    assert (args.modality, args.split, args.flow, args.num_frames, args.flow_frames, args.image_size) == (
        "rgb+flow", 1, "dis", 3, 16, 224)
    assert (args.epochs, args.lr_decay_step, args.batch_size, args.learning_rate, args.scaling) == (
        200, 100, 32, 1e-3, 10.0)
    assert str(args.data_root) == "data/UCF101"


# ---- what users get wrong


@pytest.mark.parametrize(("argv", "part"), [
    (["--modality", "both"], "invalid choice: 'both' (choose from all, rgb, flow, difference)"),
    (["--modality", "rgb", "audio"], "invalid choice: 'audio'"),
    (["--split", "4"], "--split: invalid choice:"), (["--flow_frames", "0"], "at least 1"),
    (["--demo", "--flow", "farneback"], "leave out --flow"),
    (["--modality", "flow", "--modulation", "ogm"], "leave it out with --modality flow"),
    (["--modality", "rgb", "--imagenet", "flow"], "leave it out")])
def test_wrong_flags_are_refused_with_status_2(argv, part, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--train", *argv])
    assert exit.value.code == 2 and part in capsys.readouterr().err


def test_a_fusion_of_several_modalities_refuses_one():
    with pytest.raises(InputError, match="--fusion_method film needs at least two modalities"):
        parse(["--train", "--modality", "flow", "--fusion_method", "film"])


def test_without_data_one_message_names_list_card_and_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^data/UCF101/.*classInd\.txt is missing\. data/UCF101/README\.md .*--demo"):
        main(["--train"])


def test_missing_clips_are_counted_and_skipped_only_on_demand(copied, tmp_path, capsys):
    shutil.rmtree(copied / "flow_dis" / clip_name(3))
    (copied / "frames" / clip_name(13) / "rgb_00010.jpg").unlink()
    with pytest.raises(InputError, match="2 of 18 clips cannot be used") as error:
        main(flags(copied, tmp_path))
    assert all(part in str(error.value) for part in (clip_name(3), "half extracted", "--skip_missing"))
    splits = load_splits(parse(flags(copied, tmp_path, "run", "--skip_missing")))
    assert [len(part) for part in splits.parts().values()] == [11, 5]
    assert "2 of 18 clips cannot be used" in capsys.readouterr().out


def test_other_lists_than_the_official_are_told_and_a_class_without_training_clips_is_refused(copied, tmp_path, capsys):
    load_splits(parse(flags(copied, tmp_path)))
    assert "12 train and 6 test clips, the official split 1 has 9537 and 3783" in capsys.readouterr().out
    path = copied / "ucfTrainTestlist/trainlist01.txt"
    path.write_text("".join(row for row in path.read_text().splitlines(True) if not row.startswith("Archery")))
    with pytest.raises(InputError, match=r"no training clip of class Archery in trainlist01\.txt of"):
        load_splits(parse(flags(copied, tmp_path)))


def test_demo_makes_its_data_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(main_UCF, "make_demo", partial(make_demo, clips_per_group=1))
    monkeypatch.setattr(main_UCF, "train", lambda task, plan: task.facts)
    result = main(["--train", "--demo", "--data_root", str(tmp_path / "demo"), *CPU])
    assert (result["n_train"], result["n_test"], result["flow"]) == (54, 27, "dis")
    assert "DEMO DATA" in capsys.readouterr().out


# ---- real media


@needs_real_data
def test_real_videos_go_from_the_official_layout_to_trained_probed_and_drawn_runs(tmp_path):
    root = tmp_path / "ucf"
    make_official_layout(root)
    for method in ("dis", "farneback"):
        assert prepare_ucf101(["--data_root", str(root), "--flow", method, "--flow_frames", "2"]) == {
            "listed": 12, "failed": 0}
    argv = [*flags(root, tmp_path, "two", "--epochs", "2"), "--flow_frames", "2"]
    two = main([*argv, "--flow", "farneback"])
    three = main([*argv, "--run_name", "three", "--modality", "all", "--mmcosine"])
    assert (two["flow"], two["n_train"], two["n_test"]) == ("farneback", 8, 4)
    assert (three["flow"], three["modalities"], three["epochs"]) == ("dis", list(EVERY), 2)
    folder = tmp_path / "three"
    assert main(["--ckpt_path", str(folder / "best.pt"), *CPU])["accuracy"] == pytest.approx(three["accuracy"])
    assert {*EVERY, "concatenated"} <= probe([str(folder), *CPU])[folder].keys()
    analyse.main([str(folder), "--out", str(tmp_path / "figures"), "--only", "accuracy", "angles",
                  "--use_tensorboard", "False", *CPU])
    assert {path.stem for path in (tmp_path / "figures").iterdir()} >= {"accuracy", "angles"}


def make_official_layout(root: Path) -> None:
    """Two classes of six clips each, people of CREMA-D and a speaker of GRID: MPEG-4 in avi, 25 frames a second."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 Acting\n2 HandstandPushups\n")
    sources = {"Acting": sorted((REAL_DATA / "cremad/VideoFlash").glob("*.flv")),
               "HandStandPushups": sorted((REAL_DATA / "grid_raw").rglob("*.mpg"))}
    rows = {"trainlist01": [], "testlist01": []}
    for number, (file, videos) in enumerate(sources.items(), 1):
        label = file.replace("Stand", "stand")
        for i, video in enumerate(videos[:6]):
            name = f"{label}/v_{file}_g{i + 1:02d}_c01.avi"
            write_avi(root / "UCF-101" / name, video)
            rows["testlist01" if i < 2 else "trainlist01"].append(name if i < 2 else f"{name} {number}")
    for name, lines in rows.items():
        (lists / f"{name}.txt").write_text("\r\n".join(lines))


def write_avi(path: Path, video: Path, frames: int = 12) -> None:
    """The first frames at 160 x 120 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = cv2.VideoCapture(str(video))
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25, width=160, height=120, pix_fmt="yuv420p")
        for _ in range(frames):
            image = np.ascontiguousarray(cv2.resize(source.read()[1], (160, 120))[..., ::-1])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
