"""--log_gradients: norms, ratios and cosines of the encoders' gradients, and a run that stays the same."""

import copy
import json
import math

import pytest
import torch
from one_step import (
    DIM,
    NAMES,
    SETTINGS,
    clips,
    feature,
    joint_loss,
    learner_of,
    modality_logit,
    naive_gradients,
    network,
    nll,
    parameters,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from three_modalities import main, parse
from torch import nn

from models.balancing import METHODS
from models.balancing.method import Batch
from utils.training.gradient_log import BATCHES, GradientLog


def vector(gradients: dict, modality: str) -> torch.Tensor:
    return torch.cat([value.flatten() for name, value in gradients.items() if name.startswith(modality)])


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("mmcosine", [False, True])
def test_norm_ratio_and_cosine_are_those_of_the_joint_and_of_each_modalitys_gradient(modalities, mmcosine):
    model = network(modalities, mmcosine)
    learner = learner_of(model, METHODS["multiloss"](model, 1.0).double())
    inputs, labels = clips(modalities)
    log = GradientLog()
    log.look(learner, Batch(inputs, labels, 1.0, 0.0), 0, 1)
    state = {name: value for name, value in parameters(learner).items() if "method" not in name}
    joint = naive_gradients(joint_loss(modalities, mmcosine), state, modalities)
    norms, found = [], log.means(NAMES[:modalities])
    for m, modality in enumerate(NAMES[:modalities]):
        def alone(state, inputs, labels, m=m):
            return sum(nll(modality_logit(state, m, modalities, feature(state, NAMES[m], x), mmcosine), label)
                       for x, label in zip(inputs[m], labels, strict=True)) / len(labels)

        g = vector(joint, modality)
        own = vector(naive_gradients(alone, state, modalities), modality)
        norms.append(float(g.norm()))
        cosine = float(g @ own) / (float(g.norm()) * float(own.norm()))
        assert found[f"norm_{modality}"] == pytest.approx(norms[-1])
        assert found[f"cosine_{modality}"] == pytest.approx(cosine) and 0.05 < abs(cosine) < 0.999
    for m, modality in enumerate(NAMES[:modalities]):
        others = (sum(norms) - norms[m]) / (modalities - 1)
        assert found[f"ratio_{modality}"] == pytest.approx(norms[m] / others)
    assert log.means(NAMES[:modalities]) == {}, "of the next epoch"


def test_looking_at_a_batch_changes_neither_weights_nor_statistics_nor_random_numbers():
    model = network(2)
    for name in NAMES[:2]:
        model.encoder(name).add_module("norm", nn.BatchNorm1d(DIM).double())
        model.encoder(name).add_module("drop", nn.Dropout(0.5))
    learner = learner_of(model, METHODS["none"](model))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    log = GradientLog()
    log.look(learner, Batch(*clips(2), 1.0, 0.0), 0, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters()) and log.measured


@pytest.mark.parametrize(("batches", "expected"), [(1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]),
                                                   (10, [0, 2, 5, 7])])
def test_batches_that_are_measured_lie_evenly_in_the_epoch(batches, expected, monkeypatch):
    seen = []
    monkeypatch.setattr("utils.training.gradient_log.measure", lambda learner, batch: seen.append(batch.elapsed))
    model = network(2)
    learner, log = learner_of(model, METHODS["none"](model)), GradientLog()
    for number in range(batches):
        log.look(learner, Batch(*clips(2), 1.0, 0.0, elapsed=number), number, batches)
    assert seen == expected and len(seen) <= BATCHES


def test_a_batch_whose_gradients_overflow_is_left_out():
    log = GradientLog()
    log.measured = [torch.tensor([[1.0, 2.0], [0.5, 0.1]]), torch.tensor([[math.inf, 1.0], [math.nan, 0.1]])]
    assert log.means(NAMES[:2]) == pytest.approx({"norm_audio": 1.0, "norm_visual": 2.0, "ratio_audio": 0.5,
                                                  "ratio_visual": 2.0, "cosine_audio": 0.5, "cosine_visual": 0.1})
    log.measured = [torch.full((2, 2), math.nan)]
    assert log.means(NAMES[:2]) == {}


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_measured_alike_under_every_method(name):
    """Where the networks are the same."""
    model = network(2, fusion="sum")
    with torch.no_grad():  # as MLA ties its layers
        model.fusion_module.fc_y.load_state_dict(model.fusion_module.fc_x.state_dict())
    found = []
    for method in ("none", name):
        learner = learner_of(model, METHODS[method](model, **SETTINGS[method]).double())
        log = GradientLog()
        log.look(learner, Batch(*clips(2), 1.0, 0.0), 0, 1)
        found.append(log.means(NAMES[:2]))
    assert found[0] == pytest.approx(found[1])


def test_a_run_writes_its_gradients_and_computes_what_it_does_without(tmp_path):
    argv = ["--train", "--ckpt_path", str(tmp_path), "--num_workers", "0", "--device", "cpu", "--epochs", "2"]
    main([*argv, "--run_name", "with", "--log_gradients", "--accumulate", "2"])
    main([*argv, "--run_name", "without", "--use_tensorboard", "False", "--accumulate", "2"])
    logged, plain = ([json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
                     for run in ("with", "without"))
    names = {f"gradient_{what}_{name}" for what in ("norm", "ratio", "cosine") for name in ("rgb", "flow", "audio")}
    for with_them, without in zip(logged, plain, strict=True):
        assert with_them.keys() - without.keys() == names
        assert all(value == with_them[name] for name, value in without.items() if "second" not in name)
    events = EventAccumulator(str(tmp_path / "with")).Reload()
    assert [point.value for point in events.Scalars("gradient/cosine_flow")] == pytest.approx(
        [record["gradient_cosine_flow"] for record in logged])
    main([*argv, "--run_name", "alone", "--log_gradients", "--modality", "rgb"])
    record = json.loads((tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()[0])
    assert [name for name in record if name.startswith("gradient")] == ["gradient_norm_rgb"]


def test_frozen_encoders_have_no_gradients_to_log(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(["--train", "--freeze_encoders", "--log_gradients", "--modality", "rgb"])
    assert "--log_gradients has no effect with --freeze_encoders" in capsys.readouterr().err
