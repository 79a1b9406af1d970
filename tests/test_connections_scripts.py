"""What scripts/ makes of runs, of other people's files and of its own flags, seen from outside.

Two real runs are the templates; their copies get figures, class weights and lengths that differ everywhere, so that
nothing can stand in the place of something else. Pictures are looked at when matplotlib is asked for the PNG, probes
and t-SNE where scikit-learn gets its numbers, networks by harness.py. C classes, D features, N clips, M modalities.
"""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import av
import cv2
import numpy as np
import pytest
import soundfile
import torch
from conftest import REPO
from harness import Borders, watched
from marked_cremad import (
    CLASSES,
    TEST,
    TRAIN,
    heard_clips,
    is_cropped_or_mirrored,
    make_marked_data,
    seen_clips,
    seen_frames,
)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch._subclasses.fake_tensor import FakeTensorMode

import main_CD
import main_SSW
import main_Vox
from dataset import packing
from dataset.errors import InputError
from models import AVClassifier
from models.balancing.method import Batch
from scripts import (
    analyse,
    benchmark,
    prepare_cremad,
    prepare_grid,
    prepare_ssw60,
    prepare_voxceleb,
    probe,
    score,
    sweep,
)
from utils.experiments import machine_speed
from utils.training.engine import Compute, Learner

MACHINE = ["--device", "cpu", "--num_workers", "0"]
SMALL = ["--image_size", "64", "--audio_seconds", "0.6", "--batch_size", "3", "--amp", "off", *MACHINE]
MODALITIES = ("audio", "visual")
LABELS = np.array([number % 3 for number in TEST])
EPOCHS, BEST = 5, 3  # of the copies
SCALE = 7.0


class Run(NamedTuple):
    """A real run, and its copy with invented figures. flags: what its network is built with."""

    real: Path
    folder: Path
    borders: Borders
    network: tuple[str, bool, float]
    split: str

    @property
    def result(self) -> dict:
        return json.loads((self.folder / "result.json").read_text())

    def figures(self, name: str) -> np.ndarray:
        """(epochs,) of metrics.jsonl."""
        return np.array([json.loads(line)[name] for line in (self.folder / "metrics.jsonl").read_text().splitlines()])

    def weights(self, name: str = "best.pt") -> dict[str, torch.Tensor]:
        return torch.load(self.folder / name, weights_only=True)["model"]

    def outputs(self, inputs: Sequence[torch.Tensor], name: str = "best.pt") -> dict[str, np.ndarray]:
        """What the weights of a checkpoint make of N clips: features, fused (M, N, D), modality_logits (M, N, C) ..."""
        return outputs(self.weights(name), self.network, inputs)


