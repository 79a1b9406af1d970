"""Runs an entry script over a grid of settings and seeds, and collects the runs in one table.

    python scripts/sweep.py --script main_CD.py --fusion_method concat gated --mmcosine False True --dry_run
    python scripts/sweep.py --learning_rate 0.001 0.01 --batch_size 32 64 --random_seed 0 1 2 --demo
    python scripts/sweep.py --script main_Vox.py --mmcosine False True --workers 4 -- --epochs 50   # -- for every run
    python scripts/sweep.py --output runs/fusions --report_only        # the tables again, from the folders
    python scripts/sweep.py --table_of runs/fusions/runs.csv           # the same from the csv alone
    python scripts/sweep.py --random_seed 0 1 2 --launcher slurm --slurm timeout_min=240 gpus_per_node=1

    python scripts/sweep.py --modality audio visual ensemble --random_seed 0 1 2       # and scripts/ensemble.py of both

--dry_run prints the commands only. With --report_only, --random_seed names seeds: the table tells which rows lack one.

Every flag of the entry script (python main_CD.py --help lists them) can be an axis and then takes several values; one
that is not given is left to the script. A value of a flag that takes a list is one word, joined by +: rgb+flow. Runs
are named by their axes; flags after -- go to every run and do not name it. Combinations that differ only in a setting
without effect (--scaling without MMCosine, --fusion_method of one encoder alone, ...) are one run. A flag that is given
twice has the values of the last time. {random_seed} in a value stands for the run's seed, as in --data_root
'data/fold{random_seed}' or --audio_pretrain 'runs/sweep/CREMAD-audio-plain-seed{random_seed}/best.pt'.

Writes   <output>/<run>/            what the entry script writes
         <output>/<run>.log         what it prints
         <output>/runs.csv          one row per run: settings, metrics, commit, command; unfinished ones last
         <output>/table.md          mean +- std over seeds, the paper's result, the difference to plain and its interval

Start the same command again to continue: runs with a result are skipped, others resumed. A run that fails does not
stop the others. Exit status 0 when every run has its result, 2 otherwise; 130 after Ctrl-C, 143 after SIGTERM.
"""

import argparse
import shlex
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from dataset.errors import InputError
from utils import cli
from utils.experiments.flags import split_argv


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__,
                        usage="%(prog)s [options] [--<flag of the entry script> VALUE ...] [-- FLAGS]",
                        formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--script", type=Path, default=Path("main_CD.py"), help="entry script")
    parser.add_argument("--output", type=Path, default=Path("runs/sweep"),
                        help="folder of all runs")
    parser.add_argument("--workers", type=cli.number(int, 1, 1024), default=1,
                        help="runs at a time; with several each has one GPU, in turn when there are fewer; default: "
                             "%(default)s")
    parser.add_argument("--launcher", choices=("here", "slurm", "local"), default="here",
                        help="here: --workers runs at a time on this machine; slurm: a job for each run; local: as "
                             "slurm without a cluster, to try it out")
    parser.add_argument("--slurm", nargs="+", default=[], metavar="NAME=VALUE", help="of submitit's update_parameters: "
                        "timeout_min=240 gpus_per_node=1 cpus_per_task=8 slurm_partition=gpu")
    cli.add_boolean(parser, "--demo", False, "short for -- --demo: synthetic data, made when it is needed")
    cli.add_boolean(parser, "--dry_run", False, "print the commands and stop")
    cli.add_boolean(parser, "--report_only", False, "make the tables of --output and stop")
    parser.add_argument("--table_of", type=Path, metavar="CSV", help="print the tables of a runs.csv and stop")
    return parser


if __name__ == "__main__":
    # --help is answered before the slow imports below
    get_args_parser().parse_args(split_argv(sys.argv[1:], get_args_parser())[0])

from contextlib import closing

from dataset.whole_files import remove_leftovers, write_csv, write_whole
from utils.distributed import print_once
from utils.experiments import comparison, entry_script, grid, jobs, run_rows, slurm
from utils.experiments.finished_run import FinishedRun
from utils.experiments.grid import BEGUN, DONE, Ensemble, PlannedRun
from utils.experiments.jobs import Job
from utils.training.modalities import ENSEMBLE
from utils.training.run import is_finished


