"""main_SSW.py run for real: which clips, which parts of them and which weights every number and table is of.

The figures are computed again from the checkpoints in the run's folder, from files that the test wrote itself.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from harness import Pass, Started, accuracies, joined, loaded, redrawn, start
from marked_ssw60 import (
    CLASSES,
    CLIPS,
    FEW,
    SECONDS,
    SHORT,
    SILENT,
    SIZE,
    UNRELIABLE,
    as_evaluated,
    heard_clips,
    heard_from,
    imagenet_weights,
    make_marked_birds,
    numbers,
    seen_clips,
    seen_crops,
    seen_frames,
)
from tiny_encoders import TinyAVClassifier
from torch import Tensor

from main_SSW import main
from models import AVClassifier, ClassifierOutput, MultimodalClassifier

pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")

BOTH = ("audio", "visual")
OF_JOINT = ("sum", True, 20.0)  # fusion, mmcosine, and the scale that SSW60 has by default
PHOTOGRAPHS = ("images_inat", "images_nabirds")
RATE = 0.05


def flags(data: Path, folder: Path, *more: str) -> list[str]:
    return ["--train", "--dataset", "birds", "--data_root", str(data), "--ckpt_path", str(folder), "--run_name", "run",
            "--image_size", str(SIZE), "--audio_seconds", str(SECONDS), "--num_workers", "0", "--device", "cpu",
            "--amp", "off", "--use_tensorboard", "False", *more]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_marked_birds(tmp_path_factory.mktemp("ssw") / "birds")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> Iterator[dict[str, Tensor]]:
    with imagenet_weights(tmp_path_factory.mktemp("torchvision")) as state:
        yield state


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> dict[str, Started]:
    """{modality: run}: encoders pretrained on recordings and on photographs, one epoch each."""
    on = {"audio": ("audio_ml",), "visual": PHOTOGRAPHS}
    return {name: start(main, flags(data, tmp_path_factory.mktemp(name), "--modality", name, "--epochs", "1",
                                      "--pretrain_on", *on[name])) for name in BOTH}


@pytest.fixture(scope="module")
def epochs_of_joint(data) -> list[Callable]:
    """Of three epochs the second is the best. In it the modalities differ in their accuracy, and no class is taken for
    another as often as the other way round."""
    test = numbers("test", "video_ml")

    def wanted(fits: Callable[[float, float, float], bool]) -> Callable:
        def holds(output: ClassifierOutput) -> bool:
            table = confusions(output, test)[0]
            measured = accuracies(output, kinds(test), BOTH)
            each = [measured[f"accuracy{after}"] for after in ("", "_audio", "_visual")]
            return (table != table.T).any() and fits(*each)

        return redrawn(lambda run: stacked(data, test), holds, "fc_x", "fc_y")

    return [wanted(lambda *of: of[0] < 0.4), wanted(lambda *of: of[0] > 0.4 and len({*of}) == 3),
            wanted(lambda *of: of[0] < 0.3)]


@pytest.fixture(scope="module")
def joint(data, alone, tmp_path_factory, epochs_of_joint) -> Started:
    """Both pretrained encoders on the videos, three epochs of five updates, no validation."""
    folder = tmp_path_factory.mktemp("joint")
    argv = flags(data, folder, "--epochs", "3", "--batch_size", "2", "--fusion_method", "sum", "--mmcosine",
                 "--learning_rate", str(RATE), "--lr_decay_step", "2", "--lr_decay_ratio", "0.5", *pretrained(alone))
    return start(main, argv, steer=dict(zip((5, 10, 15), epochs_of_joint, strict=True)))


def pretrained(alone: dict[str, Started]) -> list[str]:
    return [word for name in BOTH for word in (f"--{name}_pretrain", str(alone[name].folder / "best.pt"))]


def highest(records: Sequence[dict], name: str) -> int:
    """The place of the first of the highest."""
    return max(range(len(records)), key=lambda place: records[place][name])


@pytest.fixture(scope="module")
def held_out(data, tmp_path_factory) -> Started:
    """--val_fraction on the videos whose bird is heard, two frames each."""
    test = reliable("test")

    def wanted(fits: Callable[[float, float], bool]) -> Callable:
        def left(run: Started) -> list[int]:
            return sorted({*reliable("train")} - {*numbers_of(run.borders.training)})

        def steer(network: MultimodalClassifier, run: Started) -> None:
            clips = [*left(run), *test]

            def holds(output: ClassifierOutput) -> bool:
                right = output.logits.argmax(1) == torch.tensor(kinds(clips))
                return fits(right[:-len(test)].float().mean().item(), right[-len(test):].float().mean().item())

            redrawn(lambda _: stacked(data, clips, num_frames=2), holds)(network, run)

        return steer

    argv = flags(data, tmp_path_factory.mktemp("held_out"), "--epochs", "2", "--batch_size", "5", "--val_fraction",
                 "0.34", "--num_frames", "2", "--reliable_audio_only", "--learning_rate", "0.1")
    first = wanted(lambda val, test: val > 0.5 > test)
    second = wanted(lambda val, test: val < 0.5 <= test)
    return start(main, argv, steer={1: first, 2: second})


def reliable(split: str) -> list[int]:
    return [number for number in numbers(split, "video_ml") if number not in UNRELIABLE]


# ---- the other route: outputs by the weights in a checkpoint, counted one by one


@cache
def of_weights(data: Path, checkpoint: Path, clips: tuple[int, ...] = tuple(numbers("test", "video_ml")),
               fusion: str = OF_JOINT[0], mmcosine: bool = OF_JOINT[1], scaling: float = OF_JOINT[2],
               modalities: Sequence[str] = BOTH, num_frames: int = 3, front_end: str = "mmcosine",
               fps: int = 1) -> ClassifierOutput:
    model = loaded(TinyAVClassifier(len(CLASSES), fusion, mmcosine, scaling, modalities), checkpoint)
    with torch.no_grad():
        return model(*stacked(data, clips, modalities, num_frames, fps, front_end))


def stacked(data: Path, clips: Sequence[int], modalities: Sequence[str] = BOTH, *how: object,
            **named: object) -> list[Tensor]:
    """What evaluation should take of the clips, of each modality."""
    inputs = [as_evaluated(data, CLIPS[number], modalities, *how, **named) for number in clips]
    return [torch.stack([one[name] for one in inputs]) for name in modalities]


def figures_of(data: Path, checkpoint: Path, clips: Sequence[int], *network: object, modalities: Sequence[str] = BOTH,
               **more: object) -> dict[str, float]:
    output = of_weights(data, checkpoint, tuple(clips), *network, modalities=modalities, **more)
    return accuracies(output, kinds(clips), modalities)


def kinds(clips: Sequence[int]) -> list[int]:
    return [CLIPS[number].kind for number in clips]


def confusions(output: ClassifierOutput, clips: Sequence[int]) -> list[np.ndarray]:
    """Of the joint and each modality's logits: how many clips of class i were taken for class j, [i, j]."""
    tables = []
    for logits in (output.logits, *output.modality_logits):
        table = np.zeros((len(CLASSES), len(CLASSES)), int)
        for true, taken in zip(kinds(clips), logits.argmax(1).tolist(), strict=True):
            table[true, taken] += 1
        tables.append(table)
    return tables


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Seen(NamedTuple):
    """The number of a clip and what the network got of it."""

    number: int
    inputs: dict[str, Tensor]


