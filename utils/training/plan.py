"""What `train` is told beside its task: where encoders come from, how to optimise, which method, where to write. Fields
that are flags have the flags' names."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from utils.training.modalities import Start
from utils.training.trained import Trained


class Encoders(NamedTuple):
    """starts: {modality: what its encoder starts from}; others start from scratch. teachers: {modality: checkpoint of
    its teacher}, for a method that needs them. frozen: whether the encoders stay as they start."""

    starts: Mapping[str, Start]
    teachers: Mapping[str, Start]
    frozen: bool


class Optimisation(NamedTuple):
    """learning_rate is multiplied by lr_decay_ratio every lr_decay_step epochs. lam: weight of the contrastive loss.
    accumulate: parts that a batch is computed in. compile: whether the network is compiled."""

    optimizer: str
    learning_rate: float
    weight_decay: float
    lr_decay_step: int
    lr_decay_ratio: float
    epochs: int
    random_seed: int
    lam: float
    accumulate: int
    compile: bool


class Balancing(NamedTuple):
    """modulation: a name in `METHODS`. settings: {flag: value} of those that the method uses."""

    modulation: str
    settings: Mapping[str, object]


class Output(NamedTuple):
    """folder: of the run. resumed: its last.pt, if the run in it goes on. events_folder: for TensorBoard, None: no
    events. settings: every flag, kept with the run."""

    folder: Path
    resumed: Trained | None
    events_folder: Path | None
    settings: Mapping[str, object]


class Plan(NamedTuple):
    encoders: Encoders
    optimisation: Optimisation
    balancing: Balancing
    output: Output
