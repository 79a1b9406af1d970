"""Checkpoints: written whole or not at all, loaded with weights_only=True, the release's among them."""

import pickle
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dataset.errors import DiskError, InputError, first_few
from dataset.files import check_is_media
from dataset.whole_files import with_unit, write_whole


def save(path: Path, content: Mapping[str, object]) -> None:
    """Raises DiskError, which says how much room is needed."""
    try:
        write_whole(path, lambda temporary: torch.save(content, temporary))
    except DiskError as error:
        raise DiskError(f"{error}, {with_unit(bytes_of(content))} needed") from error


def bytes_of(content: object) -> int:
    """The size of all tensors in nested mappings and lists."""
    if isinstance(content, Tensor):
        return content.nbytes
    parts = content.values() if isinstance(content, Mapping) else content if isinstance(content, list | tuple) else ()
    return sum(map(bytes_of, parts))


def load(path: Path) -> dict:
    """The content of a checkpoint, on the CPU. Raises InputError: missing, a git-lfs pointer, damaged, not a dict."""
    check_is_media(path)
    check_integrity(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path} is not a checkpoint, or holds more than tensors and plain values: such a file can "
                         "run code and is not loaded") from None
    except Exception as error:  # damaged bytes fail in torch.load in every way there is
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InputError(f"{path} cannot be loaded as a checkpoint ({reason}): damaged, or another file?") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def check_integrity(path: Path) -> None:
    """Raises InputError: a checksum in the file is not that of its content, which torch.load does not compare."""
    if not zipfile.is_zipfile(path):  # of torch before 1.6: without checksums
        return
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip() is not None
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
        damaged = True
    if damaged:
        raise InputError(f"{path} is damaged (its content has another checksum): put an undamaged copy in its place")


def load_own(path: Path, needed: Collection[str] = ()) -> dict:
    """The content of a checkpoint that a run of these scripts has written; without `needed` parts, also of others'.
    Raises InputError: as `load`, or `checked`."""
    return checked(load(path), path, needed)


def checked(content: dict, path: Path, needed: Collection[str] = ()) -> dict:
    """The content of the file `path`. Raises InputError: it is not of a run, or lacks `needed` parts."""
    missing = sorted(set(needed) - content.keys())
    if missing:
        raise InputError(f"{path} is not of a run of these scripts, or not the file that is needed: it lacks "
                         f"{', '.join(missing)}")
    settings, facts, clips = (content.get(name, {}) for name in ("args", "facts", "clips"))
    classes = facts.get("classes", [] if "facts" not in needed else None) if isinstance(facts, dict) else None
    fits = {"args": isinstance(settings, dict), "facts": isinstance(classes, list) and all(map(is_text, classes)),
            "clips": isinstance(clips, dict) and all(isinstance(part, dict) for part in clips.values())}
    for name, right in fits.items():
        if not right:
            raise InputError(f"{path} was written by another program: {name} in it is not what a run writes there")
    return content


def is_text(value: object) -> bool:
    return isinstance(value, str)


def state_dict_of(content: Mapping, path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint: under `model` or bare, with or without DataParallel's `module.` before the names."""
    state = content.get("model", content)
    weights = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not state or not weights:
        raise InputError(f"{path} holds no model weights (neither a state dict nor one under 'model')")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load_model(model: nn.Module, content: Mapping, path: Path) -> None:
    """Loads all weights of `model`. Raises InputError that names what does not fit."""
    load_weights(model, state_dict_of(content, path), path, "Give the --fusion_method, --modality and encoders "
                 "(--<modality>_encoder) it was trained with.")


def load_weights(module: nn.Module, state: Mapping[str, Tensor], path: Path, next_step: str) -> None:
    """Loads the state dict of the checkpoint `path`. Raises InputError that names what does not fit."""
    in_file = own_names(module, state)
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(state[theirs].shape) for name, theirs in in_file.items()}
    # files older than PyTorch 0.4.1 lack BatchNorm's counters, load_state_dict sets them to 0
    wrong = [f"{name} missing" for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    wrong += [f"{theirs} not expected" for name, theirs in in_file.items() if name not in wanted]
    wrong += [f"{in_file[name]} {found[name]} instead of {shape}" for name, shape in wanted.items()
              if name in found and found[name] != shape]
    if wrong:
        raise InputError(f"{path} does not fit the model: {first_few(wrong)}. {next_step}")
    module.load_state_dict({name: state[theirs] for name, theirs in in_file.items()})


def own_names(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, str]:
    """{name in `module`: name in `state`}: they differ where released checkpoints call the parts of an encoder
    otherwise (its `other_names`)."""
    others = {f"{place}.{theirs}".lstrip("."): ours and f"{place}.{ours}".lstrip(".")
              for place, part in module.named_modules() for theirs, ours in getattr(part, "other_names", {}).items()}
    names = {}
    for name in state:
        theirs = next(filter(name.startswith, others), "")
        ours = others.get(theirs, "")
        if ours is not None:
            names[ours + name.removeprefix(theirs)] = name
    return names
