"""Methods of 2024 to 2026 (mlb, arl, remix, tcmax): a step of each against its equations, clip by clip
in float64, and against the step without its term."""

import itertools
import math

import pytest
import torch
from one_step import (
    CLASSES,
    CLIPS,
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
    parameters,
    stepped,
    total,
)
from torch import nn

from main_CD import parse
from models.balancing import METHODS
from models.balancing.method import Batch, Clips
from utils.training.loading import TrainBatches

BOTH_HEADS = pytest.mark.parametrize("mmcosine", [False, True])
TWO_OR_THREE = pytest.mark.parametrize("modalities", [2, 3])


def own_loss(m: int, modalities: int, mmcosine: bool):
    """Of the modality logits F_m."""

    def loss(state, inputs, labels):
        return sum(nll(modality_logit(state, m, modalities, feature(state, NAMES[m], inputs[m][i]),
                                      mmcosine), label) for i, label in enumerate(labels)) / len(labels)

    return loss


def softmax(row: torch.Tensor) -> torch.Tensor:
    return row.exp() / row.exp().sum()


# ---- MLB


@TWO_OR_THREE
@BOTH_HEADS
def test_mlb_multiplies_the_gradients_of_encoder_and_head_by_how_far_they_are_ahead_or_behind(
        modalities, mmcosine):
    settings = {"uni_weight": 0.7, "mlb_alpha": 1.5, "mlb_beta": 8.0}
    before, descent, method = stepped("mlb", settings, modalities, mmcosine)
    losses = total((1.0, joint_loss(modalities, mmcosine)),
                   *((0.7, head_loss(m)) for m in range(modalities)))
    expected = naive_gradients(losses, before, modalities)
    inputs, labels = clips(modalities)
    score = []
    for m, x in enumerate(inputs):
        weight, bias = (before[f"method.heads.{m}.{name}"].detach() for name in ("weight", "bias"))
        rows = [weight @ feature(before, NAMES[m], clip).detach() + bias for clip in x]
        score.append(sum(float(softmax(row)[label]) for row, label in
                         zip(rows, labels.tolist(), strict=True)) / CLIPS)
    coefficients = []
    for m, own in enumerate(score):
        others = [other for n, other in enumerate(score) if n != m]
        rho = sum(others) / len(others) / own
        slower, faster = math.tanh(1.5 * (rho - 1)), 7.0 * math.tanh(1.5 * (rho - 1))
        coefficients.append(1 + (slower if rho <= 1 else faster))
    assert min(coefficients) < 0.99 and max(coefficients) > 1.01
    found = method.quantities()
    for m, modality in enumerate(NAMES[:modalities]):
        for name in expected:
            if name.startswith((f"{modality}_net", f"method.heads.{m}.")):
                expected[name] = coefficients[m] * expected[name]
        assert found[f"coefficient_{modality}"] == pytest.approx(coefficients[m])
    assert_same(descent, expected)
    without = stepped("multiloss", {"uni_weight": 0.7}, modalities, mmcosine)[1]
    assert distance(descent, without) > 0.01


# ---- ARL


@TWO_OR_THREE
@BOTH_HEADS
def test_arl_weights_the_gradients_of_each_encoder_by_certainty_over_size_of_its_logits(
        modalities, mmcosine):
    before, descent, method = stepped("arl", {"arl_uni": 0.6}, modalities, mmcosine)
    losses = total((1.0, joint_loss(modalities, mmcosine)),
                   *((0.6, own_loss(m, modalities, mmcosine)) for m in range(modalities)))
    expected = naive_gradients(losses, before, modalities)
    inputs, _ = clips(modalities)
    exponents = []
    for m, x in enumerate(inputs):
        rows = [modality_logit(before, m, modalities, feature(before, NAMES[m], clip), mmcosine).detach()
                for clip in x]
        certainty = sum(1 / -float((softmax(row) * softmax(row).log()).sum()) for row in rows) / CLIPS
        size = sum(sum(abs(float(row[c])) for row in rows) / CLIPS for c in range(CLASSES))
        exponents.append(math.exp(4 * certainty / size))
    weights = [modalities * value / sum(exponents) for value in exponents]
    assert max(weights) > 1.01
    found = method.quantities()
    for m, modality in enumerate(NAMES[:modalities]):
        assert found[f"weight_{modality}"] == pytest.approx(weights[m])
        for name in expected:
            if name.startswith(f"{modality}_net"):
                expected[name] = weights[m] * expected[name]
    assert_same(descent, expected)
    unweighted = naive_gradients(losses, before, modalities)
    assert distance(descent, unweighted) > 0.01
    assert distance(unweighted, stepped("none", {}, modalities, mmcosine)[1]) > 0.01


