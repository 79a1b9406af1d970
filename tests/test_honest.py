"""The honest comparison: what is searched, what chooses, what is refused (honest.sh, studies/best_settings.py)."""

import csv
import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import REPO

from dataset.errors import InputError
from scripts.studies import best_settings
from scripts.sweep import main
from utils.experiments import entry_script, grid

FAKE = str(REPO / "tests" / "fake_entry.py")
RATES = ("0.003", "0.01", "0.03")
NAMES = ["fake-concat-plain-learning_rate0.003-seed0", "fake-concat-plain-learning_rate0.01-seed0",
         "fake-concat-plain-learning_rate0.03-seed0"]


# ---- what the validation clips choose


@pytest.fixture
def search(tmp_path) -> Callable:
    """search(metrics): in tmp_path, runs of RATES that end with these (validation, test) accuracies; None: diverged, an
    empty tuple: killed."""
    def make(metrics: Sequence[tuple[float, ...] | None], **changes: object) -> None:
        runs = grid.plan(entry_script.load(Path(FAKE)), {"learning_rate": RATES}, [], tmp_path)
        for run, found in zip(runs, metrics, strict=True):
            run.folder.mkdir(exist_ok=True)
            (run.folder / "args.json").write_text(json.dumps(dict(run.settings)))
            (run.folder / "last.pt").touch()
            if found is None:
                (run.folder / "diverged.json").touch()
            if found:
                val, test = found
                result = {"modalities": ["audio", "visual"], "epochs": 3, "best_epoch": 2, "accuracy": test,
                          "best_val_accuracy": val, "last_val_accuracy": 0.99 - val, "dataset": "fake",
                          "mmcosine": False}
                (run.folder / "result.json").write_text(json.dumps(result | (changes if run is runs[-1] else {})))
    return make


@pytest.fixture
def choose(tmp_path) -> Callable:
    return lambda *rates: best_settings.main(["--script", FAKE, "--output", str(tmp_path), "--learning_rate",
                                              *(rates or RATES)])


def test_the_validation_clips_choose_the_settings_and_the_choice_is_kept(search, choose, tmp_path, capsys):
    search([(0.5, 0.9), (0.7, 0.1), (0.7, 0.2)])
    for _ in range(2):
        assert choose() == ["--learning_rate", "0.01"]
        printed = capsys.readouterr()
        assert printed.out == f"--learning_rate 0.01\n{NAMES[1]}\n"
        assert f"{NAMES[1]}: 70.00 % on validation clips (chosen)" in printed.err
    assert json.loads((tmp_path / "chosen.json").read_text()) == {
        "searched": dict(zip(NAMES, (0.5, 0.7, 0.7), strict=True)), "chosen": NAMES[1],
        "flags": ["--learning_rate", "0.01"]}
    search([(0.5, 0.9), (0.7, 0.1), (0.8, 0.2)])
    with pytest.raises(InputError, match=r"chosen\.json says that .*0\.01-seed0 was chosen .* now it is .*rate0\.03"):
        choose()


def test_a_run_that_diverged_is_not_chosen_and_one_that_was_killed_ends_the_choice(search, choose, tmp_path, capsys):
    search([(0.5, 0.9), (), None])
    with pytest.raises(InputError, match=rf"not over: 1 of 3 runs .*\({NAMES[1]}\)\. Start its sweep again"):
        choose()
    assert not (tmp_path / "chosen.json").exists()
    search([(0.5, 0.9), (0.4, 0.1), None])
    assert choose() == ["--learning_rate", "0.003"]
    assert f"{NAMES[2]}: diverged" in capsys.readouterr().err


def test_a_search_of_other_settings_or_flags_does_not_choose(search, choose, tmp_path):
    search([(0.5, 0.9), (0.7, 0.1), (0.6, 0.2)])
    with pytest.raises(InputError, match=rf"holds 2 runs of another search: {NAMES[0]}, {NAMES[2]}\. Choose"):
        choose("0.02", "0.01")
    with pytest.raises(InputError, match=r"other settings \(epochs 3, now 1\)"):
        choose(*RATES, "--", "--epochs", "1")


