"""Before training every image is decoded once: one that is damaged behind valid first and last bytes is found with the
other problems, not in the epoch that first draws it.

    <root>/decoded_images.json    {image: [bytes, time of its last change in ns]} of those that could be decoded

A later start decodes only what is new or has changed since. Remove that file to decode every image again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dataset.clips import ClipFiles
from dataset.errors import DiskError, InputError
from dataset.files import read_image
from dataset.whole_files import read_json, remove_leftovers, write_whole
from utils import distributed
from utils.distributed import print_once

DECODED = "decoded_images.json"
WORTH_WORKERS = 2000  # images: to start the loader's processes takes as long as to decode some hundreds
Found = Mapping[str, tuple[list[ClipFiles], Mapping[str, str]]]  # {split: (clips, {clip: what is wrong with others})}


class Images(Dataset):
    """Item i: what is wrong with image i, "" if it can be decoded."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> str:
        try:
            read_image(self.paths[index])
        except InputError as error:
            return str(error)
        return ""


def without_damaged(found: Found, root: Path, workers: int) -> Found:
    """`found` with the clips that have a damaged image among the problems. Every process must call it: they share
    the decoding."""
    images = sorted({image for clips, _ in found.values() for clip in clips for image in clip.frames})
    states = {image: state_of(image) for image in images}
    known = read_known(root)
    new = [image for image in images if known.get(name_of(image, root)) != states[image]]
    problems = distributed.merged(find_damaged(new[distributed.rank()::distributed.size()], workers))
    if new and distributed.is_first_here():
        known.update({name_of(image, root): states[image] for image in new if image not in problems})
        remember(root, known)
    checked = {}
    for split, (clips, wrong) in found.items():
        damaged = {clip.name: problems[image] for clip in clips for image in clip.frames[::-1] if image in problems}
        checked[split] = [clip for clip in clips if clip.name not in damaged], {**wrong, **damaged}
    return checked


def state_of(path: Path) -> list[int]:
    """[bytes, time of the last change in ns]; all zero when it has gone meanwhile."""
    try:
        return [path.stat().st_size, path.stat().st_mtime_ns]
    except OSError:
        return [0, 0]


def name_of(path: Path, root: Path) -> str:
    return str(path.relative_to(root))


def find_damaged(paths: Sequence[Path], workers: int) -> dict[Path, str]:
    """{image: what is wrong}, decoded in `workers` processes when there are many."""
    several = workers > 0 and len(paths) >= WORTH_WORKERS
    workers = workers if several else 0
    loader = DataLoader(Images(paths), batch_size=50, collate_fn=list, num_workers=workers,
                        multiprocessing_context=distributed.worker_context(workers))
    bar = tqdm(loader, desc="decoding each image once", unit=" x 50 images", leave=False,
               disable=None if distributed.is_main() else True)
    reasons = [reason for batch in bar for reason in batch]
    return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}


def read_known(root: Path) -> dict[str, list[int]]:
    """What decoded_images.json holds, {} if it is missing or damaged."""
    try:
        return read_json(root / DECODED)
    except InputError:
        return {}


def remember(root: Path, known: Mapping[str, list[int]]) -> None:
    remove_leftovers(root)  # of a start that was killed while it wrote this file
    try:
        write_whole(root / DECODED, json.dumps(known))
    except DiskError as error:
        print_once(f"note: {error}: the next start will decode every image again")
