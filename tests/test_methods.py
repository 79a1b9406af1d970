"""Each balancing method's step against a naive computation of its equations in float64 (tests/one_step.py)."""

import copy
import itertools
import math
import re

import numpy as np
import pytest
import torch
from conftest import REPO
from one_step import (
    CLASSES,
    DIM,
    NAMES,
    RATE,
    SCALING,
    SETTINGS,
    assert_same,
    both,
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
    parameters,
    stepped,
    total,
)
from scipy.optimize import minimize_scalar
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from main_CD import parse
from models import MultimodalClassifier
from models.balancing import METHODS, Method, opm, relearning
from models.balancing.learner import Learner as AnyLearner
from models.balancing.mcr import contrast
from models.balancing.method import Batch, Clips, MethodError
from models.balancing.mmpareto import weights
from models.balancing.relearning import purity
from models.mmcosine import unit
from utils.training.engine import Compute, Learner
from utils.training.loading import Loaders
from utils.training.options import settings
from utils.training.trial import hold_out, sample

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


def test_heads_and_contrasts_are_computed_in_float32_where_encoders_run_in_half_precision():
    torch.manual_seed(0)
    z, labels = torch.randn(2, 7, DIM).bfloat16(), torch.arange(7) % CLASSES
    heads = METHODS["multiloss"](network(2).float(), uni_weight=1.0).heads
    a, b = unit(z)
    expected = [heads.logits(z.float()), contrast(a, b, labels)]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close([heads.logits(z), contrast(a, b, labels)], expected)


# ---- Gradient-Blending


@TWO_OR_THREE
@BOTH_HEADS
def test_gblend_descends_the_weighted_sum_of_the_joint_loss_and_the_loss_of_each_head(modalities, mmcosine):
    given = torch.tensor([0.4, 0.1, 0.3, 0.2], dtype=torch.float64)[:1 + modalities]
    before, descent, _ = stepped("gblend", {"blend_epochs": 1}, modalities, mmcosine,
                                 lambda method: method.weights.copy_(given))
    loss = total((0.4, joint_loss(modalities, mmcosine)), *((float(given[1 + m]), head_loss(m))
                                                            for m in range(modalities)))
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
    long, short = 1e4 * torch.eye(2)[:1], torch.tensor([[-1.0, 1.0]])
    assert weights([long], [short])[0] == pytest.approx(0.001) and weights([short], [long])[0] == pytest.approx(0.999)


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
@pytest.mark.parametrize(("alpha", "clip"), [(0.2, 1.0), (5.0, 1.0), (5.0, 0.25), (5.0, 0.0)])
def test_agm_multiplies_the_gradient_that_flows_into_each_response_and_clips(modalities, mmcosine, alpha, clip):
    """All gradients are scaled to a total norm of `clip` where one of the head's weights has more than 1."""
    past = torch.tensor([0.9, 1.6, 1.2], dtype=torch.float64)[:modalities]

    def prepared(method):
        method.means.copy_(past)
        method.steps.fill_(3)

    settings = {"agm_alpha": alpha, "agm_clip": clip, "agm_ends": 9}
    before, descent, method = stepped("agm", settings, modalities, mmcosine, prepared)
    inputs, labels = clips(modalities)
    phi = [naive_responses(before, inputs, i, mmcosine) for i in range(len(labels))]
    surprise = [float(sum(nll(phi[i][m].detach(), int(label)) for i, label in enumerate(labels)) / len(labels))
                for m in range(modalities)]

    def ahead(scores, m):
        others = [float(score) for n, score in enumerate(scores) if n != m]
        return math.exp(sum(others) / len(others) - float(scores[m]))

    kappa = [math.exp(alpha * min(ahead(past, m) - ahead(surprise, m), 10)) for m in range(modalities)]
    assert max(kappa) > 1 > min(kappa)

    def loss(state, inputs, labels):
        total = 0.0
        for i, label in enumerate(labels):
            phi = naive_responses(state, inputs, i, mmcosine)
            error = sum(phi).detach().softmax(0) - torch.eye(CLASSES, dtype=torch.float64)[label]
            total = total + sum(factor * (error @ one) for factor, one in zip(kappa, phi, strict=True)) / len(labels)
        return total

    expected = naive_gradients(loss, before, modalities)
    largest = max(abs(float(entry)) for entry in expected["fusion_module.fc_out.weight"].flatten())
    assert (largest > 1) == (alpha > 1 or mmcosine)
    if largest > 1 and clip:
        norm = math.sqrt(sum(float(entry) ** 2 for value in expected.values() for entry in value.flatten()))
        expected = {name: clip * value / norm for name, value in expected.items()}
    assert_same(descent, expected)
    assert distance(descent, plain_descent(modalities, mmcosine)) > 0.01
    means = [float(mean) * 3 / 4 + score / 4 for mean, score in zip(past, surprise, strict=True)]
    assert method.means.tolist() == pytest.approx(means) and method.steps == 4


def test_the_gradients_that_agm_clips_are_those_without_the_factor_of_the_loss_scaler():
    """And only where one leaves [-1, 1]: the scaler's factor of 256 would take every one out of it."""
    descents = []
    for alpha, scaled in itertools.product((0.1, 5.0), (False, True)):
        model = network(2)
        learner = learner_of(model, METHODS["agm"](model, agm_alpha=alpha, agm_clip=1.0, agm_ends=9).double())
        learner.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=scaled)
        learner.method.means.copy_(torch.tensor([0.9, 1.6]))
        before, (inputs, labels) = parameters(learner), clips(2)
        learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0))
        after = parameters(learner)
        descents.append({name: (value - after[name]).detach() / RATE for name, value in before.items()})
    for plain, scaled in (descents[:2], descents[2:]):
        assert_same(scaled, plain)
    norms = [math.sqrt(sum(float(value.square().sum()) for value in descent.values())) for descent in descents]
    assert norms[0] != pytest.approx(1, rel=0.01) and norms[2] == pytest.approx(1)


def test_agm_bounds_the_losses_and_the_exponent():
    method = METHODS["agm"](network(2), agm_alpha=0.2, agm_clip=1.0, agm_ends=9).double()
    method.means.copy_(torch.tensor([1.0, 6.0]))
    method.steps.fill_(1)
    phi = torch.zeros(2, 1, CLASSES, dtype=torch.float64)
    phi[1, 0, 0] = 90.0  # certain of another class than the true one
    kappa = method.coefficients(phi, torch.tensor([1]))
    surprise = [math.log(CLASSES), -math.log(1e-8)]
    exponents = [math.exp(5) - math.exp(surprise[1] - surprise[0]), math.exp(-5) - math.exp(surprise[0] - surprise[1])]
    assert kappa.tolist() == pytest.approx([math.exp(0.2 * min(value, 10)) for value in exponents])
    assert method.means.tolist() == pytest.approx([(1 + surprise[0]) / 2, (6 + surprise[1]) / 2])
    kappa = method.coefficients(torch.zeros(2, 1, CLASSES).double(), torch.tensor([1]))
    assert kappa.max() == pytest.approx(math.exp(0.2 * 10)), "tau - r is 10 at most"


def test_agm_multiplies_gradients_in_the_epochs_of_its_authors_and_is_then_joint_training_of_its_responses():
    assert METHODS["agm"](network(2), **{flag.name: flag.default for flag in METHODS["agm"].flags}).last == 20
    method = METHODS["agm"](network(2), agm_alpha=3.0, agm_clip=0.0, agm_ends=1).double()
    factors = []
    for epoch in (1, 2, 3):
        method.begin_epoch(epoch, None, None)
        method.means.copy_(torch.tensor([0.9, 1.6]))
        factors.append(method.coefficients(torch.eye(2, CLASSES).double()[:, None], torch.tensor([1])).tolist())
    assert factors[0] == factors[1] and abs(factors[0][0] - 1) > 0.1
    assert factors[2] == [1, 1]


