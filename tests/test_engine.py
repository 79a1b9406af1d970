"""Training and evaluation loops on a network small enough to follow."""

import copy

import pytest
import torch
import torch.nn.functional as F
from one_step import SETTINGS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset

import models.balancing.learner
import utils.training.engine
from models import MultimodalClassifier, contrastive_loss
from models.balancing import METHODS, Method
from utils.training import flags
from utils.training.engine import OPTIMIZERS, Compute, Learner, evaluate, takes_fused, train_one_epoch
from utils.training.loading import EvaluationBatches, TrainBatches, make_loader
from utils.training.train import class_norms

CPU = torch.device("cpu")
CLIPS, CLASSES = 11, 3


class Vectors(Dataset):
    """Clips of two random vectors."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.audio, self.visual = torch.randn(2, CLIPS, 4, generator=generator)
        self.labels = torch.randint(CLASSES, (CLIPS,), generator=generator)

    def __len__(self):
        return CLIPS

    def for_evaluation(self):
        return self

    def __getitem__(self, i):
        return {"audio": self.audio[i], "visual": self.visual[i], "label": self.labels[i]}


@pytest.fixture
def model():
    torch.manual_seed(0)
    encoders = {"audio": nn.Linear(4, 8), "visual": nn.Linear(4, 8)}
    return MultimodalClassifier(encoders, CLASSES, mmcosine=True, dim=8)


@pytest.fixture
def compute():
    return Compute(CPU, torch.float32, {"audio": nn.Identity(), "visual": nn.Identity()})


def train_batches(batch_size: int = 4):
    return make_loader(Vectors(), TrainBatches(CLIPS, batch_size, 0), 0, 0, CPU)


def make_learner(model, compute, learning_rate=0.1):
    return Learner(model, compute, "sgd", learning_rate, 1e-4, 100, 0.1)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_evaluation_equals_a_loop_over_single_clips_whatever_the_batch_size(model, compute, batch_size):
    data = Vectors()
    loader = make_loader(data, EvaluationBatches(CLIPS, batch_size), 0, 0, CPU)
    scores = evaluate(model, loader, compute)
    right, right_visual, losses = 0, 0, []
    for i in range(CLIPS):
        output = model(data.audio[i:i + 1], data.visual[i:i + 1])
        label = int(data.labels[i])
        right += int(output.logits[0].argmax()) == label
        right_visual += int(output.modality_logits[1, 0].argmax()) == label
        losses.append(-float(output.logits[0].detach().softmax(0)[label].log()))
    assert scores["accuracy"] == pytest.approx(right / CLIPS)
    assert scores["accuracy_visual"] == pytest.approx(right_visual / CLIPS)
    assert scores["loss"] == pytest.approx(sum(losses) / CLIPS, rel=1e-5)


class Synchronisations(TorchDispatchMode):
    """Counts the operations that make the host wait for the device: .item(), .tolist(), bool(tensor)."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_does_not_wait_for_the_device(model, compute):
    learner, counts = make_learner(model, compute), {}
    for batch_size in (1, 11):  # 11 steps and 1 step
        with Synchronisations() as mode:
            train_one_epoch(learner, train_batches(batch_size), lam=0.5)
        counts[batch_size] = mode.count
    assert counts[1] == counts[11]


def test_the_contrastive_loss_is_not_computed_without_its_weight(model, compute, monkeypatch):
    monkeypatch.setattr(models.balancing.learner, "contrastive_loss", lambda *_: pytest.fail("computed"))
    train_one_epoch(make_learner(model, compute), train_batches(), lam=0.0)


@pytest.mark.parametrize("lam", [0.0, 0.5])
def test_an_update_descends_cross_entropy_of_the_joint_logits_plus_lam_times_the_contrastive_loss(model, compute, lam):
    by_hand, data = copy.deepcopy(model), Vectors()
    found = train_one_epoch(make_learner(model, compute), train_batches(CLIPS), lam)
    output = by_hand(data.audio, data.visual)
    loss = F.cross_entropy(output.logits, data.labels)
    if lam:
        loss = loss + lam * contrastive_loss(output.fused, data.labels)
    loss.backward()
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for after, before in zip(model.parameters(), by_hand.parameters(), strict=True):
        if before.requires_grad:  # SGD with momentum: the first step is along gradient + 1e-4 of the weight
            torch.testing.assert_close(after, before - 0.1 * (before.grad + 1e-4 * before))


class Log:
    """In place of a Run."""

    def __init__(self):
        self.pieces = []

    def log_iterations(self, rows):
        self.pieces.append(rows)


def test_logged_rows_are_the_iterations_and_add_up_to_the_epoch(model, compute, monkeypatch):
    monkeypatch.setattr(utils.training.engine, "FLUSH_EVERY", 2)
    run = Log()
    means = train_one_epoch(make_learner(model, compute), train_batches(), 0, run)
    pieces = run.pieces
    assert [len(piece) for piece in pieces] == [2, 1]  # 11 clips in batches of 4
    rows = torch.cat(pieces)
    assert rows[:, 0].tolist() == [4, 4, 3]
    assert means["loss"] == pytest.approx(float(rows[:, 1].sum()) / CLIPS)


