"""Each balancing method's step against a naive computation of its equations in float64 (tests/one_step.py)."""

import copy
import itertools
import math

import pytest
import torch
from one_step import (
    CLASSES,
    DIM,
    NAMES,
    RATE,
    SETTINGS,
    assert_same,
    clips,
    distance,
    feature,
    head_loss,
    joint_loss,
    learner_of,
    loader,
    modality_logit,
    naive_gradients,
    network,
    nll,
    stepped,
    total,
)
from scipy.optimize import minimize_scalar
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from main_CD import parse
from models import MultimodalClassifier
from utils.balancing import METHODS, relearning
from utils.balancing.method import Batch, Clips
from utils.balancing.mmpareto import weights
from utils.balancing.relearning import purity

BOTH_HEADS = pytest.mark.parametrize("mmcosine", [False, True])
TWO_OR_THREE = pytest.mark.parametrize("modalities", [2, 3])


def plain_descent(modalities: int, mmcosine: bool) -> dict:
    return stepped("none", {}, modalities, mmcosine)[1]


# ---- multi-loss


@TWO_OR_THREE
@BOTH_HEADS
def test_multiloss_descends_the_joint_loss_and_lambda_times_the_loss_of_each_head(modalities, mmcosine):
    before, descent, _ = stepped("multiloss", {"uni_weight": 0.7}, modalities, mmcosine)
    loss = total((1.0, joint_loss(modalities, mmcosine)), *((0.7, head_loss(m)) for m in range(modalities)))
    assert_same(descent, naive_gradients(loss, before, modalities))
    assert distance(descent, plain_descent(modalities, mmcosine)) > 0.01


# ---- MMPareto


def flat(gradients: dict, modality: str) -> torch.Tensor:
    return torch.cat([value.flatten() for name, value in gradients.items() if name.startswith(f"{modality}_net")])


@TWO_OR_THREE
@BOTH_HEADS
@pytest.mark.parametrize("seed", [0, 1])
def test_mmpareto_combines_the_two_gradients_of_an_encoder_by_the_shortest_vector_between_them(modalities, mmcosine,
                                                                                              seed):
    before, descent, _ = stepped("mmpareto", {"pareto_gamma": 1.5}, modalities, mmcosine, seed=seed)
    joint = naive_gradients(joint_loss(modalities, mmcosine), before, modalities)
    heads = [naive_gradients(head_loss(m), before, modalities) for m in range(modalities)]
    both = {name: value + sum(head[name] for head in heads) for name, value in joint.items()}
    assert_same(descent, {name: value for name, value in both.items() if "_net" not in name})
    agree = [bool(flat(joint, name) @ flat(heads[m], name) > 0) for m, name in enumerate(NAMES[:modalities])]
    assert (any(agree) and not all(agree)) or seed == 0
    for m, modality in enumerate(NAMES[:modalities]):
        of_joint, of_head = flat(joint, modality), flat(heads[m], modality)
        k = 0.5
        if not agree[m]:
            k = minimize_scalar(lambda k, a=of_joint, b=of_head: float((k * a + (1 - k) * b).norm()),
                                bounds=(0.001, 0.999), method="bounded", options={"xatol": 1e-9}).x
        h = 2 * k * of_joint + 2 * (1 - k) * of_head
        plain = of_joint + of_head
        h = h * max(1.0, float(plain.norm() / h.norm()))
        torch.testing.assert_close(flat(descent, modality), 1.5 * h, rtol=1e-5, atol=1e-8)
    assert distance(descent, stepped("multiloss", {"uni_weight": 1.0}, modalities, mmcosine, seed=seed)[1]) > 0.01


def test_the_combined_gradient_conflicts_with_neither_and_is_no_shorter_than_the_sum():
    conflicts = 0
    for seed in range(40):
        torch.manual_seed(seed)
        joint, alone = torch.randn(2, 6, dtype=torch.float64)
        k, stretch = weights([joint[:2], joint[2:]], [alone[:2], alone[2:]])
        h = stretch * (2 * k * joint + 2 * (1 - k) * alone)
        conflicts += float(joint @ alone) < 0
        limit = -0.002 * float(joint.norm() * alone.norm()) * float(stretch)  # k stays in [0.001, 0.999]
        assert float(h @ joint) >= limit and float(h @ alone) >= limit
        assert float(h.norm()) >= float((joint + alone).norm()) * (1 - 1e-9)
    assert conflicts > 10
    assert all(math.isfinite(value) for value in weights([torch.zeros(3)], [torch.zeros(3)]))