def test_the_loss_of_agm_is_that_of_the_joint_logits_however_large_its_coefficients_are():
    _, _, method = stepped("agm", {"agm_alpha": 2.0, "agm_clip": 1.0, "agm_ends": 9})  # e^20 at most
    model, (inputs, labels) = network(2).float(), clips(2)
    method.float().means.copy_(torch.tensor([1.0, 9.0]))
    output = model(*(x.float() for x in inputs))
    kappa = method.coefficients(output.modality_logits.detach(), labels)
    method.means.copy_(torch.tensor([1.0, 9.0]))
    joint = nn.functional.cross_entropy(output.logits, labels)
    torch.testing.assert_close(method.loss(model, output, labels, joint), joint)
    assert kappa.max() > 1e8


# ---- MLA


@TWO_OR_THREE
@pytest.mark.parametrize("norm", ["none", "frobenius"])
def test_mla_updates_an_encoder_and_the_one_head_in_turn_with_the_gradient_projected(modalities, norm):
    """The Frobenius norm stands in a part of the published code that never runs: not by default."""
    assert {flag.name: flag.default for flag in METHODS["mla"].flags} == {"mla_norm": "none"}
    before, descent, method = stepped("mla", {"mla_norm": norm}, modalities)
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
        if norm == "frobenius":
            projection = projection / math.sqrt(sum(float(x) ** 2 for x in projection.flatten()))
    for layer in ("fc_x", "fc_y", "fc_z")[:modalities]:
        first = before["fusion_module.fc_x.weight"] - before[f"fusion_module.{layer}.weight"]
        assert first.abs().max() == 0, "the layers start equal"
        assert_same(descent, {f"fusion_module.{layer}.weight": (before["fusion_module.fc_x.weight"] - weight) / RATE,
                              f"fusion_module.{layer}.bias": (before["fusion_module.fc_x.bias"] - bias) / RATE})
    torch.testing.assert_close(method.projection, projection)
    assert (pushes[1][0] - pushes[1][1]).norm() > 0.1 * pushes[1][0].norm()
    kept = method.quantities()
    for modality, (whole, left) in zip(NAMES, pushes, strict=False):
        assert kept[f"kept_{modality}"] == pytest.approx(float(left.norm() / whole.norm()))


def test_a_later_modality_hardly_moves_the_logits_of_an_earlier_ones_mean_feature():
    method = METHODS["mla"](network(2, fusion="sum"), "none").double()
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


def test_the_projection_of_mla_goes_on_from_batch_to_batch():
    model = network(2, fusion="sum")
    learner = learner_of(model, METHODS["mla"](model, "none").double())
    method, begun = learner.method, []
    protect = method.protect
    method.protect = lambda *given: (begun.append(method.projection.clone()), protect(*given))
    inputs, labels = clips(2)
    method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    left = method.projection.clone()
    method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    assert torch.equal(begun[2], left) and torch.equal(begun[0], torch.eye(DIM, dtype=torch.float64))


# ---- LFM


