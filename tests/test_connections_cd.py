"""main_CD.py: how its parts are connected, seen at the borders of runs that are really started.

Every number is computed here once more, another way: clips are told by their marks, pictures read by PIL, spectrograms
made by scipy, logits by the fusions' formulas, gradients by autograd on a network of its own. B clips, M modalities.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
import torch.nn.functional as F
from harness import Pass, Started, State, cloned, content_of, redrawn, start, weights_of
from marked_cremad import (
    CLASSES,
    MEAN,
    STD,
    TEST,
    TRAIN,
    clip_name,
    heard_clips,
    is_cropped_or_mirrored,
    make_marked_data,
    pixels,
    seen_clips,
    seen_frames,
    tone,
)
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_encoders import TinyAVClassifier
from torch import Tensor, nn

from main_CD import main
from models import ClassifierOutput

SIZE, SECONDS = 64, 0.6
# the class of each clip; so unequally many that a network which always says the same is told by its accuracy
LABELS = [0, 1, 0, 2, 0, 1, 0, 0, 1, 0, 2, 0, *(2, 0, 1, 2, 1, 2)]
RATE, DECAY, STEP, RATIO = 0.1, 0.05, 2, 0.5  # learning rate, weight decay, StepLR's
BOTH = ("audio", "visual")
Figures = dict[str, float]


# ---- data and runs


def sound_of(number: int) -> np.ndarray:
    """A tone that swells, shorter than SECONDS or longer: where it begins and ends can be told."""
    wave = tone(number, 0.5 if number % 2 else 1.1)
    return wave * np.linspace(0.2, 1, len(wave))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Marked clips; beside their frames lie single images of wrong ones, which must not be taken."""
    root = make_marked_data(tmp_path_factory.mktemp("marked"))
    for name, numbers in (("train", TRAIN), ("test", TEST)):
        rows = [f"{clip_name(number)},{CLASSES[LABELS[number]]}\n" for number in numbers]
        (root / f"{name}.csv").write_text("".join(rows))
    (root / "image").mkdir()
    for number in (*TRAIN, *TEST):
        soundfile.write(root / "AudioWAV" / f"{clip_name(number)}.wav", sound_of(number), 16000)
        shutil.copy(frame_path(root, 17 - number, 0), root / "image" / f"{clip_name(number)}.jpg")
    return root


@pytest.fixture(scope="module")
def few(data, tmp_path_factory) -> Path:
    """Half of the training clips: an epoch is one update."""
    root = tmp_path_factory.mktemp("few")
    for path in data.iterdir():
        (root / path.name).symlink_to(path)
    (root / "train.csv").unlink()
    (root / "train.csv").write_text("".join((data / "train.csv").read_text().splitlines(keepends=True)[:6]))
    return root


@pytest.fixture(scope="module")
def begin(data, tmp_path_factory, tiny_encoders) -> Callable[..., Started]:
    """begin(*flags, of=data, **how to watch): a run of three epochs on the CPU in float32, in a folder of its own."""

    def begin(*flags: object, of: Path = data, **watch: object) -> Started:
        argv = ["--train", "--dataset", "marked", "--data_root", of, "--ckpt_path", tmp_path_factory.mktemp("runs"),
                "--run_name", "run", "--num_workers", 0, "--device", "cpu", "--amp", "off", "--use_tensorboard",
                "False", "--batch_size", 5, "--epochs", 3, "--image_size", SIZE, "--audio_seconds", SECONDS,
                "--num_frames", 2, "--learning_rate", RATE, "--weight_decay", DECAY, "--lr_decay_step", STEP,
                "--lr_decay_ratio", RATIO, *flags]
        return start(main, argv, **watch)

    return begin


# Class weights are redrawn after the last update of each epoch, so that wrong choices give other figures.


def as_needed(data: Path, *wanted: Callable[..., bool], frames: Sequence[int] = (0, 2),
              modalities: Sequence[str] = BOTH) -> list[Callable]:
    """What redraws the class weights of each epoch until wanted(test, held out) holds: {accuracy, accuracy_<modality>}
    of the test clips, and of the training clips that no epoch trains on."""

    def inputs(run: Started) -> list[Tensor]:
        clips = clips_to_know(run)
        return [naive_audio(clips) if name == "audio" else naive_visual(data, clips, frames) for name in modalities]

    def clips_to_know(run: Started) -> list[int]:
        return [*TEST, *sorted({*TRAIN} - {*numbers_of(run.borders.training)})]

    def steer(fits: Callable[..., bool]) -> Callable:
        def apply(network: nn.Module, run: Started) -> None:
            labels = torch.tensor(LABELS)[clips_to_know(run)]

            def holds(output: ClassifierOutput) -> bool:
                right = {"accuracy": output.logits.argmax(1) == labels}
                for name, logits in zip(modalities, output.modality_logits, strict=True):
                    right[f"accuracy_{name}"] = logits.argmax(1) == labels
                clips = [{name: value[part].float().mean().item() for name, value in right.items()}
                         for part in (slice(len(TEST)), slice(len(TEST), None))]
                return fits(*clips)

            redrawn(inputs, holds)(network, run)

        return apply

    return [steer(fits) for fits in wanted]


