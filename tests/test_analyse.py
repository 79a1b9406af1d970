"""Pictures of finished runs, the figures in them against oracles, and what training records for them."""

import io
import json
import math
import shutil
import threading
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch
from conftest import SMALL
from finished import (
    BEST,
    EPOCHS,
    LABELS,
    MODALITIES,
    copy_of,
    passes_by_run,
    pictures,
    rewrite,
    seen_clips_of,
    true_logits,
    whole,
)
from harness import Borders, watched
from marked_cremad import CLASSES, TEST, is_cropped_or_mirrored, seen_clips, seen_frames
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataset.errors import InputError
from main_CD import main as train
from scripts.analyse import FIGURES, main, open_runs
from utils.experiments import figures
from utils.experiments.features import angles
from utils.experiments.finished_run import FinishedRun
from utils.experiments.flags import Machine

pytestmark = pytest.mark.usefixtures("tiny_encoders")

MACHINE = ["--device", "cpu", "--num_workers", "0"]
HERE = Machine(device="cpu", num_workers=0)


@pytest.fixture
def runs(finished_runs) -> dict[str, FinishedRun]:
    return {name: FinishedRun(folder, HERE) for name, folder in finished_runs.items()}


# ---- what training records


def test_a_resumed_run_continues_the_recorded_norms_bit_for_bit(finished_runs, tiny_data, tmp_path):
    argv = ["--train", "--dataset", "tiny", "--data_root", str(tiny_data), "--epochs", "1", "--learning_rate", "0.01",
            "--ckpt_path", str(tmp_path), "--run_name", "run", "--amp", "off", *SMALL]
    train(argv)
    assert np.load(tmp_path / "run" / "class_norms.npy").shape == (1, 2, 6)
    (tmp_path / "run" / "class_norms.npy").unlink()  # last.pt knows them too: a kill between two writes loses nothing
    train(["--resume", str(tmp_path / "run"), "--epochs", "2"])
    resumed, whole = (np.load(folder / "class_norms.npy") for folder in (tmp_path / "run", finished_runs["plain"]))
    assert resumed.tobytes() == whole.tobytes()


def test_logits_are_found_where_tensorboard_path_put_them(copied_runs, tmp_path):
    folder, elsewhere = copied_runs["plain"], tmp_path / "tb"
    (elsewhere / "plain").mkdir(parents=True)
    for path in folder.glob("events.*"):
        path.rename(elsewhere / "plain" / path.name)
    settings = json.loads((folder / "args.json").read_text())
    assert FinishedRun(folder, HERE).logits() == {}
    (folder / "args.json").unlink()
    (folder / "args.json").write_text(json.dumps({**settings, "tensorboard_path": str(elsewhere)}))
    assert set(FinishedRun(folder, HERE).logits()) == {"audio", "visual"}


# ---- angles, confusions, what t-SNE gets


def test_angles_are_those_of_plane_geometry():
    def at(*degrees):
        return [[3 * math.cos(math.radians(d)), 3 * math.sin(math.radians(d))] for d in degrees]

    fused = np.array([at(10, 200, 45), [*at(90, 359), [0, 0]]], dtype=np.float32)
    weights = np.array([at(70, 10), at(90, 1)], dtype=np.float32)
    expected = [[60, 170, 35], [0, 2, 90]]  # a zero feature is at right angles to everything
    np.testing.assert_allclose(angles(fused, weights, np.array([0, 1, 1])), expected, atol=0.05)


# ---- pictures