def clips_of(passes: Sequence[Pass]) -> list[Seen]:
    """In their order; asserts that sound and frames are of one clip."""
    inputs, _ = joined(passes)
    if "visual" not in inputs:
        found = heard_clips(inputs["audio"])
    else:
        found = seen_clips(inputs["visual"])
        heard = heard_clips(inputs["audio"]) if "audio" in inputs else found
        assert heard == [None if "audio" in inputs and number in SILENT else number for number in found]
    return [Seen(number, {name: part[place] for name, part in inputs.items()}) for place, number in enumerate(found)]


def numbers_of(passes: Sequence[Pass]) -> list[int]:
    return [clip.number for clip in clips_of(passes)]


def assert_training_figures(run: Started) -> None:
    """Those in the records are of the epoch's own outputs, and labels are places in the order of taxa.csv's labels."""
    for epoch, record in zip(run.epochs(), run.records(), strict=True):
        inputs, output = joined(epoch.training)
        expected = accuracies(output, kinds(numbers_of(epoch.training)), list(inputs))
        assert {name: record[f"train_{name}"] for name in expected} == pytest.approx(expected, rel=1e-4)


def assert_evaluated_as_they_should(data: Path, passes: Sequence[Pass], **how: object) -> None:
    for clip in clips_of(passes):
        expected = as_evaluated(data, CLIPS[clip.number], list(clip.inputs), **how)
        for name, part in clip.inputs.items():
            torch.testing.assert_close(part, expected[name], rtol=0, atol=2e-4)


