"""A grid of settings for an entry script: which runs it has, what they are called, and how far they are.

Any flag of the script can be an axis; the script's own parser checks the values.
"""

import itertools
import shlex
import shutil
from argparse import Action
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from dataset.errors import InputError, first_few
from dataset.whole_files import read_json
from utils.distributed import choose_device, print_once
from utils.spelling import did_you_mean
from utils.training import checkpoint, options, run_folder
from utils.training.experiment import CORE, run_name
from utils.training.modalities import ENSEMBLE, is_joint
from utils.training.precision import PRECISIONS, choice
from utils.training.roles import Meaning

# The first one outermost: an interrupted sweep has all of the first seed before any of the second. Others come last.
FIRST_AXES = ("random_seed", *CORE)
NEW, BEGUN, DONE = "new", "begun", "done"


class PlannedRun(NamedTuple):
    """name: of its folder. argv: for the entry script. settings: what its args.json will hold. compared: those of them
    in which different runs differ."""

    name: str
    folder: Path
    argv: tuple[str, ...]
    settings: Mapping[str, object]
    compared: Mapping[str, object]


class Ensemble(NamedTuple):
    """Runs of one modality each that differ in nothing else. folder: of its result. argv: of the program that makes it.
    """

    folder: Path
    members: tuple[Path, ...]
    argv: tuple[str, ...]


def ensembles(runs: Sequence[PlannedRun]) -> list[Ensemble]:
    """Those that planned runs of one modality make."""
    alone: dict[Path, list[PlannedRun]] = {}
    for run in runs:
        modality = run.settings["modality"]
        if not is_joint(modality):
            start = f"{run.settings['dataset']}-"
            name = f"{start}{ENSEMBLE}-{run.name.removeprefix(f'{start}{modality}-')}"
            alone.setdefault(run.folder.with_name(name), []).append(run)
    found = []
    for folder, members in alone.items():
        folders = tuple(run.folder for run in members)
        machine = ("--device", str(members[0].settings["device"]),
                   "--num_workers", str(members[0].settings["num_workers"]))
        argv = ("scripts/ensemble.py", *map(str, folders), "--output", str(folder), *machine)
        found += [Ensemble(folder, folders, argv)] if len(members) > 1 else []
    return found


def check_axes(script: ModuleType, axes: Mapping[str, Sequence[str]], own: Sequence[str]) -> None:
    """Raises InputError: an axis that is not a flag of the script, or cannot be one. own: the sweep's flags."""
    known = meanings(script)
    for name, values in axes.items():
        if name in known and known[name].of_sweep:
            raise InputError(f"--{name} is set by the sweep for each of its runs: leave it out")
        if name not in known:
            offered = [*own, *(f"--{flag}" for flag, meaning in known.items() if not meaning.of_sweep)]
            raise InputError(f"--{name} is a flag neither of the sweep nor of its entry script"
                             f"{did_you_mean([f'--{name}'], offered)}: see --help of both")
        if not known[name].is_compared() and len(values) > 1:
            raise InputError(f"--{name} does not change results and cannot be compared: give it one value")


def check_rest(script: ModuleType, rest: Sequence[str], axes: Mapping[str, Sequence[str]]) -> None:
    """Raises InputError: a flag for all runs that belongs among the axes, or to no run."""
    flags = {text.split("=")[0].removeprefix("--") for text in rest if text.startswith("--")}
    of_sweep = [name for name, meaning in meanings(script).items() if meaning.of_sweep]
    for name in (*FIRST_AXES, *of_sweep, *axes):
        if name in flags:
            where = "to no run: the sweep does" if name in of_sweep else "before the --, it is an axis"
            raise InputError(f"--{name} stands behind the --: give it {where}")


def meanings(script: ModuleType) -> dict[str, Meaning]:
    return script.get_args_parser().meanings()