@pytest.fixture(scope="module")
def plain(begin, data) -> Started:
    """Two equally good epochs, of which the second is better by sight."""
    first, second = as_needed(
        data, lambda test, _: test["accuracy"] == 0.5 and test["accuracy_visual"] < 0.5,
        lambda test, _: test["accuracy"] == 0.5 and test["accuracy_visual"] >= 0.5 > test["accuracy_audio"])
    return begin("--epochs", 2, "--use_tensorboard", "True", "--random_seed", 15, steps=3, steer={3: first, 6: second})


@pytest.fixture(scope="module")
def validated(begin, data) -> Started:
    """Two epochs equally good on the validation clips, of which the second is better on the test clips."""
    first, second = as_needed(
        data, lambda test, val: val["accuracy"] == 0.5 and test["accuracy"] < 0.3,
        lambda test, val: val["accuracy"] == 0.5 and test["accuracy"] > 0.3, frames=(1,))
    return begin("--val_fraction", 0.3, "--num_frames", 1, "--epochs", 2, steer={2: first, 4: second})


@pytest.fixture(scope="module")
def epochs_of_heard(data) -> list[Callable]:
    """The second of three epochs is the best."""
    return as_needed(data, *(lambda test, _, n=n: round(6 * test["accuracy"]) == n for n in (2, 3, 1)),
                     modalities=("audio",))


@pytest.fixture(scope="module")
def heard(begin, epochs_of_heard) -> Started:
    """The audio encoder alone."""
    return begin("--modality", "audio", "--use_tensorboard", "True",
                 steer=dict(zip((3, 6, 9), epochs_of_heard, strict=True)))


@pytest.fixture(scope="module")
def looked(begin) -> Started:
    """The visual encoder alone, epochs chosen on speakers that are held out."""
    return begin("--random_seed", 0, "--modality", "visual", "--val_fraction", 0.25, "--val_by_speaker", "--epochs", 1,
                 saves="best.pt")


@pytest.fixture(scope="module")
def cosine(begin, few) -> Started:
    return begin("--epochs", 1, "--batch_size", 4, "--fusion_method", "gated", "--mmcosine", "--scaling", 7, "--lam",
                 0.4, "--num_frames", 1, of=few, steps=2)


# ---- the same once more, another way


def frame_path(root: Path, number: int, frame: int) -> Path:
    return root / "Image-01-FPS" / clip_name(number) / f"{frame:05d}.jpg"