def is_picture(path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


DRAWN = [name for name in FIGURES if name != "balance"]  # of runs without a method and without --log_gradients


def test_one_run_has_its_pictures_in_its_folder_and_in_tensorboard(copied_runs):
    folder = copied_runs["plain"]
    written = main([str(folder), *MACHINE])
    assert [path.relative_to(folder).as_posix() for path in written] == [f"figures/{name}.png" for name in DRAWN]
    assert all(map(is_picture, written))
    events = EventAccumulator(str(folder / "figures")).Reload()
    assert set(events.Tags()["images"]) == {f"runs/{name}" for name in DRAWN}
    assert FinishedRun(folder, HERE).logits(), "the pictures' events are not in the way of the run's"


def test_two_runs_have_theirs_beside_the_first(copied_runs):
    (copied_runs["plain"] / "probes.json").write_text(json.dumps({"audio": 0.5, "visual": 0.25}))
    written = main([*map(str, copied_runs.values()), "--use_tensorboard", "False", *MACHINE])
    assert [path.name for path in written] == [f"{name}.png" for name in DRAWN]
    assert {path.parent for path in written} == {copied_runs["plain"].parent / "figures"}
    assert all(map(is_picture, written))
    assert not list(written[0].parent.glob("events.*"))


@pytest.mark.parametrize("name", ["accuracy", "logits", "weight_norms", "angles"])
def test_panels_of_two_runs_have_the_same_axes_and_colour_scales(runs, name):
    figure = FIGURES[name](runs, "title")
    drawn = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(drawn) == (4 if name == "weight_norms" else 2)
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in drawn}) == 1
    assert len({image.get_clim() for axes in drawn for image in axes.images}) == (name == "weight_norms")


def test_a_shorter_run_does_not_cut_a_longer_ones_heat_map():
    norms = np.ones((5, 2, 3))
    figure = figures.weight_norms({"long": norms, "short": norms[:2]}, "title", ("audio", "visual"), "abc")
    assert [axes.get_xlim() for axes in figure.axes[:4]] == [(0.5, 5.5)] * 4


def test_a_thick_curve_is_the_mean_of_the_last_fortieth_of_its_own_run_up_to_that_iteration():
    curves = {name: {"audio": np.stack([np.arange(1, n + 1), np.arange(1, n + 1) ** 2], 1)}
              for name, n in (("long", 400), ("short", 9))}
    long, short = (axes.lines[1].get_xydata() for axes in figures.logits(curves, "title").axes)
    expected = [(last, np.mean([step ** 2 for step in range(last - 9, last + 1)])) for last in range(10, 401)]
    np.testing.assert_allclose(long, expected)
    np.testing.assert_allclose(short, curves["short"]["audio"])  # too short: each iteration by itself


@pytest.mark.parametrize(("iterations", "marker", "promised"), [(1, ".", False), (79, ".", False), (80, "", True)])
def test_a_running_mean_is_promised_where_there_is_one_and_a_single_point_is_seen(iterations, marker, promised):
    curve = np.stack([np.arange(1, iterations + 1), np.ones(iterations)], 1)
    figure = figures.logits({"run": {"audio": curve}}, "title")
    assert figure.axes[0].lines[1].get_marker() == marker
    assert ("running mean" in figure.legends[0].get_title().get_text()) == promised


@pytest.mark.parametrize(("best", "top"), [(0.049, 0.1), (0.3, 0.3), (0.301, 0.4), (1.0, 1.0)])
def test_axes_of_accuracies_end_at_the_next_ten_percent_over_all_runs(best, top):
    runs = {"a": {"joint": np.array([0.01, best])}, "b": {"joint": np.array([0.02])}}
    assert [axes.get_ylim() for axes in figures.accuracy(runs, "title", 1 / 60).axes] == [(0, 1.02 * top)] * 2
    gap = figures.gap({"a": np.array([0.1])}, {"logits": {"rgb": best, "flow": 0.0}}, "title", ["rgb", "flow"])
    assert gap.axes[1].get_xlim() == (0, 1.2 * top) and max(gap.axes[1].get_xticks()) < top + 1e-9


def test_bars_of_the_modalities_stand_beside_each_other_around_their_name_the_first_above():
    bars = {"logits": {"rgb": 0.5, "flow": 0.2}, "probe": {"rgb": 0.6, "flow": 0.7}}
    axes = figures.gap({"a": np.array([0.1])}, bars, "title", ["rgb", "flow"]).axes[1]
    drawn = sorted(axes.patches, key=lambda bar: bar.get_y())  # from above, as the axis points down
    assert axes.yaxis_inverted() and [bar.get_width() for bar in drawn] == [0.5, 0.2, 0.6, 0.7]
    ends = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in drawn]
    assert all(above[1] < below[0] for above, below in pairwise(ends))
    assert [(ends[place][0] + ends[place + 1][1]) / 2 for place in (0, 2)] == pytest.approx(axes.get_yticks())


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize(("classes", "length"), [(10, 12), (20, 24), (6, 3)])
def test_a_legend_of_many_classes_is_inside_the_picture(runs, classes, length):
    points = np.random.default_rng(0).normal(size=(classes, 2)), np.arange(classes)
    names = [f"{c:02d}" + "m" * (length - 2) for c in range(classes)]
    figure = figures.embedding({str(run): points for run in range(runs)}, "title", names)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def test_every_modality_has_its_own_colour_beside_the_joint_one():
    names = ["joint", "audio", "visual", "rgb", "flow", "depth"]
    figure = figures.accuracy({"run": {name: np.array([0.5]) for name in names}}, "title", 0.1)
    assert len({line.get_color() for line in figure.axes[0].lines}) == len(names) + 1  # and chance


