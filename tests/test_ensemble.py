"""Encoders trained apart: their ensemble, and joint networks that start from them, on three modalities in memory."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from three_modalities import main, parse

from dataset.errors import InputError
from scripts.ensemble import combinations, result
from scripts.ensemble import main as ensemble
from scripts.sweep import main as sweep
from utils.experiments import comparison
from utils.experiments.finished_run import FinishedRun, open_run
from utils.experiments.flags import Machine
from utils.training import checkpoint

pytestmark = pytest.mark.usefixtures("without_pictures")

MACHINE = ["--device", "cpu", "--num_workers", "0"]
NAMES = {"rgb": "three-rgb-plain-seed0", "flow": "three-flow-plain-seed0", "all": "three-concat-plain-seed0"}


def argv_of(folder: Path, name: str, *more: str) -> list[str]:
    return ["--train", *MACHINE, "--amp", "off", "--ckpt_path", str(folder), "--run_name", name, *more]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, without_pictures) -> Path:
    """Finished runs called as a sweep calls them. Not to be written into."""
    root = tmp_path_factory.mktemp("runs")
    for modality, name in NAMES.items():
        main(argv_of(root, name, "--modality", modality))
    return root


def logits_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(labels (N,), logits (M, N, C)) of the test clips, by the best weights."""
    features = open_run(folder, Machine(None, "cpu", 0)).test_features
    return features.labels, features.modality_logits


def test_the_ensemble_predicts_by_the_mean_of_its_members_probabilities(runs):
    found = ensemble([str(runs / NAMES["rgb"]), str(runs / NAMES["flow"]), *MACHINE])
    labels, (rgb,) = logits_of(runs / NAMES["rgb"])
    _, (flow,) = logits_of(runs / NAMES["flow"])
    right, loss = 0, 0.0
    for label, a, b in zip(labels, rgb.astype(float), flow.astype(float), strict=True):
        mean = (np.exp(a) / np.exp(a).sum() + np.exp(b) / np.exp(b).sum()) / 2
        right, loss = right + (mean.argmax() == label), loss - np.log(mean[label])
    assert found["accuracy"] == right / len(labels) and found["loss"] == pytest.approx(loss / len(labels))
    assert found["accuracy_of_mean_logits"] == ((rgb + flow).argmax(1) == labels).mean()
    for name, logits in (("rgb", rgb), ("flow", flow)):
        own = json.loads((runs / NAMES[name] / "result.json").read_text())["accuracy"]
        assert found[f"accuracy_{name}"] == (logits.argmax(1) == labels).mean() == own


def test_the_three_combinations_clip_by_clip():
    logits = np.random.default_rng(0).normal(size=(3, 5, 4)) * 3
    found = {name: np.exp(log) for name, log in combinations(logits).items()}
    for clip in range(5):
        p = [np.exp(row) / np.exp(row).sum() for row in logits[:, clip]]
        entropy = [-(one * np.log(one)).sum() for one in p]
        weights = [np.exp(max(entropy) - one) for one in entropy]
        np.testing.assert_allclose(found["mean of softmaxes"][clip], sum(p) / 3)
        weighted = sum(w * one for w, one in zip(weights, p, strict=True)) / sum(weights)
        np.testing.assert_allclose(found["softmaxes weighted by certainty"][clip], weighted)
        together = np.exp(logits[:, clip].mean(0))
        np.testing.assert_allclose(found["mean of logits"][clip], together / together.sum())


def test_the_row_of_the_ensemble_is_the_mean_of_softmaxes_where_the_combinations_differ():
    generator = np.random.default_rng(1)
    members = {name: generator.normal(size=(400, 4)) * scale for name, scale in (("rgb", 5), ("flow", 1))}
    labels = generator.integers(4, size=400)
    p = [np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in members.values()]
    run = SimpleNamespace(result={}, folder=Path("run"))
    found = result([run, run], labels, members)
    right = {"accuracy": (sum(p).argmax(1) == labels).mean(),
             "accuracy_of_mean_logits": (sum(members.values()).argmax(1) == labels).mean()}
    assert {name: found[name] for name in right} == right and len(set(right.values())) == 2
    assert found["accuracy_weighted_by_certainty"] not in right.values()


