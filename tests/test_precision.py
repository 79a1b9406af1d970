"""`--amp`: which precision on which machine, in a resumed run, in a sweep."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from main_CD import main
from models import MultimodalClassifier
from models.balancing.learner import Learner
from scripts import benchmark
from utils import distributed
from utils.training import checkpoint, flags, precision
from utils.training.precision import PRECISIONS, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("amp, dtype", [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_named_precision_is_taken_whatever_the_device_can_do(monkeypatch, device, amp, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert choose_precision(amp, device) is dtype


def machine(monkeypatch, tmp_path, vendor: str | None, flags: str, capabilities: dict) -> None:
    """This process is on such a CPU. vendor: None for one without /proc/cpuinfo."""
    text = "".join(f"processor\t: {number}\nvendor_id\t: {vendor}\nmodel name\t: A CPU: fast\n"
                   f"flags\t\t: fpu {flags}\n\n" for number in range(2))
    if vendor:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)


INTEL, AMD, AMX, VECTORS = "GenuineIntel", "AuthenticAMD", "amx_bf16 amx_tile", "avx512f avx512_bf16"


@pytest.mark.parametrize("vendor, flags, dtype, reason", [
    (INTEL, "avx2", torch.float32, "the CPU does not compute bfloat16"),
    (INTEL, VECTORS, torch.float32, "avx512_bf16 without AMX and is not AMD's, so float32 is faster"),
    (INTEL, f"{VECTORS} {AMX}", torch.bfloat16, "the CPU has AMX (amx_bf16)"),
    (AMD, VECTORS, torch.bfloat16, "the CPU is AMD's and has avx512_bf16"),
    (AMD, "avx2 avx512f", torch.float32, "the CPU does not compute bfloat16"),
    ("HygonGenuine", VECTORS, torch.float32, "avx512_bf16 without AMX and is not AMD's")])
def test_auto_takes_bfloat16_on_a_cpu_where_it_is_faster_alone(vendor, flags, dtype, reason, tmp_path,
                                                               monkeypatch):
    known = ("avx2", "avx512_bf16", "amx_bf16")
    machine(monkeypatch, tmp_path, vendor, flags, {name: name in flags.split() for name in known})
    assert choose_precision("auto", CPU) is dtype
    chosen = precision.choice("auto", CPU)
    assert chosen.precision is dtype and chosen.reason.startswith("--amp auto: ") and reason in chosen.reason


@pytest.mark.parametrize("capabilities, dtype", [
    ({}, torch.float32), ({"avx512_bf16": True}, torch.float32), ({"amx_bf16": True}, torch.bfloat16)])
def test_a_cpu_whose_vendor_nobody_tells_needs_amx(capabilities, dtype, tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, None, "", capabilities)
    assert choose_precision("auto", CPU) is dtype


def test_amx_that_the_kernel_does_not_allow_does_not_count(tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, INTEL, VECTORS, {"avx512_bf16": True, "amx_bf16": True})
    assert choose_precision("auto", CPU) is torch.float32


def test_all_processes_of_a_run_take_the_precision_of_the_main_one(tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, INTEL, VECTORS, {"avx512_bf16": True})
    monkeypatch.setattr(distributed, "from_main", lambda here: torch.bfloat16)  # which is on another machine
    assert choose_precision("auto", CPU) is torch.bfloat16 and choose_precision("off", CPU) is torch.float32


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_the_reason_of_a_named_precision_is_its_name(amp):
    assert precision.choice(amp, CPU).reason == f"--amp {amp}"


@pytest.mark.parametrize("native", [True, False])
def test_auto_takes_bfloat16_on_a_gpu_that_computes_it_without_emulation_alone(monkeypatch, native):
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": not native})
    assert choose_precision("auto", CUDA) is (torch.bfloat16 if native else torch.float32)


def test_an_unknown_precision_is_not_taken_for_another():
    with pytest.raises(KeyError):
        choose_precision("int8", CPU)


def test_the_names_of_the_capabilities_are_those_torch_uses():
    if torch.cpu.get_capabilities().get("architecture") != "x86_64":
        pytest.skip("the names are those of x86 processors")
    assert {"avx512_bf16", "amx_bf16"} <= torch.cpu.get_capabilities().keys()


def test_precisions_that_can_be_chosen_are_those_that_are_there():
    assert tuple(PRECISIONS) == flags.PRECISIONS


# ---- what a network computes in


@contextmanager
def watched_features() -> Iterator[set[tuple[str, torch.dtype]]]:
    """{(training or evaluation, dtype of the features)} of the passes of every network in this block."""
    found = set()

    def after_pass(module: nn.Module, _: object, output: object) -> None:
        if isinstance(module, MultimodalClassifier):
            found.add(("training" if module.training else "evaluation", output.features.dtype))

    handle = register_module_forward_hook(after_pass)
    try:
        yield found
    finally:
        handle.remove()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_encoders_compute_in_the_precision_of_the_learner_in_its_steps_and_its_outputs(dtype):
    model = MultimodalClassifier({name: nn.Linear(4, 8) for name in ("audio", "visual")}, 3, dim=8)
    learner = Learner(model, torch.optim.SGD(model.parameters(), 0.1), precision=dtype)
    inputs, labels = [torch.ones(2, 4), torch.ones(2, 4)], torch.tensor([0, 2])
    trained, _ = learner.step(inputs, labels)
    (evaluated, _), = learner.outputs([(inputs, labels)])
    assert trained.features.dtype is evaluated.features.dtype is dtype


@pytest.mark.parametrize(("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.usefixtures("tiny_encoders", "without_pictures")
def test_a_run_and_an_evaluation_compute_in_what_their_json_files_say(train_argv, tmp_path, amp, dtype):
    with watched_features() as features:
        result = main([*train_argv, "--epochs", "1", "--amp", amp])
    assert features == {("training", dtype), ("evaluation", dtype)}
    other, other_amp = (torch.bfloat16, "bf16") if amp == "off" else (torch.float32, "off")
    with watched_features() as features:
        evaluated = main(["--ckpt_path", str(tmp_path / "run"), "--num_workers", "0", "--amp", other_amp])
    assert features == {("evaluation", other)}
    assert [f"torch.{one['precision']}" for one in (result, evaluated)] == [str(dtype), str(other)]


# ---- runs


def started(train_argv, tmp_path, monkeypatch, vendor: str) -> dict:
    machine(monkeypatch, tmp_path, vendor, VECTORS, {"avx512_bf16": True})
    return main([*train_argv, "--amp", "auto"])


@pytest.mark.usefixtures("tiny_encoders", "without_pictures")
def test_result_json_has_the_reason_and_a_resumed_run_keeps_its_precision(train_argv, tmp_path, monkeypatch,
                                                                         capsys):
    result = started([*train_argv, "--epochs", "1"], tmp_path, monkeypatch, AMD)
    reason = "--amp auto: the CPU is AMD's and has avx512_bf16"
    assert (result["precision"], result["precision_reason"]) == ("bfloat16", reason)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["precision_reason"] == reason
    machine(monkeypatch, tmp_path, INTEL, VECTORS, {"avx512_bf16": True})
    capsys.readouterr()
    with watched_features() as features:
        resumed = main(["--resume", str(tmp_path / "run"), "--epochs", "2"])
    printed = capsys.readouterr().out
    assert "was computed in bfloat16, and the run continues in it; a new run would choose float32 here" in printed
    assert (resumed["precision"], resumed["precision_reason"]) == ("bfloat16", reason)
    assert features == {("training", torch.bfloat16), ("evaluation", torch.bfloat16)}
    assert checkpoint.load(tmp_path / "run" / "last.pt")["facts"]["precision"] == "bfloat16"


@pytest.mark.usefixtures("tiny_encoders", "without_pictures")
def test_a_run_that_is_resumed_where_it_started_gets_no_note(train_argv, tmp_path, monkeypatch, capsys):
    started([*train_argv, "--epochs", "1"], tmp_path, monkeypatch, INTEL)
    capsys.readouterr()
    assert main(["--resume", str(tmp_path / "run"), "--epochs", "2"])["precision"] == "float32"
    assert "continues in it" not in capsys.readouterr().out


# ---- the benchmark


@pytest.mark.parametrize("speeds, said", [
    ({"float32": [6.0, 6.2], "bfloat16": [9.0, 9.3]}, "1.50 times as fast as in float32; --amp auto: the CPU is"),
    ({"float32": [6.0], "bfloat16": [3.0]}, "WRONG on this machine: give --amp off, 2.00 times as fast"),
    ({"float32": [6.0], "bfloat16": [5.9]}, "0.98 times as fast"), ({"float32": [6.0]}, "")])
def test_the_benchmark_tells_when_auto_chooses_the_slower_precision(speeds, said, tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, AMD, VECTORS, {"avx512_bf16": True})
    rows = [{"setting": name, "bare step": speed} for name, both in speeds.items() for speed in both]
    told = benchmark.verdict(rows, CPU)
    assert said in told and bool(told) == bool(said) and ("WRONG" in told) == ("WRONG" in said)


def test_the_benchmark_tells_when_bfloat16_would_be_faster_than_what_auto_chooses(tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, INTEL, VECTORS, {"avx512_bf16": True})
    rows = [{"setting": "float32", "bare step": 4.0}, {"setting": "bfloat16", "bare step": 6.0}]
    assert "WRONG on this machine: give --amp bf16, 1.50 times as fast" in benchmark.verdict(rows, CPU)
