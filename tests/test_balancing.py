"""Balancing methods against computations clip by clip, and in whole runs."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_engine import Vectors
from three_modalities import main
from torch import nn
from torch.utils.data import Dataset

from dataset.errors import InputError
from main_CD import parse
from models import ClassifierOutput, MultimodalClassifier
from models.balancing import Method
from models.balancing.gradient_blending import GradientBlending, blend
from models.balancing.method import MethodError
from models.balancing.ogm import Ogm, OgmGe, modulate, scores, slow_down
from models.balancing.pmr import Pmr
from utils.training import checkpoint
from utils.training.engine import Compute, Learner, train_one_epoch
from utils.training.loading import Loaders, TrainBatches, make_loader
from utils.training.train import fit
from utils.training.trial import Trial

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
    method.begin_epoch(1, None, None)
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
        found = slow_down(score / score.flip(0), 0.5)
        assert found[score.argmin()] == 1 and found[score.argmax()] < 1
    assert slow_down(torch.tensor([1.0, 1.0]), 0.5).tolist() == [1, 1]


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
    method.begin_epoch(epoch, None, None)
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
    method.begin_epoch(1, None, None)
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


class Stub:
    """A learner whose state is one number and its method's."""

    def __init__(self, method: nn.Module):
        self.method, self.x = method, 1

    def state_dict(self) -> dict:
        return {"x": self.x, "method": self.method.state_dict()}

    def load_state_dict(self, found: dict) -> None:
        self.x = found["x"]
        self.method.load_state_dict(found["method"])