def test_a_joint_run_is_an_ensemble_of_its_modality_logits(runs):
    found = ensemble([str(runs / NAMES["all"]), *MACHINE])
    joint = json.loads((runs / NAMES["all"] / "result.json").read_text())
    assert found["modalities"] == ["rgb", "flow", "audio"]
    assert found["accuracy_of_mean_logits"] == joint["accuracy"]
    assert [found[f"accuracy_{name}"] for name in ("rgb", "flow")] == [joint[f"accuracy_{name}"]
                                                                       for name in ("rgb", "flow")]


def test_a_sweep_makes_the_ensembles_row_beside_the_joint_network_and_each_encoder(runs, tmp_path, capsys):
    root = shutil.copytree(runs, tmp_path / "runs")
    argv = ["--script", "tests/three_modalities.py", "--output", str(root), "--modality", "all", "rgb", "flow",
            "ensemble", "--", *MACHINE, "--amp", "off"]
    sweep([*argv[:argv.index("--")], "--dry_run", *argv[argv.index("--"):]])
    assert f"scripts/ensemble.py {root / NAMES['rgb']} {root / NAMES['flow']} --output" in capsys.readouterr().out
    finished = sweep(argv)
    assert [run.settings["modality"] for run in finished] == ["all", "ensemble", "flow", "rgb"]
    table = (root / "table.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| ensemble of the encoders alone"))
    found = json.loads((root / "three-ensemble-plain-seed0" / "result.json").read_text())
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[:4] == ["1", *(f"{100 * found[name]:.2f}" for name in ("accuracy", "accuracy_rgb", "accuracy_flow"))]
    before = (root / "three-ensemble-plain-seed0" / "result.json").stat().st_mtime_ns
    sweep(argv)
    assert (root / "three-ensemble-plain-seed0" / "result.json").stat().st_mtime_ns == before


def test_runs_on_other_test_clips_of_the_same_labels_are_no_ensemble(runs, tmp_path, monkeypatch):
    def others(run):
        task = original(run)
        if "flow" in run.name:
            task.clips = {**task.clips, "test": {f"other {name}": label for name, label in task.clips["test"].items()}}
        return task

    original = FinishedRun.task.func
    monkeypatch.setattr(FinishedRun, "task", property(others))
    with pytest.raises(InputError, match="has other test clips, another variant of them or other classes than"):
        ensemble([str(runs / NAMES["rgb"]), str(runs / NAMES["flow"]), *MACHINE])


def test_runs_on_two_variants_of_the_same_clips_are_no_ensemble(runs, tmp_path):
    folders = [Path(shutil.copytree(runs / NAMES[name], tmp_path / name)) for name in ("rgb", "flow")]
    for folder, variant in zip(folders, ("babble at 5 dB", "babble at -5 dB"), strict=True):
        found = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**found, "variant": variant}))
    with pytest.raises(InputError, match=r"flow has other test clips, another variant of them"):
        ensemble([*map(str, folders), *MACHINE])


def test_the_folder_of_a_run_is_not_overwritten(runs, tmp_path):
    folder = Path(shutil.copytree(runs / NAMES["rgb"], tmp_path / "run"))
    before = (folder / "result.json").read_bytes()
    with pytest.raises(InputError, match="is the folder of a run"):
        ensemble([str(runs / NAMES["rgb"]), str(runs / NAMES["flow"]), "--output", str(folder), *MACHINE])
    assert (folder / "result.json").read_bytes() == before


@pytest.mark.parametrize(("names", "more", "message"), [
    (["rgb"], [], "an ensemble needs two modalities"),
    (["rgb", "all"], [], "is the second run with the modality rgb"),
    (["rgb", "flow"], ["--output"], "these runs differ in weight_decay: no row of a table")])
