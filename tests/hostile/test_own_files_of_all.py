"""Every command that opens checkpoints, runs, lists of scores or settings of its own, on files that are something else."""

import importlib
import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from answers import DATA, check_refused, make_all

pytestmark = pytest.mark.hostile


class Harm:
    """Unpickled, it would run code."""

    def __reduce__(self):
        return os.mkdir, ("it_ran",)


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


FILES = {"empty": b"", "text": b"weights\n" * 99, "JSON": b'{"model": {}}', "a pickle that runs code": pickle.dumps(Harm()),
         "a checkpoint that runs code": saved({"model": Harm()}), "half a zip": saved({"a": torch.zeros(999)})[:900],
         "a list": saved([1, 2]), "no weights": saved({"epoch": 3}), "weights of another network": saved(
             {"model": {"conv.weight": torch.zeros(3)}}), "text for weights": saved({"model": {"conv.weight": "x"}}),
         "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "zeros": bytes(5000)}


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("it_ran").exists(), "code of a file was run"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    return make_all(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("script, what", [
    pytest.param(script, what, marks=[] if script == "main_CD" and what in ("empty", "text", "a pickle that runs code")
                 else pytest.mark.slow) for script in DATA for what in FILES
    if script == "main_CD" or what in ("text", "weights of another network")])  # all have one reader
def test_a_checkpoint_that_is_none_is_refused_by_name_and_no_code_in_it_runs(script, what, data, tmp_path):
    path = tmp_path / "best.pt"
    path.write_bytes(FILES[what])
    size = ["--image_size", "64", "--flow_frames", "4"][:4 if script == "main_UCF" else 2]
    check_refused(importlib.import_module(script).main, ["--ckpt_path", path, "--data_root", data[script], *size],
                  re.escape(str(path)), tmp_path)


@pytest.mark.parametrize("script, harm", [
    *(("main_CD", harm) for harm in ("no folder", "empty folder", "a file", "args.json alone", "junk args.json",
                                     "args.json of a list", "args.json of another script")),
    *((script, "args.json of another script") for script in DATA if script != "main_CD")])
def test_a_run_that_cannot_be_resumed_is_refused_by_name(script, harm, tmp_path):
    run = tmp_path / "run"
    if harm == "a file":
        run.write_text("x")
    elif harm != "no folder":
        run.mkdir()
    content = {"args.json alone": "{}", "junk args.json": "{", "args.json of a list": "[1]",
               "args.json of another script": json.dumps({"script": "main_XY.py", "dataset": "x"})}.get(harm)
    if content:
        (run / "args.json").write_text(content)
    check_refused(importlib.import_module(script).main, ["--resume", run], re.escape(str(run)), tmp_path)


@pytest.mark.parametrize("script, harm", [
    *(("probe", harm) for harm in ("empty folder", "a file", "junk result.json", "result.json of a list",
                                   "result alone")),
    *((script, harm) for script in ("analyse", "ensemble", "export") for harm in ("a file", "junk result.json"))])
def test_a_finished_run_that_is_none_is_refused_by_name(script, harm, tmp_path):
    run = tmp_path / "run"
    if harm == "a file":
        run.write_text("x")
    else:
        run.mkdir()
    content = {"junk result.json": "{", "result.json of a list": "[]", "result alone": '{"epochs": 3}'}.get(harm)
    if content:
        (run / "result.json").write_text(content)
        (run / "args.json").write_text('{"epochs": 3}')
    check_refused(importlib.import_module(f"scripts.{script}").main, [run], re.escape(str(run)), tmp_path)


@pytest.mark.parametrize("what", [
    pytest.param(what, marks=[] if what in ("empty", "no weights") else pytest.mark.slow) for what in FILES])
def test_a_question_to_a_run_whose_weights_are_none_is_refused_by_name(what, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.pt").write_bytes(FILES[what])
    check_refused(importlib.import_module("scripts.predict").main, [run, tmp_path / "a.mp4"],
                  re.escape(str(run / "best.pt")), tmp_path)


TRIALS = "1 a/x.wav a/y.wav\n0 a/x.wav b/z.wav\n"
SCORES = "0.5 a/x.wav a/y.wav\n0.1 a/x.wav b/z.wav\n"
OF_SCORES = {
    "a trial without a score": (TRIALS, SCORES.splitlines()[0], "lacks 1 of 2"), "no scores": (TRIALS, "", "lacks 2 of 2"),
    "a score that is no number": (TRIALS, SCORES.replace("0.5", "high"), "scores.txt, line 1"),
    "nan": (TRIALS, SCORES.replace("0.5", "nan"), "line 1.*nan"), "inf": (TRIALS, SCORES.replace("0.1", "-inf"), "line 2"),
    "two cells": (TRIALS, SCORES + "0.3 a/x.wav\n", "line 3"), "four cells": (TRIALS, SCORES + "1 2 3 4\n", "line 3"),
    "two scores of a pair": (TRIALS, SCORES + "0.7 a/x.wav a/y.wav\n", "line 3"), "not UTF-8": (TRIALS, "0.5 \udce9 b", "scores"),
    "targets alone": (TRIALS.splitlines()[0], SCORES, "non-targets"), "no trials": ("", SCORES, "trials.txt"),
    "a third label": (TRIALS + "2 a/x.wav c/w.wav", SCORES, "line 3"), "with itself": ("1 a/x.wav a/x.wav", SCORES, "itself"),
    "two labels of a pair": (TRIALS + "0 a/y.wav a/x.wav", SCORES, "line 3"), "binary trials": ("\0\1\2", SCORES, "trials")}


@pytest.mark.parametrize("what", OF_SCORES)
def test_scores_and_trials_that_do_not_fit_are_refused_with_the_line(what, tmp_path):
    trials, scores, names = OF_SCORES[what]
    (tmp_path / "trials.txt").write_text(trials)
    (tmp_path / "scores.txt").write_text(scores, errors="surrogateescape")
    check_refused(importlib.import_module("scripts.score").main,
                  ["--trials", tmp_path / "trials.txt", "--scores", tmp_path / "scores.txt"], names, tmp_path)


def empty(root: Path) -> None:
    root.mkdir()


def a_file(root: Path) -> None:
    root.write_text("x")


def broken_media(root: Path) -> None:
    for name in ("AudioWAV/1001_DFA_ANG_XX.wav", "VideoFlash/1001_DFA_ANG_XX.flv", "id1/v/u.mp4", "s1/a.mpg", "s1/a.align",
                 "UCF-101/A/v_A_g01_c01.avi"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("no media")


PREPARATIONS: dict[str, Callable[[Path], list[object]]] = {
    "cremad": lambda root: ["--data_root", root], "ssw60": lambda root: ["--data_root", root],
    "ucf101": lambda root: ["--data_root", root],
    "grid": lambda root: ["--grid_root", root, "--data_root", root.parent / "out"],
    "videos": lambda root: ["--videos", root, "--data_root", root.parent / "out"],
    "voxceleb": lambda root: ["--video", root, "--split", "train", "--data_root", root.parent / "out"]}


@pytest.mark.parametrize("harm", [empty, a_file, broken_media], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("name", PREPARATIONS)
def test_a_preparation_of_nothing_usable_is_one_message(name, harm, tmp_path):
    harm(tmp_path / "download")
    check_refused(importlib.import_module(f"scripts.prepare_{name}").main, PREPARATIONS[name](tmp_path / "download"),
                  re.escape(str(tmp_path / "download")), tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "\0"], ids=repr)
@pytest.mark.parametrize("name, path", [("grid", "out/prepare_grid.json"), ("voxceleb", "out/train/prepare.json")])
def test_settings_of_a_preparation_that_are_damaged_are_refused_by_name(name, path, content, tmp_path):
    broken_media(tmp_path / "download")
    (tmp_path / "download/s1/a.align").write_text(
        "0 1 sil\n1 2 bin\n2 3 blue\n3 4 at\n4 5 f\n5 6 two\n6 7 now\n")
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(content)
    (tmp_path / "out/train/faces").mkdir(parents=True, exist_ok=True)
    check_refused(importlib.import_module(f"scripts.prepare_{name}").main, PREPARATIONS[name](tmp_path / "download"),
                  re.escape(str(tmp_path / path)), tmp_path)


@pytest.mark.parametrize("what", ["a file", "another folder"])
def test_a_sweep_into_something_else_is_refused(what, tmp_path):
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("x")
    else:
        shutil.copytree(Path(__file__).parent, out)
    argv = ["--report_only", "--output", out]
    main = importlib.import_module("scripts.sweep").main
    try:
        check_refused(main, argv, re.escape(str(out)), tmp_path)
    except OSError as error:  # answered by utils/cli.py
        assert str(out) in str(error.filename)
