"""Lists of trials: which pairs of utterances belong to the same identity. U utterances, N trials."""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.errors import InputError, first_few
from dataset.lists import NOT_A_NAME, read_lines
from dataset.voxceleb import Utterance

TRIALS = "test_pairs.csv"  # the list that is used by default


class Trials(NamedTuple):
    """names: the U different utterances; pairs (N, 2) their numbers; labels (N,) True for the same identity."""

    names: list[str]
    pairs: np.ndarray
    labels: np.ndarray


def read_trials(path: Path, how_to_get: str) -> Trials:
    """Rows label,utt1,utt2 or label utt1 utt2; label 1 for the same identity, 0 for different ones.

    Raises InputError: missing (the message ends in `how_to_get`), a malformed row, a pair that has both labels, only
    targets or only non-targets.
    """
    numbers: dict[str, int] = {}
    labels: dict[tuple[int, int], int] = {}
    rows = array("q")
    for number, line in read_lines(path, how_to_get):
        cells = line.replace(",", " ").split()
        if not cells or (number == 1 and cells[0].lower() == "label"):
            continue
        label, names = parse_trial(cells, f"{path}, line {number}")
        a, b = (numbers.setdefault(name, len(numbers)) for name in names)
        if labels.setdefault(pair_of(a, b), label) != label:
            raise InputError(f"{path}, line {number}: {' '.join(names)} has label {label}, but {1 - label} "
                             "in an earlier line: remove one of the two")
        rows.extend((label, a, b))
    table = np.array(rows).reshape(-1, 3)
    trials = Trials(list(numbers), table[:, 1:], table[:, 0] == 1)
    if trials.labels.all() or not trials.labels.any():
        raise InputError(f"{path} has {trials.labels.sum()} targets among {len(trials.labels)} trials: error rates "
                         "need targets (label 1) and non-targets (label 0)")
    return trials


def parse_trial(cells: Sequence[str], where: str) -> tuple[int, list[str]]:
    """(label, the two utterances). Raises InputError."""
    names = [name.lstrip("/") for name in cells[1:]]
    if len(cells) != 3 or cells[0] not in ("0", "1"):
        raise InputError(f"{where}: expected label,utt1,utt2 with label 0 or 1 but found {' '.join(cells)!r}")
    if any(map(NOT_A_NAME.search, names)):
        raise InputError(f"{where}: {' '.join(cells)!r} does not name two files below the folder of the utterances")
    if names[0] == names[1]:
        raise InputError(f"{where}: {names[0]} is paired with itself: remove the row")
    return int(cells[0]), names


def read_trial_lists(texts: Sequence[str], root: Path, how_to_get: str) -> dict[str, Trials]:
    """{name: trials} of lists given as [NAME=]LIST, over the utterances of all of them; the default name is the
    file's. Raises InputError."""
    found = {}
    for text in texts:
        name, path = find_trials(root, text, how_to_get)
        if name in found:
            raise InputError(f"--trials has two lists named {name}: rename one with NAME=LIST")
        found[name] = read_trials(path, how_to_get)
    return merge_trials(found)


def find_trials(root: Path, text: str, how_to_get: str) -> tuple[str, Path]:
    """[NAME=]LIST -> (name, path): a list in the data folder, else one by its path. Raises InputError."""
    for name, file in ((Path(text).stem, text), text.split("=", 1) if "=" in text else ("", "")):
        for path in (root / file, Path(file)):
            if file and path.is_file():
                if name in ("", ".", "..") or Path(name).name != name:
                    raise InputError(f"--trials NAME: {name!r} is not the name of one file or folder")
                return name, path
    file = text.split("=", 1)[-1]
    if text != TRIALS:
        raise InputError(f"--trials {text}: there is neither {root / file} nor {Path(file).absolute()}")
    raise InputError(f"no {root / file}. {how_to_get}")


def merge_trials(lists: Mapping[str, Trials]) -> dict[str, Trials]:
    """The same lists over one common list of utterance names."""
    names = list(dict.fromkeys(name for trials in lists.values() for name in trials.names))
    places = {name: place for place, name in enumerate(names)}
    return {key: Trials(names, np.array([places[name] for name in trials.names])[trials.pairs], trials.labels)
            for key, trials in lists.items()}