def test_what_is_no_ensemble_is_one_sentence(runs, tmp_path, names, more, message):
    folders = [Path(shutil.copytree(runs / NAMES[name], tmp_path / name)) for name in names]
    if more:
        settings = json.loads((folders[0] / "args.json").read_text())
        (folders[0] / "args.json").write_text(json.dumps({**settings, "weight_decay": 0.5}))
        more = [*more, str(tmp_path / "out")]
    with pytest.raises(InputError, match=message):
        ensemble([*map(str, folders), *more, *MACHINE])
    assert not (tmp_path / "out").exists()


def test_encoders_whose_rates_were_searched_are_one_row_compared_with_the_only_joint_network(runs, tmp_path):
    root = tmp_path / "runs"
    for name, rate in (("rgb", 0.5), ("flow", 0.1), ("all", 0.1)):
        folder = Path(shutil.copytree(runs / NAMES[name], root / name))
        settings = json.loads((folder / "args.json").read_text())
        (folder / "args.json").write_text(json.dumps({**settings, "learning_rate": rate}))
    ensemble([str(root / "rgb"), str(root / "flow"), "--output", str(root / "both"), *MACHINE])
    for folder in list(root.iterdir()):  # differences need two seeds
        again = Path(shutil.copytree(folder, folder.with_name(f"{folder.name}1")))
        settings = json.loads((again / "args.json").read_text())
        (again / "args.json").write_text(json.dumps({**settings, "random_seed": settings["random_seed"] + 1}))
    table = comparison.report(comparison.read_runs(root))
    table = table.partition("Points to")[2]
    assert {"ensemble of the encoders alone, plain", "rgb encoder alone, plain, learning_rate 0.5",
            "flow encoder alone, plain, learning_rate 0.1"} <= {
                line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")}


def test_frozen_encoders_stay_as_they_were_trained_alone_with_their_batchnorm_statistics(runs, tmp_path):
    starts = [f"--{name}_pretrain={runs / NAMES[name] / 'best.pt'}" for name in ("rgb", "flow")]
    argv = argv_of(tmp_path, "frozen", *starts, "--modality", "rgb", "flow", "--freeze_encoders")
    main(argv)
    frozen = checkpoint.load(tmp_path / "frozen" / "last.pt")
    for name in ("rgb", "flow"):
        alone = checkpoint.load(runs / NAMES[name] / "best.pt")["model"]
        own = {key: value for key, value in alone.items() if key.startswith(f"{name}_net")}
        assert any("running_mean" in key for key in own)
        assert all(torch.equal(frozen["model"][key], value) for key, value in own.items())
    assert len(frozen["optimizer"]["param_groups"][0]["params"]) == 2, "fusion's weight and bias alone are trained"
    main([*argv_of(tmp_path, "tuned", *starts, "--modality", "rgb", "flow"), "--epochs", "1"])
    tuned = checkpoint.load(tmp_path / "tuned" / "last.pt")["model"]
    assert not torch.equal(tuned["rgb_net.0.weight"], frozen["model"]["rgb_net.0.weight"])
    assert not torch.equal(tuned["rgb_net.1.running_mean"], frozen["model"]["rgb_net.1.running_mean"])
    again = argv_of(tmp_path, "part", *starts, "--modality", "rgb", "flow", "--freeze_encoders", "--epochs", "1")
    main(again)
    main(["--resume", str(tmp_path / "part"), "--epochs", "2"])
    resumed = checkpoint.load(tmp_path / "part" / "last.pt")["model"]
    assert all(torch.equal(value, frozen["model"][key]) for key, value in resumed.items())


@pytest.mark.parametrize(("argv", "message"), [
    ([], "--freeze_encoders keeps the rgb encoder as it starts: give it a trained one with --rgb_pretrain FILE"),
    (["--rgb_pretrain", "a.pt", "--modality", "rgb", "flow"], "keeps the flow encoder"),
    (["--modulation", "ogm"], "--freeze_encoders leaves no encoder to balance")])
def test_freezing_what_has_no_weights_or_is_balanced_is_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse(["--train", "--freeze_encoders", *argv])
    assert message in capsys.readouterr().err