# ---- AGM


def naive_responses(state: dict, inputs: list, i: int, mmcosine: bool) -> list[torch.Tensor]:
    """phi of clip i: what a modality adds to those before it, in the mean over all orders of the modalities."""
    count = len(inputs)
    present = [modality_logit(state, m, count, feature(state, NAMES[m], x[i]), mmcosine) for m, x in enumerate(inputs)]
    absent = [modality_logit(state, m, count, torch.zeros(DIM, dtype=torch.float64), mmcosine) for m in range(count)]
    orders = list(itertools.permutations(range(count)))
    phi = [0.0] * count
    for order in orders:
        before = 0.0
        for place, m in enumerate(order):
            now = sum(present[n] if n in order[:place + 1] else absent[n] for n in range(count))
            phi[m], before = phi[m] + (now - before) / len(orders), now
    return phi


@TWO_OR_THREE
@BOTH_HEADS
def test_agm_multiplies_the_gradient_that_flows_into_each_response(modalities, mmcosine):
    past = torch.tensor([0.9, 1.6, 1.2], dtype=torch.float64)[:modalities]

    def prepared(method):
        method.means.copy_(past)
        method.steps.fill_(3)

    before, descent, method = stepped("agm", {"agm_alpha": 0.8}, modalities, mmcosine, prepared)
    inputs, labels = clips(modalities)
    phi = [naive_responses(before, inputs, i, mmcosine) for i in range(len(labels))]
    surprise = [float(sum(nll(phi[i][m].detach(), int(label)) for i, label in enumerate(labels)) / len(labels))
                for m in range(modalities)]

    def ahead(scores, m):
        others = [float(score) for n, score in enumerate(scores) if n != m]
        return math.exp(sum(others) / len(others) - float(scores[m]))

    kappa = [math.exp(0.8 * min(ahead(past, m) - ahead(surprise, m), 10)) for m in range(modalities)]
    assert max(kappa) > 1 > min(kappa)

    def loss(state, inputs, labels):
        total = 0.0
        for i, label in enumerate(labels):
            phi = naive_responses(state, inputs, i, mmcosine)
            error = sum(phi).detach().softmax(0) - torch.eye(CLASSES, dtype=torch.float64)[label]
            total = total + sum(factor * (error @ one) for factor, one in zip(kappa, phi, strict=True)) / len(labels)
        return total

    assert_same(descent, naive_gradients(loss, before, modalities))
    assert distance(descent, plain_descent(modalities, mmcosine)) > 0.01
    means = [float(mean) * 3 / 4 + score / 4 for mean, score in zip(past, surprise, strict=True)]
    assert method.means.tolist() == pytest.approx(means) and method.steps == 4


# ---- MLA


