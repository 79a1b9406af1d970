"""A trained model without its data: from a run's folder, or from what scripts/export.py wrote.

    from utils.experiments.saved_model import load

    saved = load(Path("runs/NAME"))              # or the folder of an export
    saved.model.eval()                           # MultimodalClassifier: inputs of each modality -> ClassifierOutput
    dataset = saved.script.make_dataset(saved.args, clips, saved.classes, train=False)
    inputs, labels = saved.compute.prepare(batch)                # a batch of the dataset -> network inputs
    logits = saved.model(*inputs).logits                         # (B, C); modality_logits (M, B, C) add up to them
"""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from dataset.errors import InputError
from dataset.whole_files import write_whole
from models import MultimodalClassifier
from utils import distributed
from utils.experiments import entry_script
from utils.training import checkpoint, options, train
from utils.training.engine import Compute
from utils.training.trained import CONFIG, FORMAT, WEIGHTS, open_trained


class SavedModel(NamedTuple):
    """script: the entry script that trained it, as a module. args: the flags it was trained with. facts: about its data
    and machine. The model is on the device, in evaluation mode."""

    script: ModuleType
    args: Namespace
    facts: Mapping[str, object]
    classes: list[str]
    model: MultimodalClassifier
    compute: Compute

    @property
    def verifies(self) -> bool:
        """Whether it compares two videos, as models of main_Vox.py do, instead of naming the class of one."""
        return "trials" in self.args


def load(folder: Path, device: str = "auto", amp: str | None = None) -> SavedModel:
    """The model of a run or of an export. amp: its precision; None: as it was trained where the device can.

    Raises InputError: neither a run nor an export, a missing or damaged file.
    """
    trained = open_trained(folder, ["args", "facts", "model"])
    settings, facts = trained.settings, trained.facts
    name = str(settings.get("script"))
    script = entry_script.of_run(folder, name, ["get_args_parser"])
    if not hasattr(script, "make_network"):
        raise InputError(f"{folder} was made by {name}, which cannot make its network without its data: only models "
                         "of scripts that can, such as main_CD.py, can be asked about videos")
    parser = script.get_args_parser()
    args = options.over(parser, parser.defaults(), settings, {"amp": amp} if amp else {}, trained.path)
    args.script, args.command = name, settings.get("command")
    chosen = distributed.choose_device(device, [], 0)
    model, compute = script.make_network(args, len(facts["classes"]), chosen)
    checkpoint.load_model(model, trained.content, trained.path)
    return SavedModel(script, args, facts, list(facts["classes"]), train.place(model, compute, False).eval(), compute)


def write_export(folder: Path, content: Mapping, result: Mapping[str, object]) -> None:
    """Writes weights and configuration of a checkpoint. result: of result.json."""
    from safetensors.torch import save

    weights = {name: value.contiguous() for name, value in content["model"].items()}
    # not by its save_file, whose files only their owner can read
    write_whole(folder / WEIGHTS, lambda path: path.write_bytes(save(weights, {"format": "pt"})))
    config = {"format": FORMAT, "args": content["args"], "facts": content["facts"], "result": dict(result),
              "torch_version": torch.__version__}
    write_whole(folder / CONFIG, json.dumps(config, indent=2) + "\n")
