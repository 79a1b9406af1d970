"""One training step of a balancing method, in float64, beside the same step computed another way.

The network is small enough to write down clip by clip: an encoder is two matrices with a tanh between them, the
classifier one matrix on the features side by side. B clips, M modalities, D features, C classes.
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models import MultimodalClassifier
from models.balancing import METHODS, Method
from models.balancing.method import Batch, Clips
from utils.training.engine import Compute, Learner

NAMES = ("audio", "visual", "flow")
OF_OGM = {"alpha": 0.5, "modulation_starts": 0, "modulation_ends": 9}
SETTINGS = {  # of every method, for tests that go through all of them
    "none": {},
    "ogm": OF_OGM,
    "ogm_ge": OF_OGM,
    "gblend": {"blend_epochs": 1},
    "pmr": {"pmr_alpha": 1.0, "pmr_entropy": 0.5, "pmr_entropy_epochs": 9},
    "multiloss": {"uni_weight": 1.0},
    "mmpareto": {"pareto_gamma": 1.5},
    "agm": {"agm_alpha": 0.1, "agm_clip": 1.0, "agm_ends": 20},
    "mla": {"mla_norm": "none"},
    "lfm": {"lfm_weight": "schedule", "lfm_divergence": "reverse_js"},
    "lfm_learned": {"lfm_start": 0.4, "lfm_rate": 0.1, "lfm_divergence": "reverse_js"},
    "dnr": {"uni_weight": 1.0, "relearn_every": 1, "relearn_times": 1, "relearn_strength": 3.0},
    "mcr": {"mcr_uni": 1.0, "mcr_mipd": 1.0, "mcr_permutations": 2},
    "dgl": {"dgl_alpha": 0.5, "dgl_clip": 40.0},
    "opm": {"opm_base": 0.5, "opm_lambda": 0.5, "opm_share": 0.7, "opm_warmup": 0},
    "inforeg": {"uni_weight": 1.0, "inforeg_threshold": -9.0, "inforeg_beta": 0.9,
                "inforeg_formula": "paper"},  # whatever grows
    "mslr": {"mslr_factors": "0.7", "mslr_window": 2},
    "umt": {"umt_weight": 0.5},  # its teachers are the encoders at their start
    "reconboost": {"recon_epochs": 1, "recon_weight": 6.0, "recon_others": 4.0, "recon_agreement": 0.5},
    "mlb": {"uni_weight": 1.0, "mlb_alpha": 0.5, "mlb_beta": 10.0},
    "arl": {"arl_uni": 1.0},
    "remix": {"remix_warmup": 1, "remix_uni": 0.5},
    "tcmax": {},
}
CLASSES, DIM, CLIPS, RATE, SCALING = 4, 6, 7, 0.5, 3.0

State = dict[str, Tensor]  # by parameter: `audio_net.0.weight`, `fusion_module.fc_out.bias`, `method.heads.0.weight`
LossOf = Callable[[State, list[Tensor], list[int]], Tensor]  # (parameters, inputs, labels) -> a loss


def network(modalities: int = 2, mmcosine: bool = False, fusion: str = "concat", seed: int = 0) -> MultimodalClassifier:
    torch.manual_seed(seed)
    encoders = {name: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, DIM)) for name in NAMES[:modalities]}
    return MultimodalClassifier(encoders, CLASSES, fusion, mmcosine, SCALING, dim=DIM).double()


def loader(modalities: int, seed: int, dtype: torch.dtype = torch.float64) -> DataLoader:
    """The clips of this seed in batches of 3, as a loader gives them."""
    inputs, labels = clips(modalities, seed)
    items = [{**{name: x[i].to(dtype) for name, x in zip(NAMES, inputs, strict=False)}, "label": labels[i]}
             for i in range(CLIPS)]
    return DataLoader(items, batch_size=3)


def both(modalities: int, dtype: torch.dtype = torch.float64) -> Clips:
    """The clips of seed 2 as those trained on, and those of seed 5 held out."""
    return Clips(loader(modalities, 2, dtype), loader(modalities, 5, dtype))


def clips(modalities: int, seed: int = 1) -> tuple[list[Tensor], Tensor]:
    """Inputs of each modality, the first louder, and labels."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(CLIPS, 4, generator=generator, dtype=torch.float64) * (2 if m == 0 else 1)
              for m in range(modalities)]
    return inputs, torch.arange(CLIPS) % CLASSES


