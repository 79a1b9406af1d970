"""Runs an entry script over a grid of settings and seeds, and puts the runs into one table.

    python scripts/sweep.py --script main_CD.py --fusion_method concat gated --mmcosine False True --scaling 2 10 \
        --random_seed 0 1 2 --output runs/fusions --dry_run                        # the commands, nothing else
    python scripts/sweep.py --script main_CD.py --mmcosine False True --random_seed 0 1 2 --demo
    python scripts/sweep.py --script main_Vox.py --mmcosine False True --workers 4 -- --epochs 50   # -- for every run
    python scripts/sweep.py --output runs/fusions --report_only                    # the tables again, from the folders

An axis takes several values; one that is not given is left to the script. Combinations that differ only in a setting
without meaning (--scaling without MMCosine, --fusion_method of one encoder alone, ...) are one run.

Writes   <output>/<run>/            what the entry script leaves
         <output>/<run>.log         what it prints
         <output>/runs.csv          a row a run: settings, figures, commit, command
         <output>/table.md          mean +- std over seeds, the paper's figure, the difference to plain and its interval

Start the same command again to go on: runs with a result are skipped, others resumed. A run that fails does not stop
the others. Exit status 0 when every run has its result, 2 otherwise; 130 after Ctrl-C, 143 after SIGTERM.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from utils import cli
from utils.distributed import say
from utils.errors import InputError
from utils.experiments import comparison, grid, jobs
from utils.experiments.grid import BEGUN, DONE, PlannedRun
from utils.experiments.jobs import Job
from utils.training.run import is_finished
from utils.whole_files import write_whole


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, default=Path("main_CD.py"), help="entry script, default main_CD.py")
    parser.add_argument("--output", type=Path, default=Path("runs/sweep"), help="folder for all, default runs/sweep")
    parser.add_argument("--workers", type=cli.number(int, 1), default=1,
                        help="runs at a time; several: each has one card, in turn when there are fewer")
    parser.add_argument("--demo", action="store_true", help="short for -- --demo: data made on the spot")
    parser.add_argument("--dry_run", action="store_true", help="print the commands and stop")
    parser.add_argument("--report_only", action="store_true", help="make the tables of --output and stop")
    axes = parser.add_argument_group("axes: several values each, as the entry script takes them")
    for name in grid.AXES:
        axes.add_argument(f"--{name}", nargs="+", metavar="VALUE")
    parser.add_argument("flags", nargs="*", help="behind a --: flags for every run")
    return parser


def main(argv: Sequence[str]) -> list[comparison.FinishedRun]:
    """The finished runs of --output. Raises InputError for the user's mistakes, and at the end for failed runs."""
    args, others = get_args_parser().parse_known_args(argv)
    if others:
        raise InputError(f"{others[0]} is no flag of a sweep: give flags for every run behind a --, {others[0]} among "
                         "them, after the sweep's own")
    if args.report_only:
        return report(args.output)
    script = (REPO / args.script).resolve()
    runs = grid.plan(grid.load_script(script), {name: getattr(args, name) for name in grid.AXES},
                       [*["--demo"] * args.demo, *args.flags], args.output)
    if args.workers > 1 and any(run.settings["gpu_ids"] or ":" in run.settings["device"] for run in runs):
        raise InputError("--gpu_ids, or --device with a card's number, gives every run the same cards: leave it out, "
                         "or leave out --workers")
    if args.dry_run:
        tell_commands(runs, args.script)
        return []
    with jobs.alone_in(args.output) as lock:
        failed = carry_out(runs, script, args.workers, lock)
    finished = report(args.output) if any(map(is_finished, args.output.iterdir())) else []
    if failed:
        raise InputError("\n  ".join([f"{len(failed)} of {len(runs)} runs failed:", *failed.values(),
                                      "Mend that and start the same command again: it goes on with these alone"]))
    return finished


def tell_commands(runs: Sequence[PlannedRun], script: Path) -> None:
    for run in runs:
        done = grid.state(run) == DONE
        say(f"# {run.name} is done" if done else grid.command_line(run, script))


def carry_out(runs: Sequence[PlannedRun], script: Path, workers: int, lock: int) -> dict[str, str]:
    """Runs what has no result yet -> {run: why it failed, and where its log is}."""
    states = [grid.state(run) for run in runs]  # all, before any starts: a folder of other settings stops the sweep
    todo = {run.name: run for run, state in zip(runs, states, strict=True) if state != DONE}
    say(f"{len(runs)} runs: {states.count(DONE)} done, {states.count(BEGUN)} to go on with, "
        f"{len(todo) - states.count(BEGUN)} to begin")
    for run in todo.values():
        grid.clear_start(run)
    failed: dict[str, str] = {}
    jobs.run_jobs([Job(run.name, [str(script), *grid.command(run)], run.folder.with_name(f"{run.name}.log"))
                   for run in todo.values()], workers, jobs.visible_cards(), lock, partial(tell_end, todo, failed))
    return failed


def tell_end(todo: dict[str, PlannedRun], failed: dict[str, str], job: Job, status: int) -> None:
    """Says how a run ended; one that failed goes into `failed`."""
    if status == 0 and is_finished(todo[job.name].folder):
        say(f"{job.name}: done")
        return
    last = job.log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    failed[job.name] = f"{job.name} (exit status {status}): {last or 'it said nothing'} (log: {job.log})"
    say(f"failed: {failed[job.name]}")


def report(output: Path) -> list[comparison.FinishedRun]:
    """Writes runs.csv and table.md of the finished runs in a folder, and prints the table."""
    runs = comparison.read_runs(output)
    table = comparison.markdown(runs)
    write_whole(output / "runs.csv", comparison.csv_text(runs))
    write_whole(output / "table.md", table)
    say(f"\n{table}\ntable: {output / 'table.md'}, a row a run: {output / 'runs.csv'}")
    return runs


if __name__ == "__main__":
    cli.run(main)