def test_arl_gives_a_certain_modality_a_finite_weight():
    method = METHODS["arl"](network(2), arl_uni=1.0)
    logits = torch.zeros(2, 3, CLASSES)
    logits[0, :, 1] = 1e4
    logits[1, :, 1] = 0.1
    assert method.weights(logits).tolist() == pytest.approx([2.0, 0.0])
    assert method.weights(torch.zeros(2, 3, CLASSES)).tolist() == [1.0, 1.0]


# ---- TCMax


@TWO_OR_THREE
@BOTH_HEADS
@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_tcmax_descends_the_log_share_of_the_true_pairs_among_all_pairs_of_the_batch(
        modalities, mmcosine, fusion):
    model = network(modalities, mmcosine, fusion)
    learner = learner_of(model, METHODS["tcmax"](model).double())
    before = parameters(learner)
    inputs, labels = clips(modalities)
    _, value = learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    after = parameters(learner)

    def logits(state, m, z):
        if fusion == "concat":
            return modality_logit(state, m, modalities, z, mmcosine)
        as_concat = {"fusion_module.fc_out.weight": torch.cat(
            [state[f"fusion_module.fc_{letter}.weight"] for letter in "xyz"[:modalities]], 1),
            "fusion_module.fc_out.bias": modalities * state[f"fusion_module.fc_{'xyz'[m]}.bias"]}
        return modality_logit(as_concat, m, modalities, z, mmcosine)

    def loss(state, inputs, labels):
        rows = [[logits(state, m, feature(state, NAMES[m], clip)) for clip in x]
                for m, x in enumerate(inputs)]
        everything = 0.0
        for chosen in itertools.product(range(len(labels)), repeat=modalities):
            joint = sum(row[i] for row, i in zip(rows, chosen, strict=True))
            everything = everything + sum(joint[c].exp() for c in range(CLASSES))
        return -sum((sum(row[i] for row in rows)[label].exp() / everything).log()
                    for i, label in enumerate(labels)) / len(labels)

    expected = naive_gradients(loss, before, modalities)
    found = {name: ((was - after[name]) / RATE).detach() for name, was in before.items()}
    assert_same(found, expected)
    other = network(modalities, mmcosine, fusion)
    plain = learner_of(other, METHODS["none"](other))
    plain.method.step(plain, Batch(inputs, labels, 1.0, 0.0))
    assert distance(*({name: value.detach() for name, value in state.items()}
                      for state in (after, parameters(plain)))) > 0.01
    exact = float(loss(before, inputs, labels.tolist()).detach())
    assert float(value.detach()) == pytest.approx(exact)
    assert learner.method.quantities() == {"total_correlation": pytest.approx(
        math.log(CLIPS ** modalities * CLASSES) - exact)}


def test_tcmax_holds_logits_whose_exponentials_overflow():
    model = network(2)
    method = METHODS["tcmax"](model)
    output = model(*clips(2)[0])
    large = output._replace(modality_logits=(1e4 * output.modality_logits).float())
    assert method.loss(model, large, clips(2)[1], torch.zeros(())).isfinite()


# ---- Data Remixing


@TWO_OR_THREE
@BOTH_HEADS
def test_remix_trains_all_modalities_in_its_first_epochs(modalities, mmcosine):
    before, descent, _ = stepped("remix", {"remix_warmup": 1, "remix_uni": 0.3}, modalities, mmcosine)
    losses = total((1.0, joint_loss(modalities, mmcosine)),
                   *((0.3, own_loss(m, modalities, mmcosine)) for m in range(modalities)))
    assert_same(descent, naive_gradients(losses, before, modalities))
    assert distance(descent, stepped("none", {}, modalities, mmcosine)[1]) > 0.01