class StubTrial:
    """All losses are 2 before training, `after` (2, 1 + M) after it. seen: (epochs, weights) of every trial."""

    def __init__(self, stub: Stub, after: torch.Tensor):
        self.stub, self.after, self.seen, self.saved = stub, after, [], []

    def train_and_measure(self, epochs: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.stub.x == 1
        self.seen.append((epochs, self.stub.method.weights.tolist()))
        self.stub.x += epochs
        return tuple(self.after) if epochs else tuple(torch.full((2, 3), 2.0))

    def save(self) -> None:
        self.saved.append(copy.deepcopy(self.stub.state_dict()))


@pytest.mark.parametrize("flag, length", [(2, 2), (0, 9)])
def test_trials_find_the_weights_and_leave_everything_else_as_it_was(flag, length):
    method = GradientBlending(make_model(), blend_epochs=flag)
    after = torch.tensor([[1.0, 1, 1], [1.5, 1.5, 1.8]])
    stub = Stub(method)
    trial = StubTrial(stub, after)
    method.prepare(stub, 9, trial)
    assert [epochs for epochs, _ in trial.seen] == [0, length, length] and stub.x == 1
    assert [weights for _, weights in trial.seen[1:]] == [[1, 0, 0], [0, 1, 1]]
    raw = [0.5 / 0.5**2, 0.5 / 0.5**2, 0.2 / 0.8**2]
    expected = [value / sum(raw) for value in raw]
    assert method.weights.tolist() == pytest.approx(expected, rel=1e-5)
    assert method.facts() == dict(zip(("blend_weight_joint", "blend_weight_audio", "blend_weight_visual"),
                                      method.weights.tolist(), strict=True))
    for done, state in enumerate(trial.saved, 1):  # a run killed after each measurement continues with the next one
        again = GradientBlending(make_model(), blend_epochs=flag)
        stub = Stub(again)
        stub.load_state_dict(state)
        left = StubTrial(stub, after)
        again.prepare(stub, 9, left)
        assert len(left.seen) == 3 - done and torch.equal(again.weights, method.weights)
    assert len(trial.saved) == 3


@pytest.mark.parametrize("held_out, message", [
    (2.5, r"after a trial of 9 epochs the joint loss of held-out clips is 2\.500, before .*2\.000.*--blend_epochs"),
    (math.inf, "a loss is not finite"), (math.nan, "a loss is not finite")])
def test_a_joint_loss_that_gains_nothing_is_refused_after_its_own_trial(held_out, message):
    method = GradientBlending(make_model(), blend_epochs=0)
    stub = Stub(method)
    trial = StubTrial(stub, torch.tensor([[1.0, 1, 1], [held_out, 1, 1]]))
    with pytest.raises(MethodError, match=message):
        method.prepare(stub, 9, trial)
    assert len(trial.seen) == 2


def test_a_head_that_gains_nothing_has_no_weight():
    method = GradientBlending(make_model(), blend_epochs=0)
    stub = Stub(method)
    method.prepare(stub, 1, StubTrial(stub, torch.tensor([[1.0, 1, 1], [1.5, 1.5, 2.5]])))
    assert method.weights.tolist() == pytest.approx([0.5, 0.5, 0])


class Noted(Vectors):
    """Notes which clips are asked for, and whether the network was being trained then."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.asked = model, []

    def __getitem__(self, i):
        self.asked.append((self.model.training, i))
        return super().__getitem__(i)


class Multiples(Method):
    """Measures one, two and three times the loss."""

    def losses(self, output, labels, loss):
        return torch.stack([loss, 2 * loss, 3 * loss])


def test_a_trial_trains_on_four_fifths_of_the_training_clips_and_holds_out_the_rest():
    model, compute = make_model(), Compute(torch.device("cpu"), torch.float32, dict.fromkeys(NAMES[:2], nn.Identity()))
    learner, data = Learner(model, compute, "sgd", 0.1, 0.0, 100, 0.1, Multiples(model)), Noted(model)
    before = copy.deepcopy(model.state_dict())
    means = Trial(learner, data, Loaders(3, 3, 0, compute.device), 3, 0.0, None).train_and_measure(2)
    trained = [i for training, i in data.asked if training]
    measured = [i for training, i in data.asked if not training]
    parts = measured[:9], measured[9:]  # of 11
    assert sorted(trained) == sorted(2 * parts[0]) and sorted(measured) == list(range(11))
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    for part, mean in zip(parts, means, strict=True):
        with torch.no_grad():
            loss = F.cross_entropy(model(data.audio[part], data.visual[part]).logits, data.labels[part])
        torch.testing.assert_close(mean, loss * torch.tensor([1.0, 2, 3]))


# ---- PMR


def test_the_modality_behind_is_drawn_to_its_prototypes():
    model = make_model()
    method = Pmr(model, 0.7, pmr_entropy=0.0, pmr_entropy_epochs=1)
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
    assert method.loss(model, output, labels, torch.tensor(1.5)).item() == pytest.approx(expected, rel=1e-4)
    method.of_entropy, method.early, leading = 0.3, True, features[0]
    p = torch.softmax(-torch.cdist(leading, method.prototypes[0]), 1)
    expected += 0.3 * float((p * p.log()).sum(1).mean())
    assert method.loss(model, output, labels, torch.tensor(1.5)).item() == pytest.approx(expected, rel=1e-4)


# ---- in whole runs


class Measurements:
    """In place of `Trial.mean_losses`: gains, not the same for every loss. `stop`: the call that is interrupted."""

    def __init__(self, stop: int = 0):
        self.calls, self.stop = 0, stop

    def method(self):
        def mean_losses(trial: Trial, part: Dataset) -> torch.Tensor:
            self.calls += 1
            if self.calls == self.stop:
                raise KeyboardInterrupt
            begun = trial.learner.scheduler.last_epoch > 0
            return torch.tensor([1.0, 1.2, 1.4, 1.0]) if begun else torch.tensor([2.0, 2, 2, 2])

        return mean_losses


def test_a_run_that_is_stopped_in_a_trial_resumes_to_the_weights_of_the_uninterrupted_one(tmp_path, monkeypatch):
    argv = ["--train", "--ckpt_path", str(tmp_path), "--num_workers", "0", "--device", "cpu", "--mmcosine",
            "--modulation", "gblend", "--blend_epochs", "1"]
    monkeypatch.setattr(Trial, "mean_losses", Measurements().method())
    result = main([*argv, "--epochs", "2", "--run_name", "whole"])
    monkeypatch.setattr(Trial, "mean_losses", Measurements(stop=5).method())  # in the second trial, of the heads
    with pytest.raises(KeyboardInterrupt):
        main([*argv, "--epochs", "1", "--run_name", "part"])
    resumed = Measurements()
    monkeypatch.setattr(Trial, "mean_losses", resumed.method())
    main(["--resume", str(tmp_path / "part"), "--epochs", "2"])
    assert resumed.calls == 2
    whole, part = (checkpoint.load(tmp_path / run / "last.pt") for run in ("whole", "part"))
    for kind in ("model", "method"):
        assert whole[kind].keys() == part[kind].keys()
        assert all(torch.equal(whole[kind][key], part[kind][key]) for key in whole[kind]), kind
    weights = [result[f"blend_weight_{what}"] for what in ("joint", "rgb", "flow", "audio")]
    assert weights == whole["method"]["weights"].tolist() == pytest.approx([1 / 3.4, 0.8 / 3.4, 0.6 / 3.4, 1 / 3.4])


def test_an_epoch_under_ogm_is_sgd_on_the_modulated_gradients():
    compute = Compute(torch.device("cpu"), torch.float32, dict.fromkeys(NAMES[:2], nn.Identity()))
    model, data = make_model(), Vectors()
    data.audio *= 4
    by_hand = copy.deepcopy(model)
    learner = Learner(model, compute, "sgd", 0.1, 0.0, 100, 0.1, Ogm(model, 0.5, 0, 0))
    learner.method.begin_epoch(1, None, None)
    train_one_epoch(learner, make_loader(data, TrainBatches(len(data), 11, 0), 0, 0, compute.device), lam=0)
    output = by_hand.train()(data.audio, data.visual)
    F.cross_entropy(output.logits, data.labels).backward()
    factors = dict(zip(NAMES, naive_coefficients(output, data.labels, 0.5), strict=False))
    assert min(factors.values()) < 1
    for (name, found), start in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        factor = factors[name.split("_net")[0]] if start.dim() == 4 else 1
        torch.testing.assert_close(found, start - 0.1 * factor * start.grad)


def test_ogm_changes_the_epochs_it_is_asked_to_and_no_other():
    compute = Compute(torch.device("cpu"), torch.float32, dict.fromkeys(NAMES[:2], nn.Identity()))

    class Unmeasured:
        """A task without held-out data."""

        train, loaders = Vectors(), Loaders(4, 0, 0, compute.device)

        def evaluate_held_out(self):
            return {}

    class Notes:
        """In place of a Run."""

        def __init__(self):
            self.history, self.tests_every_epoch, self.settings = [], False, {}

        def log_iterations(self, rows):
            pass

        def end_epoch(self, train, held_out, norms, state, test, balance):
            self.history.append(copy.deepcopy(state["model"]))

    def weights(method: type[Method], **settings) -> list[dict]:
        model, run = make_model(), Notes()
        learner = Learner(model, compute, "sgd", 0.1, 0.0, 100, 0.1, method(model, **settings))
        fit(Unmeasured(), learner, run, 3, seed=0, lam=0)
        return run.history

    class Draws(Method):
        def begin_epoch(self, epoch, learner, clips) -> None:
            drawn.append(torch.rand(()).item())

    drawn: list[float] = []
    weights(Draws)
    weights(Draws)
    assert drawn[:3] == drawn[3:] and len(set(drawn)) == 3, "what a step draws depends on the epoch, and on that alone"
    plain, late = weights(Method), weights(Ogm, alpha=0.5, modulation_starts=1, modulation_ends=1)
    same = [all(torch.equal(one[name], other[name]) for name in one) for one, other in zip(plain, late, strict=True)]
    assert same == [True, False, False]
    always = weights(Ogm, alpha=0.5, modulation_starts=0, modulation_ends=9)
    assert not torch.equal(always[0]["audio_net.1.weight"], plain[0]["audio_net.1.weight"])


@pytest.mark.parametrize("argv, message", [
    (["--alpha", "0.5"], "--alpha has no effect with --modulation none"),
    (["--modulation", "gblend", "--modulation_ends", "3"], "--modulation_ends has no effect with --modulation gblend"),
    (["--modulation", "ogm", "--modality", "audio"], "--modulation compares the modalities"),
    (["--modulation", "ogm_ge", "--modulation_starts", "60"], "--modulation_starts 60 is after the last epoch"),
    (["--modulation", "ogm", "--modulation_starts", "9", "--epochs", "9"], "of modulation, 8 counted from 0")])
def test_flags_that_would_do_nothing_are_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse(["--train", *argv])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("given, message", [
    (["--modulation", "mslr", "--mslr_factors", "1,2"], "--modulation mslr: --mslr_factors has 2 numbers, the run 3"),
    (["--modulation", "gblend"], "the joint loss of held-out clips is 2.000, before it was 1.000")])
def test_what_a_method_cannot_do_is_an_input_error_of_the_run(tmp_path, monkeypatch, given, message):
    losses = iter([torch.ones(4), torch.ones(4), torch.full((4,), 2.0), torch.full((4,), 2.0)])
    monkeypatch.setattr(Trial, "mean_losses", lambda *_: next(losses))
    with pytest.raises(InputError, match=message):
        main(["--train", "--ckpt_path", str(tmp_path), "--num_workers", "0", "--device", "cpu", *given])
