"""The classifier and its fusions against the paper, one clip at a time, and what DDP and checkpoints rely on."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import AVClassifier, MultimodalClassifier
from models.fusion import FUSIONS

B, D, C, K = 4, 6, 5, 3  # clips, features, classes, length of the tiny encoders' input
NAMES = ("audio", "visual", "flow", "depth")
CASES = [(name, m) for name, fusion in FUSIONS.items() for m in (1, 2, 3, 4) if m >= fusion.least_modalities]
PAPERS = ("sum", "concat", "film", "gated")  # those that the paper's table defines
SCALING = 4.0


def network(fusion: str, modalities: int = 2, mmcosine: bool = False, seed: int = 3) -> MultimodalClassifier:
    torch.manual_seed(seed)
    encoders = {name: nn.Linear(K, D) for name in NAMES[:modalities]}
    return MultimodalClassifier(encoders, C, fusion, mmcosine, SCALING, dim=D)


def inputs(modalities: int = 2, clips: int = B) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(clips, K, generator=generator) for _ in range(modalities)]


def table(fusion: str, state: dict, features: list[torch.Tensor]) -> list[torch.Tensor]:
    """The paper's table for the features (D,) of one clip's modalities -> h of each."""
    if fusion in ("sum", "concat"):
        return features
    own = [state[f"fc_{letter}.weight"] @ f + state[f"fc_{letter}.bias"]
           for letter, f in zip("xyzu", features, strict=False)]
    fused = []
    for m, feature in enumerate(features):
        others = [own[n] for n in range(len(own)) if n != m]
        other = sum(others) / len(others)
        gamma, beta = other[:D], other[D:]
        fused.append(gamma * feature + beta if fusion == "film" else 1 / (1 + torch.exp(-other)) * own[m])
    return fused


def head_of(model: MultimodalClassifier) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(weight (C, D), bias (C,)) of each modality: of its own layer, or its part of one layer on all features."""
    layers, count = model.fusion_module.head(), len(model.modalities)
    if layers[0].in_features == D:
        return [(layer.weight.detach(), layer.bias.detach()) for layer in layers]
    weight, bias = layers[0].weight.detach(), layers[0].bias.detach()
    return [(weight[:, m * D:(m + 1) * D], bias / count) for m in range(count)]


def logits_of_one_clip(model: MultimodalClassifier, fused: list[torch.Tensor]) -> list[torch.Tensor]:
    """Modality logits (C,) of one clip, class by class; the cosine of features that are all 0 is 0."""
    logits = []
    for h, (weight, bias) in zip(fused, head_of(model), strict=True):
        if model.mmcosine and not h.any():
            scores = [0.0] * C
        elif model.mmcosine:
            scores = [SCALING * float(h @ w) / math.sqrt(float(h @ h) * float(w @ w)) for w in weight]
        else:
            scores = [float(h @ w + b) for w, b in zip(weight, bias, strict=True)]
        logits.append(torch.tensor(scores))
    return logits


@pytest.mark.parametrize("mmcosine", [False, True])
@pytest.mark.parametrize("fusion, modalities", CASES)
def test_logits_are_those_of_each_modalitys_fused_features_and_sum_to_the_joint(fusion, modalities, mmcosine):
    model, x = network(fusion, modalities, mmcosine), inputs(modalities)
    output = model(*x)
    assert output[0] is output.logits and output.logits.shape == (B, C)
    assert output.modality_logits.shape == (modalities, B, C)
    assert output.features.shape == output.fused.shape == (modalities, B, D)
    for m, name in enumerate(NAMES[:modalities]):
        torch.testing.assert_close(output.features[m], model.encoder(name)(x[m]))
    for i in range(B):
        expected = logits_of_one_clip(model, list(output.fused[:, i].detach()))
        torch.testing.assert_close(output.modality_logits[:, i], torch.stack(expected), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output.logits[i], sum(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion, modalities", [case for case in CASES if case[0] in PAPERS])
def test_fused_features_equal_the_papers_table_clip_by_clip(fusion, modalities):
    model = network(fusion, modalities)
    output = model(*inputs(modalities))
    state = {name: value.detach() for name, value in model.fusion_module.state_dict().items()}
    for i in range(B):
        expected = table(fusion, state, list(output.features[:, i].detach()))
        torch.testing.assert_close(output.fused[:, i], torch.stack(expected))


@pytest.mark.parametrize("fusion, modalities", CASES)
def test_clips_do_not_mix_and_the_order_of_a_batch_does_not_matter(fusion, modalities):
    model, x = network(fusion, modalities).eval(), inputs(modalities)
    alone = [model(*[each[i:i + 1] for each in x]).logits[0] for i in reversed(range(B))]
    torch.testing.assert_close(model(*[each.flip(0) for each in x]).logits, torch.stack(alone))


@pytest.mark.parametrize("mmcosine", [False, True])
@pytest.mark.parametrize("fusion, modalities", CASES)
def test_a_state_dict_makes_another_network_the_same(fusion, modalities, mmcosine):
    model, x = network(fusion, modalities, mmcosine), inputs(modalities)
    other = network(fusion, modalities, mmcosine, seed=4)
    assert not torch.equal(other(*x).logits, model(*x).logits)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*x).logits, model(*x).logits)


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_plain_concat_equals_one_linear_layer_on_the_concatenation(modalities):
    model = network("concat", modalities)
    output = model(*inputs(modalities))
    layer = nn.Linear(modalities * D, C)
    layer.load_state_dict({"weight": model.fusion_module.fc_out.weight, "bias": model.fusion_module.fc_out.bias})
    torch.testing.assert_close(output.logits, layer(torch.cat(list(output.features), dim=1)))


