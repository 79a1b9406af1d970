"""Every entry script under flags that are wrong, absurd or misspelt."""

import importlib
from pathlib import Path

import pytest
from answers import check_refused

pytestmark = pytest.mark.hostile

OTHERS = ("main_SSW", "main_Vox", "main_UCF")
OF_MAINS = [
    ("--image_size", "1000000", "at most 4,096"), ("--image_size", "63", "at least 64"), ("--image_size", "2e2", "whole"),
    ("--num_frames", "100000000000", "at most 1,000"), ("--num_frames", "0", "at least 1"), ("--num_frames", "1.5", "whole"),
    ("--batch_size", "0", "at least 1"), ("--batch_size", "1000000000", "at most 100,000"), ("--batch_size", "-8", "at l"),
    ("--epochs", "0", "at least 1"), ("--epochs", "ten", "not a whole number"), ("--epochs", "99999999999", "at most"),
    ("--num_workers", "-1", "at least 0"), ("--num_workers", "100000", "at most 1,024"),
    ("--learning_rate", "0", "more than 0"), ("--learning_rate", "nan", "out of range"),
    ("--learning_rate", "inf", "out of range"), ("--learning_rate", "0,01", "not a number"),
    ("--weight_decay", "-1", "at least 0"), ("--lr_decay_step", "0", "at least 1"), ("--lr_decay_ratio", "2", "at most 1"),
    ("--scaling", "-1", "more than 0"), ("--scaling", "nan", "out of range"), ("--lam", "-0.1", "at least 0"),
    ("--random_seed", "-1", "at least 0"), ("--random_seed", str(2**63), "at most"), ("--val_fraction", "1", "at most 0.9"),
    ("--val_fraction", "-0.1", "at least 0"), ("--fusion_method", "attention", "invalid choice.*concat"),
    ("--optimizer", "lion", "invalid choice.*sgd"), ("--modulation", "magic", "invalid choice.*ogm"),
    ("--amp", "fp8", "invalid choice.*bf16"), ("--gpu_ids", "a", "card numbers"), ("--gpu_ids", "0,0", "card numbers"),
    ("--gpu_ids", "-1", "card numbers"), ("--mmcosine", "maybe", "True, False"), ("--run_name", "../x", "--run_name"),
    ("--run_name", "a/b", "--run_name"), ("--run_name", "", "--run_name"), ("--modality", "smell", "smell"),
    ("--scalng", "3", "did you mean --scaling"), ("--scal", "3", "unrecognized"), ("--use_tensorboard", "2", "True, False"),
    ("--device", "tpu", "auto, cpu, cuda"), ("--alpha", "0.7", "no effect"), ("--audio_encoder", "vgg", "audio_encoder"),
    ("--dataset", "../../x", "dataset"), ("--dataset", "/x", "dataset"), ("--dataset", "", "dataset"),
    ("--data_root", "/nowhere/at/all", "/nowhere/at/all"), ("--resume", "/nowhere/run", "/nowhere/run")]