def main(argv: Sequence[str]) -> list[FinishedRun]:
    """The finished runs of --output. Raises InputError for the user's mistakes, and at the end for failed runs."""
    own, axes, rest = split_argv(argv, get_args_parser())
    args = get_args_parser().parse_args(own)
    if args.table_of:
        print(comparison.report(*run_rows.read_csv(args.table_of)))
        return []
    script = entry_script.load(args.script)
    ensembles = ENSEMBLE in axes.get("modality", ())
    if ensembles:
        axes["modality"] = [value for value in axes["modality"] if value != ENSEMBLE]
    if args.slurm and args.launcher == "here":
        raise InputError("--slurm has no effect without --launcher slurm")
    grid.check_axes(script, axes, list(get_args_parser()._option_string_actions))
    if args.report_only:
        return report(args.output, axes.get("random_seed", ()))
    runs = grid.plan(script, axes, [*["--demo"] * args.demo, *rest], args.output)
    runs = grid.in_one_precision(runs, here=args.launcher != "slurm")
    if args.workers > 1 and any(run.settings["gpu_ids"] or ":" in run.settings["device"] for run in runs):
        raise InputError("--gpu_ids, or --device with an index, gives every run the same GPUs: leave it out, or leave "
                         "out --workers")
    if args.dry_run:
        print_commands(runs, args.script)
        print_ensembles(grid.ensembles(runs) if ensembles else [])
        return []
    with jobs.alone_in(args.output) as lock:
        remove_leftovers(args.output)
        todo = planned(runs)
        failed = carry_out(todo, launched(todo, args, lock))
        if ensembles:
            failed += combine(grid.ensembles(runs), args.workers, lock)
    finished = report(args.output) if any(map(is_finished, args.output.iterdir())) else []
    if failed:
        raise InputError("\n  ".join([f"{len(failed)} of {len(runs)} runs failed:", *failed,
                                      "Fix that and start the same command again: it runs only these"]))
    return finished


def print_commands(runs: Sequence[PlannedRun], script: Path) -> None:
    for run in runs:
        done = grid.state(run) == DONE
        print_once(f"# {run.name} is done" if done else grid.command_line(run, script))


def print_ensembles(ensembles: Sequence[Ensemble]) -> None:
    for one in ensembles:
        done = is_finished(one.folder)
        print_once(f"# {one.folder.name} is done" if done else shlex.join(["python", *one.argv]))


def combine(ensembles: Sequence[Ensemble], workers: int, lock: int) -> list[str]:
    """Evaluates the ensembles whose runs are finished and that have no result yet -> as `carry_out`."""
    todo = [one for one in ensembles if not is_finished(one.folder) and all(map(is_finished, one.members))]
    waiting = [Job(one.folder.name, [str(REPO / one.argv[0]), *one.argv[1:]],
                   one.folder.with_name(f"{one.folder.name}.log")) for one in todo]
    with closing(jobs.run_jobs(waiting, workers, jobs.visible_gpus(), lock)) as ended:
        return [failure(job, status) for job, status in ended if status]


def planned(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs that have no result yet, each ready to start or to continue."""
    states = [grid.state(run) for run in runs]  # all, before any starts: a folder of other settings stops the sweep
    todo = [run for run, state in zip(runs, states, strict=True) if state != DONE]
    print_once(f"{len(runs)} runs: {states.count(DONE)} done, {states.count(BEGUN)} to resume, "
               f"{len(todo) - states.count(BEGUN)} to start")
    for run in todo:
        grid.clear_start(run)
    return todo


def launched(todo: Sequence[PlannedRun], args: argparse.Namespace, lock: int) -> Generator[tuple[Job, int]]:
    """Each run with its exit status as it ends, by the launcher that was asked for."""
    script = entry_script.REPO / args.script
    if args.launcher == "here":
        return jobs.run_jobs([jobs.job_of(run, script) for run in todo], args.workers, jobs.visible_gpus(), lock)
    return slurm.run_jobs(todo, script, args.output / ".jobs", args.launcher, slurm.parse_options(args.slurm))


def carry_out(todo: Sequence[PlannedRun], ended: Generator[tuple[Job, int]]) -> list[str]:
    """Waits for the runs, of which `ended` gives each with its exit status -> for each that failed why, and where its
    log is."""
    folders = {run.name: run.folder for run in todo}
    failed = []
    with closing(ended):
        for job, status in ended:
            if status == 0 and is_finished(folders[job.name]):
                print_once(f"{job.name}: done")
            else:
                failed.append(failure(job, status))
                print_once(f"failed: {failed[-1]}")
    return failed


def failure(job: Job, status: int) -> str:
    text = job.log.read_text(encoding="utf-8", errors="replace") if job.log.is_file() else ""
    last = text.strip().rpartition("\n")[2]
    return f"{job.name} (exit status {status}): {last or 'no output'} (log: {job.log})"


def report(output: Path, seeds: Sequence[str] = ()) -> list[FinishedRun]:
    """Writes runs.csv and table.md of the runs in a folder, and prints the table, which tells rows that lack any of the
    seeds. Raises InputError: no run, or a seed is no number."""
    if not all(map(str.isdecimal, seeds)):
        raise InputError(f"--random_seed {' '.join(seeds)}: expected whole numbers")
    runs, unfinished = comparison.read_runs(output), run_rows.unfinished_rows(output)
    table = comparison.report(runs, [str(row["run"]) for row in unfinished], [*map(int, seeds)])
    write_csv(output / "runs.csv", [*map(run_rows.csv_row, runs), *unfinished])
    write_whole(output / "table.md", table)
    print_once(f"\n{table}\ntable: {output / 'table.md'}, one row per run: {output / 'runs.csv'}")
    return runs


if __name__ == "__main__":
    cli.run(main)
