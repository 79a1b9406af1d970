"""An evaluation without training: what --ckpt_path and --output name, and what evaluation.json holds."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SMALL

import main_Vox
from dataset.errors import InputError
from main_CD import main, parse
from scripts import analyse, export, probe
from utils.training import checkpoint, classification, evaluation

HERE = ["--device", "cpu", "--num_workers", "0", "--amp", "off"]
pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")


@pytest.fixture
def run(copied_runs) -> Path:
    return copied_runs["plain"]


def test_a_runs_folder_stands_for_its_best_checkpoint(run, tmp_path):
    by_folder = main(["--ckpt_path", str(run), *HERE])
    assert by_folder["ckpt_path"] == str(run / "best.pt")
    by_file = main(["--ckpt_path", str(run / "best.pt"), *HERE, "--output", str(tmp_path / "other")])
    assert by_folder["accuracy"] == by_file["accuracy"] and by_folder["loss"] == by_file["loss"]


def test_evaluation_json_has_the_metrics_of_the_checkpoint_and_how_they_were_measured(run, capsys):
    before = (run / "result.json").read_bytes()
    result = json.loads(before)
    found = main(["--ckpt_path", str(run), *HERE])
    assert json.loads((run / "evaluation.json").read_text()) == found
    assert (run / "result.json").read_bytes() == before
    assert f"written to {run / 'evaluation.json'}" in capsys.readouterr().out
    assert found["accuracy"] == pytest.approx(result["accuracy"])
    assert found["epoch"] == result["best_epoch"] and found["n_test"] == result["n_test"] == 12
    assert found["test_list"] == result["test_list"] and found["dataset"] == "tiny"
    assert (found["precision"], found["precision_reason"]) == ("float32", "--amp off")
    assert found["command"].startswith("python main_CD.py --ckpt_path")
    assert {"device", "git_commit", "torch_version", "data_root", "processes", "accuracy_visual"} <= found.keys()


def test_output_names_the_folder_of_evaluation_json(run, tmp_path):
    before = sorted(path.name for path in run.iterdir())
    found = main(["--ckpt_path", str(run / "last.pt"), "--output", str(tmp_path / "a" / "b"), *HERE])
    assert json.loads((tmp_path / "a" / "b" / "evaluation.json").read_text()) == found and found["epoch"] == 2
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_released_checkpoint_has_no_epoch(run, tmp_path):
    torch.save(checkpoint.load(run / "best.pt")["model"], tmp_path / "released.pth")
    data = json.loads((run / "args.json").read_text())["data_root"]
    argv = ["--dataset", "tiny", "--data_root", data, *SMALL]
    assert main(["--ckpt_path", str(tmp_path / "released.pth"), *argv])["epoch"] is None
    assert (tmp_path / "evaluation.json").is_file()


def test_an_interrupted_evaluation_leaves_no_file(run, monkeypatch):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(classification, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(["--ckpt_path", str(run), *HERE])
    monkeypatch.setattr(evaluation.json, "dumps", stopped)
    assert not (run / "evaluation.json").exists()


def test_an_output_that_is_a_file_is_named_before_anything_is_computed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "evaluate", lambda *_: pytest.fail("evaluated"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--output .*file is a file: name a folder"):
        main(["--ckpt_path", str(run), "--output", str(tmp_path / "file"), *HERE])


def test_checkpoints_in_a_folder_that_cannot_be_written_are_evaluated_with_a_note(run, monkeypatch, capsys):
    def closed(path: Path, content: str) -> None:
        raise evaluation.DiskError(f"{path} cannot be written (Read-only file system)")

    monkeypatch.setattr(evaluation, "write_whole", closed)
    assert main(["--ckpt_path", str(run), *HERE])["n_test"] == 12
    assert "evaluation.json cannot be written (Read-only file system): name another" in capsys.readouterr().out
    with pytest.raises(evaluation.DiskError):
        main(["--ckpt_path", str(run), "--output", str(run / "out"), *HERE])


@pytest.mark.parametrize("left, said", [
    ((), "is neither a run .it has no best.pt. nor an export .*: name the folder that training printed"),
    (("last.pt",), "has no best.pt, it was stopped in its first epoch: continue it with --resume"),
    (("plain/best.pt", "mmcosine/best.pt"), "name one of the runs in it: .*/mmcosine, .*/plain$")])
def test_a_folder_without_a_best_checkpoint_is_told_with_what_it_holds(left, said, tmp_path):
    for name in left:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=said):
        main(["--ckpt_path", str(tmp_path), *HERE])


def test_trials_are_written_with_the_scores(tiny_voices, tmp_path):
    argv = ["--dataset", "voices", "--data_root", str(tiny_voices), "--image_size", "64", "--audio_frames", "40",
            "--batch_size", "4", *HERE]
    main_Vox.main(["--train", *argv, "--epochs", "1", "--output", str(tmp_path), "--run_name", "run"])
    found = main_Vox.main(["--ckpt_path", str(tmp_path / "run"), *HERE])
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == found and 0 <= found["eer"] <= 1
    main_Vox.main(["--ckpt_path", str(tmp_path / "run"), "--output", str(tmp_path / "out"), *HERE])
    assert {"evaluation.json", "det.png"} < {path.name for path in (tmp_path / "out").iterdir()}


# ---- --output in training


def test_in_training_output_and_ckpt_path_are_the_same_flag(tmp_path):
    argv = ["--train", "--run_name", "run"]
    args = parse([*argv, "--output", str(tmp_path)])
    assert (args.ckpt_path, args.output) == (tmp_path, None)
    assert parse([*argv, "--output", str(tmp_path), "--ckpt_path", f"{tmp_path}/"]).ckpt_path == tmp_path


def test_two_different_folders_for_a_run_are_a_mistake(tmp_path, capsys):
    for ckpt_path in (tmp_path / "b", Path("runs")):  # the second is the default, but given
        with pytest.raises(SystemExit) as stop:
            parse(["--train", "--output", str(tmp_path / "a"), "--ckpt_path", str(ckpt_path)])
        assert stop.value.code == 2
        assert "both name the folder that the run's folder is made in" in capsys.readouterr().err


def test_a_resumed_run_takes_the_folder_it_is_in_and_no_other(run, tmp_path):
    assert parse(["--resume", str(run), "--output", str(run.parent)]).ckpt_path == run.parent
    with pytest.raises(InputError, match="names the folder of the run"):
        parse(["--resume", str(run), "--output", str(tmp_path / "elsewhere")])


def test_output_alone_is_nothing_to_do(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(["--output", str(tmp_path)])
    assert "give --train, or --ckpt_path RUN to evaluate a run" in capsys.readouterr().err


def test_the_folder_of_a_moved_run_is_evaluated_where_it_is(run, tmp_path):
    moved = shutil.move(run, tmp_path / "moved")
    assert main(["--ckpt_path", str(moved), *HERE])["ckpt_path"] == str(tmp_path / "moved" / "best.pt")


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the files that torch.load reads."""
    names, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda file, **how: names.append(Path(file).name) or load(file, **how))
    return names


