"""Confusions against loops in Python, and what is written of them."""

import csv

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from models import ClassifierOutput
from utils.training import confusion
from utils.training.engine import Compute
from utils.training.loading import EvaluationBatches, make_loader

CLASSES = ["Goose, Snow", "Wood Duck", "Sora", "Never seen"]
CPU = torch.device("cpu")


class Scored(Dataset):
    """Clips that carry their modality logits (M, C) with them."""

    def __init__(self, logits: torch.Tensor, labels: list[int]):
        self.logits, self.labels = logits, labels

    def __getitem__(self, index: int) -> dict:
        return {"logits": self.logits[index], "label": self.labels[index]}


class PassOn(nn.Module):
    """A network that returns those logits."""

    def __init__(self, *modalities: str):
        super().__init__()
        self.modalities = modalities

    def forward(self, logits: torch.Tensor) -> ClassifierOutput:  # (B, M, C)
        modality_logits = logits.transpose(0, 1)
        return ClassifierOutput(modality_logits.sum(0), modality_logits, modality_logits, modality_logits)


def made(modalities: int, clips: int = 23) -> tuple[torch.Tensor, list[int]]:
    torch.manual_seed(modalities)
    return torch.randn(clips, modalities, len(CLASSES)), torch.randint(len(CLASSES) - 1, (clips,)).tolist()


def setting(logits: torch.Tensor, labels: list[int], *modalities: str) -> tuple:
    loader = make_loader(Scored(logits, labels), EvaluationBatches(len(labels), 5), 0, 0, CPU)
    return PassOn(*modalities), loader, Compute(CPU, torch.float32, {"logits": nn.Identity()})


@pytest.mark.parametrize("modalities", [("audio",), ("audio", "visual"), ("rgb", "flow", "difference")])
def test_counts_are_those_of_a_loop(modalities):
    logits, labels = made(len(modalities))
    counts = confusion.count_confusions(*setting(logits, labels, *modalities), len(CLASSES))
    assert list(counts) == (["joint", *modalities] if len(modalities) > 1 else ["audio"])
    for name, matrix in counts.items():
        expected = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64)
        for scores, label in zip(logits, labels, strict=True):
            chosen = scores.sum(0) if name == "joint" else scores[modalities.index(name)]
            expected[label, int(chosen.argmax())] += 1
        assert torch.equal(matrix, expected)


def test_rows_say_accuracy_and_what_a_class_is_taken_for():
    counts = {"joint": torch.tensor([[2, 3, 1], [0, 4, 0], [0, 0, 0]]), "audio": torch.tensor([[6, 0, 0], [4, 0, 0],
                                                                                              [0, 0, 0]])}
    assert confusion.class_rows(counts, CLASSES[:3]) == [
        {"class": "Goose, Snow", "clips": 6, "accuracy_joint": 2 / 6, "accuracy_audio": 1.0,
         "mistaken_for": "Wood Duck", "mistaken": 3},
        {"class": "Wood Duck", "clips": 4, "accuracy_joint": 1.0, "accuracy_audio": 0.0, "mistaken_for": "",
         "mistaken": 0},
        {"class": "Sora", "clips": 0, "accuracy_joint": None, "accuracy_audio": None, "mistaken_for": "",
         "mistaken": 0}]


def test_pairs_are_counted_both_ways_the_most_confused_first():
    pairs = confusion.confused_pairs(torch.tensor([[5, 1, 0], [2, 5, 4], [0, 0, 9]]), CLASSES[:3])
    assert [(p["class_a"], p["class_b"], p["confused"], p["a_taken_for_b"], p["b_taken_for_a"], p["clips"])
            for p in pairs] == [("Wood Duck", "Sora", 4, 4, 0, 20), ("Goose, Snow", "Wood Duck", 3, 1, 2, 17),
                                ("Goose, Snow", "Sora", 0, 0, 0, 15)]


@pytest.mark.parametrize("perfect", [False, True])
def test_report_writes_tables_and_a_picture(tmp_path, perfect):
    logits, labels = made(2)
    if perfect:
        logits = torch.eye(len(CLASSES))[labels].unsqueeze(1).expand(-1, 2, -1)
    told = confusion.report(*setting(logits, labels, "audio", "visual"), CLASSES, tmp_path)
    assert told.startswith("most confused: none." if perfect else "most confused: ")
    assert str(tmp_path / "confusions.png") in told
    with open(tmp_path / "per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == CLASSES
    assert sum(int(row["clips"]) for row in rows) == len(labels)
    assert (tmp_path / "confusions.png").read_bytes().startswith(b"\x89PNG")