def predictions(rows: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The softmaxes of a clip's rows of logits, and their mean."""
    p = [row.exp() / sum(value.exp() for value in row) for row in rows]
    return p, sum(p) / len(p)


def naive_js(rows: list[torch.Tensor]) -> torch.Tensor:
    """JS of the predictions of one clip: the mean of their Kullback-Leibler divergences from their mean."""
    p, middle = predictions(rows)
    return sum(sum(a * (a / b).log() for a, b in zip(one, middle, strict=True)) for one in p) / len(p)


def naive_reverse_js(rows: list[torch.Tensor]) -> torch.Tensor:
    """The mean of the Kullback-Leibler divergences of the mean from the predictions: for two, 1/2 (KL(m||p) +
    KL(m||q))."""
    p, middle = predictions(rows)
    return sum(sum(b * (b / a).log() for a, b in zip(one, middle, strict=True)) for one in p) / len(p)


NAIVE = {"reverse_js": naive_reverse_js, "js": naive_js}


def late_loss(weight: float, modalities: int, mmcosine: bool = False, divergence: str = "reverse_js"):
    def loss(state, inputs, labels):
        total = 0.0
        for i, label in enumerate(labels):
            rows = [modality_logit(state, m, modalities, feature(state, NAMES[m], x[i]), mmcosine)
                    for m, x in enumerate(inputs)]
            total = total + (1 - weight) * nll(sum(rows) / modalities, label) + weight * NAIVE[divergence](rows)
        return 2 * total / len(labels)

    return loss


@TWO_OR_THREE
@BOTH_HEADS
@pytest.mark.parametrize("divergence", NAIVE)
@pytest.mark.parametrize("name", ["lfm", "lfm_learned"])
def test_lfm_descends_the_loss_of_the_mean_logits_and_the_divergence_of_the_predictions(modalities, mmcosine,
                                                                                         divergence, name):
    settings = {"lfm_weight": 0.25} if name == "lfm" else {"lfm_start": 0.25, "lfm_rate": 0.1}
    before, descent, _ = stepped(name, {**settings, "lfm_divergence": divergence}, modalities, mmcosine)
    assert_same(descent, naive_gradients(late_loss(0.25, modalities, mmcosine, divergence), before, modalities))
    without, other = (naive_gradients(late_loss(weight, modalities, mmcosine, kind), before, modalities)
                      for weight, kind in ((0.0, divergence), (0.25, "js" if divergence != "js" else "reverse_js")))
    assert distance(descent, without) > 0.01 and distance(descent, other) > 5e-5


@pytest.mark.parametrize("epochs", [200, 100, 8, 1])
def test_the_weight_of_lfm_follows_the_published_polynomial_over_the_length_of_the_run(epochs):
    """Its values in the epochs 0, 49, 99 and 199 of 200 are 0.795, 0.567, 0.463 and 0.084."""
    model = network(2)
    method = METHODS["lfm"](model, "schedule", "js")
    method.begin_run(epochs)
    polynomial = np.polynomial.Polynomial([0.795376296, -3.35472727e-3, -1.22989557e-4, 2.92947416e-6, -2.23835486e-8,
                                           5.39717505e-11])
    places = np.arange(epochs) * (200 / epochs)
    weights = []
    for epoch in range(1, epochs + 1):
        method.begin_epoch(epoch, None, None)
        weights.append(method.weight)
    assert weights == pytest.approx(polynomial(places).tolist(), rel=1e-12)
    if epochs == 200:
        assert [round(weights[e], 3) for e in (0, 49, 99, 199)] == [0.795, 0.567, 0.463, 0.084]


def test_a_step_of_lfm_has_the_weight_of_its_epoch():
    model = network(2)
    learner = learner_of(model, METHODS["lfm"](model, "schedule", "reverse_js"))
    learner.method.begin_run(4)
    learner.method.begin_epoch(3, learner, None)
    before, (inputs, labels) = parameters(learner), clips(2)
    learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    after = parameters(learner)
    descent = {name: ((value - after[name]) / RATE).detach() for name, value in before.items()}
    halfway = sum(factor * 100 ** power for power, factor in enumerate((
        0.795376296, -3.35472727e-3, -1.22989557e-4, 2.92947416e-6, -2.23835486e-8, 5.39717505e-11)))
    assert_same(descent, naive_gradients(late_loss(halfway, 2), before, 2))


def learned_epoch(weight: float, rate: float = 0.5, modalities: int = 2, steps: int = 3) -> tuple[Learner, float]:
    """(a learner after an epoch of lfm_learned with this weight, which began with momentum from steps before, and not
    yet at its end; the cross-entropy of held-out clips)"""
    model = network(modalities)
    method = METHODS["lfm_learned"](model, 0.5, rate, "reverse_js").double()
    compute = Compute(torch.device("cpu"), torch.float32, dict.fromkeys(model.modalities, nn.Identity()))
    learner = Learner(model, compute, "sgd", 0.2, 0.01, 100, 0.1, method)
    for epoch in (1, 2):
        method.learned.fill_(weight if epoch == 2 else 0.5)
        method.begin_epoch(epoch, learner, None)
        for number in range(steps):
            method.step(learner, Batch(*clips(modalities, seed=10 * epoch + number), 1.0, 0.0))
    inputs, labels = clips(modalities, seed=5)
    return learner, float(late_loss(0.0, modalities)(parameters(learner), inputs, labels.tolist()).detach()) / 2


@TWO_OR_THREE
@pytest.mark.parametrize("steps", [1, 3])
def test_the_learned_weight_of_lfm_moves_along_a_finite_difference_of_the_held_out_loss_through_sgd(modalities, steps):
    """With momentum that is there before, and weight decay: over a whole epoch of one and of several steps."""
    h = 1e-4
    above, below = (learned_epoch(0.3 + sign * h, modalities=modalities, steps=steps)[1] for sign in (1, -1))
    learner, _ = learned_epoch(0.3, modalities=modalities, steps=steps)
    held_out, trained = both(modalities).held_out, [clips(modalities, seed=seed) for seed in range(20, 23)]
    learner.method.end_epoch(learner, Clips(trained, held_out))  # of different sizes
    slope = (above - below) / (2 * h)
    assert abs(slope) > 5e-4
    assert float(learner.method.learned) == pytest.approx(0.3 - 0.5 * slope, abs=1e-6)


def test_the_learned_weight_of_lfm_stays_within_its_bounds_and_an_epoch_forgets_the_derivatives_of_the_one_before():
    learner, _ = learned_epoch(0.3, rate=1e6)
    learner.method.end_epoch(learner, both(2))
    assert learner.method.learned in (0.05, 0.95)
    learner.method.begin_epoch(3, learner, None)
    assert not any(part.any() for parts in learner.method.moved.values() for part in parts)


def test_a_step_that_the_loss_scaler_skips_moves_nothing_for_lfm(monkeypatch):
    learner, _ = learned_epoch(0.3)
    before = copy.deepcopy(list(learner.method.moved.values()))
    gradients = learner.gradients

    def overflow(batch, loss, parameters):
        made = gradients(batch, loss, parameters)
        return {**made, parameters[0]: torch.full_like(parameters[0], torch.inf)}

    monkeypatch.setattr(learner, "gradients", overflow)
    monkeypatch.setattr(learner, "descend_along", lambda *_: None)
    learner.method.step(learner, Batch(*clips(2), 1.0, 0.0))
    torch.testing.assert_close(list(learner.method.moved.values()), before, rtol=0, atol=0)


# ---- Diagnosing & Re-learning


@TWO_OR_THREE
def test_dnr_descends_the_joint_loss_alone_or_with_uni_weight_the_loss_of_each_head(modalities):
    before, descent, method = stepped("dnr", {**SETTINGS["dnr"], "uni_weight": 0.0}, modalities)
    assert_same(descent, naive_gradients(joint_loss(modalities), before, modalities))
    assert not list(method.heads.parameters() if method.heads else [])
    before, descent, _ = stepped("dnr", {**SETTINGS["dnr"], "uni_weight": 0.7}, modalities)
    loss = total((1.0, joint_loss(modalities)), *((0.7, head_loss(m)) for m in range(modalities)))
    assert_same(descent, naive_gradients(loss, before, modalities))


@pytest.mark.parametrize(("trained", "held_out"), [(0.9, 0.6), (0.6, 0.9)])
def test_dnr_sets_encoders_back_by_the_purity_gap_and_only_in_its_epochs(monkeypatch, trained, held_out):
    gaps = {"trained": [trained, 0.5], "held out": [held_out, 0.5]}
    monkeypatch.setattr(relearning, "purities", lambda learner, loader: gaps[loader])
    model = network(2)
    model.audio_net.add_module("norm", nn.BatchNorm1d(DIM).double())
    start = copy.deepcopy(model.state_dict())
    method = METHODS["dnr"](model, 1.0, relearn_every=3, relearn_times=2, relearn_strength=2.0).double()
    learner = learner_of(model, method)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value += 1 if value.is_floating_point() else 0
    trained = copy.deepcopy(model.state_dict())
    weight = math.tanh(2 * 0.3)
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
    features = centres[places] + 1e-5 * torch.randn(30, 3)
    labels = places.clone()
    labels[:4] = 1  # three of them are of other clusters
    assert purity(features, labels.numpy(), 3) == pytest.approx(27 / 30)
    assert purity(torch.cat([features, torch.ones(30, 1)], 1), labels.numpy(), 3) == pytest.approx(27 / 30)
    assert purity(features[:2], labels[:2].numpy(), 3) == 1.0  # fewer clips than classes
    halves = torch.arange(30) % 2
    apart = torch.cat([100 * torch.rand(30, 1), 0.001 * halves[:, None].expand(-1, 3)], 1)  # once they are scaled
    assert purity(apart, halves.numpy(), 2) == 1.0


def test_purities_are_of_the_encoders_features_of_every_clip_in_evaluation_mode(monkeypatch):
    """Of their very numbers, and not of the fused ones."""
    seen = []
    monkeypatch.setattr(relearning, "purity", lambda *given: seen.append(given) or len(seen) / 10)
    model = network(2, fusion="film", seed=1)
    learner = learner_of(model, METHODS["none"](model))
    learner.train()
    assert relearning.purities(learner, loader(2, seed=1)) == [0.1, 0.2]
    assert not model.training
    inputs, labels = clips(2, seed=1)
    for (features, classes, count), name, x in zip(seen, NAMES, inputs, strict=False):
        torch.testing.assert_close(features, model.encoder(name)(x).detach().float())
        assert classes.tolist() == labels.tolist() and count == CLASSES


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
        return sum(naive_js([sum(rows(state, inputs, i)), sum(rows(state, inputs, i, order, m))])
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
        pairs = list(itertools.permutations(range(modalities), 2))
        alone = sum(head_loss(m)(state, inputs, labels) for m in range(modalities))
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


# ---- DGL


def alone_loss(m: int, modalities: int, mmcosine: bool):
    """Through the joint head, the features of the others being zeros."""

    def loss(state, inputs, labels):
        absent = torch.zeros(DIM, dtype=torch.float64)
        total = 0.0
        for i, label in enumerate(labels):
            z = [feature(state, NAMES[n], x[i]) if n == m else absent for n, x in enumerate(inputs)]
            total = total + nll(sum(modality_logit(state, n, modalities, one, mmcosine) for n, one in enumerate(z)),
                                label) / len(labels)
        return total

    return loss


@TWO_OR_THREE
@BOTH_HEADS
def test_dgl_keeps_the_joint_loss_off_the_encoders_and_the_uni_modal_losses_off_the_head(modalities, mmcosine):
    before, descent, _ = stepped("dgl", {"dgl_alpha": 4.0, "dgl_clip": 40.0}, modalities, mmcosine)
    expected = naive_gradients(joint_loss(modalities, mmcosine), before, modalities)
    for m, modality in enumerate(NAMES[:modalities]):
        own = naive_gradients(alone_loss(m, modalities, mmcosine), before, modalities)
        expected.update({name: 4.0 * value for name, value in own.items() if name.startswith(modality)})
    assert_same(descent, expected)
    plain = plain_descent(modalities, mmcosine)
    for modality in NAMES[:modalities]:
        own = [name for name in plain if name.startswith(modality)]
        assert distance({name: plain[name] for name in own}, descent) > 0.01
    assert_same(descent, {name: value for name, value in plain.items() if name.startswith("fusion")})


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_dgl_clips_all_gradients_together_to_a_norm(clip):
    assert {flag.name: flag.default for flag in METHODS["dgl"].flags}["dgl_clip"] == 40
    before, descent, method = stepped("dgl", {"dgl_alpha": 4.0, "dgl_clip": clip}, 2)
    whole = naive_gradients(joint_loss(2), before, 2)
    for m, modality in enumerate(NAMES[:2]):
        own = naive_gradients(alone_loss(m, 2, False), before, 2)
        whole.update({name: 4.0 * value for name, value in own.items() if name.startswith(modality)})
    norm = math.sqrt(sum(float(x) ** 2 for value in whole.values() for x in value.flatten()))
    assert norm > 1
    assert_same(descent, {name: value * (clip / norm if clip else 1) for name, value in whole.items()})
    assert method.quantities()["norm"] == pytest.approx(norm), "before it is clipped"


@TWO_OR_THREE
@BOTH_HEADS
def test_dgl_leaves_the_biases_of_the_other_layers_out_under_the_fusion_sum(modalities, mmcosine):
    model = network(modalities, mmcosine, "sum")
    learner = learner_of(model, METHODS["dgl"](model, dgl_alpha=4.0, dgl_clip=0.0))
    before = parameters(learner)
    inputs, labels = clips(modalities)
    learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    after = parameters(learner)
    for m, modality in enumerate(NAMES[:modalities]):
        def loss(state, inputs, labels, m=m):
            rows = [layer_logit(state, m, clip, mmcosine) for clip in inputs[m]]
            return 4.0 * sum(nll(row, label) for row, label in zip(rows, labels, strict=True)) / len(labels)

        own = naive_gradients(loss, before, modalities)
        assert_same({name: ((value - after[name]) / RATE).detach() for name, value in before.items()},
                    {name: value for name, value in own.items() if name.startswith(modality)})


@BOTH_HEADS
def test_an_encoder_under_dgl_does_not_depend_on_the_other_modalities(mmcosine):
    found = []
    for factor in (1.0, 3.0):
        model = network(2, mmcosine)
        learner = learner_of(model, METHODS["dgl"](model, dgl_alpha=1.0, dgl_clip=40.0))
        (audio, visual), labels = clips(2)
        learner.train()
        learner.method.step(learner, Batch([audio, factor * visual], labels, 1.0, 0.0))
        found.append(parameters(learner))
    same = {name: torch.equal(found[0][name], found[1][name]) for name in found[0]}
    assert all(value for name, value in same.items() if name.startswith("audio")) and not same["visual_net.0.weight"]


@pytest.mark.parametrize("fusion", ["film", "gated"])
def test_dgl_trains_every_layer_of_the_fusion_on_the_joint_loss(fusion):
    models = [network(2, fusion=fusion) for _ in range(2)]
    inputs, labels = clips(2)
    for model, name in zip(models, ("none", "dgl"), strict=True):
        learner = learner_of(model, METHODS[name](model, **SETTINGS[name]))
        learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    assert_same(*({name: value.detach() for name, value in model.fusion_module.named_parameters()} for model in models))


# ---- OPM


@TWO_OR_THREE
@BOTH_HEADS
@pytest.mark.parametrize("seed", [1, 11])
def test_opm_descends_the_loss_of_what_is_left_after_leading_features_are_dropped(modalities, mmcosine, seed):
    settings = {"opm_base": 0.6, "opm_lambda": 0.8, "opm_share": 0.7, "opm_warmup": 0}
    before, descent, _ = stepped("opm", settings, modalities, mmcosine, lambda method: torch.manual_seed(seed))
    torch.manual_seed(seed)
    draws, coin = torch.rand(7, modalities).tolist(), float(torch.rand(()))
    inputs, labels = clips(modalities)
    score = [sum(math.exp(-float(nll(modality_logit(before, m, modalities, feature(before, NAMES[m], x[i]), mmcosine),
                                     label).detach())) for i, label in enumerate(labels.tolist()))
             for m, x in enumerate(inputs)]
    q = []
    for m, own in enumerate(score):
        others = [other for n, other in enumerate(score) if n != m]
        rho = math.tanh(max(own / (sum(others) / len(others)) - 1, 0))
        q.append(min(0.6 * (1 + 0.8 * rho), 1) if rho > 0 and coin < 0.7 else 0.0)
    dropped = [[draws[i][m] < q[m] for m in range(modalities)] for i in range(7)]

    def loss(state, inputs, labels):
        total = 0.0
        for i, label in enumerate(labels):
            z = [torch.zeros(DIM, dtype=torch.float64) if dropped[i][m]
                 else feature(state, NAMES[m], x[i]) / (1 - sum(q) / modalities) for m, x in enumerate(inputs)]
            total = total + nll(sum(modality_logit(state, m, modalities, one, mmcosine) for m, one in enumerate(z)),
                                label) / len(labels)
        return total

    assert_same(descent, naive_gradients(loss, before, modalities))
    changes = distance(descent, plain_descent(modalities, mmcosine))
    assert changes > 0.01 if coin < 0.7 else changes == 0
    assert (seed == 1) == (coin < 0.7) == any(map(any, dropped)), "both seeds are needed: one drops, one does not"


def test_opm_drops_nothing_in_the_first_six_epochs():
    settings = {flag.name: flag.default for flag in METHODS["opm"].flags}
    model = network(2)
    learner = learner_of(model, METHODS["opm"](model, **{**settings, "opm_share": 1.0}).double())
    output, labels = model(*clips(2)[0]), clips(2)[1]
    plain = nn.functional.cross_entropy(output.logits, labels)
    dropped = []
    for epoch in range(1, 9):
        torch.manual_seed(1)
        learner.method.begin_epoch(epoch, learner, None)
        learner.method.draws, learner.method.coin = torch.zeros(len(labels), 2), torch.zeros(())
        dropped.append(not torch.equal(learner.method.loss(model, output, labels, plain), plain))
    assert dropped == [False] * 6 + [True] * 2


def test_opm_never_drops_the_modality_with_the_lowest_score():
    for seed in range(20):
        torch.manual_seed(seed)
        score = torch.rand(3) + 0.01
        q = opm.probabilities(score, 0.5, 0.5)
        assert q[score.argmin()] == 0 and 0.5 < q[score.argmax()] <= 0.75
    assert opm.probabilities(torch.tensor([2.0, 2.0]), 0.5, 0.5).tolist() == [0, 0]
    assert opm.probabilities(torch.tensor([9.0, 1.0]), 0.9, 5.0).tolist() == [1, 0]


# ---- PMR


def test_prototypes_are_the_means_of_the_features_of_the_given_clips_in_evaluation_mode_before_every_epoch():
    """The first included; later ones keep a fifth of the old ones. A class without clips keeps its own."""
    model = network(2)
    model.audio_net.add_module("norm", nn.BatchNorm1d(DIM).double())
    method = METHODS["pmr"](model, 1.0, 0.01, 10).double()
    learner = learner_of(model, method)
    learner.train()
    expected = None
    for epoch, seed in ((1, 5), (2, 6), (3, 7)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        method.begin_epoch(epoch, learner, Clips(loader(2, seed)))
        learner.train()
        inputs, labels = clips(2, seed)
        for m, name in enumerate(NAMES[:2]):
            encoder = copy.deepcopy(model.encoder(name)).eval()
            means = []
            for c in range(CLASSES):
                features = [encoder(inputs[m][i:i + 1])[0] for i, label in enumerate(labels.tolist()) if label == c]
                means.append(sum(features) / len(features))
            means = torch.stack(means).detach()
            expected = expected or [means, None]
            expected[m] = means if epoch == 1 else 0.2 * expected[m] + 0.8 * means
            torch.testing.assert_close(method.prototypes[m], expected[m])
    kept = method.prototypes.clone()
    items = [item for item in loader(2, 5).dataset if item["label"] == 0]
    method.begin_epoch(4, learner, Clips(DataLoader(items, batch_size=3)))
    assert torch.equal(method.prototypes[:, 1:], kept[:, 1:]) and not torch.equal(method.prototypes[:, 0], kept[:, 0])


def test_pmr_has_no_term_until_every_class_has_a_prototype():
    model = network(2)
    learner = learner_of(model, METHODS["pmr"](model, 1.0, 0.5, 10).double())
    inputs, labels = clips(2)
    output, loss = learner.model(*inputs), torch.tensor(1.5, dtype=torch.float64)
    items = list(loader(2, 5).dataset)
    for present, acts in (((0, 1), False), ((2,), False), ((3,), True)):
        chosen = [item for item in items if int(item["label"]) in present]
        learner.method.begin_epoch(1, learner, Clips(DataLoader(chosen, batch_size=3)))
        assert (learner.method.loss(model, output, labels, loss) != loss) == acts


def test_a_method_that_looks_at_training_clips_gets_a_seeded_tenth_and_at_least_five_for_a_class():
    class Numbers(Dataset):
        def __init__(self, count: int, seen: str = "in training"):
            self.count, self.seen = count, seen

        def __len__(self):
            return self.count

        def __getitem__(self, i):
            return {"number": i, "seen": self.seen}

        def for_evaluation(self):
            return Numbers(self.count, "in evaluation")

    def seen(count: int, classes: int, seed: int) -> list[int]:
        drawn = sample(Numbers(count), classes, Loaders(7, 0, 0, torch.device("cpu")), seed)
        assert drawn.held_out is None
        batches = list(drawn.trained)
        assert {how for batch in batches for how in batch["seen"]} == {"in evaluation"}
        return [int(number) for batch in batches for number in batch["number"]]

    numbers = seen(300, 4, 0)
    assert len(set(numbers)) == 30 and max(numbers) - min(numbers) > 200 and numbers == seen(300, 4, 0)
    assert numbers != seen(300, 4, 1)
    assert len(set(seen(300, 9, 0))) == 45 and seen(20, 9, 0) == list(range(20))


@TWO_OR_THREE
@BOTH_HEADS
def test_pmr_adds_the_entropy_of_a_leading_modality_to_what_it_descends_in_its_first_epochs(modalities, mmcosine):
    settings = {"pmr_alpha": 0.8, "pmr_entropy": 0.6, "pmr_entropy_epochs": 1}
    before, descent, method = stepped("pmr", settings, modalities, mmcosine)
    inputs, labels = clips(modalities)
    prototypes = method.prototypes

    def rows(state, m, x):
        return -torch.stack([(feature(state, NAMES[m], x) - own).square().sum().sqrt() for own in prototypes[m]])

    score = [sum(math.exp(-float(nll(rows(before, m, x[i]), label).detach()))
                 for i, label in enumerate(labels.tolist())) for m, x in enumerate(inputs)]
    lead = [own / ((sum(score) - own) / (modalities - 1)) for own in score]
    assert max(lead) > 1.01

    def loss(weight):
        def loss(state, inputs, labels):
            total = joint_loss(modalities, mmcosine)(state, inputs, labels)
            for m, x in enumerate(inputs):
                for i, label in enumerate(labels):
                    p = rows(state, m, x[i]).exp() / rows(state, m, x[i]).exp().sum()
                    total = total - 0.8 * min(max(1 / lead[m] - 1, 0), 1) * p[label].log() / len(labels)
                    total = total - weight * (lead[m] > 1) * -(p * p.log()).sum() / len(labels)
            return total

        return loss

    assert_same(descent, naive_gradients(loss(0.6), before, modalities))
    without = naive_gradients(loss(0.0), before, modalities)
    assert distance(descent, without) > 0.005
    off = stepped("pmr", {**settings, "pmr_entropy": 0.0}, modalities, mmcosine)[1]
    assert_same(off, without)
    model = network(modalities)
    method.begin_epoch(2, learner_of(model, METHODS["none"](model)), both(modalities))
    assert not method.early


# ---- InfoReg


def test_inforegs_defaults_are_the_papers():
    assert {flag.name: flag.default for flag in METHODS["inforeg"].flags} == {
        "uni_weight": 1.0, "inforeg_threshold": 0.04, "inforeg_beta": 0.9, "inforeg_formula": "paper"}


def inforeg_step(modalities: int, mmcosine: bool, traces: list, **settings: object):
    """(parameters at the epoch's start and before the step, descent, the method) in the third epoch: traces (2, M)."""
    model = network(modalities, mmcosine)
    method = METHODS["inforeg"](model, **{**SETTINGS["inforeg"], **settings}).double()
    method.traces.copy_(torch.tensor(traces, dtype=torch.float64))
    learner = learner_of(model, method)
    learner.train()
    method.begin_epoch(3, learner, None)
    at_start = parameters(learner)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    before = parameters(learner)
    inputs, labels = clips(modalities)
    method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    after = parameters(learner)
    return at_start, before, {name: ((value - after[name]) / RATE).detach() for name, value in before.items()}, method


def strength_of(score: list[float], m: int, beta: float, formula: str) -> float:
    """Equations 9 and 10: 0 for the modality with the lowest score."""
    below = [score[m] - other for other in score if other < score[m]]
    gap = sum(below) / len(below) if below else 0.0
    if gap == 0:
        return 0.0
    return math.exp(beta * math.tanh(gap)) if formula == "paper" else beta * math.exp(math.tanh(gap))


@TWO_OR_THREE
@BOTH_HEADS
@pytest.mark.parametrize("formula", ["paper", "code"])
@pytest.mark.parametrize("weight", [0.7, 0.0])
def test_inforeg_pulls_all_encoders_but_the_last_back_to_the_epochs_start_while_their_gradients_grow(
        modalities, mmcosine, formula, weight):
    """Without the losses of the heads (weight 0) these judge nothing: the modality logits do."""
    growing = [[1.0] * modalities, [1.3] * modalities]
    at_start, before, descent, method = inforeg_step(
        modalities, mmcosine, growing, uni_weight=weight, inforeg_threshold=0.2, inforeg_beta=0.8,
        inforeg_formula=formula)
    multi = total((1.0, joint_loss(modalities, mmcosine)), *((weight, head_loss(m)) for m in range(modalities)))
    expected = naive_gradients(multi, before, modalities)
    inputs, labels = clips(modalities)
    score = []
    for m, x in enumerate(inputs):
        z = [feature(before, NAMES[m], clip).detach() for clip in x]
        head, bias = (before[f"method.heads.{m}.{name}"].detach() for name in ("weight", "bias"))
        rows = [head @ one + bias if weight else modality_logit(before, m, modalities, one, mmcosine) for one in z]
        score.append(sum(math.exp(-float(nll(row.detach(), label)))
                         for row, label in zip(rows, labels.tolist(), strict=True)) / 7)
    strengths = [strength_of(score, m, 0.8, formula) for m in range(modalities)]
    assert sorted(map(bool, strengths)) == [False, *[True] * (modalities - 1)]
    found = method.quantities()
    for m, modality in enumerate(NAMES[:modalities]):
        own = [name for name in expected if name.startswith(modality)]
        square = sum(float(expected[name].square().sum()) for name in own)
        assert float(method.sums[m]) == pytest.approx(square, rel=1e-6), "before the term is added"
        assert found[f"strength_{modality}"] == pytest.approx(strengths[m])
        for name in own:
            expected[name] = expected[name] + strengths[m] * (before[name] - at_start[name]).detach()
    assert_same(descent, expected)


def test_inforeg_holds_an_encoder_back_by_the_growth_of_its_own_gradients():
    """(1.24 - 1) / 1.24 < 0.2 < (1.26 - 1) / 1.26; 0: there was no epoch before the last one."""
    for first, last, grows in ((1.0, 1.24, False), (1.0, 1.26, True), (0.0, 1.26, False)):
        *_, method = inforeg_step(2, False, [[first] * 2, [last] * 2], inforeg_threshold=0.2)
        assert any(method.quantities().values()) is grows
    both = inforeg_step(3, False, [[1.0] * 3, [1.3] * 3], inforeg_threshold=0.2)[3].quantities()
    leading = max(both, key=both.get)
    slow = [1.1 if leading.endswith(name) else 1.3 for name in NAMES]
    without = inforeg_step(3, False, [[1.0] * 3, slow], inforeg_threshold=0.2)[3].quantities()
    assert without == {**both, leading: 0.0}


def test_inforeg_traces_are_the_means_of_squared_gradients_of_the_last_two_epochs():
    model = network(2)
    learner = learner_of(model, METHODS["inforeg"](model, **SETTINGS["inforeg"]).double())
    inputs, labels = clips(2)
    squares = []
    for epoch in (1, 2):
        learner.method.begin_epoch(epoch, learner, None)
        assert all(torch.equal(start, now) for now, start in learner.method.start.items()), "this epoch's"
        for _ in range(2):
            learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0))
            squares.append([sum(float(parameter.grad.square().sum()) for parameter in model.encoder(name).parameters())
                            for name in NAMES[:2]])
        learner.method.end_epoch(learner, None)
    expected = [[(a + b) / 2 for a, b in zip(*squares[start:start + 2], strict=True)] for start in (0, 2)]
    torch.testing.assert_close(learner.method.traces, torch.tensor(expected, dtype=torch.float64))


def test_inforeg_does_not_count_a_gradient_that_float16_has_let_overflow():
    model = network(2)
    learner = learner_of(model, METHODS["inforeg"](model, **SETTINGS["inforeg"]).double())
    inputs, labels = clips(2)
    learner.method.begin_epoch(1, learner, None)
    learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    once = learner.method.sums.clone()
    next(model.audio_net.parameters()).grad[:] = torch.inf
    learner.method.adjust_gradients(model, model(*inputs), labels)
    assert learner.method.steps.tolist() == [1, 2] and once[0] == learner.method.sums[0] > 0
    assert learner.method.sums[1] > once[1]


# ---- MSLR


@TWO_OR_THREE
def test_mslr_gives_each_encoder_the_rate_of_its_factor_and_its_last_accuracy_over_the_mean(modalities):
    past = torch.tensor([[-1, -1, -1], [0.4, 0.2, 0.0], [0.5, 0.7, 0.0], [0.3, 0.9, 0.0]], dtype=torch.float64)

    def prepared(method):
        method.accuracies.copy_(past[:, :modalities])

    factors = ",".join(["0.7", "1.3", "0.9"][:modalities])
    before, descent, _ = stepped("mslr", {"mslr_factors": factors, "mslr_window": 4}, modalities, prepared=prepared)
    expected = naive_gradients(joint_loss(modalities), before, modalities)
    rates = [0.7 * 0.3 / 0.4, 1.3 * 0.9 / 0.6, 0.9][:modalities]
    for modality, rate in zip(NAMES, rates, strict=False):
        expected.update({name: rate * value for name, value in expected.items() if name.startswith(modality)})
    assert_same(descent, expected)
    first = stepped("mslr", {"mslr_factors": "1.3", "mslr_window": 4}, modalities)[1]
    plain = plain_descent(modalities, False)
    assert_same(first, {name: value * (1 if name.startswith("fusion") else 1.3) for name, value in plain.items()})


def test_mslr_remembers_the_accuracy_of_each_modality_on_held_out_clips_and_follows_the_runs_rate():
    model = network(2)
    learner = learner_of(model, METHODS["mslr"](model, "0.5,2", 2).double())
    inputs, labels = clips(2, seed=5)
    state = parameters(learner)
    own = [[int(modality_logit(state, m, 2, feature(state, NAMES[m], x[i])).argmax()) == label
            for i, label in enumerate(labels.tolist())] for m, x in enumerate(inputs)]
    accuracies = [sum(one) / len(one) for one in own]
    learner.method.end_epoch(learner, Clips(loader(2, 1), loader(2, 5)))
    assert learner.method.accuracies[1].tolist() == pytest.approx(accuracies) and accuracies[0] != accuracies[1]
    assert learner.method.accuracies[0].tolist() == [-1, -1]
    learner.method.end_epoch(learner, Clips(loader(2, 1), loader(2, 5)))
    assert learner.method.accuracies[0].tolist() == pytest.approx(accuracies)
    learner.optimizer.param_groups[0]["lr"] = 0.01  # the run's schedule has lowered it
    learner.method.begin_epoch(3, learner, None)
    assert [group["lr"] for group in learner.optimizer.param_groups] == pytest.approx([0.01, 0.005, 0.02])


def test_mslr_refuses_factors_that_are_not_one_for_each_modality():
    with pytest.raises(ValueError, match="--mslr_factors has 2 numbers, the run 3 modalities"):
        METHODS["mslr"](network(3), "0.7,1.3", 5)


# ---- ReconBoost


def layer_logit(state: dict, m: int, clip: torch.Tensor, mmcosine: bool) -> torch.Tensor:
    """The logits of modality number m under the fusion sum."""
    weight, bias = (state[f"fusion_module.fc_{'xyz'[m]}.{name}"] for name in ("weight", "bias"))
    z = feature(state, NAMES[m], clip)
    if mmcosine:
        return SCALING * torch.stack([(row @ z) / (row.norm() * z.norm()) for row in weight])
    return weight @ z + bias


def boosted_step(modalities: int, mmcosine: bool, epoch: int, **settings: object) -> tuple[dict, dict]:
    model = network(modalities, mmcosine, "sum")
    learner = learner_of(model, METHODS["reconboost"](model, **settings))
    before = parameters(learner)
    inputs, labels = clips(modalities)
    learner.method.begin_epoch(epoch, learner, None)
    learner.train()
    learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    after = parameters(learner)
    return before, {name: ((value - after[name]) / RATE).detach() for name, value in before.items()}


@TWO_OR_THREE
@BOTH_HEADS
@pytest.mark.parametrize("epoch", [1, 3, 6, 4])
def test_reconboost_trains_one_modality_on_what_the_others_have_not_learnt_and_then_all(modalities, mmcosine, epoch):
    settings = {"recon_epochs": 1, "recon_weight": 3.0, "recon_others": 0.7, "recon_agreement": 20.0}
    before, descent = boosted_step(modalities, mmcosine, epoch, **settings)
    turn = None if epoch % 2 == 0 else (epoch - 1) // 2

    def softmax(row):
        return row.exp() / row.exp().sum()

    def loss(state, inputs, labels, weight=3.0, of_others=0.7, agreement=20.0):
        total = 0.0
        for i, label in enumerate(labels):
            rows = [layer_logit(state, m, x[i], mmcosine) for m, x in enumerate(inputs)]
            if turn is None:
                total = total + nll(sum(rows), label)
                continue
            others = sum(row for m, row in enumerate(rows) if m != turn).detach()
            previous = softmax(rows[(turn - 1) % modalities].detach())
            for c in range(CLASSES):
                true = float(c == label)
                total = total - weight * true * softmax(rows[turn])[c].log() / CLASSES
                total = total + of_others * true * softmax(others)[c] * softmax(rows[turn])[c].log() / CLASSES
                total = total + agreement * (softmax(rows[turn])[c] - previous[c]).square() / CLASSES
        return total / len(labels)

    assert_same(descent, naive_gradients(loss, before, modalities))
    if turn is None:
        return
    others = [name for name in descent if not name.startswith((NAMES[turn], f"fusion_module.fc_{'xyz'[turn]}"))]
    assert all(descent[name].abs().max() == 0 for name in others), "the others are fixed"
    for left_out in ({"agreement": 0.0}, {"weight": 2.0}, {"of_others": 0.0}):
        without = naive_gradients(lambda *given, left_out=left_out: loss(*given, **left_out), before, modalities)
        assert distance(descent, without) > 0.005


def test_the_other_encoders_are_in_evaluation_mode_in_a_turn_of_reconboost_and_momentum_does_not_move_them():
    model = network(2, fusion="sum")
    for name in NAMES[:2]:
        model.encoder(name).add_module("norm", nn.BatchNorm1d(DIM).double())
    learner = learner_of(model, METHODS["reconboost"](model, 2, 5.0, 1.0, 0.5))
    inputs, labels = clips(2)
    moved = []
    for epoch in range(1, 10):
        before = copy.deepcopy(model.state_dict())
        learner.method.begin_epoch(epoch, learner, None)
        learner.train()
        learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0))
        after = model.state_dict()
        moved.append("".join(letter for letter, names in (("a", ("audio", "fusion_module.fc_x")),
                                                          ("v", ("visual", "fusion_module.fc_y")))
                             if any(not torch.equal(before[name], after[name]) for name in before
                                    if name.startswith(names))))
    assert moved == ["a", "a", "av", "av", "v", "v", "av", "av", "a"]


