"""predictions.npz: the logits of every clip under its own name, whatever the batches and processes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from dataset.errors import InputError
from models import MultimodalClassifier
from utils.training import predictions
from utils.training.classification import Classification, Splits
from utils.training.engine import Compute
from utils.training.loading import EvaluationBatches, Loaders, make_loader

CPU, CLASSES = torch.device("cpu"), ["cat", "dog", "emu"]


class Named(NamedTuple):
    name: str
    label: str


class Vectors(Dataset):
    """Clips of two random vectors; in training they are noisy."""

    def __init__(self, seed: int, count: int, train: bool = False):
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(2, count, 4, generator=generator)
        self.labels = torch.randint(3, (count,), generator=generator).tolist()
        self.clips = [Named(f"clip{seed}-{i} é", CLASSES[label]) for i, label in enumerate(self.labels)]
        self.seed, self.train = seed, train

    def __len__(self) -> int:
        return len(self.labels)

    def for_evaluation(self) -> "Vectors":
        return Vectors(self.seed, len(self))

    def __getitem__(self, i: int) -> dict:
        audio, visual = self.inputs[:, i] + 9 * self.train
        return {"audio": audio, "visual": visual, "label": self.labels[i]}


def make_task(val: bool, batch_size: int = 4) -> Classification:
    torch.manual_seed(0)
    encoders = {"audio": nn.Linear(4, 8), "visual": nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))}
    model = MultimodalClassifier(encoders, 3, dim=8)
    data = Splits(CLASSES, Vectors(0, 13, train=True), Vectors(1, 7) if val else None, Vectors(2, 11))
    compute = Compute(CPU, torch.float32, {"audio": nn.Identity(), "visual": nn.Identity()})
    return Classification(data, model, compute, Loaders(batch_size, 0, 0, CPU))


def logits_of(model: nn.Module, data: Vectors) -> np.ndarray:
    """(M, N, C), a clip at a time, by the layers themselves."""
    model.eval()
    weight, bias = model.fusion_module.fc_out.weight, model.fusion_module.fc_out.bias
    rows = [[model.encoder(name)(x[None])[0] @ weight[:, 8 * m:8 * m + 8].T + bias / 2
             for m, (name, x) in enumerate(zip(("audio", "visual"), pair, strict=True))]
            for pair in data.inputs.unbind(1)]
    return np.array([[row[m].detach().numpy() for row in rows] for m in range(2)])


@pytest.mark.parametrize("val", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_the_file_holds_the_logits_of_each_clip_under_its_name(tmp_path, val, batch_size):
    task = make_task(val, batch_size)
    task.write_predictions(tmp_path)
    found = predictions.read(tmp_path)
    assert found["modalities"].tolist() == ["audio", "visual"] and found["classes"].tolist() == CLASSES
    assert [name for name in found if name.startswith("val")] == ["val_names", "val_labels", "val_logits"] * val
    for split, data in {"test": task.data.test, **({"val": task.data.val} if val else {})}.items():
        assert found[f"{split}_names"].tolist() == [clip.name for clip in data.clips]
        assert [CLASSES[label] for label in found[f"{split}_labels"]] == [clip.label for clip in data.clips]
        np.testing.assert_allclose(found[f"{split}_logits"], logits_of(task.model, data), atol=1e-5)
    trained = logits_of(task.model, task.data.train.for_evaluation())  # seen without the noise of training
    np.testing.assert_allclose(found["train_mean_logits"], trained.mean(1), atol=1e-5)


def test_the_parts_of_several_processes_add_up_to_all_clips(monkeypatch):
    task, parts = make_task(False), []
    monkeypatch.setattr("utils.distributed.sum_over_processes", lambda rows: parts.append(rows.clone()) or rows)
    for rank in range(3):
        loader = make_loader(task.data.test, EvaluationBatches(11, 2, rank, 3), 0, 0, CPU)
        predictions.predict(task.model, loader, task.compute)
    np.testing.assert_allclose(sum(parts).numpy(), logits_of(task.model, task.data.test), atol=1e-5)


@pytest.mark.parametrize("damage", ["missing", "text", "truncated", "other arrays", "other shapes"])
def test_a_file_that_is_missing_or_damaged_is_named(tmp_path, damage):
    make_task(False).write_predictions(tmp_path)
    path = tmp_path / predictions.FILE
    arrays = predictions.read(tmp_path)
    if damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("names")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    else:
        changed = {"test_names": arrays["test_names"]} if damage == "other arrays" else {
            **arrays, "test_logits": arrays["test_logits"][:1]}
        np.savez(path, **changed)
    with pytest.raises(InputError, match=str(path)):
        predictions.read(Path(tmp_path))
