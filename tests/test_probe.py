"""Linear probes against a fit done otherwise; finished runs opened again, and what cannot be opened."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import REPO, SMALL
from finished import BEST, LABELS, Run, copy_of, invented, percent, rewrite, save, seen_clips_of, whole
from harness import Borders, watched
from marked_cremad import TEST, TRAIN, is_cropped_or_mirrored, seen_frames
from sklearn.linear_model import LogisticRegression

from dataset.errors import InputError
from scripts.probe import main, probe_accuracy, probe_features
from utils.experiments.features import Features
from utils.experiments.finished_run import FinishedRun, labels
from utils.experiments.flags import Machine

pytestmark = pytest.mark.usefixtures("tiny_encoders")

MACHINE = ["--device", "cpu", "--num_workers", "0"]
HERE = Machine(device="cpu", num_workers=0)


def blobs(clips: int, seed: int, classes: int = 3, dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes in dimensions of very different scale."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = random.integers(classes, size=clips)
    return (centres[labels] + 1.2 * random.normal(size=(clips, dim))) * 10.0 ** np.arange(dim) + 3, labels


def accuracy_by_torch(train, test, inverse_penalty: float) -> float:
    """Multinomial logistic regression with an L2 penalty of 1 / (2 C), minimised in float64 by torch's L-BFGS."""
    mean, std = train[0].mean(0), train[0].std(0)
    x, y = torch.from_numpy((train[0] - mean) / std), torch.from_numpy(train[1])
    weight, bias = (torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, x.shape[1]), (3,)))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def objective():
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y, reduction="sum")
        loss = loss + weight.square().sum() / (2 * inverse_penalty)
        loss.backward()
        return loss

    optimizer.step(objective)
    scores = (test[0] - mean) / std @ weight.detach().numpy().T + bias.detach().numpy()
    return float(np.mean(scores.argmax(1) == test[1]))


@pytest.mark.parametrize("inverse_penalty", [0.01, 1.0, 100.0])
def test_a_probe_is_a_penalised_logistic_regression_on_standardised_features(inverse_penalty):
    train, test = blobs(60, 1), blobs(400, 2)
    expected = accuracy_by_torch(train, test, inverse_penalty)
    assert 0.4 < expected < 0.95
    assert probe_accuracy(train, test, inverse_penalty) == pytest.approx(expected, abs=1 / 400)


def test_one_modality_alone_has_no_gap():
    y = np.repeat(range(3), 4)
    features = Features(y, np.eye(3, dtype=np.float32)[y][None], None, None)
    assert probe_features(features, features, ["visual"], 1.0) == {"visual": 1.0}


# ---- several runs


def test_the_recipe_probes_the_finished_runs_of_its_sweep(tmp_path):
    told, python = tmp_path / "argv", tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    python.chmod(0o755)
    for name in ("a", "b", "figures"):
        (tmp_path / "out" / name).mkdir(parents=True)
    for name in "ab":
        (tmp_path / "out" / name / "result.json").touch()
    subprocess.run([REPO / "scripts/ablation_probes.sh", "--demo", "--", "--epochs", "1"], check=True,
                   env={**os.environ, "PYTHON": str(python), "OUTPUT": str(tmp_path / "out")})
    sweep, probe = (line.split() for line in told.read_text().splitlines())
    assert sweep[1:3] == ["--output", str(tmp_path / "out")] and sweep[-4:] == ["--demo", "--", "--epochs", "1"]
    assert probe == [str(REPO / "scripts/probe.py"), *(str(tmp_path / "out" / name) for name in "ab")]


def test_runs_are_told_apart_by_what_differs_else_by_their_folder(finished_runs):
    plain, mmcosine = (FinishedRun(finished_runs[name], HERE) for name in ("plain", "mmcosine"))
    assert labels([plain, mmcosine]) == ("tiny · concat · seed 0", ["plain", "MMCosine s=10"])
    assert labels([plain]) == ("tiny · concat · plain · seed 0", [""])
    assert labels([plain, plain])[1] == [str(finished_runs["plain"])] * 2


@pytest.mark.parametrize("flags", [["--output", "x"], ["--output=x"], ["--script", "main_Vox.py"]])
def test_the_recipe_refuses_what_could_not_be_probed(flags):
    done = subprocess.run([REPO / "scripts/ablation_probes.sh", *flags], capture_output=True, text=True,
                          env={**os.environ, "PYTHON": "false"})
    assert done.returncode == 2 and done.stderr.startswith("ablation_probes.sh: error: ")


# ---- what users get wrong


def test_what_a_shell_names_beside_the_runs_is_left_out_and_told(copied_runs, capsys):
    runs = copied_runs["plain"].parent
    (runs / "plain.log").touch()
    (runs / "search").mkdir()
    assert [*main([*map(str, sorted(runs.iterdir())), *MACHINE])] == sorted(copied_runs.values())
    assert "note: 2 files and folders without weights are left out: plain.log, search" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"there is no run in .*plain\.log"):
        main([str(runs / "plain.log"), *MACHINE])
    with pytest.raises(InputError, match=r"there is no run in .*nowhere"):
        main([str(runs / "plain"), str(runs / "nowhere"), *MACHINE])


