"""The settings of a sweep's run that is best on its validation clips, as flags for the next sweep.

    python scripts/sweep.py --output runs/search --learning_rate 0.003 0.01 0.03 -- --val_fraction 0.2
    python scripts/best_settings.py runs/search                     # prints, for example: --learning_rate 0.01
    python scripts/sweep.py --output runs/final --random_seed 0 1 2 3 4 --learning_rate 0.01            # so that one

Prints the settings in which the runs differ. Each run counts with the validation metric of its best epoch, never with
its test metric; of equal runs the first in the table's order is taken. How good each was is printed to standard error.
--skip_unfinished: runs without a result, such as those that diverged, are told and not chosen.
Exit status: 0, or 2 when the runs cannot be compared: unfinished ones, none with --val_fraction, several data sets or
seeds.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset.errors import InputError, first_few
from dataset.whole_files import read_json
from utils import cli


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("output", type=Path, help="--output of the sweep")
    cli.add_boolean(parser, "--skip_unfinished", False, "choose among the runs that have a result")
    return parser


if __name__ == "__main__":
    get_args_parser().parse_args()  # --help is answered before the slow imports below

from utils.experiments import comparison
from utils.experiments.finished_run import FinishedRun
from utils.experiments.run_rows import RunRow, unfinished_rows


def main(argv: Sequence[str]) -> list[str]:
    """The flags. Raises InputError: runs that cannot be compared."""
    args = get_args_parser().parse_args(argv)
    output = args.output
    runs, rows = comparison.read_runs(output), unfinished_rows(output)
    begun = [str(row["run"]) for row in rows]
    others = [read_json(output / name / "args.json") for name in begun]
    if begun and args.skip_unfinished:
        print(f"no result: {', '.join(begun)}", file=sys.stderr)
    elif begun:
        raise InputError(f"{len(begun)} runs in {output} have no result yet: {first_few(begun)}. Start the sweep again "
                         "to continue them")
    for name in ("dataset", "random_seed"):
        values = sorted({str(run.settings[name]) for run in runs})
        if len(values) > 1:
            raise InputError(f"the runs in {output} differ in --{name} ({', '.join(values)}): search one data set with "
                             "one seed")
    scores = {run.name: validation(run) for run in runs}
    better = max if comparison.measure_of(runs[0]) == "accuracy" else min
    best = better(runs, key=lambda run: scores[run.name])
    for name, score in scores.items():
        print(f"{name}: {100 * score:.2f} % on validation clips{' (chosen)' if name == best.name else ''}",
              file=sys.stderr)
    names = comparison.varying([*runs, *(RunRow("", settings, {}, []) for settings in others)])
    flags = [word for name in names for word in (f"--{name}", str(best.settings[name]))]
    print(shlex.join(flags))
    return flags


def validation(run: FinishedRun) -> float:
    """The metric of the best epoch on the validation clips. Raises InputError: the test set chose it."""
    measure = comparison.measure_of(run)
    if f"last_val_{measure}" not in run.result:
        raise InputError(f"{run.folder} has no validation clips: give the sweep --val_fraction, so that the test set "
                         "chooses nothing")
    return run.history[run.result["best_epoch"] - 1][f"val_{measure}"]


if __name__ == "__main__":
    cli.run(main)
