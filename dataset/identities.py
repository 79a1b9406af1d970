"""Training lists in the VoxCeleb layout: utterances with their identities.

VoxCeleb2 has 1.09 million utterances. They are stored as text and offsets in tensors, which loader processes share;
a list of strings would be copied into each of them as it is read. U utterances, C identities.
"""

import hashlib
import io
from array import array
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.errors import InputError
from dataset.lists import NOT_A_NAME, check_is_file
from dataset.names import composed
from dataset.voxceleb import Utterance

HEADER = b"wav,faces,identity,n_frames"


class TrainList:
    """The rows wav,faces,identity,n_frames of a list: list[i] is an Utterance, its label the index of its identity in
    `identities`, which are sorted.

    text (bytes,) uint8, starts and stops (U,) int64: the rows in it; labels (U,) int64. folders: the first
    folders of the whole list's paths, which are the identities unless the list names its classes differently.
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
        """The same utterances, labelled by their index."""
        return TrainList(self.text, self.starts, self.stops, torch.arange(len(self)), self.identities, self.folders)

    def select(self, chosen: Sequence[int]) -> "TrainList":
        """The utterances with these indices; identities without an utterance are dropped."""
        left, labels = torch.unique(self.labels[chosen], return_inverse=True)
        identities = [self.identities[i] for i in left.tolist()]
        return TrainList(self.text, self.starts[chosen], self.stops[chosen], labels, identities, self.folders)

    def names(self) -> list[str]:
        """The identities, and what the whole list's paths call them."""
        return sorted({*self.identities, *self.folders})

    def digest(self) -> str:
        """A hash of the rows, in order, however they are written."""
        digest, text = hashlib.sha256(), memoryview(self.text.numpy())
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            cells = bytes(text[start:stop]).split(b",")
            digest.update(b",".join(cell.strip().lstrip(b"/") for cell in cells) + b"\n")
        return digest.hexdigest()[:16]


def read_train_list(path: Path, how_to_get: str) -> TrainList:
    """Raises InputError: missing (the message ends in `how_to_get`), a malformed row, an utterance listed twice, fewer
    than two identities."""
    check_is_file(path, how_to_get)
    content = path.read_bytes()
    if not content.isascii():
        content = composed(content.decode(errors="surrogateescape")).encode(errors="surrogateescape")
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
        raise InputError(f"{path} names {len(numbers)} identities, at least 2 are needed (rows: "
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
        names = [cell.decode() for cell in cells[:3]]
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {number}: not UTF-8 text") from None
    wrong = [name for name in names if NOT_A_NAME.search(name)]
    if wrong:
        raise InputError(f"{path}, line {number}: {wrong[0]!r} is not the name of a file below the folder of the "
                         "utterances, or of an identity")
    return cells[0], cells[2]


def to_tensor(numbers: array) -> Tensor:
    return torch.frombuffer(numbers, dtype=torch.int64)


def check_no_duplicates(listed: TrainList, hashes: np.ndarray, path: Path) -> None:
    order = np.argsort(hashes, kind="stable")
    for place in np.flatnonzero(np.diff(hashes[order]) == 0):  # equal hashes: are the names equal as well?
        first, second = listed[int(order[place])].wav, listed[int(order[place + 1])].wav
        if first == second:
            raise InputError(f"{path} lists {first} twice: remove one of the rows")


def hold_out_identities(listed: TrainList, fraction: float, seed: int) -> tuple[TrainList, TrainList]:
    """Splits off round(fraction * C) whole identities, at least 2: (rest, held out). Raises InputError: too few."""
    count = max(2, round(fraction * len(listed.identities)))
    if count > len(listed.identities) - 2:
        raise InputError(f"{len(listed.identities)} identities are too few to hold out {count} of them and train on "
                         "at least 2")
    chosen = np.random.default_rng(seed).permutation(len(listed.identities))[:count]
    held = np.isin(listed.labels.numpy(), chosen)
    return listed.select(np.flatnonzero(~held)), listed.select(np.flatnonzero(held))