def without(trials: Trials, missing: Collection[int]) -> Trials:
    """The trials that do not need the `missing` utterances (indices in trials.names), over the names of the others."""
    kept = ~np.isin(trials.pairs, list(missing)).any(1)
    left = [place for place in range(len(trials.names)) if place not in missing]
    places = np.zeros(len(trials.names), dtype=np.int64)
    places[left] = np.arange(len(left))
    return Trials([trials.names[place] for place in left], places[trials.pairs[kept]], trials.labels[kept])


def trials_left(trials: Mapping[str, Trials], problems: Mapping[int, str]) -> dict[str, Trials]:
    """The lists without the trials of utterances that cannot be used. problems: {utterance: what is wrong}.

    Raises InputError: none of one kind is left.
    """
    kept = {name: without(one, problems) for name, one in trials.items()}
    for name, one in kept.items():
        if not one.labels.any() or one.labels.all():
            raise InputError(f"trials {name}: {len(one.labels)} of {len(trials[name].labels)} can be used; error rates "
                             f"need targets and non-targets. The first problem: {next(iter(problems.values()))}")
    return kept


def note_of_repeated(trials: Trials) -> str:
    """`, 3 of them repeat an earlier one`: rows that name the pair of another row, in either order, count twice in the
    error rates. "" for none."""
    count = len(trials.pairs) - len(np.unique(np.sort(trials.pairs, axis=1), axis=0))
    return f", {count} of them repeat an earlier one and count again" if count else ""


def digest_of(trials: Trials) -> str:
    """A hash of the rows, in order."""
    return hashlib.sha256(format_trials(trials).encode()).hexdigest()[:16]


def format_trials(trials: Trials) -> str:
    """Rows label,utt1,utt2."""
    rows = zip(trials.labels.tolist(), trials.pairs.tolist(), strict=True)
    return "".join(f"{label:d},{trials.names[a]},{trials.names[b]}\n" for label, (a, b) in rows)


def trial_utterances(names: Sequence[str]) -> list[Utterance]:
    """The files of trial utterances <id>/<video>/<utt>.wav, labelled by their index."""
    return [Utterance(name, str(Path(name).with_suffix("")), number) for number, name in enumerate(names)]


def identity_of(name: str) -> str:
    """The first folder of an utterance's path; "" without one."""
    return name.split("/")[0] if "/" in name else ""


def check_no_leak(trained: Collection[str], trials: Trials, name: str) -> None:
    """Raises InputError: identities of the trials are trained on, but verification is tested on new identities."""
    known = sorted(set(trained) & {identity_of(name) for name in trials.names})
    if known:
        raise InputError(f"{len(known)} identities of the trials {name} are trained on: {first_few(known)}. Remove "
                         "them from the training list or from the trials")


def make_trials(names: Sequence[str], identities: Sequence[object], per_utterance: int, seed: int) -> Trials:
    """Pairs each utterance with `per_utterance` others of its identity (or all there are) and with random others;
    as many non-targets as targets, and no pair twice. VoxCeleb1-O has 4.

    Raises InputError: no pair of one of the kinds.
    """
    rng = np.random.default_rng(seed)
    members = defaultdict(list)
    for number, identity in enumerate(identities):
        members[identity].append(number)
    targets, others = set(), set()
    for number, identity in enumerate(identities):
        same = [other for other in members[identity] if other != number]
        targets.update(pair_of(number, other) for other in rng.permutation(same)[:per_utterance].tolist())
        others.update(pair_of(number, other) for other in rng.integers(len(names), size=4 * per_utterance).tolist()
                      if identities[other] != identity)
    others = rng.permutation(sorted(others))[:len(targets)].tolist()
    if not targets or not others:
        raise InputError(f"no trials can be made of {len(names)} utterances of {len(members)} identities: at least two "
                         "identities are needed, one of them with two utterances")
    pairs = [*sorted(targets), *others]
    return Trials(list(names), np.array(pairs), np.arange(len(pairs)) < len(targets))


def pair_of(first: int, second: int) -> tuple[int, int]:
    return min(first, second), max(first, second)