def test_a_missing_run_is_told_by_name(tmp_path):
    with pytest.raises(InputError, match=f"there is no run in {tmp_path / 'nowhere'} .*: give the folder that"):
        main([str(tmp_path / "nowhere")])


def test_an_unfinished_run_says_how_to_go_on(copied_runs):
    folder = copied_runs["plain"]
    (folder / "result.json").unlink()
    with pytest.raises(InputError, match=f"plain is not finished .* continue it with --resume {folder}"):
        main([str(copied_runs["mmcosine"]), str(folder), *MACHINE])
    assert not (copied_runs["mmcosine"] / "probes.json").exists(), "nothing is computed before all runs are checked"


def test_a_finished_run_resumed_to_more_epochs_is_unfinished_again(copied_runs):
    path = copied_runs["plain"] / "args.json"
    settings = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**settings, "epochs": 3}))  # as --resume RUN --epochs 3 does at its start
    with pytest.raises(InputError, match="is not finished"):
        main([str(copied_runs["plain"]), *MACHINE])


def test_a_run_of_speaker_verification_is_refused(copied_runs):
    folder = copied_runs["plain"]
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    (folder / "result.json").write_text(json.dumps(
        {**{name: value for name, value in result.items() if name != "accuracy"}, "script": "main_Vox.py",
         "eer": result["accuracy"], "command": "python main_Vox.py --train --demo"}))
    with pytest.raises(InputError, match=r"was made by main_Vox.py: only runs that classify"):
        main([str(folder), *MACHINE])


def test_data_other_than_the_runs_is_refused(finished_runs, tiny_data, tmp_path):
    other = Path(shutil.copytree(tiny_data, tmp_path / "other"))
    rows = (other / "train.csv").read_text().splitlines()
    (other / "train.csv").write_text("\n".join(rows[1:]) + "\n")
    with pytest.raises(InputError, match=r"best\.pt was trained on other data: 1 clip"):
        main([str(finished_runs["plain"]), "--data_root", str(other), *MACHINE])


def test_a_run_of_birds_is_opened_by_its_own_entry_script(tmp_path):
    import main_SSW
    from dataset.demo.birds import make_demo

    make_demo(tmp_path / "birds", species=4, train_per_class=2, test_per_class=1)
    main_SSW.main(["--train", "--dataset", "birds", "--data_root", str(tmp_path / "birds"), "--epochs", "1",
                   "--modality", "audio", "--ckpt_path", str(tmp_path), "--run_name", "run", *SMALL])
    probes = main([str(tmp_path / "run"), *MACHINE])[tmp_path / "run"]
    assert "gap" not in probes and 0 <= probes["audio"] <= 1
    assert (probes["n_train"], probes["n_test"]) == (8, 4)


# ---- what is fitted and what is told, on the runs of finished.py


class Probed(NamedTuple):
    """fits: (C, X, y) of every probe. asked: the X that each was tested on. printed: the table's rows, cell by cell."""

    borders: Borders
    fits: list[tuple[float, np.ndarray, np.ndarray]]
    asked: list[np.ndarray]
    answers: dict[Path, dict]
    table: list[list[str]]
    again: Path


@pytest.fixture(scope="module")
def probed(varied_runs, tmp_path_factory) -> Probed:
    """Of both runs and one that differs from "plain" in seed, weights and figures. What probes say is invented as
    well: of the n-th, the last n % 5 + 1 of six test clips are taken for the next class."""
    again = copy_of(varied_runs["plain"].folder, tmp_path_factory.mktemp("again") / "again")
    settings = json.loads((again / "args.json").read_text())
    rewrite(again / "args.json", {**settings, "random_seed": 1, "run_name": "again"})
    rewrite(again / "result.json", {**varied_runs["plain"].result, "seed": 1, **invented(
        np.random.default_rng(8), ["accuracy", "accuracy_audio", "accuracy_visual"])})
    content = torch.load(again / "last.pt", weights_only=True)
    content["args"]["random_seed"] = 1
    parts = {name: content[name] for name in ("model", "args", "facts")}
    save(again / "best.pt", {**parts, "epoch": varied_runs["plain"].result["best_epoch"]})
    fits, asked = [], []
    original = LogisticRegression.fit

    def fit(self: LogisticRegression, x: np.ndarray, y: np.ndarray, *more: object) -> LogisticRegression:
        fits.append((self.C, np.asarray(x), np.asarray(y)))
        return original(self, x, y, *more)

    def predict(self: LogisticRegression, x: np.ndarray) -> np.ndarray:
        asked.append(np.asarray(x))
        wrong = (len(asked) - 1) % 5 + 1
        return np.where(np.arange(len(x)) < len(x) - wrong, LABELS, (LABELS + 1) % 3)

    folders = [varied_runs["plain"].folder, varied_runs["cosine"].folder, again]
    printed: list[str] = []
    with (patch.object(LogisticRegression, "fit", fit), patch.object(LogisticRegression, "predict", predict),
          watched() as borders, patch("builtins.print", lambda *parts, **_: printed.extend(map(str, parts)))):
        answers = main([*map(str, folders), "--inverse_penalty", "0.25", *MACHINE])
    lines = [line for text in printed for line in text.splitlines() if line.startswith("|")]
    return Probed(borders, fits, asked, answers, [[cell.strip() for cell in line[1:-1].split("|")] for line in lines],
                  again)


