"""main_SSW.py from its command line to its run folder: pretraining, joint run, confusions, what users get wrong."""

import csv
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import REAL_DATA, REPO, SMALL, needs_real_data
from processes import run_together
from torchvision.models import resnet18

import main_SSW
from dataset.demo.birds import make_demo
from dataset.errors import InputError
from main_SSW import load_splits, main, parse
from scripts.prepare_ssw60 import main as prepare_ssw60
from utils.experiments.finished_run import open_run
from utils.experiments.flags import Machine
from utils.training import checkpoint, predictions

pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")


@pytest.fixture(scope="session")
def birds(tmp_path_factory) -> Path:
    """Four species: 8 training and 4 test videos, and something of every collection."""
    root = tmp_path_factory.mktemp("data") / "birds"
    make_demo(root, species=4, train_per_class=2, test_per_class=1)
    return root


@pytest.fixture
def copied(birds, tmp_path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(birds, tmp_path / "copy"))


def flags(root: Path, tmp_path: Path, name: str = "run", *more: str) -> list[str]:
    return ["--train", "--dataset", "birds", "--data_root", str(root), "--epochs", "1", "--learning_rate", "0.01",
            "--ckpt_path", str(tmp_path), "--run_name", name, "--num_frames", "2", *SMALL, *more]


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weight(path: Path, modality: str) -> torch.Tensor:
    """Of the last encoder block, or of the small network in its place."""
    weights = checkpoint.load(path)["model"]
    return weights.get(f"{modality}_net.layer4.1.conv2.weight", weights.get(f"{modality}_net.conv2.weight"))


# ---- pretraining and the joint run


def test_encoders_are_pretrained_apart_and_the_joint_run_says_on_what(birds, tmp_path, capsys):
    audio = main(flags(birds, tmp_path, "audio", "--modality", "audio", "--pretrain_on", "audio_ml"))
    visual = main(flags(birds, tmp_path, "visual", "--modality", "visual", "--pretrain_on", "images_inat",
                        "images_nabirds"))
    assert (audio["n_train"], audio["n_val"], audio["n_test"], audio["parts"]) == (24, 0, 8, ["audio_ml"])
    assert (visual["n_train"], visual["n_val"], visual["n_test"]) == (24, 4, 8)
    assert "validation" in visual["selection"], "images_inat has validation clips of its own"
    pretrained = ["--audio_pretrain", str(tmp_path / "audio/best.pt"), "--visual_pretrain",
                  str(tmp_path / "visual/best.pt"), "--learning_rate", "1e-300", "--weight_decay", "0"]
    joint = main(flags(birds, tmp_path, "joint", *pretrained))
    told = capsys.readouterr().out
    for name, on in (("audio", "birds audio_ml"), ("visual", "birds images_inat + images_nabirds")):
        assert joint["pretrained"][name] == {"file": str(tmp_path / name / "best.pt"), "pretrained_on": on, "epoch": 1,
                                             "started_from": None}
        assert torch.equal(weight(tmp_path / name / "best.pt", name), weight(tmp_path / "joint/last.pt", name))
        assert f"pretrained on {on}; its head is not used" in told
    assert json.loads((tmp_path / "joint/result.json").read_text())["pretrained"] == joint["pretrained"]
    for name in ("audio", "visual"):
        shutil.rmtree(tmp_path / name)  # a resumed run needs them no more, and still knows
    assert main(["--resume", str(tmp_path / "joint"), "--epochs", "2"])["pretrained"] == joint["pretrained"]


def test_a_collection_named_twice_is_taken_once(birds, tmp_path):
    argv = flags(birds, tmp_path, "run", "--modality", "audio", "--pretrain_on", "audio_ml", "audio_ml")
    assert len(load_splits(parse(argv)).train.clips) == 24


