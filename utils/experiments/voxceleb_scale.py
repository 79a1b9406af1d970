"""What VoxCeleb's size costs: the list of 1.09 million utterances, the scoring of 37,720 trials, 5,994 classes.

    python scripts/benchmark.py --task voxceleb --batch_size 16       # calls this

Everything is generated: no data is needed. Times are of this machine; the classes' share is a ratio within one run.
"""

import random
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from dataset.identities import TrainList, read_train_list
from dataset.voxceleb import samples_of
from models import SpeakerClassifier
from models.balancing.method import Batch
from models.mmcosine import unit
from utils.training.engine import Compute, Learner
from utils.training.metrics import equal_error_rate, min_dcf
from utils.training.train import place
from utils.training.verification import P_TARGETS, cosines

IDENTITIES, UTTERANCES_EACH = 5994, 182  # 1,090,908 rows, VoxCeleb2's 1,092,009 closely
TEST_UTTERANCES, TRIALS = 4708, 37720  # VoxCeleb1-O
FEW = 2  # classes that cost nothing


def write_list(path: Path) -> None:
    """Rows of VoxCeleb2's shape."""
    rng = random.Random(0)
    with path.open("w") as file:
        for identity in range(IDENTITIES):
            for number in range(UTTERANCES_EACH):
                if number % 8 == 0:
                    video = "".join(rng.choices("abcdefghijklmnopABCDEFGHIJKLMNOP0123456789-_", k=11))
                stem = f"id{identity:05d}/{video}/{number:05d}"
                file.write(f"{stem}.wav,{stem},id{identity:05d},16\n")


def memory(field: str = "Rss") -> float:
    """MB of this process: Rss, or Private_Dirty (what it has written to and shares with no other)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1000


def open_list(path: Path) -> dict[str, float]:
    """Opens the list in this process, and reads it in two loader processes."""
    before, peak_before, start = memory(), peak(), time.perf_counter()
    listed = read_train_list(path, "")
    taken = {"seconds": time.perf_counter() - start, "MB in the main process": memory() - before,
             "MB at its peak": max(peak() - max(peak_before, before), memory() - before)}
    context = torch.multiprocessing.get_context("forkserver")  # as with several processes; a fork shares all the more
    queue = context.Queue()
    workers = [context.Process(target=read_rows, args=(listed, seed, queue)) for seed in (0, 1)]
    for worker in workers:
        worker.start()
    grown = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    return {**taken, "MB in a loader process": max(grown)}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def read_rows(listed: TrainList, seed: int, queue: object) -> None:
    """Puts how much memory of its own a process gets by reading 200,000 rows."""
    listed[0]
    before = memory("Private_Dirty")
    for index in np.random.default_rng(seed).integers(len(listed), size=200_000).tolist():
        listed[index]
    queue.put(memory("Private_Dirty") - before)


def score_trials(device: torch.device) -> float:
    """Seconds to score all trials three times (joint, audio, visual), with their error rates."""
    rng = np.random.default_rng(0)
    rows = torch.randn(2, TEST_UTTERANCES, IDENTITIES, device=device)
    pairs, labels = rng.integers(TEST_UTTERANCES, size=(TRIALS, 2)), np.arange(TRIALS) % 2
    start = time.perf_counter()
    for vectors in (rows.sum(0), *rows):
        scores = cosines(unit(vectors), pairs)
        equal_error_rate(scores, labels)
    for p_target in P_TARGETS:
        min_dcf(scores, labels, p_target)
    return time.perf_counter() - start


def class_share(device: torch.device, precision: torch.dtype, batch_size: int, image_size: int,
                rounds: int) -> dict[str, float]:
    """Clips/s of a training step with all classes and with two, in turns, and the share of the time that the others
    take."""
    compute = Compute(device, precision, {})
    learners = {}
    for classes in (IDENTITIES, FEW):
        model = place(SpeakerClassifier(classes, "concat", mmcosine=True), compute, compiled=False)
        learners[classes] = Learner(model, compute, "sgd", 1e-3, 1e-4, 100, 0.1)
    inputs = [torch.randn(batch_size, samples_of(200), device=device),
              torch.randn(batch_size, 3, 2, image_size, image_size, device=device)]
    times: dict[int, list[float]] = {classes: [] for classes in learners}
    for _ in range(rounds + 1):
        for classes, learner in learners.items():
            times[classes].append(step_seconds(learner, inputs, classes))
    all_of_them, few = (statistics.median(taken[1:]) for taken in times.values())
    return {f"clips/s, {IDENTITIES} classes": batch_size / all_of_them,
            f"clips/s, {FEW} classes": batch_size / few, "share of the classes": 1 - few / all_of_them}


def step_seconds(learner: Learner, inputs: list[torch.Tensor], classes: int) -> float:
    labels = torch.randint(classes, (len(inputs[0]),), device=inputs[0].device)
    start = time.perf_counter()
    _, loss = learner.plain_step(Batch(inputs, labels, share=1.0, lam=0.0))
    loss.item()  # waits for the device
    return time.perf_counter() - start


def measure(device: torch.device, precision: torch.dtype, batch_size: int, image_size: int,
            rounds: int) -> dict[str, dict[str, float]]:
    """{what: {figure: value}}, printed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.csv"
        write_list(path)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:  # its memory holds nothing else
            opened = fresh.submit(open_list, path).result()
    found = {f"opening {IDENTITIES * UTTERANCES_EACH:,} utterances": opened,
             f"scoring {TRIALS:,} trials, {IDENTITIES} classes": {"seconds": score_trials(device)},
             f"step, batch {batch_size}, {image_size} px": class_share(device, precision, batch_size, image_size,
                                                                       rounds)}
    for what, figures in found.items():
        print(f"{what}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    return found
