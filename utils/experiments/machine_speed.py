"""What a machine can do at most: the speed of a large matrix product and of a large copy, and a clock."""

import statistics
import time
from collections.abc import Callable

import torch

COPIED = {"cuda": 2**30, "cpu": 2**27}  # bytes of the copy that gives the bandwidth
MATRIX = {"cuda": 8192, "cpu": 3072}  # rows and columns of the product that gives the peak


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak(device: torch.device, precision: torch.dtype) -> float:
    """GFLOP/s of a large matrix product; of float32 on a GPU as convolutions compute it, which is in TF32."""
    size = MATRIX[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=precision) for _ in range(2))
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    taken = [seconds(lambda: a @ b, device) for _ in range(12)]
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return 2 * size**3 / statistics.median(taken[2:]) / 1e9


def bandwidth(device: torch.device) -> float:
    """GB/s of a large copy, read and written bytes together."""
    source = torch.ones(COPIED[device.type], device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    taken = [seconds(lambda: target.copy_(source), device) for _ in range(12)]
    return 2 * len(source) / statistics.median(taken[2:]) / 1e9
