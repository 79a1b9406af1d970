"""Accuracy of every class, and pairs of classes that the network confuses. C classes."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataset.whole_files import write_csv
from models import MultimodalClassifier
from utils import distributed
from utils.training.engine import Compute, outputs
from utils.training.plots import plot_classes


@torch.inference_mode()
def count_confusions(model: MultimodalClassifier, loader: DataLoader, compute: Compute,
                     classes: int) -> dict[str, Tensor]:
    """{"joint" and each modality: confusion matrix (C, C) int64, rows: true class, columns: predicted class}.

    One modality alone has no joint. The same in every process: over all clips of `loader`.
    """
    names = ["joint", *model.modalities] if len(model.modalities) > 1 else list(model.modalities)
    total = torch.zeros(len(names), classes, classes, dtype=torch.int64, device=compute.device)
    for output, labels in outputs(model, loader, compute):
        logits = torch.cat([output.logits[None].float(), output.modality_logits.float()])[-len(names):]
        total += confusion_matrices(logits, labels)
    return dict(zip(names, distributed.sum_over_processes(total).cpu(), strict=True))


def confusion_matrices(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (N, B, C) of N classifiers, labels (B,) -> (N, C, C) int64, rows: true class, columns: predicted class."""
    number, _, classes = logits.shape
    cells = labels * classes + logits.argmax(-1)  # (N, B)
    counts = torch.zeros(number, classes * classes, dtype=torch.int64, device=logits.device)
    return counts.scatter_add_(1, cells, torch.ones_like(cells)).view(number, classes, classes)


def report(model: MultimodalClassifier, loader: DataLoader, compute: Compute, classes: Sequence[str],
           folder: Path) -> str:
    """Writes per_class.csv, confusions.csv and confusions.png into `folder` -> a line on the most confused pairs."""
    counts = count_confusions(model, loader, compute, len(classes))
    by_class, pairs = class_rows(counts, classes), confused_pairs(next(iter(counts.values())), classes)
    if distributed.is_main():
        write_csv(folder / "per_class.csv", by_class)
        write_csv(folder / "confusions.csv", pairs)
        plot_classes(by_class, pairs, folder / "confusions.png")
    worst = "; ".join(f"{pair['class_a']} and {pair['class_b']} ({pair['confused']} of {pair['clips']} clips)"
                      for pair in pairs[:3] if pair["confused"])
    return f"most confused: {worst or 'none'}. More: {folder / 'confusions.png'}, confusions.csv, per_class.csv"


def class_rows(counts: Mapping[str, Tensor], classes: Sequence[str]) -> list[dict[str, object]]:
    """One row per class: its number of clips, their accuracy, the class that its clips are most often mistaken for."""
    first = next(iter(counts.values()))
    rows = []
    for index, name in enumerate(classes):
        clips = int(first[index].sum())
        wrong = first[index].clone()
        wrong[index] = 0
        accuracies = {f"accuracy_{what}": int(matrix[index, index]) / clips if clips else None
                      for what, matrix in counts.items()}
        mistaken = {"mistaken_for": classes[int(wrong.argmax())], "mistaken": int(wrong.max())} if wrong.any() else {
            "mistaken_for": "", "mistaken": 0}
        rows.append({"class": name, "clips": clips, **accuracies, **mistaken})
    return rows


def confused_pairs(counts: Tensor, classes: Sequence[str]) -> list[dict[str, object]]:
    """One row per pair of classes, the most confused first: how often either was taken for the other, and the clips of
    both."""
    pairs = []
    for a, b in combinations(range(len(classes)), 2):
        a_for_b, b_for_a = int(counts[a, b]), int(counts[b, a])
        pairs.append({"class_a": classes[a], "class_b": classes[b], "confused": a_for_b + b_for_a,
                      "a_taken_for_b": a_for_b, "b_taken_for_a": b_for_a, "clips": int(counts[[a, b]].sum())})
    return sorted(pairs, key=lambda pair: -pair["confused"])
