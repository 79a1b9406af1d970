"""Each balancing method's step against a naive computation of its equations in float64 (tests/one_step.py)."""

import math

import pytest
import torch
from one_step import (
    NAMES,
    SETTINGS,
    assert_same,
    clips,
    distance,
    head_loss,
    joint_loss,
    learner_of,
    naive_gradients,
    network,
    stepped,
    total,
)
from scipy.optimize import minimize_scalar
from torch.utils._python_dispatch import TorchDispatchMode

from models import MultimodalClassifier
from utils.balancing import METHODS
from utils.balancing.method import Batch
from utils.balancing.mmpareto import weights

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


# ---- all methods


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