def outputs(weights: Mapping[str, torch.Tensor], network: tuple,
            inputs: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
    with torch.device("meta"):  # its own initialisation would take longer than all the rest
        model = AVClassifier(len(CLASSES), *network).eval()
    model.load_state_dict(weights, assign=True)
    with torch.inference_mode():
        return {name: value.double().numpy() for name, value in model(*inputs)._asdict().items()}


def copy_of(folder: Path, target: Path) -> Path:
    """A run to be written into; weights are links, to be replaced as the scripts do."""
    return Path(shutil.copytree(folder, target, copy_function=lambda source, place: (
        os.link if source.endswith(".pt") else shutil.copy)(source, place)))


def save(path: Path, content: Mapping[str, object]) -> None:
    path.unlink()
    torch.save(content, path)


def rewrite(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def invented(rng: np.random.Generator, names: Sequence[str]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, rng.uniform(0.1, 0.9, len(names)), strict=True)}


def train(data: Path, root: Path, name: str, *flags: str) -> Borders:
    with watched() as borders:
        main_CD.main(["--train", "--dataset", "marked", "--data_root", str(data), "--epochs", "2", "--learning_rate",
                      "0.003", "--ckpt_path", str(root), "--run_name", name, *SMALL, *flags])
    return borders


def vary(real: Path, folder: Path, split: str, seed: int) -> None:
    """A copy of a run as if it had had EPOCHS epochs, BEST the best: figures that differ everywhere."""
    copy_of(real, folder)
    rng = np.random.default_rng(seed)
    template = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    measured = [name for name in template if name.startswith(("train_", f"{split}_"))]
    records = [{**template, **invented(rng, measured), "epoch": epoch} for epoch in range(1, EPOCHS + 1)]
    records[BEST - 1][f"{split}_accuracy"] = 0.95
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    np.save(folder / "class_norms.npy", rng.uniform(0.5, 1.5, (EPOCHS, 2, len(CLASSES))).astype(np.float32))
    result = json.loads((folder / "result.json").read_text())
    assert {"accuracy", "accuracy_audio", "accuracy_visual", f"last_{split}_accuracy"} <= result.keys()
    own = ["accuracy", "accuracy_audio", "accuracy_visual"]
    scores = {name: records[BEST - 1][f"test_{name}"] for name in own} if split == "test" else invented(rng, own)
    last = {f"last_{split}_{name}": records[-1][f"{split}_{name}"] for name in own}
    rewrite(folder / "result.json", {**result, **scores, **last, "epochs": EPOCHS, "best_epoch": BEST})
    rewrite(folder / "args.json", {**json.loads((folder / "args.json").read_text()), "epochs": EPOCHS})
    content = torch.load(folder / "best.pt", weights_only=True)
    for weight in content["model"].values():  # whichever epoch was the best, these are no other epoch's weights
        if weight.is_floating_point():
            weight *= torch.from_numpy(rng.uniform(0.8, 1.25, weight.shape[:1] or 1)).float().view(
                -1, *[1] * (weight.dim() - 1))
    save(folder / "best.pt", {**content, "epoch": BEST})


def solve_head(folder: Path, inputs: Sequence[torch.Tensor]) -> None:
    """Gives best.pt class weights by which the test clips are taken, by joint, audio and visual logits, for three
    different classes, the joint ones never symmetrically."""
    content = torch.load(folder / "best.pt", weights_only=True)
    features = torch.from_numpy(outputs(content["model"], (), inputs)["features"])  # (2, N, 512)
    joint = torch.tensor([0, 2, 2, 1, 2, 2])
    blocks = []
    for step, part in enumerate(features, 1):
        logits = 2 + 6.0 * torch.eye(3, dtype=torch.float64)[joint] + 10.0 * torch.eye(3)[(joint + step) % 3]
        blocks.append((torch.linalg.pinv(part) @ logits).T)
    content["model"]["fusion_module.fc_out.weight"] = torch.cat(blocks, 1).float()
    content["model"]["fusion_module.fc_out.bias"].zero_()
    save(folder / "best.pt", content)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    """"plain": concat, chosen on the test clips. "cosine": gated, two frames, chosen on validation clips."""
    root = tmp_path_factory.mktemp("scripts")
    data = make_marked_data(root / "data")
    found = {}
    cosine = ["--fusion_method", "gated", "--mmcosine", "--scaling", f"{SCALE}", "--val_fraction", "0.25",
              "--num_frames", "2"]
    for seed, (name, split, network, flags) in enumerate([("plain", "test", ("concat", False, 10.0), []),
                                                          ("cosine", "val", ("gated", True, SCALE), cosine)]):
        borders = train(data, root / "real", name, *flags)
        vary(root / "real" / name, root / "varied" / name, split, seed)
        found[name] = Run(root / "real" / name, root / "varied" / name, borders, network, split)
    last = found["plain"].borders.evaluation[-2:]
    solve_head(found["plain"].folder, [torch.cat([one.inputs[name] for one in last]) for name in MODALITIES])
    return found


class Drawn(NamedTuple):
    """What analyse.py has drawn of both runs, "cosine" first. tsne: (its input, random_state) a run."""

    figures: dict[str, Figure]
    borders: Borders
    tsne: list[tuple[np.ndarray, int]]
    out: Path


POINTS = np.random.default_rng(5).normal(size=(2, len(TEST), 2))  # what t-SNE answers, run by run


@contextmanager
def pictures() -> Iterator[dict[str, Figure]]:
    """{picture's name: figure} of everything that is printed as a PNG."""
    found: dict[str, Figure] = {}
    original = FigureCanvasAgg.print_png

    def print_png(self: FigureCanvasAgg, path: object, **how: object) -> None:
        found[Path(path).stem.rpartition(".")[2]] = self.figure
        original(self, path, **how)

    with patch.object(FigureCanvasAgg, "print_png", print_png):
        yield found


@pytest.fixture(scope="module")
def drawn(runs, tmp_path_factory) -> Drawn:
    out, asked = tmp_path_factory.mktemp("drawn") / "pictures", []
    for name, run in runs.items():
        made = {"audio": 0.625, "visual": 0.375} if name == "plain" else {"audio": 0.1875, "visual": 0.8125}
        rewrite(run.folder / "probes.json", {**made, "concatenated": 0.9, "gap": made["audio"] - made["visual"],
                                             "best_epoch": BEST})

    def fit_transform(self: TSNE, x: np.ndarray, y: object = None) -> np.ndarray:
        asked.append((np.asarray(x), self.random_state))
        return POINTS[len(asked) - 1]

    with patch.object(TSNE, "fit_transform", fit_transform), pictures() as found, watched() as borders:
        written = analyse.main([str(runs[name].folder) for name in ("cosine", "plain")] + ["--out", str(out), *MACHINE])
    assert {path.stem for path in written} == found.keys() and all(path.is_file() for path in written)
    return Drawn(found, borders, asked, out)


# ---- pictures


def panels(figure: Figure, rows: int = 1) -> list[dict[str, object]]:
    """The axes of each row, by the run that their column's title names."""
    axes = [one for one in figure.axes if one.get_label() != "<colorbar>"]
    assert len(axes) == 2 * rows
    assert "MMCosine" in axes[0].get_title() and "plain" in axes[1].get_title()
    assert "plain" not in axes[0].get_title() and "MMCosine" not in axes[1].get_title()
    assert "gated" in axes[0].get_title() and "concat" in axes[1].get_title()
    return [{"cosine": axes[2 * row], "plain": axes[2 * row + 1]} for row in range(rows)]


def label_of(bars: BarContainer) -> str:
    """A histogram's stands at its first bar."""
    return bars[0].get_label() if bars.get_label().startswith("_") else bars.get_label()


def curves(axes) -> dict[str, np.ndarray]:
    """{label: (N, 2)} of the lines that have one."""
    return {line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")}


def test_accuracy_png_draws_each_runs_own_curves_of_the_clips_that_chose_its_epoch(runs, drawn):
    colours = {}
    for name, axes in panels(drawn.figures["accuracy"])[0].items():
        run, found = runs[name], curves(axes)
        assert found.keys() == {"joint", *MODALITIES, "chance"}
        for what in ("joint", *MODALITIES):
            expected = run.figures(f"{run.split}_accuracy" + ("" if what == "joint" else f"_{what}"))
            assert found[what].tolist() == [[epoch, value] for epoch, value in enumerate(expected, 1)]
        assert set(found["chance"][:, 1]) == {1 / 3}
        assert axes.get_xlabel() == "epoch" and axes.get_ylim() == (0, 1.02)
        colours[name] = {line.get_label(): to_hex(line.get_color()) for line in axes.lines}
    assert colours["plain"] == colours["cosine"] and len(set(colours["plain"].values())) == 4
    legend = drawn.figures["accuracy"].legends[0]
    told = {text.get_text(): to_hex(line.get_color()) for text, line in
            zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert told == colours["plain"], "the one legend holds for both panels"


def true_logits(run: Run) -> dict[str, np.ndarray]:
    """{modality: (iterations,)} the mean logit of the true class in the run's training passes."""
    means = {name: [] for name in MODALITIES}
    for one in run.borders.training:
        labels = [number % 3 for number in seen_clips_of(one.inputs)]
        for name, logits in zip(MODALITIES, one.output.modality_logits, strict=True):
            means[name].append(np.mean([logits[place, label].item() for place, label in enumerate(labels)]))
    return {name: np.array(values) for name, values in means.items()}


def seen_clips_of(inputs: Mapping[str, torch.Tensor]) -> list[int]:
    """Numbers of the clips, which eye and ear agree on."""
    assert seen_clips(inputs["visual"]) == heard_clips(inputs["audio"])
    return seen_clips(inputs["visual"])


def test_logits_png_draws_what_the_network_said_in_training_of_the_true_class(runs, drawn):
    for name, axes in panels(drawn.figures["logits"])[0].items():
        expected, found = true_logits(runs[name]), curves(axes)
        assert found.keys() == set(MODALITIES)
        assert not np.allclose(expected["audio"], expected["visual"], atol=1e-2)
        thin = [line for line in axes.lines if line.get_label().startswith("_")]
        assert len(thin) == 2
        for modality, line in zip(MODALITIES, thin, strict=True):
            for data in (found[modality], line.get_xydata()):  # 1/40 of a short run is an iteration: the same twice
                assert data[:, 0].tolist() == list(range(1, len(expected[modality]) + 1))
                np.testing.assert_allclose(data[:, 1], expected[modality], rtol=1e-4, atol=1e-5)
            thick = next(one for one in axes.lines if one.get_label() == modality)
            assert thick.get_color() == line.get_color()
        assert axes.get_xlabel() == "iteration"
    assert len(runs["plain"].borders.training) == 8 and len(runs["cosine"].borders.training) == 6


def test_a_modality_has_one_colour_in_all_pictures(drawn):
    found = {what: {to_hex(line.get_color()) for name in ("accuracy", "logits")
                    for axes in panels(drawn.figures[name])[0].values()
                    for line in axes.lines if line.get_label() == what} for what in MODALITIES}
    for name in ("angles", "gap"):
        for axes in drawn.figures[name].axes:
            for bars in (one for one in axes.containers if isinstance(one, BarContainer)):
                found[label_of(bars).split(",")[0]].add(to_hex(bars[0].get_facecolor()))
    assert [len(colours) for colours in found.values()] == [1, 1]
    assert found["audio"] != found["visual"]


def test_weight_norms_png_has_a_row_a_modality_of_each_runs_recorded_lengths(runs, drawn):
    figure = drawn.figures["weight_norms"]
    for place, row in enumerate(panels(figure, rows=2)):
        assert row["cosine"].get_ylabel() == MODALITIES[place]
        for name, axes in row.items():
            recorded = np.load(runs[name].folder / "class_norms.npy")  # (epochs, M, C)
            np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), recorded[:, place].T)
            left, right, bottom, top = axes.images[0].get_extent()
            assert (left, right) == (0.5, EPOCHS + 0.5) and (bottom, top) == (2.5, -0.5), "epochs to the right"
        names = [text.get_text() for text in row["cosine"].get_yticklabels()]
        assert dict(zip(row["cosine"].get_yticks(), names, strict=True)) == dict(enumerate(CLASSES))
    every = [np.load(run.folder / "class_norms.npy") for run in runs.values()]
    scale = (min(norms.min() for norms in every), max(norms.max() for norms in every))
    assert {axes.images[0].get_clim() for row in panels(figure, rows=2) for axes in row.values()} == {scale}


def test_recorded_lengths_are_those_of_the_weights_audio_first(runs):
    for run in runs.values():
        recorded = np.load(run.real / "class_norms.npy")
        weight = torch.load(run.real / "last.pt", weights_only=True)["model"]["fusion_module.fc_out.weight"].numpy()
        lengths = [np.sqrt((weight[:, part] ** 2).sum(1)) for part in (slice(512), slice(512, None))]
        assert not np.allclose(*lengths, rtol=1e-4) and recorded.shape == (2, 2, 3)
        np.testing.assert_allclose(recorded[-1], lengths, rtol=1e-5)


def passes_by_run(borders: Borders) -> dict[str, list]:
    """Of both runs, told apart by their number of frames."""
    found = {"plain": [], "cosine": []}
    for one in borders.log:
        found["cosine" if one.inputs["visual"].shape[2] == 2 else "plain"].append(one)
    return found


def whole(passes: Sequence) -> list[torch.Tensor]:
    return [torch.cat([one.inputs[name] for one in passes]) for name in MODALITIES]


def test_pictures_are_of_the_test_clips_as_evaluation_takes_them(runs, drawn):
    for name, passes in passes_by_run(drawn.borders).items():
        inputs = whole(passes)
        assert [number for one in passes for number in seen_clips_of(one.inputs)] == list(TEST), "each once"
        assert not any(one.training for one in passes) and not any(is_cropped_or_mirrored(inputs[1]))
        before = whole([one for one in runs[name].borders.evaluation if set(seen_clips(one.inputs["visual"])) <= {*TEST}
                        ][-2:])
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(inputs, before, strict=True))
    assert seen_frames(inputs[1]) == [[0, 2]] * len(TEST), "the run's own number of frames"


@pytest.fixture(scope="module")
def own(runs, drawn) -> dict[str, dict[str, np.ndarray]]:
    """{run: what its best weights make of the test clips}, computed here."""
    return {name: runs[name].outputs(whole(passes)) for name, passes in passes_by_run(drawn.borders).items()}


def test_angles_png_shows_the_angles_of_fused_features_to_the_weights_of_the_best_epoch(runs, drawn, own):
    for name, axes in panels(drawn.figures["angles"])[0].items():
        fused, weight = own[name]["fused"], runs[name].weights()["fusion_module.fc_out.weight"].double().numpy()
        assert name == "plain" or not np.allclose(fused, own[name]["features"], rtol=0.1)
        bars = {label_of(one).split(",")[0]: one for one in axes.containers}
        means = [line.get_xdata()[0] for line in axes.lines]
        assert list(bars) == list(MODALITIES)
        for place, modality in enumerate(MODALITIES):
            true = weight[LABELS, 512 * place:512 * (place + 1)]
            cosines = [x @ w / np.sqrt((x @ x) * (w @ w)) for x, w in zip(fused[place], true, strict=True)]
            angles = np.degrees(np.arccos(cosines))
            assert means[place] == pytest.approx(angles.mean(), abs=0.01)
            assert label_of(bars[modality]) == f"{modality}, mean {angles.mean():.1f}°"
            for bar in bars[modality]:
                inside = [bar.get_x() + e <= angle < bar.get_x() + bar.get_width() + e
                          for e in (-1e-3, 1e-3) for angle in angles]
                assert sum(inside) / 2 / len(TEST) == pytest.approx(bar.get_height(), abs=0.5 / len(TEST))
            assert sum(bar.get_height() for bar in bars[modality]) == pytest.approx(1)
        assert abs(means[0] - means[1]) > 0.05, "the modalities cannot be taken for each other"
        assert "test clips" in axes.figure.get_suptitle() and "2.5°" in panels(axes.figure)[0]["cosine"].get_ylabel()


def test_the_opened_weights_are_the_best_epochs_and_not_the_last_ones(runs, drawn, own):
    for name, passes in passes_by_run(drawn.borders).items():
        seen = np.concatenate([one.output.modality_logits.numpy() for one in passes], 1)
        np.testing.assert_allclose(seen, own[name]["modality_logits"], rtol=1e-3, atol=2e-3)
        last = runs[name].outputs(whole(passes), "last.pt")["modality_logits"]
        assert not np.allclose(seen, last, rtol=1e-2, atol=2e-2)


