"""Folders of synthetic data: reused if complete and of the same parameters, else written again. No other data is ever
overwritten."""

import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from dataset.errors import InputError
from dataset.whole_files import read_json, write_whole

MARKER = "demo.json"  # holds the parameters; marks a folder that may be overwritten


def fill_folder(root: Path, parameters: Mapping[str, object], files: Iterable[Path], own: Sequence[str],
                fill: Callable[[], None]) -> None:
    """Calls `fill` to write `root`, unless all its `files` exist already and were made with the same parameters.

    parameters: everything that the bytes depend on; `made_by` is "<module>, version <n>". own: what is removed from
    `root` when the parameters have changed; everything else in the folder is kept.
    Raises InputError: `root` exists and holds no demo data of this module.
    """
    found = read_marker(root, str(parameters["made_by"]).split(",")[0])
    if found == {**parameters, "complete": True} and all(path.is_file() for path in files):
        return
    if {**found, "complete": None} != {**parameters, "complete": None}:
        remove(root, own)  # not for equal parameters: two processes may be writing the same bytes at the same time
    write_marker(root, {**parameters, "complete": False})
    fill()
    write_marker(root, {**parameters, "complete": True})


def read_marker(root: Path, maker: str) -> dict:
    """What demo.json holds, {} for a missing or empty folder. Raises InputError: it holds anything else."""
    marker = root / MARKER
    if marker.is_file():
        with suppress(InputError):  # another, below
            found = read_json(marker)
            if str(found.get("made_by")).startswith(f"{maker},"):
                return found
    elif not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return {}
    raise InputError(f"{root} already exists and holds no demo data, so it was not changed: name another folder")


def write_marker(root: Path, content: Mapping[str, object]) -> None:
    write_whole(root / MARKER, json.dumps(content, indent=2) + "\n")


def remove(root: Path, own: Sequence[str]) -> None:
    for path in (root / name for name in own):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A separate random stream per purpose: clips do not depend on each other, nor sound on images."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])