@pytest.mark.parametrize(("changes", "message"), [
    ({"lists": "1a"}, "differ in lists .*one seed"), ({"variant": "-5 dB"}, r"differ in variant \(-5 dB, None\)"),
    ({"epochs": 77}, rf"have not diverged \({NAMES[2]}\)"), ({"best_val_accuracy": None}, "is damaged")])
def test_a_search_that_cannot_be_judged_is_refused(search, choose, changes, message):
    search([(0.5, 0.9), (0.7, 0.1), (0.7, 0.1)], **changes)
    with pytest.raises(InputError, match=message):
        choose()


def test_a_search_over_seeds_or_on_test_clips_is_refused(search, choose, tmp_path):
    search([(0.5, 0.9), (0.7, 0.1), (0.6, 0.2)])
    path = tmp_path / NAMES[1] / "result.json"
    result = json.loads(path.read_text())
    del result["best_val_accuracy"]
    path.write_text(json.dumps(result))
    with pytest.raises(InputError, match="has no best_val_accuracy: give the sweep --val_fraction"):
        choose()
    for name in NAMES:
        for file in (tmp_path / name).iterdir():
            file.unlink()
        (tmp_path / name).rmdir()
    with pytest.raises(InputError, match="differ in random_seed"):
        main(["--script", FAKE, "--output", str(tmp_path), "--random_seed", "0", "1"])
        best_settings.main(["--script", FAKE, "--output", str(tmp_path), "--random_seed", "0", "1"])


# ---- the recipe


@pytest.fixture
def honest(tmp_path, monkeypatch) -> Callable:
    """honest(*flags, **variables): the recipe with programs that do nothing, but that best_settings.py chooses ->
    (how it ended, the command lines of the programs). exits: {what a command line holds: its exit status}."""
    told, python = tmp_path / "argv", tmp_path / "python"
    choices = {"mmcosine": "--scaling 5", "ogm_ge": "--alpha 0.1", "agm": "--agm_alpha 2",
               "mmpareto": "--pareto_gamma 2"}

    def run(*flags: str, exits: dict[str, int] | None = None, **variables: str) -> tuple:
        told.write_text("")
        ends = "".join(f"*{part}*) exit {status} ;; " for part, status in (exits or {}).items())
        chosen = "".join(f"*search/*{row}\\ *) echo {flag}; echo run ;; " for row, flag in choices.items())
        alone = "".join(f"*search/*{name}\\ *) echo --learning_rate 0.03; "
                        f"echo digits-{name}-plain-learning_rate0.03-seed100 ;; " for name in ("audio", "visual"))
        python.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$*\" >> {told}\ncase \"$*\" in {ends} esac\n"
                          f"case \"$1\" in *best_settings.py) case \"$*\" in {chosen} {alone} "
                          "*) echo --learning_rate 0.03; echo run ;; esac ;; esac\n")
        python.chmod(0o755)
        env = {**os.environ, "PYTHON": str(python), "SEEDS": "3 4", "OUTPUT": str(tmp_path / "out"), **variables}
        ended = subprocess.run(["scripts/honest.sh", *flags], cwd=REPO, env=env, capture_output=True, text=True)
        return ended, [line for line in told.read_text().splitlines() if "/out/none" not in line]

    return run


FOLDS = {"DATASET": "digits", "DATA": "data/digits-fold{random_seed}"}


def planned(lines: Sequence[str], capsys) -> list[str]:
    """The commands of the sweeps among these command lines."""
    found = []
    for line in lines:
        if "sweep.py" in line and "--report_only" not in line:
            main([*line.split()[1:line.split().index("--")], "--dry_run", *line.split()[line.split().index("--"):]])
            found += capsys.readouterr().out.splitlines()
    return found


