"""Linear probes against a fit done otherwise; finished runs opened again, and what cannot be opened."""

import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import REPO, SMALL

from dataset.clips import ClipDataset
from dataset.cremad import find_clips
from dataset.errors import InputError
from dataset.frontends import AUDIO_FRONTENDS, NormaliseFrames
from dataset.lists import read_lists
from models import MultimodalClassifier, make_encoders
from scripts.probe import by_method, main, probe_accuracy, probe_features, table
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


def test_the_gap_is_what_the_first_modality_tells_more_and_both_together_tell_all():
    y_train, y_test = np.repeat(range(4), 8), np.repeat(range(4), [5, 3, 3, 1])
    told, silent = np.eye(4, dtype=np.float32), np.zeros((4, 4), dtype=np.float32)
    train, test = (Features(y, np.stack([told[y], silent[y]]), None, None) for y in (y_train, y_test))
    scores = probe_features(train, test, ["audio", "visual"], 1.0)
    guessed = scores.pop("visual")
    assert guessed in {5 / 12, 3 / 12, 1 / 12}, "one and the same class for every clip"
    assert scores == {"audio": 1.0, "concatenated": 1.0, "gap": 1.0 - guessed}


def test_one_modality_alone_has_no_gap():
    y = np.repeat(range(3), 4)
    features = Features(y, np.eye(3, dtype=np.float32)[y][None], None, None)
    assert probe_features(features, features, ["visual"], 1.0) == {"visual": 1.0}


def test_an_opened_run_gives_the_best_weights_features_of_unaugmented_clips(finished_runs, tiny_data):
    run = FinishedRun(finished_runs["mmcosine"], HERE)
    lists = read_lists(tiny_data, "")
    clips, _ = find_clips(tiny_data, lists.train, fps=1, modalities=("audio", "visual"))
    data = ClipDataset(clips, lists.classes, train=False, image_size=64, audio_seconds=0.6)
    encoders = make_encoders({"audio": ("resnet18", 1), "visual": ("resnet18", 3)})
    model = MultimodalClassifier(encoders, 6, "concat", True, 10.0).eval()
    model.load_state_dict(torch.load(finished_runs["mmcosine"] / "best.pt", weights_only=True)["model"])
    assert run.train_features.labels.tolist() == data.labels
    for place in (0, 7, 23):
        item = data[place]
        with torch.inference_mode():
            output = model(AUDIO_FRONTENDS["mmcosine"]()(item["audio"][None]), NormaliseFrames()(item["visual"][None]))
        for mine, theirs in zip(run.train_features[1:], (output.features, output.fused, output.modality_logits),
                                strict=True):
            np.testing.assert_allclose(mine[:, place], theirs[:, 0].numpy(), rtol=1e-3, atol=1e-4)
    right = (run.test_features.modality_logits.sum(0).argmax(1) == run.test_features.labels).mean()
    assert right == pytest.approx(run.result["accuracy"])


def test_probes_of_a_run_are_written_beside_it_and_told(copied_runs, capsys):
    folder = copied_runs["plain"]
    probes = main([str(folder), *MACHINE])[folder]
    assert json.loads((folder / "probes.json").read_text()) == probes
    assert (probes["n_train"], probes["n_test"]) == (24, 12)
    assert probes["gap"] == pytest.approx(probes["audio"] - probes["visual"])
    assert all(math.isclose(12 * probes[name], round(12 * probes[name])) for name in ("audio", "concatenated"))
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith(f"| {folder} | {100 * probes['audio']:.2f} | {100 * probes['visual']:.2f} |")


# ---- several runs


def test_runs_that_differ_in_the_seed_alone_have_a_row_of_their_means(copied_runs):
    again = copied_runs["plain"].with_name("again")
    shutil.copytree(copied_runs["plain"], again)
    settings = json.loads((again / "args.json").read_text())
    (again / "args.json").write_text(json.dumps({**settings, "random_seed": 1, "run_name": "again"}))
    runs = [FinishedRun(folder, HERE) for folder in (*copied_runs.values(), again)]
    assert by_method(runs) == {"concat, plain: 2 seeds": [runs[0], runs[2]]}


def test_the_table_gives_percent_and_the_deviation_over_n_minus_1():
    metrics = [{"gap": 0.1, "accuracy": 0.5}, {"gap": 0.3, "accuracy": 0.5}]
    columns = {"audio": "audio probe", "gap": "probes' gap", "accuracy": "network"}
    lines = table({"a": metrics[:1], "only gap": [{"gap": -0.25}], "mean": metrics}, columns).splitlines()
    deviation = 100 * math.sqrt((0.1**2 + 0.1**2) / 1)
    assert lines == ["| run | probes' gap | network |", "| --- | --- | --- |", "| a | 10.00 | 50.00 |",
                     "| only gap | -25.00 |  |", f"| mean | 20.00 +- {deviation:.2f} | 50.00 +- 0.00 |"]


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


@pytest.mark.parametrize("script", [{"script": "main_Vox.py"}, {}])  # older runs name it in their command only
def test_a_run_of_speaker_verification_is_refused(copied_runs, script):
    folder = copied_runs["plain"]
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    (folder / "result.json").write_text(json.dumps(
        {**{name: value for name, value in result.items() if name not in ("script", "accuracy")}, **script,
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
