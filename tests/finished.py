"""Finished runs for the tests of scripts/: two real runs, whose copies get figures, class weights and
lengths that differ everywhere, so that nothing can stand in the place of something else.

C classes, D features, N clips, M modalities.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from harness import Borders, watched
from marked_cremad import CLASSES, TEST, heard_clips, make_marked_data, seen_clips
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tiny_encoders import TinyAVClassifier

import main_CD

MACHINE = ["--device", "cpu", "--num_workers", "0"]
SMALL = ["--image_size", "64", "--audio_seconds", "0.6", "--batch_size", "3", "--amp", "off", *MACHINE]
MODALITIES = ("audio", "visual")
LABELS = np.array([number % 3 for number in TEST])
EPOCHS, BEST = 5, 3  # of the copies
SCALE = 7.0


class Run(NamedTuple):
    """A real run, and its copy with invented figures. flags: what its network is built with."""

    real: Path
    folder: Path
    borders: Borders
    network: tuple[str, bool, float]
    split: str

    @property
    def result(self) -> dict:
        return json.loads((self.folder / "result.json").read_text())

    def figures(self, name: str) -> np.ndarray:
        """(epochs,) of metrics.jsonl."""
        return np.array([json.loads(line)[name] for line in (self.folder / "metrics.jsonl").read_text().splitlines()])

    def weights(self, name: str = "best.pt") -> dict[str, torch.Tensor]:
        return torch.load(self.folder / name, weights_only=True)["model"]

    def outputs(self, inputs: Sequence[torch.Tensor], name: str = "best.pt") -> dict[str, np.ndarray]:
        """What the weights of a checkpoint make of N clips: features, fused (M, N, D), modality_logits (M, N, C) ..."""
        return outputs(self.weights(name), self.network, inputs)


def outputs(weights: Mapping[str, torch.Tensor], network: tuple,
            inputs: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
    with torch.device("meta"):  # its own initialisation would take longer than all the rest
        model = TinyAVClassifier(len(CLASSES), *network).eval()
    model.load_state_dict(weights, assign=True)
    with torch.inference_mode():
        return {name: value.double().numpy() for name, value in model(*inputs)._asdict().items()}


def copy_of(folder: Path, target: Path) -> Path:
    """A run to be written into; weights are links, to be replaced as the scripts do."""
    return Path(shutil.copytree(folder, target, copy_function=lambda source, place: (
        os.link if source.endswith(".pt") else shutil.copy)(source, place)))


def save(path: Path, content: Mapping[str, object]) -> None:
    path.unlink()
    torch.save(content, path)


def rewrite(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def invented(rng: np.random.Generator, names: Sequence[str]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, rng.uniform(0.1, 0.9, len(names)), strict=True)}


def train(data: Path, root: Path, name: str, *flags: str) -> Borders:
    with watched() as borders:
        main_CD.main(["--train", "--dataset", "marked", "--data_root", str(data), "--epochs", "2", "--learning_rate",
                      "0.003", "--ckpt_path", str(root), "--run_name", name, *SMALL, *flags])
    return borders


def vary(real: Path, folder: Path, split: str, seed: int) -> None:
    """A copy of a run as if it had had EPOCHS epochs, BEST the best: figures that differ everywhere."""
    copy_of(real, folder)
    rng = np.random.default_rng(seed)
    template = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    measured = [name for name in template if name.startswith(("train_", f"{split}_"))]
    records = [{**template, **invented(rng, measured), "epoch": epoch} for epoch in range(1, EPOCHS + 1)]
    records[BEST - 1][f"{split}_accuracy"] = 0.95
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    np.save(folder / "class_norms.npy", rng.uniform(0.5, 1.5, (EPOCHS, 2, len(CLASSES))).astype(np.float32))
    result = json.loads((folder / "result.json").read_text())
    assert {"accuracy", "accuracy_audio", "accuracy_visual", f"last_{split}_accuracy"} <= result.keys()
    own = ["accuracy", "accuracy_audio", "accuracy_visual"]
    scores = {name: records[BEST - 1][f"test_{name}"] for name in own} if split == "test" else invented(rng, own)
    last = {f"last_{split}_{name}": records[-1][f"{split}_{name}"] for name in own}
    rewrite(folder / "result.json", {**result, **scores, **last, "epochs": EPOCHS, "best_epoch": BEST})
    rewrite(folder / "args.json", {**json.loads((folder / "args.json").read_text()), "epochs": EPOCHS})
    content = torch.load(folder / "best.pt", weights_only=True)
    for weight in content["model"].values():  # whichever epoch was the best, these are no other epoch's weights
        if weight.is_floating_point():
            weight *= torch.from_numpy(rng.uniform(0.8, 1.25, weight.shape[:1] or 1)).float().view(
                -1, *[1] * (weight.dim() - 1))
    save(folder / "best.pt", {**content, "epoch": BEST})


def take_apart(folder: Path, inputs: Sequence[torch.Tensor]) -> None:
    """Gives best.pt class weights by which joint, audio and visual logits take the test clips for different classes,
    the joint ones never symmetrically."""
    content = torch.load(folder / "best.pt", weights_only=True)
    name = "fusion_module.fc_out.weight"
    for seed in range(1000):
        random = torch.Generator().manual_seed(seed)
        content["model"][name] = torch.randn(content["model"][name].shape, generator=random)
        made = outputs(content["model"], (), inputs)
        taken = [tuple(logits.argmax(1)) for logits in (made["logits"], *made["modality_logits"])]
        table = np.zeros((3, 3), int)
        np.add.at(table, (LABELS, taken[0]), 1)
        if len({*taken}) == 3 and (table != table.T).any() and (table.sum(0) != 2).any():
            return save(folder / "best.pt", content)
    raise AssertionError("no class weights take joint, audio and visual logits apart")


def make_runs(root: Path) -> dict[str, Run]:
    """"plain": concat, chosen on the test clips. "cosine": gated, two frames, chosen on validation clips."""
    data = make_marked_data(root / "data")
    found = {}
    cosine = ["--fusion_method", "gated", "--mmcosine", "--scaling", f"{SCALE}", "--val_fraction", "0.25",
              "--num_frames", "2"]
    for seed, (name, split, network, flags) in enumerate([("plain", "test", ("concat", False, 10.0), []),
                                                          ("cosine", "val", ("gated", True, SCALE), cosine)]):
        borders = train(data, root / "real", name, *flags)
        vary(root / "real" / name, root / "varied" / name, split, seed)
        found[name] = Run(root / "real" / name, root / "varied" / name, borders, network, split)
    last = found["plain"].borders.evaluation[-2:]
    take_apart(found["plain"].folder, [torch.cat([one.inputs[name] for one in last]) for name in MODALITIES])
    return found


# ---- what they are compared with


@contextmanager
def pictures() -> Iterator[dict[str, Figure]]:
    """{picture's name: figure} of everything that is printed as a PNG."""
    found: dict[str, Figure] = {}
    original = FigureCanvasAgg.print_png

    def print_png(self: FigureCanvasAgg, path: object, **how: object) -> None:
        found[Path(path).stem.rpartition(".")[2]] = self.figure
        original(self, path, **how)

    with patch.object(FigureCanvasAgg, "print_png", print_png):
        yield found


def true_logits(run: Run) -> dict[str, np.ndarray]:
    """{modality: (iterations,)} the mean logit of the true class in the run's training passes."""
    means = {name: [] for name in MODALITIES}
    for one in run.borders.training:
        labels = [number % 3 for number in seen_clips_of(one.inputs)]
        for name, logits in zip(MODALITIES, one.output.modality_logits, strict=True):
            means[name].append(np.mean([logits[place, label].item() for place, label in enumerate(labels)]))
    return {name: np.array(values) for name, values in means.items()}


def seen_clips_of(inputs: Mapping[str, torch.Tensor]) -> list[int]:
    """Numbers of the clips, which eye and ear agree on."""
    assert seen_clips(inputs["visual"]) == heard_clips(inputs["audio"])
    return seen_clips(inputs["visual"])


def passes_by_run(borders: Borders) -> dict[str, list]:
    """Of both runs, told apart by their number of frames."""
    found = {"plain": [], "cosine": []}
    for one in borders.log:
        found["cosine" if one.inputs["visual"].shape[2] == 2 else "plain"].append(one)
    return found


def whole(passes: Sequence) -> list[torch.Tensor]:
    return [torch.cat([one.inputs[name] for one in passes]) for name in MODALITIES]


def percent(values: Sequence[float]) -> str:
    values = 100 * np.array(values)
    return f"{values.mean():.2f}" + (f" +- {values.std(ddof=1):.2f}" if len(values) > 1 else "")
