"""What only a GPU can show: python -m pytest tests/test_gpu.py. Skipped without one."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from conftest import REPO
from one_step import NAMES, SETTINGS
from torch import nn

from dataset.crops import cut
from dataset.frontends import NormaliseFrames, Spectrogram
from models import AVClassifier, MultimodalClassifier, SpeakerClassifier
from models.balancing import METHODS
from models.balancing.method import Batch, Clips
from utils.training.engine import Compute, Learner
from utils.training.metrics import batch_sums
from utils.training.train import place

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
CLIPS, CLASSES = 8, 4


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the GPU raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def inputs(device: torch.device) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    spectra = torch.randn(CLIPS, 1, 65, 75, generator=generator)
    frames = torch.randn(CLIPS, 3, 1, 64, 64, generator=generator)
    return [spectra.to(device), frames.to(device)], (torch.arange(CLIPS) % CLASSES).to(device)


def learner_of(name: str, device: torch.device, precision: torch.dtype, mmcosine: bool = True,
               compiled: bool = False) -> Learner:
    method = METHODS[name]
    mmcosine = mmcosine and "mmcosine" not in method.without
    torch.manual_seed(0)
    model = AVClassifier(CLASSES, (*method.fusions, "concat")[0], mmcosine)
    compute = Compute(device, precision, dict.fromkeys(NAMES[:2], nn.Identity()))
    balancing = method(model, **SETTINGS[name])
    return Learner(place(model, compute, compiled), compute, "sgd", 1e-3, 1e-4, 10, 0.1, balancing)


def losses(learner: Learner, steps: int, lam: float = 0.0) -> list[float]:
    device = learner.compute.device
    images, labels = inputs(torch.device("cpu"))
    batch = {**dict(zip(NAMES, images, strict=False)), "label": labels}
    learner.method.begin_epoch(1, learner, Clips([batch]))
    learner.train()
    found = []
    for _ in range(steps):
        _, loss = learner.method.step(learner, Batch(*inputs(device), 1.0, lam))
        found.append(loss.detach())
    return [float(loss) for loss in found]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])  # float16's loss scaler asks once a step
@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_each_method_never_waits_for_the_gpu(name, precision):
    learner = learner_of(name, CUDA, precision)
    lam = 0.0 if "lam" in METHODS[name].without else 0.1
    assert all(map(math.isfinite, losses(learner, 2, lam)))  # libraries set themselves up in the first steps
    batch = Batch(*inputs(CUDA), 1.0, lam)
    with no_waiting():
        output, loss = learner.method.step(learner, batch)
        row = batch_sums(output, batch.labels, loss)
    assert bool(row.isfinite().all())


@pytest.mark.parametrize("name", METHODS)
def test_float16_goes_on_after_its_first_steps_have_overflowed(name):
    assert all(map(math.isfinite, losses(learner_of(name, CUDA, torch.float16), 5)))


@pytest.mark.parametrize("name", METHODS)
def test_each_method_computes_what_it_computes_on_the_cpu(name):
    torch.backends.cudnn.allow_tf32 = False
    try:
        on_gpu = losses(learner_of(name, CUDA, torch.float32), 3)
    finally:
        torch.backends.cudnn.allow_tf32 = True
    if name in ("ogm_ge", "mcr"):  # they draw on the device
        on_gpu = on_gpu[:1]
    assert on_gpu == pytest.approx(losses(learner_of(name, CPU, torch.float32), 3)[:len(on_gpu)], rel=2e-3)


def test_fifty_steps_have_the_losses_of_the_cpu():
    torch.backends.cudnn.allow_tf32 = False
    try:
        on_gpu = losses(learner_of("none", CUDA, torch.float32), 50)
    finally:
        torch.backends.cudnn.allow_tf32 = True
    on_cpu = losses(learner_of("none", CPU, torch.float32), 50)
    print("losses of steps 1, 10, 25, 50:", [(round(on_cpu[k], 5), round(on_gpu[k], 5)) for k in (0, 9, 24, 49)])
    assert on_gpu == pytest.approx(on_cpu, rel=0.02)
    assert on_gpu[-1] < 0.7 * on_gpu[0]


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_learns_as_float32(precision):
    half, full = (losses(learner_of("none", CUDA, kind), 30) for kind in (precision, torch.float32))
    assert half[-1] == pytest.approx(full[-1], rel=0.1)


def test_float16_leaves_out_a_step_whose_gradients_overflow():
    learner = learner_of("none", CUDA, torch.float16)
    losses(learner, 1)
    learner.scaler._scale.fill_(torch.finfo(torch.float32).max)
    before = {name: value.clone() for name, value in learner.model.named_parameters()}
    losses(learner, 1)
    assert all(torch.equal(value, before[name]) for name, value in learner.model.named_parameters())
    assert float(learner.scaler._scale) < torch.finfo(torch.float32).max


def test_cached_clips_are_cut_as_on_the_cpu():
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (CLIPS, 3, 120, 160), generator=generator, dtype=torch.uint8)
    corner, size = torch.rand(2, CLIPS, 2, generator=generator) * 0.4 + torch.tensor([0, 0.2]).view(2, 1, 1)
    arguments = images, torch.cat([corner, size], 1).double(), torch.arange(CLIPS) % 2 == 0
    on_cpu = cut(*arguments, 96)
    on_gpu = cut(*(part.to(CUDA) for part in arguments), 96).cpu()
    assert (on_cpu.int() - on_gpu.int()).abs().max() <= 1
    assert (on_cpu != on_gpu).float().mean() < 0.25  # float16 products: 0.20 of the pixels of noise, on an H200


def test_front_ends_give_what_they_give_on_the_cpu():
    generator = torch.Generator().manual_seed(3)
    wave = torch.randn(2, 16000, generator=generator) * 0.1
    frames = torch.randint(0, 256, (2, 1, 3, 64, 64), generator=generator, dtype=torch.uint8)
    for front_end, data in ((Spectrogram(), wave), (NormaliseFrames(), frames)):
        on_gpu = front_end.to(CUDA)(data.to(CUDA)).cpu()
        torch.testing.assert_close(on_gpu, front_end.to(CPU)(data), rtol=1e-4, atol=1e-3)


def test_the_speaker_network_learns_in_bfloat16():
    torch.manual_seed(0)
    model = SpeakerClassifier(CLASSES, mmcosine=True)
    compute = Compute(CUDA, torch.bfloat16, dict.fromkeys(NAMES[:2], nn.Identity()))
    learner = Learner(place(model, compute, False), compute, "sgd", 1e-3, 1e-4, 10, 0.1)
    learner.train()
    generator = torch.Generator().manual_seed(1)
    batch = Batch([torch.randn(CLIPS, 16240, generator=generator).to(CUDA) * 0.1,
                   torch.randn(CLIPS, 3, 2, 64, 64, generator=generator).to(CUDA)],
                  (torch.arange(CLIPS) % CLASSES).to(CUDA), 1.0, 0.0)
    found = [float(learner.plain_step(batch)[1]) for _ in range(20)]
    assert found[-1] < found[0]


def test_a_batch_that_is_too_large_is_told_with_what_to_do(tmp_path, tiny_data):
    argv = ["--train", "--dataset", "tiny", "--data_root", str(tiny_data), "--epochs", "1", "--device", "cuda",
            "--ckpt_path", str(tmp_path), "--image_size", "4096", "--batch_size", "24", "--num_workers", "0"]
    limit = "import torch, sys; torch.cuda.set_per_process_memory_fraction(0.05); import main_CD; " \
            "from utils import cli; sys.argv[0] = 'main_CD.py'; cli.run(main_CD.main)"
    ran = subprocess.run([sys.executable, "-c", limit, *argv], cwd=REPO, capture_output=True, text=True)
    assert ran.returncode == 2, ran.stderr
    assert "--batch_size" in ran.stderr and "Traceback" not in ran.stderr


def trained(tmp_path, tiny_data, name: str, *more: str, launcher: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    argv = ["--train", "--dataset", "tiny", "--data_root", str(tiny_data), "--epochs", "2", "--batch_size", "8",
            "--ckpt_path", str(tmp_path), "--run_name", name, "--device", "cuda", "--image_size", "64",
            "--audio_seconds", "0.6", "--num_workers", "0", "--mmcosine", *more]
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    ran = subprocess.run([sys.executable, *launcher, "main_CD.py", *argv], cwd=REPO, capture_output=True, text=True,
                         env=environment)
    assert ran.returncode == 0, ran.stderr
    return torch.load(tmp_path / name / "last.pt", weights_only=True, map_location="cpu")["model"]


def test_one_process_over_nccl_trains_as_none(tmp_path, tiny_data):
    alone = trained(tmp_path, tiny_data, "alone", "--amp", "off")
    nccl = trained(tmp_path, tiny_data, "nccl", "--amp", "off",
                   launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"))
    for name, value in alone.items():
        torch.testing.assert_close(nccl[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("cache", ["device", "ram", "auto", "folder"])
def test_a_run_with_a_cache_trains(cache, tmp_path, tiny_data):
    where = str(tmp_path / "packed") if cache == "folder" else cache
    assert all(value.isfinite().all() for value in trained(tmp_path, tiny_data, "run", "--cache", where).values()
               if value.is_floating_point())


def test_all_caches_give_the_same_batches(tmp_path, tiny_data):
    runs = [trained(tmp_path, tiny_data, name, "--cache", name, "--amp", "off") for name in ("device", "ram")]
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_compiled_network_learns_as_it_does_without():
    plain, compiled = (losses(learner_of("none", CUDA, torch.float32, compiled=one), 5) for one in (False, True))
    assert compiled == pytest.approx(plain, rel=0.02)


def test_a_network_of_three_modalities_fits_too():
    torch.manual_seed(0)
    encoders = {name: nn.Sequential(nn.Flatten(), nn.Linear(12, 512)) for name in NAMES}
    model = MultimodalClassifier(encoders, CLASSES, "film", True)
    compute = Compute(CUDA, torch.float16, dict.fromkeys(NAMES, nn.Identity()))
    learner = Learner(place(model, compute, False), compute, "sgd", 0.1, 1e-4, 10, 0.1)
    labels = torch.zeros(CLIPS, dtype=torch.int64, device=CUDA)
    batch = Batch([torch.randn(CLIPS, 12, device=CUDA) for _ in NAMES], labels, 1.0, 0.0)
    assert math.isfinite(float(learner.plain_step(batch)[1]))