@TWO_OR_THREE
def test_mla_updates_an_encoder_and_the_one_head_in_turn_with_the_gradient_projected(modalities):
    before, descent, method = stepped("mla", {}, modalities)
    inputs, labels = clips(modalities)
    weight, bias = (before[f"fusion_module.fc_x.{name}"] for name in ("weight", "bias"))
    projection, pushes = torch.eye(DIM, dtype=torch.float64), []
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for m, modality in enumerate(NAMES[:modalities]):
        state = {**before, "W": weight.detach().requires_grad_(), "b": bias.detach().requires_grad_()}

        def loss(state, inputs, labels, modality=modality, m=m):
            return sum(nll(state["W"] @ feature(state, modality, inputs[m][i]) + state["b"], label)
                       for i, label in enumerate(labels)) / len(labels)

        found = naive_gradients(loss, state, modalities)
        own = [name for name in found if name.startswith(modality)]
        assert_same({name: descent[name] for name in own}, {name: found[name] for name in own})
        pushes.append((found["W"], found["W"] @ projection.T))
        velocity = [0.9 * old + new for old, new in zip(velocity, (pushes[-1][1], found["b"]), strict=True)]
        weight, bias = (value - RATE * push for value, push in zip((weight, bias), velocity, strict=True))
        r = sum(feature(before, modality, clip).detach() for clip in inputs[m]) / len(labels)
        k = torch.stack([sum(row * r) for row in projection])
        projection = projection - torch.outer(k, k) / (0.1 + sum(r * k))
        projection = projection / math.sqrt(sum(float(x) ** 2 for x in projection.flatten()))
    for layer in ("fc_x", "fc_y", "fc_z")[:modalities]:
        first = before["fusion_module.fc_x.weight"] - before[f"fusion_module.{layer}.weight"]
        assert first.abs().max() == 0, "the layers start equal"
        assert_same(descent, {f"fusion_module.{layer}.weight": (before["fusion_module.fc_x.weight"] - weight) / RATE,
                              f"fusion_module.{layer}.bias": (before["fusion_module.fc_x.bias"] - bias) / RATE})
    torch.testing.assert_close(method.projection, projection)
    assert (pushes[1][0] - pushes[1][1]).norm() > 0.1 * pushes[1][0].norm()


def test_a_later_modality_hardly_moves_the_logits_of_an_earlier_ones_mean_feature():
    method = METHODS["mla"](network(2, fusion="sum")).double()
    torch.manual_seed(0)
    features, gradient = torch.randn(9, DIM).double() + 1, torch.randn(CLASSES, DIM).double()
    r = features.mean(0)
    method.protect(features, Batch([], torch.zeros(9), 1.0, 0.0, elapsed=0.5))
    across = torch.randn(DIM).double()
    across -= (across @ r) / (r @ r) * r
    moved = gradient @ method.projection.T
    left = (moved @ r).norm() / (gradient @ r).norm() / ((moved @ across).norm() / (gradient @ across).norm())
    rest = 0.1 ** 1.5
    assert float(left) == pytest.approx(rest / (rest + float(r @ r)), rel=1e-6) and left < 0.05


# ---- LFM


def naive_divergence(rows: list[torch.Tensor]) -> torch.Tensor:
    """JS of the predictions of one clip: the mean of their Kullback-Leibler divergences from their mean."""
    p = [row.exp() / row.exp().sum() for row in rows]
    middle = sum(p) / len(p)
    return sum((one * (one / middle).log()).sum() for one in p) / len(p)


def late_loss(weight: float, modalities: int, mmcosine: bool):
    def loss(state, inputs, labels):
        total = 0.0
        for i, label in enumerate(labels):
            rows = [modality_logit(state, m, modalities, feature(state, NAMES[m], x[i]), mmcosine)
                    for m, x in enumerate(inputs)]
            total = total + (1 - weight) * nll(sum(rows) / modalities, label) + weight * naive_divergence(rows)
        return 2 * total / len(labels)

    return loss


@TWO_OR_THREE
@BOTH_HEADS
def test_lfm_descends_the_loss_of_the_mean_logits_and_the_divergence_of_the_predictions(modalities, mmcosine):
    before, descent, _ = stepped("lfm", {"lfm_weight": 0.25, "lfm_rate": 0.0}, modalities, mmcosine)
    assert_same(descent, naive_gradients(late_loss(0.25, modalities, mmcosine), before, modalities))
    without = naive_gradients(late_loss(0.0, modalities, mmcosine), before, modalities)
    assert distance(descent, without) > 0.01


def test_lfm_moves_its_weight_by_how_the_held_out_loss_changes_with_it():
    """Against a central difference over two whole steps."""

    def held_out_loss(weight: float) -> float:
        before, descent, _ = stepped("lfm", {"lfm_weight": weight, "lfm_rate": 0.0})
        after = {name: value.detach() - RATE * descent[name] for name, value in before.items()}
        inputs, labels = clips(2, seed=5)
        return float(late_loss(0.0, 2, False)(after, inputs, labels.tolist())) / 2

    expected = (held_out_loss(0.25 + 1 / 1024) - held_out_loss(0.25 - 1 / 1024)) * 512
    _, _, method = stepped("lfm", {"lfm_weight": 0.25, "lfm_rate": 0.5}, ends=True)
    assert abs(expected) > 5e-4
    assert float(method.weight) == pytest.approx(0.25 - 0.5 * expected, abs=1e-6)
    assert stepped("lfm", {"lfm_weight": 0.25, "lfm_rate": 1e6}, ends=True)[2].weight in (0.05, 0.95)


