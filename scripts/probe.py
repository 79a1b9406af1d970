"""Linear probes: what a linear classifier gets out of the frozen encoders of trained runs.

    python scripts/probe.py runs/plain runs/mmcosine

The paper's A-probe, V-probe and the gap between them: a logistic regression (scikit-learn) on the features of each
encoder, and on both side by side, standardised by the training clips; trained on the run's training clips and tested on
its test clips, both without augmentation. Prints a table, with mean +- standard deviation where runs differ in the seed
alone, and writes probes.json into every run's folder (fractions).
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from utils import cli
from utils.experiments import comparison, finished_run
from utils.experiments.features import Features
from utils.experiments.finished_run import OpenedRun
from utils.whole_files import write_whole

MOST_ITERATIONS = 5000  # of L-BFGS; features of 512 numbers need some hundreds
COLUMNS = {"audio": "audio probe", "visual": "visual probe", "concatenated": "probe of both", "gap": "probes' gap",
           "accuracy": "network", "accuracy_audio": "its audio logits", "accuracy_visual": "its visual logits"}


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    finished_run.add_flags(parser)
    parser.add_argument("--inverse_penalty", type=cli.number(float, 0, exclusive=True), default=1.0,
                        help="scikit-learn's C: the larger, the less the weights are held down")
    return parser


def probe_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray],
                   inverse_penalty: float) -> float:
    """A linear classifier fitted to (features (N, D), labels (N,)) -> its accuracy on `test`, a fraction."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=MOST_ITERATIONS))
    return float(probe.fit(*train).score(*test))


def probe_features(train: Features, test: Features, modalities: list[str], inverse_penalty: float) -> dict[str, float]:
    """{modality, "concatenated", "gap": fraction}: the gap is the first modality's accuracy minus the second's.

    One modality alone has no concatenation; only two have a gap.
    """
    inputs = {name: (train.encoded[place], test.encoded[place]) for place, name in enumerate(modalities)}
    if len(modalities) > 1:
        inputs["concatenated"] = (np.hstack(train.encoded), np.hstack(test.encoded))
    scores = {name: probe_accuracy((x_train, train.labels), (x_test, test.labels), inverse_penalty)
              for name, (x_train, x_test) in inputs.items()}
    if len(modalities) == 2:
        scores["gap"] = scores[modalities[0]] - scores[modalities[1]]
    return scores


def probe_run(run: OpenedRun, inverse_penalty: float) -> dict[str, object]:
    """Probes of the run's best weights -> what probes.json holds."""
    train, test = run.train_features, run.test_features
    scores = probe_features(train, test, run.modalities, inverse_penalty)
    probes = {**scores, "best_epoch": run.result["best_epoch"], "inverse_penalty": inverse_penalty,
              "n_train": len(train.labels), "n_test": len(test.labels)}
    write_whole(run.folder / "probes.json", json.dumps(probes, indent=2) + "\n")
    return probes


def shown_figures(probes: Mapping[str, object], result: Mapping[str, object]) -> dict[str, float]:
    """{column: fraction} of a run: its probes, and what the network's own logits reach."""
    return {column: {**result, **probes}[name] for name, column in COLUMNS.items() if name in {**result, **probes}}


def by_method(runs: Sequence[OpenedRun]) -> dict[str, list[OpenedRun]]:
    """{method and number of seeds: runs that differ in nothing but the seed}; methods with several seeds alone. Raises
    InputError for two runs that differ in nothing."""
    names = comparison.varying(runs)
    groups = [list(group.values()) for group in comparison.make_groups(runs, names).values()]
    return {f"{comparison.label(group[0].settings, names)}: {len(group)} seeds": group for group in groups
            if len(group) > 1}


def table(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """{head of the row: figures of its runs} as Markdown, in %: of several runs the mean +- standard deviation."""
    columns = [name for name in COLUMNS.values() if any(name in figures for runs in rows.values() for figures in runs)]
    lines = [["run", *columns], ["---"] * (1 + len(columns))]
    lines += [[head, *(comparison.spread({place: figures[name] for place, figures in enumerate(runs)
                                          if name in figures}) for name in columns)] for head, runs in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list[str]) -> dict[Path, dict]:
    """{run's folder: what its probes.json holds}; printed as a table in %. Raises InputError."""
    args = get_args_parser().parse_args(argv)
    runs = [OpenedRun(folder, args) for folder in dict.fromkeys(args.runs)]
    methods, probes, figures = by_method(runs), {}, {}
    for run in runs:
        probes[run.folder] = probe_run(run, args.inverse_penalty)
        figures[run.folder] = shown_figures(probes[run.folder], run.result)
        print(f"{run.folder}: {probes[run.folder]['n_train']} training and {probes[run.folder]['n_test']} test clips, "
              f"best epoch {run.result['best_epoch']}: {run.folder / 'probes.json'}")
        run.close()
    rows = {str(folder): [one] for folder, one in figures.items()}
    rows |= {head: [figures[run.folder] for run in group] for head, group in methods.items()}
    print("top-1 %; gap in points\n" + table(rows))
    return probes


if __name__ == "__main__":
    cli.run(main)
