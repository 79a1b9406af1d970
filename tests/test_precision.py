"""`--amp`: which precision on which machine."""

import pytest
import torch

from utils.training import flags
from utils.training.precision import PRECISIONS, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("amp, dtype", [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_named_precision_is_taken_whatever_the_device_can_do(monkeypatch, device, amp, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert choose_precision(amp, device) is dtype


@pytest.mark.parametrize("capabilities, dtype", [
    ({}, torch.float32), ({"avx2": True, "avx512_f": True}, torch.float32),
    ({"avx512_bf16": False, "amx_bf16": False}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16),
    ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16)])
def test_auto_takes_bfloat16_on_a_cpu_that_computes_it_natively_alone(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_precision("auto", CPU) is dtype


@pytest.mark.parametrize("native", [True, False])
def test_auto_takes_bfloat16_on_a_gpu_that_computes_it_without_emulation_alone(monkeypatch, native):
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not native})
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
