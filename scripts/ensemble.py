"""Encoders trained apart, combined without further training: the row that every balancing method has to beat.

    python scripts/ensemble.py runs/audio-seed0 runs/visual-seed0
    python scripts/ensemble.py runs/audio-seed0 runs/visual-seed0 --output runs/ensemble-seed0   # for tables of sweeps
    python scripts/ensemble.py runs/mla-seed0            # the modality logits of one joint run, as MLA predicts

The prediction for a test clip is made of those of the runs' best weights. `mean of softmaxes` is what tables call the
ensemble; beside it stand the mean of the logits, and the mean of the softmaxes weighted by certainty: weights
exp(-entropy), normalised over the members (MLA's dynamic fusion). A run of several modalities counts as one member per
modality. Prints top-1 %.

--output writes a folder with args.json and result.json, which sweep.py --report_only takes for a finished run. The
sweep makes such folders itself for --modality audio visual ensemble.
"""

import argparse
import json
import shlex
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
    parser.add_argument("--output", type=Path, help="folder for the result")
    return parser


if __name__ == "__main__":
    get_args_parser().parse_args()  # --help is answered before the slow imports below

import numpy as np
from scipy.special import log_softmax, logsumexp

from dataset.errors import InputError
from dataset.whole_files import write_whole
from utils.experiments import comparison
from utils.experiments.finished_run import FinishedRun, open_run
from utils.experiments.tables import markdown
from utils.training import report
from utils.training.modalities import ENSEMBLE


def member_logits(runs: Sequence[FinishedRun]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels (N,) of the test clips, {modality: logits (N, C)}. Raises InputError: a modality comes twice, there is
    one only, or the runs have other test clips."""
    labels, clips, members = None, [], {}
    for run in runs:
        features, listed = run.test_features, list(run.task.clips["test"].items())
        if labels is None:
            labels, clips = features.labels, listed
        same = all(run.result.get(name) == runs[0].result.get(name) for name in ("classes", "variant"))
        if listed != clips or not same:
            raise InputError(f"{run.folder} has other test clips, another variant of them or other classes than "
                             f"{runs[0].folder}: give runs of the same data")
        for name, logits in zip(run.modalities, features.modality_logits, strict=True):
            if name in members:
                raise InputError(f"{run.folder} is the second run with the modality {name}: give one run of each")
            members[name] = logits.astype(np.float64)
        run.close()
    if len(members) < 2:
        raise InputError("an ensemble needs two modalities: give a run of each, or a joint run")
    return labels, members


def combinations(logits: np.ndarray) -> dict[str, np.ndarray]:
    """(M, N, C) -> {name: log-probabilities (N, C)}."""
    log = log_softmax(logits, axis=-1)
    certainty = (np.exp(log) * log).sum(-1, keepdims=True)  # minus the entropy, (M, N, 1)
    return {"mean of softmaxes": logsumexp(log, axis=0) - np.log(len(log)),
            "mean of logits": log_softmax(logits.mean(0), axis=-1),
            "softmaxes weighted by certainty": logsumexp(log + log_softmax(certainty, axis=0), axis=0)}


def result(runs: Sequence[FinishedRun], labels: np.ndarray, members: Mapping[str, np.ndarray]) -> dict:
    """What result.json holds."""
    def accuracy(scores: np.ndarray) -> float:
        return float((scores.argmax(-1) == labels).mean())

    first = runs[0].result
    same = ("dataset", "mmcosine", "scaling", "seed", "epochs", "demo", "classes", "n_train", "n_val", "n_test",
            "lists", "test_list", "variant", "selection")
    softmaxes, logits, weighted = combinations(np.stack(list(members.values()))).values()
    return {**{name: first[name] for name in same if name in first}, "modality": ENSEMBLE, "modalities": list(members),
            "members": [str(run.folder) for run in runs], "accuracy": accuracy(softmaxes),
            **{f"accuracy_{name}": accuracy(one) for name, one in members.items()},
            "loss": float(-softmaxes[np.arange(len(labels)), labels].mean()),
            "accuracy_of_mean_logits": accuracy(logits), "accuracy_weighted_by_certainty": accuracy(weighted),
            **report.environment()}


def write(folder: Path, runs: Sequence[FinishedRun], found: Mapping[str, object]) -> None:
    """Raises InputError: the runs differ in more than the modality and the learning rate, which may have been searched
    for each, or the folder holds a run."""
    if (folder / "last.pt").exists() or (folder / "best.pt").exists():
        raise InputError(f"{folder} is the folder of a run: name another one with --output")
    others = [name for name in comparison.varying(runs) if name not in ("modality", "learning_rate")]
    if others or len({run.settings["random_seed"] for run in runs}) > 1:
        raise InputError(f"these runs differ in {', '.join(others) or 'the seed'}: no row of a table. Leave --output "
                         "out, or give runs that differ in the modality alone")
    folder.mkdir(parents=True, exist_ok=True)
    own = {"learning_rate": None} if "learning_rate" in comparison.varying(runs) else {}
    settings = {**runs[0].settings, **own, "modality": ENSEMBLE, "run_name": folder.name, "command": found["command"]}
    for name, content in (("args.json", settings), ("result.json", found)):
        write_whole(folder / name, json.dumps(content, indent=2) + "\n")


def main(argv: Sequence[str]) -> dict:
    """What result.json holds. Raises InputError for the user's mistakes."""
    args = get_args_parser().parse_args(argv)
    machine = Machine(args.data_root, args.device, args.num_workers)
    runs = [open_run(folder, machine) for folder in dict.fromkeys(args.runs)]
    labels, members = member_logits(runs)
    command = shlex.join(["python", "scripts/ensemble.py", *argv])
    found = {**result(runs, labels, members), "command": command}
    rows = {**{name: f"accuracy_{name}" for name in members}, "mean of softmaxes": "accuracy",
            "mean of logits": "accuracy_of_mean_logits",
            "softmaxes weighted by certainty": "accuracy_weighted_by_certainty"}
    print(f"top-1 % on {len(labels)} test clips\n"
          + markdown(["", "accuracy"], [[name, f"{100 * found[metric]:.2f}"] for name, metric in rows.items()]))
    if args.output:
        write(args.output, runs, found)
    return found


if __name__ == "__main__":
    cli.run(main)