def test_every_phase_of_reconboost_begins_without_the_momentum_of_the_one_before():
    """Its first step is a plain one, and those after it have the momentum of the phase alone."""
    model = network(2, fusion="sum")
    learner = learner_of(model, METHODS["reconboost"](model, 2, 5.0, 1.0, 0.5))
    momentum: dict[str, torch.Tensor] = {}
    for epoch in range(1, 9):
        learner.method.begin_epoch(epoch, learner, None)
        momentum = {} if epoch % 2 else momentum
        inputs, labels = clips(2, seed=epoch)
        before = parameters(learner)
        learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0))
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()
                     if parameter.grad is not None}
        momentum = {name: 0.9 * momentum.get(name, 0.0) + gradient for name, gradient in gradients.items()}
        assert_same(parameters(learner), {name: before[name] - RATE * push for name, push in momentum.items()})


# ---- all methods


@pytest.mark.parametrize(("argv", "message"), [
    (["mla", "--fusion_method", "sum", "--mmcosine"], "--mmcosine cannot be combined with --modulation mla: its proje"),
    (["reconboost"], "--modulation reconboost is defined for --fusion_method sum"),
    (["reconboost", "--fusion_method", "sum", "--epochs", "8"], "8 epochs end before the second modality's turn"),
    (["mslr", "--mslr_factors", "1,0"], "out of range"), (["mslr", "--mslr_factors", "1,x"], "'x' is not a number"),
    (["mla"], "--modulation mla is defined for --fusion_method sum"),
    (["lfm", "--fusion_method", "film"], "--modulation lfm is defined for --fusion_method concat or sum"),
    (["agm", "--lam", "0.1"], "--lam cannot be combined with --modulation agm: it replaces the loss"),
    (["dnr", "--relearn_every", "9", "--epochs", "9"], "--relearn_every 9 would set encoders back after the last"),
    (["dnr", "--relearn_every", "9", "--epochs", "8"], "--relearn_every 9 is not before the last of 8 epochs"),
    (["dnr", "--epochs", "20"], "--relearn_every 20 would set encoders back after the last of 20 epochs"),
    (["opm", "--accumulate", "2"], "--accumulate cannot be combined with --modulation opm, whose step needs the whole"),
    (["agm", "--accumulate", "2"], "--accumulate cannot be combined with --modulation agm, whose step needs the whole"),
    (["mmpareto", "--compile"], "--compile cannot be combined with --modulation mmpareto: it takes gradients of parts"),
    (["agm", "--pareto_gamma", "1"], "--pareto_gamma has no effect with --modulation agm"),
    (["dgl", "--lam", "0.1"], "--lam cannot be combined with --modulation dgl: it compares modalities, and no joint"),
    (["opm", "--epochs", "6"], "--opm_warmup 6 is not less than the 6 epochs of the run: opm would drop nothing"),
    (["opm", "--lam", "0.1"], "--lam cannot be combined with --modulation opm: it replaces the loss"),
    (["opm", "--opm_base", "1.1"], "out of range"), (["dgl", "--dgl_alpha", "0"], "out of range"),
    (["mmpareto", "--pareto_gamma", "0"], "out of range"), (["lfm", "--lfm_weight", "1.1"], "out of range"),
    (["lfm", "--lfm_weight", "learned"], "'learned' is neither schedule nor a number"),
    (["lfm", "--lfm_divergence", "kl"], "'kl' is not one of reverse_js, js"),
    (["lfm_learned", "--optimizer", "adam"], "--modulation lfm_learned is defined for --optimizer sgd"),
    (["lfm_learned", "--compile"], "--compile cannot be combined with --modulation lfm_learned: it takes gradients")])