def test_confusion_png_has_the_true_class_in_rows_and_the_joint_logits_decide(drawn, own):
    for name, axes in panels(drawn.figures["confusion"])[0].items():
        found = own[name]
        taken = found["logits"].argmax(1)
        shares = np.array([[np.mean(taken[row == LABELS] == column) for column in range(3)] for row in range(3)])
        if name == "plain":
            assert not np.array_equal(shares, shares.T) and shares.sum(0).tolist() != [1, 1, 1]
            assert not any(np.array_equal(taken, part.argmax(1)) for part in found["modality_logits"])
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), shares)
        cells = {tuple(round(x) for x in text.get_position()[::-1]): text.get_text() for text in axes.texts}
        assert cells == {(row, column): f"{100 * shares[row, column]:.0f}" for row, column in np.ndindex(3, 3)}
        assert axes.get_xlabel() == "taken for"
        assert [text.get_text() for text in axes.get_xticklabels()] == list(CLASSES)
        assert axes.images[0].origin == "upper" and axes.images[0].get_clim() == (0, 1)
    first = panels(drawn.figures["confusion"])[0]["cosine"]
    assert first.get_ylabel() == "true class" and [t.get_text() for t in first.get_yticklabels()] == list(CLASSES)


def test_tsne_gets_fused_features_side_by_side_and_of_length_1_each_under_mmcosine(drawn, own):
    for (given, seed), name in zip(drawn.tsne, ("cosine", "plain"), strict=True):
        fused = own[name]["fused"]
        if name == "cosine":
            fused = fused / np.sqrt((fused ** 2).sum(-1, keepdims=True))
        np.testing.assert_allclose(given, np.hstack(list(fused)), rtol=1e-3, atol=1e-4)
        assert seed == 0


def test_tsne_png_colours_each_point_by_its_true_class(drawn):
    figure = drawn.figures["tsne"]
    legend = figure.legends[0]
    colours = {text.get_text(): to_hex(handle.get_facecolor()[0])
               for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)}
    assert list(colours) == list(CLASSES) and len(set(colours.values())) == 3
    for points, axes in zip(POINTS, panels(figure)[0].values(), strict=True):
        found = {to_hex(dots.get_facecolor()[0]): dots.get_offsets().tolist() for dots in axes.collections}
        assert found == {colours[name]: points[c == LABELS].tolist() for c, name in enumerate(CLASSES)}


def test_gap_png_is_audio_minus_visual_over_the_epochs_and_in_bars_with_the_probes(runs, drawn):
    over_epochs, bars = drawn.figures["gap"].axes
    found = {name: next(data for label, data in curves(over_epochs).items() if word in label)
             for name, word in (("cosine", "MMCosine"), ("plain", "plain"))}
    for name, run in runs.items():
        audio, visual = (run.figures(f"{run.split}_accuracy_{modality}") for modality in MODALITIES)
        assert found[name][:, 0].tolist() == list(range(1, EPOCHS + 1))
        np.testing.assert_allclose(found[name][:, 1], 100 * (audio - visual), rtol=1e-12)
    legend = over_epochs.get_legend()
    told = {text.get_text(): to_hex(line.get_color()) for text, line in
            zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert told == {line.get_label(): to_hex(line.get_color()) for line in over_epochs.lines
                    if line.get_label() in told} and len(set(told.values())) == 2
    names = [text.get_text().replace("\n", " ") for text in bars.get_yticklabels()]
    assert [("MMCosine" in name, name.rpartition(", ")[2]) for name in names] == [
        (True, "logits"), (True, "probe"), (False, "logits"), (False, "probe")]
    expected = []
    for name in ("cosine", "plain"):
        result, probes = runs[name].result, json.loads((runs[name].folder / "probes.json").read_text())
        expected += [[result[f"accuracy_{m}"] for m in MODALITIES], [probes[m] for m in MODALITIES]]
    containers = {one.get_label(): one for one in bars.containers}
    for place, modality in enumerate(MODALITIES):
        assert [bar.get_width() for bar in containers[modality]] == [pair[place] for pair in expected]
        middles = [bar.get_y() + bar.get_height() / 2 for bar in containers[modality]]
        assert np.abs(np.subtract(middles, bars.get_yticks())).max() < 0.5, "beside its name"
    assert [(round(text.get_position()[1]), text.get_text()) for text in bars.texts] == [
        (place, f"{100 * (audio - visual):+.1f}") for place, (audio, visual) in enumerate(expected)]
    assert "audio minus visual" in drawn.figures["gap"].get_suptitle()


def test_gap_png_leaves_out_probes_of_another_epoch_than_the_best(runs, tmp_path, capsys):
    folder = copy_of(runs["plain"].folder, tmp_path / "run")
    rewrite(folder / "probes.json", {"audio": 0.5, "visual": 0.25, "best_epoch": BEST + 1})
    with pictures() as found:
        analyse.main([str(folder), "--only", "gap", "--use_tensorboard", "False", *MACHINE])
    bars = found["gap"].axes[1]
    assert [text.get_text() for text in bars.get_yticklabels()] == ["logits"]
    assert sorted(bar.get_width() for bar in bars.patches) == sorted(
        runs["plain"].result[f"accuracy_{name}"] for name in MODALITIES)
    assert f"{folder / 'probes.json'} left out" in capsys.readouterr().out


def test_tensorboard_shows_the_same_pictures_under_their_names(drawn):
    events = EventAccumulator(str(drawn.out)).Reload()
    assert set(events.Tags()["images"]) == {f"runs/{name}" for name in drawn.figures}
    written = {name: cv2.imread(str(drawn.out / f"{name}.png")).astype(float) for name in drawn.figures}
    for name in drawn.figures:
        image = events.Images(f"runs/{name}")[0].encoded_image_string
        shown = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        apart = {other: np.abs(shown - picture).mean() for other, picture in written.items()
                 if picture.shape == shown.shape}
        assert min(apart, key=apart.get) == name  # the layout moves by a pixel when it is drawn again


def test_a_mistake_half_way_leaves_no_thread_that_writes_events_later(runs, tmp_path):
    folder = copy_of(runs["plain"].folder, tmp_path / "run")
    (folder / "class_norms.npy").write_text("{")

    def writers() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if type(thread).__module__.startswith("tensorboard")}

    before = writers()
    with pytest.raises(Exception, match=r"class_norms\.npy is damaged"):
        analyse.main([str(folder), "--only", "accuracy", "weight_norms", *MACHINE])
    assert writers() <= before
    events = EventAccumulator(str(folder / "figures")).Reload()
    assert events.Tags()["images"] == ["runs/accuracy"], "what was drawn before is there"


# ---- probes


class Probed(NamedTuple):
    """fits: (C, X, y) of every probe. asked: the X that each was tested on. printed: the table's rows, cell by cell."""

    borders: Borders
    fits: list[tuple[float, np.ndarray, np.ndarray]]
    asked: list[np.ndarray]
    answers: dict[Path, dict]
    table: list[list[str]]
    again: Path


@pytest.fixture(scope="module")
def probed(runs, tmp_path_factory) -> Probed:
    """Of both runs and one that differs from "plain" in seed, weights and figures. What probes say is invented as
    well: of the n-th, the last n % 5 + 1 of six test clips are taken for the next class."""
    again = copy_of(runs["plain"].folder, tmp_path_factory.mktemp("again") / "again")
    settings = json.loads((again / "args.json").read_text())
    rewrite(again / "args.json", {**settings, "random_seed": 1, "run_name": "again"})
    rewrite(again / "result.json", {**runs["plain"].result, "seed": 1, **invented(
        np.random.default_rng(8), ["accuracy", "accuracy_audio", "accuracy_visual"])})
    content = torch.load(again / "last.pt", weights_only=True)
    content["args"]["random_seed"] = 1
    parts = {name: content[name] for name in ("model", "args", "facts")}
    save(again / "best.pt", {**parts, "epoch": runs["plain"].result["best_epoch"]})
    fits, asked = [], []
    original = LogisticRegression.fit

    def fit(self: LogisticRegression, x: np.ndarray, y: np.ndarray, *more: object) -> LogisticRegression:
        fits.append((self.C, np.asarray(x), np.asarray(y)))
        return original(self, x, y, *more)

    def predict(self: LogisticRegression, x: np.ndarray) -> np.ndarray:
        asked.append(np.asarray(x))
        wrong = (len(asked) - 1) % 5 + 1
        return np.where(np.arange(len(x)) < len(x) - wrong, LABELS, (LABELS + 1) % 3)

    folders = [runs["plain"].folder, runs["cosine"].folder, again]
    printed: list[str] = []
    with (patch.object(LogisticRegression, "fit", fit), patch.object(LogisticRegression, "predict", predict),
          watched() as borders, patch("builtins.print", lambda *parts, **_: printed.extend(map(str, parts)))):
        answers = probe.main([*map(str, folders), "--inverse_penalty", "0.25", *MACHINE])
    lines = [line for text in printed for line in text.splitlines() if line.startswith("|")]
    return Probed(borders, fits, asked, answers, [[cell.strip() for cell in line[1:-1].split("|")] for line in lines],
                  again)


