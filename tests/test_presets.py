"""--preset: operating points lie below the flags that are given, and every one of them can be run."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import REPO

import main_CD
import main_SSW
import main_UCF
import main_Vox
from dataset.cremad import frames_told
from dataset.errors import InputError
from dataset.whole_files import write_csv
from models.balancing import METHODS
from scripts import reproduce
from utils.experiments import comparison, run_rows
from utils.experiments.paper_results import paper_result, published
from utils.training import report
from utils.training.options import preset_changes
from utils.training.presets import note, presets_of

SCRIPTS = {"main_CD.py": main_CD, "main_SSW.py": main_SSW, "main_UCF.py": main_UCF, "main_Vox.py": main_Vox}
EVERY = [(script, name) for script in SCRIPTS for name in presets_of(script)]
# the paper's Table 1 and its supplement, percent, typed from SPEC's sections 2 to 5
TABLE = {
    "main_CD.py": {"plain-concat": 60.08, "plain-film": 59.68, "plain-gated": 60.48, "mmcosine-concat": 63.44,
                   "mmcosine-film": 61.42, "mmcosine-gated": 66.40, "contrastive-concat": 61.56,
                   "mmcosine-contrastive-concat": 64.02},
    "main_Vox.py": {"plain-concat": 6.81, "plain-film": 11.50, "plain-gated": 10.39, "mmcosine-concat": 4.26,
                    "mmcosine-film": 8.03, "mmcosine-gated": 5.34},
    "main_UCF.py": {"plain-rgb-flow": 81.15, "mmcosine-rgb-flow": 82.02, "plain-rgb-flow-difference": 82.29,
                    "mmcosine-rgb-flow-difference": 83.22}}


@pytest.mark.parametrize("script, name", EVERY)
def test_every_preset_is_accepted_by_its_script_and_sets_its_flags(script, name):
    preset = presets_of(script)[name]
    args = SCRIPTS[script].parse(["--train", "--preset", name, *preset.needs])
    alone = SCRIPTS[script].parse(["--train", *preset.argv, *preset.needs])
    same = {key for key in vars(args) if key not in ("preset", "preset_changes", "command")}
    assert {key: vars(args)[key] for key in same} == {key: vars(alone)[key] for key in same}
    assert args.preset == name and args.preset_changes == {}


def test_every_method_has_a_preset_that_sets_all_its_parameters():
    of_method = {name: main_CD.parse(["--train", "--preset", name, *preset.needs]).modulation
                 for name, preset in presets_of("main_CD.py").items()}
    assert set(of_method.values()) == set(METHODS)
    for name, method in of_method.items():
        if name == method:
            named = {word.removeprefix("--") for word in presets_of("main_CD.py")[name].argv if word[:2] == "--"}
            assert METHODS[method].uses() <= named, name
            assert {"batch_size", "learning_rate", "epochs", "lr_decay_step", "num_frames"} <= named, name


@pytest.mark.parametrize("name", ["umt", "frozen@mcr", "finetuned@mcr", "mcr"])
def test_a_preset_that_starts_from_other_runs_says_what_to_give(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main_CD.parse(["--train", "--preset", name])
    needs = presets_of("main_CD.py")[name].needs
    assert stopped.value.code == 2 and " ".join(needs) in capsys.readouterr().err


@pytest.mark.parametrize("script", TABLE)
def test_a_cell_of_the_paper_is_compared_with_its_number(script):
    for name, number in TABLE[script].items():
        assert published(vars(SCRIPTS[script].parse(["--train", "--preset", name]))) == number, name


def test_table_1_of_ssw60_needs_pretrained_encoders():
    argv = ["--train", "--preset", "mmcosine-concat"]
    assert published(vars(main_SSW.parse(argv))) is None
    started = main_SSW.parse([*argv, "--audio_pretrain", "a.pt", "--visual_pretrain", "v.pt"])
    assert paper_result(vars(started), 1938) == 75.95 and paper_result(vars(started), 60) is None


@pytest.mark.parametrize("argv", [["--scaling", "7", "--preset", "mmcosine-concat"],
                                  ["--preset", "mmcosine-concat", "--scaling", "7"]])
def test_flags_win_wherever_they_stand_and_what_departs_is_recorded(argv):
    args = main_CD.parse(["--train", *argv, "--num_workers", "0"])
    assert (args.scaling, args.mmcosine, args.preset_changes) == (7, True, {"scaling": 7})
    result = report.result({**vars(args), "command": ""}, {}, 1, "test", {})
    assert result["preset"] == "mmcosine-concat" and result["preset_changes"] == {"scaling": 7}
    assert "departs from it: --scaling 7" in note(vars(args))


def test_flags_that_the_preset_does_not_have_depart_from_it_but_not_where_and_on_what_a_run_is():
    argv = ["--train", "--preset", "plain-concat"]
    changed = main_CD.parse([*argv, "--optimizer", "adam", "--weight_decay", "0.1", "--imagenet"]).preset_changes
    assert changed == {"optimizer": "adam", "weight_decay": 0.1, "imagenet": True}
    usual = ["--weight_decay", "1e-4", "--random_seed", "3", "--data_root", "x", "--device", "cpu", "--amp", "off"]
    assert main_CD.parse([*argv, *usual]).preset_changes == {}
    assert main_SSW.parse([*argv, "--audio_pretrain", "a.pt", "--visual_pretrain", "v.pt"]).preset_changes == {}
    decay = ["--train", "--preset", "reconboost", "--modulation", "none", "--weight_decay", "0.0005"]
    assert main_CD.parse(decay).preset_changes == {"modulation": "none"}


def test_what_departs_is_known_where_a_run_is_resumed_too():
    args = main_CD.parse(["--train", "--preset", "plain-concat", "--optimizer", "adam"])
    args.trained = SimpleNamespace(settings={"preset_changes": args.preset_changes})
    args.epochs = 250
    changed = preset_changes(main_CD.get_args_parser(), args, {"epochs": 250})
    assert changed == {"epochs": 250, "optimizer": "adam"}


def test_a_demo_keeps_the_methods_own_parameters():
    args = main_CD.parse(["--train", "--preset", "mmcosine-gated", "--demo"])
    assert (args.fusion_method, args.scaling, args.dataset) == ("gated", 50, "demo")
    assert set(args.preset_changes) <= {"epochs", "learning_rate", "lr_decay_step", "batch_size"}


def test_an_unknown_preset_is_answered_with_a_similar_one(capsys):
    with pytest.raises(SystemExit) as stopped:
        main_CD.parse(["--train", "--preset", "mmcosine_concat"])
    assert stopped.value.code == 2 and "mmcosine-concat" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"main_UCF\.py has no preset mmcosine-concat: choose from plain-rgb-flow"):
        reproduce.chosen_cells("main_UCF.py", ["mmcosine-concat"])


def test_cells_are_those_of_the_papers_table():
    names = [cell.name for cell in reproduce.chosen_cells("main_CD.py", None)]
    assert names == [f"{head}-{fusion}" for head in ("plain", "mmcosine") for fusion in ("concat", "film", "gated")]


def write_run(folder: Path, preset: str, seed: int, accuracy: float, *flags: str, **changed: object) -> None:
    settings = vars(main_CD.parse(["--train", "--preset", preset, "--random_seed", str(seed), *flags]))
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    result = {**report.result({**settings, "command": "python main_CD.py"}, {}, 1, "test", {"accuracy": accuracy}),
              "n_train": 6698, "n_test": 744, **changed, "classes": ["a", "b"], "modalities": ["audio", "visual"],
              "accuracy_audio": 0.5, "accuracy_visual": 0.3, "last_test_accuracy": accuracy}
    folder.mkdir(parents=True)
    for name, content in (("args.json", settings), ("result.json", result)):
        (folder / name).write_text(json.dumps(content))


def test_the_table_puts_ours_beside_the_papers(tmp_path):
    for seed, accuracy in enumerate((0.60, 0.62, 0.64)):
        write_run(tmp_path / f"a{seed}", "mmcosine-concat", seed, accuracy)
    write_run(tmp_path / "b", "mmcosine-concat", 0, 0.59, "--epochs", "2")
    write_run(tmp_path / "c", "mmcosine-concat", 0, 0.58, "--optimizer", "adam")
    write_run(tmp_path / "d", "plain-concat", 0, 0.57, n_train=10)
    text = reproduce.main(["--output", str(tmp_path), "--report_only", "--cells", "plain-concat", "mmcosine-concat",
                           "mmcosine-film"])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[2:] == [["plain-concat", "60.08", "57.00", "1", ""],
                        ["mmcosine-concat", "63.44", "62.00 +- 2.00", "3", "-1.44"],
                        ["mmcosine-concat, --epochs 2", "63.44", "59.00", "1", ""],
                        ["mmcosine-concat, --optimizer adam", "63.44", "58.00", "1", ""],
                        ["mmcosine-film", "", "", "0", ""]]
    assert "plain-concat: not comparable with the paper's: 10 training clips, the paper has 6698" in text
    assert "mmcosine-concat, --epochs 2: not comparable with the paper's: --epochs 2" in text
    assert (tmp_path / "reproduction.md").read_text() == text


def test_tables_pair_presets_with_the_plain_one_and_say_what_departs_from_them_also_from_a_csv(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", "mmcosine-concat", seed, 0.6 + 0.01 * seed)
        write_run(tmp_path / f"b{seed}", "plain-concat", seed, 0.5 + 0.012 * seed)
    write_run(tmp_path / "c", "mmcosine-concat", 0, 0.4, "--epochs", "2", "--optimizer", "adam")
    runs = comparison.read_runs(tmp_path)
    write_csv(tmp_path / "runs.csv", [run_rows.csv_row(run) for run in runs])
    for read in (runs, run_rows.read_csv(tmp_path / "runs.csv")[0]):
        text = " ".join(comparison.report(read).split())
        assert re.search(r"\| concat, MMCosine s=2, [^|]*preset mmcosine-concat[^|]*epochs 200[^|]*\| \+9\.80 \[", text)
        assert ("Presets: plain-concat (3 runs); mmcosine-concat (3 runs); mmcosine-concat but for --epochs 2, "
                "--optimizer adam (1 run).") in text
        assert "preset_changes" not in text


def test_the_presets_are_listed_without_the_packages_of_the_environment():
    argv = [sys.executable, "-S", "-E", "scripts/reproduce.py", "--list"]  # -S: without them; PyTorch takes seconds
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "python main_CD.py --train --preset mmcosine-concat" in done.stdout, done.stderr


def test_the_kind_of_the_frames_is_told(tmp_path):
    assert "has no Image-01-FPS: it is not known which frames its single images are" in frames_told(tmp_path)
    (tmp_path / "Image-01-FPS").mkdir()
    assert "holds frames without a note (scripts/prepare_cremad.py" in frames_told(tmp_path)
    for rule, told in (("middle", "holds those of --frames middle. They may not be the paper's"),
                       ("ogm_ge", "holds those of --frames ogm_ge, to which the paper's release refers")):
        (tmp_path / "Image-01-FPS.txt").write_text(f"{rule}\n")
        assert told in frames_told(tmp_path)


def test_the_cost_of_runs_is_that_of_the_epochs_of_earlier_ones_without_measuring_again(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "measured_speed", None)
    for seed, epochs in enumerate((2, 2, 200)):
        write_run(tmp_path / str(seed), "plain-concat", seed, 0.5, "--epochs", str(epochs), wall_seconds=36.0 * epochs)
        (tmp_path / str(seed) / "last.pt").write_bytes(bytes(2000))
    hours, gigabytes, source = reproduce.cost(main_CD, Path("main_CD.py"), [], 6698, 200, 18, tmp_path)
    assert (hours, gigabytes, source) == (pytest.approx(36), pytest.approx(36e-6), "the median of earlier runs")
