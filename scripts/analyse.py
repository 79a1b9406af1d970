"""Pictures of finished runs, several side by side on the same axes and colour scales.

    python scripts/analyse.py runs/plain runs/mmcosine
    python scripts/analyse.py runs/plain runs/mmcosine --only logits angles --out docs --use_tensorboard False

    accuracy.png      joint and modality accuracy over the epochs
    logits.png        logit of the true class by each modality over the iterations of training (TensorBoard events)
    weight_norms.png  norm of every class weight over the epochs (class_norms.npy)
    angles.png        angles between features and their class weight, test clips, best epoch
    tsne.png          t-SNE of the fused features, test clips, best epoch; under MMCosine of unit length per modality
    confusion.png     confusion matrix of the joint logits, test clips, best epoch
    gap.png           of two modalities, the accuracy of the first minus that of the second: over the epochs, and at
                      the best epoch by their logits in the network and by linear probes (after scripts/probe.py)
    balance.png       over the epochs, what the balancing method did and, of runs with --log_gradients, how strongly
                      each encoder was pulled and how far its own modality agreed

They are written to RUN/figures for one run, to `figures` beside the first run for several, and as TensorBoard images
into the same folder.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from utils import cli
from utils.experiments.flags import Machine, add_run_flags

PICTURES = ("accuracy", "logits", "weight_norms", "angles", "tsne", "confusion", "gap", "balance")


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    add_run_flags(parser)
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=PICTURES, help="which pictures")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for them")
    cli.add_boolean(parser, "--use_tensorboard", True, "write them as TensorBoard images too")
    return parser


if __name__ == "__main__":
    get_args_parser().parse_args()  # --help is answered before the slow imports below

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from dataset.errors import InputError
from dataset.whole_files import write_whole
from utils.experiments import figures, finished_run
from utils.experiments.features import angles, seen_by_head
from utils.experiments.finished_run import FinishedRun, open_run
from utils.training.confusion import confusion_matrices
from utils.training.report import metric_names
from utils.training.tensorboard import Events

PERPLEXITY = 30  # of t-SNE; a third of the clips where there are fewer than 90
Runs = dict[str, FinishedRun]  # by their labels


def draw_accuracy(runs: Runs, title: str) -> Figure:
    first = next(iter(runs.values()))
    return figures.accuracy({label: accuracies(run) for label, run in runs.items()}, title,
                            1 / len(first.result["classes"]))


def accuracies(run: FinishedRun) -> dict[str, np.ndarray]:
    """{"joint" and modalities: (epochs,)} on the held-out data that chose the epoch."""
    split = "val" if "val_accuracy" in run.history[0] else "test"
    return {what: np.array([record[f"{split}_{name}"] for record in run.history])
            for what, name in metric_names("accuracy", run.modalities).items()}


def draw_logits(runs: Runs, title: str) -> Figure | str:
    found = {label: run.logits() for label, run in runs.items()}
    without = [runs[label] for label, curves in found.items() if not curves]
    if not without:
        return figures.logits(found, title)
    events = any(path for run in without for path in run.events_folder.glob("events.out.tfevents.*"))
    what = "no logits in the TensorBoard events" if events else "no TensorBoard events"
    return f"{what} of {', '.join(str(run.folder) for run in without)}"


def draw_weight_norms(runs: Runs, title: str) -> Figure | str:
    found = {label: run.class_norms() for label, run in runs.items()}
    without = [str(runs[label].folder) for label, norms in found.items() if norms is None]
    if without:
        return f"no class_norms.npy in {', '.join(without)}"
    first = next(iter(runs.values()))
    return figures.weight_norms(found, title, first.modalities, first.result["classes"])


def draw_angles(runs: Runs, title: str) -> Figure:
    return figures.angle_histograms({label: run_angles(run) for label, run in runs.items()}, title)


def run_angles(run: FinishedRun) -> dict[str, np.ndarray]:
    """{modality: (N,) degrees} of the test clips."""
    features, weights = run.test_features, run.task.model.class_weights().detach().float().cpu().numpy()
    return dict(zip(run.modalities, angles(features.fused, weights, features.labels), strict=True))


def draw_tsne(runs: Runs, title: str) -> Figure:
    classes = next(iter(runs.values())).result["classes"]
    return figures.embedding({label: (tsne(run), run.test_features.labels) for label, run in runs.items()}, title,
                             classes)


def tsne(run: FinishedRun) -> np.ndarray:
    """(N, 2) of the test clips, seeded by the run's seed."""
    seen = seen_by_head(run.test_features.fused, run.result["mmcosine"])
    perplexity = min(PERPLEXITY, (len(seen) - 1) / 3)
    return TSNE(perplexity=perplexity, random_state=run.result["seed"] % 2**32).fit_transform(seen)