def of_probes(runs, probed) -> list[tuple[Path, Run, list, list]]:
    """(folder, run, passes over training clips, over test clips) in the order in which they were probed."""
    log, found = list(probed.borders.log), []
    for folder, run in ((runs["plain"].folder, runs["plain"]), (runs["cosine"].folder, runs["cosine"]),
                        (probed.again, runs["plain"]._replace(folder=probed.again))):
        train_clips = 9 if run.split == "val" else 12
        parts = []
        for clips in (train_clips, len(TEST)):
            parts.append(log[:clips // 3])
            del log[:clips // 3]
        found.append((folder, run, *parts))
    assert not log
    return found


def test_probes_see_the_runs_own_training_and_test_clips_without_augmentation(runs, probed):
    for _, run, train_passes, test_passes in of_probes(runs, probed):
        trained = {number for one in run.borders.training for number in seen_clips_of(one.inputs)}
        assert trained == set(TRAIN) or (run.split == "val" and len(trained) == 9)
        clips = [[number for one in part for number in seen_clips_of(one.inputs)] for part in (train_passes,
                                                                                               test_passes)]
        assert sorted(clips[0]) == sorted(trained) and clips[1] == list(TEST)
        for passes in (train_passes, test_passes):
            assert not any(one.training for one in passes) and not any(is_cropped_or_mirrored(whole(passes)[1]))
            assert {*map(tuple, seen_frames(whole(passes)[1]))} == {(0, 2) if run.split == "val" else (1,)}


def test_probes_are_fitted_on_standardised_encoder_features_of_the_training_clips(runs, probed):
    fits, asked = iter(probed.fits), iter(probed.asked)
    for _, run, train_passes, test_passes in of_probes(runs, probed):
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


def test_probes_json_names_each_probe_and_the_gap_is_audio_minus_visual(runs, probed):
    for place, (folder, run, *_) in enumerate(of_probes(runs, probed)):
        told = json.loads((folder / "probes.json").read_text())
        audio, visual, both = (said(3 * place + number) for number in range(3))
        assert len({audio, visual, both}) == 3
        expected = {"audio": audio, "visual": visual, "concatenated": both, "gap": audio - visual,
                    "best_epoch": BEST, "inverse_penalty": 0.25, "n_train": 9 if run.split == "val" else 12,
                    "n_test": 6}
        assert told == pytest.approx(expected) and probed.answers[folder] == told


def percent(values: Sequence[float]) -> str:
    values = 100 * np.array(values)
    return f"{values.mean():.2f}" + (f" +- {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def test_the_printed_table_has_probes_and_logits_of_each_run_and_means_over_seeds(runs, probed):
    head, _, *rows = probed.table
    assert head == ["run", "audio probe", "visual probe", "probe of both", "probes' gap", "network",
                    "its audio logits", "its visual logits"]
    figures = {}
    for place, (folder, *_) in enumerate(of_probes(runs, probed)):
        audio, visual, both = (said(3 * place + number) for number in range(3))
        result = json.loads((folder / "result.json").read_text())
        figures[str(folder)] = [audio, visual, both, audio - visual, result["accuracy"], result["accuracy_audio"],
                                result["accuracy_visual"]]
    assert {row[0]: row[1:] for row in rows[:-1]} == {name: [percent([value]) for value in values]
                                                      for name, values in figures.items()}
    first, _, again = figures.values()
    assert re.fullmatch("concat, plain.*: 2 seeds", rows[-1][0])
    assert rows[-1][1:] == [percent(pair) for pair in zip(first, again, strict=True)]


# ---- a run that goes on


def test_events_of_iterations_after_the_last_whole_epoch_do_not_outlive_a_resume(runs, tmp_path):
    folder = copy_of(runs["plain"].real, tmp_path / "run")
    old = next(folder.glob("events.out.tfevents.*"))
    path = old.rename(folder / re.sub(r"tfevents\.\d+", "tfevents.1000000000", old.name))  # files are read by age
    with path.open("ab") as file:  # as if killed in the third epoch: iterations 9 to 11 are flushed, last.pt has 8
        for step, tag in ((step, tag) for step in (9, 10, 11) for tag in ("logit_a", "logit_v")):
            summary = Summary(value=[Summary.Value(tag=f"data/{tag}", simple_value=999.0)])
            RecordWriter(file).write(Event(wall_time=path.stat().st_mtime, step=step, summary=summary)
                                     .SerializeToString())
    before = EventAccumulator(str(folder)).Reload().Scalars("data/logit_a")
    assert [event.step for event in before] == list(range(1, 12))
    with watched() as borders:
        main_CD.main(["--resume", str(folder), "--epochs", "3"])
    expected = true_logits(runs["plain"]._replace(borders=borders))
    for tag, modality in (("logit_a", "audio"), ("logit_v", "visual")):
        found = EventAccumulator(str(folder)).Reload().Scalars(f"data/{tag}")
        assert [event.step for event in found] == list(range(1, 13)), "an iteration is there twice, or lost"
        np.testing.assert_allclose([event.value for event in found[8:]], expected[modality], rtol=1e-4, atol=1e-5)


# ---- tables of a sweep

T95 = {1: 12.706205, 2: 4.302653, 3: 3.182446}  # Student's t, 97.5 %, by degrees of freedom: a printed table
PLAIN = {"fusion_method": "concat", "mmcosine": False, "scaling": 10.0, "modulation": "none", "lam": 0.0,
         "modality": "both"}


class Method(NamedTuple):
    """A row of table.md: its first cell, settings, seeds, and the paper's figure."""

    label: str
    settings: dict
    seeds: tuple[int, ...]
    paper: str = ""


CREMAD = [  # in the order of the table
    Method("concat, plain", {}, (0, 1, 2), "60.08"),
    Method("concat, MMCosine s=2", {"mmcosine": True, "scaling": 2.0}, (1, 2, 3), "63.44"),
    Method("concat, MMCosine s=10", {"mmcosine": True}, (0, 1, 2), "59.82"),
    Method("concat, plain, lam 0.1", {"lam": 0.1}, (0, 1, 2), "61.56"),
    Method("concat, MMCosine s=10, lam 0.1", {"lam": 0.1, "mmcosine": True}, (2, 4), "64.02"),
    Method("concat, plain, ogm_ge", {"modulation": "ogm_ge"}, (0, 1)),
    Method("concat, MMCosine s=10, ogm_ge", {"modulation": "ogm_ge", "mmcosine": True}, (0, 1, 2)),
    Method("concat, plain, gblend", {"modulation": "gblend"}, (1, 2)),
    Method("film, MMCosine s=50", {"fusion_method": "film", "mmcosine": True, "scaling": 50.0}, (0, 1), "61.42"),
    Method("gated, plain", {"fusion_method": "gated"}, (0, 1, 2), "60.48"),
    Method("gated, MMCosine s=10", {"fusion_method": "gated", "mmcosine": True}, (0, 1, 2), "66.40"),
    Method("audio encoder alone, plain", {"modality": "audio"}, (0, 1, 2)),
    Method("visual encoder alone, plain", {"modality": "visual"}, (0, 2)),
]
VOXCELEB = [
    Method("concat, plain", {}, (0, 1), "6.81"),
    Method("concat, MMCosine s=10", {"mmcosine": True}, (0, 1), "4.26"),
    Method("gated, plain", {"fusion_method": "gated"}, (0, 1), "10.39"),
]


def figure_names(measure: str, settings: Mapping[str, object]) -> list[str]:
    if settings["modality"] == "both":
        return [measure, f"{measure}_audio", f"{measure}_visual", f"last_test_{measure}"]
    return [measure, f"last_test_{measure}"]


def write_runs(output: Path, template: Path, dataset: str, methods: Sequence[Method], size: dict, measure: str,
               rng: np.random.Generator) -> dict[tuple[str, int], dict]:
    """Folders of finished runs, whose names say nothing -> {(label, seed): result}."""
    args, result = (json.loads((template / name).read_text()) for name in ("args.json", "result.json"))
    for name in [name for name in result if "accuracy" in name or name in ("n_test", "pretrained")]:
        del result[name]
    written = {}
    for method in methods:
        settings = {**PLAIN, **method.settings}
        for seed in method.seeds:
            folder = output / f"{rng.integers(10**9):09d}"
            folder.mkdir(parents=True)
            encoders = {"audio_encoder": "se_resnet34", "visual_encoder": "resnet34"} if measure == "eer" else {}
            own = {**settings, **encoders, "dataset": dataset, "random_seed": seed, "run_name": folder.name,
                   "command": f"python main.py --random_seed {seed} --x {rng.integers(10**6)}"}
            rewrite(folder / "args.json", {**args, **own})
            names = figure_names(measure, settings)
            content = {**result, **{name: own[name] for name in result.keys() & own.keys()}, "seed": seed,
                       "fusion": settings["fusion_method"], **invented(rng, [*names, "epoch_seconds"]), **size,
                       "demo": dataset == "demo",
                       "git_commit": "c0ffee" if seed else "decade"}
            if settings["modality"] != "both":
                content[f"{measure}_{settings['modality']}"] = content[measure]  # as evaluation counts both
            rewrite(folder / "result.json", content)
            written[method.label, seed] = content
    return written


class Tables(NamedTuple):
    output: Path
    results: dict[str, dict[tuple[str, int], dict]]
    sections: dict[str, str]
    printed: str


@pytest.fixture(scope="module")
def tables(runs, tmp_path_factory) -> Tables:
    output, rng = tmp_path_factory.mktemp("sweep"), np.random.default_rng(3)
    template = runs["plain"].real
    trials = {"n_test": 4708, "trials": {"vox1": 27270, "vox2": 9822}}
    results = {"CREMAD": write_runs(output, template, "CREMAD", CREMAD, {"n_test": 744}, "accuracy", rng),
               "VoxCeleb": write_runs(output, template, "VoxCeleb", VOXCELEB, trials, "eer", rng),
               "demo": write_runs(output, template, "demo", CREMAD[:1], {"n_test": 50}, "accuracy", rng)}
    ended = next(path.parent for path in output.glob("*/result.json"))
    for name, kept in (("unfinished", ["args.json"]), ("resumed", ["args.json", "result.json"])):
        (output / name).mkdir()
        for file in kept:
            shutil.copy(ended / file, output / name)
    rewrite(output / "resumed/args.json", {**json.loads((ended / "args.json").read_text()), "epochs": 77})
    printed: list[str] = []
    with patch("builtins.print", lambda *parts, **_: printed.extend(map(str, parts))):
        sweep.main(["--output", str(output), "--report_only"])
    text = (output / "table.md").read_text()
    parts = re.split(r"^## (\w+)", text, flags=re.MULTILINE)[1:]
    return Tables(output, results, dict(zip(parts[::2], parts[1::2], strict=True)), "\n".join(printed))


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]


def both_tables(section: str) -> tuple[list[list[str]], list[list[str]]]:
    """(means, differences), each with its head and a line of dashes."""
    means, _, differences = section.partition("Points to the joint plain network with the same fusion")
    return cells(means), cells(differences)


def values_of(results, method: Method, name: str) -> dict[int, float]:
    return {seed: results[method.label, seed][name] for seed in method.seeds}


def shown(measure: str, method: Method) -> dict[str, str]:
    """{column: figure}"""
    modality = {**PLAIN, **method.settings}["modality"]
    if modality != "both":
        return {modality: measure}
    return {"joint": measure, "audio": f"{measure}_audio", "visual": f"{measure}_visual"}


with_two_measures = pytest.mark.parametrize(("dataset", "methods", "measure"), [
    ("CREMAD", CREMAD, "accuracy"), ("VoxCeleb", VOXCELEB, "eer")], ids=["accuracy", "eer"])


def plain_of_each_fusion(methods: Sequence[Method]) -> dict[str, Method]:
    return {method.settings.get("fusion_method", "concat"): method for method in methods
            if {**PLAIN, **method.settings} in ({**PLAIN, "fusion_method": f} for f in ("concat", "film", "gated"))}


def time(results, method: Method, methods: Sequence[Method]) -> str:
    """Of an epoch, in the mean over the seeds, as a multiple of the plain network's."""
    plain = plain_of_each_fusion(methods).get(method.settings.get("fusion_method", "concat"))
    if not plain:
        return ""
    mine, theirs = (list(values_of(results, one, "epoch_seconds").values()) for one in (method, plain))
    return f"{np.median(mine) / np.median(theirs):.2f}x"


@with_two_measures
def test_table_md_has_mean_std_seeds_last_epoch_and_the_papers_figure_of_every_method_in_order(
        tables, dataset, methods, measure):
    (head, dashes, *rows), _ = both_tables(tables.sections[dataset])
    assert head == ["", "n", "joint", "audio", "visual", "last epoch", "paper", "time"] and set(dashes) == {"---"}
    expected = []
    for method in methods:
        results, columns = tables.results[dataset], shown(measure, method)
        three = [percent([*values_of(results, method, columns[kind]).values()]) if kind in columns else ""
                 for kind in ("joint", *MODALITIES)]
        last = percent([*values_of(results, method, f"last_test_{measure}").values()])
        compared = time(results, method, methods)
        expected.append([method.label, str(len(method.seeds)), *three, last, method.paper, compared])
    assert rows == expected


def difference(mine: Mapping[int, float], plain: Mapping[int, float]) -> str:
    """Exactly, in fractions, up to the root: method minus plain over the seeds of both."""
    seeds = sorted(set(mine) & set(plain))
    if len(seeds) < 2:
        return "n/a"
    pairs = [100 * (Fraction(mine[seed]) - Fraction(plain[seed])) for seed in seeds]
    mean = sum(pairs) / len(pairs)
    variance = sum((pair - mean) ** 2 for pair in pairs) / (len(pairs) - 1)
    half = T95[len(pairs) - 1] * (float(variance) / len(pairs)) ** 0.5
    low, high = float(mean) - half, float(mean) + half
    star = " *" if low * high > 0 else ""
    return f"{float(mean):+.2f} [{low:+.2f}, {high:+.2f}]{star}, n={len(pairs)}"


def test_the_printed_quantiles_are_students():
    assert {df: round(stats.t.isf(0.025, df), 6) for df in T95} == T95


@with_two_measures
def test_table_md_pairs_every_method_by_seed_with_the_joint_plain_network_of_its_fusion(
        tables, dataset, methods, measure):
    _, (head, _, *rows) = both_tables(tables.sections[dataset])
    assert head == ["", "joint", "audio", "visual", "p of joint, Holm"]
    results = tables.results[dataset]
    plain = plain_of_each_fusion(methods)
    assert plain.keys() == {"concat", "gated"}
    expected, p_values = [], {}
    for method in methods:
        if method in plain.values():
            continue
        baseline = plain.get(method.settings.get("fusion_method", "concat"))
        mine = dict(shown(measure, method))
        if len(mine) == 1:
            mine["joint"] = measure  # an encoder alone stands against the joint network
        row = [method.label]
        for kind in ("joint", *MODALITIES):
            if not baseline or kind not in mine:
                row.append("n/a")
                continue
            pair = (values_of(results, method, mine[kind]),
                    values_of(results, baseline, shown(measure, baseline)[kind]))
            row.append(difference(*pair))
            if kind == "joint" and row[-1] != "n/a":
                p_values[method.label] = stats.ttest_rel(*([one[seed] for seed in sorted(set(pair[0]) & set(pair[1]))]
                                                           for one in pair)).pvalue
        expected.append(row)
    assert [row[:-1] for row in rows] == expected
    assert {row[0]: row[-1] for row in rows} == {row[0]: "n/a" for row in expected} | corrected(p_values)


def corrected(p_values: Mapping[str, float]) -> dict[str, str]:
    """Holm: the i-th smallest of m times m - i, and none below a smaller one's; as they are printed."""
    ordered = sorted(p_values, key=p_values.get)
    times = [p_values[name] * (len(ordered) - place) for place, name in enumerate(ordered)]
    found = {name: min(1.0, max(times[:place + 1])) for place, name in enumerate(ordered)}
    return {name: f"{p:.3f}" if p >= 0.001 else "<0.001" for name, p in found.items()}


def test_an_interval_without_zero_is_starred_and_one_with_zero_is_not(runs, tmp_path):
    written = write_runs(tmp_path, runs["plain"].real, "stars", CREMAD[:1] + CREMAD[2:3], {"n_test": 9}, "accuracy",
                         np.random.default_rng(0))
    shifts = {"accuracy": (0.05, 0.051, 0.052), "accuracy_audio": (-0.05, -0.051, -0.052),
              "accuracy_visual": (0.05, -0.05, 0.001)}
    for path in tmp_path.glob("*/result.json"):
        result = json.loads(path.read_text())
        if result["mmcosine"]:
            plain = written["concat, plain", result["seed"]]
            rewrite(path, {**result, **{name: plain[name] + by[result["seed"]] for name, by in shifts.items()}})
    sweep.main(["--output", str(tmp_path), "--report_only"])
    row = both_tables((tmp_path / "table.md").read_text())[1][2]
    assert row[1].startswith("+5.10 [+4.85, +5.35] *, n=3") and row[2].startswith("-5.10 [-5.35, -4.85] *, n=3")
    assert row[3].startswith("+0.03 [-12.") and "*" not in row[3]


def test_a_table_says_its_measure_its_demo_data_its_noise_and_its_commits(tables):
    sections = tables.sections
    assert ": accuracy %, higher is better" in sections["CREMAD"].splitlines()[0]
    assert ": equal error rate %, lower is better" in sections["VoxCeleb"].splitlines()[0]
    assert "DEMO DATA" in sections["demo"].splitlines()[0]
    assert "DEMO" not in sections["CREMAD"] + sections["VoxCeleb"]
    results = tables.results["CREMAD"].values()
    mean = np.mean([result["accuracy"] for result in results])
    noise = 100 * (mean * (1 - mean) / 744) ** 0.5
    told = f"One of 744 clips is 0.134 points, the binomial standard error is {noise:.1f}."
    assert told in sections["CREMAD"] and "binomial" not in sections["VoxCeleb"]
    commits = Counter(result["git_commit"] for result in results)
    assert all(f"{name} ({count} runs)" in sections["CREMAD"] for name, count in commits.items())
    assert next(iter(results))["selection"] in sections["CREMAD"]
    assert "best test epoch" in sections["CREMAD"]


def test_the_table_is_printed_as_it_is_written(tables):
    assert (tables.output / "table.md").read_text().strip() in tables.printed
    assert str(tables.output / "table.md") in tables.printed and str(tables.output / "runs.csv") in tables.printed


def test_runs_csv_has_every_figure_of_every_finished_run_under_its_name(tables):
    with (tables.output / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [path.parent.name for path in tables.output.glob("*/result.json") if path.parent.name != "resumed"]
    assert sorted(row["run"] for row in rows) == sorted([*names, "resumed", "unfinished"])
    for row in rows:
        if row["run"] in ("resumed", "unfinished"):
            assert not row["accuracy"] and not row["modalities"] and row["--fusion_method"]
            continue
        result = json.loads((tables.output / row["run"] / "result.json").read_text())
        plain = {name: value for name, value in result.items() if not isinstance(value, (dict, list))}
        assert plain.keys() >= {"git_commit", "command", "seed", "mmcosine", "scaling", "modality"}
        if "trials" in result:
            plain["trials"] = next(iter(result["trials"].values()))
        settings = json.loads((tables.output / row["run"] / "args.json").read_text())
        for name, cell in row.items():
            value = settings.get(name[2:]) if name.startswith("--") else plain.get(name)
            if name not in ("run", "modalities") and not (name.startswith("--") and not cell):
                nothing = "None" if name.startswith("--") else ""
                assert cell == (nothing if value is None else str(value)), name
        assert plain.keys() <= row.keys()
        assert {name for name in plain if row[name] == ""} == {name for name in plain if plain[name] is None}
    rows = [row for row in rows if row["modalities"]]
    order = [(row["dataset"], row["fusion"], row["modality"]) for row in rows]
    assert [modality for *_, modality in order] == sorted([m for *_, m in order], key=lambda m: m != "both")
    methods = [(row["run"], row["seed"]) for row in rows if row["dataset"] == "CREMAD"]
    placed = {(method.label, seed): place for place, (method, seed) in enumerate(
        (method, seed) for method in CREMAD for seed in sorted(method.seeds))}
    by_command = {result["command"]: placed[key] for key, result in tables.results["CREMAD"].items()}
    commands = [row["command"] for row in rows if row["dataset"] == "CREMAD"]
    assert [by_command[command] for command in commands] == list(range(len(methods))), "in the table's order, by seed"


def test_the_tables_come_out_of_the_csv_alone(tables, capsys):
    sweep.main(["--table_of", str(tables.output / "runs.csv")])
    assert capsys.readouterr().out.strip() == (tables.output / "table.md").read_text().strip()
    assert "In no table, for want of a result: 2 runs: resumed, unfinished." in tables.printed


# ---- what reaches the runs of a sweep

ENTRY = """
import json, sys
from pathlib import Path

if __name__ == "__main__":
    argv = sys.argv[1:]
    given = {flag[2:]: value for flag, value in zip(argv, argv[1:]) if flag.startswith("--")}
    folder = Path(given["ckpt_path"]) / given["run_name"]
    with folder.with_name(folder.name + ".argv").open("a") as file:
        file.write(json.dumps(argv) + "\\n")
    if "--resume" not in argv:
        folder.mkdir()
        own = {"random_seed": int(given["random_seed"]), "mmcosine": given["mmcosine"] == "True"}
        (folder / "args.json").write_text(json.dumps({**ARGS, **own}))
        (folder / "last.pt").touch()
        if own["random_seed"] == 4:
            sys.exit("entry.py: error: as if killed")
    (folder / "result.json").write_text(json.dumps(RESULT))
else:
    from main_CD import get_args_parser, parse
"""


@pytest.fixture
def entry(runs, tmp_path) -> Path:
    """A script with main_CD.py's flags that writes down what it was started with. Seed 4 ends at its first start."""
    result = json.loads((runs["plain"].real / "result.json").read_text())
    args = json.loads((runs["plain"].real / "args.json").read_text())
    args = {**{name: args[name] for name in ("modality", "fusion_method", "modulation", "lam", "scaling")},
            "dataset": "demo", "epochs": 7}
    path = tmp_path / "entry.py"
    path.write_text(f"ARGS = {args!r}\nRESULT = {({**result, 'epochs': 7})!r}\n{ENTRY}")
    return path


def started(output: Path) -> dict[str, list[list[str]]]:
    """{run: argv of each of its starts}"""
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()]
            for path in output.glob("*.argv")}


def asked(argv: Sequence[str]) -> tuple:
    args = main_CD.get_args_parser().parse_args(argv)
    return (args.random_seed, args.fusion_method if args.modality == "both" else args.modality,
            args.scaling if args.mmcosine else None, args.modulation, args.alpha, args.lam)


GRID = ["--random_seed", "3", "4", "--fusion_method", "concat", "gated", "--mmcosine", "False", "True",
        "--scaling", "2", "5", "--modulation", "none", "ogm", "--alpha", "0.4", "--lam", "0", "0.5", "--demo"]
REST = ["--", "--epochs", "7", "--learning_rate", "0.5", "--optimizer", "adam"]


def test_every_point_of_a_grid_reaches_the_entry_script_once_with_the_flags_for_all(entry, tmp_path, capsys):
    sweep.main(["--script", str(entry), "--output", str(tmp_path / "out"), "--dry_run", *GRID, *REST])
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line[:2] == ["python", str(entry)] for line in lines)
    default = main_CD.get_args_parser().get_default("alpha")
    expected = [(seed, fusion, scale, method, 0.4 if method == "ogm" else default, lam) for seed in (3, 4)
                for fusion in ("concat", "gated") for scale in (None, 2.0, 5.0) for method in ("none", "ogm")
                for lam in (0.0, 0.5)]
    found = [asked(line[2:]) for line in lines]
    assert sorted(found, key=repr) == sorted(expected, key=repr) and default != 0.4
    assert [one[0] for one in found] == sorted(one[0] for one in found), "all of a seed before the next"
    for line in lines:
        args = main_CD.get_args_parser().parse_args(line[2:])
        assert (args.train, args.demo, args.epochs, args.learning_rate, args.optimizer) == (True, True, 7, 0.5, "adam")
        assert args.ckpt_path == tmp_path / "out" and args.resume is None
        assert not args.mmcosine or "--scaling" in line, line
        assert args.mmcosine or "--scaling" not in line, "a setting without meaning is left out"
    assert len({line[line.index("--run_name") + 1] for line in lines}) == len(expected)


def test_runs_are_started_with_what_dry_run_tells_and_started_again_resumed_or_skipped(entry, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["--random_seed", "3", "4", "5", "--mmcosine", "False", "True", "--scaling", "10", "--workers", "2",
            "--demo", *REST]

    def main(*flags: str) -> list:
        return sweep.main(["--script", str(entry), "--output", str(out), *flags, *argv])

    main("--dry_run")
    told = {line[-1]: line[2:] for line in map(shlex.split, capsys.readouterr().out.splitlines())}
    assert len(told) == 6
    with pytest.raises(Exception, match="2 of 6 runs failed"):
        main()
    assert started(out) == {name: [line] for name, line in told.items()}
    (out / "demo-concat-plain-seed5" / "result.json").unlink()  # as if killed after an epoch
    for name in ("last.pt", "result.json"):  # as if killed before its first
        (out / "demo-concat-mmcosine10-seed5" / name).unlink()
    capsys.readouterr()
    main("--dry_run")
    again = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("# ") and line.endswith("is done") for line in again) == 2
    finished = main()
    for name, starts in started(out).items():
        begun = "seed4" in name or name == "demo-concat-plain-seed5"
        resumed = [*told[name], "--resume", str(out / name)]
        assert starts[1:] == ([resumed] if begun else [told[name]] if "mmcosine10-seed5" in name else []), name
    assert len(finished) == 6
    assert {path.stem for path in out.glob("*.log")} == told.keys()


RECIPES = {
    "ablation_fusion": {(fusion, scale, "none", 0.0) for fusion in ("concat", "film", "gated")
                        for scale in (None, 2, 50)},
    "ablation_scaling": {("concat", scale, "none", 0.0) for scale in (None, 2, 5, 10, 30)},
    "ablation_contrastive": {("concat", scale, "none", lam) for scale in (None, 2) for lam in (0.0, 0.01, 0.1, 1.0)},
    "ablation_ogm_ge": {("concat", scale, method, 0.0) for scale in (None, 2) for method in ("none", "ogm_ge")},
    "ablation_probes": {("concat", scale, "none", 0.0) for scale in (None, 2)},
}


def test_every_ablation_is_the_grid_that_its_head_promises_over_three_seeds(tmp_path, capsys):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    assert {path.stem for path in REPO.glob("scripts/ablation_*.sh")} == RECIPES.keys()
    for name, expected in RECIPES.items():
        done = subprocess.run(["bash", f"scripts/{name}.sh", "--dry_run"], cwd=REPO, capture_output=True, text=True,
                              check=True, env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)})
        script, *argv = done.stdout.splitlines()
        assert (REPO / script).resolve() == REPO / "scripts/sweep.py"
        sweep.main(argv)
        lines = [shlex.split(line)[2:] for line in capsys.readouterr().out.splitlines()]
        found = [asked(line) for line in lines]
        assert sorted(found, key=repr) == sorted(((seed, fusion, scale, method, found[0][4], lam) for seed in range(3)
                                                  for fusion, scale, method, lam in expected), key=repr), name
        assert {line[line.index("--ckpt_path") + 1] for line in lines} == {f"runs/{name}"}