def test_what_a_method_is_not_defined_for_is_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse(["--train", "--modulation", *argv])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "flag", "value"), [
    (["reconboost", "--fusion_method", "sum"], "weight_decay", 5e-4), (["pmr"], "weight_decay", 1e-4),
    (["reconboost", "--fusion_method", "sum", "--weight_decay", "1e-4"], "weight_decay", 1e-4),
    (["dnr"], "uni_weight", 0.0), (["dnr", "--uni_weight", "1"], "uni_weight", 1.0), (["inforeg"], "uni_weight", 1.0)])
def test_a_flag_that_is_not_given_has_the_default_of_the_method(argv, flag, value):
    assert getattr(parse(["--train", "--modulation", *argv]), flag) == value


def test_in_any_loop_a_method_says_what_it_needs_to_know_of_the_run():
    def in_a_loop(name: str, optimizer: str = "SGD", **given: object) -> AnyLearner:
        model = network(2, fusion=(*METHODS[name].fusions, "concat")[0])
        return AnyLearner(model, getattr(torch.optim, optimizer)(model.parameters(), lr=0.1), name, **given)

    batch = clips(2)
    learner = in_a_loop("lfm")
    with pytest.raises(MethodError, match=r"lfm follows the length of the training: call learner\.prepare\(epochs\)"):
        learner.step(*batch)
    learner.prepare(8)
    learner.begin_epoch(5)
    assert learner.method.weight == pytest.approx(0.4608, abs=1e-4)  # of epoch 100 of 200
    learner = in_a_loop("pmr")
    for call in (lambda: learner.begin_epoch(1), lambda: learner.step(*batch)):
        with pytest.raises(MethodError, match=r"pmr (looks at a tenth|works by epochs)"):
            call()
    learner = in_a_loop("pmr", clips=Clips([batch]))
    learner.begin_epoch(1)
    learner.step(*batch)
    assert learner.method.known.all()
    with pytest.raises(ValueError, match="lfm_learned is defined for the optimizer sgd, it was given Adam"):
        in_a_loop("lfm_learned", "Adam")
    learner = in_a_loop("lfm_learned", clips=Clips([batch], [clips(2, seed=5)]))
    learner.optimizer.param_groups[0]["nesterov"] = True
    with pytest.raises(MethodError, match="without nesterov"):
        learner.begin_epoch(1)
    assert in_a_loop("dnr", clips=Clips([batch], [batch])).method.heads is None


