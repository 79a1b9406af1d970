"""The paper's tables: checks the data, trains every cell with several seeds, and puts the results beside the paper's.

    python scripts/reproduce.py --list                                    # operating points (--preset NAME)
    python scripts/reproduce.py --dry_run                                 # CREMA-D: commands, hours, gigabytes
    python scripts/reproduce.py --random_seed 0 1 2 --workers 2           # start it again to continue
    python scripts/reproduce.py --script main_SSW.py -- --audio_pretrain A.pt --visual_pretrain V.pt   # for every run
    python scripts/reproduce.py --cells mmcosine-concat --random_seed 0 --demo    # a cell on synthetic data
    python scripts/reproduce.py --report_only                             # the table again, from the runs

A cell is a preset of the entry script. Without --cells: those of Table 1 (main_UCF.py: of the supplement).

Hours follow from earlier runs in --output, else from an epoch of the first cell on this machine, on a few clips of the
data set's sizes. Gigabytes are those of the checkpoints. Of CREMA-D it says which frames are there.

Writes   <output>/<run>/, runs.csv, table.md     as scripts/sweep.py
         <output>/reproduction.md                paper | ours | seeds | difference; runs that depart from a preset have
                                                 rows of their own, and below it stands what cannot be compared
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from dataset.errors import InputError
from utils import cli
from utils.experiments.flags import split_argv
from utils.training.presets import Preset, departures, presets_of

if TYPE_CHECKING:
    from utils.experiments.finished_run import FinishedRun

TRAINING_CLIPS = {"main_CD.py": 6698, "main_SSW.py": 3462, "main_UCF.py": 9537, "main_Vox.py": 1_092_009}
PAPERS_CLIPS = {"CREMAD": 6698, "SSW60": 3462, "UCF101": 9537}  # for training; of VoxCeleb it does not say how many
MEASURED_CLIPS = 128  # of an epoch whose speed is measured
LONG_EPOCH = 60  # seconds; a shorter one is measured again, without what is done but once
AROUND_EPOCHS = 1.1  # evaluation of the test clips
TENSORS = 3  # best.pt holds the weights, last.pt the weights and their momentum


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, usage="%(prog)s [options] [-- FLAGS]",
                        formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--script", type=Path, default=Path("main_CD.py"), help="entry script")
    parser.add_argument("--cells", nargs="+", metavar="PRESET", help="default: those of the paper's table")
    parser.add_argument("--random_seed", type=cli.number(int, 0), nargs="+", default=[0, 1, 2],
                        help="seeds of every cell")
    parser.add_argument("--output", type=Path, help="folder of all runs; default: runs/reproduce_<script>")
    parser.add_argument("--workers", type=cli.number(int, 1, 1024), default=1, help="runs at a time")
    cli.add_boolean(parser, "--demo", False, "synthetic data, and its short runs")
    cli.add_boolean(parser, "--dry_run", False, "print what would run and stop")
    cli.add_boolean(parser, "--report_only", False, "make the table of --output and stop")
    cli.add_boolean(parser, "--list", False, "print the presets of all entry scripts and stop")
    return parser


def list_presets() -> str:
    lines = []
    for script in TRAINING_CLIPS:
        for preset in presets_of(script).values():
            chosen = f" Not published, chosen here: {preset.chosen}." if preset.chosen else ""
            lines += [" ".join(["python", script, "--train", "--preset", preset.name, *preset.needs]),
                      f"    {preset.source}.{chosen}",
                      f"    {' '.join(preset.argv)}"]
    return "\n".join(lines)


def chosen_cells(script: str, names: Sequence[str] | None) -> list[Preset]:
    """Raises InputError: no such preset."""
    known = presets_of(script)
    if not known:
        raise InputError(f"{script} has no presets: choose --script from {', '.join(TRAINING_CLIPS)}")
    for name in names or ():
        if name not in known:
            raise InputError(f"{script} has no preset {name}: choose from {', '.join(known)}")
    table = [name for name in known if name.startswith(("plain-", "mmcosine-")) and "contrastive" not in name]
    return [known[name] for name in names or table]


# ---- before the runs


def check_data(script: ModuleType, argv: Sequence[str]) -> int | None:
    """The number of usable training clips; notes of what is not as the paper's are printed. None where the data is not
    there, which is printed too."""
    from dataset.cremad import frames_told

    try:
        args = script.parse(argv)
        data = script.load_data(args) if hasattr(script, "load_data") else script.load_splits(args)
        if args.script == "main_CD.py":
            print(f"frames: {frames_told(args.data_root, args.fps)}")
    except InputError as error:
        print(f"data: {error}")
        return None
    return len(data.train)


def measured_speed(script: ModuleType, path: Path, argv: Sequence[str]) -> tuple[float, int]:
    """(clips/s of a plain training epoch on this machine, bytes of a run's checkpoints)"""
    from utils import distributed
    from utils.experiments import benchmark_data
    from utils.experiments.machine_speed import seconds
    from utils.training.engine import Learner, train_one_epoch
    from utils.training.train import place

    with tempfile.TemporaryDirectory() as folder:
        args = script.parse([*argv, *benchmark_data.make_data(path.name, Path(folder), MEASURED_CLIPS)])
        with distributed.session(args.device, args.gpu_ids) as device:
            with redirect_stdout(io.StringIO()):  # notes about the data, which are made for this
                task = script.build(args, device)
            model = place(task.model, task.compute, args.compile)
            learner = Learner(model, task.compute, "sgd", 1e-3, 1e-4, 100, 0.1)
            loader = task.loaders.training(task.train)
            print(f"measuring an epoch of {len(task.train)} clips, made for it ...", flush=True)
            time = seconds(lambda: train_one_epoch(learner, loader, lam=0), device)
            if time < LONG_EPOCH:
                time = seconds(lambda: train_one_epoch(learner, loader, lam=0), device)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    return len(task.train) / time, TENSORS * size


class Cost(NamedTuple):
    hours: float
    gigabytes: float
    source: str


def cost(script: ModuleType, path: Path, argv: Sequence[str], clips: int, epochs: int, runs: int,
         output: Path) -> Cost:
    """Of so many runs."""
    if earlier := finished_epochs(output):
        seconds, size = (statistics.median(each) for each in zip(*earlier, strict=True))
        return Cost(seconds * epochs * runs / 3600, runs * size / 1e9, "the median of earlier runs")
    speed, size = measured_speed(script, path, argv)
    return Cost(clips / speed * epochs * AROUND_EPOCHS * runs / 3600, runs * size / 1e9,
                f"{speed:.1f} clips/s measured here")


def finished_epochs(output: Path) -> list[tuple[float, int]]:
    """(seconds of an epoch with all that a run does around it, bytes of the checkpoints) of each finished run."""
    from dataset.whole_files import read_json

    results = {path.parent: read_json(path) for path in sorted(output.glob("*/result.json"))}
    return [(result["wall_seconds"] / result["epochs"], sum(file.stat().st_size for file in folder.glob("*.pt")))
            for folder, result in results.items() if "wall_seconds" in result]


# ---- after them


def reproduction(output: Path, cells: Sequence[Preset]) -> str:
    """Markdown: paper | ours | seeds | difference, a row for each cell and test list that has results."""
    from utils.experiments import comparison
    from utils.experiments.paper_results import SIZES, paper_result, published
    from utils.experiments.tables import markdown, percent

    runs = comparison.read_runs(output)
    groups = [list(group.values()) for group in comparison.make_groups(runs, comparison.varying(runs)).values()]
    rows, notes = [], []
    for preset in cells:
        own = [group for group in groups if group[0].settings.get("preset") == preset.name]
        if not own:
            rows.append([preset.name, "", "", "0", ""])
        for group in own:
            first = group[0]
            name = ", ".join(filter(None, [preset.name, departures(first.result)]))
            size = comparison.test_size(first.result)
            paper = paper_result(first.settings, size) or published(first.settings)
            ours = [run.result[first.measure] for run in group]
            reasons = dict.fromkeys(reason for run in group for reason in reasons_against(run, SIZES))
            if not reasons and paper_result(first.settings, size) is None:
                reasons = ["other settings than the paper's"]
            difference = f"{100 * statistics.fmean(ours) - paper:+.2f}" if paper and not reasons else ""
            rows.append([name, f"{paper:.2f}" if paper else "", percent(ours), str(len(group)), difference])
            if reasons:
                notes.append(f"{name}: not comparable with the paper's: {', '.join(reasons)}")
    measure = "top-1 %" if runs[0].measure == "accuracy" else "equal error rate %"
    text = markdown(["cell", f"paper, {measure}", "ours", "seeds", "difference"], rows)
    return "\n".join([text, "", *notes, ""])


def reasons_against(run: FinishedRun, sizes: Mapping[str, int]) -> list[str]:
    """Why the result of a run cannot be compared with a published one, as far as its preset and its data say so."""
    from utils.experiments.comparison import test_size

    reasons = [changed] if (changed := departures(run.result)) else []
    dataset = run.settings["dataset"]
    if dataset not in sizes:
        return [*reasons, f"the data set is {dataset}"]
    size, trained, papers = test_size(run.result), run.result.get("n_train"), PAPERS_CLIPS.get(dataset)
    if size != sizes[dataset]:
        reasons.append(f"{size} test clips or trials, the paper has {sizes[dataset]}")
    if trained and papers and trained != papers:
        reasons.append(f"{trained} training clips, the paper has {papers}")
    return reasons


def main(argv: Sequence[str]) -> str:
    """The table, or what --dry_run prints. Raises InputError."""
    parser = get_args_parser()
    own, axes, rest = split_argv(argv, parser)
    args = parser.parse_args(own)
    if axes:
        parser.error(f"unrecognized arguments: --{' --'.join(axes)} (flags of the entry script stand after --)")
    if args.list:
        print(list_presets())
        return ""
    cells = chosen_cells(args.script.name, args.cells)
    output = args.output or Path("runs") / f"reproduce_{args.script.stem}{'_demo' if args.demo else ''}"
    if not args.report_only:
        run_cells(args, cells, output, rest)
    if args.dry_run:
        return ""
    from dataset.whole_files import write_whole

    text = reproduction(output, cells)
    write_whole(output / "reproduction.md", text)
    print(f"\n{text}\n{output / 'reproduction.md'}")
    return text


def run_cells(args: argparse.Namespace, cells: Sequence[Preset], output: Path, rest: Sequence[str]) -> None:
    from scripts import sweep
    from utils.experiments import entry_script

    script = entry_script.load(args.script, ("parse", "build", "MODALITIES"))
    flags = [*["--demo"] * args.demo, *rest]
    first = ["--train", "--preset", cells[0].name, *flags]
    clips = None if args.demo else check_data(script, first)
    grid = ["--script", str(args.script), "--output", str(output), "--workers", str(args.workers),
            "--preset", *(cell.name for cell in cells), "--random_seed", *map(str, args.random_seed)]
    if args.dry_run:
        sweep.main([*grid, "--dry_run", *(["--", *flags] if flags else [])])
    if not args.demo:
        count = len(cells) * len(args.random_seed)
        epochs = script.parse(first).epochs
        found = cost(script, args.script, first, clips or TRAINING_CLIPS[args.script.name], epochs, count, output)
        print(f"{count} runs of {epochs} epochs: some {found.hours / args.workers:,.0f} h with --workers "
              f"{args.workers} ({found.source}), {found.gigabytes:.1f} GB of checkpoints", flush=True)
    if args.dry_run:
        return
    if clips is None and not args.demo:
        raise InputError("the data cannot be used: see above. Prepare it, name it with -- --data_root DIR, "
                         "or try --demo")
    sweep.main([*grid, *(["--", *flags] if flags else [])])


if __name__ == "__main__":
    cli.run(main)
