"""main_Vox.py run for real: which utterances, which parts of them and which weights every number, file and curve is of.

The figures are computed again from the checkpoints in the run's folder, from files that the test wrote itself.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from harness import Pass, Started, joined, loaded, redrawn, start
from marked_cremad import pixels
from marked_voxceleb import (
    FEW,
    FIRST,
    HOP,
    IDENTITIES,
    MORE,
    SECOND,
    SECOND_FILE,
    SHORT,
    SIZE,
    TEST,
    TRAIN,
    VOICES,
    Voice,
    as_evaluated,
    heard,
    make_marked_voices,
    seen,
)
from scipy.stats import norm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_encoders import TinySpeakerClassifier

from main_Vox import main
from models import ClassifierOutput

pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")

AUDIO_FRAMES, TEST_FRAMES = 33, 40
RATE = 0.02
BOTH = ("audio", "visual")
HELD_OUT = tuple(voice for voice in TRAIN if voice.identity in ("Carl", "Zoe"))  # four utterances and one
PAIRS = tuple((int(HELD_OUT[a].identity == HELD_OUT[b].identity), a, b) for a in range(5) for b in range(a))
OF_HELD_OUT = {"fusion": "film", "score": "embedding", "classes": 2}
OF_JOINT = {"fusion": "gated", "mmcosine": True, "scaling": 7.0}
FIRST_OF_LAST_EPOCH = 5  # number of an update: three epochs of 9 utterances in batches of 5

Trials = tuple[tuple[int, int, int], ...]  # label, and two places in a list of utterances
Scores = dict[str, np.ndarray]  # {"joint", "audio", "visual": (N,)}


def flags(data: Path, folder: Path, name: str, *more: str) -> list[str]:
    return ["--train", "--dataset", "voices", "--data_root", str(data), "--ckpt_path", str(folder), "--run_name", name,
            "--image_size", str(SIZE), "--audio_frames", str(AUDIO_FRAMES), "--test_frames", str(TEST_FRAMES),
            "--num_workers", "0", "--device", "cpu", "--amp", "off", *more]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_marked_voices(tmp_path_factory.mktemp("vox") / "voices")


@pytest.fixture(scope="module")
def epochs_of_joint() -> list[Callable]:
    """Class weights of three epochs: the second and the third are equally good by the first list, which chooses; the
    second list and its faces prefer the first. Modalities and lists differ in the best epoch."""
    inputs = [as_evaluated(voice, TEST_FRAMES) for voice in TEST]

    def wanted(fits: Callable[[dict[str, float]], bool]) -> Callable:
        def holds(output: ClassifierOutput) -> bool:
            parts = dict(zip(("joint", *BOTH), (output.logits, *output.modality_logits), strict=True))
            scores = [scores_by(parts, trials) for trials in (FIRST, SECOND)]
            measured = {f"{before}{kind}": equal_error_rate(values, labels_of(trials)) for before, trials, by_kind in
                        zip(("", "two_"), (FIRST, SECOND), scores, strict=True) for kind, values in by_kind.items()}
            return fits(measured) and all(map(are_apart, scores, map(labels_of, (FIRST, SECOND))))

        return redrawn(lambda run: [torch.stack([one[name] for one in inputs]) for name in BOTH], holds)

    def equal_by_the_first_list(of: dict[str, float]) -> bool:
        return 0.1 < of["joint"] < 0.25

    return [wanted(lambda of: of["joint"] > 0.3 and of["two_joint"] < 0.17 and of["two_visual"] < 0.13),
            wanted(lambda of: equal_by_the_first_list(of) and of["two_joint"] > 0.17 and of["two_visual"] > 0.13
                   and len({of["two_joint"], of["two_audio"], of["two_visual"]}) == 3),
            wanted(equal_by_the_first_list)]


@pytest.fixture(scope="module")
def joint(data, tmp_path_factory, epochs_of_joint) -> Started:
    """Two modalities, two lists, three epochs of two updates, no validation. Beside its folder lies `killed`, the
    folder as it was in the last epoch."""
    folder = tmp_path_factory.mktemp("joint")
    argv = flags(data, folder, "run", "--epochs", "3", "--batch_size", "5", "--fusion_method", "gated", "--mmcosine",
                 "--scaling", "7", "--learning_rate", str(RATE), "--lr_decay_step", "2", "--lr_decay_ratio", "0.5",
                 "--trials", "test_pairs.csv", f"two={data.parent / SECOND_FILE}")
    return start(main, argv, copies={FIRST_OF_LAST_EPOCH: folder / "killed"},
                 steer=dict(zip((2, 4, 6), epochs_of_joint, strict=True)))


def are_apart(scores: Scores, labels: Sequence[int]) -> bool:
    """Whether no rounding can bring a target before a non-target."""
    targets = np.array(labels) == 1
    return min(np.abs(one[targets][:, None] - one[~targets]).min() for one in scores.values()) > 2e-6


def lowest(records: Sequence[dict], name: str) -> int:
    """The place of the first of the lowest."""
    return min(range(len(records)), key=lambda place: records[place][name])


@pytest.fixture(scope="module")
def held_out(data, tmp_path_factory) -> Started:
    """--val_fraction: the identities of four and of one utterance are held out, so that all pairs are trials."""
    inputs = [as_evaluated(voice, TEST_FRAMES) for voice in (*HELD_OUT, *TEST)]

    def wanted(fits: Callable[[float, float], bool]) -> Callable:
        def holds(output: ClassifierOutput) -> bool:
            parts = {"joint": torch.cat([*output.fused], 1), **dict(zip(BOTH, output.fused, strict=True))}
            val, test = (scores_by({name: rows[part] for name, rows in parts.items()}, trials) for part, trials in
                         ((slice(len(HELD_OUT)), PAIRS), (slice(len(HELD_OUT), None), FIRST)))
            return (are_apart(val, labels_of(PAIRS)) and are_apart(test, labels_of(FIRST))
                    and fits(equal_error_rate(val["joint"], labels_of(PAIRS)),
                             equal_error_rate(test["joint"], labels_of(FIRST))))

        return redrawn(lambda run: [torch.stack([one[name] for one in inputs]) for name in BOTH], holds, "fc_x", "fc_y")

    argv = flags(data, tmp_path_factory.mktemp("held_out"), "run", "--epochs", "2", "--batch_size", "2",
                 "--fusion_method", "film", "--learning_rate", "1e-4", "--val_fraction", "0.5", "--score", "embedding",
                 "--random_seed", "19", "--use_tensorboard", "False")
    return start(main, argv, steer={2: wanted(lambda val, test: val < 0.4 and test < 0.1),
                                    4: wanted(lambda val, test: val > 0.4 and test > 0.1)})


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> dict[str, Started]:
    """{modality: run}, one epoch each; three faces."""
    return {name: start(main, flags(data, tmp_path_factory.mktemp(name), "run", "--modality", name, "--epochs", "1",
                                      "--num_frames", "3", "--batch_size", "8", "--use_tensorboard", "False"))
            for name in BOTH}


# ---- the other route: error rates by their definition, scores from a checkpoint


def error_rates(scores: Sequence[float], labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(misses, false alarms) at every threshold, from rejecting all to accepting all."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    thresholds = [np.inf, *sorted(set(scores.tolist()), reverse=True)]
    accepted = scores >= np.array(thresholds)[:, None]
    return 1 - accepted[:, labels == 1].mean(1), accepted[:, labels == 0].mean(1)


def equal_error_rate(scores: Sequence[float], labels: Sequence[int]) -> float:
    """Where the line through the points of two neighbouring thresholds meets misses = false alarms."""
    miss, alarm = error_rates(scores, labels)
    for k in range(1, len(miss)):
        if miss[k] <= alarm[k]:
            before, after = miss[k - 1] - alarm[k - 1], miss[k] - alarm[k]
            return float(np.interp(0, [after, before], [alarm[k], alarm[k - 1]]))
    raise AssertionError


def min_dcf(scores: Sequence[float], labels: Sequence[int], p: float, c_miss: float = 1, c_fa: float = 1) -> float:
    miss, alarm = error_rates(scores, labels)
    return min(c_miss * p * m + c_fa * (1 - p) * a for m, a in zip(miss, alarm, strict=True)) / min(
        c_miss * p, c_fa * (1 - p))


def figures(scores: Scores, labels: Sequence[int], before: str = "") -> dict[str, float]:
    main, *others = scores.values()
    kinds = zip(list(scores)[1:], others, strict=True)
    return {f"{before}eer": equal_error_rate(main, labels),
            **{f"{before}eer_{kind}": equal_error_rate(values, labels) for kind, values in kinds},
            **{f"{before}min_dcf_{p}": min_dcf(main, labels, p) for p in (0.01, 0.05)}}


def scores_of(checkpoint: Path, trials: Trials, voices: Sequence[Voice] = TEST, **network: object) -> Scores:
    """Cosines by the weights in a checkpoint, the first for the modalities together."""
    return scores_by(vectors_of(checkpoint, tuple(voices), **network), trials)


def scores_by(vectors: Mapping[str, np.ndarray | torch.Tensor], trials: Trials) -> Scores:
    """Cosines between rows (U, K) of each kind."""
    unit = {kind: np.asarray(rows, np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
            for kind, rows in vectors.items()}
    places = np.array(trials)[:, 1:].T
    return {kind: (rows[places[0]] * rows[places[1]]).sum(1) for kind, rows in unit.items()}


@cache
def vectors_of(checkpoint: Path, voices: tuple[Voice, ...], score: str = "logits", modalities: tuple[str, ...] = BOTH,
               classes: int = len(IDENTITIES), fusion: str = "concat", mmcosine: bool = False,
               scaling: float = 10.0) -> dict[str, np.ndarray]:
    """What utterances are compared by, (U, K), together and of each modality."""
    model = loaded(TinySpeakerClassifier(classes, fusion, mmcosine, scaling, modalities), checkpoint)
    inputs = [as_evaluated(voice, TEST_FRAMES) for voice in voices]
    with torch.no_grad():
        output = model(*(torch.stack([one[name] for one in inputs]) for name in modalities))
    parts = dict(zip(modalities, output.modality_logits if score == "logits" else output.fused, strict=True))
    if score == "logits":
        together = sum(parts.values())
    else:
        together = torch.cat([F.normalize(part) if mmcosine else part for part in parts.values()], dim=1)
    vectors = {"joint": together, **(parts if len(parts) > 1 else {})}
    return {kind: rows.double().numpy() for kind, rows in vectors.items()}


def labels_of(trials: Trials) -> list[int]:
    return [label for label, _, _ in trials]


def figures_of_joint(checkpoint: Path) -> dict[str, float]:
    first, second = (scores_of(checkpoint, trials, **OF_JOINT) for trials in (FIRST, SECOND))
    return {**figures(first, labels_of(FIRST)), **figures(second, labels_of(SECOND), "two_")}


def evaluated(run: Started) -> list[list[int]]:
    """The numbers of the utterances that each epoch embedded, in their order."""
    return [[number_of(one, place) for one in epoch.evaluation for place in range(clips(one))]
            for epoch in run.epochs()]


def clips(one: Pass) -> int:
    return len(next(iter(one.inputs.values())))


def number_of(one: Pass, place: int) -> int:
    """The number of an utterance; asserts that it is the voice's and the face's."""
    numbers = {find(one.inputs[name][place])[0] for name, find in (("audio", heard), ("visual", seen))
               if name in one.inputs}
    assert len(numbers) == 1, f"voice and face of two utterances: {numbers}"
    return numbers.pop()


def trained(passes: Sequence[Pass]) -> list[int]:
    return [number_of(one, place) for one in passes for place in range(clips(one))]


# ---- what the network gets


def test_every_training_utterance_comes_once_an_epoch_its_voice_with_its_face(joint):
    orders = [trained(epoch.training) for epoch in joint.epochs()]
    assert [sorted(order) for order in orders] == [[voice.number for voice in TRAIN]] * 3
    assert len({tuple(order) for order in orders}) == 3
    assert [clips(one) for one in joint.epochs()[0].training] == [5, 4]


def test_training_hears_excerpts_from_anywhere_and_evaluation_the_beginning(joint):
    starts: dict[int, list[int]] = {}
    for one in joint.borders.training:
        assert one.inputs["audio"].shape[1] == AUDIO_FRAMES * HOP + MORE
        for excerpt in one.inputs["audio"]:
            number, start = heard(excerpt)
            starts.setdefault(number, []).append(start)
    assert starts.pop(SHORT) == [0, 0, 0], "a short voice is repeated from its beginning"
    assert all(len(set(found)) == 3 for found in starts.values())
    every = [start for found in starts.values() for start in found]
    assert min(every) < 2000 and max(every) > 5000
    assert {heard(excerpt)[1] for one in joint.borders.evaluation for excerpt in one.inputs["audio"]} == {0}


def test_training_sees_a_random_face_of_each_half_of_the_clip_cropped_and_mirrored_anew(joint):
    first, second, looks, mirrored = set(), set(), {}, set()
    for one in joint.borders.training:
        for clip in one.inputs["visual"]:
            number, (early, late) = seen(clip)
            assert (early <= 1 <= late) if number == FEW else (early <= 3 <= late)
            if number != FEW:
                first.add(early)
                second.add(late)
            red = pixels(clip[None])[0, 0].mean(1)[:, [0, -1]].round()  # (T, 2)
            looks.setdefault(number, set()).update(tuple(one.tolist()) for one in red)
            mirrored.update((red[:, 0] > red[:, 1]).tolist())
    assert len(first) >= 3 and len(second) >= 3
    assert all(len(found) >= 5 for found in looks.values()), "six faces of each, each cropped in its own way"
    assert mirrored == {True, False}


def test_each_evaluation_embeds_every_trial_utterance_of_all_lists_once(joint):
    every = sorted(voice.number for voice in TEST)
    first, second, last = evaluated(joint)
    assert sorted(first) == sorted(second) == every
    assert sorted(last[:len(every)]) == sorted(last[len(every):]) == every, "after the last epoch, and the best one"


def test_evaluation_takes_the_first_test_frames_and_face_number_2(joint):
    for one in joint.borders.evaluation:
        for place in range(clips(one)):
            expected = as_evaluated(VOICES[number_of(one, place)], TEST_FRAMES)
            for name in BOTH:
                torch.testing.assert_close(one.inputs[name][place], expected[name], rtol=0, atol=1e-5)
    frames = {tuple(seen(clip)[1]) for one in joint.borders.evaluation for clip in one.inputs["visual"]}
    assert frames == {(2,), (1,)}, "the last one of two faces"


def test_classes_are_the_sorted_identities_and_training_figures_those_of_the_outputs(joint):
    assert joint.result["classes"] == IDENTITIES
    for epoch, record in zip(joint.epochs(), joint.records(), strict=True):
        assert_training_figures(epoch.training, record, IDENTITIES)


def assert_training_figures(passes: Sequence[Pass], record: dict, identities: Sequence[str]) -> None:
    truth = torch.tensor([identities.index(VOICES[number].identity) for number in trained(passes)])
    _, output = joined(passes)
    parts = {"": output.logits, **{f"_{name}": part for name, part in
                                   zip(passes[0].inputs, output.modality_logits, strict=True)}}
    for after, logits in parts.items():
        assert record[f"train_loss{after}"] == pytest.approx(F.cross_entropy(logits, truth).item(), rel=1e-4)
        assert record[f"train_accuracy{after}"] == pytest.approx((logits.argmax(1) == truth).float().mean().item())
        if after:
            logit = logits.gather(1, truth[:, None]).mean().item()
            assert record[f"train_logit{after}"] == pytest.approx(logit, rel=1e-3, abs=1e-4)


# ---- which weights and trials the figures are of


def test_the_best_epoch_is_the_first_of_the_lowest_error_rate_of_the_first_list_and_its_weights_are_kept(joint):
    records, result = joint.records(), joint.result
    best = lowest(records, "test_eer")
    assert (result["best_epoch"], [record["epoch"] for record in records]) == (best + 1, [1, 2, 3])
    of_best, of_last = (figures_of_joint(joint.folder / name) for name in ("best.pt", "last.pt"))
    assert {name: result[name] for name in of_best} == pytest.approx(of_best)
    assert {name: records[best][f"test_{name}"] for name in of_best} == pytest.approx(of_best)
    assert {name: result[f"last_test_{name}"] for name in of_last} == pytest.approx(of_last)
    assert {name: records[-1][f"test_{name}"] for name in of_last} == pytest.approx(of_last)
    assert json.loads((joint.folder / "result.json").read_text()) == result
    assert {torch.load(joint.folder / name, weights_only=True)["epoch"] for name in ("best.pt", "last.pt")} == {
        best + 1, 3}
    assert "test epoch" in result["selection"]
    assert (result["n_train"], result["n_val"], result["n_test"], result["n_identities"], result["trials"]) == (
        len(TRAIN), 0, len(TEST), len(IDENTITIES), {"test_pairs": len(FIRST), "two": len(SECOND)})


def test_the_best_weights_are_evaluated_at_the_scale_asked_for(joint):
    """Cosines of logits do not tell the scale."""
    last = joint.epochs()[-1].evaluation[-3:]  # 12 utterances in batches of 5
    _, output = joined(last)
    vectors = vectors_of(joint.folder / "best.pt", tuple(TEST), **OF_JOINT)
    places = [[voice.number for voice in TEST].index(number) for number in trained(last)]
    assert sorted(places) == list(range(len(TEST)))
    np.testing.assert_allclose(output.logits, vectors["joint"][places], atol=1e-4)
    np.testing.assert_allclose(output.modality_logits[1], vectors["visual"][places], atol=1e-4)


def test_the_printed_table_has_the_best_epoch_left_and_the_last_one_right(joint):
    result = joint.result
    for name, figure in (("joint", "eer"), ("audio", "eer_audio"), ("two visual", "two_eer_visual")):
        row = next(line for line in joint.printed.splitlines() if line.startswith(f"{name} "))
        best, last = (float(cell) for cell in row.removeprefix(name).split())
        assert (best, last) == pytest.approx((100 * result[figure], 100 * result[f"last_test_{figure}"]), abs=0.006)


def test_score_files_hold_the_joint_scores_of_the_best_epoch_in_the_order_of_the_list(joint, held_out):
    for run, name, trials, network in ((joint, "test_pairs", FIRST, OF_JOINT), (joint, "two", SECOND, OF_JOINT),
                                       (held_out, "test_pairs", FIRST, OF_HELD_OUT)):
        scores = scores_of(run.folder / "best.pt", trials, **network)
        assert_score_file(run.folder / f"{name}.scores.txt", trials, scores["joint"])
        assert min(np.abs(scores["joint"] - scores[name]).max() for name in BOTH) > 1e-4


def assert_score_file(path: Path, trials: Trials, scores: np.ndarray) -> None:
    rows = [line.split() for line in path.read_text().splitlines()]
    assert [row[1:] for row in rows] == [[f"{TEST[a].name}.wav", f"{TEST[b].name}.wav"] for _, a, b in trials]
    np.testing.assert_allclose([float(row[0]) for row in rows], scores, atol=1e-5)


# ---- pictures and TensorBoard


def test_det_curves_have_false_alarms_across_and_misses_upwards_of_each_list_and_modality(joint):
    drawn = [line for line in joint.lines if "false alarms" in line.axes.get_xlabel()]
    for before, trials in (("", FIRST), ("two ", SECOND)):
        for kind, scores in scores_of(joint.folder / "best.pt", trials, **OF_JOINT).items():
            place = next(i for i, line in enumerate(drawn) if line.label.startswith(f"{before}{kind} ("))
            curve, dot = drawn[place:place + 2]
            assert "misses" in curve.axes.get_ylabel()
            miss, alarm = error_rates(scores, labels_of(trials))
            np.testing.assert_allclose(norm.cdf(curve.x), alarm, atol=2e-6)
            np.testing.assert_allclose(norm.cdf(curve.y), miss, atol=2e-6)
            rate = equal_error_rate(scores, labels_of(trials))
            np.testing.assert_allclose([*norm.cdf(dot.x), *norm.cdf(dot.y)], [rate, rate], atol=2e-6)
            assert f"EER {rate:.2%}" in curve.label


def test_curves_show_the_held_out_error_rates_the_training_loss_and_the_weight_norms(joint):
    drawn = {(line.axes.get_title().split(":")[0], line.label): line for line in joint.lines
             if line.axes.get_xlabel() == "epoch"}
    shown = {("test eer", "joint"): "test_eer", ("test eer", "visual"): "test_eer_visual", ("test eer", "two audio"):
             "test_two_eer_audio", ("loss (nats)", "train"): "train_loss", ("class weights", "audio"):
             "train_weight_norm_audio", ("class weights", "visual"): "train_weight_norm_visual"}
    for where, name in shown.items():
        assert list(drawn[where].x) == [1, 2, 3]
        assert list(drawn[where].y) == [record[name] for record in joint.records()]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    assert "result/det" in events.Tags()["images"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_a_point_an_iteration_of_each_modality_and_one_an_epoch_of_each_figure(joint):
    found, records = scalars(joint.folder), joint.records()
    for number, one in enumerate(joint.borders.training, 1):
        truth = torch.tensor([IDENTITIES.index(VOICES[n].identity) for n in trained([one])])[:, None]
        audio, visual = (logits.gather(1, truth).mean().item() for logits in one.output.modality_logits)
        assert found["data/logit_a"][number - 1] == (number, pytest.approx(audio, rel=1e-3, abs=1e-4))
        assert found["data/logit_v"][number - 1] == (number, pytest.approx(visual, rel=1e-3, abs=1e-4))
        loss = F.cross_entropy(one.output.logits, truth[:, 0]).item()
        assert found["iteration/loss"][number - 1] == (number, pytest.approx(loss, rel=1e-3))
    assert {len(found[tag]) for tag in ("data/logit_a", "data/logit_v", "iteration/loss")} == {6}
    for group, split in (("train", "train"), ("eval", "test")):
        names = [name.removeprefix(f"{split}_") for name in records[0] if name.startswith(f"{split}_")]
        assert {"train": "lr", "eval": "two_eer_visual"}[group] in names
        for name in names:
            assert found[f"{group}/{name}"] == [
                (record["epoch"], pytest.approx(record[f"{split}_{name}"], rel=1e-5)) for record in records]
    for name, value in figures_of_joint(joint.folder / "best.pt").items():
        assert found[f"result/{name}"][-1] == (joint.result["best_epoch"], pytest.approx(value, rel=1e-5))


# ---- resumed, evaluated


def test_a_run_killed_in_its_last_epoch_ends_as_the_uninterrupted_one(joint, epochs_of_joint):
    folder = joint.folder.parent / "killed"
    resumed = start(main, ["--resume", str(folder)], steer={2: epochs_of_joint[2]})
    (again,), last = resumed.epochs(), joint.epochs()[-1]
    assert len(again.training) == len(last.training) == 2
    for now, before in zip(again.training, last.training, strict=True):
        assert all(torch.equal(now.inputs[name], before.inputs[name]) for name in BOTH)
    assert resumed.borders.learning_rates() == pytest.approx([RATE / 2] * 2)
    assert sorted(evaluated(resumed)[0]) == sorted(evaluated(joint)[-1])
    names = figures_of_joint(folder / "best.pt")
    for name in ("best_epoch", "n_train", "classes", *names, *(f"last_test_{name}" for name in names)):
        assert resumed.result[name] == pytest.approx(joint.result[name]), name
    assert [record["test_eer"] for record in resumed.records()] == [record["test_eer"] for record in joint.records()]
    weights = [torch.load(one / "last.pt", weights_only=True)["model"] for one in (folder, joint.folder)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert np.load(folder / "class_norms.npy").shape == (3, 2, 4)
    found = scalars(folder)
    assert [step for step, _ in found["data/logit_a"]] == list(range(1, 7))
    assert [step for step, _ in found["eval/eer"]] == [1, 2, 3]


def test_a_checkpoint_is_evaluated_on_its_runs_lists_beside_it(joint):
    run = start(main, ["--ckpt_path", str(joint.folder / "last.pt"), "--num_workers", "0"])
    names = list(figures_of_joint(joint.folder / "last.pt"))
    assert {name: run.result[name] for name in names} == pytest.approx(
        {name: joint.result[f"last_test_{name}"] for name in names})
    files = {path.name for path in (joint.folder / "last_evaluated").iterdir()}
    assert files == {"det.png", "test_pairs.scores.txt", "two.scores.txt"}
    for name, prefix in (("test_pairs", ""), ("two", "two_")):
        line = next(line for line in run.printed.splitlines() if line.startswith(f"{name} ("))
        shown = dict(part.strip().rsplit(" ", 1) for part in line.split(":")[1].split(","))
        for figure in ("eer", "eer_visual"):
            assert shown[figure] == f"{run.result[prefix + figure]:.2%}"
        assert float(shown["min_dcf_0.05"]) == pytest.approx(run.result[f"{prefix}min_dcf_0.05"], abs=1e-4)


def test_other_trials_are_evaluated_on_their_own_with_the_score_and_the_folder_asked_for(joint, data, tmp_path):
    """The labels are made by the scores of the best weights, one non-target first: minDCF differs between priors."""
    few = [place for place, voice in enumerate(TEST) if voice.number not in (29, 30)]
    trials = [(0, a, b) for a in few for b in few if a < b]
    asked = {**OF_JOINT, "score": "embedding"}
    scores = scores_of(joint.folder / "best.pt", trials, **asked)
    ranks = np.argsort(np.argsort(-scores["joint"]))
    trials = [(int(1 <= rank <= 9), a, b) for rank, (_, a, b) in zip(ranks, trials, strict=True)]
    made = tmp_path / "made.csv"
    made.write_text("".join(f"{label},{TEST[a].name}.wav,{TEST[b].name}.wav\n" for label, a, b in trials))
    run = start(main, ["--ckpt_path", str(joint.folder / "best.pt"), "--num_workers", "0", "--trials", str(made),
                         "--score", "embedding", "--scores_path", str(tmp_path / "there"), "--data_root", str(data)])
    expected = figures(scores, labels_of(trials))
    assert {name: run.result[name] for name in expected} == pytest.approx(expected)
    assert expected["min_dcf_0.01"] != expected["min_dcf_0.05"] and expected["eer"] != expected["eer_audio"]
    assert run.result["trials"] == {"made": len(trials)}
    assert_score_file(tmp_path / "there/made.scores.txt", trials, scores["joint"])
    for other in ({"score": "logits"}, {"mmcosine": False}):  # the latter: features of unequal lengths, side by side
        others = scores_of(joint.folder / "best.pt", trials, **{**asked, **other})
        assert np.abs(others["joint"] - scores["joint"]).max() > 1e-3
    numbers = sorted(number_of(one, place) for one in run.borders.evaluation for place in range(clips(one)))
    assert numbers == sorted(TEST[place].number for place in few) and not run.borders.training
    assert {one.inputs["audio"].shape[1] for one in run.borders.evaluation} == {TEST_FRAMES * HOP + MORE}
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"det.png", "made.scores.txt"}
    assert not (joint.folder / "best_evaluated").exists()


# ---- validation, one modality


def test_whole_identities_are_held_out_and_the_others_are_the_classes(held_out):
    left = ["Ann", "Mia"]
    assert held_out.result["classes"] == left
    for epoch, record in zip(held_out.epochs(), held_out.records(), strict=True):
        assert {VOICES[number].identity for number in trained(epoch.training)} == set(left)
        assert len(trained(epoch.training)) == 4
        assert_training_figures(epoch.training, record, left)
    assert (held_out.result["n_train"], held_out.result["n_val"], held_out.result["n_test"]) == (4, 5, 6)


def test_another_seed_holds_out_other_identities(data, tmp_path):
    argv = flags(data, tmp_path, "run", "--val_fraction", "0.5", "--modality", "audio", "--random_seed", "0")
    left = {VOICES[number].identity for number in trained(start(main, argv, updates=1).borders.training)}
    assert len(left) == 2 and left != {"Ann", "Mia"}


def test_held_out_identities_choose_the_epoch_and_the_test_trials_are_embedded_once_at_the_end(held_out):
    of_test = sorted({TEST[place].number for trial in FIRST for place in trial[1:]})
    first, last = (sorted(numbers) for numbers in evaluated(held_out))
    assert first == [voice.number for voice in HELD_OUT]
    assert last == sorted([*first, *of_test])
    for one in held_out.borders.evaluation:
        for place in range(clips(one)):
            expected = as_evaluated(VOICES[number_of(one, place)], TEST_FRAMES)
            assert all(torch.allclose(one.inputs[name][place], expected[name], atol=1e-5) for name in BOTH)
    records, result = held_out.records(), held_out.result
    best = lowest(records, "val_eer")
    assert result["best_epoch"] == best + 1 and result["selection"].startswith("best validation epoch")
    for name, record in (("best.pt", records[best]), ("last.pt", records[-1])):
        expected = figures(scores_of(held_out.folder / name, PAIRS, HELD_OUT, **OF_HELD_OUT), labels_of(PAIRS))
        assert {figure: record[f"val_{figure}"] for figure in expected} == pytest.approx(expected)
        if name == "last.pt":
            assert {figure: result[f"last_val_{figure}"] for figure in expected} == pytest.approx(expected)
    of_best, of_last = (figures(scores_of(held_out.folder / name, FIRST, **OF_HELD_OUT), labels_of(FIRST))
                        for name in ("best.pt", "last.pt"))
    assert {name: result[name] for name in of_best} == pytest.approx(of_best) != of_last
    assert not any(name.startswith("test_") for name in records[0])


@pytest.mark.parametrize("modality", BOTH)
def test_one_modality_is_trained_and_scored_alone(alone, modality):
    run = alone[modality]
    assert {name for one in run.borders.log if isinstance(one, Pass) for name in one.inputs} == {modality}
    for epoch, record in zip(run.epochs(), run.records(), strict=True):
        assert sorted(trained(epoch.training)) == [voice.number for voice in TRAIN]
        assert_training_figures(epoch.training, record, IDENTITIES)
    expected = figures(scores_of(run.folder / "best.pt", FIRST, modalities=(modality,)), labels_of(FIRST))
    assert {name: run.result[name] for name in expected} == pytest.approx(expected)
    assert not [name for name in run.result if name.startswith("eer_")]


def test_num_frames_are_faces_of_as_many_parts_in_training_and_one_in_evaluation(alone):
    for one in alone["visual"].borders.training:
        for number, frames in map(seen, one.inputs["visual"]):
            parts = [range(int(part * VOICES[number].count / 3), -int(-(part + 1) * VOICES[number].count / 3 // 1))
                     for part in range(3)]
            assert all(frame in part for frame, part in zip(frames, parts, strict=True))
    assert {one.inputs["visual"].shape[2] for one in alone["visual"].borders.evaluation} == {1}
