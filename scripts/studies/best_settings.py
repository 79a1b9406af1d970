"""The settings of a search that are best on its validation clips, as flags for the next sweep.

    python scripts/sweep.py --output runs/search --learning_rate 0.003 0.01 0.03 -- --val_fraction 0.2
    python scripts/studies/best_settings.py --output runs/search --learning_rate 0.003 0.01 0.03 -- --val_fraction 0.2
    python scripts/sweep.py --output runs/final --random_seed 0 1 2 3 4 --learning_rate 0.01      # if it printed that

Takes the arguments of the search's sweep and looks at these runs alone. Each counts with the validation metric of its
best epoch, never with its test metric; of equal runs the first of the sweep is taken. A run that ended because its loss
was not finite is not chosen. Prints the values of those axes that have several, and in a second line the name of the
run; how good each was is printed to standard error.

Writes   <output>/chosen.json       the runs, how good each was, and what was chosen: later calls must find the same

Exit status: 0, or 2 when nothing can be chosen: unfinished runs, none with --val_fraction, several data sets, lists or
seeds, other runs in the folder, another choice than before.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from dataset.errors import InputError, first_few
from dataset.whole_files import read_json, write_whole
from utils import cli
from utils.experiments.flags import split_argv

CHOICE = "chosen.json"


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__,
                        usage="%(prog)s [options] [--<flag of the entry script> VALUE ...] [-- FLAGS]",
                        formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--script", type=Path, default=Path("main_CD.py"), help="entry script")
    parser.add_argument("--output", type=Path, required=True, help="--output of the search")
    return parser


if __name__ == "__main__":
    get_args_parser().parse_args(split_argv(sys.argv[1:], get_args_parser())[0])  # before the slow imports below

from utils.experiments import comparison, entry_script, grid
from utils.experiments.finished_run import FinishedRun
from utils.experiments.grid import PlannedRun
from utils.training.run import DIVERGED, is_finished


def main(argv: Sequence[str]) -> list[str]:
    """The flags. Raises InputError: nothing can be chosen."""
    own, axes, rest = split_argv(argv, get_args_parser())
    args = get_args_parser().parse_args(own)
    script = entry_script.load(args.script)
    grid.check_axes(script, axes, list(get_args_parser()._option_string_actions))
    runs = grid.plan(script, axes, rest, args.output)
    finished = finished_runs(runs, args.output)
    scores = {run.name: validation(finished[run.name]) if run.name in finished else None for run in runs}
    better = max if comparison.measure_of(next(iter(finished.values()))) == "accuracy" else min
    best = better((run for run in runs if run.name in finished), key=lambda run: scores[run.name])
    flags = flags_of(best, axes)
    keep(args.output / CHOICE, {"searched": scores, "chosen": best.name, "flags": flags})
    for name, score in scores.items():
        told = "diverged" if score is None else f"{100 * score:.2f} % on validation clips"
        print(f"{name}: {told}{' (chosen)' if name == best.name else ''}", file=sys.stderr)
    print(f"{shlex.join(flags)}\n{best.name}")
    return flags


def finished_runs(runs: Sequence[PlannedRun], output: Path) -> dict[str, FinishedRun]:
    """{name: run} of a search that is over. Raises InputError: it is not, or its runs cannot be compared."""
    others = sorted({path.parent.name for path in output.glob("*/args.json")} - {run.name for run in runs})
    if others:
        raise InputError(f"{output} holds {len(others)} runs of another search: {first_few(others)}. Choose another "
                         "--output, or move them away")
    begun = [run for run in runs if grid.state(run) != grid.NEW]
    found = {run.name: FinishedRun(run.folder) for run in begun if is_finished(run.folder)}
    waiting = [run.name for run in runs if run.name not in found and not (run.folder / DIVERGED).is_file()]
    if waiting:
        raise InputError(f"the search in {output} is not over: {len(waiting)} of {len(runs)} runs have no result and "
                         f"have not diverged ({first_few(waiting)}). Start its sweep again to continue")
    if not found:
        raise InputError(f"all {len(runs)} runs of the search in {output} diverged: search lower --learning_rate")
    for name in ("dataset", "random_seed", "lists", "variant"):
        values = sorted({str({**run.settings, **run.result}.get(name)) for run in found.values()})
        if len(values) > 1:
            raise InputError(f"the runs in {output} differ in {name} ({', '.join(values)}): search one data set with "
                             "one seed")
    return found


def validation(run: FinishedRun) -> float:
    """The metric of the best epoch on the validation clips. Raises InputError: the test set chose it."""
    name = f"best_val_{comparison.measure_of(run)}"
    if name not in run.result:
        raise InputError(f"the result of {run.folder} has no {name}: give the sweep --val_fraction, so that validation "
                         "clips choose and the test set chooses nothing, or move runs of an older version away")
    return run.result[name]


def flags_of(run: PlannedRun, axes: Mapping[str, Sequence[str]]) -> list[str]:
    """The run's values of the axes that have several, where they mean something for it."""
    values = {name: run.settings[name] for name, every in axes.items() if len(every) > 1 and f"--{name}" in run.argv}
    return [word for name, value in values.items()
            for word in (f"--{name}", "+".join(value) if isinstance(value, list) else str(value))]


def keep(path: Path, choice: Mapping[str, object]) -> None:
    """Writes the choice, or compares it with an earlier one. Raises InputError: that was another."""
    before = read_json(path) if path.is_file() else choice
    if before != choice:
        raise InputError(f"{path} says that {before.get('chosen')} was chosen among {before.get('searched')}, now it "
                         f"is {choice['chosen']} among {choice['searched']}: choose another --output, or remove that "
                         "file and all runs that were made with its choice")
    write_whole(path, json.dumps(choice, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
