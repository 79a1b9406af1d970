"""Lists of the VoxCeleb layout: training utterances with their identities, and trials.

The full VoxCeleb2 has 1.09 million utterances: they are kept as text and offsets in tensors, which loader processes
share instead of copying (a list of strings is copied by the mere reading of it). U utterances, C identities, N trials.
"""

import hashlib
import io
from array import array
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset.lists import read_text
from dataset.voxceleb import Utterance
from utils.errors import InputError, first_few

HEADER = b"wav,faces,identity,n_frames"


class TrainList:
    """The rows wav,faces,identity,n_frames of a list: list[i] is an Utterance, its label the place of its identity in
    `identities`, which are sorted.

    text (bytes,) uint8, starts and stops (U,) int64: where a row lies in it; labels (U,) int64. folders: the first
    folders of the whole list's paths, which are the identities unless the list names its classes otherwise.
    """

    def __init__(self, text: Tensor, starts: Tensor, stops: Tensor, labels: Tensor, identities: Sequence[str],
                 folders: Collection[str]):
        self.text, self.starts, self.stops, self.labels = text, starts, stops, labels
        self.identities, self.folders = list(identities), set(folders)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Utterance:
        row = bytes(self.text[self.starts[index]:self.stops[index]].numpy()).decode()
        wav, faces, *_ = (cell.strip().lstrip("/") for cell in row.split(","))
        return Utterance(wav, faces, int(self.labels[index]))

    def numbered(self) -> "TrainList":
        """The same utterances, labelled by their place."""
        return TrainList(self.text, self.starts, self.stops, torch.arange(len(self)), self.identities, self.folders)

    def select(self, chosen: Sequence[int]) -> "TrainList":
        """The utterances of these numbers, with the identities that they have."""
        left, labels = torch.unique(self.labels[chosen], return_inverse=True)
        identities = [self.identities[i] for i in left.tolist()]
        return TrainList(self.text, self.starts[chosen], self.stops[chosen], labels, identities, self.folders)

    def digest(self) -> str:
        """Tells lists apart: of their rows, in order."""
        digest = hashlib.sha256()
        for part in (self.starts, self.stops, self.text):
            digest.update(part.numpy())
        return digest.hexdigest()[:16]


def read_train_list(path: Path, how_to_get: str) -> TrainList:
    """Raises InputError: missing (the message ends in `how_to_get`), a malformed row, an utterance listed twice, fewer
    than two identities."""
    if not path.is_file():
        raise InputError(f"no {path}. {how_to_get}")
    content = path.read_bytes()
    starts, stops, labels, hashes = array("q"), array("q"), array("q"), array("q")
    numbers: dict[bytes, int] = {}  # of the identities, by first appearance
    folders = set()
    place = 3 if content.startswith(b"\xef\xbb\xbf") else 0
    lines = io.BytesIO(content)
    lines.seek(place)
    for number, line in enumerate(lines, 1):
        row = line.strip()
        if row and (number > 1 or row.lower() != HEADER):
            wav, identity = parse_row(row, path, number)
            starts.append(place)
            stops.append(place + len(line))
            labels.append(numbers.setdefault(identity, len(numbers)))
            hashes.append(hash(wav))
            folders.add(wav.partition(b"/")[0] if b"/" in wav else identity)
        place += len(line)
    if len(numbers) < 2:
        raise InputError(f"{path} names {len(numbers)} identities, at least 2 are needed (rows "
                         "wav,faces,identity,n_frames)")
    order = sorted(numbers)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[[numbers[identity] for identity in order]] = np.arange(len(order))
    text = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    listed = TrainList(text, to_tensor(starts), to_tensor(stops), torch.from_numpy(ranks[np.array(labels)]),
                       [identity.decode() for identity in order], [folder.decode() for folder in folders])
    check_no_duplicates(listed, np.array(hashes), path)
    return listed


def parse_row(row: bytes, path: Path, number: int) -> tuple[bytes, bytes]:
    """(wav, identity) of a row. Raises InputError."""
    cells = [cell.strip().lstrip(b"/") for cell in row.split(b",")]
    if len(cells) != 4 or not all(cells) or not cells[3].isdigit():
        raise InputError(f"{path}, line {number}: expected wav,faces,identity,n_frames but found "
                         f"{row.decode(errors='replace')!r}")
    try:
        row.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {number}: not UTF-8 text") from None
    return cells[0], cells[2]


def to_tensor(numbers: array) -> Tensor:
    return torch.frombuffer(numbers, dtype=torch.int64)