def test_imagenet_weights_come_from_torchvisions_place_and_are_told_through_two_runs(birds, tmp_path, monkeypatch,
                                                                                     real_encoders):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    state = resnet18().state_dict()
    torch.save(state, tmp_path / "hub/checkpoints/resnet18-f37072fd.pth")
    monkeypatch.setattr("utils.training.pretraining.provide", lambda *_: None)  # these are not ImageNet's
    frozen = ["--learning_rate", "1e-300", "--weight_decay", "0"]
    first = main(flags(birds, tmp_path, "visual", "--modality", "visual", "--pretrain_on", "images_inat", "--imagenet",
                       *frozen))
    assert first["pretrained"]["visual"]["pretrained_on"].startswith("ImageNet (ResNet18_Weights.IMAGENET1K_V1")
    assert torch.equal(weight(tmp_path / "visual/last.pt", "visual"), state["layer4.1.conv2.weight"])
    second = main(flags(birds, tmp_path, "joint", "--visual_pretrain", str(tmp_path / "visual/best.pt")))
    assert second["pretrained"]["visual"]["started_from"] == first["pretrained"]["visual"]


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("invalid hash value")])
def test_imagenet_weights_that_cannot_be_downloaded_are_a_sentence(birds, tmp_path, monkeypatch, error, real_encoders):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(InputError, match=rf"--imagenet: https.*\.pth cannot be downloaded \({error}\)") as told:
        main(flags(birds, tmp_path, "run", "--imagenet"))
    for part in (str(tmp_path / "hub/checkpoints/resnet18-f37072fd.pth"), "--visual_pretrain FILE"):
        assert part in str(told.value)


def test_a_damaged_file_in_torchvisions_place_is_told_to_be_deleted(birds, tmp_path, monkeypatch, real_encoders):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    path = tmp_path / "hub/checkpoints/resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a download")
    with pytest.raises(InputError, match=r"--imagenet: .*f37072fd\.pth is damaged or another file .*: delete it"):
        main(flags(birds, tmp_path, "run", "--imagenet"))


def test_defaults_are_the_papers_and_ours_as_documented():
    args = parse(["--train"])
    assert (args.scaling, args.num_frames, args.audio_seconds, args.image_size, args.audio_frontend) == (
        20.0, 3, 10.0, 224, "mmcosine")
    assert (args.epochs, args.lr_decay_step, args.lr_decay_ratio, args.batch_size, args.learning_rate) == (
        100, 70, 0.1, 32, 1e-3)


def test_a_species_without_test_clips_and_other_tables_than_the_official_are_told(copied, tmp_path, capsys):
    path = copied / "video_ml.csv"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(row for row in rows if ",0,test" not in row))
    load_splits(parse(flags(copied, tmp_path, "run")))
    printed = capsys.readouterr().out
    assert "there is no test clip of Lookalike 01 A" in printed
    assert "8 train and 3 test videos, the official tables have 3462 and 1938" in printed


def test_a_checkpoint_is_evaluated_without_training_rows_and_a_pretrained_one_on_the_videos(copied, tmp_path, capsys):
    main(flags(copied, tmp_path, "run", "--modality", "audio", "--pretrain_on", "audio_ml"))
    path = copied / "video_ml.csv"
    path.write_text("\n".join(row for row in path.read_text().splitlines() if ",train" not in row))
    argv = ["--ckpt_path", str(tmp_path / "run/best.pt"), "--num_workers", "0", "--data_root", str(copied)]
    main(argv)
    assert "test clips of audio_ml in" in capsys.readouterr().out
    assert main([*argv, "--pretrain_on", "video_ml"])["n_test"] == 4


def test_an_encoder_that_was_pretrained_on_other_inputs_is_told(birds, tmp_path, capsys):
    main(flags(birds, tmp_path, "visual", "--modality", "visual", "--pretrain_on", "images_inat", "--image_size", "72"))
    main(flags(birds, tmp_path, "joint", "--visual_pretrain", str(tmp_path / "visual/best.pt")))
    assert "was trained with --image_size 72, this run has 64" in capsys.readouterr().out


# ---- what a run leaves


