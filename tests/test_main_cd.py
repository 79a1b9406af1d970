"""main_CD.py from its command line to its run folder."""

import json
import os
import re
import shutil
import signal
import time
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import REAL_DATA, SMALL, needs_real_data
from processes import start_command, status_at_end
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main_CD
from dataset.cremad import PAPER_COUNTS
from dataset.errors import InputError
from main_CD import load_splits, main, parse
from models import AVClassifier
from scripts.prepare_cremad import main as prepare_cremad
from utils.training import checkpoint, report, train
from utils.training.classification import Classification
from utils.training.train import fit

pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")

FIGURES = ("accuracy", "accuracy_audio", "accuracy_visual")


def same_tensors(a: object, b: object) -> bool:
    """Whether two nested containers hold the same values, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_tensors(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_tensors, a, b))
    return a == b


@pytest.fixture
def copied_data(tiny_data, tmp_path) -> Path:
    """A copy of the tiny data, to be damaged."""
    return Path(shutil.copytree(tiny_data, tmp_path / "copy"))


@pytest.fixture
def damaged_argv(train_argv, copied_data) -> list[str]:
    return [*train_argv, "--data_root", str(copied_data)]


def test_a_run_says_how_many_clips_of_the_papers_lists_it_uses(damaged_argv, copied_data, monkeypatch, capsys):
    for split in ("train", "test"):
        monkeypatch.setitem(PAPER_COUNTS, split, len((copied_data / f"{split}.csv").read_text().split()))
    load_splits(parse(damaged_argv))
    assert "comparable" not in capsys.readouterr().out
    name = (copied_data / "train.csv").read_text().split(",")[0]
    (copied_data / "AudioWAV" / f"{name}.wav").unlink()
    load_splits(parse([*damaged_argv, "--skip_missing", "--val_fraction", "0.2"]))
    counts = {split: PAPER_COUNTS[split] for split in ("train", "test")}
    assert (f"note: of the paper's lists, {counts['train'] - 1} of {counts['train']} training clips and "
            f"{counts['test']} of {counts['test']} test clips are usable: results are not comparable with the paper's"
            ) in capsys.readouterr().out


# ---- what a run leaves


@pytest.mark.parametrize(("fusion", "mmcosine"),
                         [("sum", "False"), ("concat", "True"), ("film", "0"), ("gated", "yes")])
def test_every_fusion_trains_and_its_best_checkpoint_gives_its_accuracy(train_argv, tmp_path, fusion, mmcosine):
    result = main([*train_argv, "--epochs", "1", "--fusion_method", fusion, "--mmcosine", mmcosine, "--lam", "0.1"])
    assert result["mmcosine"] is (mmcosine in ("True", "yes"))
    evaluated = main(["--ckpt_path", str(tmp_path / "run" / "best.pt"), "--num_workers", "0"])
    assert {name: evaluated[name] for name in FIGURES} == pytest.approx({name: result[name] for name in FIGURES})


def test_run_folder_holds_what_the_docs_say(train_argv, tmp_path, monkeypatch, with_pictures):
    def fit_meanwhile(*arguments):
        monkeypatch.setattr(report, "git_commit", lambda: "checked out in mid-run")
        fit(*arguments)

    monkeypatch.setattr(train, "fit", fit_meanwhile)
    result = main([*train_argv, "--mmcosine", "--scaling", "7.5"])
    assert result["git_commit"] != "checked out in mid-run"
    folder = tmp_path / "run"
    assert json.loads((folder / "result.json").read_text()) == result
    assert result.keys() >= {"dataset", "fusion", "mmcosine", "scaling", "seed", "epochs", "best_epoch", *FIGURES,
                             "selection", "n_train", "n_val", "n_test", "command", "git_commit", "torch_version",
                             "device", "precision", "wall_seconds", "last_test_accuracy", "last_test_accuracy_visual"}
    assert (result["n_train"], result["n_val"], result["n_test"], result["scaling"]) == (24, 0, 12, 7.5)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert result["accuracy"] == max(line["test_accuracy"] for line in lines)
    assert lines[0].keys() >= {"train_loss", "train_accuracy_audio", "test_loss_visual", "train_lr", "train_seconds",
                               "train_clips_per_second"}
    assert json.loads((folder / "args.json").read_text())["scaling"] == 7.5
    assert (folder / "curves.png").stat().st_size > 10_000
    assert not list(folder.glob(".*")), "temporary files are left"


def test_tensorboard_can_be_elsewhere_or_off(train_argv, tmp_path):
    main([*train_argv, "--epochs", "1", "--tensorboard_path", str(tmp_path / "tb")])
    assert len(list((tmp_path / "tb" / "run").glob("events.*"))) == 1
    main([*train_argv, "--epochs", "1", "--run_name", "off", "--use_tensorboard", "False"])
    assert not list((tmp_path / "off").glob("events.*"))


def test_same_seed_gives_the_same_weights_whatever_the_number_of_workers(train_argv, tmp_path):
    for name, workers in (("a", "0"), ("b", "2")):
        main([*train_argv, "--epochs", "1", "--run_name", name, "--num_workers", workers])
    a, b = (checkpoint.load(tmp_path / name / "last.pt")["model"] for name in "ab")
    assert same_tensors(a, b)


def test_the_test_set_is_watched_without_choosing_or_changing_anything(train_argv, tmp_path, capsys):
    held_out = [*train_argv, "--val_fraction", "0.25", "--epochs", "3"]
    plain = main([*held_out, "--run_name", "plain"])
    watched = main([*held_out, "--run_name", "watched", "--test_every_epoch"])
    a, b = (checkpoint.load(tmp_path / name / "last.pt")["model"] for name in ("plain", "watched"))
    assert same_tensors(a, b)
    assert {name: watched[name] for name in ("accuracy", "best_epoch")} == {
        name: plain[name] for name in ("accuracy", "best_epoch")}
    lines = [json.loads(line) for line in (tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()]
    assert lines[watched["best_epoch"] - 1]["test_accuracy"] == pytest.approx(watched["accuracy"])
    assert watched["best_test_accuracy"] == max(line["test_accuracy"] for line in lines)
    assert watched["selection_bonus"] == pytest.approx(watched["best_test_accuracy"] - watched["accuracy"])
    assert "after every epoch too and chose nothing" in watched["selection"] and "selection_bonus" not in plain
    assert "points, had the test set chosen the epoch" in capsys.readouterr().out


def test_the_watched_test_set_does_not_choose_the_epoch(train_argv, tmp_path, monkeypatch):
    val, test = iter((0.1, 0.9, 0.2)), iter((0.8, 0.3, 0.5, 0.9))  # the last: of the best epoch, evaluated again
    evaluate = Classification.evaluate_held_out
    monkeypatch.setattr(Classification, "evaluate_held_out", lambda task: {**evaluate(task), "accuracy": next(val)})
    monkeypatch.setattr(Classification, "evaluate_test", lambda task: {**evaluate(task), "accuracy": next(test)})
    result = main([*train_argv, "--val_fraction", "0.25", "--epochs", "3", "--test_every_epoch"])
    found = [result[name] for name in ("best_epoch", "accuracy", "best_test_accuracy", "last_test_accuracy")]
    assert found == [2, 0.9, 0.8, 0.5]
    found = [result[name] for name in ("selection_bonus", "best_val_accuracy", "last_val_accuracy")]
    assert found == [pytest.approx(-0.1), 0.9, 0.2]


def test_an_encoder_that_was_trained_on_the_test_clips_is_refused(train_argv, tiny_data, tmp_path, capsys):
    main([*train_argv, "--epochs", "1", "--modality", "audio"])
    swapped = Path(shutil.copytree(tiny_data, tmp_path / "swapped"))
    for name, other in (("train", "test"), ("test", "train")):
        (swapped / f"{name}.csv").write_bytes((tiny_data / f"{other}.csv").read_bytes())
    argv = [*train_argv, "--epochs", "1", "--data_root", str(swapped), "--run_name", "joint", "--audio_pretrain",
            str(tmp_path / "run/best.pt")]
    with pytest.raises(InputError, match=r"24 of the 24 test clips were in the training list of .*run/best\.pt"):
        main(argv)
    main([*argv, "--allow_overlap"])
    assert "note: 24 of the 24 test clips were in the training list" in capsys.readouterr().out
    with pytest.raises(InputError, match="12 of the 12 test clips were in the training list"):  # what a run was allowed
        main(["--ckpt_path", str(tmp_path / "joint/best.pt"), "--data_root", str(tiny_data), "--num_workers", "0"])


def test_demo_makes_its_data_says_so_and_can_be_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(main_CD, "make_demo", partial(main_CD.make_demo, train_per_class=3, test_per_class=1))
    result = main(["--train", "--demo", "--data_root", str(tmp_path / "demo"), "--ckpt_path", str(tmp_path),
                   "--run_name", "run", "--epochs", "1", *SMALL])
    assert (result["dataset"], result["demo"], result["n_train"]) == ("demo", True, 18)
    assert capsys.readouterr().out.count("DEMO DATA") == 2, "at the beginning and beside the result"
    assert main(["--ckpt_path", str(tmp_path / "run" / "best.pt")])["accuracy"] == pytest.approx(result["accuracy"])
    assert "DEMO DATA" in capsys.readouterr().out


# ---- interruption


def wait_for(path: Path, lines: int, process: ForkServerProcess) -> None:
    for _ in range(12000):
        if path.exists() and len(path.read_text().splitlines()) >= lines:
            return
        assert process.exitcode is None
        time.sleep(0.005)
    raise AssertionError(f"{path} has not {lines} lines after a minute")


def begin_and_stop(argv: list[str], folder: Path, stop: signal.Signals) -> tuple[int, str]:
    """A run of twenty epochs, stopped in one of its first -> (exit status, what it printed)."""
    output = folder.with_name("printed.txt")
    process = start_command("main_CD", *argv, "--epochs", "20", output=output)
    wait_for(folder / "metrics.jsonl", 1, process)
    time.sleep(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["train_seconds"] / 2)
    os.kill(process.pid, stop)
    return status_at_end(process), output.read_text()


def test_a_run_that_is_asked_to_end_says_how_to_go_on(train_argv, tmp_path):
    status, printed = begin_and_stop(train_argv, tmp_path / "run", signal.SIGTERM)
    assert f"--resume {tmp_path / 'run'}" in printed
    assert status == 143 and len(checkpoint.load(tmp_path / "run" / "last.pt")["history"]) < 20


def test_killed_run_resumes_to_the_weights_of_the_uninterrupted_one(train_argv, tmp_path):
    argv = [*train_argv, "--fusion_method", "gated", "--mmcosine", "--epochs", "20", "--lr_decay_step", "2"]
    assert begin_and_stop(argv, tmp_path / "run", signal.SIGKILL)[0] == -signal.SIGKILL
    assert len(checkpoint.load(tmp_path / "run" / "last.pt")["history"]) < 20
    time.sleep(1 - time.time() % 1)  # TensorBoard sorts the files of events by the second in which each was begun
    main(["--resume", str(tmp_path / "run")])
    main([*argv, "--run_name", "whole"])
    resumed, whole = (checkpoint.load(tmp_path / name / "last.pt") for name in ("run", "whole"))
    for part in ("model", "optimizer", "scheduler", "iterations"):
        assert same_tensors(resumed[part], whole[part]), part
    steps = [event.step for event in EventAccumulator(str(tmp_path / "run")).Reload().Scalars("data/logit_a")]
    assert steps == list(range(1, 61)), "iterations of the killed epoch are in the events twice"
    timeless = [[{name: value for name, value in record.items() if "second" not in name} for record in state["history"]]
                for state in (resumed, whole)]
    assert timeless[0] == timeless[1]


def test_resume_refuses_other_settings_but_takes_more_epochs(train_argv, tmp_path):
    main([*train_argv, "--epochs", "1"])
    with pytest.raises(InputError, match="leave out --scaling, --learning_rate"):
        main(["--resume", str(tmp_path / "run"), "--learning_rate", "0.5", "--scaling", "3"])
    assert main(["--resume", str(tmp_path / "run"), "--epochs", "2"])["epochs"] == 2
    with pytest.raises(InputError, match=r"2 epochs behind it: --epochs 1 is less"):
        main(["--resume", str(tmp_path / "run"), "--epochs", "1"])
    with pytest.raises(InputError, match=r"it holds no last\.pt"):
        main(["--resume", str(tmp_path / "nowhere")])


@pytest.mark.parametrize("change", [lambda root: (root / "test.csv").write_text("\n".join(
    (root / "test.csv").read_text().splitlines()[:-2])), lambda root: (root / "stat.csv").write_text(
        (root / "stat.csv").read_text() + "NEW\n")])
def test_resume_and_evaluation_notice_other_data(copied_runs, copied_data, change):
    change(copied_data)
    with pytest.raises(InputError, match=r"other data|no training clip of class NEW"):
        main(["--resume", str(copied_runs["plain"]), "--data_root", str(copied_data), "--epochs", "3"])


def test_the_optimizer_asked_for_is_the_one_that_trains(train_argv, tmp_path):
    main([*train_argv, "--epochs", "1", "--optimizer", "adam"])
    state = checkpoint.load(tmp_path / "run/last.pt")["optimizer"]["state"]
    assert state and all("exp_avg_sq" in moments for moments in state.values())  # what SGD does not keep


def test_a_checkpoint_of_other_classes_is_refused(finished_runs, copied_data):
    for name in ("stat.csv", "train.csv", "test.csv"):
        path = copied_data / name
        path.write_text(re.sub(r"\bANG$", "RAGE", path.read_text(), flags=re.MULTILINE))
    with pytest.raises(InputError, match=r"trained on the classes ANG.*the data has DIS"):
        main(["--ckpt_path", str(finished_runs["plain"] / "best.pt"), "--data_root", str(copied_data)])


def test_a_best_pt_is_no_last_pt(finished_runs, tmp_path):
    shutil.copy(finished_runs["plain"] / "best.pt", tmp_path / "last.pt")
    with pytest.raises(InputError, match="not the file that is needed: it lacks class_norms, history"):
        main(["--resume", str(tmp_path)])


def test_a_run_is_never_overwritten(train_argv, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/last.pt").touch()
    with pytest.raises(InputError, match=f"--resume {tmp_path / 'run'}"):
        main(train_argv)


# ---- several processes


def test_gpu_ids_start_a_process_each_which_train_and_evaluate_every_clip_once(train_argv, tmp_path, real_encoders):
    """With --device cpu the cards are only counted. torchrun itself is run in tests/test_failures.py."""
    argv = [*train_argv, "--epochs", "1", "--batch_size", "7"]  # 24 = 7 + 7 + 7 + 3: parts of unequal size
    argv += ["--amp", "off", "--gpu_ids", "0,1"]
    assert status_at_end(start_command("main_CD", *argv, output=tmp_path / "printed.txt")) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["processes"], result["n_test"]) == (2, 12)
    alone = main(["--ckpt_path", str(tmp_path / "run" / "last.pt"), "--num_workers", "0", "--amp", "off"])
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    for name in FIGURES:
        assert alone[name] == line[f"test_{name}"]
    assert alone["loss"] == pytest.approx(line["test_loss"], rel=1e-5)


def test_missing_cards_are_one_message(train_argv):
    with pytest.raises(InputError, match="CUDA device 98"):
        main([*train_argv, "--device", "cuda", "--gpu_ids", "98,99"])


# ---- checkpoints of others


@pytest.mark.parametrize("wrap", [lambda state: state,
                                  lambda state: {"model": {f"module.{name}": value for name, value in state.items()},
                                                 "fusion": "gated", "epoch": 3}])
def test_released_checkpoints_are_evaluated(tiny_data, tmp_path, wrap, capsys, real_encoders):
    torch.save(wrap(AVClassifier(6, "gated").state_dict()), tmp_path / "released.pth")
    argv = ["--ckpt_path", str(tmp_path / "released.pth"), "--data_root", str(tiny_data), *SMALL]
    assert main([*argv, "--fusion_method", "gated", "--mmcosine"])["n_test"] == 12
    assert "holds no settings" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*argv, "--alpha", "0.5"])
    assert "--alpha has no effect with --modulation none: leave it out" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"does not fit the model.*--fusion_method"):
        main([*argv, "--fusion_method", "sum"])


# ---- what users get wrong


def test_without_data_one_message_names_folder_preparation_and_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "printed.txt"
    argv = ["--train", "--mmcosine", "True", "--scaling", "10"]
    assert status_at_end(start_command("main_CD", *argv, output=output)) == 2
    printed = output.read_text()
    for part in ("main_CD.py: error:", "data/CREMAD", "scripts/prepare_cremad.py --data_root data/CREMAD", "--demo"):
        assert part in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(("argv", "part"), [
    (["--train", "--fusion", "gated"], "unrecognized arguments: --fusion"),
    (["--mmcosine"], "nothing to do: give --train"),
    (["--train", "--run_name", "a\nb"], "is not a plain name"),
    (["--train", "--lam", "1", "--modality", "audio"], "leave it out with --modality audio"),
    (["--train", "--val_by_speaker"], "no effect without --val_fraction: "),
    (["--train", "--test_every_epoch"], "has no effect without --val_fraction"),
    (["--train", "--cache_size", "100"], "--cache_size has no effect without --cache: leave it out"),
])
def test_wrong_flags_are_refused_with_status_2(argv, part, capsys):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert part in capsys.readouterr().err


def test_missing_and_broken_clips_are_counted_before_training_and_skipped_only_on_demand(
        damaged_argv, copied_data, tmp_path, capsys):
    wavs = sorted((copied_data / "AudioWAV").glob("*.wav"))
    wavs[0].unlink()
    wavs[1].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    soundfile.write(wavs[2], np.zeros(0), 16000)
    soundfile.write(wavs[4], np.full(16000, np.nan), 16000, subtype="FLOAT")
    for frame in (copied_data / "Image-01-FPS" / wavs[3].stem).iterdir():
        frame.unlink()
    with pytest.raises(InputError, match="5 of 36 clips cannot be used") as error:
        main(damaged_argv)
    assert not (tmp_path / "run").exists(), "training had begun"
    reasons = ("is missing", "git lfs pull", "no sound", "no frames", "NaN", "--skip_missing")
    for part in (*reasons, *(wav.stem for wav in wavs[:4])):
        assert part in str(error.value)
    result = main([*damaged_argv, "--skip_missing", "--epochs", "1"])
    assert result["n_train"] + result["n_test"] == 31
    assert "5 of 36 clips cannot be used" in capsys.readouterr().out


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_file_that_breaks_in_mid_epoch_is_named_without_a_traceback(damaged_argv, copied_data, workers):
    for frame in copied_data.glob("Image-01-FPS/*/*.jpg"):
        frame.write_bytes(frame.read_bytes()[:200] + b"\xff\xd9")  # its end is there: decoding alone tells
    with pytest.raises(InputError, match=r"frame_0000\d\.jpg cannot be read as an image") as error:
        main([*damaged_argv, "--num_workers", workers])
    assert "Traceback" not in str(error.value)


def test_a_class_that_skipping_empties_is_refused(damaged_argv, copied_data):
    for wav in copied_data.glob("AudioWAV/*_ANG_*.wav"):
        wav.unlink()
    with pytest.raises(InputError, match="no training clip of class ANG"):
        main([*damaged_argv, "--skip_missing"])


def test_weights_that_the_last_step_ruined_are_not_saved(train_argv, tmp_path):
    with pytest.raises(InputError, match=r"in epoch 1 \(at its end"):
        main([*train_argv, "--learning_rate", "1e20", "--batch_size", "24"])  # one step an epoch, its loss is finite
    state = checkpoint.load(tmp_path / "run" / "last.pt")["model"]
    assert all(value.isfinite().all() for value in state.values())


def test_validation_clips_that_cannot_be_used_do_not_turn_selection_to_the_test_set(damaged_argv, copied_data):
    argv = [*damaged_argv, "--val_fraction", "0.25", "--skip_missing"]
    splits = load_splits(parse(argv))
    for clip in splits.val.clips:
        clip.audio.unlink()
    with pytest.raises(InputError, match="none of the 6 val clips can be used"):
        main(argv)


def test_a_diverging_run_stops_by_name_and_keeps_its_last_epoch(train_argv, tmp_path):
    with pytest.raises(InputError, match=r"the loss is (nan|inf) in epoch 1.*last\.pt holds the last whole epoch"):
        main([*train_argv, "--learning_rate", "1e30"])
    assert checkpoint.load(tmp_path / "run" / "last.pt")["history"] == []
    told = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert (told["metric"], told["epoch"]) == ("loss", 1) and told["value"] in ("nan", "inf")


def test_one_modality_cannot_be_gated(train_argv):
    with pytest.raises(InputError, match="choose another --fusion_method"):
        main([*train_argv, "--modality", "audio", "--fusion_method", "gated"])


def test_a_scale_below_the_bound_is_told(train_argv, capsys):
    main([*train_argv, "--epochs", "1", "--mmcosine", "--scaling", "2"])
    assert "2.216 by the paper's Eq. 4, 2.585 exactly" in capsys.readouterr().out


# ---- real media


@needs_real_data
def test_real_cremad_clips_go_through_preparation_and_two_epochs(train_argv, tmp_path):
    root = tmp_path / "cremad"
    for folder, kind in (("AudioWAV", "wav"), ("VideoFlash", "flv")):
        (root / folder).mkdir(parents=True)
        for clip in (REAL_DATA / "cremad" / folder).glob(f"1001_*.{kind}"):
            for actor in ("1001", "1003"):  # one clip a class is there: the second actor is the first again
                shutil.copy(clip, root / folder / clip.name.replace("1001", actor))
    prepared = prepare_cremad(["--data_root", str(root), "--split", "speaker", "--test_fraction", "0.5"])
    assert prepared == {"clips": 12, "failed": 0, "train": 6, "test": 6}
    result = main([*train_argv, "--data_root", str(root), "--num_frames", "2"])
    assert (result["n_train"], result["n_test"], result["epochs"]) == (6, 6, 2)


@needs_real_data
def test_real_digits_train(train_argv, tmp_path):
    root = tmp_path / "digits"
    root.mkdir()
    for name in ("AudioWAV", "Image-01-FPS", "stat.csv"):
        (root / name).symlink_to(REAL_DATA / "grid_digits" / name)
    for name, count in (("train.csv", 40), ("test.csv", 8)):
        rows = (REAL_DATA / "grid_digits" / name).read_text().splitlines()[:count]
        (root / name).write_text("\n".join(rows))
    result = main([*train_argv, "--data_root", str(root), "--epochs", "1", "--num_frames", "2"])
    assert (result["n_train"], result["n_test"]) == (40, 8)
