"""Whether the data at hand is that of a checkpoint: the same clips with the same labels in the same splits, the same
classes and counts; and whether a test clip was trained on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from dataset.errors import InputError, first_few
from utils.distributed import print_once

Clips = Mapping[str, Mapping[str, str]]  # {split: {name of a clip: its label}}, as checkpoints hold them

NOT_RECORDED = "was made by an older version or another program and does not record its clips"


def digest_of(clips: Clips) -> str:
    """A hash of the names, labels and splits, in whatever order they come."""
    rows = sorted((split, name, label) for split, part in clips.items() for name, label in part.items())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def check_same_data(content: Mapping, clips: Clips, facts: Mapping[str, object], path: Path, otherwise: str) -> None:
    """Raises InputError if a checkpoint was trained on other data than this run has.

    content: of the checkpoint at `path`. clips: {split: {name: label}} of this run; for large data
    sets, which have too many clips, its identities, and the lists are compared by their digests in
    `facts`. otherwise: the end of the message, what to do instead. What an older version did not
    record is not compared; if that is the list of clips, a note is printed.
    """
    if clips and not content.get("clips"):
        print_once(f"note: {path} {NOT_RECORDED}: only the numbers of clips are compared")
    elif clips:
        check_same_clips(content["clips"], clips, path, otherwise)
    for name, value in facts.items():
        if name in content["facts"] and content["facts"][name] != value:
            raise InputError(f"{path} was trained on other data ({name} {shown(content['facts'][name])}, now "
                             f"{shown(value)}): put the data back as it was, or {otherwise}")


def check_same_clips(before: Clips, now: Clips, path: Path, otherwise: str) -> None:
    old, new = places(before), places(now)
    differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if differing:
        examples = [f"{name} ({old.get(name, 'not listed')}, now {new.get(name, 'not listed')})" for name in differing]
        raise InputError(f"{path} was trained on other data: {len(differing)} clips have another split or label than "
                         f"before: {first_few(examples, 3)}. Put the lists back as they were, or {otherwise}")


def places(clips: Clips) -> dict[str, str]:
    """{clip: `train, ANG`}"""
    return {name: f"{split}, {label}" for split, part in clips.items() for name, label in part.items()}


def note_other_order(content: Mapping, clips: Clips, path: Path) -> None:
    """Batches are drawn by a clip's place in the list."""
    if clips and content.get("clips") and list(content["clips"]["train"]) != list(clips["train"]):
        print_once(f"note: the training clips are in another order than {path} records: the resumed run will differ "
                   "from an uninterrupted one")


def check_no_overlap(content: Mapping, clips: Clips, path: Path, allow: bool) -> None:
    """Counts the test clips among the clips that the checkpoint was trained on or that chose its epoch. Raises
    InputError if there are any, unless `allow`."""
    if "clips" not in content:
        print_once(f"note: {path} {NOT_RECORDED}: whether it was trained on any of the test clips is not checked")
        return
    trained = places({split: part for split, part in content["clips"].items() if split != "test"})
    known = [name for name in clips.get("test", ()) if name in trained]
    if known:
        text = (f"{len(known)} of the {len(clips['test'])} test clips were in the training list of {path}: "
                f"{first_few(known, 3)}")
        if not allow:
            raise InputError(f"{text}. Give other data or another checkpoint, or accept it with "
                             "--allow_overlap")
        print_once(f"note: {text} (--allow_overlap)")


def shown(value: object) -> str:
    """Of a long list the first few."""
    return first_few([str(one) for one in value]) if isinstance(value, list) else str(value)
