"""`--gpu_ids 0,1` without torchrun: one process per listed GPU."""

import json
from collections.abc import Sequence
from pathlib import Path

from utils import distributed


def needs_processes(train: bool, gpu_ids: Sequence[int]) -> bool:
    """Whether this process is to start others instead of training itself."""
    return train and len(gpu_ids) > 1 and not distributed.is_launched()


def one_process_per_gpu(script: str, argv: Sequence[str], device: str, gpu_ids: Sequence[int], folder: Path,
                        resume: bool) -> dict:
    """Runs `python script argv...` in one process per GPU -> what the result.json in `folder` holds.

    Raises InputError: a GPU is not there. A process that fails ends this one with its exit status.
    """
    for place in range(len(gpu_ids)):
        distributed.choose_device(device, list(gpu_ids), place)  # told once, and here, when one is not there
    distributed.launch(script, [*argv, *([] if resume else ["--run_name", folder.name])], len(gpu_ids))
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))
