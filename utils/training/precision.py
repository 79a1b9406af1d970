"""`--amp`: in which precision the encoders run. The head and every statistic stay in float32."""

from pathlib import Path
from typing import NamedTuple

import torch

from utils import distributed

PRECISIONS = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPUINFO = Path("/proc/cpuinfo")


class Choice(NamedTuple):
    """precision: of the encoders. reason: why, for result.json."""

    precision: torch.dtype
    reason: str


def choose_precision(amp: str, device: torch.device) -> torch.dtype:
    """`off`, `bf16`, `fp16`, or `auto`: bfloat16 where it is faster than float32 for the main process, in every process
    of a run, which may be on several machines. Every process must call it."""
    precision = choice(amp, device).precision
    return distributed.from_main(precision) if amp == "auto" else precision


def choice(amp: str, device: torch.device) -> Choice:
    """The precision that a value of --amp stands for on this device."""
    if amp != "auto":
        return Choice(PRECISIONS[amp], f"--amp {amp}")
    faster, why = of_cuda(device) if device.type == "cuda" else of_cpu()
    return Choice(torch.bfloat16 if faster else torch.float32, f"--amp auto: {why}")


def of_cuda(device: torch.device) -> tuple[bool, str]:
    """(whether bfloat16 is faster than float32, why)"""
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return True, "the GPU computes bfloat16"
    return False, "the GPU would emulate bfloat16"


def of_cpu() -> tuple[bool, str]:
    """(whether bfloat16 is faster than float32, why).

    Intel's avx512_bf16 without AMX is slower: on a Xeon a matrix product ran at 160 GFLOP/s, in
    float32 at 297. AMX counts where the kernel allows its use as well: /proc/cpuinfo then lists it.
    """
    capabilities, cpuinfo = torch.cpu.get_capabilities(), read_cpuinfo()
    flags = cpuinfo.get("flags", "amx_bf16").split()  # not listed on other systems than Linux
    if capabilities.get("amx_bf16") and "amx_bf16" in flags:
        return True, "the CPU has AMX (amx_bf16)"
    if not capabilities.get("avx512_bf16"):
        return False, "the CPU does not compute bfloat16"
    if cpuinfo.get("vendor_id") == "AuthenticAMD":
        return True, "the CPU is AMD's and has avx512_bf16"
    return False, "the CPU has avx512_bf16 without AMX and is not AMD's, so float32 is faster"


def read_cpuinfo() -> dict[str, str]:
    """What /proc/cpuinfo says of the first processor; {} where there is no such file."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = text.split("\n\n")[0].splitlines()
    pairs = [line.partition(":") for line in lines]
    return {name.strip(): value.strip() for name, _, value in pairs}


def dtype_named(name: object) -> torch.dtype | None:
    """The precision that a run's facts call `bfloat16`; None for another text."""
    return next((dtype for dtype in PRECISIONS.values() if str(dtype) == f"torch.{name}"), None)