# ---- what the network gets


def test_videos_are_trained_on_and_evaluated_by_the_split_column_sound_with_its_frames(joint):
    test = Counter(numbers("test", "video_ml"))
    for epoch in joint.epochs()[:-1]:
        assert Counter(numbers_of(epoch.training)) == Counter(numbers("train", "video_ml"))
        assert Counter(numbers_of(epoch.evaluation)) == test
    last = Counter(numbers_of(joint.epochs()[-1].evaluation))
    assert last == {number: 2 for number in test}, "after the last epoch, and for the tables of the best one"
    assert len({tuple(numbers_of(epoch.training)) for epoch in joint.epochs()}) == 3


def test_training_takes_any_part_of_a_sound_and_a_random_frame_of_each_third_in_one_crop_a_clip(joint):
    clips = clips_of(joint.borders.training)
    sounds = torch.stack([clip.inputs["audio"] for clip in clips])
    visual = torch.stack([clip.inputs["visual"] for clip in clips])
    begins = [begin for clip, begin in zip(clips, heard_from(sounds), strict=True)
              if clip.number not in (*SILENT, *SHORT)]
    assert min(begins) > -0.03 and max(begins) < 1.23 and min(begins) < 0.3 and max(begins) > 0.9
    frames, crops = seen_frames(visual), seen_crops(visual)
    for clip, found in zip(clips, frames, strict=True):
        if clip.number in FEW:
            assert all(frame in part for frame, part in zip(found, ({0}, {0, 1}, {1}), strict=True))
        else:
            assert [frame // 2 for frame in found] == [0, 1, 2]
    assert len({tuple(found) for found in frames}) >= 6
    assert all(np.ptp(crop, axis=0).max() < 8 for crop in crops), "of all frames of a clip"
    left, right = np.array([crop[0] for crop in crops]).T
    assert (left < right).any() and (left > right).any(), "mirrored and not"
    assert np.mean((np.minimum(left, right) > 46) | (np.maximum(left, right) < 209)) > 0.8, "cropped"
    assert len({(clip.number, *crop[0].round()) for clip, crop in zip(clips, crops, strict=True)}) == len(clips)


def test_evaluation_takes_the_middle_of_the_sound_and_of_each_third_of_the_whole_frames(joint, data):
    assert_evaluated_as_they_should(data, joint.borders.evaluation)
    assert {clip.inputs["visual"].shape[1] for clip in clips_of(joint.borders.evaluation)} == {3}


def test_videos_without_sound_are_silence_and_counted_over_all_splits(joint):
    for clip in clips_of([*joint.borders.training, *joint.borders.evaluation]):
        assert (clip.number in SILENT) == (not clip.inputs["audio"].any())
    assert joint.result["n_without_sound"] == len(SILENT) == 2
    assert "2 of 16 videos have no sound stream" in joint.printed


def test_each_encoder_is_pretrained_on_the_training_split_of_its_collections_and_chosen_on_val_where_there_is_one(
        alone, data):
    collections = {"audio": ("audio_ml",), "visual": PHOTOGRAPHS}
    for modality, run in alone.items():
        train, val, test = (Counter(numbers(split, *collections[modality])) for split in ("train", "val", "test"))
        assert {name for one in run.borders.log if isinstance(one, Pass) for name in one.inputs} == {modality}
        for epoch in run.epochs():
            assert Counter(numbers_of(epoch.training)) == train
            assert Counter(numbers_of(epoch.evaluation[:1])) == (val or test)
        assert set(numbers_of(run.epochs()[-1].evaluation)) == {*val, *test}
        assert (run.result["n_train"], run.result["n_val"], run.result["n_test"]) == (
            train.total(), val.total(), test.total())
        assert ("val_accuracy" in run.records()[0]) == bool(val)
        assert_training_figures(run)
        assert_evaluated_as_they_should(data, run.borders.evaluation)
        expected = figures_of(data, run.folder / "best.pt", list(test), "concat", False, 20.0, modalities=(modality,))
        assert {name: run.result[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert {one.inputs["visual"].shape[2] for one in alone["visual"].borders.training} == {1}, "a photograph: one frame"


def test_val_clips_of_a_collection_choose_the_epoch_together_with_those_held_out_by_the_seed(data, tmp_path):
    argv = flags(data, tmp_path, "--modality", "visual", "--pretrain_on", "images_inat", "--val_fraction", "0.5",
                 "--epochs", "1")
    run = start(main, argv)
    (epoch,) = run.epochs()
    train, own, test = (set(numbers(split, "images_inat")) for split in ("train", "val", "test"))
    left, val = set(numbers_of(epoch.training)), set(numbers_of(epoch.evaluation[:1]))
    assert left < train and val == own | (train - left)
    assert Counter(kinds(sorted(train - left))) == {0: 1, 1: 1, 2: 1}
    assert set(numbers_of(epoch.evaluation[1:])) == test
    assert (run.result["n_train"], run.result["n_val"]) == (len(left), len(val)) == (3, 7)
    other = start(main, [*argv, "--random_seed", "1", "--run_name", "other"], updates=1)
    assert set(numbers_of(other.borders.training)) not in (left, train)


# ---- pretrained encoders


def features_of_first_pass(run: Started, model: AVClassifier) -> dict[str, tuple[Tensor, Tensor]]:
    """{modality: (what the run's encoder gave first, what the model's gives of the same)}."""
    first = run.borders.training[0]
    with torch.no_grad():
        return {name: (first.output.features[place], model.train().get_submodule(f"{name}_net")(first.inputs[name]))
                for place, name in enumerate(first.inputs)}


def test_a_joint_run_starts_from_the_best_weights_of_both_pretrained_encoders(joint, alone):
    model = TinyAVClassifier(len(CLASSES), *OF_JOINT)
    for name in BOTH:
        best = torch.load(alone[name].folder / "best.pt", weights_only=True)["model"]
        encoder = {key: value for key, value in best.items() if key.startswith(f"{name}_net.")}
        model.load_state_dict(encoder, strict=False)
    for found, expected in features_of_first_pass(joint, model).values():
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_imagenet_weights_go_into_the_visual_encoder_alone(data, imagenet, tmp_path, real_encoders):
    joint = start(main, flags(data, tmp_path, "--batch_size", "2", "--num_frames", "1", "--imagenet"),
                    copies={1: tmp_path / "start"}, updates=1)
    model = AVClassifier(len(CLASSES))
    model.load_state_dict(torch.load(tmp_path / "start/last.pt", weights_only=True)["model"])
    own = {name: value for name, value in imagenet.items() if not name.startswith("fc.")}
    assert own.keys() == model.visual_net.state_dict().keys()
    assert all(torch.equal(value, imagenet[name]) for name, value in model.visual_net.state_dict().items())
    assert not [name for name, value in model.audio_net.state_dict().items() if value.dim() == 4
                and torch.equal(value, imagenet[name])]
    for found, expected in features_of_first_pass(joint, model).values():
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    only = AVClassifier(len(CLASSES), modalities=("visual",))
    only.visual_net.load_state_dict(own)
    alone = start(main, flags(data, tmp_path / "alone", "--modality", "visual", "--batch_size", "2", "--imagenet",
                                "--pretrain_on", *PHOTOGRAPHS), updates=1)
    found, expected = features_of_first_pass(alone, only)["visual"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


# ---- which weights and clips the figures and tables are of


def test_classes_are_in_the_order_of_the_labels_and_training_figures_those_of_the_outputs(joint, held_out):
    assert joint.result["classes"] == held_out.result["classes"] == CLASSES == ["Marsh Owl", "Yew Tit", "Ash Wren"]
    assert_training_figures(joint)
    assert_training_figures(held_out)


def test_the_best_epoch_is_the_first_of_the_highest_test_accuracy_and_its_weights_are_kept(joint, data):
    records, result, test = joint.records(), joint.result, numbers("test", "video_ml")
    best = highest(records, "test_accuracy")
    of_best, of_last = (figures_of(data, joint.folder / name, test, *OF_JOINT) for name in ("best.pt", "last.pt"))
    assert result["best_epoch"] == best + 1
    for found in ({name: result[name] for name in of_best}, {name: records[best][f"test_{name}"] for name in of_best}):
        assert found == pytest.approx(of_best, rel=1e-3)
    for found in ({name: result[f"last_test_{name}"] for name in of_last},
                  {name: records[-1][f"test_{name}"] for name in of_last}):
        assert found == pytest.approx(of_last, rel=1e-3)
    assert json.loads((joint.folder / "result.json").read_text()) == result
    assert "test epoch" in result["selection"] and (result["scaling"], result["n_val"]) == (20.0, 0)


def test_tables_are_of_the_best_weights_cell_by_cell_with_the_true_class_in_the_row(joint, data):
    assert_tables(joint, joint.folder, of_weights(data, joint.folder / "best.pt"), numbers("test", "video_ml"))


def assert_tables(run: Started, folder: Path, output: ClassifierOutput, clips: Sequence[int]) -> None:
    tables = confusions(output, clips)
    joint = tables[0]
    rows = read_csv(folder / "per_class.csv")
    assert [row["class"] for row in rows] == CLASSES
    for place, row in enumerate(rows):
        assert int(row["clips"]) == joint[place].sum() == kinds(clips).count(place)
        shares = [table[place, place] / joint[place].sum() for table in tables]
        assert [float(row[f"accuracy_{name}"]) for name in ("joint", *BOTH)] == pytest.approx(shares)
        wrong = {CLASSES[other]: joint[place, other] for other in range(len(CLASSES)) if other != place}
        most = max(wrong, key=wrong.get)
        assert (row["mistaken_for"], int(row["mistaken"])) == ((most, wrong[most]) if wrong[most] else ("", 0))
    pairs = {(pair.pop("class_a"), pair.pop("class_b")): {name: int(value) for name, value in pair.items()}
             for pair in read_csv(folder / "confusions.csv")}
    assert pairs == {(CLASSES[a], CLASSES[b]): {
        "confused": joint[a, b] + joint[b, a], "a_taken_for_b": joint[a, b], "b_taken_for_a": joint[b, a],
        "clips": joint[a].sum() + joint[b].sum()} for a, b in combinations(range(len(CLASSES)), 2)}
    assert [pair["confused"] for pair in pairs.values()] == sorted(
        (pair["confused"] for pair in pairs.values()), reverse=True)
    worst = next(iter(pairs))
    assert f"most confused: {worst[0]} and {worst[1]} ({pairs[worst]['confused']} of" in run.printed
    lines = [line for line in run.lines if "accuracy" in line.axes.get_title(loc="right")
             and not line.label.startswith("_")]
    assert [line.label for line in lines] == ["joint", *BOTH]
    for line, table in zip(lines, tables, strict=True):
        names = [label.get_text() for label in line.axes.get_yticklabels()]
        shown = {names[round(y)]: x for x, y in zip(line.x, line.y, strict=True)}
        assert shown == pytest.approx({name: row[place] / row.sum() for place, (name, row) in
                                       enumerate(zip(CLASSES, table, strict=True))})


def test_held_out_videos_choose_the_epoch_and_the_test_videos_are_reported_by_its_weights(held_out, data):
    train, test = set(reliable("train")), reliable("test")
    val = train - set(numbers_of(held_out.epochs()[0].training))
    assert Counter(kinds(sorted(val))) == {0: 1, 1: 1, 2: 1}
    for place, epoch in enumerate(held_out.epochs()):
        assert set(numbers_of(epoch.training)) == train - val and len(numbers_of(epoch.training)) == 5
        assert sorted(numbers_of(epoch.evaluation[:1])) == sorted(val)
        assert set(numbers_of(epoch.evaluation)) == (val if place == 0 else val | set(test))
    assert_evaluated_as_they_should(data, held_out.borders.evaluation, num_frames=2)
    records, result = held_out.records(), held_out.result
    best = highest(records, "val_accuracy")
    network = ("concat", False, 20.0)
    assert result["best_epoch"] == best + 1 and result["selection"].startswith("best validation epoch")
    for name, record in (("best.pt", records[best]), ("last.pt", records[-1])):
        expected = figures_of(data, held_out.folder / name, sorted(val), *network, num_frames=2)
        assert {figure: record[f"val_{figure}"] for figure in expected} == pytest.approx(expected, rel=1e-3)
    assert {f"last_val_{figure}": result[f"last_val_{figure}"] for figure in expected} == pytest.approx(
        {f"last_val_{figure}": value for figure, value in expected.items()}, rel=1e-3)
    expected = figures_of(data, held_out.folder / "best.pt", test, *network, num_frames=2)
    assert {figure: result[figure] for figure in expected} == pytest.approx(expected, rel=1e-3)
    assert not any(name.startswith("test_") for name in records[0])
    output = of_weights(data, held_out.folder / "best.pt", tuple(test), *network, modalities=BOTH, num_frames=2)
    assert_tables(held_out, held_out.folder, output, test)


def test_only_videos_whose_bird_is_heard_are_used_on_demand_and_the_others_counted(held_out):
    used = {clip.number for clip in clips_of([*held_out.borders.training, *held_out.borders.evaluation])}
    assert used == {*reliable("train"), *reliable("test")}
    assert (held_out.result["n_train"], held_out.result["n_val"], held_out.result["n_test"]) == (5, 3, 6)
    assert "2 of 16 videos left out, 1 of them test videos" in held_out.printed


# ---- evaluated


def test_a_checkpoint_is_evaluated_as_in_its_run_and_its_tables_lie_beside_it(joint, data):
    run = start(main, ["--ckpt_path", str(joint.folder / "last.pt"), "--num_workers", "0"])
    expected = figures_of(data, joint.folder / "last.pt", numbers("test", "video_ml"), *OF_JOINT)
    assert {name: run.result[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert set(numbers_of(run.borders.evaluation)) == set(numbers("test", "video_ml")) and not run.borders.training
    assert_evaluated_as_they_should(data, run.borders.evaluation)
    assert_tables(run, joint.folder / "last_evaluated", of_weights(data, joint.folder / "last.pt"),
                  numbers("test", "video_ml"))
    for what, name in (("joint", "accuracy"), ("audio", "accuracy_audio"), ("visual", "accuracy_visual")):
        line = next(line for line in run.printed.splitlines() if line.startswith(f"{what} "))
        assert line.split()[1:] == [f"{100 * expected[name]:.2f}", "%", name]


def test_frames_and_sound_are_those_prepared_for_the_rate_and_front_end_asked_for(joint, data):
    run = start(main, ["--ckpt_path", str(joint.folder / "best.pt"), "--num_workers", "0", "--fps", "2",
                         "--audio_frontend", "ogm_ge", "--num_frames", "2"])
    how = {"num_frames": 2, "fps": 2, "front_end": "ogm_ge"}
    inputs, _ = joined(run.borders.evaluation)
    clips = seen_clips(inputs["visual"])
    assert set(clips) == set(numbers("test", "video_ml"))
    for place, number in enumerate(clips):
        expected = as_evaluated(data, CLIPS[number], BOTH, **how)
        torch.testing.assert_close(inputs["visual"][place], expected["visual"], rtol=0, atol=2e-4)
        torch.testing.assert_close(inputs["audio"][place].exp(), expected["audio"].exp(), rtol=0, atol=1e-3)
    expected = figures_of(data, joint.folder / "best.pt", numbers("test", "video_ml"), *OF_JOINT, **how)
    assert {name: run.result[name] for name in expected} == pytest.approx(expected, rel=5e-3)


def test_a_pretrained_encoder_is_evaluated_on_the_videos_when_asked(alone, data):
    run = start(main, ["--ckpt_path", str(alone["visual"].folder / "best.pt"), "--num_workers", "0", "--pretrain_on",
                         "video_ml"])
    test = numbers("test", "video_ml")
    assert set(numbers_of(run.borders.evaluation)) == set(test)
    expected = figures_of(data, alone["visual"].folder / "best.pt", test, "concat", False, 20.0, modalities=("visual",))
    assert {name: run.result[name] for name in expected} == pytest.approx(expected, rel=1e-3)
