"""`--amp`: in which precision the encoders run. The head and every statistic stay in float32."""

import torch

PRECISIONS = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(amp: str, device: torch.device) -> torch.dtype:
    """`off`, `bf16`, `fp16`, or `auto`: bfloat16 where the device computes it natively, float32 elsewhere."""
    if amp == "auto":
        amp = "bf16" if has_native_bfloat16(device) else "off"
    return PRECISIONS[amp]


def has_native_bfloat16(device: torch.device) -> bool:
    """CUDA from Ampere on; CPUs with AVX512-BF16 or AMX (emulation elsewhere is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