def test_plain_sum_equals_two_linear_layers_added():
    model = network("sum")
    output = model(*inputs())
    torch.testing.assert_close(output.logits, sum(F.linear(f, layer.weight, layer.bias) for f, layer in zip(
        output.features, (model.fusion_module.fc_x, model.fusion_module.fc_y), strict=True)))


@pytest.mark.parametrize("fusion, modalities", CASES)
def test_joint_mmcosine_logits_are_bounded_by_m_times_s(fusion, modalities):
    output = network(fusion, modalities, True)(*[1e4 * x for x in inputs(modalities)])
    assert output.logits.abs().max() <= modalities * SCALING * (1 + 1e-6)


@pytest.mark.parametrize("fusion", ["sum", "concat"])  # those that leave the features as they are
def test_mmcosine_logits_do_not_change_when_one_modality_gets_louder(fusion):
    model = network(fusion, mmcosine=True)
    model.encoder("audio").bias.data.zero_()
    a, v = inputs()
    torch.testing.assert_close(model(100 * a, v).logits, model(a, v).logits)


@pytest.mark.parametrize("mmcosine", [False, True])
@pytest.mark.parametrize("fusion, modalities", CASES)
def test_exactly_the_trainable_parameters_get_a_gradient(fusion, modalities, mmcosine):
    """DistributedDataParallel stops on a parameter that requires a gradient and gets none. Of many clips: a fusion such
    as the element-wise maximum passes on few features of each."""
    model = network(fusion, modalities, mmcosine)
    F.cross_entropy(model(*inputs(modalities, clips=80)).logits, torch.arange(80) % C).backward()
    head = {name for name, parameter in model.named_parameters()
            if any(parameter is layer.bias for layer in model.fusion_module.head())}
    assert head
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == (head if mmcosine else set())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name not in frozen), name
        assert name in frozen or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("mmcosine", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_bfloat16_autocast_gives_float32_logits_close_to_those_of_float32(fusion, mmcosine):
    model, x = network(fusion, mmcosine=mmcosine), inputs()
    exact = model(*x)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(*x)
        F.cross_entropy(output.logits, torch.arange(B)).backward()
    assert output.logits.dtype == output.modality_logits.dtype == torch.float32
    torch.testing.assert_close(output.logits, exact.logits, rtol=0.05, atol=0.05)
    assert not torch.equal(output.logits, exact.logits)  # the encoders did run in bfloat16


@pytest.mark.parametrize("arguments, message", [
    ({"fusion": "attention"}, f"'attention' is not one of {', '.join(FUSIONS)}"),
    ({"scaling": 0}, "scaling must be positive"), ({"scaling": -2.0}, "scaling must be positive"),
    *[({"fusion": name}, f"takes {fusion.least_modalities} to 6 modalities, got 1") for name, fusion in FUSIONS.items()
      if fusion.least_modalities > 1],
    ({"encoders": {}}, "got 0"), ({"encoders": {str(i): nn.Identity() for i in range(7)}}, "got 7")])
def test_impossible_networks_are_refused_with_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MultimodalClassifier(**{"encoders": {"audio": nn.Identity()}, "num_classes": C, "dim": K, **arguments})


@pytest.mark.parametrize("scaling", [math.nan, math.inf])
def test_a_scale_that_is_not_finite_is_refused(scaling):
    with pytest.raises(ValueError, match="scaling"):
        MultimodalClassifier({"audio": nn.Identity()}, C, scaling=scaling, dim=K)


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_number_of_inputs_is_refused(count):
    with pytest.raises(ValueError):
        network("concat")(*inputs(count))


FUSION_SHAPES = {  # of the released checkpoints
    "sum": {"fc_x.weight": (C, 512), "fc_x.bias": (C,), "fc_y.weight": (C, 512), "fc_y.bias": (C,)},
    "concat": {"fc_out.weight": (C, 1024), "fc_out.bias": (C,)},
    "film": {"fc_x.weight": (1024, 512), "fc_x.bias": (1024,), "fc_y.weight": (1024, 512), "fc_y.bias": (1024,),
             "fc_out.weight": (C, 1024), "fc_out.bias": (C,)},
    "gated": {"fc_x.weight": (512, 512), "fc_x.bias": (512,), "fc_y.weight": (512, 512), "fc_y.bias": (512,),
              "fc_out.weight": (C, 1024), "fc_out.bias": (C,)}}


@pytest.mark.parametrize("fusion", FUSION_SHAPES)
def test_state_dict_has_the_names_and_shapes_of_released_checkpoints(fusion):
    state = AVClassifier(C, fusion, mmcosine=True).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    parts = {part: sum(name.startswith(f"{part}.") for name in shapes) for part in ("audio_net", "visual_net")}
    assert parts == {"audio_net": 120, "visual_net": 120}
    assert shapes["audio_net.conv1.weight"] == (64, 1, 7, 7) and shapes["visual_net.conv1.weight"] == (64, 3, 7, 7)
    assert {name: shape for name, shape in shapes.items() if not name.startswith(("audio_net.", "visual_net."))} == {
        f"fusion_module.{name}": shape for name, shape in FUSION_SHAPES[fusion].items()}


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio",), ("visual",)])
def test_loss_of_the_papers_network_reaches_the_first_convolution_of_every_encoder(modalities):
    torch.manual_seed(0)
    x = {"audio": torch.randn(2, 1, 65, 33), "visual": torch.randn(2, 3, 2, 40, 40)}
    model = AVClassifier(C, "concat", mmcosine=True, modalities=modalities)
    output = model(*[x[name] for name in modalities])
    assert output.features.shape == (len(modalities), 2, 512)
    F.cross_entropy(output.logits, torch.tensor([0, 3])).backward()
    for name in modalities:
        assert model.encoder(name).conv1.weight.grad.abs().sum() > 0
