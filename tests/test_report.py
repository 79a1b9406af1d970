"""What a run prints and draws."""

import logging

import pytest

from dataset.errors import InputError
from main_CD import main
from utils import distributed
from utils.training import report
from utils.training.plots import COLOURS, colours, plot_curves

TWO, THREE = ("audio", "visual"), ("rgb", "flow", "audio")


def record(epoch: int, shown: dict[str, str], modalities: tuple[str, ...], loss: bool = True) -> dict[str, float]:
    """What an epoch's record holds, with every metric at its widest."""
    return {"epoch": epoch, "train_loss": 10.5, "train_seconds": 3600.0, **({"test_loss": 10.5} if loss else {}),
            **{f"test_{name}": 1.0 for name in shown.values()},
            **{f"{part}_logit_{name}": 1.0 for part in ("train", "test")[:1 + loss] for name in modalities},
            **{f"train_weight_norm_{name}": 1.0 for name in modalities}}


@pytest.mark.parametrize("shown, loss, kept", [
    (report.metric_names("accuracy", TWO), True, ("train loss", "test joint", "audio", "visual", " loss 10.500")),
    (report.metric_names("accuracy", THREE), True, ("train loss", "test joint", "rgb", "flow", "audio")),
    (report.metric_names("accuracy", ("audio",)), True, ("train loss", "test audio", "3600 s")),
    ({"joint": "eer", "audio": "eer_audio", "visual": "eer_visual", "vox_o joint": "vox_o_eer",
      "vox_o audio": "vox_o_eer_audio"}, False, ("train loss", "test eer joint", "audio", "visual"))])
def test_an_epochs_line_stays_under_100_columns(shown, loss, kept):
    line = report.epoch_line(record(7, shown, TWO, loss), "test", shown, 200)
    assert line.startswith("epoch   7/200  ") and len(line) < 100
    assert all(part in line for part in kept), line


def test_time_left_is_that_of_the_whole_run():
    assert report.time_left(0, 0, 10) == ""
    assert report.time_left(120, 2, 62) == ", 1:00:00 left"  # a minute per epoch, 60 epochs are left


def test_colours_are_fixed_for_joint_audio_and_visual_and_differ_for_others():
    found = colours(["joint", *THREE])
    assert all(found[name] == colour for name, colour in COLOURS.items())
    assert len({found[name] for name in ("joint", "audio", "visual", "rgb", "flow")}) == 5
    assert found["rgb"] == colours(THREE)["rgb"], "a modality changes its colour where joint is drawn too"
    assert len(colours(f"modality{i}" for i in range(30))) == 33


@pytest.mark.parametrize("epochs, modalities, measure, loss", [
    (1, TWO, "accuracy", True), (3, THREE, "accuracy", True), (2, ("audio",), "accuracy", True),
    (2, TWO, "eer", False)])
def test_curves_are_drawn_for_any_modalities_and_any_number_of_epochs(tmp_path, epochs, modalities, measure, loss):
    shown = report.metric_names(measure, modalities)
    history = [record(epoch, shown, modalities, loss) for epoch in range(1, epochs + 1)]
    plot_curves(history, "test", shown, modalities, 6, "a $title", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_log_holds_what_is_printed_and_is_continued_by_a_resumed_run(train_argv, tmp_path, capsys):
    main([*train_argv, "--epochs", "1"])
    first = capsys.readouterr().out
    log = tmp_path / "run/train.log"
    assert log.read_text() == first and first.startswith("note: 24 train") and "epoch 1/1" in first
    main(["--resume", str(tmp_path / "run"), "--epochs", "2"])
    assert log.read_text() == first + capsys.readouterr().out


@pytest.mark.parametrize("error, logged", [(InputError("a.wav is damaged"), "error: a.wav is damaged\n"),
                                           (RuntimeError("our own mistake"), "RuntimeError: our own mistake\n")])
def test_the_error_that_ends_a_session_is_in_its_log(tmp_path, error, logged):
    with pytest.raises(type(error)), distributed.session("cpu", []):
        distributed.print_once("before the folder is known")
        distributed.log_to(tmp_path / "train.log")
        distributed.print_once("after")
        logging.getLogger("models.balancing.pmr").info("a method's note")
        raise error
    text = (tmp_path / "train.log").read_text()
    assert text.startswith("before the folder is known\nafter\na method's note\n") and text.endswith(logged)
    distributed.print_once("in no session")
    assert (tmp_path / "train.log").read_text() == text