# ---- scores


def rates(scores: Sequence[float], labels: Sequence[int], threshold: float) -> tuple[float, float]:
    """(misses, false alarms) when scores from `threshold` on are taken for the same identity."""
    missed = [score < threshold for score, label in zip(scores, labels, strict=True) if label == 1]
    alarms = [score >= threshold for score, label in zip(scores, labels, strict=True) if label == 0]
    return float(np.mean(missed)), float(np.mean(alarms))


def test_scores_of_each_system_are_matched_to_their_trials_and_drawn_as_misses_over_false_alarms(tmp_path, capsys):
    rng = np.random.default_rng(2)
    labels = np.arange(100) % 4 == 0  # 25 targets, 75 non-targets
    names = [(f"id{number}/a.wav", f"id{number + 100 * (not same)}/b.wav") for number, same in enumerate(labels)]
    (tmp_path / "trials").write_text("".join(f"{same:d} {a} {b}\n" for same, (a, b) in zip(labels, names, strict=True)))
    systems = {"ours.txt": rng.normal(size=100) + 2.0 * labels, "theirs.txt": rng.normal(size=100) + 1.0 * labels}
    for name, scores in systems.items():
        order = rng.permutation(100)
        (tmp_path / name).write_text("".join(f"{scores[i]} {names[i][0]} {names[i][1]}\n" for i in order))
    files = [str(tmp_path / name) for name in systems]
    with pictures() as found:
        told = score.main(["--trials", str(tmp_path / "trials"), "--scores", *files, "--p_target", "0.05", "0.3",
                           "--c_miss", "3", "--c_fa", "2", "--det", str(tmp_path / "d.png")])
    printed = capsys.readouterr().out
    assert "100 trials, 25 targets" in printed
    lines = {line.get_label(): line.get_xydata() for line in found["d"].axes[0].lines}
    for name, scores in systems.items():
        thresholds = [*scores, np.inf]
        every = np.array([rates(scores, labels, threshold) for threshold in thresholds])
        for p in (0.05, 0.3):
            cost = (3 * p * every[:, 0] + 2 * (1 - p) * every[:, 1]).min() / min(3 * p, 2 * (1 - p))
            assert told[str(tmp_path / name)][f"min_dcf_{p}"] == pytest.approx(cost)
            assert f"min_dcf_{p} {cost:.5f}" in next(line for line in printed.splitlines() if f"{name}: EER" in line)
        near = np.abs(every[:, 0] - every[:, 1]).argmin()
        eer = told[str(tmp_path / name)]["eer"]
        assert every[near].min() - 1e-9 <= eer <= every[near].max() + 1e-9, "between misses and false alarms there"
        assert f"{tmp_path / name}: EER {100 * eer:.4f} %" in printed
        label, points = next((label, points) for label, points in lines.items() if name in label)
        assert label.endswith(f"(EER {eer:.2%})")
        drawn_rates = {tuple(pair) for pair in stats.norm.cdf(points).round(4)}
        inside = {tuple(pair) for pair in every[:, ::-1].clip(1e-6, 1 - 1e-6).round(4)}  # false alarms to the right
        assert inside == drawn_rates and {pair[::-1] for pair in inside} != inside
    assert told[str(tmp_path / "ours.txt")]["eer"] < told[str(tmp_path / "theirs.txt")]["eer"]
    axes = found["d"].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("false alarms (%)", "misses (%)")