# ---- Diagnosing & Re-learning


def test_dnr_sets_encoders_back_by_the_purity_gap_and_only_in_its_epochs(monkeypatch):
    gaps = {"trained": [0.9, 0.5], "held out": [0.6, 0.5]}
    monkeypatch.setattr(relearning, "purities", lambda learner, loader: gaps[loader])
    model = network(2)
    model.audio_net.add_module("norm", nn.BatchNorm1d(DIM).double())
    start = copy.deepcopy(model.state_dict())
    method = METHODS["dnr"](model, 1.0, relearn_every=3, relearn_times=2, relearn_strength=3.0).double()
    learner = learner_of(model, method)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value += 1 if value.is_floating_point() else 0
    trained = copy.deepcopy(model.state_dict())
    weight = math.tanh(3 * 0.3)
    changed = []
    for epoch in range(1, 11):
        model.load_state_dict(trained)
        method.begin_epoch(epoch, learner, Clips("trained", "held out"))
        method.end_epoch(learner, Clips("trained", "held out"))
        changed += [epoch] * any(not torch.equal(value, trained[name]) for name, value in model.state_dict().items())
        for name, value in model.state_dict().items():
            back = epoch in (3, 6) and name.startswith("audio_net") and "running" not in name
            expected = trained[name]
            if back and value.is_floating_point():
                expected = weight * start[name] + (1 - weight) * trained[name]
            torch.testing.assert_close(value, expected)
    assert changed == [3, 6] and 0 < weight < 1
    for name, value in method.initial["audio"].state_dict().items():
        assert torch.equal(value, start[f"audio_net.{name}"]), "theta_0 is kept bit for bit"


def test_purity_is_the_share_of_the_most_frequent_classes_in_their_clusters():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0, 0], [100, 1, 0], [0, 1, 0.001]])
    places = torch.arange(30) % 3
    features = centres[places] + 1e-5 * torch.randn(30, 3)  # far apart only once each feature is scaled
    labels = places.clone()
    labels[:4] = 1  # three of them are of other clusters
    assert purity(features, labels.numpy(), 3) == pytest.approx(27 / 30)
    assert purity(features[:2], labels[:2].numpy(), 3) == 1.0  # fewer clips than classes


def test_purities_are_of_every_clip_in_evaluation_mode_for_each_modality():
    torch.manual_seed(1)
    model = network(2)
    learner = learner_of(model, METHODS["none"](model))
    learner.train()
    found = relearning.purities(learner, loader(2, seed=1))
    assert not model.training
    inputs, labels = clips(2, seed=1)
    expected = [purity(model.encoder(name)(x).detach().float(), labels.numpy(), CLASSES)
                for name, x in zip(NAMES, inputs, strict=False)]
    assert found == expected and found[0] != found[1]


# ---- MCR