def test_angles_on_the_edge_of_a_bin_are_drawn():
    figure = figures.angle_histograms({"run": {"audio": np.full(5, 90.0)}}, "title")
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 1


def test_one_epoch_has_one_tick():
    figure = figures.accuracy({"run": {"joint": np.array([0.5])}}, "title", 0.1)
    figure.canvas.draw()
    assert [tick for tick in figure.axes[0].get_xticks() if 0.9 < tick < 1.1] == [1]


def test_names_of_classes_are_text_of_a_bounded_length():
    classes = ["a$^{$b", "_hidden", "the " + "very " * 20 + "long one"]
    points = (np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) % 3)
    drawn = figures.embedding({"x$^{$y": points}, "ti$^{$tle", classes)
    drawn.canvas.print_png(io.BytesIO())
    names = [text.get_text().strip() for text in drawn.legends[0].get_texts()]
    assert names == [r"a\$^{\$b", "_hidden", "the very very very very…"]
    figures.confusion({"run": np.eye(3)}, "title", classes).canvas.print_png(io.BytesIO())


@pytest.mark.parametrize("name, only, message", [
    ("metrics.jsonl", "accuracy", r"metrics\.jsonl is missing or damaged"),
    ("class_norms.npy", "weight_norms", r"class_norms\.npy is damaged"),
    ("probes.json", "gap", r"probes\.json is missing or damaged")])
def test_damaged_files_are_named(copied_runs, name, only, message):
    path = copied_runs["plain"] / name  # a link to the original
    path.unlink(missing_ok=True)
    path.write_text("{")
    with pytest.raises(InputError, match=message):
        main([str(copied_runs["plain"]), "--only", only, *MACHINE])


def test_runs_in_folders_of_one_name_are_told_apart_by_their_paths(copied_runs, tmp_path):
    twins = [tmp_path / name / "run" for name in ("a", "b")]
    for twin in twins:
        shutil.copytree(copied_runs["plain"], twin)
    assert open_runs(twins, HERE)[0].keys() == {*map(str, twins)}


def test_a_picture_that_cannot_be_drawn_is_left_out_by_name(copied_runs, capsys):
    folder = copied_runs["plain"]
    shutil.copytree(folder, folder.with_name("bare"), ignore=shutil.ignore_patterns("events.*", "class_norms.npy"))
    written = main([str(folder.with_name("bare")), "--only", "logits", "weight_norms", "accuracy", *MACHINE])
    assert [path.name for path in written] == ["accuracy.png"]
    told = capsys.readouterr().out
    assert f"logits.png left out: no TensorBoard events of {folder.with_name('bare')}" in told
    (folder.with_name("bare") / "events.out.tfevents.1").touch()
    assert not main([str(folder.with_name("bare")), "--only", "logits", *MACHINE])
    assert "logits.png left out: no logits in the TensorBoard events of " in capsys.readouterr().out
    assert f"weight_norms.png left out: no class_norms.npy in {folder.with_name('bare')}" in told


# ---- what users get wrong


def test_missing_and_unfinished_runs_are_told_in_a_sentence(copied_runs, tmp_path):
    with pytest.raises(InputError, match=r"^there is no run in \S+/nowhere .*: give the folder that training printed$"):
        main([str(copied_runs["mmcosine"]), str(tmp_path / "nowhere"), *MACHINE])
    (copied_runs["plain"] / "result.json").unlink()
    with pytest.raises(InputError, match=r"^the run in \S+/plain is not finished"):
        main([str(copied_runs["plain"]), *MACHINE])
    assert not (copied_runs["mmcosine"].parent / "figures").exists()