def draw_confusion(runs: Runs, title: str) -> Figure:
    return figures.confusion({label: confusions(run) for label, run in runs.items()}, title,
                             next(iter(runs.values())).result["classes"])


def confusions(run: FinishedRun) -> np.ndarray:
    """(C, C): the share of the row's test clips taken for the column's class."""
    features = run.test_features
    logits = torch.from_numpy(features.modality_logits.sum(0, keepdims=True))
    counts = confusion_matrices(logits, torch.from_numpy(features.labels))[0].double()
    return (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()


def draw_gap(runs: Runs, title: str) -> Figure | str:
    modalities = next(iter(runs.values())).modalities
    if len(modalities) != 2:
        return f"a gap is between two modalities, not {len(modalities)}"
    curves, bars = {}, {}
    for label, run in runs.items():
        over_epochs = accuracies(run)
        curves[label] = over_epochs[modalities[0]] - over_epochs[modalities[1]]
        bars |= {f"{label}, {name}".removeprefix(", "): values for name, values in bars_of(run).items()}
    return figures.gap(curves, bars, title, modalities)


def draw_balance(runs: Runs, title: str) -> Figure | str:
    found = {label: balance_of(run) for label, run in runs.items()}
    if any(found.values()):
        return figures.balance(found, title)
    return "no run has a balancing method that reports anything, or was trained with --log_gradients"


def balance_of(run: FinishedRun) -> dict[str, dict[str, np.ndarray]]:
    """{quantity: {modality, or "" where there is one value: (n, 2) epoch and value}} of `method_` and `gradient_`."""
    curves: dict[str, dict[str, list]] = {}
    for record in run.history:
        for key, value in record.items():
            if key.startswith(("method_", "gradient_")):
                modality = next((name for name in run.modalities if key.endswith(f"_{name}")), "")
                points = curves.setdefault(key.removesuffix(f"_{modality}"), {}).setdefault(modality, [])
                points.append((record["epoch"], value))
    return {key: {name: np.array(points) for name, points in each.items()} for key, each in curves.items()}


def bars_of(run: FinishedRun) -> dict[str, dict[str, float]]:
    """{"logits", and "probe" if there is one of that epoch: {modality: test accuracy at the best epoch}}."""
    bars = {"logits": {name: run.result[f"accuracy_{name}"] for name in run.modalities}}
    if probes := run.probes():
        bars["probe"] = probes
    return bars


FIGURES = dict(zip(PICTURES, (draw_accuracy, draw_logits, draw_weight_norms, draw_angles, draw_tsne, draw_confusion,
                              draw_gap, draw_balance), strict=True))


def open_runs(folders: Sequence[Path], machine: Machine) -> tuple[Runs, str]:
    """(the runs by their labels, what their titles share). Raises InputError: also when they cannot be compared."""
    found = [open_run(folder, machine) for folder in folders]
    for run in found[1:]:
        for what, mine, others in (("classes", run.result["classes"], found[0].result["classes"]),
                                   ("modalities", run.modalities, found[0].modalities)):
            if mine != others:
                raise InputError(f"{run.folder} has other {what} than {found[0].folder}: draw them one by one")
    title, own = finished_run.labels(found)
    if len(set(own)) < len(own):
        raise InputError(f"two of the runs {', '.join(map(str, folders))} are the same: give each once")
    return dict(zip(own, found, strict=True)), title


def main(argv: list[str]) -> list[Path]:
    """The pictures that were written. Raises InputError."""
    args = get_args_parser().parse_args(argv)
    folders = finished_run.with_weights(args.runs)
    runs, title = open_runs(folders, Machine(args.data_root, args.device, args.num_workers))
    out = args.out or (folders[0] if len(folders) == 1 else folders[0].parent) / "figures"
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: name a folder for the pictures")
    written = []
    with closing(Events(out if args.use_tensorboard else None)) as events:  # closed after an error too: it has a thread
        for name in args.only:
            figure = FIGURES[name](runs, title)
            if isinstance(figure, str):
                print(f"{name}.png left out: {figure}")
                continue
            figure.canvas.draw()  # the layout leaves room enough only when it is computed twice
            written.append(out / f"{name}.png")
            write_whole(written[-1], figure.canvas.print_png)
            events.figure(f"runs/{name}", figure)
            print(written[-1])
    return written


if __name__ == "__main__":
    cli.run(main)