def test_a_network_that_was_not_compiled_in_training_is_compiled_for_its_evaluation(tmp_path):
    saved = settings(parse(["--train", "--modulation", "mmpareto"]))
    torch.save({"args": saved, "model": {}}, tmp_path / "best.pt")
    assert parse(["--ckpt_path", str(tmp_path / "best.pt"), "--compile"]).compile


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_take_gradients_of_parts_of_a_step_are_those_that_refuse_a_compiled_network(name, monkeypatch):
    """A compiled network computes the gradients of all its parameters, once for each forward pass."""
    taken, gradients = [], Learner.gradients
    monkeypatch.setattr(Learner, "gradients", lambda *given: taken.append(1) or gradients(*given))
    take_steps(name, 2, torch.float32)
    assert bool(taken) == ("compile" in METHODS[name].without)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_every_method_needs_two_modalities(name, capsys):
    with pytest.raises(SystemExit):
        parse(["--train", "--modulation", name, "--modality", "audio", "--fusion_method", "sum"])
    assert "--modulation compares the modalities" in capsys.readouterr().err


@pytest.mark.parametrize("name", METHODS)
def test_every_method_looks_at_the_features_of_the_encoders_and_not_at_the_fused_ones(name):
    model = network(2, fusion=(*METHODS[name].fusions, "concat")[0])
    forward = model.forward

    def without_fused(*inputs: torch.Tensor):
        output = forward(*inputs)
        return output._replace(fused=torch.full_like(output.fused, torch.nan))

    model.forward = without_fused
    learner = learner_of(model, METHODS[name](model, **SETTINGS[name]).double())
    learner.method.begin_epoch(1, learner, both(2))
    inputs, labels = clips(2)
    _, loss = learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    assert all(value.isfinite().all() for value in (loss, *model.parameters(), *learner.method.parameters()))


