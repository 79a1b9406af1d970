"""evaluation.json: what an evaluation without training has measured, of which checkpoint, on what and how."""

import json
from collections.abc import Mapping
from pathlib import Path

from dataset.errors import DiskError
from dataset.whole_files import write_whole
from utils import distributed
from utils.distributed import print_once
from utils.training import report
from utils.training.engine import Compute
from utils.training.precision import choice
from utils.training.trained import Trained

FILE = "evaluation.json"
SETTINGS = ("script", "dataset", "data_root", "modality", "fusion_method", "mmcosine", "scaling", "command")


def write(scores: Mapping[str, object], trained: Trained, output: Path | None, compute: Compute,
          settings: Mapping[str, object]) -> dict:
    """Writes evaluation.json into `output`, or beside the checkpoint -> what it holds.

    scores: the metrics, and what they were measured on. settings: all flags. Raises
    DiskError: `output` cannot be written; a folder of checkpoints that is closed to this user is only noted.
    """
    found = {**scores, "ckpt_path": str(trained.path), "epoch": trained.content.get("epoch"),
             **{name: settings.get(name) for name in SETTINGS}, **report.described(compute.device, compute.precision),
             "precision_reason": choice(str(settings["amp"]), compute.device).reason, "processes": distributed.size(),
             **report.environment()}
    file = (output or trained.path.parent) / FILE
    if not distributed.is_main():
        return found
    try:
        write_whole(file, json.dumps(found, indent=2) + "\n")
    except DiskError as error:
        if output:
            raise
        print_once(f"note: {error}: name another folder with --output")
    else:
        print_once(f"written to {file}")
    return found
