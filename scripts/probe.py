"""Linear probes: what a linear classifier gets out of the frozen encoders of trained runs.

    python scripts/probe.py runs/plain runs/mmcosine

The paper's A-probe, V-probe and the gap between them: a logistic regression (scikit-learn) on the features of each
encoder, and on both side by side, standardised by the training clips; trained on the run's training clips and tested on
its test clips, both without augmentation. Prints a table, writes probes.json into every run's folder (fractions).
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dataset.files import write_whole
from utils import cli, finished
from utils.features import Features
from utils.finished import FinishedRun

MOST_ITERATIONS = 5000  # of L-BFGS; features of 512 numbers need some hundreds


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    finished.add_flags(parser)
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


def probe_run(run: FinishedRun, inverse_penalty: float) -> dict[str, object]:
    """Probes of the run's best weights -> what probes.json holds."""
    train, test = run.train_features, run.test_features
    scores = probe_features(train, test, run.modalities, inverse_penalty)
    probes = {**scores, "best_epoch": run.result["best_epoch"], "inverse_penalty": inverse_penalty,
              "n_train": len(train.labels), "n_test": len(test.labels)}
    write_whole(run.folder / "probes.json", json.dumps(probes, indent=2) + "\n")
    return probes


def table(probes: Mapping[Path, Mapping[str, object]], results: Mapping[Path, Mapping[str, object]]) -> str:
    """A Markdown table: probe accuracies and gap, then what the joint network's own logits reach. In %."""
    columns = list(dict.fromkeys(name for scores in probes.values() for name, value in scores.items()
                                 if isinstance(value, float) and name != "inverse_penalty"))
    own = list(dict.fromkeys(name for result in results.values() for name in result if name.startswith("accuracy")))
    lines = [["run", *(f"{name} probe" if name != "gap" else "gap" for name in columns), *own]]
    lines += [[str(folder), *(percent(scores.get(name)) for name in columns),
               *(percent(results[folder].get(name)) for name in own)] for folder, scores in probes.items()]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}"


def main(argv: list[str]) -> dict[Path, dict]:
    """{run's folder: what its probes.json holds}; printed as a table in %. Raises InputError."""
    args = get_args_parser().parse_args(argv)
    runs = {folder: FinishedRun(folder, args) for folder in args.runs}
    probes = {}
    for folder, run in runs.items():
        probes[folder] = probe_run(run, args.inverse_penalty)
        print(f"{folder}: {probes[folder]['n_train']} training and {probes[folder]['n_test']} test clips, best epoch "
              f"{probes[folder]['best_epoch']}: {folder / 'probes.json'}")
    print("top-1 %; gap in points\n" + table(probes, {folder: run.result for folder, run in runs.items()}))
    return probes


if __name__ == "__main__":
    cli.run(main)
