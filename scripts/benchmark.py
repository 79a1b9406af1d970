"""How fast an entry script trains on this machine: bare steps, evaluation, whole epochs with and without --cache.

    python scripts/benchmark.py                                                    # main_CD.py at the paper's sizes
    python scripts/benchmark.py --script main_SSW.py --cache off ram
    python scripts/benchmark.py --device cuda --batch_size 256 --clips 6698 --amp off bf16 fp16 --cache off device
    python scripts/benchmark.py --task voxceleb --batch_size 16     # what a million utterances and 5,994 classes cost

Data of the data set's sizes is made in a temporary folder. Flags of the entry script may follow after --. A bare step
is forward, backward and update of a batch that is on the device; an epoch adds loading, cropping, front ends and
metrics. The first epoch of a loader starts its processes, or decodes all clips for its --cache (for a folder once, in
the first row); it is in no median.
`waiting` is how long this process waits for the batches of an epoch, as a share of the epoch; a GPU may be busy
meanwhile. Everything takes its turn within one run, because machines are noisy: compare ratios between machines, not
clips/s. The share of the peak is of a large matrix product of the same precision, measured here.
"""

import argparse
import itertools
import resource
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from dataset.errors import InputError
from dataset.whole_files import write_csv
from models.balancing.method import Batch
from utils import cli, distributed
from utils.distributed import choose_device
from utils.experiments import benchmark_data, entry_script, voxceleb_scale
from utils.experiments.machine_speed import bandwidth, peak, seconds
from utils.training import report
from utils.training.engine import Learner, outputs, train_one_epoch
from utils.training.flags import Parser
from utils.training.loading import Loaders, check_batch
from utils.training.precision import PRECISIONS, choice, choose_precision
from utils.training.roles import TRAINING
from utils.training.train import Task, place

CLEARLY_FASTER = 1.05  # a ratio of speeds that is more than noise


class Setting(NamedTuple):
    """A way to compute, and the network that is trained so. loaders: {--cache: its training loader}."""

    name: str
    task: Task
    learner: Learner
    loaders: dict[str, "Watched"]
    batch: Batch


class Watched:
    """A training loader, the seconds that it took to make (of a cache: to decode), and how long its user has waited for
    batches."""

    def __init__(self, loaders: Loaders, dataset: Dataset):
        start = time.perf_counter()
        self.loader = loaders.training(dataset)
        self.made, self.waited = time.perf_counter() - start, 0.0
        self.batch_sampler = self.loader.batch_sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[object]:
        batches, batch = iter(self.loader), None
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__,
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
    parser.add_argument("--amp", choices=["auto", *PRECISIONS], nargs="+", default=["off", "bf16"],
                        help="precisions; those that are given again are measured again")
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
    loaders = {cache: Watched(one.loaders, one.train) for cache, one in tasks.items()}
    batches = Loaders(task.loaders.batch_size, task.loaders.seed, 0, device).training(task.train)
    inputs, labels = task.compute.prepare(check_batch(next(iter(batches))))
    return Setting(f"{precision}{', compiled' * compiled}", task, learner, loaders, Batch(inputs, labels, 1.0, 0.0))


def check_plain(parser: Parser, args: argparse.Namespace) -> None:
    """Raises InputError: flags of another step than the plain one, which is measured."""
    others = [f"--{name}" for name, meaning in parser.meanings().items()
              if meaning.role == TRAINING and not meaning.evaluated and getattr(args, name) != parser.get_default(name)]
    if others:
        raise InputError(f"the benchmark measures the plain step: leave out {', '.join(others)}. What a method costs "
                         "is in the table of a sweep")


def bare_steps(setting: Setting, steps: int) -> None:
    """On one batch that is on the device already: no loading, front end or metrics."""
    setting.learner.train()
    for _ in range(steps):
        setting.learner.plain_step(setting.batch)


@torch.inference_mode()
def evaluation(setting: Setting, loader: DataLoader) -> None:
    for _ in outputs(setting.task.model, loader, setting.task.compute):
        pass


