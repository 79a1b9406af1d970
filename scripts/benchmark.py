"""How fast training is on this machine: loader, bare step, evaluation and whole epoch, plain float32 against default.

    python scripts/benchmark.py                       # the paper's sizes: batch 32, 3 s of sound, 224 px
    python scripts/benchmark.py --device cuda --amp fp16 --batch_size 128 --clips 2048
    python scripts/benchmark.py --task voxceleb --batch_size 16     # what a million utterances and 5,994 classes cost

Data is made in a temporary folder: 480x360 JPEGs and wavs of 2.5 s, CREMA-D's sizes. Everything is measured in turns
within one run, because machines are noisy: hold ratios, not clips/s, against another machine's.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
import soundfile
import torch
from torch import nn
from torch.utils.data import DataLoader

from dataset.clips import ClipDataset
from dataset.cremad import audio_path, find_clips, frames_folder
from dataset.frontends import NormaliseFrames, Spectrogram
from dataset.lists import Clip
from models import AVClassifier
from utils import cli
from utils.balancing.method import Batch
from utils.distributed import choose_device
from utils.experiments import voxceleb_scale
from utils.training import report
from utils.training.engine import Compute, Learner, evaluate, train_one_epoch
from utils.training.loading import Loaders, make_loader
from utils.training.precision import PRECISIONS, choose_precision
from utils.training.train import place

CLASSES = 6
FILES = 64  # different clips on disk; the list repeats them


class Setting(NamedTuple):
    """A way to compute, and a network that is trained so."""

    compute: Compute
    learner: Learner
    train: DataLoader
    test: DataLoader
    batch: tuple[list[torch.Tensor], torch.Tensor]


class Contiguous(nn.Module):
    """Frames as a program that knows nothing of channels_last would hand them over."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.contiguous()


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--task", choices=("cremad", "voxceleb"), default="cremad", help="voxceleb: its size, see "
                        "utils/experiments/voxceleb_scale.py")
    parser.add_argument("--batch_size", type=cli.number(int, 1, 100_000), default=32, help="clips a step")
    parser.add_argument("--image_size", type=cli.number(int, 64, 4096), default=224, help="pixels a side")
    parser.add_argument("--clips", type=cli.number(int, 1, 1_000_000), default=128, help="clips an epoch")
    parser.add_argument("--rounds", type=cli.number(int, 1, 1000), default=3,
                        help="epochs of each kind; medians are shown")
    parser.add_argument("--num_workers", type=cli.number(int, 0, 1024), default=2, help="loader processes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<index>")
    parser.add_argument("--amp", choices=["auto", *PRECISIONS], default="auto", help="of the default column")
    return parser


def make_clips(root: Path, count: int) -> list[Clip]:
    """Pictures with detail at every scale, as photographs have, and noise for sound."""
    rng = np.random.default_rng(0)
    clips = [Clip(f"clip{i}", str(i % CLASSES)) for i in range(count)]
    for clip in clips:
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (480, 360), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 8, (360, 480, 3))
        folder, wav = frames_folder(root) / clip.name, audio_path(root, clip.name)
        folder.mkdir(parents=True)
        wav.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "frame_00001.jpg"), picture.clip(0, 255).astype(np.uint8))
        soundfile.write(wav, rng.normal(0, 0.1, 40000), 16000)
    return clips


def make_setting(args: argparse.Namespace, root: Path, clips: list[Clip], amp: str, channels_last: bool) -> Setting:
    device = choose_device(args.device, [], 0)
    layout = nn.Identity() if channels_last else Contiguous()
    front_ends = {"audio": Spectrogram().to(device), "visual": nn.Sequential(NormaliseFrames(), layout).to(device)}
    compute = Compute(device, choose_precision(amp, device), front_ends)
    model = place(AVClassifier(CLASSES, "concat", mmcosine=True), compute, compiled=False)
    if not channels_last:
        model.to(memory_format=torch.contiguous_format)
    learner = Learner(model, compute, "sgd", 1e-3, 1e-4, 100, 0.1)
    files = (find_clips(root, clips)[0] * (args.clips // len(clips) + 1))[:args.clips]
    classes = [str(i) for i in range(CLASSES)]
    loaders = Loaders(args.batch_size, 0, args.num_workers, device)
    train = loaders.training(ClipDataset(files, classes, train=True, image_size=args.image_size))
    test = loaders.evaluation(ClipDataset(files, classes, train=False, image_size=args.image_size))
    return Setting(compute, learner, train, test, compute.prepare(next(iter(train))))


def bare_steps(setting: Setting, steps: int) -> None:
    """Forward, backward, update on one batch that is on the device already: no loading, front end or metrics."""
    setting.learner.model.train()
    batch = Batch(*setting.batch, share=1.0, lam=0.0)
    for _ in range(steps):
        setting.learner.step(batch)


def one_epoch(setting: Setting) -> None:
    train_one_epoch(setting.learner, setting.train, lam=0)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(settings: dict[str, Setting], clips: int, rounds: int) -> dict[str, dict[str, float]]:
    """{what: {setting: clips/s}}: medians over rounds in which everything takes its turn; a first round is dropped."""
    works = {"bare step": lambda s: bare_steps(s, len(s.train)), "whole epoch": one_epoch,
             "evaluation": lambda s: evaluate(s.learner.model, s.test, s.compute)}
    times = {what: {name: [] for name in settings} for what in works}
    for _ in range(rounds + 1):
        for what, work in works.items():
            for name, setting in settings.items():
                times[what][name].append(seconds(lambda w=work, s=setting: w(s), setting.compute.device))
    return {what: {name: clips / statistics.median(taken[1:]) for name, taken in row.items()}
            for what, row in times.items()}


def loader_speed(setting: Setting, clips: int) -> float:
    """Clips/s of one core that only loads: decoding, cropping, stacking."""
    alone = make_loader(setting.train.dataset.dataset, setting.train.batch_sampler, 0, 0, torch.device("cpu"))
    start = time.perf_counter()
    for _ in alone:
        pass
    return clips / (time.perf_counter() - start)


def main(argv: list[str]) -> dict[str, dict[str, float]]:
    """{what: {setting: clips/s}}, printed as a table."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.task == "voxceleb":
        device = choose_device(args.device, [], 0)
        return voxceleb_scale.measure(device, choose_precision(args.amp, device), args.batch_size, args.image_size,
                                      args.rounds)
    if args.clips % args.batch_size:
        parser.error(f"--clips {args.clips} is not a multiple of --batch_size {args.batch_size}")
    with tempfile.TemporaryDirectory() as folder:
        clips = make_clips(Path(folder), FILES)
        settings = {"plain float32": make_setting(args, Path(folder), clips, "off", channels_last=False),
                    "default": make_setting(args, Path(folder), clips, args.amp, channels_last=True)}
        speeds = measure(settings, args.clips, args.rounds)
        loader = loader_speed(settings["default"], args.clips)
    default = settings["default"].compute
    print(f"{report.device_name(default.device)}, torch {torch.__version__}, batch {args.batch_size}, "
          f"{args.image_size} px, default = {default.precision} channels_last; clips/s:")
    for what, row in speeds.items():
        plain, fast = row.values()
        print(f"{what:12} {plain:10.1f} plain float32 {fast:10.1f} default   ratio {fast / plain:.2f}")
    slower = speeds["bare step"]["default"] / speeds["whole epoch"]["default"] - 1
    print(f"a whole epoch takes {slower:+.1%} over the bare steps; the loader alone gives {loader:.0f} clips/s a core")
    return {**speeds, "loader": {"one core": loader}}


if __name__ == "__main__":
    cli.run(main)