def check_no_duplicates(listed: TrainList, hashes: np.ndarray, path: Path) -> None:
    order = np.argsort(hashes, kind="stable")
    for place in np.flatnonzero(np.diff(hashes[order]) == 0):  # equal hashes: look whether the names are equal too
        first, second = listed[int(order[place])].wav, listed[int(order[place + 1])].wav
        if first == second:
            raise InputError(f"{path} lists {first} twice: take one of the rows out")


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
    if not path.is_file():
        raise InputError(f"no {path}. {how_to_get}")
    numbers: dict[str, int] = {}
    labels: dict[tuple[int, int], int] = {}
    rows = array("q")
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells = line.replace(",", " ").split()
        if not cells or (number == 1 and cells[0].lower() == "label"):
            continue
        label, names = parse_trial(cells, f"{path}, line {number}")
        a, b = (numbers.setdefault(name, len(numbers)) for name in names)
        if labels.setdefault(pair_of(a, b), label) != label:
            raise InputError(f"{path}, line {number}: {' '.join(names)} has label {label}, and {1 - label} before")
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
    if not all(names) or any(".." in name.split("/") for name in names):
        raise InputError(f"{where}: {' '.join(cells)!r} names no file below the folder of the utterances")
    if names[0] == names[1]:
        raise InputError(f"{where}: {names[0]} is tried against itself: take the row out")
    return int(cells[0]), names


def merge_trials(lists: Mapping[str, Trials]) -> dict[str, Trials]:
    """The same lists over the same names: those of all of them, each once."""
    names = list(dict.fromkeys(name for trials in lists.values() for name in trials.names))
    places = {name: place for place, name in enumerate(names)}
    return {key: Trials(names, np.array([places[name] for name in trials.names])[trials.pairs], trials.labels)
            for key, trials in lists.items()}


def without(trials: Trials, missing: Collection[int]) -> Trials:
    """The trials that do not need the `missing` utterances (places in trials.names), over the names of the others."""
    kept = ~np.isin(trials.pairs, list(missing)).any(1)
    left = [place for place in range(len(trials.names)) if place not in missing]
    places = np.zeros(len(trials.names), dtype=np.int64)
    places[left] = np.arange(len(left))
    return Trials([trials.names[place] for place in left], places[trials.pairs[kept]], trials.labels[kept])


def digest_of(trials: Trials) -> str:
    """Tells trial lists apart: of their rows, in order."""
    return hashlib.sha256(format_trials(trials).encode()).hexdigest()[:16]


def format_trials(trials: Trials) -> str:
    """Rows label,utt1,utt2."""
    rows = zip(trials.labels.tolist(), trials.pairs.tolist(), strict=True)
    return "".join(f"{label:d},{trials.names[a]},{trials.names[b]}\n" for label, (a, b) in rows)


def trial_utterances(names: Sequence[str]) -> list[Utterance]:
    """The files of trial utterances <id>/<video>/<utt>.wav, labelled by their place."""
    return [Utterance(name, str(Path(name).with_suffix("")), number) for number, name in enumerate(names)]


def identity_of(name: str) -> str:
    """The first folder of an utterance's path; "" without one."""
    return name.split("/")[0] if "/" in name else ""


def check_no_leak(trained: Collection[str], trials: Trials, name: str) -> None:
    """Raises InputError when identities of the trials are trained on: verification is of people never heard before."""
    known = sorted(set(trained) & {identity_of(name) for name in trials.names})
    if known:
        raise InputError(f"{len(known)} identities of the trials {name} are trained on: {first_few(known)}. Take them "
                         "out of the training list or of the trials")


def hold_out_identities(listed: TrainList, fraction: float, seed: int) -> tuple[TrainList, TrainList]:
    """Splits off round(fraction * C) whole identities, at least 2: (rest, held out). Raises InputError: too few."""
    count = max(2, round(fraction * len(listed.identities)))
    if count > len(listed.identities) - 2:
        raise InputError(f"{len(listed.identities)} identities are too few to hold out {count} of them and train on "
                         "at least 2")
    chosen = np.random.default_rng(seed).permutation(len(listed.identities))[:count]
    held = np.isin(listed.labels.numpy(), chosen)
    return listed.select(np.flatnonzero(~held)), listed.select(np.flatnonzero(held))


def make_trials(names: Sequence[str], identities: Sequence[object], per_utterance: int, seed: int) -> Trials:
    """Pairs each utterance with `per_utterance` others of its identity (or all there are) and, by chance, with others;
    as many non-targets as targets, and no pair twice. VoxCeleb1-O is made so, with 4.

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
                         "identities, one of them with two utterances, are needed")
    pairs = [*sorted(targets), *others]
    return Trials(list(names), np.array(pairs), np.arange(len(pairs)) < len(targets))


def pair_of(first: int, second: int) -> tuple[int, int]:
    return min(first, second), max(first, second)