def learner_of(model: MultimodalClassifier, method: Method, precision: torch.dtype = torch.float32) -> Learner:
    """SGD without decay; autocast is off in float64."""
    front_ends = dict.fromkeys(model.modalities, nn.Identity())
    return Learner(model, Compute(torch.device("cpu"), precision, front_ends), "sgd", RATE, 0.0, 100, 0.1, method)


def parameters(learner: Learner) -> State:
    """Copies, as leaves."""
    own = {f"method.{name}": value for name, value in learner.method.named_parameters()}
    named = {**dict(learner.model.named_parameters()), **own}
    return {name: value.detach().clone().requires_grad_(value.requires_grad) for name, value in named.items()}


def stepped(name: str, settings: dict, modalities: int = 2, mmcosine: bool = False,
            prepared: Callable[[Method], None] | None = None, seed: int = 0) -> tuple[State, State, Method]:
    """(parameters before, descent: what a step takes off them divided by the learning rate, the method). prepared: is
    called with the method before its epoch begins."""
    model = network(modalities, mmcosine, (*METHODS[name].fusions, "concat")[0], seed)
    method = METHODS[name](model, **settings).double()
    learner = learner_of(model, method)
    if prepared:
        prepared(method)
    before = parameters(learner)
    inputs, labels = clips(modalities)
    method.begin_epoch(1, learner, both(modalities))
    learner.train()
    method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    after = parameters(learner)
    descent = {name: ((value - after[name]) / RATE).detach() for name, value in before.items()}
    return before, descent, copy.deepcopy(method)


def naive_gradients(loss_of: LossOf, state: State, modalities: int) -> State:
    inputs, labels = clips(modalities)
    trained = {name: value for name, value in state.items() if value.requires_grad}
    found = torch.autograd.grad(loss_of(state, inputs, labels.tolist()), list(trained.values()), allow_unused=True)
    return {name: torch.zeros_like(value) if gradient is None else gradient
            for (name, value), gradient in zip(trained.items(), found, strict=True)}


# ---- the network, clip by clip


def feature(state: State, modality: str, clip: Tensor) -> Tensor:
    """(4,) -> (D,)"""
    hidden = [torch.tanh((row * clip).sum() + bias) for row, bias in
              zip(state[f"{modality}_net.0.weight"], state[f"{modality}_net.0.bias"], strict=True)]
    return state[f"{modality}_net.2.weight"] @ torch.stack(hidden) + state[f"{modality}_net.2.bias"]


def modality_logit(state: State, m: int, modalities: int, z: Tensor, mmcosine: bool = False) -> Tensor:
    """(D,) -> (C,): the logits of modality number m under concat."""
    weight = state["fusion_module.fc_out.weight"][:, m * DIM:(m + 1) * DIM]
    if mmcosine:
        lengths = (z @ z).sqrt() * torch.stack([(row @ row).sqrt() for row in weight])
        return SCALING * torch.where(lengths > 0, weight @ z / lengths.clamp(min=1e-300), 0.0)
    return weight @ z + state["fusion_module.fc_out.bias"] / modalities


def nll(logits: Tensor, label: int) -> Tensor:
    """-log of the true class's probability."""
    return -(logits[label] - sum(value.exp() for value in logits).log())


def mean(values: Sequence[Tensor]) -> Tensor:
    return sum(values) / len(values)


def joint_loss(modalities: int, mmcosine: bool = False) -> LossOf:
    def loss(state: State, inputs: list[Tensor], labels: list[int]) -> Tensor:
        return mean([nll(sum(modality_logit(state, m, modalities, feature(state, NAMES[m], x[i]), mmcosine)
                             for m, x in enumerate(inputs)), label) for i, label in enumerate(labels)])

    return loss


def head_loss(m: int) -> LossOf:
    """Of the method's own head G_m."""

    def loss(state: State, inputs: list[Tensor], labels: list[int]) -> Tensor:
        return mean([nll(state[f"method.heads.{m}.weight"] @ feature(state, NAMES[m], inputs[m][i])
                         + state[f"method.heads.{m}.bias"], label) for i, label in enumerate(labels)])

    return loss


def total(*terms: tuple[float, LossOf]) -> LossOf:
    """The weighted sum of losses."""
    return lambda state, inputs, labels: sum(weight * loss(state, inputs, labels) for weight, loss in terms)


def assert_same(found: State, expected: State) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-10,
                                   msg=lambda text, name=name: f"{name}: {text}")


def distance(one: State, other: State) -> float:
    """Of the parameters that both have."""
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one.keys() & other.keys()))