def test_demo_makes_its_data_says_so_and_can_be_evaluated_and_continued(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(main_SSW, "make_demo", partial(make_demo, species=4, train_per_class=1, test_per_class=1))
    result = main(["--train", "--demo", "--data_root", str(tmp_path / "demo"), "--ckpt_path", str(tmp_path),
                   "--run_name", "run", *SMALL, "--epochs", "1"])
    assert (result["dataset"], result["demo"], result["n_train"]) == ("demo_birds", True, 4)
    assert capsys.readouterr().out.count("DEMO DATA") == 2
    argv = ["--num_workers", "0"]  # without --demo, whose defaults the run has
    evaluated = main(["--ckpt_path", str(tmp_path / "run" / "best.pt"), *argv])
    assert evaluated["accuracy"] == pytest.approx(result["accuracy"])
    with pytest.raises(InputError, match="leave out --relearn_every"):
        main(["--resume", str(tmp_path / "run"), *argv, "--relearn_every", "5"])
    assert main(["--resume", str(tmp_path / "run"), *argv, "--epochs", "2"])["epochs"] == 2
    content = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    content["args"].update(modulation="reconboost", fusion_method="sum", epochs=8, recon_epochs=4)  # refused since
    torch.save(content, tmp_path / "older.pt")
    assert parse(["--ckpt_path", str(tmp_path / "older.pt"), *argv]).recon_epochs == 4


def test_two_processes_report_the_test_clips_by_the_weights_of_the_best_epoch_which_is_not_the_last(birds, tmp_path):
    """Every process has a part of the clips: what one process measures with the same weights is the oracle. The second
    epoch is the best of three."""
    argv = flags(birds, tmp_path, "run", "--batch_size", "3", "--val_fraction", "0.5", "--test_every_epoch", "--amp",
                 "off")
    assert run_together("second_best", *argv, folder=tmp_path) == [0, 0]
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    assert (result["best_epoch"], result["processes"]) == (2, 2)
    alone = {name: main(["--ckpt_path", str(run / f"{name}.pt"), "--output", str(tmp_path / name), "--num_workers",
                         "0"]) for name in ("best", "last")}
    assert alone["best"]["loss"] != pytest.approx(alone["last"]["loss"], rel=1e-3)
    for metric in ("loss", "accuracy", "accuracy_audio", "accuracy_visual"):
        assert result[metric] == pytest.approx(alone["best"][metric], rel=1e-5)
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # after each epoch, too, all processes have the statistics of BatchNorm that are saved
    losses = [epoch["test_loss"] for epoch in epochs[1:]]
    assert losses == pytest.approx([alone["best"]["loss"], alone["last"]["loss"]], rel=1e-5)
    assert [row["clips"] for row in read_csv(run / "per_class.csv")] == ["1"] * 4
    for name in ("per_class.csv", "confusions.csv"):
        assert (run / name).read_text() == (tmp_path / "best" / name).read_text()
    saved, opened = predictions.read(run), open_run(run, Machine(device="cpu", num_workers=0))
    found = {"test": opened.test_features, "val": opened.features(opened.task.data.val)}
    for split, features in found.items():
        np.testing.assert_allclose(saved[f"{split}_logits"], features.modality_logits, rtol=1e-4, atol=1e-5)
    means = opened.train_features.modality_logits.mean(1)
    np.testing.assert_allclose(saved["train_mean_logits"], means, rtol=1e-4, atol=1e-5)


# ---- what users get wrong


@pytest.mark.parametrize(("argv", "part"), [
    (["--train", "--pretrain_on", "audio_ml"], "does not go with --modality both"),
    (["--train", "--pretrain_on", "audio_ml", "--modality", "visual"], "does not go with --modality visual"),
    (["--train", "--pretrain_on", "videos", "--modality", "visual"], "invalid choice: 'videos'"),
    (["--train", "--pretrain_on", "audio_ml", "--modality", "audio", "--reliable_audio_only"], "chooses videos"),
    (["--train", "--imagenet", "--modality", "audio"], "leave it out"),
    (["--train", "--imagenet", "--visual_pretrain", "x.pt"], "leave it out"),
    (["--train", "--demo", "--audio_frontend", "ogm_ge"], "leave out --fps and --audio_frontend"),
    (["--train", "--audio_seconds", "0.1"], "at least 0.6"),
    (["--train", "--num_frames", "0"], "at least 1"),
])
def test_wrong_flags_are_refused_with_status_2(argv, part, capsys):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert part in capsys.readouterr().err


def test_without_data_one_message_names_folder_card_and_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^data/SSW60/taxa\.csv is missing\. data/SSW60/README\.md tells.*--demo"):
        main(["--train"])


def test_data_that_was_not_prepared_is_told_with_the_command_to_do_it(copied, tmp_path):
    for folder in copied.glob("video_ml-*"):
        shutil.rmtree(folder)
    with pytest.raises(InputError, match=rf"python scripts/prepare_ssw60\.py --data_root {copied} --sample_rate 22050"):
        main(flags(copied, tmp_path, "run", "--audio_frontend", "ogm_ge"))


def test_missing_files_are_counted_and_skipped_only_on_demand(copied, tmp_path, capsys):
    (copied / "video_ml-16000Hz/train000.wav").unlink()
    shutil.rmtree(copied / "video_ml-1fps/train001")
    (copied / "video_ml-1fps/test002/frame_00001.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="3 of 12 clips cannot be used") as error:
        main(flags(copied, tmp_path))
    for part in ("video_ml/train000: ", "train000.wav is missing", "no frames", "is empty", "--skip_missing"):
        assert part in str(error.value)
    result = main(flags(copied, tmp_path, "run", "--skip_missing"))
    assert (result["n_train"], result["n_test"]) == (6, 3)
    assert "3 of 12 clips cannot be used" in capsys.readouterr().out


def test_a_species_without_training_clips_is_refused(copied, tmp_path):
    table = copied / "video_ml.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if ",1,train" not in line))
    with pytest.raises(InputError, match=r"no training clip of class Lookalike 01 B in video_ml of"):
        main(flags(copied, tmp_path))


def test_a_collection_without_test_clips_is_refused(copied, tmp_path):
    table = copied / "audio_ml.csv"
    table.write_text(table.read_text().replace(",test,", ",train,"))
    with pytest.raises(InputError, match=r"no test clip in audio_ml of"):
        main(flags(copied, tmp_path, "run", "--modality", "audio", "--pretrain_on", "audio_ml"))


# ---- real media


@needs_real_data
def test_real_media_go_from_the_official_layout_to_the_joint_run(tmp_path):
    root = tmp_path / "ssw60"
    make_official_layout(root)
    assert prepare_ssw60(["--data_root", str(root)]) == {"listed": 32, "failed": 0, "without_sound": 2}
    main(flags(root, tmp_path, "audio", "--modality", "audio", "--pretrain_on", "audio_ml"))
    main(flags(root, tmp_path, "visual", "--modality", "visual", "--pretrain_on", "images_inat", "images_nabirds"))
    joint = main(flags(root, tmp_path, "joint", "--mmcosine", "--audio_pretrain", str(tmp_path / "audio/best.pt"),
                       "--visual_pretrain", str(tmp_path / "visual/best.pt"), "--audio_seconds", "10"))
    assert (joint["n_train"], joint["n_test"], joint["n_without_sound"]) == (4, 4, 2)
    assert joint["pretrained"].keys() == {"audio", "visual"}


def make_official_layout(root: Path) -> None:
    """Two species: eight videos (with sound, without, Matroska, several streams, portrait), recordings, photographs."""
    videos = [REAL_DATA / "clips" / name for name in ("nasa_13013.mp4", "flipping_a_pancake.mkv", "bento.mp4",
                                                      "demo.mp4")]
    sounds = sorted((REAL_DATA / "cremad/AudioWAV").glob("*.wav"))[:8]
    frames = [cv2.VideoCapture(str(video)).read()[1] for video in videos]
    root.mkdir()
    (root / "taxa.csv").write_text("label,species_code,common_name\n0,snogoo,Snow Goose\n1,wooduc,Wood Duck\n")
    for table in ("video_ml", "audio_ml", "images_inat", "images_nabirds"):
        (root / table).mkdir()
        rows = [f"{i},{i % 2},{'train' if i < 4 else 'test'},250" for i in range(8)]
        (root / f"{table}.csv").write_text("\n".join(["asset_id,label,split,frame_count", *rows]))
    for i in range(8):
        (root / f"video_ml/{i}.mp4").symlink_to(videos[i % 4])
        (root / f"audio_ml/{i}.wav").symlink_to(sounds[i])
        for table in ("images_inat", "images_nabirds"):
            cv2.imwrite(str(root / table / f"{i}.jpg"), frames[i % 4])


# ---- the recipe


def test_the_recipe_runs_from_preparation_to_the_joint_runs_in_commands_that_are_accepted(tmp_path):
    python = tmp_path / "python"  # writes down what it is asked to run; the last step's own code it runs
    python.write_text(f'#!/bin/sh\n[ "$1" = - ] && exec {sys.executable} "$@"\necho "$@" >> {tmp_path}/asked\n')
    python.chmod(0o755)
    where = {"PYTHON": str(python), "DATA": str(tmp_path / "data"), "RUNS": str(tmp_path / "runs")}
    done = subprocess.run(["bash", str(REPO / "scripts/ssw60.sh"), "--epochs", "3"], env={**os.environ, **where},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked[0] == ["scripts/prepare_ssw60.py", "--data_root", str(tmp_path / "data")]
    runs = [parse(command[1:]) for command in asked[1:] if command[0] == "main_SSW.py"]
    assert [run.pretrain_on for run in runs[:2]] == [["audio_ml"], ["images_inat", "images_nabirds"]]
    assert [(run.fusion_method, run.mmcosine) for run in runs[2:]] == [
        (fusion, mmcosine) for fusion in ("concat", "film", "gated") for mmcosine in (False, True)]
    for run in runs[2:]:
        assert run.audio_pretrain == tmp_path / "runs/audio/best.pt"
        assert run.visual_pretrain == tmp_path / "runs/visual/best.pt"
        assert (run.scaling, run.epochs) == (20.0, 3)


def recipe(tmp_path: Path, *flags: str, **where: str) -> subprocess.CompletedProcess:
    """ssw60.sh in a copy of the scripts' place, with a Python that does nothing."""
    repo = tmp_path / "repo"
    (repo / "scripts").mkdir(parents=True, exist_ok=True)
    shutil.copy(REPO / "scripts/ssw60.sh", repo / "scripts")
    return subprocess.run(["bash", str(repo / "scripts/ssw60.sh"), *flags], capture_output=True, text=True,
                          env={**os.environ, "PYTHON": "true", **where})


def test_the_recipe_does_not_mix_runs_of_other_data_or_flags(tmp_path):
    assert recipe(tmp_path, "--demo").returncode == 0
    assert (tmp_path / "repo/runs/ssw60_demo/recipe.txt").read_text() == "data/demo_birds --demo\n"
    assert recipe(tmp_path).returncode == 0, "the real data has a folder of its own"
    other = recipe(tmp_path, "--epochs", "3")
    assert other.returncode == 2 and "runs/ssw60 were started with other data or flags" in other.stderr


@pytest.mark.parametrize("inside", ["taxa.csv", "deep/er/taxa.csv", "none.csv"])
def test_the_recipe_unpacks_the_tarball_and_never_moves_anything_else(tmp_path, inside):
    source = tmp_path / "source"
    (source / inside).parent.mkdir(parents=True)
    (source / inside).write_text("label,common_name\n")
    (source / inside).with_name("README.md").write_text("theirs")
    data = tmp_path / "repo/data/SSW60"
    data.mkdir(parents=True)
    (data / "README.md").write_text("ours")
    subprocess.run(["tar", "-czf", f"{data}.tar.gz", "-C", source, "."], check=True)
    (tmp_path / "md5sum").write_text("#!/bin/sh\ncat > /dev/null\n")
    (tmp_path / "md5sum").chmod(0o755)
    done = recipe(tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (data / "README.md").read_text() == "ours" and (tmp_path / "repo/scripts/ssw60.sh").is_file()
    if inside == "none.csv":
        assert done.returncode == 2 and "contains no taxa.csv" in done.stderr and not (data / "none.csv").exists()
    else:
        assert done.returncode == 0 and (data / "taxa.csv").is_file(), done.stderr
        assert not Path(f"{data}.unpacking").exists()