@pytest.mark.parametrize("name", METHODS)
def test_all_that_a_method_goes_by_is_in_its_state(name):
    """A learner of another start that is given one's state goes on as that one does."""
    settings = {**SETTINGS[name], **({"relearn_every": 4} if name == "dnr" else {}),
                **({"remix_warmup": 4} if name == "remix" else {})}
    (inputs, labels), held = clips(2), both(2)

    def train(learner, epochs) -> None:
        for epoch in epochs:
            torch.manual_seed(epoch)
            learner.method.begin_epoch(epoch, learner, held)
            learner.train()
            for number in (0, 1):
                learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0, elapsed=number / 2))
            learner.method.end_epoch(learner, held)

    models = [network(2, fusion=(*METHODS[name].fusions, "concat")[0], seed=seed) for seed in (0, 1)]
    one, other = (learner_of(model, METHODS[name](model, **settings).double()) for model in models)
    train(one, (1, 2))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for learner in (one, other):
        train(learner, (3, 4))
    assert all(torch.equal(value, models[1].state_dict()[key]) for key, value in models[0].state_dict().items())


def test_a_methods_own_parameters_have_the_rate_of_the_fusion_where_each_encoder_has_its_own():
    class WithHead(Method):
        rate_per_encoder = True

        def __init__(self, model):
            super().__init__(model)
            self.head = nn.Linear(2, 2)

    model = network(3)
    method = WithHead(model)
    expected = [[*model.fusion_module.parameters(), *method.head.parameters()],
                *(list(model.encoder(name).parameters()) for name in NAMES)]
    assert [[id(one) for one in group] for group in method.parameter_groups(model)] == [[id(one) for one in group]
                                                                                         for group in expected]


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
    learner.method.begin_epoch(1, learner, both(modalities, torch.float32))
    learner.train()
    inputs, labels = clips(modalities)
    batch = Batch([x.float() for x in inputs], labels, 1.0, 0.0)
    with mode or Synchronisations():
        return model, [learner.method.step(learner, batch)[1] for _ in range(4)]