# ---- preparations: a film whose red rises to the right, blue to the bottom, green from frame to frame; half a tone of
# 440 Hz and then 1320 Hz, on the left channel alone

SECONDS, RATE, WIDTH, HEIGHT = 2, 25, 192, 128
GREEN = np.linspace(20, 235, SECONDS * RATE).round()  # of each frame


def write_film(path: Path, codec: str, sound: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[..., 0], picture[..., 2] = np.linspace(40, 215, WIDTH), np.linspace(40, 215, HEIGHT)[:, None]
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=RATE, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p",
                                     bit_rate=9_000_000)
        audio = container.add_stream(sound, rate=44100, layout="stereo") if sound else None
        for green in GREEN:
            picture[..., 1] = green
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if audio:
            wave = np.stack([two_tones(44100), np.zeros(SECONDS * 44100)])
            planar = audio.format.name.startswith("flt")
            samples = wave.astype(np.float32) if planar else (32767 * wave.T.reshape(1, -1)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp" if planar else "s16", layout="stereo")
            frame.sample_rate = 44100
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def two_tones(rate: int, first: float = 440, second: float = 1320) -> np.ndarray:
    time = np.arange(SECONDS * rate) / rate
    return 0.5 * np.sin(2 * np.pi * np.where(time < SECONDS / 2, first, second) * time)


class Seen(NamedTuple):
    """Of an extracted picture: the frame's number, its shape, and its colours at left, right, top and bottom."""

    frame: int
    shape: tuple[int, ...]
    left: float
    right: float
    top: float
    bottom: float


def look(path: Path) -> Seen:
    picture = cv2.imread(str(path))[..., ::-1].astype(float)
    green = picture[..., 1].mean()
    return Seen(int(np.abs(GREEN - green).argmin()), picture.shape, picture[:, :3, 0].mean(), picture[:, -3:, 0].mean(),
                picture[:3, :, 2].mean(), picture[-3:, :, 2].mean())


def is_upright(seen: Seen) -> bool:
    return np.abs(np.array(seen[2:]) - [40, 215, 40, 215]).max() < 14


def hear(path: Path) -> tuple[int, list[int], float, float]:
    """(sample rate, loudest frequency of each half, height of the waves, seconds)"""
    samples, rate = soundfile.read(path)
    assert samples.ndim == 1 and soundfile.info(path).subtype == "PCM_16"
    loudest = []
    for half in np.split(samples[:len(samples) // 2 * 2], 2):
        middle = half[len(half) // 4:]
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
        loudest.append(round(spectrum.argmax() * rate / len(middle) / 20) * 20)
    return rate, loudest, 2 ** 0.5 * float(samples.std()), len(samples) / rate


def next_command(printed: str) -> list[str]:
    """The flags of the command that the preparation names."""
    return shlex.split(printed.split("Next: python ")[1].splitlines()[0])


def lists(root: Path) -> dict[str, dict[str, str]]:
    """{"train", "test": {clip: class}}"""
    return {name: dict(line.split(",") for line in (root / f"{name}.csv").read_text().splitlines())
            for name in ("train", "test")}


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("films")
    return {"flv": write_film(root / "a.flv", "flv"), "mpg": write_film(root / "a.mpg", "mpeg2video", "mp2"),
            "mp4": write_film(root / "a.mp4", "mpeg4", "aac")}


def make_cremad(root: Path, flv: Path) -> list[str]:
    names = [f"{1001 + actor}_DFA_{emotion}_XX" for actor in range(8) for emotion in ("SAD", "ANG", "FEA")]
    for folder in ("AudioWAV", "VideoFlash"):
        (root / folder).mkdir(parents=True)
    soundfile.write(root / "a.wav", two_tones(16000), 16000)
    for name in names:
        (root / "VideoFlash" / f"{name}.flv").symlink_to(flv)
        (root / "AudioWAV" / f"{name}.wav").symlink_to(root / "a.wav")
    return names


def test_prepare_cremad_takes_the_middle_frames_at_its_fps_and_splits_as_it_is_told(tmp_path, films, capsys):
    names = make_cremad(tmp_path, films["flv"])
    argv = ["--data_root", str(tmp_path), "--fps", "2", "--test_fraction", "0.25", "--workers", "2"]
    assert prepare_cremad.main(argv) == {"clips": 24, "failed": 0, "train": 18, "test": 6}
    command = next_command(capsys.readouterr().out)
    args = main_CD.get_args_parser().parse_args(command[1:])
    assert (command[0], args.data_root, args.fps, args.train) == ("main_CD.py", tmp_path, 2, True)
    for name in names[:2]:
        seen = [look(path) for path in sorted((tmp_path / "Image-02-FPS" / name).iterdir())]
        assert [one.frame for one in seen] == [6, 18, 31, 43]  # at 0.25, 0.75, 1.25, 1.75 s
        assert all(map(is_upright, seen)) and seen[0].shape == (HEIGHT, WIDTH, 3)
    assert (tmp_path / "stat.csv").read_text().split() == ["ANG", "FEA", "SAD"]
    first = lists(tmp_path)
    assert {**first["train"], **first["test"]} == {name: name.split("_")[2] for name in names}
    assert Counter(first["test"].values()) == {"ANG": 2, "FEA": 2, "SAD": 2}
    assert len({name[:4] for name in first["test"]} & {name[:4] for name in first["train"]}) > 0
    found = {}
    for flags in (["--seed", "0"], ["--seed", "1"], ["--split", "speaker"], ["--split", "speaker", "--seed", "1"]):
        for name in ("train.csv", "test.csv", "stat.csv"):
            (tmp_path / name).unlink()
        prepare_cremad.main([*argv, *flags])
        found[tuple(flags)] = lists(tmp_path)
    capsys.readouterr()
    assert found["--seed", "0"] == first != found["--seed", "1"]
    for flags in (("--split", "speaker"), ("--split", "speaker", "--seed", "1")):
        actors = {side: {name[:4] for name in clips} for side, clips in found[flags].items()}
        assert (len(actors["train"]), len(actors["test"])) == (6, 2) and not actors["train"] & actors["test"]
    assert found["--split", "speaker"] != found["--split", "speaker", "--seed", "1"]


def test_prepare_grid_cuts_the_asked_word_of_the_asked_speaker_out_of_sound_and_picture(tmp_path, films, capsys):
    grid, words = tmp_path / "grid", ["two", "two", "six", "six", "two", "six"]
    for number, word in enumerate(words):
        for speaker, end in (("s3", ".mpg"), ("s1", ".mpg"), ("align", ".align")):
            (grid / speaker).mkdir(parents=True, exist_ok=True)
            path = grid / speaker / f"{'other' if speaker == 's1' else 'clip'}{number}{end}"
            if end == ".mpg":
                path.symlink_to(films["mpg"])
            else:  # the letter from 0.2 to 0.6 s, the digit from 1.2 to 1.8
                path.write_text("0 1000 sil\n1000 2000 bin\n2000 3000 blue\n3000 5000 at\n5000 15000 f\n"
                                f"15000 30000 sp\n30000 45000 {word}\n45000 47000 now\n47000 50000 sil\n")
    box = ["--rows", "64", "128", "--columns", "48", "192", "--workers", "2"]
    for column, seconds, tone, frames in (("digit", 0.72, 1320, [33, 37, 41]), ("letter", 0.52, 440, [7, 10, 12])):
        root = tmp_path / column
        argv = ["--grid_root", str(grid), "--data_root", str(root), "--speaker", "s3", "--column", column,
                "--test_fraction", "0.34", *box]
        prepare_grid.main(argv)
        command = next_command(capsys.readouterr().out)
        args = main_CD.get_args_parser().parse_args(command[1:])
        assert (command[0], args.data_root, args.dataset) == ("main_CD.py", root, column)
        rate, loudest, height, length = hear(root / "AudioWAV/clip0.wav")
        assert (rate, loudest) == (16000, [tone, tone]) and length == pytest.approx(seconds, abs=0.001)
        assert height == pytest.approx(0.25, abs=0.03), "the mean of a tone and silence"
        seen = [look(path) for path in sorted((root / "Image-01-FPS/clip0").iterdir())]
        assert [one.frame for one in seen] == frames, "at 1/4, 1/2 and 3/4 of the word"
        assert seen[0].shape == (64, 144, 3)
        at = [40 + 175 * 48 / 191, 215, 40 + 175 * 64 / 127, 215]
        assert np.abs(np.array(seen[0][2:]) - at).max() < 14
        found = lists(root)
        expected = {f"clip{i}": "F" if column == "letter" else word.upper() for i, word in enumerate(words)}
        assert {**found["train"], **found["test"]} == expected
        assert len(found["test"]) == 2


def test_prepare_ssw60_makes_what_main_ssw_reads_at_the_asked_rates_and_sizes(tmp_path, films, capsys):
    (tmp_path / "taxa.csv").write_text("label,common_name\n0,Snow Goose\n1,Wood Duck\n")
    for table in ("video_ml", "audio_ml", "images_inat", "images_nabirds"):
        rows = [f"{split}{label},{label},{split}" for split in ("train", "test") for label in (0, 1)]
        (tmp_path / f"{table}.csv").write_text("\n".join(["asset_id,label,split", *rows]) + "\n")
        (tmp_path / table).mkdir()
        for row in rows:
            path = tmp_path / table / row.split(",")[0]
            if table == "video_ml":
                path.with_suffix(".mp4").symlink_to(films["mp4"])
            elif table == "audio_ml":
                stereo = np.stack([two_tones(32000, 700, 300), np.zeros(SECONDS * 32000)], 1)
                soundfile.write(path.with_suffix(".wav"), stereo, 32000)
            else:
                cv2.imwrite(str(path.with_suffix(".jpg")), np.full((70, 80, 3), 99, np.uint8))
    found = prepare_ssw60.main(["--data_root", str(tmp_path), "--fps", "3", "--sample_rate", "22050", "--short_side",
                                "64", "--workers", "2"])
    assert found == {"listed": 16, "failed": 0, "without_sound": 0}
    command = next_command(capsys.readouterr().out)
    args = main_SSW.get_args_parser().parse_args(command[1:])
    assert (command[0], args.data_root, args.fps, args.audio_frontend) == ("main_SSW.py", tmp_path, 3, "ogm_ge")
    for split in ("train", "test"):
        seen = [look(path) for path in sorted((tmp_path / f"video_ml-3fps/{split}1").iterdir())]
        assert [one.frame for one in seen] == [4, 12, 20, 29, 37, 45]  # (i + 1/2) / 3 seconds
        assert all(map(is_upright, seen)) and seen[0].shape == (64, 96, 3)
        rate, loudest, height, length = hear(tmp_path / f"video_ml-22050Hz/{split}1.wav")
        assert (rate, loudest) == (22050, [440, 1320]) and height == pytest.approx(0.25, abs=0.02)
        assert length == pytest.approx(SECONDS, abs=0.1)
        rate, loudest, height, length = hear(tmp_path / f"audio_ml-22050Hz/{split}1.wav")
        assert (rate, loudest) == (22050, [700, 300]) and length == pytest.approx(SECONDS, abs=0.01)
        assert height == pytest.approx(0.25, abs=0.02)


def test_prepare_voxceleb_makes_each_sides_own_list_with_the_voices_of_the_audio_folder(tmp_path, films, capsys):
    names = [f"id{person}/v{video}/{utterance:05d}" for person in (1, 2, 3) for video in (1, 2) for utterance in (1, 2)]
    (tmp_path / "tone.wav").parent.mkdir(exist_ok=True)
    soundfile.write(tmp_path / "tone.wav", np.stack([two_tones(44100, 880, 220), np.zeros(2 * 44100)], 1), 44100)
    for name in names:
        for folder, source in (("video", films["mp4"]), ("audio", tmp_path / "tone.wav")):
            path = tmp_path / folder / f"{name}{source.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(source)
    argv = ["--video", str(tmp_path / "video"), "--data_root", str(tmp_path / "out"), "--workers", "2"]
    sides = {"train": ["--fps", "1.5", "--audio", str(tmp_path / "audio")], "test": ["--fps", "1"]}
    commands = {}
    for split, flags in sides.items():
        prepare_voxceleb.main([*argv, "--split", split, *flags])
        commands[split] = main_Vox.get_args_parser().parse_args(next_command(capsys.readouterr().out)[1:])
        assert commands[split].data_root == tmp_path / "out"
    assert commands["train"].train and not commands["test"].train
    for split, tones, frames in (("train", [880, 220], [8, 25, 41]), ("test", [440, 1320], [12, 37])):
        rate, loudest, height, _ = hear(tmp_path / "out" / split / "wav" / f"{names[5]}.wav")
        assert (rate, loudest) == (16000, tones) and height == pytest.approx(0.25, abs=0.02)
        seen = [look(path) for path in sorted((tmp_path / "out" / split / "faces" / names[5]).iterdir())]
        assert [one.frame for one in seen] == frames and seen[0].shape == (224, 224, 3)
        middle = [40 + 175 * 32 / 191, 40 + 175 * 159 / 191, 40, 215]  # the square in the middle
        assert np.abs(np.array(seen[0][2:]) - middle).max() < 14
    rows = (tmp_path / "out/train.csv").read_text().splitlines()
    assert sorted(rows) == sorted(f"{name}.wav,{name},{name.split('/')[0]},3" for name in names)
    pairs = [row.split(",") for row in (tmp_path / "out/test_pairs.csv").read_text().splitlines()]
    assert all(label == str(int(a.split("/")[0] == b.split("/")[0])) for label, a, b in pairs)
    assert Counter(label for label, *_ in pairs) == {"1": 18, "0": 18}  # all pairs of four utterances, as many others
    assert {name.removesuffix(".wav") for _, *both in pairs for name in both} == set(names)
    (tmp_path / "out/test_pairs.csv").unlink()
    prepare_voxceleb.main([*argv, "--split", "test", "--fps", "1", "--seed", "1"])
    assert [row.split(",") for row in (tmp_path / "out/test_pairs.csv").read_text().splitlines()] != pairs


# ---- the benchmark


def test_benchmark_divides_the_clips_it_has_computed_by_the_time_that_takes(monkeypatch, capsys, tmp_path,
                                                                            tiny_encoders):
    with watched() as borders:
        def clock() -> float:  # a second a training pass, a tenth one of evaluation, hardly any for a look
            clock.looks += 1
            return len(borders.training) + len(borders.evaluation) / 10 + clock.looks / 10**6 + clock.decoding

        def decode(*arguments: object) -> None:  # six seconds
            clock.decoding += 6
            pack(*arguments)

        clock.looks = clock.decoding = 0
        pack = packing.pack
        monkeypatch.setattr(packing, "pack", decode)
        monkeypatch.setattr("time.perf_counter", clock)
        monkeypatch.setattr(machine_speed, "MATRIX", {"cpu": 8})
        monkeypatch.setattr(machine_speed, "COPIED", {"cpu": 8})
        found, = benchmark.main(["--batch_size", "2", "--clips", "4", "--rounds", "1", "--image_size", "64",
                                 "--amp", "off", "--csv", str(tmp_path / "rows.csv"), *MACHINE])
    monkeypatch.undo()
    for what, expected in (("bare step", 2), ("epoch, cache off", 2), ("epoch, cache ram", 2), ("evaluation", 20),
                           ("first epoch, cache off", 2), ("first epoch, cache ram", 0.5)):
        assert found[what] == pytest.approx(expected, rel=1e-3), what
    assert 0 < found["waiting, cache off"] < 1e-4 and 0.1 < found["memory, GB"] < 100
    assert (len(borders.training), len(borders.evaluation)) == (13, 4)  # one counts operations; two rounds
    crops = [tuple(seen.inputs["visual"].flatten().tolist()) for seen in borders.training[1:]]
    assert len(set(crops)) == 4, "two batches of either loader; bare steps take the first of them again and again"
    lines = capsys.readouterr().out.splitlines()
    assert any(re.search(r"epoch, cache ram +2\.0 +[+-]0\.0% over the bare steps", line) for line in lines)
    with (tmp_path / "rows.csv").open() as file:
        assert float(next(csv.DictReader(file))["evaluation"]) == pytest.approx(20, rel=1e-3)


def test_the_benchmark_tells_a_folder_that_is_not_there_before_it_measures(tmp_path):
    with pytest.raises(InputError, match=r"--csv .*rows\.csv: there is no folder .*none, make it first"):
        benchmark.main(["--csv", str(tmp_path / "none" / "rows.csv"), "--clips", "1000000"])


def test_the_benchmark_tells_how_long_steps_wait_and_what_making_a_loader_takes(monkeypatch):
    now = [0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Slow:  # five seconds to make, three a batch
        batch_sampler = ()

        def training(self, dataset: object) -> "Slow":
            now[0] += 5
            return self

        def __iter__(self) -> Iterator[int]:
            for number in range(2):
                now[0] += 3
                yield number

    watched = benchmark.Watched(Slow(), None)
    for _ in watched:
        now[0] += 10
    assert (watched.made, watched.waited) == (5, 6)


def test_the_benchmark_counts_the_operations_of_a_training_step(tiny_encoders):
    with FakeTensorMode():
        network = AVClassifier(6, mmcosine=True)  # two ResNet-18
        learner = Learner(network, Compute(torch.device("cpu"), torch.float32, {}), "sgd", 0.1, 0, 10, 0.1)
        inputs = [torch.randn(2, 1, 257, 299), torch.randn(2, 3, 1, 224, 224)]
        batch = Batch(inputs, torch.zeros(2, dtype=torch.int64), 1.0, 0.0)
        assert benchmark.operations(benchmark.Setting("", None, learner, {}, batch)) == pytest.approx(27.7, rel=0.01)
