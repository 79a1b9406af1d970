"""A flag is described where it is declared: what resuming, evaluation, sweeps and tables make of each role."""

import argparse
from pathlib import Path

import pytest

import main_CD
import main_SSW
import main_UCF
import main_Vox
from dataset.errors import InputError
from utils.experiments import comparison, entry_script
from utils.experiments.run_rows import RunRow
from utils.training import experiment, options
from utils.training.roles import MACHINE, ROLES, TRAINING, RoleParser

SCRIPTS = {"CD": main_CD, "SSW": main_SSW, "UCF": main_UCF, "Vox": main_Vox}


@pytest.mark.parametrize("role", [{}, {"role": "colour"}])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_flag_without_a_role_cannot_be_declared(role, grouped):
    parser = RoleParser()
    place = parser.add_argument_group("some") if grouped else parser
    with pytest.raises(ValueError, match="--speed is declared without a role: add role=, one of network, input"):
        place.add_argument("--speed", type=int, default=1, **role)


def test_a_meaning_changes_nothing_in_what_argparse_does():
    parser, plain = RoleParser(), argparse.ArgumentParser()
    parser.add_argument("--speed", type=int, default=1, role=MACHINE, compared=True)
    plain.add_argument("--speed", type=int, default=1)
    for argv in ([], ["--speed", "3"]):
        assert vars(parser.parse_args(argv)) == vars(plain.parse_args(argv))


@pytest.mark.parametrize("script", SCRIPTS)
def test_argv_is_parsed_once_whether_a_run_is_trained_resumed_or_evaluated(script, monkeypatch, tmp_path):
    count, parse = [], argparse.ArgumentParser.parse_known_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args",
                        lambda *given: count.append(1) or parse(*given))
    saved = {"args": options.settings(SCRIPTS[script].parse(["--train", "--demo"])), "epoch": 0}
    assert len(count) == 1
    monkeypatch.setattr("utils.training.checkpoint.load_own", lambda *_: {**saved})
    (tmp_path / "last.pt").touch()
    for argv in (["--resume", str(tmp_path)], ["--ckpt_path", str(tmp_path / "last.pt")]):
        count.clear()
        args = SCRIPTS[script].parse(argv)
        assert len(count) == 1
        assert args.dataset == saved["args"]["dataset"] and args.epochs == saved["args"]["epochs"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_flag_of_the_command_line_goes_before_the_demos_and_those_before_the_scripts(script):
    defaults = vars(SCRIPTS[script].parse(["--train"]))
    demo = vars(SCRIPTS[script].parse(["--train", "--demo"]))
    changed = {name for name in demo if demo[name] != defaults[name]}
    assert changed - {"demo", "command"} <= SCRIPTS[script].DEMO.keys()
    assert all(demo[name] == value for name, value in SCRIPTS[script].DEMO.items())
    assert SCRIPTS[script].parse(["--train", "--demo", "--epochs", "3"]).epochs == 3


def test_what_names_and_tables_tell_apart_is_in_the_order_of_declaration():
    assert experiment.CORE[:4] == ("fusion_method", "mmcosine", "scaling", "modulation")
    assert experiment.CORE[-2:] == ("modality", "lam")
    assert set(experiment.CORE) < set(experiment.RECORDED)


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_says_where_a_run_ran_is_not_compared_and_may_change_when_it_goes_on(script):
    meanings = SCRIPTS[script].get_args_parser().meanings()
    settings = options.settings(SCRIPTS[script].parse(["--train"]))
    assert {meaning.role for meaning in meanings.values()} == set(ROLES)
    changeable = {name for name, meaning in meanings.items() if meaning.can_change(settings, settings, 1)}
    compared = {name for name, meaning in meanings.items() if meaning.is_compared()}
    assert {"data_root", "device", "num_workers", "run_name", "tensorboard_path"} <= changeable - compared
    assert changeable & compared == {"epochs"}
    assert {"random_seed", "scaling", "image_size", "compile", "cache_size"} <= compared - changeable
    assert all(name in compared for name, meaning in meanings.items() if meaning.role == TRAINING)


def test_tables_leave_out_what_says_where_a_run_ran_of_the_entry_scripts_own_flags_too():
    """--scores_path is a flag of main_Vox.py alone."""
    runs = []
    for path, frames in (("a", 400), ("b", 300)):
        places = {"scores_path": path, "tensorboard_path": path}
        settings = {"script": "main_Vox.py", "random_seed": 0, "test_frames": frames, **places}
        runs.append(RunRow(path, settings, {}, []))
    assert comparison.varying(runs) == ["test_frames"]


def test_a_file_outside_the_repository_is_not_run_because_a_run_names_it(tmp_path):
    script = tmp_path / "main_XY.py"
    script.write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')")
    assert entry_script.not_compared(str(script)) == experiment.NOT_COMPARED
    with pytest.raises(InputError, match=f"^a was made by {script}, which is not in "):
        entry_script.of_run(Path("a"), str(script), [])
    assert not (tmp_path / "it_ran").exists()
