"""Pictures of finished runs, the figures in them against oracles, and what training records for them."""

import io
import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataset.errors import InputError
from main_CD import main as train
from scripts import analyse
from scripts.analyse import FIGURES, main, open_runs
from utils.experiments import figures
from utils.experiments.features import angles, seen_by_head
from utils.experiments.finished_run import FinishedRun
from utils.experiments.flags import Machine

pytestmark = pytest.mark.usefixtures("tiny_encoders")

MACHINE = ["--device", "cpu", "--num_workers", "0"]
HERE = Machine(device="cpu", num_workers=0)


@pytest.fixture
def runs(finished_runs) -> dict[str, FinishedRun]:
    return {name: FinishedRun(folder, HERE) for name, folder in finished_runs.items()}


# ---- what training records


def lengths(path, name="fc_out") -> list[list[float]]:
    """||W_m,c|| of a checkpoint, by loops in Python over its columns: audio's are the first half."""
    weight = torch.load(path, weights_only=True)["model"][f"fusion_module.{name}.weight"].tolist()
    half = len(weight[0]) // 2
    return [[math.sqrt(math.fsum(x * x for x in row[columns])) for row in weight]
            for columns in (slice(half), slice(half, None))]


@pytest.mark.parametrize("name", ["plain", "mmcosine"])
def test_recorded_class_norms_are_those_of_the_checkpoints(finished_runs, name):
    folder = finished_runs[name]
    norms = np.load(folder / "class_norms.npy")
    assert (norms.shape, norms.dtype) == ((2, 2, 6), np.float32)
    np.testing.assert_allclose(norms[-1], lengths(folder / "last.pt"), rtol=1e-5)
    best = json.loads((folder / "result.json").read_text())["best_epoch"]
    np.testing.assert_allclose(norms[best - 1], lengths(folder / "best.pt"), rtol=1e-5)
    means = [json.loads(line)["train_weight_norm_visual"]
             for line in (folder / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(norms[:, 1].mean(1), means, rtol=1e-6)


def test_a_resumed_run_continues_the_recorded_norms_bit_for_bit(finished_runs, tiny_data, tmp_path):
    argv = ["--train", "--dataset", "tiny", "--data_root", str(tiny_data), "--epochs", "1", "--learning_rate", "0.01",
            "--ckpt_path", str(tmp_path), "--run_name", "run", "--amp", "off", *SMALL]
    train(argv)
    assert np.load(tmp_path / "run" / "class_norms.npy").shape == (1, 2, 6)
    (tmp_path / "run" / "class_norms.npy").unlink()  # last.pt knows them too: a kill between two writes loses nothing
    train(["--resume", str(tmp_path / "run"), "--epochs", "2"])
    resumed, whole = (np.load(folder / "class_norms.npy") for folder in (tmp_path / "run", finished_runs["plain"]))
    assert resumed.tobytes() == whole.tobytes()


def test_logits_of_the_events_average_to_those_of_the_epochs(runs):
    for run in runs.values():
        for modality, curve in run.logits().items():
            assert curve[:, 0].tolist() == [1, 2, 3, 4, 5, 6]  # 24 clips in batches of 8, two epochs
            means = curve[:, 1].reshape(2, 3).mean(1)
            np.testing.assert_allclose(means, [record[f"train_logit_{modality}"] for record in run.history], rtol=1e-4)


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


def test_angles_of_a_run_give_its_cosine_logits(runs):
    run = runs["mmcosine"]
    found = analyse.run_angles(run)
    for place, name in enumerate(run.modalities):
        logits = run.test_features.modality_logits[place]
        cosines = [math.cos(math.radians(angle)) for angle in found[name]]
        expected = [logits[clip, label] / 10 for clip, label in enumerate(run.test_features.labels)]
        np.testing.assert_allclose(cosines, expected, atol=1e-5)


def test_tsne_gets_unit_features_under_mmcosine_and_raw_ones_else():
    fused = np.array([[[3.0, 4.0]], [[0.0, 0.5]]], dtype=np.float32)
    assert seen_by_head(fused, mmcosine=False).tolist() == [[3.0, 4.0, 0.0, 0.5]]
    np.testing.assert_allclose(seen_by_head(fused, mmcosine=True), [[0.6, 0.8, 0.0, 1.0]], rtol=1e-6)


def test_confusions_are_shares_of_each_class_and_agree_with_the_accuracy(runs):
    run = runs["mmcosine"]
    shares, features = analyse.confusions(run), run.test_features
    taken = features.modality_logits.sum(0).argmax(1)
    for row in range(6):
        predicted = [p for p, label in zip(taken, features.labels, strict=True) if label == row]
        assert shares[row].tolist() == [predicted.count(column) / 2 for column in range(6)]  # two test clips a class
    assert np.trace(shares) / 6 == pytest.approx(run.result["accuracy"])


# ---- pictures


def is_picture(path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_one_run_has_its_pictures_in_its_folder_and_in_tensorboard(copied_runs):
    folder = copied_runs["plain"]
    written = main([str(folder), *MACHINE])
    assert [path.relative_to(folder).as_posix() for path in written] == [f"figures/{name}.png" for name in FIGURES]
    assert all(map(is_picture, written))
    events = EventAccumulator(str(folder / "figures")).Reload()
    assert set(events.Tags()["images"]) == {f"runs/{name}" for name in FIGURES}
    assert FinishedRun(folder, HERE).logits(), "the pictures' events are not in the way of the run's"


def test_two_runs_have_theirs_beside_the_first(copied_runs):
    (copied_runs["plain"] / "probes.json").write_text(json.dumps({"audio": 0.5, "visual": 0.25}))
    written = main([*map(str, copied_runs.values()), "--use_tensorboard", "False", *MACHINE])
    assert [path.name for path in written] == [f"{name}.png" for name in FIGURES]
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


def test_heat_maps_show_the_recorded_norms(runs):
    figure = FIGURES["weight_norms"](runs, "title")
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:4]]
    for place, (modality, name) in enumerate((m, n) for m in range(2) for n in ("plain", "mmcosine")):
        np.testing.assert_array_equal(shown[place], np.load(runs[name].folder / "class_norms.npy")[:, modality].T)


def test_bars_show_logits_and_probes_with_their_gap(runs, copied_runs, capsys):
    result, path = runs["plain"].result, copied_runs["plain"] / "probes.json"
    probes = {"audio": 0.75, "visual": 0.5, "best_epoch": result["best_epoch"]}
    path.write_text(json.dumps(probes))
    opened = {"plain": FinishedRun(copied_runs["plain"], HERE)}
    bars = FIGURES["gap"](opened, "title").axes[1]
    shown = [patch.get_width() for patch in bars.patches]
    assert shown == [result["accuracy_audio"], 0.75, result["accuracy_visual"], 0.5]
    assert bars.texts[1].get_text() == "+25.0"
    path.write_text(json.dumps({**probes, "best_epoch": 77}))  # as after --resume with more epochs
    assert len(FIGURES["gap"](opened, "title").axes[1].patches) == 2
    assert "probes.json left out: it is not of the best epoch" in capsys.readouterr().out


def test_runs_of_very_different_lengths_are_smoothed_each_by_its_own():
    curves = {name: {"audio": np.stack([np.arange(1, n + 1), np.ones(n)], 1)} for name, n in (("a", 400), ("b", 9))}
    figure = figures.logits(curves, "title")
    thick = [axes.lines[1].get_xydata() for axes in figure.axes]
    assert [len(line) for line in thick] == [391, 9] and all(np.allclose(line[:, 1], 1) for line in thick)


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
