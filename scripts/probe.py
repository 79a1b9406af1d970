"""Linear probes: what a linear classifier reads from the frozen encoders of trained runs.

    python scripts/probe.py runs/plain runs/mmcosine
    python scripts/probe.py runs/sweep/*                 # what is no run with weights, such as logs, is left out

The paper's A-probe, V-probe and the gap between them: a logistic regression (scikit-learn) on the features of each
encoder, and on all of them concatenated, standardised by the training clips; trained on the run's training clips and
tested on its test clips, both without augmentation. Prints a table, with mean +- standard deviation where runs differ
in the seed alone, and writes probes.json into every run's folder (fractions).
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from utils import cli
from utils.experiments.flags import Machine, add_run_flags


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    add_run_flags(parser)
    parser.add_argument("--inverse_penalty", type=cli.number(float, 0, exclusive=True), default=1.0,
                        help="scikit-learn's C: the larger, the weaker the regularisation")
    return parser


if __name__ == "__main__":
    get_args_parser().parse_args()  # --help is answered before the slow imports below

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dataset.whole_files import write_whole
from utils.experiments import comparison, tables
from utils.experiments.features import Features
from utils.experiments.finished_run import FinishedRun, open_run, with_weights
from utils.training.experiment import label

MOST_ITERATIONS = 5000  # of L-BFGS; features of 512 numbers need some hundreds


def probe_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray],
                   inverse_penalty: float) -> float:
    """A linear classifier fitted to (features (N, D), labels (N,)) -> its accuracy on `test`, a fraction."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=MOST_ITERATIONS))
    return float(probe.fit(*train).score(*test))


def probe_features(train: Features, test: Features, modalities: list[str], inverse_penalty: float) -> dict[str, float]:
    """{modality, "concatenated", "gap": fraction}: the gap is the first modality's accuracy minus the second's.

    One modality alone has no concatenation; only two have a gap.
    """
    inputs = {name: (train.encoded[index], test.encoded[index]) for index, name in enumerate(modalities)}
    if len(modalities) > 1:
        inputs["concatenated"] = (np.hstack(train.encoded), np.hstack(test.encoded))
    scores = {name: probe_accuracy((x_train, train.labels), (x_test, test.labels), inverse_penalty)
              for name, (x_train, x_test) in inputs.items()}
    if len(modalities) == 2:
        scores["gap"] = scores[modalities[0]] - scores[modalities[1]]
    return scores


def probe_run(run: FinishedRun, inverse_penalty: float) -> dict[str, object]:
    """Probes of the run's best weights -> what probes.json holds."""
    train, test = run.train_features, run.test_features
    scores = probe_features(train, test, run.modalities, inverse_penalty)
    probes = {**scores, "best_epoch": run.result["best_epoch"], "inverse_penalty": inverse_penalty,
              "n_train": len(train.labels), "n_test": len(test.labels)}
    write_whole(run.folder / "probes.json", json.dumps(probes, indent=2) + "\n")
    return probes


def column_names(runs: Sequence[FinishedRun]) -> dict[str, str]:
    """{name of a metric: head of its column} for the modalities of all runs."""
    modalities = list(dict.fromkeys(name for run in runs for name in run.modalities))
    every = "both" if max(len(run.modalities) for run in runs) == 2 else "all"
    return {**{name: f"{name} probe" for name in modalities}, "concatenated": f"probe of {every}", "gap": "probes' gap",
            "accuracy": "network", **{f"accuracy_{name}": f"its {name} logits" for name in modalities}}


def by_method(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """{method and number of seeds: runs that differ in nothing but the seed}, for methods with several seeds. Raises
    InputError for two runs that differ in nothing."""
    names = comparison.varying(runs)
    groups = [list(group.values()) for group in comparison.make_groups(runs, names).values()]
    return {f"{label(group[0].settings, names)}: {len(group)} seeds": group for group in groups if len(group) > 1}


def table(rows: Mapping[str, Sequence[Mapping[str, float]]], columns: Mapping[str, str]) -> str:
    """{head of the row: metrics of its runs} as Markdown, in %: of several runs the mean +- standard deviation.

    columns: {name of a metric: head of its column}; one that no run has is left out.
    """
    shown = {name: head for name, head in columns.items() if any(name in one for runs in rows.values() for one in runs)}
    return tables.markdown(["run", *shown.values()], [
        [head, *(tables.percent([metrics[name] for metrics in runs if name in metrics]) for name in shown)]
        for head, runs in rows.items()])


def main(argv: list[str]) -> dict[Path, dict]:
    """{run's folder: what its probes.json holds}; printed as a table in %. Raises InputError."""
    args = get_args_parser().parse_args(argv)
    machine = Machine(args.data_root, args.device, args.num_workers)
    runs = [open_run(folder, machine) for folder in dict.fromkeys(with_weights(args.runs))]
    methods, probes, metrics = by_method(runs), {}, {}
    for run in runs:
        probes[run.folder] = probe_run(run, args.inverse_penalty)
        metrics[run.folder] = {**run.result, **probes[run.folder]}
        print(f"{run.folder}: {probes[run.folder]['n_train']} training and {probes[run.folder]['n_test']} test clips, "
              f"best epoch {run.result['best_epoch']}: {run.folder / 'probes.json'}")
        run.close()
    rows = {str(folder): [one] for folder, one in metrics.items()}
    rows |= {head: [metrics[run.folder] for run in group] for head, group in methods.items()}
    print("top-1 %; gap in points\n" + table(rows, column_names(runs)))
    return probes


if __name__ == "__main__":
    cli.run(main)
