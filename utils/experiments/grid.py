"""A grid of settings over an entry script: which runs it has, what they are called, and how far they are.

A combination is {axis: value, as text} of the axes that were given; the entry script's own parser judges the values.
"""

import importlib.util
import itertools
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from utils.balancing import METHOD_FLAGS, METHODS
from utils.errors import InputError, first_few
from utils.training import options
from utils.training.run import read_json

# the first one outermost: an interrupted sweep has all of the first seed before any of the second
AXES = ("random_seed", "fusion_method", "mmcosine", "scaling", "modulation", *METHOD_FLAGS, "modality", "lam")
OWN = ("train", "ckpt_path", "run_name", "resume")  # flags that a sweep gives its runs itself
WHERE = (options.FREE_ON_RESUME - {"epochs"}) | {"command"}  # settings that say where a run ran, not what it computed
NEW, BEGUN, DONE = "new", "begun", "done"
OF_A_START = ("args.json", "events.out.tfevents.*", ".*")  # all that a run killed before its first last.pt has written


class PlannedRun(NamedTuple):
    """name: of its folder. argv: for the entry script. settings: what its args.json will hold."""

    name: str
    folder: Path
    argv: tuple[str, ...]
    settings: Mapping[str, object]


def load_script(path: Path) -> ModuleType:
    """An entry script as a module. Raises InputError: missing, or no entry script."""
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"no entry script {path}: name one with --script, as main_CD.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_args_parser") or not hasattr(module, "parse"):
        raise InputError(f"{path} is no entry script (it lacks get_args_parser or parse): name another with --script")
    return module


def plan(script: ModuleType, axes: Mapping[str, Sequence[str] | None], rest: Sequence[str],
         output: Path) -> list[PlannedRun]:
    """The runs of a grid below `output`, each once.

    axes: {axis: values}, None or nothing for an axis that is left to the script. rest: flags that every run gets.
    Raises InputError for a flag in `rest` that is an axis or the sweep's own; exits as the script's parser does for
    values that it refuses.
    """
    check_rest(rest)
    given = {name: values for name, values in axes.items() if values}
    combinations = [dict(zip(given, values, strict=True)) for values in itertools.product(*given.values())]
    runs: dict[str, PlannedRun] = {}
    for combination in combinations:
        run = plan_run(script, combination, rest, output)
        runs.setdefault(run.name, run)
    return list(runs.values())


def check_rest(rest: Sequence[str]) -> None:
    flags = {text.split("=")[0].removeprefix("--") for text in rest if text.startswith("--")}
    for name in (*AXES, *OWN):
        if name in flags:
            where = "before the --, it is an axis" if name in AXES else "to no run: the sweep does"
            raise InputError(f"--{name} stands behind the --: give it {where}")


def plan_run(script: ModuleType, combination: Mapping[str, str], rest: Sequence[str], output: Path) -> PlannedRun:
    parser = script.get_args_parser()
    asked = vars(parser.parse_args([*flags(combination), *rest]))
    idle = without_meaning(asked)
    kept = {name: value for name, value in combination.items() if name not in idle}
    argv = ["--train", *flags(kept), *rest, "--ckpt_path", str(output)]
    args = script.parse(argv)
    name = run_name(vars(args), parser.get_default)
    return PlannedRun(name, output / name, (*argv, "--run_name", name), options.settings(args))


def flags(combination: Mapping[str, str]) -> list[str]:
    return [text for name, value in combination.items() for text in (f"--{name}", value)]


def without_meaning(settings: Mapping[str, object]) -> set[str]:
    """The settings that do nothing beside the others, so that runs which differ in them alone are the same."""
    alone = settings["modality"] != "both"
    idle = {"fusion_method", "modulation", "lam"} if alone else set()
    if not settings["mmcosine"]:
        idle.add("scaling")
    return idle | {flag for flag in METHOD_FLAGS if alone or flag not in METHODS[settings["modulation"]].uses()}


def run_name(settings: Mapping[str, object], default: Callable[[str], object]) -> str:
    """The same name for the same point of the grid, whichever axes were given. default: by flag."""
    meant = {name: value for name, value in settings.items() if name not in without_meaning(settings)}
    parts = [settings["dataset"], meant.get("fusion_method", settings["modality"]),
             f"mmcosine{meant['scaling']:.12g}" if settings["mmcosine"] else "plain"]
    if meant.get("modulation", "none") != "none":
        parts.append(meant["modulation"])
    parts += [f"{name}{short(meant[name])}" for name in (*METHOD_FLAGS, "lam")
              if name in meant and meant[name] != default(name)]
    return "-".join([*parts, f"seed{settings['random_seed']}"])


def short(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def state(run: PlannedRun) -> str:
    """DONE: it has a result. BEGUN: it has a last.pt to go on from. NEW: nothing to keep is there.

    Raises InputError: the folder holds a run with other settings, or no run.
    """
    if not run.folder.exists():
        return NEW
    if (run.folder / "args.json").is_file():
        check_same_settings(run)
    for name, found in (("result.json", DONE), ("last.pt", BEGUN)):
        if (run.folder / name).is_file():
            return found
    others = {path.name for path in run.folder.iterdir()} - {
        path.name for pattern in OF_A_START for path in run.folder.glob(pattern)}
    if others:
        raise InputError(f"{run.folder} holds no result.json and no last.pt but {first_few(sorted(others), 3)}: no run "
                         "of a sweep. Move it away, or choose another --output")
    return NEW


def check_same_settings(run: PlannedRun) -> None:
    saved = read_json(run.folder / "args.json")
    changed = [f"{name} {saved[name]}, now {value}" for name, value in run.settings.items()
               if name not in WHERE and saved.get(name, value) != value]
    if changed:
        raise InputError(f"{run.folder} holds a run with other settings ({'; '.join(changed)}): choose another "
                         "--output, or move that folder away")


def command(run: PlannedRun) -> list[str]:
    """The arguments that begin a run, or go on with it."""
    return [*run.argv, "--resume", str(run.folder)] if state(run) == BEGUN else list(run.argv)


def command_line(run: PlannedRun, script: Path) -> str:
    """What to type for it."""
    return shlex.join(["python", str(script), *command(run)])


def clear_start(run: PlannedRun) -> None:
    """Removes what a run has left that was killed before its first last.pt: the entry script wants the place free."""
    if state(run) == NEW and run.folder.exists():
        shutil.rmtree(run.folder)
