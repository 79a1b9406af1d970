"""Nothing is ignored in silence: flags that contradict a checkpoint, other scripts' runs, demo data that is missing."""

import json
import subprocess
import sys
from argparse import SUPPRESS
from pathlib import Path

import pytest
from conftest import REPO, SMALL

import main_CD
import main_SSW
import main_UCF
import main_Vox
from dataset.errors import InputError
from main_CD import main
from scripts.analyse import main as analyse
from utils.experiments import entry_script
from utils.training import checkpoint

HERE = ["--device", "cpu", "--num_workers", "0"]
SCRIPTS = sorted(path.relative_to(REPO).as_posix() for path in (*REPO.glob("main_*.py"), *REPO.glob("scripts/**/*.py")))
pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")


# ---- output and help

TALKS = """
from pathlib import Path
from tqdm import tqdm
from utils import cli

def main(argv):
    for i in tqdm(range(3000), mininterval=0):
        print(f"line {i}")
    Path(argv[0]).touch()

cli.run(main)
"""


def test_output_that_nobody_reads_any_more_stops_nothing(tmp_path):
    every = "".join(f"line {i}\n" for i in range(3000))
    for where, shown in (("| head -1", "line 0\n"), ("2>&1 | head -c 1", "\n"), ("2>&-", every),
                         ("2>/dev/full", every), (">&-", ""), (">&- 2>&-", "")):
        done = subprocess.run(["bash", "-o", "pipefail", "-c", f"{sys.executable} -c \"$0\" {tmp_path / 'end'} {where}",
                               TALKS], cwd=REPO, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, shown), (where, done.stderr[-500:])
        (tmp_path / "end").unlink()


def test_output_to_a_full_disk_is_an_error():
    done = subprocess.run(["bash", "-c", f"{sys.executable} -c \"$0\" x >/dev/full", TALKS], cwd=REPO,
                          capture_output=True, text=True)
    assert done.returncode and "No space left" in done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_help_of_every_script_gives_every_default(name):
    parser = entry_script.load(Path(name), ["get_args_parser"]).get_args_parser()
    shown = {action.dest: parser._get_formatter()._expand_help(action) for action in parser._actions}
    without = [action.dest for action in parser._actions if action.default not in (None, [], SUPPRESS)
               and f"default: {action.default}" not in shown[action.dest]]
    assert not without


# ---- checkpoints of other scripts, and flags that contradict them


@pytest.mark.parametrize("other", [main_SSW, main_UCF, main_Vox], ids=lambda module: module.__name__)
def test_a_run_of_another_entry_script_is_refused_with_the_right_one(finished_runs, other):
    folder = finished_runs["plain"]
    for argv, name in ((["--resume", str(folder)], "last.pt"), (["--ckpt_path", str(folder / "best.pt")], "best.pt")):
        with pytest.raises(InputError, match=f"^{folder / name} was made by main_CD.py: use that script instead of "):
            other.main([*argv, *HERE])


@pytest.mark.parametrize("flags", [["--run_name", "other"], ["--ckpt_path", "elsewhere"]])
def test_resume_refuses_a_folder_beside_the_one_it_continues(finished_runs, flags):
    with pytest.raises(InputError, match="names the folder of the run: leave out --ckpt_path and --run_name"):
        main(["--resume", str(finished_runs["plain"]), *flags, *HERE])


def test_resume_takes_the_names_of_its_own_folder(copied_runs):
    folder = copied_runs["plain"]  # a sweep gives them, also when its folder was moved
    main(["--resume", str(folder), "--ckpt_path", str(folder.parent), "--run_name", folder.name, *HERE])
    assert json.loads((folder / "args.json").read_text())["ckpt_path"] == str(folder.parent)


@pytest.mark.parametrize("flags", [["--learning_rate", "0.5"], ["--epochs", "9"], ["--optimizer", "adam"],
                                   ["--val_fraction", "0.5"], ["--lam", "1"], ["--audio_pretrain", "x.pt"]])
def test_evaluation_refuses_flags_of_training_that_contradict_the_checkpoint(finished_runs, flags):
    path = finished_runs["plain"] / "best.pt"
    with pytest.raises(InputError, match=f"^{path} was trained with another {flags[0]}, which has no effect"):
        main(["--ckpt_path", str(path), *flags, *HERE])


def test_evaluation_on_other_inputs_than_in_training_is_noted(finished_runs, capsys):
    path = finished_runs["plain"] / "best.pt"
    main(["--ckpt_path", str(path), "--image_size", "72", "--num_frames", "2", *HERE])
    assert f"note: {path} was trained with --num_frames 1, --image_size 64: the command" in capsys.readouterr().out
    main(["--ckpt_path", str(path), "--image_size", "64", "--batch_size", "5", "--data_root",
          str(checkpoint.load(path)["args"]["data_root"]), *HERE])
    assert "was trained with" not in capsys.readouterr().out


# ---- demo data


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory, tiny_encoders) -> Path:
    """The folder of a run with --demo; its data is beside it in `demo`."""
    root = tmp_path_factory.mktemp("demo_run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_CD, "make_demo", lambda folder, make=main_CD.make_demo: make(folder, train_per_class=2,
                                                                                        test_per_class=1))
        main(["--train", "--demo", "--data_root", str(root / "demo"), "--ckpt_path", str(root), "--run_name", "run",
              "--epochs", "1", *SMALL])
    return root / "run"


def test_demo_data_is_not_made_for_an_evaluation_or_a_picture(demo_run, tmp_path):
    nowhere = tmp_path / "nowhere"
    for look in (lambda: main(["--ckpt_path", str(demo_run / "best.pt"), "--data_root", str(nowhere), *HERE]),
                 lambda: analyse([str(demo_run), "--only", "confusion", "--data_root", str(nowhere), *HERE])):
        with pytest.raises(InputError, match=f"no stat.csv in the data folder {nowhere}"):
            look()
        assert not nowhere.exists()


def test_demo_data_that_is_there_is_evaluated_as_it_is(demo_run, capsys):
    marker = demo_run.with_name("demo") / "demo.json"
    before = marker.stat().st_mtime_ns
    assert main(["--ckpt_path", str(demo_run / "best.pt"), *HERE])["n_test"] == 6
    assert "DEMO DATA" in capsys.readouterr().out and marker.stat().st_mtime_ns == before


def test_demo_data_is_announced_only_once_it_is_there(tmp_path, capsys):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="already exists and holds no demo data"):
        main(["--train", "--demo", "--data_root", str(tmp_path), "--ckpt_path", str(tmp_path / "runs"), *HERE])
    assert "DEMO DATA" not in capsys.readouterr().out