def measure(setting: Setting, rounds: int) -> dict[str, float]:
    """{what: clips/s}: medians over rounds in which everything takes its turn, without a first round, of which the
    epochs are told on their own; and {waiting ...: share of the epochs}."""
    clips, batch, device = len(setting.task.train), len(setting.batch.labels), setting.task.compute.device
    steps, loaders = max(1, clips // batch), setting.task.loaders
    without_cache = Loaders(loaders.batch_size, loaders.seed, loaders.num_workers, loaders.device)
    test = without_cache.evaluation(setting.task.train.for_evaluation())
    works = {"bare step": lambda: bare_steps(setting, steps), "evaluation": lambda: evaluation(setting, test),
             **{f"epoch, cache {cache}": lambda loader=loader: train_one_epoch(setting.learner, loader, lam=0)
                for cache, loader in setting.loaders.items()}}
    begun = {what: seconds(work, device) for what, work in works.items()}
    first = {f"first epoch, cache {cache}": clips / (loader.made + begun[f"epoch, cache {cache}"])
             for cache, loader in setting.loaders.items()}
    waited = {cache: loader.waited for cache, loader in setting.loaders.items()}
    times = {what: [] for what in works}
    for _, (what, work) in itertools.product(range(rounds), works.items()):
        times[what].append(seconds(work, device))
    waiting = {f"waiting, cache {cache}": (loader.waited - waited[cache]) / sum(times[f"epoch, cache {cache}"])
               for cache, loader in setting.loaders.items()}
    counts = {what: steps * batch if what == "bare step" else clips for what in works}
    return {**{what: counts[what] / statistics.median(times[what]) for what in works}, **first, **waiting}


def loading(setting: Setting, rounds: int) -> dict[str, float]:
    """{what: clips/s} of loading alone, the median over rounds: what the loader's processes give together; with a cache
    in this process, up to the transfer to the device."""
    found = {}
    for cache, watched in setting.loaders.items():
        batches = watched.loader.__iter__ if cache == "off" else watched.loader.gathered
        taken = [seconds(lambda batches=batches: deque(batches(), maxlen=0), setting.task.compute.device)
                 for _ in range(rounds)]
        found[f"loading, cache {cache}"] = len(watched.loader.dataset) / statistics.median(taken)
    return found


def operations(setting: Setting) -> float:
    """GFLOP of a training step, per clip."""
    setting.learner.train()
    counter = FlopCounterMode(display=False)
    with counter:
        output, loss = setting.learner.forward(setting.batch)
        loss.backward()
    return counter.get_total_flops() / len(output.logits) / 1e9


def rows(args: argparse.Namespace, argv: Sequence[str], device: torch.device) -> Iterator[dict[str, object]]:
    """One for each precision, without and with torch.compile."""
    for amp, compiled in itertools.product(args.amp, args.compile):
        precision = choose_precision(amp, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        setting = make_setting(args, argv, amp, compiled, str(precision).removeprefix("torch."))
        clip = operations(setting) if not compiled else None
        speeds = {**measure(setting, args.rounds), **loading(setting, args.rounds)}
        share = {} if clip is None else {"GFLOP a clip": clip, "share of peak":
                                         speeds["bare step"] * clip / peak(device, precision)}
        yield {"setting": setting.name, **speeds, **share, "memory, GB": memory(device)}
        del setting  # before the next one is made, in whose memory it would be counted


def memory(device: torch.device) -> float:
    """GB at most until now: allocated on the GPU, or of this process without its loaders' processes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def show(row: dict[str, object]) -> None:
    """Speeds, and for an epoch how much longer it takes than its bare steps."""
    print(f"\n{row['setting']}")
    for what, value in row.items():
        if what == "setting" or value is None:
            continue
        over = f"   {row['bare step'] / value - 1:+.1%} over the bare steps" if what.startswith("epoch") else ""
        text = f"{value:10.1%}" if what.startswith(("share", "waiting")) else f"{value:10,.1f}"
        print(f"  {what:24}{text}{over}", flush=True)


def verdict(rows: Sequence[Mapping[str, object]], device: torch.device) -> str:
    """Whether --amp auto chooses the faster precision here; "" where not both were measured."""
    steps: dict[str, list[float]] = {}
    for row in rows:
        steps.setdefault(f"torch.{row['setting']}", []).append(row["bare step"])
    if not {str(torch.float32), str(torch.bfloat16)} <= steps.keys():
        return ""
    ratio = statistics.median(steps[str(torch.bfloat16)]) / statistics.median(steps[str(torch.float32)])
    chosen = choice("auto", device)
    told = f"steps in bfloat16 are {ratio:.2f} times as fast as in float32; {chosen.reason}"
    gain = ratio if chosen.precision == torch.float32 else 1 / ratio
    if gain < CLEARLY_FASTER:
        return told
    better = "off" if chosen.precision == torch.bfloat16 else "bf16"
    return f"{told}. That is WRONG on this machine: give --amp {better}, {gain:.2f} times as fast"


def main(argv: list[str]) -> list[dict[str, object]]:
    """The rows, which are printed."""
    end = argv.index("--") if "--" in argv else len(argv)
    args = get_args_parser().parse_args(argv[:end])
    device = choose_device(args.device, [], 0)
    if args.task == "voxceleb":
        return voxceleb_scale.measure(device, choose_precision(args.amp[-1], device), args.batch_size,
                                      args.image_size, args.rounds)
    if args.csv and not args.csv.parent.is_dir():
        raise InputError(f"--csv {args.csv}: there is no folder {args.csv.parent}, make it first")
    facts = {"script": args.script, "device": report.device_name(device), "batch_size": args.batch_size,
             "image_size": args.image_size, "clips": args.clips, "num_workers": args.num_workers,
             "copies, GB/s": round(bandwidth(device)), **report.environment()}
    print(f"{', '.join(f'{name} {value}' for name, value in facts.items())}; clips/s:")
    found = []
    with tempfile.TemporaryDirectory() as folder, distributed.session(args.device, []):
        flags = benchmark_data.make_data(args.script, Path(folder), args.clips)
        flags += ["--train", "--mmcosine", "--device", args.device, *argv[end + 1:]]
        for name in ("batch_size", "image_size", "num_workers"):
            flags += [f"--{name}", str(getattr(args, name))]
        for row in rows(args, flags, device):
            show(row)
            found.append({**facts, **row})
            if args.csv:
                write_csv(args.csv, found)
    if judged := verdict(found, device):
        print(f"\n{judged}")
    return found


if __name__ == "__main__":
    cli.run(main)