def test_every_row_searches_three_settings_and_goes_on_with_the_chosen_one(honest, tmp_path, capsys):
    ended, lines = honest("--epochs", "20", **FOLDS)
    assert ended.returncode == 0, ended.stderr
    searches = [line for line in lines if "sweep.py" in line and "/out/search/" in line]
    assert [re.search("/search/digits-([^ ]+)", line)[1] for line in searches] == [
        "audio", "visual", "joint", "multiloss", "finetuned", "mmcosine", "ogm_ge", "mmcosine_ogm_ge", "mmpareto",
        "agm", "joint_sum", "mla"]
    for line in searches:
        found = planned([line], capsys)
        assert len(found) == 3 and all("--random_seed 100 " in one and "data/digits-fold3 " in one for one in found)
        assert all("--val_fraction 0.2 --test_every_epoch False --epochs 20 " in one for one in found)
    finals = planned([line for line in lines if line not in searches], capsys)
    assert len(finals) == 2 * len(searches)
    for one in finals:
        seed = re.search("--random_seed (.)", one)[1]
        assert f"--data_root data/digits-fold{seed} --dataset digits" in one
        own = [flag for flag in ("--scaling 5 ", "--alpha 0.1 ", "--agm_alpha 2 ", "--pareto_gamma 2 ") if flag in one]
        assert f"--learning_rate {0.01 if own else 0.03} " in one and len(own) <= 1
        assert "--val_fraction 0.2 --test_every_epoch True --epochs 20 " in one
    assert "--report_only" in lines[-1] and "joint: --learning_rate 0.03" in ended.stdout


def test_encoders_that_start_a_row_never_saw_its_validation_or_test_clips(honest, tmp_path, capsys):
    """They are of the same seed and data: in the search, of the search."""
    _, lines = honest(ROWS="audio visual finetuned ensemble", **FOLDS)
    runs = {(re.search("--ckpt_path ([^ ]+)", one)[1] + "/" + re.search("--run_name ([^ ]+)", one)[1]): one
            for one in planned(lines, capsys)}
    started = [one for one in runs.values() if "_pretrain" in one]
    assert len(started) == 3 + 2
    for one in started:
        for name in ("audio", "visual"):
            encoder = runs[re.search(f"--{name}_pretrain ([^ ]+)/best.pt", one)[1]]
            assert f"--modality {name} --learning_rate 0.03" in encoder
            for flag in ("--random_seed", "--data_root", "--val_fraction"):
                assert re.search(f"{flag} [^ ]+", encoder)[0] in one, flag
    for seed in "34":
        members = [f"{tmp_path}/out/digits-{name}-plain-learning_rate0.03-seed{seed}" for name in ("audio", "visual")]
        assert runs.keys() >= set(members)
        assert f"scripts/ensemble.py {' '.join(members)} --output {tmp_path}/out/digits-ensemble-seed{seed}" in lines
    ended, lines = honest(ROWS="finetuned joint", exits={"best_settings.py*search/digits-audio": 2}, **FOLDS)
    assert ended.returncode == 2 and "finetuned needs the encoders alone: put audio visual before it" in ended.stderr
    assert not any("_pretrain" in line for line in lines) and any("search/digits-joint" in line for line in lines)


@pytest.mark.parametrize(("exits", "status", "seeds", "goes_on"), [
    ({"sweep.py*search/joint": 2}, 0, True, True),  # a setting diverged, say: the others choose
    ({"sweep.py*search/joint": 130}, 130, False, False), ({"best_settings.py*search/joint": 2}, 2, False, True)])
def test_a_search_that_chooses_nothing_has_no_seeds_and_ctrl_c_ends_all(honest, exits, status, seeds, goes_on):
    ended, lines = honest(ROWS="joint mmcosine", exits=exits)
    assert ended.returncode == status and any("search/mmcosine" in line for line in lines) == goes_on
    assert ("not everything could be run: see the messages above" in ended.stderr) == (status == 2)
    assert any("--random_seed 3 4" in line and "--mmcosine" not in line and "report" not in line
               for line in lines) == seeds


def test_a_search_that_is_over_is_not_swept_again(honest, tmp_path):
    (tmp_path / "out" / "search" / "joint").mkdir(parents=True)
    (tmp_path / "out" / "search" / "joint" / "chosen.json").touch()
    ended, lines = honest(ROWS="joint mmcosine")
    assert ended.returncode == 0
    assert [re.search("/search/(.*?) ", line)[1] for line in lines if "sweep.py" in line and "/search/" in line] == [
        "mmcosine"]


