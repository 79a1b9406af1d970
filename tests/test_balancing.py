"""Balancing methods against computations clip by clip, and in whole runs."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dataset.demo import make_demo
from main_CD import main, parse
from models import ClassifierOutput, MultimodalClassifier
from utils import checkpoint
from utils.balancing import METHODS
from utils.balancing.gradient_blending import GradientBlending, blend
from utils.balancing.ogm import Ogm, OgmGe, modulate, scores, slow_down
from utils.balancing.pmr import Pmr
from utils.engine import Compute
from utils.training import make_learner

NAMES = ("audio", "visual", "flow")
CLASSES, DIM = 5, 6


def make_model(modalities: int = 2, mmcosine: bool = False) -> MultimodalClassifier:
    """Encoders of 4 numbers with a convolution, a norm and a linear layer."""
    torch.manual_seed(0)

    def encoder() -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(),
                             nn.Linear(3, DIM))

    return MultimodalClassifier({name: encoder() for name in NAMES[:modalities]}, CLASSES, "concat", mmcosine, dim=DIM)


def step(model: MultimodalClassifier, strength: float = 4.0) -> tuple[ClassifierOutput, torch.Tensor]:
    """Output and labels of a batch whose first modality is the louder, after backward."""
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(7, 4, generator=generator) * (strength if m == 0 else 1)
              for m in range(len(model.modalities))]
    labels = torch.randint(CLASSES, (7,), generator=generator)
    output = model(*inputs)
    F.cross_entropy(output.logits, labels).backward()
    return output, labels


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def naive_coefficients(output: ClassifierOutput, labels: torch.Tensor, alpha: float) -> list[float]:
    """Clip by clip, by the equations."""
    score = []
    for logits in output.modality_logits.detach():
        total = 0.0
        for clip, label in enumerate(labels.tolist()):
            exponentials = [math.exp(float(value)) for value in logits[clip]]
            total += exponentials[label] / sum(exponentials)
        score.append(total)
    found = []
    for m, own in enumerate(score):
        others = [value for n, value in enumerate(score) if n != m]
        rho = own / (sum(others) / len(others))
        found.append(1 - math.tanh(alpha * rho) if rho > 1 else 1.0)
    return found


# ---- OGM-GE


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("mmcosine", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 0.8])
def test_ogm_multiplies_the_convolutions_of_the_leading_encoder_and_nothing_else(modalities, mmcosine, alpha):
    model = make_model(modalities, mmcosine)
    output, labels = step(model)
    before = gradients(model)
    expected = naive_coefficients(output, labels, alpha)
    method = Ogm(model, alpha, 0, 50)
    method.begin_epoch(1)
    method.adjust_gradients(model, output, labels)
    for name, after in gradients(model).items():
        modality = next((m for m in range(modalities) if name.startswith(f"{NAMES[m]}_net.1.weight")), None)
        factor = 1.0 if modality is None else expected[modality]
        torch.testing.assert_close(after, before[name] * factor, rtol=1e-5, atol=1e-8)
    assert min(expected) < 1 and max(expected) == 1


def test_the_weaker_modality_is_never_slowed_down():
    for seed in range(20):
        torch.manual_seed(seed)
        score = torch.rand(2) + 0.01
        found = slow_down(score, 0.5)
        assert found[score.argmin()] == 1 and found[score.argmax()] < 1
    assert slow_down(torch.tensor([2.0, 2.0]), 0.5).tolist() == [1, 1]


def test_scores_are_summed_probabilities_of_the_true_class():
    logits = torch.randn(2, 4, CLASSES, dtype=torch.float64).float()
    labels = torch.tensor([0, 4, 2, 2])
    expected = [sum(float(logits[m, i].softmax(0)[labels[i]]) for i in range(4)) for m in range(2)]
    assert scores(logits, labels).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("epoch, active", [(1, False), (3, True), (5, True), (6, False)])
def test_ogm_works_from_the_first_to_the_last_of_its_epochs_counted_from_0(epoch, active):
    model = make_model()
    output, labels = step(model)
    before = gradients(model)
    method = OgmGe(model, 0.5, 2, 4)
    method.begin_epoch(epoch)
    method.adjust_gradients(model, output, labels)
    assert any(not torch.equal(before[name], after) for name, after in gradients(model).items()) is active


@pytest.mark.parametrize("coefficient", [1.0, 0.3])
def test_noise_has_mean_0_and_the_std_that_the_gradient_had(coefficient):
    torch.manual_seed(0)
    gradient = 0.02 * torch.randn(64, 64, 3, 3) + 0.01
    before = gradient.clone()
    modulate(gradient, torch.tensor(coefficient), noise=True)
    noise = gradient - coefficient * before
    assert noise.std().item() == pytest.approx(before.std().item(), rel=0.02)
    assert abs(noise.mean().item()) < 4 * before.std().item() / math.sqrt(before.numel())
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), before.flatten()]))[0, 1]) < 0.02


def test_noise_goes_to_the_convolutions_of_every_encoder():
    model = make_model()
    output, labels = step(model)
    before = gradients(model)
    method = OgmGe(model, 0.5, 0, 9)
    method.begin_epoch(1)
    method.adjust_gradients(model, output, labels)
    changed = {name for name, after in gradients(model).items() if not torch.equal(before[name], after)}
    assert changed == {"audio_net.1.weight", "visual_net.1.weight"}


# ---- Gradient-Blending


def test_blending_weight_is_gain_over_squared_overfitting():
    start = torch.tensor([[2.0, 2.0, 2.0], [2.1, 2.1, 2.0]])  # trained on, held out
    end = torch.tensor([[1.0, 0.5, 1.5], [1.6, 1.9, 2.4]])
    expected = [(2.1 - 1.6) / (1.6 - 1.0 - 0.1) ** 2, (2.1 - 1.9) / (1.9 - 0.5 - 0.1) ** 2, 0.0]
    assert blend(start, end).tolist() == pytest.approx(expected, rel=1e-4)
    end = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.15, 1.1]])  # overfits not at all, by 0.05, by 0.1
    assert blend(start, end).tolist() == pytest.approx([1.1 / 0.01, 0.95 / 0.01, 0.9 / 0.01], rel=1e-4)


def test_trials_last_as_long_as_the_run_unless_told_otherwise():
    compute = Compute(torch.device("cpu"), torch.float32, {})
    for flags, epochs in ((["--epochs", "9"], 9), (["--epochs", "9", "--blend_epochs", "4"], 4)):
        args = parse(["--train", "--modulation", "gblend", *flags])
        assert make_learner(args, make_model(), compute).method.blend_epochs == epochs


def test_blended_loss_is_the_weighted_sum_of_the_joint_and_the_heads_losses():
    model = make_model()
    output, labels = step(model)
    method = GradientBlending(model, 1)
    method.weights.copy_(torch.tensor([0.5, 0.3, 0.2]))
    joint = F.cross_entropy(output.logits, labels)
    expected = 0.5 * joint
    for head, features, weight in zip(method.heads, output.features, (0.3, 0.2), strict=True):
        expected = expected + weight * F.cross_entropy(features @ head.weight.T + head.bias, labels)
    assert method.loss(output, labels, joint).item() == pytest.approx(expected.item(), rel=1e-6)


def test_trials_find_the_weights_and_leave_everything_else_as_it_was():
    method = GradientBlending(make_model(), blend_epochs=2)
    state = {"x": torch.tensor([1.0])}
    seen = []

    class Learner:
        def state_dict(self):
            return state

        def load_state_dict(self, found):
            state.update(copy.deepcopy(found))

    def trial(epochs: int, losses: object) -> tuple[torch.Tensor, torch.Tensor]:
        assert losses == method.losses
        if epochs == 0:
            seen.append(method.weights.tolist())
            return torch.tensor([2.0, 2, 2]), torch.tensor([2.0, 2, 2])
        assert epochs == 2
        state["x"] += 1
        return torch.tensor([1.0, 1, 1]), torch.tensor([1.5, 1.5, 1.8])

    method.prepare(Learner(), trial)
    assert seen == [[1, 0, 0], [0, 1, 1]] and state["x"].item() == 1
    raw = [0.5 / 0.5**2, 0.5 / 0.5**2, 0.2 / 0.8**2]
    assert method.weights.tolist() == pytest.approx([value / sum(raw) for value in raw], rel=1e-5)


def test_losses_that_gain_nothing_on_held_out_clips_are_weighed_alike():
    method = GradientBlending(make_model(), blend_epochs=1)

    class Learner:
        def state_dict(self):
            return {}

        def load_state_dict(self, found):
            pass

    method.prepare(Learner(), lambda epochs, losses: (torch.full((3,), 2.0 - epochs), torch.full((3,), 2.0 + epochs)))
    assert method.weights.tolist() == pytest.approx([1 / 3] * 3)


# ---- PMR


def test_prototypes_are_class_means_and_follow_with_momentum():
    model = make_model()
    method = Pmr(model, alpha=1.0)
    torch.manual_seed(2)
    means = []
    for _ in range(2):
        features, labels = torch.randn(2, 10, DIM), torch.arange(10) % (CLASSES - 1)
        output = ClassifierOutput(torch.zeros(10, CLASSES), torch.zeros(2, 10, CLASSES), features, features)
        for part in (slice(0, 6), slice(6, 10)):
            piece = ClassifierOutput(*(x[..., part, :] for x in output))
            assert method.loss(piece, labels[part], torch.tensor(1.5)) == 1.5  # a class has no prototype yet
        method.end_epoch()
        means.append(torch.stack([features[:, labels == c].mean(1) for c in range(CLASSES - 1)], 1))
        assert method.sums.abs().sum() == 0
    torch.testing.assert_close(method.prototypes[:, :-1], 0.5 * means[0] + 0.5 * means[1])
    assert method.prototypes[:, -1].abs().sum() == 0


def test_the_modality_behind_is_drawn_to_its_prototypes():
    model = make_model()
    method = Pmr(model, alpha=0.7)
    torch.manual_seed(3)
    method.prototypes.normal_()
    method.known.fill_(1)
    labels = torch.arange(8) % CLASSES
    features = torch.stack([method.prototypes[0][labels] + 0.1 * torch.randn(8, DIM), torch.randn(8, DIM)])
    output = ClassifierOutput(torch.zeros(8, CLASSES), torch.zeros(2, 8, CLASSES), features, features)
    probabilities, losses = [], []
    for m in range(2):
        rows = [torch.softmax(torch.stack([-(clip - method.prototypes[m, c]).norm() for c in range(CLASSES)]), 0)
                for clip in features[m]]
        own = [float(row[label]) for row, label in zip(rows, labels.tolist(), strict=True)]
        probabilities.append(sum(own))
        losses.append(-sum(math.log(p) for p in own) / 8)
    lead = probabilities[0] / probabilities[1] - 1
    assert lead > 0
    expected = 1.5 + 0.7 * min(lead, 1) * losses[1]
    assert method.loss(output, labels, torch.tensor(1.5)).item() == pytest.approx(expected, rel=1e-4)


# ---- in whole runs


@pytest.fixture(scope="module")
def few_clips(tmp_path_factory) -> Path:
    """Six training and six test clips."""
    root = tmp_path_factory.mktemp("data") / "few"
    make_demo(root, train_per_class=1, test_per_class=1)
    return root


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("none", "ogm")])  # ogm_ge is ogm and noise
def test_a_balanced_run_resumes_to_the_weights_of_the_uninterrupted_one(few_clips, tmp_path, name):
    argv = ["--train", "--dataset", "tiny", "--data_root", str(few_clips), "--learning_rate", "0.01", "--ckpt_path",
            str(tmp_path), "--image_size", "64", "--audio_seconds", "0.6", "--batch_size", "3", "--num_workers", "0",
            "--device", "cpu", "--modulation", name, "--mmcosine"]
    argv += ["--blend_epochs", "1"] if name == "gblend" else []
    result = main([*argv, "--epochs", "2", "--run_name", "whole"])
    main([*argv, "--epochs", "1", "--run_name", "part"])
    main(["--resume", str(tmp_path / "part"), "--epochs", "2"])
    whole, part = (checkpoint.load(tmp_path / run / "last.pt") for run in ("whole", "part"))
    assert result["modulation"] == name
    for kind in ("model", "method"):
        assert whole[kind].keys() == part[kind].keys()
        assert all(torch.equal(whole[kind][key], part[kind][key]) for key in whole[kind]), kind
    evaluated = main(["--ckpt_path", str(tmp_path / "whole/best.pt"), "--num_workers", "0"])
    assert evaluated["accuracy"] == pytest.approx(result["accuracy"])


@pytest.mark.parametrize("argv, message", [
    (["--alpha", "0.5"], "--alpha means nothing to --modulation none"),
    (["--modulation", "gblend", "--modulation_ends", "3"], "--modulation_ends means nothing to --modulation gblend"),
    (["--modulation", "ogm", "--modality", "audio"], "--modulation compares the modalities")])
def test_flags_that_would_do_nothing_are_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse(["--train", *argv])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind, settings", [(Ogm, {"alpha": 1.0, "modulation_starts": 0, "modulation_ends": 1}),
                                            (Pmr, {"alpha": 1.0}), (GradientBlending, {"blend_epochs": 1})])
def test_methods_need_two_modalities(kind, settings):
    with pytest.raises(ValueError, match="at least two"):
        kind(make_model(1), **settings)
