"""What a trained model says of videos, and which modality says so. M modalities, B clips, C classes."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset.clips import ClipFiles
from dataset.frontends import AUDIO_FRONTENDS
from dataset.preparation.for_prediction import clip_files, motion_files
from dataset.streams import MotionFiles
from utils.experiments.saved_model import SavedModel
from utils.training.loading import EvaluationBatches, check_batch, make_loader

JOINT = "joint"
SAMPLE_RATE = 16000  # Hz, of the sound that main_CD.py's data sets are prepared with


class Clip(NamedTuple):
    """A part of a video, from `start` to `end` seconds (None: its end)."""

    video: Path
    start: float = 0.0
    end: float | None = None


class Prediction(NamedTuple):
    """logits: {"joint" and each modality: (C,)}; those of the modalities add up to the joint ones. inputs: {modality:
    what its encoder got}, item: what the data set gave: for pictures."""

    clip: Clip
    classes: Sequence[str]
    logits: Mapping[str, np.ndarray]
    inputs: Mapping[str, np.ndarray]
    item: Mapping[str, np.ndarray]

    def probabilities(self, of: str) -> np.ndarray:
        """(C,): of the joint logits, or of what a modality says alone."""
        shifted = np.exp(self.logits[of] - self.logits[of].max())
        return shifted / shifted.sum()

    def top(self, of: str, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities."""
        probabilities, order = self.probabilities(of), np.argsort(-self.logits[of], kind="stable")
        return [(self.classes[index], float(probabilities[index])) for index in order[:count]]

    def contributions(self) -> dict[str, float]:
        """{modality: its logit of the class that wins}: they add up to the winning logit."""
        winner = int(self.logits[JOINT].argmax())
        return {name: float(logits[winner]) for name, logits in self.logits.items() if name != JOINT}

    def leads(self) -> dict[str, float]:
        """{"joint" and each modality: how far its logit of the class that wins is above that of the class that comes
        second}: those of the modalities add up to the joint one. {} where there is one class."""
        if len(self.classes) < 2:
            return {}
        first, second = np.argsort(-self.logits[JOINT], kind="stable")[:2]
        return {name: float(logits[first] - logits[second]) for name, logits in self.logits.items()}

    def without_inputs(self) -> "Prediction":
        """For tables: what the encoders got takes megabytes a clip."""
        return self._replace(inputs={}, item={})

    def row(self) -> dict[str, object]:
        """For a csv or JSON file."""
        row: dict[str, object] = {"video": str(self.clip.video), "start": self.clip.start, "end": self.clip.end}
        for of in self.logits:
            for rank, (name, probability) in enumerate(self.top(of), 1):
                row |= {f"{of}_{rank}": name, f"{of}_{rank}_probability": round(probability, 6)}
        row |= {f"{name}_contribution": round(value, 6) for name, value in self.contributions().items()}
        return row | {f"{name}_lead": round(value, 6) for name, value in self.leads().items()}


def files_of(saved: SavedModel, clip: Clip, folder: Path) -> ClipFiles | MotionFiles:
    """As the preparation of the model's data set would have written them. Raises InputError."""
    args, label = saved.args, saved.classes[0]
    if args.script == "main_UCF.py":
        return motion_files(*clip, folder, label, num_frames=args.num_frames, flow=args.flow,
                            flow_frames=args.flow_frames)
    prepared_for = AUDIO_FRONTENDS[args.audio_frontend].sample_rate  # main_SSW.py has sound of each front end's rate
    rate = prepared_for if args.script == "main_SSW.py" else SAMPLE_RATE
    return clip_files(*clip, folder, label, sample_rate=rate, fps=args.fps)


def predict(saved: SavedModel, clip: Clip) -> Prediction:
    """Raises InputError: the video cannot be read, or ends before the part."""
    with tempfile.TemporaryDirectory() as folder:
        return predict_files(saved, clip, files_of(saved, clip, Path(folder)))


@torch.inference_mode()
def predict_files(saved: SavedModel, clip: Clip, files: ClipFiles | MotionFiles) -> Prediction:
    """Of prepared files, as an evaluation sees them."""
    dataset = saved.script.make_dataset(saved.args, [files], saved.classes, train=False)
    batch = check_batch(next(iter(make_loader(dataset, EvaluationBatches(1, 1), 0, 0, saved.compute.device))))
    inputs, _ = saved.compute.prepare(batch)
    with saved.compute.autocast():
        output = saved.model(*inputs)
    names = saved.model.modalities
    logits = {JOINT: array(output.logits[0]),
              **{name: array(one[0]) for name, one in zip(names, output.modality_logits, strict=True)}}
    return Prediction(clip, saved.classes, logits, {name: array(x[0]) for name, x in zip(names, inputs, strict=True)},
                      {name: array(value[0]) for name, value in batch.items()})


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy() if tensor.dtype == torch.uint8 else tensor.detach().float().cpu().numpy()


def windows(seconds: float, every: float, length: float) -> list[tuple[float, float]]:
    """(start, end) of windows over a video of so many seconds: one every `every` seconds, the last one ends with it."""
    if seconds <= length:
        return [(0.0, seconds)]
    starts = list(np.arange(0.0, seconds - length + 1e-6, every))
    if seconds - length - starts[-1] > 0.01:
        starts.append(seconds - length)
    return [(round(float(start), 3), round(float(start) + length, 3)) for start in starts]