def test_the_fusion_is_that_of_all_rows_that_may_have_it(honest, capsys):
    _, lines = honest(FUSION="gated", ROWS="audio joint mmcosine mla", SEEDS=" 3 4 ")
    every = planned(lines, capsys)
    assert len(every) == 4 * (3 + 2)
    for one in every:
        expected = [] if "--modality audio" in one else ["sum"] if "--modulation mla" in one else ["gated"]
        assert re.findall("--fusion_method ([^ ]+)", one) == expected


@pytest.mark.parametrize(("flags", "variables", "message"), [
    (["--random_seed", "1"], {}, 'SEEDS="0 1 2"'), (["--data_root", "x"], {}, "DATA=FOLDER"),
    (["--fusion_method", "film"], {}, "FUSION=NAME"), ([], {"SEEDS": "100 1"}, "leave it out of SEEDS"),
    ([], {"ROWS": "joint unheard"}, "there is no row unheard"), ([], {"RATES": "0.1 0.2"}, "three learning rates"),
    ([], {"DRY_RUN": "maybe"}, "True or False, not maybe"), ([], {"SEEDS": " "}, "SEEDS names no seed"),
    ([], {"VAL_FRACTION": "0.0"}, "VAL_FRACTION=0.0: the validation clips choose")])
def test_what_the_recipe_cannot_do_is_told_before_anything_runs(honest, flags, variables, message):
    ended, lines = honest(*flags, **variables)
    assert ended.returncode == 2 and not lines
    assert ended.stderr.startswith("honest.sh: error: ") and message in ended.stderr


def test_flags_that_no_run_takes_are_told_once(honest):
    ended, lines = honest("--scalng", "3", exits={"/out/none": 2})
    assert ended.returncode == 2 and not lines and "leave out what the rows differ in" in ended.stderr


@pytest.mark.parametrize("true", ["True", "1"])
def test_a_dry_run_starts_nothing(honest, true, capsys):
    ended, lines = honest(DRY_RUN=true, **FOLDS)
    assert ended.returncode == 0 and all("sweep.py" in line and "--dry_run True" in line for line in lines)
    assert len(lines) == 12 and ended.stdout.count("# then") == 12 + 2


# ---- the committed search


def row_name(run: dict[str, str]) -> str:
    """The name in ROWS of a run of docs/results/grid_babble_search.csv."""
    if run["modality"] != "both" or run["--audio_pretrain"] != "None":
        return "finetuned" if run["--audio_pretrain"] != "None" else run["modality"]
    methods = ["mmcosine"] * (run["mmcosine"] == "True") + [run["modulation"]] * (run["modulation"] != "none")
    return "_".join(methods) or {"concat": "joint", "sum": "joint_sum"}[run["fusion"]]


def test_what_the_searches_chose_comes_out_of_the_committed_csv():
    levels = {"digits-snr-5": "-5 dB", "digits-snr5": "+5 dB", "digits": "no babble"}
    flags = {"ogm_ge": ("alpha", "alpha"), "mmpareto": ("gamma", "pareto_gamma"), "agm": ("alpha", "agm_alpha"),
             "mmcosine": ("s", "scaling"), "mmcosine_ogm_ge": ("s", "scaling")}
    found = {}
    with (REPO / "docs" / "results" / "grid_babble_search.csv").open(newline="") as file:
        for run in csv.DictReader(file):
            name = row_name(run)
            what, flag = flags.get(name, ("rate", "learning_rate"))
            searched = found.setdefault((levels[run["dataset"]], name, what), {})
            searched[float(run[flag])] = 100 * float(run["best_val_accuracy"])
    lines = []
    for row, searched in found.items():
        best = max(sorted(searched), key=searched.get)
        cells = [f"{value:g}: {searched[value]:.2f}" for value in sorted(searched)]
        cells[sorted(searched).index(best)] = f"**{cells[sorted(searched).index(best)]}**"
        lines.append(f"| {' | '.join(row)} | {', '.join(cells)} |")
    page = (REPO / "docs" / "results" / "2026-11-28_grid_babble.md").read_text().splitlines()
    start = page.index("### What the searches chose")
    table = [line for line in page[start:page.index("### What this is not")] if line.startswith("|")][2:]
    assert sorted(lines) == sorted(table) and len(table) == 21