@TWO_OR_THREE
@BOTH_HEADS
def test_each_encoder_plays_for_its_own_influence_under_mcr_and_the_rest_does_not_play(modalities, mmcosine):
    settings = {"mcr_uni": 0.6, "mcr_mipd": 20.0, "mcr_permutations": 3}
    before, descent, _ = stepped("mcr", settings, modalities, mmcosine, lambda method: torch.manual_seed(9))
    torch.manual_seed(9)
    orders = [torch.randperm(7).tolist() for _ in range(3)]

    def rows(state, inputs, i, order=None, permuted=None):
        return [modality_logit(state, m, modalities, feature(state, NAMES[m], x[order[i] if m == permuted else i]),
                               mmcosine) for m, x in enumerate(inputs)]

    def influence(state, inputs, m):
        return sum(naive_divergence([sum(rows(state, inputs, i)), sum(rows(state, inputs, i, order, m))])
                   for order in orders for i in range(7)) / 21

    def contrast(state, inputs, labels, a, b):
        f, g = ([feature(state, NAMES[m], clip) for clip in inputs[m]] for m in (a, b))
        total = 0.0
        for i, label in enumerate(labels):
            alike = torch.stack([(f[i] @ other) / (f[i].norm() * other.norm()) for other in g]) / 0.5
            positives = [j for j, other in enumerate(labels) if other == label]
            total = total + sum(nll(alike, j) for j in positives) / len(positives)
        return total / len(labels)

    def rest(state, inputs, labels):
        alone = sum(nll(row, label) for i, label in enumerate(labels) for row in rows(state, inputs, i)) / len(labels)
        pairs = list(itertools.permutations(range(modalities), 2))
        return (joint_loss(modalities, mmcosine)(state, inputs, labels) + 0.6 * alone
                + sum(contrast(state, inputs, labels, a, b) for a, b in pairs) / len(pairs))

    expected = naive_gradients(rest, before, modalities)
    for m, modality in enumerate(NAMES[:modalities]):
        def played(state, inputs, labels, m=m):
            others = [influence(state, inputs, n) for n in range(modalities) if n != m]
            return rest(state, inputs, labels) + 20.0 * (sum(others) / len(others) - influence(state, inputs, m))

        own = naive_gradients(played, before, modalities)
        moves = {name: value for name, value in own.items() if name.startswith(modality)}
        assert distance(moves, expected) > 0.01
        expected.update(moves)
    assert_same(descent, expected)


# ---- all methods


@pytest.mark.parametrize(("argv", "message"), [
    (["mla", "--fusion_method", "sum", "--mmcosine"], "--mmcosine cannot be combined with --modulation mla: its proje"),
    (["mla"], "--modulation mla is defined for --fusion_method sum"),
    (["lfm", "--fusion_method", "film"], "--modulation lfm is defined for --fusion_method concat or sum"),
    (["agm", "--lam", "0.1"], "--lam cannot be combined with --modulation agm: it replaces the loss"),
    (["dnr", "--relearn_every", "9", "--epochs", "9"], "--relearn_every 9 is not before the last of 9 epochs"),
    (["agm", "--pareto_gamma", "1"], "--pareto_gamma has no effect with --modulation agm"),
    (["mmpareto", "--pareto_gamma", "0"], "out of range"), (["lfm", "--lfm_weight", "0.99"], "out of range")])
def test_what_a_method_is_not_defined_for_is_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse(["--train", "--modulation", *argv])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_every_method_needs_two_modalities(name, capsys):
    with pytest.raises(SystemExit):
        parse(["--train", "--modulation", name, "--modality", "audio", "--fusion_method", "sum"])
    assert "--modulation compares the modalities" in capsys.readouterr().err


class Synchronisations(TorchDispatchMode):
    """Counts the operations that make the host wait for the device: .item(), .tolist(), bool(tensor)."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def take_steps(name: str, modalities: int, precision: torch.dtype, mode=None) -> tuple[MultimodalClassifier, list]:
    model = network(modalities, mmcosine="mmcosine" not in METHODS[name].without,
                    fusion=(*METHODS[name].fusions, "concat")[0]).float()
    learner = learner_of(model, METHODS[name](model, **SETTINGS[name]), precision)
    learner.method.begin_epoch(1, learner, None)
    learner.train()
    inputs, labels = clips(modalities)
    batch = Batch([x.float() for x in inputs], labels, 1.0, 0.0)
    with mode or Synchronisations():
        return model, [learner.method.step(learner, batch)[1] for _ in range(4)]


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@TWO_OR_THREE
@pytest.mark.parametrize("name", METHODS)
def test_every_method_descends_in_half_precision(name, modalities, precision):
    if modalities > METHODS[name].most_modalities:
        pytest.skip("refused: tests/test_methods.py, test_what_a_method_is_not_defined_for_is_refused")
    torch.manual_seed(0)
    model, losses = take_steps(name, modalities, precision)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "pmr"])  # it asks whether prototypes are known
def test_no_step_waits_for_the_device(name):
    mode = Synchronisations()
    take_steps(name, 2, torch.float32, mode)
    assert mode.count == 0