def naive_visual(root: Path, numbers: Sequence[int], frames: Sequence[int]) -> Tensor:
    """(B, 3, T, H, W): these frames of the clips, whole."""
    clips = [[np.array(Image.open(frame_path(root, number, frame)).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
              for frame in frames] for number in numbers]  # (B, T, H, W, 3) RGB
    scaled = (np.array(clips, np.float32) / 255 - MEAN.numpy()) / STD.numpy()
    return torch.from_numpy(scaled.transpose(0, 4, 1, 2, 3).astype(np.float32))


def naive_audio(numbers: Sequence[int], seconds: float = SECONDS) -> Tensor:
    """(B, 1, 257, columns)."""
    rows = []
    for number in numbers:
        wave = np.tile(sound_of(number), 6)[:round(16000 * seconds)]  # 6 are three seconds of the shorter sounds
        power = scipy.signal.spectrogram(wave, 16000, nperseg=512, noverlap=353)[2]
        log = np.log(power + 1e-7)
        rows.append((log - log.mean()) / (log.std() + 1e-9))
    return torch.from_numpy(np.array(rows, np.float32)).unsqueeze(1)


def naive_logits(head: State, features: Sequence[Tensor], fusion: str = "concat",
                 scaling: float | None = None) -> tuple[Tensor, Tensor]:
    """Features (B, 512) of each modality -> logits (M, B, C), cosines times `scaling` when there is one; fused."""
    head = {name.removeprefix("fusion_module."): value for name, value in head.items()}

    def layer(name: str, x: Tensor) -> Tensor:
        return x @ head[f"{name}.weight"].T + head[f"{name}.bias"]

    fused = list(features)
    if fusion == "film":
        audio, visual = (layer(name, x) for name, x in zip(("fc_x", "fc_y"), features, strict=True))
        fused = [visual[:, :512] * features[0] + visual[:, 512:], audio[:, :512] * features[1] + audio[:, 512:]]
    if fusion == "gated":
        audio, visual = (layer(name, x) for name, x in zip(("fc_x", "fc_y"), features, strict=True))
        fused = [audio / (1 + torch.exp(-visual)), visual / (1 + torch.exp(-audio))]
    weights = [head["fc_out.weight"][:, 512 * place:512 * (place + 1)] for place in range(len(features))]
    if scaling is None:
        logits = [x @ weight.T + head["fc_out.bias"] / len(features) for x, weight in zip(fused, weights, strict=True)]
    else:
        logits = [scaling * F.cosine_similarity(x[:, None], weight[None], dim=2)
                  for x, weight in zip(fused, weights, strict=True)]
    return torch.stack(logits), torch.stack(fused)


def log_probability(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(B, C), (B,) -> (B,): of the true class."""
    logits = logits - logits.max(1, keepdims=True)
    return logits[np.arange(len(labels)), labels] - np.log(np.exp(logits).sum(1))


def naive_figures(logits: Tensor, numbers: Sequence[int], modalities: Sequence[str] = BOTH) -> Figures:
    """Logits (M, B, C) of these clips -> every metric."""
    each, labels = logits.detach().double().numpy(), np.array(LABELS)[list(numbers)]
    joint = each.sum(0)
    figures = {"loss": -log_probability(joint, labels).mean(), "accuracy": (joint.argmax(1) == labels).mean()}
    for name, own in zip(modalities, each, strict=True):
        figures |= {f"loss_{name}": -log_probability(own, labels).mean(),
                    f"accuracy_{name}": (own.argmax(1) == labels).mean(),
                    f"logit_{name}": own[np.arange(len(labels)), labels].mean()}
    return figures


@cache
def evaluated(path: Path, root: Path, numbers: tuple[int, ...] = tuple(TEST), frames: tuple[int, ...] = (0, 2),
              modalities: tuple[str, ...] = BOTH) -> Figures:
    """A checkpoint of a plain concat network on these clips, in evaluation mode."""
    state = weights_of(path)
    model = network(state, modalities=modalities).eval()
    inputs = [naive_audio(numbers) if name == "audio" else naive_visual(root, numbers, frames) for name in modalities]
    with torch.no_grad():
        features = [model.encoder(name)(x) for name, x in zip(modalities, inputs, strict=True)]
    return naive_figures(naive_logits(heads_of(state), features)[0], numbers, modalities)


def network(state: State, *how: object, **named: object) -> TinyAVClassifier:
    """Of these weights; drawing others first would take a quarter of a second."""
    with torch.device("meta"):
        model = TinyAVClassifier(3, *how, **named)
    model.load_state_dict(cloned(state), assign=True)
    return model


def heads_of(state: State) -> State:
    return {name: value for name, value in state.items() if name.startswith("fusion_module.")}


def class_norms(head: State, modalities: Sequence[str] = BOTH) -> np.ndarray:
    """(M, C): the length of every class weight of a concat network."""
    weight = head["fusion_module.fc_out.weight"].double().numpy()
    return np.array([np.sqrt((weight[:, 512 * m:512 * (m + 1)] ** 2).sum(1)) for m in range(len(modalities))])


# ---- what was seen, sorted


def numbers_of(passes: Iterable[Pass]) -> list[int]:
    """The clips of the passes, in their order."""
    return [number for one in passes
            for number in (seen_clips(one.inputs["visual"]) if "visual" in one.inputs else
                           heard_clips(one.inputs["audio"]))]


def logits_of(passes: Iterable[Pass]) -> Tensor:
    """(M, B, C)."""
    return torch.cat([one.output.modality_logits.detach() for one in passes], 1)


def chosen(values: Sequence[float]) -> int:
    """The number of the first epoch with the highest of these values."""
    return min(place for place, value in enumerate(values, 1) if value == max(values))


def named(prefix: str, figures: Figures) -> Figures:
    return {f"{prefix}_{name}": value for name, value in figures.items()}


def close(figures: Figures, tolerance: float = 1e-4) -> object:
    return pytest.approx(figures, abs=tolerance, rel=tolerance)


def part(figures: dict, like: Iterable[str]) -> Figures:
    return {name: figures[name] for name in like}


def rates(epochs: int) -> list[float]:
    return [RATE * RATIO ** (epoch // STEP) for epoch in range(epochs)]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{tag: (step, value)} of the events of a run's folder."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


# ---- which clips, and how they come


def test_training_passes_hold_every_training_clip_once_an_epoch_and_evaluation_passes_the_test_clips(plain, heard):
    for seen, number in ((plain, 2), (heard, 3)):
        epochs = seen.epochs()
        assert len(epochs) == number
        for training, evaluation in epochs:
            assert sorted(numbers_of(training)) == list(TRAIN)
            assert [len(numbers_of([one])) for one in training] == [5, 5, 2]
            assert numbers_of(evaluation) == list(TEST)
        orders = [numbers_of(training) for training, _ in epochs]
        assert len(set(map(tuple, orders))) == number and list(TRAIN) not in orders


def test_what_is_heard_and_what_is_seen_are_of_one_clip(plain, validated):
    for one in (*plain.borders.training, *plain.borders.evaluation, *validated.borders.evaluation):
        assert heard_clips(one.inputs["audio"]) == seen_clips(one.inputs["visual"])


def test_evaluation_sees_whole_pictures_in_rgb_of_the_middle_of_each_segment_every_time_the_same(plain, data):
    """Two segments of three frames have their middles in the first and the last frame."""
    expected = naive_visual(data, TEST, (0, 2))
    for _, evaluation in plain.epochs():
        got = torch.cat([one.inputs["visual"] for one in evaluation])
        assert got.shape == expected.shape and (got - expected).abs().max() < 0.02
        assert torch.equal(got, torch.cat([one.inputs["visual"] for one in plain.epochs()[0][1]]))


def test_one_frame_of_three_is_the_middle_one(validated):
    assert seen_frames(validated.borders.evaluation[0].inputs["visual"]) == [[1]] * 4


def test_training_crops_mirrors_and_draws_frames_anew_in_every_epoch(plain):
    by_clip: dict[int, list[Tensor]] = {number: [] for number in TRAIN}
    chosen_frames, left_to_right = [], []
    for one in plain.borders.training:
        visual = one.inputs["visual"]
        red = pixels(visual)[:, 0]
        assert (red[:, 0] - red[:, 1]).abs().max() < 4, "the frames of a clip are cropped alike"
        chosen_frames += map(tuple, seen_frames(visual))
        left_to_right += (red[:, 0, 0, -1] > red[:, 0, 0, 0]).tolist()
        for number, clip in zip(seen_clips(visual), visual, strict=True):
            by_clip[number].append(clip)
    cut = [bool(flag) for one in plain.borders.training for flag in is_cropped_or_mirrored(one.inputs["visual"])]
    assert sum(cut) > 20 and 3 < sum(left_to_right) < 21
    assert set(chosen_frames) == {(a, b) for a in (0, 1) for b in (1, 2)}, "each of its segment"
    assert not any(torch.equal(first, second) for first, second in by_clip.values())


def test_sound_is_repeated_or_cut_from_its_beginning_and_normalised_in_training_and_evaluation(plain, heard):
    assert [len(sound_of(number)) for number in (0, 1)] == [17600, 8000] and SECONDS == 0.6
    for seen in (plain, heard):
        for one in (*seen.borders.training, *seen.borders.evaluation):
            got = one.inputs["audio"]
            expected = naive_audio(numbers_of([one]))
            assert got.shape == expected.shape and (got - expected).abs().max() < 0.01


def test_by_default_a_clip_is_one_picture_of_224_pixels_and_three_seconds_of_the_papers_spectrogram(
        data, tmp_path, tiny_encoders):
    seen = start(main, ["--train", "--data_root", data, "--ckpt_path", tmp_path, "--num_workers", 0, "--device", "cpu",
                        "--use_tensorboard", "False", "--batch_size", 2], passes=1,
                 saves="none")
    got = seen.entered[0]
    assert (got["audio"].shape, got["visual"].shape) == ((2, 1, 257, 299), (2, 3, 1, 224, 224))
    assert (got["audio"] - naive_audio(seen_clips(got["visual"]), 3.0)).abs().max() < 0.01


def test_the_other_front_end_hears_22050_hz_and_makes_its_own_spectrogram(begin):
    got = begin("--audio_frontend", "ogm_ge", "--epochs", 1, passes=1, saves="none").entered[0]
    window = np.hanning(513)[:512]
    for number, spectrum in zip(seen_clips(got["visual"]), got["audio"][:, 0].numpy(), strict=True):
        wave = scipy.signal.resample_poly(sound_of(number), 441, 320)  # 16000 -> 22050
        wave = np.pad(np.tile(wave, 2)[:13230], 256)
        columns = [wave[place:place + 512] * window for place in range(0, 13231, 353)]
        magnitude = np.abs(np.fft.rfft(columns)).T
        assert spectrum.shape == magnitude.shape == (257, 38)
        loud = magnitude > 1
        assert loud.sum() > 100 and np.abs(spectrum - np.log(magnitude + 1e-7))[loud].max() < 0.1


# ---- one step


def assert_moved(before: State, after: State, expected: State, what: str) -> None:
    """Both states lie in the same direction from `before`, as far as float32 can tell."""
    for name, old in before.items():
        step, wanted = (after[name] - old).float(), (expected[name] - old).float()
        allowed = 1e-3 * wanted.norm() + 1e-6 * (1 + old.float().norm())
        assert (step - wanted).norm() <= allowed, f"{what}, {name}: off by {(step - wanted).norm() / wanted.norm():.3%}"


class Descent:
    """SGD by hand, on a network of its own: momentum 0.9, weight decay added to the gradient."""

    def __init__(self, fusion: str = "concat"):
        self.fusion = fusion
        self.velocity: State = {}

    def gradients(self, state: State, one: Pass, loss: Callable[[State, list[Tensor], Tensor], Tensor]) -> State:
        """loss(head, features, labels) of a training pass from `state` on -> its gradients; none: not used by it."""
        self.model = network(state, self.fusion).train()
        features = [self.model.encoder(name)(one.inputs[name]) for name in BOTH]
        self.value = loss(dict(self.model.named_parameters()), features, labels_of(one))
        self.value.backward()
        return {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}

    def step(self, gradients: State, rate: float) -> State:
        """The state behind the update: parameters moved, BatchNorm's statistics as the forward pass left them."""
        after = {name: value.clone() for name, value in self.model.state_dict().items()}
        for name, gradient in gradients.items():
            self.velocity[name] = 0.9 * self.velocity.get(name, 0) + gradient + DECAY * after[name]
            after[name] -= rate * self.velocity[name]
        return after


def naive_contrastive(audio: Tensor, visual: Tensor, labels: Tensor) -> Tensor:
    """The supplement's, row by row."""
    rows = []
    for number, label in enumerate(labels):
        alike = torch.stack([F.cosine_similarity(audio[number], other, dim=0) for other in visual]) / 0.1
        share = alike.exp() / alike.exp().sum()
        row = -torch.log(share[labels == label] + 1e-10).mean()
        if (labels != label).any():
            row = row - torch.log(1 - share[labels != label] + 1e-10).mean()
        rows.append(row)
    return torch.stack(rows).mean()


def labels_of(one: Pass) -> Tensor:
    return torch.tensor(LABELS)[numbers_of([one])]


def cross_entropy(head: State, features: list[Tensor], labels: Tensor, **how: object) -> Tensor:
    logits = naive_logits(head, features, **how)[0].sum(0)
    return -logits.log_softmax(1)[range(len(labels)), labels].mean()


def cosine_loss(head: State, features: list[Tensor], labels: Tensor) -> Tensor:
    """Of the `cosine` run."""
    fused = naive_logits(head, features, "gated")[1]
    return (cross_entropy(head, features, labels, fusion="gated", scaling=7)
            + 0.4 * naive_contrastive(*fused, labels))


@pytest.mark.parametrize(("name", "fusion", "loss", "clips"), [("plain", "concat", cross_entropy, [5, 5, 2]),
                                                              ("cosine", "gated", cosine_loss, [4, 2])])
def test_every_update_is_that_of_sgd_by_hand_also_of_a_last_batch_that_is_not_full(request, name, fusion, loss, clips):
    seen = request.getfixturevalue(name)
    descent, losses = Descent(fusion), []
    ends = [*seen.states[1:], weights_of(seen.folder / "last.pt") if name == "cosine" else None]
    passes = seen.borders.training[:len(clips)]
    for number, (one, before, after) in enumerate(zip(passes, seen.states, ends, strict=True), 1):
        gradients = descent.gradients(before, one, loss)
        if after:  # the class weights of `plain` are redrawn after its epoch
            assert_moved(before, after, descent.step(gradients, RATE), f"{name}, update {number}")
        losses += [descent.value.item()] * len(labels_of(one))
    assert [len(labels_of(one)) for one in passes] == clips
    assert seen.records()[0]["train_loss"] == pytest.approx(np.mean(losses), rel=1e-3)


def test_logits_of_mmcosine_are_s_times_the_cosines_of_fused_features_and_weights_per_modality(cosine):
    for one, head in zip((*cosine.borders.training, *cosine.borders.evaluation), cosine.heads, strict=True):
        logits, fused = naive_logits(head, list(one.output.features), "gated", 7)
        assert torch.allclose(one.output.fused, fused, atol=1e-4)
        assert torch.allclose(one.output.modality_logits, logits, atol=1e-4)
        assert torch.allclose(one.output.logits, logits.sum(0), atol=1e-4)
    assert (cosine.result["mmcosine"], cosine.result["scaling"], cosine.result["fusion"]) == (True, 7, "gated")
    assert cosine.result["lam"] == 0.4


def test_every_epoch_has_its_learning_rate_and_the_optimizer_its_momentum_and_decay(plain, validated, heard):
    for seen, epochs, steps in ((plain, 2, 3), (validated, 2, 2), (heard, 3, 3)):
        assert seen.borders.learning_rates() == pytest.approx([rate for rate in rates(epochs) for _ in range(steps)])
        assert [record["train_lr"] for record in seen.records()] == pytest.approx(rates(epochs))
        for update in seen.borders.updates:
            assert update.kind == "SGD" and len(update.groups) == 1
            assert (update.groups[0]["momentum"], update.groups[0]["weight_decay"]) == (0.9, DECAY)


# ---- what is written down


def expected_records(seen: Started, split: str, held_out: Sequence[int], modalities: Sequence[str]) -> list[Figures]:
    """Each epoch's, from the outputs of its passes. lam is 0."""
    records = []
    for training, evaluation in seen.epochs():
        evaluation = [one for one in evaluation if set(numbers_of([one])) <= set(held_out)]
        assert sorted(numbers_of(evaluation)) == sorted(held_out)
        records.append({
            **named("train", naive_figures(logits_of(training), numbers_of(training), modalities)),
            **named(split, naive_figures(logits_of(evaluation), numbers_of(evaluation), modalities))})
    return records


def held_out_of(seen: Started) -> list[int]:
    """The validation clips: those of the first evaluation."""
    return numbers_of(seen.epochs()[0][1])


def test_metrics_jsonl_holds_the_figures_of_the_passes(plain, validated, heard):
    runs = ((plain, "test", TEST, BOTH), (validated, "val", held_out_of(validated), BOTH),
            (heard, "test", TEST, ("audio",)))
    for seen, split, held_out, modalities in runs:
        records, expected = seen.records(), expected_records(seen, split, held_out, modalities)
        assert [record["epoch"] for record in records] == list(range(1, seen.result["epochs"] + 1))
        norms = np.load(seen.folder / "class_norms.npy")
        for number, (record, figures) in enumerate(zip(records, expected, strict=True)):
            assert part(record, figures) == close(figures)
            weights = {f"train_weight_norm_{name}": norm for name, norm in
                       zip(modalities, norms[number].mean(1), strict=True)}
            assert part(record, weights) == close(weights)
            clips = len(numbers_of(seen.epochs()[number][0]))
            assert record["train_clips_per_second"] == pytest.approx(clips / record["train_seconds"])
            other = {"test": "val", "val": "test"}[split]
            assert {name.split("_")[0] for name in record} == {"epoch", "train", split} and other not in record
    assert plain.records()[0]["train_weight_norm_audio"] != plain.records()[0]["train_weight_norm_visual"]


def test_class_norms_are_the_lengths_of_the_class_weights_behind_each_epoch(plain, validated, heard):
    for seen, modalities in ((plain, BOTH), (validated, BOTH), (heard, ("audio",))):
        norms, ends = np.load(seen.folder / "class_norms.npy"), []
        passes = [one for one in seen.borders.log if isinstance(one, Pass)]
        for one, following, head in zip(passes, passes[1:], seen.heads[1:], strict=False):
            if one.training and not following.training:
                ends.append(class_norms(head, modalities))
        assert norms.dtype == np.float32 and norms == pytest.approx(np.array(ends), rel=1e-5)
        assert norms[-1] == pytest.approx(class_norms(weights_of(seen.folder / "last.pt"), modalities), rel=1e-5)


def test_best_pt_holds_the_first_of_the_best_epochs_by_joint_accuracy_and_last_pt_the_last(plain, validated, heard,
                                                                                             data):
    for seen, split, frames, modalities, expected in ((plain, "test", (0, 2), BOTH, 1),
                                                      (validated, "val", (1,), BOTH, 1),
                                                      (heard, "test", (0, 2), ("audio",), 2)):
        records, clips = seen.records(), tuple(held_out_of(seen))
        accuracies = [record[f"{split}_accuracy"] for record in records]
        assert chosen(accuracies) == expected == seen.result["best_epoch"]
        for name, epoch in (("best", expected), ("last", len(records))):
            assert content_of(seen.folder / f"{name}.pt")["epoch"] == epoch
            figures = named(split, evaluated(seen.folder / f"{name}.pt", data, clips, frames, modalities))
            assert part(records[epoch - 1], figures) == close(figures, 3e-3)
        assert abs(records[expected - 1][f"{split}_loss"] - records[-1][f"{split}_loss"]) > 0.01
    assert plain.records()[0]["test_accuracy"] == plain.records()[1]["test_accuracy"]
    assert chosen([record["test_accuracy_visual"] for record in plain.records()]) != 1
    assert validated.records()[0]["val_accuracy"] == validated.records()[1]["val_accuracy"]


def test_the_result_is_of_best_pt_on_the_test_clips_and_the_last_epochs_stands_beside_it(plain, heard, data):
    for seen, modalities in ((plain, BOTH), (heard, ("audio",))):
        best, last = (evaluated(seen.folder / f"{name}.pt", data, modalities=modalities)
                      for name in ("best", "last"))
        assert part(seen.result, best) == close(best, 3e-3)
        assert part(seen.result, named("last_test", last)) == close(named("last_test", last), 3e-3)
        assert abs(best["loss"] - last["loss"]) > 0.02 and abs(best["logit_audio"] - last["logit_audio"]) > 0.01
        norms = class_norms(weights_of(seen.folder / "last.pt"), modalities).mean(1)
        weights = {f"last_weight_norm_{name}": norm for name, norm in zip(modalities, norms, strict=True)}
        assert part(seen.result, weights) == close(weights)
        facts = {"n_train": 12, "n_val": 0, "n_test": 6, "epochs": len(seen.records()), "batch_size": 5,
                 "learning_rate": RATE, "classes": list(CLASSES)}
        assert part(seen.result, facts) == facts
        assert "best test epoch" in seen.result["selection"]
        assert seen.result["wall_seconds"] > sum(record["train_seconds"] for record in seen.records())


def test_with_validation_the_test_set_is_looked_at_once_at_the_end_with_the_best_weights(validated, data):
    epochs = validated.epochs()
    held_out = held_out_of(validated)
    for number, (training, evaluation) in enumerate(epochs, 1):
        assert sorted(numbers_of(training) + held_out) == list(TRAIN)
        assert numbers_of(evaluation) == [*held_out, *(TEST if number == 2 else [])]
        assert not any(is_cropped_or_mirrored(one.inputs["visual"])[0] for one in evaluation)
    assert sorted(LABELS[number] for number in held_out) == [0, 0, 1, 2], "0.3 of the 7, 3 and 2 clips of each class"
    best, last = (evaluated(validated.folder / f"{name}.pt", data, frames=(1,)) for name in ("best", "last"))
    of_last_epoch = evaluated(validated.folder / "last.pt", data, tuple(held_out), (1,))
    assert part(validated.result, best) == close(best, 3e-3)
    assert best["accuracy"] < last["accuracy"], "the test set prefers another epoch"
    assert part(validated.result, named("last_val", of_last_epoch)) == close(named("last_val", of_last_epoch), 3e-3)
    assert not [name for name in validated.result if name.startswith("last_test")]
    assert part(validated.result, ("n_train", "n_val", "n_test")) == {"n_train": 8, "n_val": 4, "n_test": 6}
    assert validated.result["selection"].startswith("best validation epoch")


def test_held_out_speakers_are_not_trained_on(looked, data):
    (training, evaluation), = looked.epochs()
    held_out = held_out_of(looked)[:3]
    assert numbers_of(evaluation) == [*held_out, *TEST] and sorted(numbers_of(training) + held_out) == list(TRAIN)
    assert len({number % 4 for number in held_out}) == 1, "a quarter of the four speakers"
    assert not {number % 4 for number in held_out} & {number % 4 for number in numbers_of(training)}
    assert set(looked.borders.training[0].inputs) == {"visual"}
    figures = evaluated(looked.folder / "best.pt", data, modalities=("visual",))
    assert part(looked.result, figures) == close(figures, 3e-3)
    assert (looked.result["n_train"], looked.result["n_val"], looked.result["modality"]) == (9, 3, "visual")


# ---- what is shown


def test_every_tensorboard_tag_holds_its_figure_at_its_step(plain, heard):
    for seen, split, modalities in ((plain, "test", BOTH), (heard, "test", ("audio",))):
        tags, records = scalars(seen.folder), seen.records()
        expected: dict[str, list[tuple[int, float]]] = {}
        for number, record in enumerate(records, 1):
            for name, value in record.items():
                group, _, figure = name.partition("_")
                if figure:
                    tag = f"{'eval' if group == split else group}/{figure}"
                    expected.setdefault(tag, []).append((number, value))
        for number, one in enumerate(seen.borders.training, 1):
            figures = naive_figures(one.output.modality_logits, numbers_of([one]), modalities)
            expected.setdefault("iteration/loss", []).append((number, figures["loss"]))
            for name in modalities:
                for tag in (f"data/logit_{name[0]}", f"iteration/logit_{name}"):
                    expected.setdefault(tag, []).append((number, figures[f"logit_{name}"]))
        figures = [name for name in seen.result if re.match("(accuracy|loss|logit)", name)]
        assert len(figures) == 2 + 3 * len(modalities)
        for name in figures:
            value = pytest.approx(seen.result[name], rel=1e-4)
            points = [point for point in tags.pop(f"result/{name}") if point[0]]
            assert points == [(seen.result["best_epoch"], value)]
        assert tags.keys() == expected.keys()
        for tag, points in expected.items():
            assert [step for step, _ in tags[tag]] == [step for step, _ in points], tag
            values = [value for _, value in points]
            assert [value for _, value in tags[tag]] == pytest.approx(values, rel=1e-3, abs=1e-5), tag


def test_tensorboard_has_the_settings_as_a_table_and_as_text(plain):
    events = EventAccumulator(str(plain.folder)).Reload()
    text = events.Tensors("hyperparameters/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"| learning_rate | `{RATE}` |" in text and "| random_seed | `15` |" in text
    start_info = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for name in (b"learning_rate", b"fusion_method", b"random_seed", b"mmcosine", b"alpha"):
        assert name in start_info


def figures_in(line: str) -> list[float]:
    return [float(figure) for figure in re.findall(r"\d+\.\d+", line)]


def test_printed_lines_and_the_closing_table_carry_these_figures(plain, validated, heard):
    for seen, split, modalities in ((plain, "test", BOTH), (validated, "val", BOTH), (heard, "test", ("audio",))):
        lines, records = [line for line in seen.printed.splitlines() if line.startswith("epoch ")], seen.records()
        names = {"joint": "accuracy"} if len(modalities) > 1 else {}
        names.update({name: f"accuracy_{name}" for name in modalities})
        for line, record in zip(lines, records, strict=True):
            accuracies = [100 * record[f"{split}_{name}"] for name in names.values()]
            values = [record["train_loss"], *accuracies, record[f"{split}_loss"]]
            assert figures_in(line) == pytest.approx(values, abs=0.051)
            assert line.startswith(f"epoch {record['epoch']}/{len(records)}  train loss") and f"  {split} " in line
            assert re.findall("joint|audio|visual", line) == list(names)
            assert line.endswith(f"  {record['train_seconds']:.0f} s") and len(line) < 100
        table = seen.printed[seen.printed.index("accuracy %"):].splitlines()
        assert re.search(rf"test, epoch {seen.result['best_epoch']} +{split}, last epoch$", table[0])
        for line, (kind, name) in zip(table[1:], names.items(), strict=False):
            best, last = 100 * seen.result[name], 100 * records[-1][f"{split}_{name}"]
            assert line.startswith(kind) and figures_in(line) == pytest.approx([best, last], abs=0.0051)
        assert f"chosen by: {seen.result['selection']}" in table
        assert f"run:       {seen.folder}" in table
    assert plain.records()[1]["test_accuracy_audio"] != plain.records()[1]["test_accuracy_visual"]
    for seen, last in ((heard, "last_test_accuracy"), (validated, "last_val_accuracy")):
        assert seen.result["accuracy"] != seen.result[last]


def test_curves_png_is_drawn_from_the_records(plain, validated, heard):
    for seen, split, modalities in ((plain, "test", BOTH), (validated, "val", BOTH), (heard, "test", ("audio",))):
        records, (figure,) = seen.records(), seen.figures
        accuracies, losses, logits, norms = (
            {line.get_label(): line.get_xydata() for line in axes.get_lines()} for axes in figure.axes)
        assert (accuracies.pop("chance")[:, 1] == 1 / 3).all()

        def column(name: str, records: list[dict] = records) -> np.ndarray:
            return np.array([(record["epoch"], record[name]) for record in records])

        joint = {"joint": f"{split}_accuracy"} if len(modalities) > 1 else {}
        expected = {**joint, **{name: f"{split}_accuracy_{name}" for name in modalities}}
        assert figure.axes[0].get_title().startswith(f"{split} accuracy")
        for lines, names in ((accuracies, expected), (losses, {"train": "train_loss", split: f"{split}_loss"}),
                             (logits, {f"{name}, {part}": f"{part}_logit_{name}" for name in modalities
                                       for part in ("train", split)}),
                             (norms, {name: f"train_weight_norm_{name}" for name in modalities})):
            assert lines.keys() == names.keys()
            assert all(np.array_equal(lines[label], column(name)) for label, name in names.items())


# ---- evaluated, resumed, started from other weights


def test_an_evaluated_checkpoint_is_taken_with_its_settings_on_the_test_clips(plain, heard, data):
    for seen, modalities in ((plain, BOTH), (heard, ("audio",))):
        path = seen.folder / "last.pt"
        again = start(main, ["--ckpt_path", path, "--num_workers", 0, "--device", "cpu"])
        assert not again.borders.training and not again.borders.updates
        assert numbers_of(again.borders.evaluation) == list(TEST)
        for one, before in zip(again.borders.evaluation, seen.epochs()[-1][1], strict=True):
            assert one.inputs.keys() == before.inputs.keys() == set(modalities)
            assert all(torch.equal(one.inputs[name], before.inputs[name]) for name in modalities)
        figures = {name.removeprefix("test_"): value for name, value in seen.records()[-1].items() if "test_" in name}
        assert part(again.result, figures) == close(figures)
        assert (again.result["n_test"], again.result["ckpt_path"]) == (6, str(path))
        assert f"{figures['loss']:.4f}" in again.printed
        for kind in ("joint", *modalities) if len(modalities) > 1 else modalities:
            accuracy = figures["accuracy" if kind == "joint" else f"accuracy_{kind}"]
            assert re.search(rf"^{kind} +{100 * accuracy:.2f} %", again.printed, re.MULTILINE)


@pytest.fixture(scope="module")
def resumed(begin, epochs_of_heard) -> tuple[Started, Started, float]:
    """The `heard` run in two parts, and how long the second took; its clock was put forward by a thousand seconds."""
    first = begin("--modality", "audio", "--use_tensorboard", "True", "--epochs", 2,
                  steer=dict(zip((3, 6), epochs_of_heard, strict=False)))
    path = first.folder / "last.pt"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "wall_seconds": 1000.0}, path)
    began = time.time()
    second = start(main, ["--resume", first.folder, "--epochs", 3, "--num_workers", 0],
                   steer={3: epochs_of_heard[2]})
    return first, second, time.time() - began


def test_a_resumed_run_goes_on_where_it_was_and_ends_as_the_uninterrupted_one(resumed, heard):
    first, second, seconds = resumed
    assert second.borders.learning_rates() == pytest.approx([rates(3)[2]] * 3) and rates(3)[2] != RATE
    (training, evaluation), = second.epochs()
    whole_training, whole_evaluation = heard.epochs()[2]
    for one, whole in zip((*training, *evaluation), (*whole_training, *whole_evaluation), strict=True):
        assert torch.equal(one.inputs["audio"], whole.inputs["audio"])
    timeless = [[{name: value for name, value in record.items() if "second" not in name} for record in seen.records()]
                for seen in (first, heard)]
    assert timeless[0] == timeless[1] and len(timeless[0]) == 3
    assert np.array_equal(np.load(first.folder / "class_norms.npy"), np.load(heard.folder / "class_norms.npy"))
    for name in ("best.pt", "last.pt"):
        mine, whole = weights_of(first.folder / name), weights_of(heard.folder / name)
        assert all(torch.equal(mine[key], whole[key]) for key in whole)
    different = {"command", "wall_seconds", "epoch_seconds"}
    assert {name: value for name, value in second.result.items() if name not in different} == {
        name: value for name, value in heard.result.items() if name not in different}
    assert second.result["best_epoch"] == 2, "an epoch before the interruption"
    assert 1000 < second.result["wall_seconds"] < 1000 + seconds
    assert second.printed.count("epoch 3/3") == 1 and "epoch 2/" not in second.printed


def test_events_of_a_resumed_run_go_on_at_their_step(resumed, heard):
    mine, whole = scalars(resumed[0].folder), scalars(heard.folder)
    assert mine.keys() == whole.keys()
    for tag in whole:
        if "second" not in tag and not tag.startswith("result/"):
            assert mine[tag] == whole[tag], tag
    assert len(mine["data/logit_a"]) == 9
    assert mine["result/loss"][-1] == whole["result/loss"][-1]


@pytest.mark.parametrize("modality", BOTH)
def test_a_pretrained_encoder_goes_to_its_modality_and_the_rest_starts_as_it_would(begin, plain, looked, modality):
    path = {"audio": plain.folder / "last.pt", "visual": looked.folder / "best.pt"}[modality]
    seen = begin("--random_seed", 15, f"--{modality}_pretrain", path, steps=1, passes=1, saves="none")
    pretrained, usual = weights_of(path), plain.states[0]
    for name, value in seen.states[0].items():
        assert torch.equal(value, (pretrained if name.startswith(f"{modality}_net.") else usual)[name]), name
    name = f"{modality}_net.conv2.weight"
    assert not torch.equal(pretrained[name], usual[name])


# ---- balancing