def test_runs_that_cannot_be_compared_are_refused(copied_runs):
    plain, mmcosine = copied_runs.values()
    with pytest.raises(InputError, match="are the same: give each once"):
        main([str(plain), str(plain), *MACHINE])
    result = json.loads((mmcosine / "result.json").read_text())
    (mmcosine / "result.json").unlink()
    (mmcosine / "result.json").write_text(json.dumps({**result, "classes": ["other"]}))
    with pytest.raises(InputError, match=r"mmcosine has other classes than .*plain: draw them one by one"):
        main([str(plain), str(mmcosine), *MACHINE])


# ---- what two pictures show: "cosine" and "plain" of finished.py


class Drawn(NamedTuple):
    """What analyse.py has drawn of both varied_runs, "cosine" first. tsne: (its input, random_state) a run."""

    figures: dict[str, Figure]
    borders: Borders
    tsne: list[tuple[np.ndarray, int]]
    out: Path


POINTS = np.random.default_rng(5).normal(size=(2, len(TEST), 2))  # what t-SNE answers, run by run


@pytest.fixture(scope="module")
def drawn(varied_runs, tmp_path_factory) -> Drawn:
    out, asked = tmp_path_factory.mktemp("drawn") / "pictures", []
    for name, run in varied_runs.items():
        made = {"audio": 0.625, "visual": 0.375} if name == "plain" else {"audio": 0.1875, "visual": 0.8125}
        rewrite(run.folder / "probes.json", {**made, "concatenated": 0.9, "gap": made["audio"] - made["visual"],
                                             "best_epoch": BEST})

    def fit_transform(self: TSNE, x: np.ndarray, y: object = None) -> np.ndarray:
        asked.append((np.asarray(x), self.random_state))
        return POINTS[len(asked) - 1]

    with patch.object(TSNE, "fit_transform", fit_transform), pictures() as found, watched() as borders:
        written = main([str(varied_runs[name].folder) for name in ("cosine", "plain")] + ["--out", str(out), *MACHINE])
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


def test_accuracy_png_draws_each_runs_own_curves_of_the_clips_that_chose_its_epoch(varied_runs, drawn):
    colours = {}
    for name, axes in panels(drawn.figures["accuracy"])[0].items():
        run, found = varied_runs[name], curves(axes)
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


def test_logits_png_draws_what_the_network_said_in_training_of_the_true_class(varied_runs, drawn):
    for name, axes in panels(drawn.figures["logits"])[0].items():
        expected, found = true_logits(varied_runs[name]), curves(axes)
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
    assert len(varied_runs["plain"].borders.training) == 8 and len(varied_runs["cosine"].borders.training) == 6


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


def test_weight_norms_png_has_a_row_a_modality_of_each_runs_recorded_lengths(varied_runs, drawn):
    figure = drawn.figures["weight_norms"]
    for place, row in enumerate(panels(figure, rows=2)):
        assert row["cosine"].get_ylabel() == MODALITIES[place]
        for name, axes in row.items():
            recorded = np.load(varied_runs[name].folder / "class_norms.npy")  # (epochs, M, C)
            np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), recorded[:, place].T)
            left, right, bottom, top = axes.images[0].get_extent()
            assert (left, right) == (0.5, EPOCHS + 0.5) and (bottom, top) == (2.5, -0.5), "epochs to the right"
        names = [text.get_text() for text in row["cosine"].get_yticklabels()]
        assert dict(zip(row["cosine"].get_yticks(), names, strict=True)) == dict(enumerate(CLASSES))
    every = [np.load(run.folder / "class_norms.npy") for run in varied_runs.values()]
    scale = (min(norms.min() for norms in every), max(norms.max() for norms in every))
    assert {axes.images[0].get_clim() for row in panels(figure, rows=2) for axes in row.values()} == {scale}


