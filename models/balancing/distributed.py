"""One process or many of torch.distributed: exact sums and means over the processes. With one, or where
torch.distributed is not initialised, every function gives what this process has."""

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Result = TypeVar("Result")


def rank() -> int:
    return dist.get_rank() if size() > 1 else 0


def size() -> int:
    """The number of processes; torch can be built without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def merged(found: dict) -> dict:
    """The dicts of all processes in one, sorted by key, in every process."""
    boxes = [found] * size()
    if size() > 1:
        dist.all_gather_object(boxes, found)
    return dict(sorted((key, value) for box in boxes for key, value in box.items()))


def from_main(value: Result) -> Result:
    """The main process's value, in every process."""
    box = [value]
    if size() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def sum_over_processes(values: Tensor) -> Tensor:
    """The elementwise sum of every process's `values`, in all of them."""
    if size() > 1:
        dist.all_reduce(values)
    return values


def means_over_processes(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The elementwise mean of every process's tensors, in all of them; by one message."""
    if size() == 1:
        return tensors
    mean = sum_over_processes(torch.cat([tensor.flatten() for tensor in tensors])) / size()
    parts = mean.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def average_gradients(module: nn.Module) -> None:
    """The mean over the processes of the gradients of a module that DistributedDataParallel knows nothing of."""
    for parameter in module.parameters() if size() > 1 else ():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:  # not used by this process's clips
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= size()


def broadcast_model(model: nn.Module) -> None:
    """Gives every process the main process's weights and buffers (BatchNorm's statistics differ between them)."""
    if size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)
