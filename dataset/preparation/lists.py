"""Lists of prepared clips in the CREMA-D layout: existing ones are checked, else new ones are written."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from dataset.cremad import find_clips
from dataset.errors import InputError, counted, first_few
from dataset.lists import (
    Clip,
    Lists,
    check_every_class_has_a_clip,
    read_lists,
    split_by_speaker,
    split_stratified,
    split_whole_groups,
    write_lists,
)
from dataset.preparation.clips import write_failures
from dataset.whole_files import read_json, write_whole

LISTS_NOTE = "prepare_lists.json"
SPLITS = {"stratified": split_stratified, "speaker": split_by_speaker}


def read_own_lists(root: Path, how: Mapping[str, object] | None = None) -> Lists | None:
    """The lists that exist in `root`, None if there is none of the three. how: {flag: value} for new ones. Raises
    InputError: as `read_lists`, or they were made otherwise."""
    if not any((root / name).exists() for name in ("train.csv", "test.csv", "stat.csv")):
        return None
    if how is not None:
        check_made_of(root / LISTS_NOTE, {"settings": how, "clips": {}})
    return read_lists(root, "Add it, or remove the other lists to create new ones")


def listed_problems(root: Path, lists: Lists, fps: int, known: dict[str, str]) -> dict[str, str]:
    """{name: reason} of the listed clips without usable files, except those already `known`."""
    clips = [clip for clip in lists.train + lists.test if clip.name not in known]
    return find_clips(root, clips, fps)[1]


def settle_lists(root: Path, own: Lists | None, labels: Mapping[str, str], problems: dict[str, str],
                 found: Collection[str], *, fps: int, split: str, test_fraction: float, seed: int) -> Lists:
    """The lists to use: `own`, after a check that all listed files exist, or new ones of `labels` ({clip: class}).

    Adds problems of listed clips to `problems` of the clips that were `found`, and writes them to a file; notes how new
    lists were made. fps: of the frames. Other arguments as of `make_lists`.
    """
    if own:
        problems |= listed_problems(root, own, fps, problems)
    listed = [clip.name for clip in own.train + own.test] if own else []
    write_failures(root, problems, len({*found, *listed}))
    if own:
        return own
    clips = [Clip(name, label) for name, label in labels.items()]
    lists = make_lists(clips, split, test_fraction, seed)
    how = {"split": split, "test_fraction": test_fraction, "seed": seed}
    write_whole(root / LISTS_NOTE, json.dumps({"settings": how}) + "\n")
    return write_new(root, lists)


def write_new(root: Path, lists: Lists) -> Lists:
    write_lists(root, lists)
    return lists


def check_settings(path: Path, settings: Mapping[str, object], clips: Path) -> None:
    """Notes the settings of a preparation in `path`. What an older version did not note is not compared. Raises
    InputError: the folder beside it holds clips that were prepared with others, or (`clips` exists) by another program.
    """
    root = path.parent
    if path.is_file():
        earlier = read_json(path, f"remove it if {root} was made with the same settings, or remove {root}")
        if {**settings, **earlier} != settings:
            raise InputError(f"{root} holds clips prepared with {earlier}, not with {dict(settings)}: choose another "
                             f"--data_root, or remove {root} to make it anew")
    elif clips.exists():
        raise InputError(f"{root} holds clips that were not made by this script: choose another --data_root")
    else:
        write_whole(path, json.dumps(settings, indent=2) + "\n")


def check_made_of(path: Path, made_of: Mapping[str, Mapping[str, object]]) -> None:
    """Raises InputError: the lists beside `path` were made with other settings, or of clips of which some are gone or
    are said to be something else. made_of: as noted in `path`, {"settings": {flag: value}, "clips": {name: [label,
    split, group]}}; no such file: they were written by hand."""
    if not path.is_file():
        print(f"the lists in {path.parent} are kept as they are: there is no {path.name} with the settings that they "
              "were made with")
        return
    earlier = read_json(path, "remove it to keep the lists beside it as they are")
    settings, clips = (earlier.get(key, {}) for key in ("settings", "clips"))
    told = [f"{key} was {settings.get(key)} and is {made_of['settings'].get(key)}"
            for key in sorted(settings.keys() | made_of["settings"].keys())
            if settings.get(key) != made_of["settings"].get(key)]
    other = [name for name, what in clips.items() if made_of["clips"].get(name, what) != what]
    gone = [name for name in clips if name not in made_of["clips"]]
    told += [f"{counted(len(names), 'clip', verb)} {what} ({first_few(names)})" for names, verb, what in (
        (other, "has", "another label, split or group"), (gone, "is", "gone")) if names]
    if told:
        raise InputError(f"since the lists in {path.parent} were made, {'; '.join(told)}: remove train.csv, test.csv "
                         f"and stat.csv there to create new ones, or {path.name} to keep them as they are")


def make_lists(clips: Sequence[Clip], split: str, test_fraction: float, seed: int,
               groups: Mapping[str, str] | None = None) -> Lists:
    """Lists of the clips; `split` is a key of SPLITS. groups: {clip: what must not be on both sides}, instead.
    Raises InputError: the clips cannot be split this way."""
    classes = sorted({clip.label for clip in clips})
    try:
        divide = partial(split_whole_groups, groups=groups) if groups else SPLITS[split]
        train, test = divide(clips, test_fraction, seed)
        check_every_class_has_a_clip(classes, train, "this split by groups" if groups else f"this {split} split")
    except InputError as error:
        raise InputError(f"the clips are ready, but no lists could be created: {error}. Add clips and run the same "
                         "command again, or write train.csv, test.csv (rows clip,LABEL; no clip in both) and stat.csv "
                         "(one class per line) by hand") from None
    return Lists(classes, train, test)


def report_lists(lists: Lists, prepared: Iterable[str]) -> None:
    """Prints the number of clips per class and split, and which prepared clips are in no list."""
    train, test = (Counter(clip.label for clip in clips) for clips in (lists.train, lists.test))
    rows = [(label, train[label], test[label]) for label in lists.classes]
    for cells in [("class", "train", "test"), *rows, ("all", len(lists.train), len(lists.test))]:
        print("{:<12} {:>6} {:>6}".format(*cells))
    unlisted = sorted(set(prepared) - {clip.name for clip in lists.train + lists.test})
    if unlisted:
        print(f"{counted(len(unlisted), 'prepared clip', 'is')} in no list: {first_few(unlisted)}. Add them, or "
              "remove the three lists and run the same command again to create new ones.")
