"""The folder of a demo: the same parameters give the same bytes, nothing of the user's is ever removed."""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from dataset.errors import InputError
from dataset.files import write_whole

MARKER = "demo.json"  # holds the parameters; a folder with it is ours to overwrite


def fill_folder(root: Path, parameters: Mapping[str, object], files: Iterable[Path], remove: Callable[[], None],
                write: Callable[[], None]) -> None:
    """Has `write` make the demo in `root`, a folder that is missing, empty or held the same kind of demo before.

    parameters: what the bytes depend on; `made_by` is `<module>, version <n>`. A demo complete for them (all `files`
    are there) is left as it is, half-written data is written again, data of other parameters removed before.
    Raises InputError: `root` holds something else.
    """
    found = read_marker(root, str(parameters["made_by"]).split(",")[0])
    if found == {**parameters, "complete": True} and all(path.is_file() for path in files):
        return
    if {**found, "complete": None} != {**parameters, "complete": None}:
        remove()  # not for equal parameters: two processes may then write the same bytes at the same time
    write_marker(root, {**parameters, "complete": False})
    write()
    write_marker(root, {**parameters, "complete": True})


def read_marker(root: Path, maker: str) -> dict:
    """What demo.json holds, {} for a missing or empty folder. Raises InputError: anything else is in the way."""
    marker = root / MARKER
    if marker.is_file():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if isinstance(found, dict) and str(found.get("made_by")).startswith(maker + ","):
            return found
    elif not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return {}
    raise InputError(f"{root} is there already and holds no demo data, so it is left alone: name another folder")


def write_marker(root: Path, content: Mapping[str, object]) -> None:
    write_whole(root / MARKER, json.dumps(content, indent=2) + "\n")


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for every purpose, so that no clip depends on which others are made, nor sound on image."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])