def plan(script: ModuleType, axes: Mapping[str, Sequence[str]], rest: Sequence[str], output: Path) -> list[PlannedRun]:
    """The runs of a grid below `output`, each once: combinations that mean the same are one run.

    axes: {flag: values}, checked; a flag without values is given bare. rest: flags that every run gets. Raises
    InputError for a flag in `rest` that is an axis or the sweep's own; exits as the script's parser does for values
    that it refuses.
    """
    check_rest(script, rest, axes)
    in_order = sorted(axes, key=list(dict.fromkeys([*FIRST_AXES, *axes])).index)
    known = script.get_args_parser().actions
    words = [[words_of(name, value, known[name]) for value in axes[name] or [None]] for name in in_order]
    demo = script.get_args_parser().given(rest).get("demo", False)
    defaults = options.settings(script.parse(["--train", *["--demo"] * demo]))
    runs: dict[str, PlannedRun] = {}
    for values in itertools.product(*words):
        run = plan_run(script, dict(zip(in_order, values, strict=True)), rest, output, defaults)
        different = changes(run, runs.setdefault(run.name, run).settings)
        if different:
            raise InputError(f"two combinations are both called {run.name} ({different}): run them in two sweeps "
                             "with different --output")
    for name in axes:
        if not any(f"--{name}" in run.argv for run in runs.values()):
            raise InputError(f"--{name} has no effect in any of these runs: leave it out, or add the setting that it "
                             "belongs to")
    return list(runs.values())


def words_of(name: str, value: str | None, action: Action) -> list[str]:
    """A value of an axis as arguments: `rgb+flow` is two for a flag that takes a list."""
    if value is None:
        return [f"--{name}"]
    return [f"--{name}", *(value.split("+") if action.nargs in ("+", "*") else [value])]


def plan_run(script: ModuleType, combination: Mapping[str, Sequence[str]], rest: Sequence[str], output: Path,
             defaults: Mapping[str, object]) -> PlannedRun:
    """combination: {axis: its arguments}. {random_seed} in an argument stands for the run's seed."""
    parser = script.get_args_parser()
    asked = parser.parse_args([*itertools.chain(*combination.values()), *rest])
    idle = parser.idle(vars(asked))
    compared = ["script", *(name for name, meaning in parser.meanings().items() if meaning.is_compared())]
    kept = {name: words for name, words in combination.items() if name not in idle}
    words = [*itertools.chain(*kept.values()), *rest]
    argv = ["--train", *(word.replace("{random_seed}", str(asked.random_seed)) for word in words),
            "--ckpt_path", str(output)]
    settings = options.settings(script.parse(argv))
    axes = {name: defaults[name] for name in kept if name in compared and name not in {*FIRST_AXES, "dataset"}}
    name = run_name(settings, axes)
    return PlannedRun(name, output / name, (*argv, "--run_name", name), settings,
                      {name: settings[name] for name in compared})


def state(run: PlannedRun) -> str:
    """DONE: it has a result. BEGUN: it has a last.pt to continue from. NEW: nothing to keep is there.

    Raises InputError: the folder holds a run with other settings, a finished one of data elsewhere, or no run.
    """
    if not run.folder.exists():
        return NEW
    if (run.folder / "args.json").is_file():
        saved = with_agreeing_precision(run, read_json(run.folder / "args.json"))
        different = changes(run, saved)
        if different:
            raise InputError(f"{run.folder} holds a run with other settings ({different}): choose another --output, or "
                             "move that folder away")
        check_same_place(run, saved)
    for name, found in (("result.json", DONE), ("last.pt", BEGUN)):
        if (run.folder / name).is_file():
            return found
    others = run_folder.others(run.folder)
    if others:
        raise InputError(f"{run.folder} holds no result.json and no last.pt but {first_few(others, 3)}: no run of a "
                         "sweep. Move it away, or choose another --output")
    return NEW


