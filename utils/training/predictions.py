"""predictions.npz of a run: the modality logits of its test and validation clips, by the best epoch's weights.

    modalities (M,), classes (C,)                       names
    test_names (N,), test_labels (N,), test_logits (M, N, C)    and the same of `val`, where there is a validation set
    train_mean_logits (M, C)                            mean over the training clips, seen without augmentation

Joint logits are the sum over M. Accuracy, calibration, tests between runs and every rule of combining modalities follow
from these without the network. A constant of each class can move from one modality to another without changing the
sum; minus `train_mean_logits` the modalities are comparable.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch.utils.data import DataLoader

from dataset.errors import InputError
from dataset.whole_files import write_whole
from models import MultimodalClassifier
from utils import distributed
from utils.training.engine import Compute, outputs

FILE = "predictions.npz"


class Predictions(NamedTuple):
    """Of N clips: names (N,), labels (N,) class indices, logits (M, N, C) float32."""

    names: np.ndarray
    labels: np.ndarray
    logits: np.ndarray


@torch.inference_mode()
def predict(model: MultimodalClassifier, loader: DataLoader, compute: Compute) -> np.ndarray:
    """(M, N, C): the modality logits of every clip of an evaluation's loader, in every process."""
    modalities, classes, _ = model.class_weights().shape
    rows = torch.zeros(modalities, len(loader.dataset), classes, device=compute.device)
    places = [[index for _, index in keys] for keys in loader.batch_sampler]
    for where, (output, _) in zip(places, outputs(model, loader, compute), strict=True):
        rows[:, torch.tensor(where, device=rows.device)] = output.modality_logits.float()
    return distributed.sum_over_processes(rows).cpu().numpy()


def write(folder: Path, modalities: Sequence[str], classes: Sequence[str], parts: Mapping[str, Predictions],
          train_mean: np.ndarray) -> None:
    """parts: {split: its predictions}. train_mean: (M, C)."""
    arrays = {"modalities": np.array(modalities, str), "classes": np.array(classes, str),
              "train_mean_logits": train_mean.astype(np.float32)}
    for split, part in parts.items():
        arrays.update({f"{split}_{name}": values for name, values in part._asdict().items()})
    if distributed.is_main():
        write_whole(folder / FILE, lambda temporary: np.savez_compressed(temporary, **arrays))


def read(folder: Path) -> dict[str, np.ndarray]:
    """The arrays by name. Raises InputError: missing or damaged."""
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{path} is missing: only runs that classify write it, at their end. Train the run again, or "
                         "continue it with --resume")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        shape = (len(arrays["modalities"]), len(arrays["test_labels"]), len(arrays["classes"]))
        whole = arrays["test_logits"].shape == shape and len(arrays["test_names"]) == shape[1]
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        whole = False
    if not whole:
        raise InputError(f"{path} is damaged, or was written by another program: train the run again")
    return arrays
