"""A training step asks the host nothing, so that a GPU is never idle; and leaves no tensor on the wrong device.

Fake tensors have shapes and a device but no values: `.item()`, `bool(tensor)` and shapes that depend on values raise,
and so do operations on tensors of two devices. That needs no GPU. Of fake GPU tensors PyTorch 2.11 computes neither
gradients nor autocast without a GPU: those are in tests/test_gpu.py.
"""

from collections.abc import Iterator

import pytest
import torch
from one_step import NAMES, SETTINGS
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dataset.crops import cut
from dataset.frontends import NormaliseDifference, NormaliseFlow, NormaliseFrames, OgmGeSpectrogram, Spectrogram
from dataset.packed import Sound, to_float
from models import MultimodalClassifier
from models.balancing import METHODS, relearning
from models.balancing.method import Batch, Method
from models.encoders import ENCODERS, make_encoders
from utils.training.engine import Compute, Learner
from utils.training.metrics import batch_sums

CLIPS, CLASSES = 4, 3
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
AT_ITS_EPOCH = ("mslr", "pmr")  # methods that ask the host before an epoch


@pytest.fixture
def fake(monkeypatch) -> Iterator[None]:
    """Tensors are fake in the test."""
    monkeypatch.setattr(nn.Module, "to", lambda module, *_, **__: module)  # they are made where they belong
    monkeypatch.setattr(relearning.copy, "deepcopy", lambda module: module)  # fake tensors cannot be copied so
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


class NoCopies(TorchDispatchMode):
    """Copying a tensor from the host to the GPU raises: the host would wait for it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        assert not ("copy" in str(function) and made.is_cuda and args[0].device == CPU), (function, args[0].shape)
        return made


class Encoder(nn.Module):
    """A convolution, a BatchNorm and a projection: images (B, 3, H, W) -> (B, 512)."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.projection = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 512)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection(self.norm(self.conv(x)).relu().mean((2, 3)))


def learner_of(name: str, mmcosine: bool, device: torch.device, precision: torch.dtype) -> Learner:
    method = METHODS[name]
    model = MultimodalClassifier({modality: Encoder() for modality in NAMES[:2]}, CLASSES,
                                 (*method.fusions, "concat")[0], mmcosine)
    compute = Compute(device, precision, {modality: nn.Identity() for modality in NAMES[:2]})
    learner = Learner(model, compute, "sgd", 0.1, 1e-4, 10, 0.1, method(model, **SETTINGS[name]))
    learner.train()
    if name not in AT_ITS_EPOCH:
        learner.method.begin_epoch(1, learner, None)
    return learner


def batch_of(name: str) -> Batch:
    lam = 0.0 if "lam" in METHODS[name].without else 0.1
    return Batch([torch.randn(CLIPS, 3, 8, 8) for _ in range(2)], torch.zeros(CLIPS, dtype=torch.int64), 1.0, lam)


@pytest.mark.parametrize("mmcosine, precision", [(False, torch.bfloat16), (True, torch.float32)])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_each_method_asks_the_host_nothing(name, mmcosine, precision, fake):
    if mmcosine and "mmcosine" in METHODS[name].without:
        return
    learner, batch = learner_of(name, mmcosine, CPU, precision), batch_of(name)
    output, loss = learner.method.step(learner, batch)
    assert batch_sums(output, batch.labels, loss).shape == (9,)


class Curious(Method):
    def loss(self, model, output, labels, loss):
        return loss if loss > 0 else -loss


def test_a_method_that_branches_on_a_value_would_be_noticed(fake, monkeypatch):
    monkeypatch.setitem(METHODS, "curious", Curious)
    monkeypatch.setitem(SETTINGS, "curious", {})
    with pytest.raises(DataDependentOutputException):
        learner_of("curious", True, CPU, torch.float32).plain_step(batch_of("curious"))


@pytest.mark.parametrize("mmcosine", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_forward_and_loss_of_each_method_stay_on_the_gpu(name, mmcosine, fake):
    if mmcosine and "mmcosine" in METHODS[name].without:
        return
    with CUDA:
        learner, batch = learner_of(name, mmcosine, CUDA, torch.float32), batch_of(name)
        learner.method.draws = torch.rand(CLIPS, 2)  # which opm's step makes
        learner.method.inputs = batch.inputs  # which umt's step keeps
        output, loss = learner.forward(batch)
        assert {tensor.device for tensor in (loss, *output, batch_sums(output, batch.labels, loss))} == {CUDA}


def test_a_method_that_makes_a_tensor_elsewhere_would_be_noticed(fake, monkeypatch):
    class Elsewhere(Method):
        def loss(self, model, output, labels, loss):
            return (output.logits * torch.ones(CLASSES, device=CPU)).mean()

    monkeypatch.setitem(METHODS, "elsewhere", Elsewhere)
    monkeypatch.setitem(SETTINGS, "elsewhere", {})
    with CUDA, pytest.raises(RuntimeError, match="device"):
        learner_of("elsewhere", True, CUDA, torch.float32).forward(batch_of("elsewhere"))


def test_front_ends_and_the_cut_of_cached_clips_stay_on_the_gpu_and_ask_the_host_nothing(fake):
    with CUDA:
        pixels = torch.zeros(CLIPS, 3, 20, 30, dtype=torch.uint8)
        sound = Sound(torch.zeros(9000, dtype=torch.int16), *torch.zeros(2, CLIPS, dtype=torch.int64))
        with NoCopies():
            frames = cut(pixels, torch.rand(CLIPS, 4), torch.rand(CLIPS) < 0.5, 16).unsqueeze(1)
            wave = to_float(sound.excerpts(torch.arange(CLIPS), torch.zeros(CLIPS, dtype=torch.int64), 2000))
        made = [Spectrogram()(wave), OgmGeSpectrogram()(wave), NormaliseFrames()(frames),
                NormaliseFlow()(frames[:, 0, :2]), NormaliseDifference()(frames.short())]
        assert {tensor.device for tensor in made} == {CUDA}


def test_the_encoders_stay_on_the_gpu_and_ask_the_host_nothing(fake):
    with CUDA:
        for name in sorted(ENCODERS.keys() - {"se_resnet34"}):  # whose torchaudio asks the host while it is made
            encoder = make_encoders({"visual": (name, 3)})["visual"]
            assert encoder(torch.zeros(CLIPS, 3, 2, 64, 64)).device == CUDA, name
