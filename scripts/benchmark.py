"""How fast an entry script trains on this machine: bare steps, evaluation, whole epochs with and without --cache.

    python scripts/benchmark.py                                                    # main_CD.py at the paper's sizes
    python scripts/benchmark.py --script main_SSW.py --cache off ram
    python scripts/benchmark.py --device cuda --batch_size 256 --clips 6698 --amp off bf16 fp16 --cache off device
    python scripts/benchmark.py --task voxceleb --batch_size 16     # what a million utterances and 5,994 classes cost

Data of the data set's sizes is made in a temporary folder. Flags of the entry script may follow after --. A bare step
is forward, backward and update of a batch that is on the device; an epoch adds loading, cropping, front ends and
metrics. Everything takes its turn within one run, because machines are noisy: hold ratios, not clips/s, against another
machine's. The share of the peak is of a large matrix product of the same precision, measured here.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from dataset.errors import InputError
from dataset.whole_files import write_csv
from utils import cli, distributed
from utils.balancing.method import Batch
from utils.distributed import choose_device
from utils.experiments import benchmark_data, entry_script, voxceleb_scale
from utils.training import report
from utils.training.engine import Learner, outputs, train_one_epoch
from utils.training.loading import Loaders, check_batch
from utils.training.precision import PRECISIONS, choose_precision
from utils.training.train import Task, place

OF_THE_STEP = ("modulation", "accumulate", "optimizer", "lam", "freeze_encoders")
COPIED = {"cuda": 2**30, "cpu": 2**27}  # bytes of the copy that gives the bandwidth
MATRIX = {"cuda": 8192, "cpu": 3072}  # rows and columns of the product that gives the peak


class Setting(NamedTuple):
    """A way to compute, and the network that is trained so. loaders: {--cache: its training loader}."""

    name: str
    task: Task
    learner: Learner
    loaders: dict[str, DataLoader]
    batch: Batch


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     usage="%(prog)s [options] [-- FLAGS OF THE ENTRY SCRIPT]",
                                     formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--script", choices=list(benchmark_data.WRITERS), default="main_CD.py", help="entry script")
    parser.add_argument("--task", choices=("training", "voxceleb"), default="training", help="voxceleb: what its size "
                        "costs, see utils/experiments/voxceleb_scale.py")
    parser.add_argument("--batch_size", type=cli.number(int, 1, 100_000), default=32, help="clips a step")
    parser.add_argument("--image_size", type=cli.number(int, 64, 4096), default=224, help="pixels a side")
    parser.add_argument("--clips", type=cli.number(int, 1, 1_000_000), default=128, help="clips an epoch")
    parser.add_argument("--rounds", type=cli.number(int, 1, 1000), default=3,
                        help="epochs of each kind; medians are shown")
    parser.add_argument("--num_workers", type=cli.number(int, 0, 1024), default=2, help="loader processes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<index>")
    parser.add_argument("--amp", choices=["auto", *PRECISIONS], nargs="+", default=["off", "auto"], help="precisions")
    parser.add_argument("--compile", type=cli.boolean, nargs="+", default=[False], metavar="True|False",
                        help="without and with torch.compile")
    parser.add_argument("--cache", nargs="+", default=["off", "ram"], metavar="WHERE", help="off, ram, device, ...")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows to this file too")
    return parser


def make_setting(args: argparse.Namespace, argv: Sequence[str], amp: str, compiled: bool, precision: str) -> Setting:
    """One network; a data set and a loader for each --cache."""
    script = entry_script.load(Path(args.script), ("parse", "build"))
    device = choose_device(args.device, [], 0)
    parsed = {cache: script.parse([*argv, "--amp", amp, "--cache", cache]) for cache in args.cache}
    check_plain(script.get_args_parser(), next(iter(parsed.values())))
    tasks = {cache: script.build(one, device) for cache, one in parsed.items()}
    task = next(iter(tasks.values()))
    learner = Learner(place(task.model, task.compute, compiled), task.compute, "sgd", 1e-3, 1e-4, 100, 0.1)
    loaders = {cache: one.loaders.training(one.train) for cache, one in tasks.items()}
    inputs, labels = task.compute.prepare(check_batch(next(iter(next(iter(loaders.values()))))))
    return Setting(f"{precision}{', compiled' * compiled}", task, learner, loaders, Batch(inputs, labels, 1.0, 0.0))


def check_plain(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Raises InputError: flags of a step that is not the plain one, which is what is measured."""
    others = [f"--{name}" for name in OF_THE_STEP if getattr(args, name) != parser.get_default(name)]
    if others:
        raise InputError(f"the benchmark measures the plain step: leave out {', '.join(others)}. What a method costs "
                         "is in the table of a sweep")


def bare_steps(setting: Setting, steps: int) -> None:
    """On one batch that is on the device already: no loading, front end or metrics."""
    setting.learner.train()
    for _ in range(steps):
        setting.learner.step(setting.batch)


@torch.inference_mode()
def evaluation(setting: Setting, loader: DataLoader) -> None:
    for _ in outputs(setting.task.model, loader, setting.task.compute):
        pass