@TWO_OR_THREE
@BOTH_HEADS
def test_remix_trains_the_modality_that_is_less_certain_with_the_other_inputs_zero(modalities, mmcosine):
    model = network(modalities, mmcosine)
    learner = learner_of(model, METHODS["remix"](model, remix_warmup=1, remix_uni=0.3).double())
    state, (inputs, labels) = parameters(learner), clips(modalities)
    learner.method.begin_epoch(1, learner, Clips(loader(modalities, 1)))
    assert learner.method.groups is None
    learner.method.begin_epoch(2, learner, Clips(loader(modalities, 1)))
    nearest = []
    for i in range(CLIPS):
        divergences = []
        for m, x in enumerate(inputs):
            z = feature(state, NAMES[m], x[i])
            p = softmax(modality_logit(state, m, modalities, z, mmcosine).detach())
            divergences.append(float((p * (p / (1 / CLASSES)).log()).sum()))
        nearest.append(divergences.index(min(divergences)))
    assert learner.method.groups == nearest and len(set(nearest)) > 1
    for m, modality in enumerate(NAMES[:modalities]):
        before = parameters(learner)
        momentum = {name: learner.optimizer.state[value].get("momentum_buffer") for name, value in
                    model.named_parameters()}
        kept = {name: torch.zeros(()) if value is None else value.clone() for name, value in
                momentum.items()}
        learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0, group=m))
        after = parameters(learner)
        descent = {name: ((value - after[name]) / RATE - 0.9 * kept[name]).detach()
                   for name, value in before.items()}
        zeroed = [x if n == m else torch.zeros_like(x) for n, x in enumerate(inputs)]

        def loss(state, _, labels, zeroed=zeroed, m=m):
            return (joint_loss(modalities, mmcosine)(state, zeroed, labels)
                    + own_loss(m, modalities, mmcosine)(state, zeroed, labels))

        expected = naive_gradients(loss, before, modalities)
        assert_same(descent, {name: value for name, value in expected.items()
                              if value.abs().max() > 0 or not mmcosine})
        whole = naive_gradients(joint_loss(modalities, mmcosine), before, modalities)
        assert distance(descent, whole) > 0.01, modality


def test_remix_keeps_the_statistics_of_an_encoder_whose_input_is_zero():
    model = network(2)
    for name in NAMES[:2]:
        model.encoder(name).add_module("norm", nn.BatchNorm1d(DIM).double())
    learner = learner_of(model, METHODS["remix"](model, **SETTINGS["remix"]).double())
    inputs, labels = clips(2)
    moved = []
    for group in (0, 1, None):
        learner.train()
        before = [model.encoder(name).norm.running_mean.clone() for name in NAMES[:2]]
        learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0, group=group))
        moved.append([not torch.equal(was, model.encoder(name).norm.running_mean)
                      for was, name in zip(before, NAMES, strict=False)])
    assert moved == [[True, False], [False, True], [True, True]]


def test_remix_refuses_a_batch_of_no_group_once_clips_are_given_to_modalities():
    model = network(2)
    learner = learner_of(model, METHODS["remix"](model, **SETTINGS["remix"]).double())
    learner.method.begin_epoch(2, learner, Clips(loader(2, 1)))
    with pytest.raises(ValueError, match=r"Batch\.group"):
        learner.method.step(learner, Batch(*clips(2), 1.0, 0.0))


@pytest.mark.parametrize("processes", [1, 3])
def test_batches_of_groups_hold_clips_of_one_group_and_every_clip_once(processes):
    groups = [0] * 17 + [2] * 6 + [1]
    parts = [TrainBatches(24, 4, 5, rank, processes) for rank in range(processes)]
    for part in parts:
        part.epoch, part.groups = 3, groups
    batches = parts[0].batches()
    seen = [clip for _, batch in batches for clip in batch]
    assert sorted(seen) == list(range(24)) != seen
    for group, batch in batches:
        of_batch = {groups[clip] for clip in batch}
        assert of_batch == {group} or (processes == 3 and of_batch <= {0, 1} and group == 0)
        assert len(batch) >= processes
    assert [group for group, _ in batches] != sorted(group for group, _ in batches), "in random order"
    for number, keys in enumerate(zip(*parts, strict=True)):
        assert sorted(clip for part in keys for _, clip in part) == sorted(batches[number][1])
    parts[0].groups = None
    assert [group for group, _ in parts[0].batches()] == [None] * len(parts[0])


# ---- what they are not defined for


@pytest.mark.parametrize(("argv", "message"), [
    (["tcmax", "--fusion_method", "film"], "--modulation tcmax is defined for --fusion_method concat or sum"),
    (["arl", "--fusion_method", "gated"], "--modulation arl is defined for --fusion_method concat or sum"),
    (["remix", "--fusion_method", "film"], "--modulation remix is defined for --fusion_method concat or sum"),
    (["tcmax", "--lam", "0.1"], "--lam cannot be combined with --modulation tcmax"),
    (["remix", "--lam", "0.1"], "--lam cannot be combined with --modulation remix: its batches have one modality"),
    (["tcmax", "--accumulate", "2"], "--accumulate cannot be combined with --modulation tcmax"),
    (["remix", "--epochs", "10"], "--remix_warmup 10 is not less than the 10 epochs of the run"),
    (["mlb", "--uni_weight", "0"], "which learn nothing with --uni_weight 0")])
def test_what_these_methods_are_not_defined_for_is_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse(["--train", "--modulation", *argv])
    assert message in capsys.readouterr().err