def test_a_checkpoint_is_read_once_a_command(copied_runs, opened, tmp_path):
    run = copied_runs["plain"]
    commands = [(main, ["--ckpt_path", run, *HERE]), (probe.main, [run, *HERE[:4]]),
                (analyse.main, [run, "--only", "angles", "confusion", *HERE[:4]]),
                (export.main, [run, "--output", tmp_path])]
    for command, argv in commands:
        command(list(map(str, argv)))
        assert opened == ["best.pt"], command.__module__
        opened.clear()
    main(["--resume", str(run), *HERE])
    assert opened.count("last.pt") == 1  # best.pt is checked at the start, and evaluated at the end
    opened.clear()
    both = [f"--{name}_pretrain={run / 'best.pt'}" for name in ("audio", "visual")]
    settings = json.loads((run / "args.json").read_text())
    main(["--train", "--data_root", settings["data_root"], "--image_size", str(settings["image_size"]),
          "--epochs", "1", "--batch_size", "8", "--ckpt_path", str(tmp_path), "--run_name", "next", "--allow_overlap",
          *both, *HERE])
    assert opened == ["best.pt"] * 2, "both encoders start from one file; the other is the new run's"


def test_an_export_is_evaluated_as_the_run_it_was_made_of(copied_runs, tmp_path):
    run = copied_runs["plain"]
    export.main([str(run), "--output", str(tmp_path)])
    root = json.loads((run / "args.json").read_text())["data_root"]
    ours, exported = (main(["--ckpt_path", str(path), "--data_root", root, *HERE]) for path in (run, tmp_path))
    assert exported["accuracy"] == ours["accuracy"] and exported["loss"] == ours["loss"]
    assert exported["ckpt_path"] == str(tmp_path / "model.safetensors")
