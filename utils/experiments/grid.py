"""A grid of settings for an entry script: which runs it has, what they are called, and how far they are.

Any flag of the script can be an axis; the script's own parser checks the values.
"""

import itertools
import shlex
import shutil
from argparse import Action
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from dataset.errors import InputError, first_few
from dataset.whole_files import read_json
from utils.spelling import did_you_mean
from utils.training import options, run_folder
from utils.training.experiment import CORE, NOT_COMPARED, run_name, with_added_flags, without_meaning
from utils.training.modalities import ENSEMBLE, is_joint

# The first one outermost: an interrupted sweep has all of the first seed before any of the second. Others come last.
FIRST_AXES = ("random_seed", *CORE)
OWN = ("train", "ckpt_path", "run_name", "resume")  # flags that a sweep gives its runs itself
NEW, BEGUN, DONE = "new", "begun", "done"


class PlannedRun(NamedTuple):
    """name: of its folder. argv: for the entry script. settings: what its args.json will hold. defaults: those of the
    entry script."""

    name: str
    folder: Path
    argv: tuple[str, ...]
    settings: Mapping[str, object]
    defaults: Mapping[str, object]


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
    known = [f"--{name}" for name in actions(script)]
    for name, values in axes.items():
        if name in OWN:
            raise InputError(f"--{name} is set by the sweep for each of its runs: leave it out")
        if f"--{name}" not in known:
            offered = [flag for flag in (*own, *known) if flag.removeprefix("--") not in OWN]
            raise InputError(f"--{name} is a flag neither of the sweep nor of its entry script"
                             f"{did_you_mean([f'--{name}'], offered)}: see --help of both")
        if name in NOT_COMPARED and len(values) > 1:
            raise InputError(f"--{name} does not change results and cannot be compared: give it one value")


def check_rest(rest: Sequence[str], axes: Mapping[str, Sequence[str]]) -> None:
    """Raises InputError: a flag for all runs that belongs among the axes, or to no run."""
    flags = {text.split("=")[0].removeprefix("--") for text in rest if text.startswith("--")}
    for name in (*FIRST_AXES, *OWN, *axes):
        if name in flags:
            where = "to no run: the sweep does" if name in OWN else "before the --, it is an axis"
            raise InputError(f"--{name} stands behind the --: give it {where}")


def actions(script: ModuleType) -> dict[str, Action]:
    """{name of a flag: argparse's action}"""
    parser = script.get_args_parser()
    return {text.removeprefix("--"): action for action in parser._actions for text in action.option_strings}


def plan(script: ModuleType, axes: Mapping[str, Sequence[str]], rest: Sequence[str], output: Path) -> list[PlannedRun]:
    """The runs of a grid below `output`, each once: combinations that mean the same are one run.

    axes: {flag: values}, checked; a flag without values is given bare. rest: flags that every run gets. Raises
    InputError for a flag in `rest` that is an axis or the sweep's own; exits as the script's parser does for values
    that it refuses.
    """
    check_rest(rest, axes)
    in_order = sorted(axes, key=list(dict.fromkeys([*FIRST_AXES, *axes])).index)
    known = actions(script)
    words = [[words_of(name, value, known[name]) for value in axes[name] or [None]] for name in in_order]
    demo = getattr(script.get_args_parser().parse_known_args(rest)[0], "demo", False)
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
    idle = without_meaning(vars(asked))
    if not options.from_imagenet(asked, parser.declared):
        idle.add("imagenet")
    kept = {name: words for name, words in combination.items() if name not in idle}
    words = [*itertools.chain(*kept.values()), *rest]
    argv = ["--train", *(word.replace("{random_seed}", str(asked.random_seed)) for word in words),
            "--ckpt_path", str(output)]
    settings = options.settings(script.parse(argv))
    axes = {name: defaults[name] for name in kept if name not in {*FIRST_AXES, *NOT_COMPARED, "dataset"}}
    name = run_name(settings, axes)
    return PlannedRun(name, output / name, (*argv, "--run_name", name), settings, defaults)


def state(run: PlannedRun) -> str:
    """DONE: it has a result. BEGUN: it has a last.pt to continue from. NEW: nothing to keep is there.

    Raises InputError: the folder holds a run with other settings, a finished one of data elsewhere, or no run.
    """
    if not run.folder.exists():
        return NEW
    if (run.folder / "args.json").is_file():
        saved = read_json(run.folder / "args.json")
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


def check_same_place(run: PlannedRun, saved: Mapping[str, object]) -> None:
    """Raises InputError: a finished run with the settings `saved` was trained on data in another folder, which may be
    other data under the same names. One that goes on compares its data itself (utils/training/same_data.py)."""
    now = str(run.settings["data_root"])
    before = str(saved.get("data_root", now))
    if (run.folder / "result.json").is_file() and Path(before).resolve() != Path(now).resolve():
        raise InputError(f"{run.folder} is a finished run of the data in {before}, not of {now}: choose another "
                         f"--output for that data; if it is the same data, leave a link to it at {before}")


def changes(run: PlannedRun, saved: Mapping[str, object]) -> str:
    """In which settings the run differs from the one with the settings `saved`, "" for none. Runs of older versions,
    which do not name their encoders, have the default ones."""
    encoders = {name: value for name, value in run.defaults.items() if name.endswith("_encoder")}
    before = {**encoders, **with_added_flags(saved)}
    return "; ".join(f"{name} {before[name]}, now {value}" for name, value in run.settings.items()
                     if name not in NOT_COMPARED and before.get(name, value) != value)


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