def test_learner_state_restores_model_optimizer_and_schedule(model, compute):
    learner = make_learner(model, compute)
    train_one_epoch(learner, train_batches(), lam=0)
    learner.scheduler.step()
    torch.manual_seed(5)
    other = make_learner(MultimodalClassifier({"audio": nn.Linear(4, 8), "visual": nn.Linear(4, 8)}, CLASSES,
                                              mmcosine=True, dim=8), compute)
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    for each in (learner, other):
        train_one_epoch(each, train_batches(), lam=0)
    assert all(torch.equal(a, b) for a, b in zip(learner.model.parameters(), other.model.parameters(), strict=True))
    assert learner.scheduler.state_dict() == other.scheduler.state_dict()


def test_float16_trains_under_a_scaler_whose_state_is_kept(model):
    compute = Compute(CPU, torch.float16, {"audio": nn.Identity(), "visual": nn.Identity()})
    learner = make_learner(model, compute)
    before = copy.deepcopy(model.state_dict())
    train_one_epoch(learner, train_batches(), lam=0)
    assert 0 < learner.state_dict()["scaler"]["scale"] <= 2.0**16
    assert not torch.equal(before["audio_net.weight"], model.state_dict()["audio_net.weight"])


def test_class_norms_are_the_lengths_of_the_rows_of_each_modality(model):
    weight = model.fusion_module.fc_out.weight.detach()
    by_hand = [[sum(float(x) ** 2 for x in row[columns]) ** 0.5 for row in weight]
               for columns in (slice(8), slice(8, None))]
    assert class_norms(model).tolist() == [pytest.approx(row) for row in by_hand]


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam),
                                            ("adamw", torch.optim.AdamW)])
def test_each_optimizer_is_the_one_of_its_name_with_the_given_rate_and_decay(model, compute, name, kind):
    optimizer = Learner(model, compute, name, 0.3, 0.02, 100, 0.1).optimizer
    assert type(optimizer) is kind
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.3, 0.02)


def test_optimizers_that_can_be_chosen_are_those_that_are_there():
    assert tuple(OPTIMIZERS) == flags.OPTIMIZERS


@pytest.mark.parametrize(("device", "precision", "name", "expected"), [
    ("cuda", torch.bfloat16, "ogm_ge", True), ("cuda", torch.float32, "none", True),
    ("cpu", torch.float32, "none", False), ("cuda", torch.float16, "none", False),
    ("cuda", torch.bfloat16, "mmpareto", False), ("cuda", torch.float32, "mla", False)])
def test_the_fused_optimizer_is_for_plain_steps_without_a_loss_scaler(model, device, precision, name, expected):
    compute = Compute(torch.device(device), precision, {})
    assert takes_fused(compute, METHODS[name](model, **SETTINGS[name])) == expected


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items()
                                  if not (kind.has_own_step() or kind.whole_batches) and name != "mcr"])
def test_a_batch_computed_in_parts_is_descended_as_a_whole(name, model, compute):
    """Without BatchNorm, and for methods that do not compare clips."""
    ended = []
    for accumulate in (1, 3):
        same = copy.deepcopy(model)
        torch.manual_seed(0)  # of heads that a method has
        learner = Learner(same, compute, "sgd", 0.1, 1e-4, 100, 0.1, METHODS[name](same, **SETTINGS[name]), accumulate)
        for epoch in (1, 2):
            learner.method.begin_epoch(epoch, learner, None)
            figures = train_one_epoch(learner, train_batches(5), lam=0)  # the last batch has a single clip
            if not learner.method.needs_held_out:
                learner.method.end_epoch(learner, None)
        ended.append((learner.state_dict()["model"], figures))
    for key, value in ended[0][0].items():
        torch.testing.assert_close(ended[1][0][key], value, rtol=1e-5, atol=1e-6)
    assert ended[1][1] == pytest.approx(ended[0][1], rel=1e-5)


def test_a_method_is_told_which_share_of_the_epoch_is_behind_a_batch(model, compute):
    shares = []

    class Notes(Method):
        def step(self, learner, batch):
            shares.append(batch.elapsed)
            return learner.plain_step(batch)

    train_one_epoch(Learner(model, compute, "sgd", 0.1, 0, 100, 0.1, Notes(model)), train_batches(4), lam=0)
    assert shares == pytest.approx([0, 1 / 3, 2 / 3])


def test_a_part_of_a_batch_is_all_that_is_computed_at_a_time(model, compute):
    sizes = []
    model.encoder("audio").register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    train_one_epoch(Learner(model, compute, "sgd", 0.1, 0, 100, 0.1, accumulate=2), train_batches(7), lam=0)
    assert sizes == [4, 3, 2, 2]