def of_probes(varied_runs, probed) -> list[tuple[Path, Run, list, list]]:
    """(folder, run, passes over training clips, over test clips) in the order in which they were probed."""
    log, found = list(probed.borders.log), []
    plain, cosine = varied_runs["plain"], varied_runs["cosine"]
    for folder, run in ((plain.folder, plain), (cosine.folder, cosine),
                        (probed.again, plain._replace(folder=probed.again))):
        train_clips = 9 if run.split == "val" else 12
        parts = []
        for clips in (train_clips, len(TEST)):
            parts.append(log[:clips // 3])
            del log[:clips // 3]
        found.append((folder, run, *parts))
    assert not log
    return found


def test_probes_see_the_runs_own_training_and_test_clips_without_augmentation(varied_runs, probed):
    for _, run, train_passes, test_passes in of_probes(varied_runs, probed):
        trained = {number for one in run.borders.training for number in seen_clips_of(one.inputs)}
        assert trained == set(TRAIN) or (run.split == "val" and len(trained) == 9)
        clips = [[number for one in part for number in seen_clips_of(one.inputs)] for part in (train_passes,
                                                                                               test_passes)]
        assert sorted(clips[0]) == sorted(trained) and clips[1] == list(TEST)
        for passes in (train_passes, test_passes):
            assert not any(one.training for one in passes) and not any(is_cropped_or_mirrored(whole(passes)[1]))
            assert {*map(tuple, seen_frames(whole(passes)[1]))} == {(0, 2) if run.split == "val" else (1,)}


def test_probes_are_fitted_on_standardised_encoder_features_of_the_training_clips(varied_runs, probed):
    fits, asked = iter(probed.fits), iter(probed.asked)
    for _, run, train_passes, test_passes in of_probes(varied_runs, probed):
        clips = [whole(passes) for passes in (train_passes, test_passes)]
        both = run.outputs([torch.cat(pair) for pair in zip(*clips, strict=True)])["features"]
        train_features, test_features = both[:, :len(clips[0][0])], both[:, len(clips[0][0]):]
        labels = [number % 3 for one in train_passes for number in seen_clips_of(one.inputs)]
        for chosen in ([0], [1], [0, 1]):
            x, x_test = (np.hstack([part[m] for m in chosen]) for part in (train_features, test_features))
            mean, std = x.mean(0), x.std(0)
            assert np.abs(x_test.mean(0) - mean).max() > 1e-3, "standardising by the test clips is something else"
            penalty, given, y = next(fits)
            usual = std > 1e-4  # what is nearly the same for every clip is rounding noise, standardised
            assert usual.mean() > 0.5 and penalty == 0.25 and y.tolist() == labels
            np.testing.assert_allclose(given[:, usual], ((x - mean) / std)[:, usual], atol=0.02)
            np.testing.assert_allclose(next(asked)[:, usual], ((x_test - mean) / std)[:, usual], rtol=0.01, atol=0.05)
    assert next(fits, None) is None and next(asked, None) is None


def said(number: int) -> float:
    """The accuracy of the n-th probe, as it was invented."""
    return 1 - (number % 5 + 1) / 6


def test_probes_json_names_each_probe_and_the_gap_is_audio_minus_visual(varied_runs, probed):
    for place, (folder, run, *_) in enumerate(of_probes(varied_runs, probed)):
        told = json.loads((folder / "probes.json").read_text())
        audio, visual, both = (said(3 * place + number) for number in range(3))
        assert len({audio, visual, both}) == 3
        expected = {"audio": audio, "visual": visual, "concatenated": both, "gap": audio - visual,
                    "best_epoch": BEST, "inverse_penalty": 0.25, "n_train": 9 if run.split == "val" else 12,
                    "n_test": 6}
        assert told == pytest.approx(expected) and probed.answers[folder] == told


def test_the_printed_table_has_probes_and_logits_of_each_run_and_means_over_seeds(varied_runs, probed):
    head, _, *rows = probed.table
    assert head == ["run", "audio probe", "visual probe", "probe of both", "probes' gap", "network",
                    "its audio logits", "its visual logits"]
    figures = {}
    for place, (folder, *_) in enumerate(of_probes(varied_runs, probed)):
        audio, visual, both = (said(3 * place + number) for number in range(3))
        result = json.loads((folder / "result.json").read_text())
        figures[str(folder)] = [audio, visual, both, audio - visual, result["accuracy"], result["accuracy_audio"],
                                result["accuracy_visual"]]
    assert {row[0]: row[1:] for row in rows[:-1]} == {name: [percent([value]) for value in values]
                                                      for name, values in figures.items()}
    first, _, again = figures.values()
    assert re.fullmatch("concat, plain.*: 2 seeds", rows[-1][0])
    assert rows[-1][1:] == [percent(pair) for pair in zip(first, again, strict=True)]