def with_agreeing_precision(run: PlannedRun, saved: Mapping[str, object]) -> Mapping[str, object]:
    """The settings `saved` of the run's folder, with the planned --amp if both mean the same
    precision.

    A planned `auto` is the precision of the sweep's runs, a saved `auto` that of the saved run.
    """
    planned = run.settings["amp"]
    agrees = planned == "auto" or str(PRECISIONS[planned]) == f"torch.{precision_of(run.folder)}"
    return {**saved, "amp": planned} if agrees else saved


def precision_of(folder: Path) -> str | None:
    """What a run is computed in, such as `bfloat16`; None where nothing says so."""
    try:
        if (folder / "result.json").is_file():
            return read_json(folder / "result.json").get("precision")
        if (folder / "last.pt").is_file():
            return checkpoint.load_own(folder / "last.pt", ["facts"])["facts"].get("precision")
    except InputError:  # is told when the run is continued, or read for the table
        pass
    return None


def in_one_precision(runs: Sequence[PlannedRun], here: bool) -> list[PlannedRun]:
    """The runs, where new ones with --amp auto get the precision of those that exist.

    This machine might choose another precision. here: whether all runs are computed on this
    machine.
    """
    auto = [run for run in runs if run.settings["amp"] == "auto"]
    there = Counter(filter(None, (precision_of(run.folder) for run in auto)))
    if not there:
        if auto and not here:
            print_once("note: --amp auto leaves the precision to each job's machine; where these differ, "
                       "give -- --amp bf16, or off, so that all runs are computed alike")
        return list(runs)
    before = there.most_common(1)[0][0]
    if here:
        device = choose_device(auto[0].settings["device"], auto[0].settings["gpu_ids"], 0)
        chosen = choice("auto", device)
        if str(chosen.precision) == f"torch.{before}":
            return list(runs)
        print_once(f"note: new runs of this sweep are computed in {before}, as the runs that exist; without them "
                   f"--amp auto would choose {str(chosen.precision).removeprefix('torch.')} here ({chosen.reason})")
    amp = next(name for name, dtype in PRECISIONS.items() if str(dtype) == f"torch.{before}")
    return [with_precision(run, amp) if run in auto and state(run) == NEW else run for run in runs]


def with_precision(run: PlannedRun, amp: str) -> PlannedRun:
    argv = (*run.argv[:-2], "--amp", amp, *run.argv[-2:])  # the last two name the run
    return run._replace(argv=argv, settings={**run.settings, "amp": amp}, compared={**run.compared, "amp": amp})


def check_same_place(run: PlannedRun, saved: Mapping[str, object]) -> None:
    """Raises InputError: a finished run with the settings `saved` was trained on data in another folder, which may be
    other data under the same names. One that goes on compares its data itself (utils/training/same_data.py)."""
    now = str(run.settings["data_root"])
    before = str(saved.get("data_root", now))
    if (run.folder / "result.json").is_file() and Path(before).resolve() != Path(now).resolve():
        raise InputError(f"{run.folder} is a finished run of the data in {before}, not of {now}: choose another "
                         f"--output for that data; if it is the same data, leave a link to it at {before}")


def changes(run: PlannedRun, saved: Mapping[str, object]) -> str:
    """In which settings the run differs from the one with the settings `saved`, "" for none."""
    return "; ".join(f"{name} {saved[name]}, now {value}" for name, value in run.compared.items()
                     if saved.get(name, value) != value)


def command(run: PlannedRun) -> list[str]:
    """The arguments that start or resume a run."""
    return [*run.argv, "--resume", str(run.folder)] if state(run) == BEGUN else list(run.argv)


def command_line(run: PlannedRun, script: Path) -> str:
    """What to type for it."""
    return shlex.join(["python", str(script), *command(run)])


def clear_start(run: PlannedRun) -> None:
    """Removes what a run has left that was killed before its first last.pt: the entry script needs a new folder."""
    if state(run) == NEW and run.folder.exists():
        shutil.rmtree(run.folder)