def test_pictures_are_of_the_test_clips_as_evaluation_takes_them(varied_runs, drawn):
    for name, passes in passes_by_run(drawn.borders).items():
        inputs = whole(passes)
        assert [number for one in passes for number in seen_clips_of(one.inputs)] == list(TEST), "each once"
        assert not any(one.training for one in passes) and not any(is_cropped_or_mirrored(inputs[1]))
        evaluated = varied_runs[name].borders.evaluation
        before = whole([one for one in evaluated if set(seen_clips(one.inputs["visual"])) <= {*TEST}][-2:])
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(inputs, before, strict=True))
    assert seen_frames(inputs[1]) == [[0, 2]] * len(TEST), "the run's own number of frames"


@pytest.fixture(scope="module")
def own(varied_runs, drawn) -> dict[str, dict[str, np.ndarray]]:
    """{run: what its best weights make of the test clips}, computed here."""
    return {name: varied_runs[name].outputs(whole(passes)) for name, passes in passes_by_run(drawn.borders).items()}


def test_angles_png_shows_the_angles_of_fused_features_to_the_weights_of_the_best_epoch(varied_runs, drawn, own):
    for name, axes in panels(drawn.figures["angles"])[0].items():
        fused, weight = own[name]["fused"], varied_runs[name].weights()["fusion_module.fc_out.weight"].double().numpy()
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


def test_the_opened_weights_are_the_best_epochs_and_not_the_last_ones(varied_runs, drawn, own):
    for name, passes in passes_by_run(drawn.borders).items():
        seen = np.concatenate([one.output.modality_logits.numpy() for one in passes], 1)
        np.testing.assert_allclose(seen, own[name]["modality_logits"], rtol=1e-3, atol=2e-3)
        last = varied_runs[name].outputs(whole(passes), "last.pt")["modality_logits"]
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


def test_gap_png_is_audio_minus_visual_over_the_epochs_and_in_bars_with_the_probes(varied_runs, drawn):
    over_epochs, bars = drawn.figures["gap"].axes
    found = {name: next(data for label, data in curves(over_epochs).items() if word in label)
             for name, word in (("cosine", "MMCosine"), ("plain", "plain"))}
    for name, run in varied_runs.items():
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
        result, probes = varied_runs[name].result, json.loads((varied_runs[name].folder / "probes.json").read_text())
        expected += [[result[f"accuracy_{m}"] for m in MODALITIES], [probes[m] for m in MODALITIES]]
    containers = {one.get_label(): one for one in bars.containers}
    for place, modality in enumerate(MODALITIES):
        assert [bar.get_width() for bar in containers[modality]] == [pair[place] for pair in expected]
        middles = [bar.get_y() + bar.get_height() / 2 for bar in containers[modality]]
        assert np.abs(np.subtract(middles, bars.get_yticks())).max() < 0.5, "beside its name"
    assert [(round(text.get_position()[1]), text.get_text()) for text in bars.texts] == [
        (place, f"{100 * (audio - visual):+.1f}") for place, (audio, visual) in enumerate(expected)]
    assert "audio minus visual" in drawn.figures["gap"].get_suptitle()


def test_gap_png_leaves_out_probes_of_another_epoch_than_the_best(varied_runs, tmp_path, capsys):
    folder = copy_of(varied_runs["plain"].folder, tmp_path / "run")
    rewrite(folder / "probes.json", {"audio": 0.5, "visual": 0.25, "best_epoch": BEST + 1})
    with pictures() as found:
        main([str(folder), "--only", "gap", "--use_tensorboard", "False", *MACHINE])
    bars = found["gap"].axes[1]
    assert [text.get_text() for text in bars.get_yticklabels()] == ["logits"]
    assert sorted(bar.get_width() for bar in bars.patches) == sorted(
        varied_runs["plain"].result[f"accuracy_{name}"] for name in MODALITIES)
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


def test_a_mistake_half_way_leaves_no_thread_that_writes_events_later(varied_runs, tmp_path):
    folder = copy_of(varied_runs["plain"].folder, tmp_path / "run")
    (folder / "class_norms.npy").write_text("{")

    def writers() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if type(thread).__module__.startswith("tensorboard")}

    before = writers()
    with pytest.raises(Exception, match=r"class_norms\.npy is damaged"):
        main([str(folder), "--only", "accuracy", "weight_norms", *MACHINE])
    assert writers() <= before
    events = EventAccumulator(str(folder / "figures")).Reload()
    assert events.Tags()["images"] == ["runs/accuracy"], "what was drawn before is there"
