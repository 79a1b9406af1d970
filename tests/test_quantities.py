"""What balancing methods report of an epoch: Method.quantities, metrics.jsonl and TensorBoard."""

import json
import math
import re

import pytest
import torch
from conftest import REPO
from one_step import NAMES, SETTINGS, both, clips, feature, learner_of, modality_logit, network, nll, parameters
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from three_modalities import main

from models.balancing import METHODS, Method
from models.balancing.method import Batch


def test_quantities_are_means_over_the_steps_since_the_last_call():
    method = Method(network(3))
    method.note(size=torch.tensor(2.0), ratio=torch.tensor([1.0, 2.0, torch.inf]))
    method.note(size=torch.tensor(5.0), ratio=torch.tensor([4.0, torch.nan, torch.inf]))
    assert method.quantities() == {"size": 3.5, "ratio_audio": 2.5, "ratio_visual": 2.0}
    assert method.quantities() == {}
    method.note(size=torch.tensor(7.0))
    assert method.quantities() == {"size": 7.0}


def reported(name: str, settings: dict, modalities: int, steps: int = 2) -> tuple[list[dict], dict]:
    """(the parameters before each step, what is reported after them): in the first epoch, of remix in the second."""
    model = network(modalities, fusion=(*METHODS[name].fusions, "concat")[0])
    learner = learner_of(model, METHODS[name](model, **settings).double())
    learner.method.begin_epoch(2 if name == "remix" else 1, learner, both(modalities))
    learner.train()
    inputs, labels = clips(modalities)
    before = []
    for _ in range(steps):
        before.append(parameters(learner))
        learner.method.step(learner, Batch(inputs, labels, 1.0, 0.0, group=0))
    learner.method.end_epoch(learner, both(modalities))
    return before, learner.method.quantities()


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("ends", [0, -1])
def test_ogm_reports_the_ratio_of_the_scores_and_its_coefficients(modalities, ends):
    """Clip by clip; the ratio after the last epoch of modulation too."""
    before, found = reported("ogm", {"alpha": 0.4, "modulation_starts": 0, "modulation_ends": ends}, modalities)
    inputs, labels = clips(modalities)
    ratios, coefficients = [], []
    for state in before:
        score = [sum(math.exp(-float(nll(modality_logit(state, m, modalities, feature(state, NAMES[m], x[i])),
                                         label).detach())) for i, label in enumerate(labels.tolist()))
                 for m, x in enumerate(inputs)]
        ratios.append([one / ((sum(score) - one) / (modalities - 1)) for one in score])
        coefficients.append([1 - math.tanh(0.4 * rho) if rho > 1 and ends == 0 else 1.0 for rho in ratios[-1]])
    for m, name in enumerate(NAMES[:modalities]):
        assert found[f"ratio_{name}"] == pytest.approx((ratios[0][m] + ratios[1][m]) / 2, rel=1e-9)
        assert found[f"coefficient_{name}"] == pytest.approx((coefficients[0][m] + coefficients[1][m]) / 2, rel=1e-9)
    assert ratios[0] != ratios[1]


def test_a_run_writes_what_its_method_did_in_each_epoch(tmp_path):
    argv = ["--train", "--ckpt_path", str(tmp_path), "--num_workers", "0", "--device", "cpu", "--epochs", "2"]
    main([*argv, "--run_name", "ogm", "--modulation", "ogm", "--modulation_ends", "0", "--use_tensorboard", "True"])
    main([*argv, "--run_name", "plain"])
    records, plain = ([json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
                      for run in ("ogm", "plain"))
    events = EventAccumulator(str(tmp_path / "ogm")).Reload()
    for name in ("rgb", "flow", "audio"):
        kept = [record[f"method_coefficient_{name}"] for record in records]
        assert kept[1] == 1, "the modulation has ended"
        points = events.Scalars(f"method/coefficient_{name}")
        assert [point.step for point in points] == [1, 2] and [point.value for point in points] == pytest.approx(kept)
    assert min(records[0][f"method_coefficient_{name}"] for name in ("rgb", "flow", "audio")) < 1
    assert not any(key.startswith("method") for record in plain for key in record)


def documented(name: str) -> set[str]:
    """The quantities of a method in the table of docs/methods.md."""
    _, section = (REPO / "docs" / "methods.md").read_text(encoding="utf-8").split("## What a method reports")
    rows = [line.split(" | ") for line in section.split("\n## ")[0].splitlines() if line.startswith("| `")]
    return {quantity for methods, quantities in rows if f"`{name}`" in methods
            for quantity in re.findall(r"`(\w+)`:", quantities)}


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_reports_are_finite_numbers_with_a_line_in_the_docs(name):
    _, found = reported(name, SETTINGS[name], 2)
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())
    assert {re.sub(r"_(audio|visual)$", "", key) for key in found} == documented(name)