@pytest.mark.parametrize("modalities, precision", [(3, torch.bfloat16), (2, torch.float16)])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_descends_in_half_precision(name, modalities, precision):
    modalities = min(modalities, METHODS[name].most_modalities)
    torch.manual_seed(0)
    model, losses = take_steps(name, modalities, precision)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_step_in_float16_is_that_in_float32_but_for_rounding(name):
    """In its size too, whatever the scale of the loss; and so is what the method remembers of it."""
    made = []
    for precision in (torch.float32, torch.float16):
        model = network(2, fusion=(*METHODS[name].fusions, "concat")[0]).float()
        learner = learner_of(model, METHODS[name](model, **SETTINGS[name]), precision)
        learner.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=precision == torch.float16)
        learner.method.begin_epoch(1, learner, both(2, torch.float32))
        learner.train()
        before = copy.deepcopy([model.state_dict(), learner.method.state_dict()])
        inputs, labels = clips(2)
        torch.manual_seed(1)
        learner.method.step(learner, Batch([x.float() for x in inputs], labels, 1.0, 0.0))
        after = [model.state_dict(), learner.method.state_dict()]
        made.append([torch.cat([(now[key] - was[key]).flatten() for key in was] or [torch.zeros(1)])
                     for now, was in zip(after, before, strict=True)])
    for full, half in zip(*made, strict=True):
        assert (half - full).norm() <= 0.05 * full.nan_to_num().norm() or full.isnan().any()
    assert made[0][0].norm() > 0.01


@pytest.mark.parametrize("name", METHODS)
def test_no_step_waits_for_the_device(name):
    mode = Synchronisations()
    take_steps(name, 2, torch.float32, mode)
    assert mode.count == 0


def test_held_out_clips_are_a_seeded_tenth_that_is_not_trained_on_or_the_validation_clips():
    class Numbers(Dataset):
        """Item i: its number, and how it is seen."""

        def __init__(self, first: int, seen: str = "in training"):
            self.first, self.seen = first, seen

        def __len__(self):
            return 30

        def __getitem__(self, i):
            return {"number": self.first + i, "seen": self.seen}

        def for_evaluation(self):
            return Numbers(self.first, "in evaluation")

    def seen(loader) -> tuple[list[int], set[str]]:
        batches = list(loader)
        numbers = [int(number) for batch in batches for number in batch["number"]]
        return numbers, {how for batch in batches for how in batch["seen"]}

    loaders = Loaders(7, 0, 0, torch.device("cpu"))
    dataset, clips = hold_out(Numbers(0), None, loaders, seed=3)
    (trained, how), (held_out, also) = seen(clips.trained), seen(clips.held_out)
    assert len(held_out) == 3 and sorted(trained + held_out) == list(range(30)) and how == also == {"in evaluation"}
    assert [dataset[i]["number"] for i in range(len(dataset))] == trained and dataset[0]["seen"] == "in training"
    assert held_out == seen(hold_out(Numbers(0), None, loaders, seed=3)[1].held_out)[0]
    assert held_out != seen(hold_out(Numbers(0), None, loaders, seed=4)[1].held_out)[0]
    dataset, clips = hold_out(Numbers(0), Numbers(100, "as given"), loaders, seed=3)
    assert len(dataset) == 30 and seen(clips.trained) == (list(range(30)), {"in evaluation"})
    assert seen(clips.held_out) == (list(range(100, 130)), {"as given"})


# ---- the documents


def documented() -> dict[str, list[str]]:
    """{name: cells} of docs/methods.md's table."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in
            (REPO / "docs" / "methods.md").read_text(encoding="utf-8").split("\n## ")[0].splitlines()
            if line.startswith("| `")]
    return {cells[0].strip("`| "): cells for cells in rows}


def test_the_table_of_methods_names_each_with_its_flags_and_a_test_that_is_there():
    table = documented()
    assert table.keys() == METHODS.keys() - {"none"}
    tests = "".join(path.read_text(encoding="utf-8") for path in (REPO / "tests").glob("test_*.py"))
    for name, (_, _, _, flags, _, mmcosine, _, _, test) in table.items():
        own = table[flags.split("`")[1]][3] if flags.startswith("as ") else flags
        assert set(re.findall(r"--(\w+)", own)) == METHODS[name].uses(), name
        for flag in METHODS[name].flags:
            default = METHODS[name].default_settings.get(flag.name, flag.default)
            default = default if isinstance(default, str) else f"{default:g}"
            assert f"`--{flag.name}` ({default}" in own.replace("1e-4", "0.0001"), flag.name
        assert mmcosine == ("no" if "mmcosine" in METHODS[name].without else "yes"), name
        assert f"def {test.strip('`| ')}(" in tests, name


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_the_table_counts_the_backward_passes_of_a_step(name, monkeypatch):
    counts = []
    for owner, function in ((torch.autograd, "grad"), (torch.Tensor, "backward")):
        run = getattr(owner, function)

        def counted(*given, run=run, **named):
            counts.append(1)
            return run(*given, **named)

        monkeypatch.setattr(owner, function, counted)
    take_steps(name, 2, torch.float32)  # four of them
    assert len(counts) / 4 == (2 if documented()[name][6] == "M" else int(documented()[name][6]))