SCRIPTS = [
    *[(f"prepare_{name}", flags, names) for name, needed in (
        ("cremad", []), ("ssw60", []), ("ucf101", []), ("grid", ["--grid_root", "/nowhere"]),
        ("voxceleb", ["--video", "/nowhere", "--split", "train"])) for flags, names in (
        ([*needed, "--workers", "0"], "at least 1"), ([*needed, "--workers", "1000000"], "at most 1,024"),
        ([*needed, "--workers", "two"], "not a whole number"), ([*needed, "--data", "x"], "unrecognized"),
        ([*needed, "surplus"], "unrecognized"), ([*needed, "--data_root", "/nowhere/at/all"], "/nowhere"))],
    *[(f"prepare_{name}", [*needed, "--fps", value], names) for name, needed in (
        ("cremad", []), ("ssw60", []), ("ucf101", []), ("voxceleb", ["--video", "/nowhere", "--split", "train"]))
      for value, names in (("0", "at least 1|more than 0"), ("1000000", "1,000"), ("nan", "not a whole|out of range"))],
    ("prepare_cremad", ["--test_fraction", "1"], "less than 1"), ("prepare_cremad", ["--split", "x"], "invalid choice"),
    ("prepare_cremad", ["--frames", "last"], "invalid choice"), ("prepare_cremad", ["--seed", "x"], "not a whole number"), ("prepare_cremad", ["--seed", "-1"], "at least 0"),
    ("prepare_grid", ["--grid_root", "/", "--seed", "-1"], "at least 0"),
    ("prepare_voxceleb", ["--video", "/", "--split", "test", "--seed", "-1"], "at least 0"),
    ("prepare_grid", [], "--grid_root"), ("prepare_grid", ["--grid_root", "/nowhere"], "no folder /nowhere"),
    ("prepare_grid", ["--grid_root", "/", "--rows", "9", "3"], "--rows 9 3"),
    ("prepare_grid", ["--grid_root", "/", "--column", "noun"], "invalid choice"),
    ("prepare_ssw60", ["--collections", "cats"], "invalid choice"), ("prepare_ssw60", ["--short_side", "3"], "at least 64"),
    ("prepare_ssw60", ["--sample_rate", "8000"], "invalid choice"), ("prepare_ucf101", ["--flow", "raft"], "invalid choice"),
    ("prepare_voxceleb", ["--video", "/nowhere"], "--split"), ("prepare_voxceleb", ["--split", "val"], "invalid choice|video"),
    ("prepare_voxceleb", ["--video", "/", "--split", "test", "--detector", "eyes"], "invalid choice"),
    ("score", [], "--trials"), ("score", ["--trials", "/no", "--scores", "/no"], "/no"),
    ("score", ["--trials", "/no", "--scores", "/no", "--p_target", "1"], "less than 1"),
    ("score", ["--trials", "/no", "--scores", "/no", "--c_miss", "0"], "more than 0"),
    ("score", ["--trials", "/no", "--scores", "/no", "--c_fa", "nan"], "out of range"),
    ("probe", [], "RUN"), ("probe", ["/nowhere"], "/nowhere"), ("probe", ["/", "--inverse_penalty", "0"], "more than 0"),
    ("probe", ["/", "--num_workers", "-1"], "at least 0"), ("analyse", [], "RUN"), ("analyse", ["/nowhere"], "/nowhere"),
    ("analyse", ["/", "--only", "smiles"], "invalid choice"), ("analyse", ["/", "--num_workers", "9999"], "at most 1,024"),
    ("ensemble", [], "RUN"), ("ensemble", ["/nowhere"], "no run in /nowhere"), ("export", [], "RUN"),
    ("ensemble", ["/", "--num_workers", "-1"], "at least 0"), ("export", ["/nowhere"], "/nowhere"),
    ("studies.best_settings", ["--output", "/nowhere"], "search in /nowhere is not over"),
    ("studies.best_settings", [], "--output"),
    ("predict", [], "RUN"), ("predict", ["/nowhere", "x.mp4"], "/nowhere is missing"),
    ("predict", ["/", "x.mp4", "--every", "0"], "at least 0.01"), ("predict", ["/", "x.mp4", "--fps", "0"], "more than 0"),
    ("predict", ["/", "x.mp4", "--detector", "eyes"], "invalid choice"), ("predict", ["/"], "VIDEO"),
    ("prepare_videos", ["--data_root", "out"], "name the videos"), ("prepare_videos", ["--videos", "/x"], "--data_root"),
    ("prepare_videos", ["--videos", "/nowhere", "--data_root", "out"], "/nowhere"),
    ("prepare_videos", ["--list", "/nowhere.csv", "--data_root", "out"], "/nowhere.csv"),
    ("prepare_videos", ["--format", "ave", "--data_root", "out"], "needs --videos, --train_list"),
    ("prepare_videos", ["--videos", "/", "--data_root", "out", "--group", "who"], "--group names a column"),
    ("prepare_videos", ["--videos", "/", "--data_root", "out", "--test_fraction", "1"], "less than 1"),
    ("prepare_videos", ["--videos", "/", "--data_root", "out", "--fps", "0"], "at least 1"),
    ("benchmark", ["--batch_size", "0"], "at least 1"), ("benchmark", ["--task", "chess"], "invalid choice"),
    ("benchmark", ["--image_size", "1000000"], "at most 4,096"), ("benchmark", ["--clips", "0"], "at least 1"),
    ("benchmark", ["--device", "tpu"], "auto, cpu, cuda"), ("benchmark", ["--amp", "fp8"], "invalid choice"),
    ("benchmark", ["--rounds", "-3"], "at least 1"), ("benchmark", ["--num_workers", "x"], "not a whole number")]
OF_SWEEP = [
    (["--script", "main_XY.py"], "main_XY"), (["--scaling", "2", "x"], "not a number"), (["--scalng", "3"], "scalng"),
    (["--workers", "0"], "at least 1"), (["--workers", "9999"], "at most 1,024"), (["--fusion_method"], "fusion_method"),
    (["--fusion_method", "concat", "magic"], "magic"), (["--demo", "maybe"], "True, False"),
    (["--run_name", "a", "b"], "run_name"), (["--script", "README.md"], "README")]


def shown(value: str | list[str]) -> str:
    return (value if isinstance(value, str) else " ".join(value))[:40] or "nothing"


@pytest.mark.parametrize("script, flag, value, names", [  # by main_CD.py, and by the others in turn
    (script, *row) for number, row in enumerate(OF_MAINS) for script in ("main_CD", OTHERS[number % 3])], ids=shown)
def test_an_entry_script_refuses_the_flag_with_its_bounds_or_choices(script, flag, value, names, tmp_path):
    main = importlib.import_module(script).main
    if flag.startswith("--audio") and script == "main_UCF":
        flag = "--rgb_encoder"
        names = "rgb_encoder"
    check_refused(main, ["--train", "--ckpt_path", tmp_path, "--data_root", tmp_path, flag, value], names, tmp_path)


@pytest.mark.parametrize("script, argv, names", SCRIPTS, ids=shown)
def test_a_script_refuses_the_flags_with_a_sentence(script, argv, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(importlib.import_module(f"scripts.{script}").main, argv, names, tmp_path)


@pytest.mark.parametrize("argv, names", OF_SWEEP, ids=shown)
def test_a_sweep_refuses_axes_and_flags_before_any_run(argv, names, tmp_path):
    check_refused(importlib.import_module("scripts.sweep").main, [*argv, "--output", tmp_path / "out"], names, tmp_path)
    assert not list(Path(tmp_path).glob("out/*/args.json"))
