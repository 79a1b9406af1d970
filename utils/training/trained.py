"""The one way to open what was trained: a run's folder, one of its checkpoints, an export, or a file of weights.

Evaluation, resuming, probes, pictures, predictions and pretrained encoders open it here, once a command.
"""

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from dataset.errors import InputError, first_few
from dataset.files import check_is_media
from dataset.whole_files import read_json
from utils.training import checkpoint

BEST = "best.pt"
WEIGHTS, CONFIG, FORMAT = "model.safetensors", "config.json", 1  # of an export


class Trained(NamedTuple):
    """path: the file that holds the weights. content: as of a run's checkpoint; of a file that no run has written, such
    as a release's, it may be the weights alone."""

    path: Path
    content: dict[str, object]

    @property
    def settings(self) -> dict[str, object]:
        """The flags of the run; {} where they are not known."""
        return self.content.get("args", {})

    @property
    def facts(self) -> dict[str, object]:
        return self.content.get("facts", {})

    def num_classes(self) -> int:
        """C of the classifier: the rows of fc_out, or of fc_x under sum. Raises InputError: it has none."""
        state = checkpoint.state_dict_of(self.content, self.path)
        for name in ("fusion_module.fc_out.weight", "fusion_module.fc_x.weight"):
            if name in state:
                return len(state[name])
        raise InputError(f"{self.path} holds no classifier (fusion_module.fc_out or fc_x): an encoder alone cannot be "
                         "evaluated")

    def identities(self) -> set[str]:
        """The names and folders of the identities that a speaker model was trained on, or that chose its epoch."""
        return {*self.content.get("clips", {}).get("train", ()), *self.facts.get("classes", ())}


def open_trained(path: Path, needed: Collection[str] = ()) -> Trained:
    """path: a run's folder (its best epoch), a checkpoint, an export's folder or a file of weights. needed: parts of a
    run's checkpoint that it must have.

    Raises InputError: nothing that was trained, damaged, or of another program.
    """
    if path.is_dir() and (path / CONFIG).is_file():
        return Trained(path / WEIGHTS, checkpoint.checked(read_export(path), path / WEIGHTS, needed))
    if path.is_dir():
        check_has_best(path)
        path = path / BEST
    return Trained(path, checkpoint.load_own(path, needed))


def check_has_best(folder: Path) -> None:
    """Raises InputError: the folder is none of a run that has a best epoch."""
    if (folder / BEST).is_file():
        return
    if (folder / "last.pt").is_file():
        raise InputError(f"the run in {folder} has no {BEST}, it was stopped in its first epoch: continue it with "
                         f"--resume {shlex.quote(str(folder))}")
    runs = sorted(str(file.parent) for file in folder.glob(f"*/{BEST}"))
    which = f"one of the runs in it: {first_few(runs)}" if runs else ("the folder that training printed, a checkpoint, "
                                                                      "or a folder of scripts/export.py")
    raise InputError(f"{folder} is neither a run (it has no {BEST}) nor an export (no {CONFIG}): name {which}")


def read_export(folder: Path) -> dict[str, object]:
    """As a checkpoint. Raises InputError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_json(folder / CONFIG, "export the run again")
    if config.get("format") != FORMAT:
        raise InputError(f"{folder / CONFIG} is not of scripts/export.py, or of another version of it: export again")
    check_is_media(folder / WEIGHTS)
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS} is damaged ({error}): export the run again") from None
    return {"args": config.get("args"), "facts": config.get("facts"), "model": weights}
