"""Entry scripts as modules: what they offer is `get_args_parser`, `parse`, `build` and MODALITIES."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from dataset.errors import InputError

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
