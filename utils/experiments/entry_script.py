"""Entry scripts as modules: what they offer is `get_args_parser`, `parse`, `build` and MODALITIES."""

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from dataset.errors import InputError
from utils.training import experiment

REPO = Path(__file__).resolve().parents[2]


def load(path: Path, needed: Sequence[str] = ("get_args_parser", "parse")) -> ModuleType:
    """The entry script in a file; a relative path is one below the repository. Raises InputError: missing, or without
    the `needed` functions."""
    path = (REPO / path).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"no entry script {path}: name one with --script, such as main_CD.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    missing = [name for name in needed if not hasattr(module, name)]
    if missing:
        raise InputError(f"{path} is not an entry script (it has no {' and no '.join(missing)}): name another with "
                         "--script")
    return module


def is_here(name: str) -> bool:
    """Whether a run's entry script is one of this repository: a file elsewhere is not run because a run names it."""
    return (REPO / name).resolve().is_relative_to(REPO) and (REPO / name).is_file()


def of_run(folder: Path, name: str, needed: Sequence[str]) -> ModuleType:
    """The entry script that made the run in `folder`. Raises InputError: it is not in this repository."""
    if not is_here(name):
        raise InputError(f"{folder} was made by {name}, which is not in {REPO}: put it there")
    return load(Path(name), needed)


@cache
def not_compared(name: str | None) -> frozenset[str]:
    """The settings that say where a run of this entry script ran, not what it computed."""
    if not name or not is_here(name):
        return experiment.NOT_COMPARED
    meanings = load(Path(name), ("get_args_parser",)).get_args_parser().meanings()
    return experiment.NOT_COMPARED | {flag for flag, meaning in meanings.items() if not meaning.is_compared()}