def one_epoch(setting: Setting, cache: str) -> None:
    train_one_epoch(setting.learner, setting.loaders[cache], lam=0)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(setting: Setting, rounds: int) -> dict[str, float]:
    """{what: clips/s}: medians over rounds in which everything takes its turn; a first round is dropped."""
    clips, batch = len(setting.task.train), len(setting.batch.labels)
    steps, loaders = max(1, clips // batch), setting.task.loaders
    without_cache = Loaders(loaders.batch_size, loaders.seed, loaders.num_workers, loaders.device)
    test = without_cache.evaluation(setting.task.train.for_evaluation())
    works = {"bare step": (steps * batch, lambda: bare_steps(setting, steps)),
             "evaluation": (clips, lambda: evaluation(setting, test)),
             **{f"epoch, cache {cache}": (clips, lambda cache=cache: one_epoch(setting, cache))
                for cache in setting.loaders}}
    times = {what: [] for what in works}
    for _ in range(rounds + 1):
        for what, (_, work) in works.items():
            times[what].append(seconds(work, setting.task.compute.device))
    return {what: count / statistics.median(times[what][1:]) for what, (count, _) in works.items()}


def loading(setting: Setting) -> dict[str, float]:
    """{what: clips/s} of loading alone: in this process, and what the loaders' processes give together; with a cache up
    to the transfer to the device."""
    found = {}
    for cache, loader in setting.loaders.items():
        passes = loader if cache == "off" else loader.gathered()
        taken = seconds(lambda passes=passes: deque(passes, maxlen=0), setting.task.compute.device)
        found[f"loading, cache {cache}"] = len(loader.dataset) / taken
    return found


def operations(setting: Setting) -> float:
    """GFLOP of a training step, per clip."""
    setting.learner.train()
    counter = FlopCounterMode(display=False)
    with counter:
        output, loss = setting.learner.forward(setting.batch)
        loss.backward()
    return counter.get_total_flops() / len(output.logits) / 1e9


def peak(device: torch.device, precision: torch.dtype) -> float:
    """GFLOP/s of a large matrix product; of float32 on a GPU as convolutions compute it, which is in TF32."""
    size = MATRIX[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=precision) for _ in range(2))
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    taken = [seconds(lambda: a @ b, device) for _ in range(12)]
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return 2 * size**3 / statistics.median(taken[2:]) / 1e9


def bandwidth(device: torch.device) -> float:
    """GB/s of a large copy, read and written bytes together."""
    source = torch.ones(COPIED[device.type], device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    taken = [seconds(lambda: target.copy_(source), device) for _ in range(12)]
    return 2 * len(source) / statistics.median(taken[2:]) / 1e9


def rows(args: argparse.Namespace, argv: Sequence[str], device: torch.device) -> Iterator[dict[str, object]]:
    """One for each precision, without and with torch.compile."""
    for amp, compiled in itertools.product(args.amp, args.compile):
        precision = choose_precision(amp, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        setting = make_setting(args, argv, amp, compiled, str(precision).removeprefix("torch."))
        clip = operations(setting) if not compiled else None
        speeds = {**measure(setting, args.rounds), **loading(setting)}
        memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
        share = {} if clip is None else {"GFLOP a clip": clip, "share of peak":
                                         speeds["bare step"] * clip / peak(device, precision)}
        yield {"setting": setting.name, **speeds, **share, "GPU memory, GB": memory}


def show(row: dict[str, object]) -> None:
    """Speeds, and for an epoch how much longer it takes than its bare steps."""
    print(f"\n{row['setting']}")
    for what, value in row.items():
        if what == "setting" or value is None:
            continue
        over = f"   {row['bare step'] / value - 1:+.1%} over the bare steps" if what.startswith("epoch") else ""
        text = f"{value:10.1%}" if what == "share of peak" else f"{value:10,.1f}"
        print(f"  {what:24}{text}{over}", flush=True)


def main(argv: list[str]) -> list[dict[str, object]]:
    """The rows, which are printed."""
    end = argv.index("--") if "--" in argv else len(argv)
    args = get_args_parser().parse_args(argv[:end])
    device = choose_device(args.device, [], 0)
    if args.task == "voxceleb":
        return voxceleb_scale.measure(device, choose_precision(args.amp[-1], device), args.batch_size,
                                      args.image_size, args.rounds)
    print(f"{args.script} on {report.device_name(device)}, torch {torch.__version__}, batch {args.batch_size}, "
          f"{args.image_size} px, {args.clips} clips an epoch, {args.num_workers} workers; "
          f"copies {bandwidth(device):,.0f} GB/s; clips/s:")
    found = []
    with tempfile.TemporaryDirectory() as folder, distributed.session(args.device, []):
        flags = benchmark_data.make_data(args.script, Path(folder), args.clips)
        flags += ["--train", "--mmcosine", "--device", args.device, *argv[end + 1:]]
        for name in ("batch_size", "image_size", "num_workers"):
            flags += [f"--{name}", str(getattr(args, name))]
        for row in rows(args, flags, device):
            show(row)
            found.append(row)
    if args.csv:
        write_csv(args.csv, found)
    return found


if __name__ == "__main__":
    cli.run(main)
