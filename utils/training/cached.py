"""--cache: each clip is decoded once; training batches are cropped on the device, evaluation batches are kept."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from dataset import packing
from dataset.draws import draws_of_clips
from dataset.errors import DiskError, InputError
from dataset.packed import Packable, Packed
from dataset.whole_files import remove_leftovers, temporary_name, with_unit
from utils import distributed
from utils.distributed import print_once
from utils.memory import free_memory, free_on
from utils.training.flags import CACHES

HOOKS = ("labels", "audio_samples", "image_size", "files", "media", "decoding", "draws", "item", "plan", "finish")
SHARE = 0.7  # of the free memory that the clips may take
SHARED_MEMORY = Path("/dev/shm")
ELSEWHERE = "name a folder on a larger disk with --cache FOLDER, or start a run with a smaller --cache_size"


class Batches(Protocol):
    """TrainBatches: `epoch` is set before each pass, whose batches are [(epoch, index of the clip), ...]."""

    epoch: int

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[list[tuple[int, int]]]: ...


class Cache:
    """What has been decoded, of every data set that was asked for.

    kind: `ram`, `device` (the GPU's memory), `auto` (device where the clips fit, else ram), or a folder, where they
    stay for later runs. size: shorter side of the stored images, in pixels, or that which is usual among them, if less.
    workers: processes that decode.
    """

    def __init__(self, kind: str, size: int, workers: int, device: torch.device):
        self.kind, self.size, self.workers, self.device = kind, size, workers, device
        self.known: dict[int, tuple[Packable, Packed]] = {}  # with the data set, so that its id stays its own

    def training(self, dataset: Dataset, batches: Batches, seed: int) -> "CachedTraining":
        """In place of the DataLoader of a training set, or of a Subset of one."""
        whole = dataset.dataset if isinstance(dataset, Subset) else dataset
        if id(whole) not in self.known:
            self.known[id(whole)] = whole, self.decode(whole)
        return CachedTraining(dataset, whole, self.known[id(whole)][1], batches, seed, self.device)

    def evaluation(self, loader: DataLoader) -> "KeptBatches":
        """In place of the DataLoader of an evaluation."""
        return KeptBatches(loader, self.device if self.kind in ("auto", "device") else torch.device("cpu"))

    def decode(self, dataset: Packable) -> Packed:
        """All clips, on the device or mapped into this process's memory. Every process must call it. Raises
        InputError: they do not fit."""
        with distributed.failing_together():
            self.check_hooks(dataset)
            self.check(dataset.image_size)
            if distributed.is_first_here():  # before any process looks how much room there is
                for folder in temporary_folders() if self.kind in CACHES else [Path(self.kind)]:
                    remove_leftovers(folder)
        with distributed.failing_together():
            found = packing.estimate(dataset, self.size)
            on_device = self.fits_device(found.size)
            folder = temporary_folder(found.size) if self.kind in CACHES else Path(self.kind)
            place = packing.place_of(dataset, folder, self.size)
        # of this run alone, in the folder and under the process number of the machine's first process
        place = distributed.from_first_here(temporary_name(place) if self.kind in CACHES else place)
        try:
            return self.packed(dataset, place, found, on_device)
        finally:
            if self.kind in CACHES and distributed.is_first_here():
                shutil.rmtree(place, ignore_errors=True)  # stays in memory as long as a process has it mapped

    def packed(self, dataset: Packable, place: Path, found: packing.Estimate, on_device: bool) -> Packed:
        """The clips, decoded into `place` where they are not there yet."""
        what = f"{len(dataset)} training clips, some {with_unit(found.size)}"
        with distributed.failing_together():
            check_readable(place)
            if os.path.isfile(place / packing.INDEX):  # False also in another user's closed folder
                print_once(f"--cache {self.kind}: {len(dataset)} training clips decoded before, in {place}")
            elif distributed.is_first_here():
                check_room(place.parent, found.size)
                print_once(f"--cache {self.kind}: decoding {what}, into {'the GPU' if on_device else place.parent}")
                try:
                    packing.pack(dataset, place, found.stored, self.workers, distributed.worker_context(self.workers),
                                 distributed.is_main())
                except DiskError as error:
                    raise DiskError(f"{error}: {ELSEWHERE}") from None
        with distributed.failing_together():
            clips = packing.load(place, len(dataset))
            return clips.to(self.device) if on_device else clips

    def check_hooks(self, dataset: Dataset) -> None:
        """Raises InputError: the data set cannot be decoded once."""
        missing = [name for name in HOOKS if not hasattr(dataset, name)]
        if missing:
            raise InputError(f"--cache {self.kind}: clips of {type(dataset).__name__} cannot be kept, it has no "
                             f"{', '.join(missing)} (see Packable in dataset/packed.py): leave out --cache")

    def check(self, image_size: int) -> None:
        """Raises InputError: evaluation would see more detail than training."""
        if self.size < image_size:
            raise InputError(f"--cache_size {self.size} is less than --image_size {image_size}: give at least as much, "
                             "or training sees less detail than the test set has")
        if self.kind == "device" and self.device.type != "cuda":
            print_once("note: there is no GPU: --cache device is taken as --cache ram")

    def fits_device(self, size: int) -> bool:
        """Whether the clips go to the GPU. Raises InputError: they have to, and do not fit."""
        if self.device.type != "cuda" or self.kind not in ("auto", "device"):
            return False
        free = free_on(self.device)
        if size > SHARE * free and self.kind == "device":
            raise InputError(f"--cache device: the training clips take some {with_unit(size)}, the GPU has "
                             f"{with_unit(free)} free, of which training needs a part: use --cache ram or a folder, or "
                             "start a run with a smaller --cache_size")
        return size <= SHARE * free


def temporary_folder(size: int) -> Path:
    """In memory if there is room, else among the system's temporary files."""
    memory, disk = temporary_folders()
    return memory if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free * SHARE > size else disk


def temporary_folders() -> tuple[Path, Path]:
    """In memory, and among the system's temporary files."""
    return tuple(root / f"mmcosine-{os.getuid()}" for root in (SHARED_MEMORY, Path(tempfile.gettempdir())))


def check_readable(place: Path) -> None:
    """Raises DiskError: clips are there that this user may not read."""
    for path, needed in ((place, os.X_OK), (place / packing.INDEX, os.R_OK)):
        if os.path.exists(path) and not os.access(path, needed):
            raise DiskError(f"{path} of --cache cannot be read by this user: name another folder with --cache FOLDER")


def check_room(folder: Path, size: int) -> None:
    """Makes the folder. Raises DiskError: it cannot be written to, or the clips do not fit there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DiskError(f"the folder {folder} of --cache cannot be made or written to ({error.strerror}): name "
                        "another one with --cache FOLDER") from None
    free = shutil.disk_usage(folder).free
    if folder.is_relative_to(SHARED_MEMORY):
        free = min(free, free_memory())
    if size > free:
        raise DiskError(f"the decoded training clips take some {with_unit(size)}, {folder} has {with_unit(free)} "
                        f"free: {ELSEWHERE}")


class CachedTraining:
    """As the DataLoader of `dataset`, which is `whole` or a Subset of it, in training.

    What is drawn depends on (seed, epoch, clip) alone. clips: of `whole`, decoded.
    """

    def __init__(self, dataset: Dataset, whole: Packable, clips: Packed, batches: Batches, seed: int,
                 device: torch.device):
        self.dataset, self.whole, self.clips, self.batch_sampler = dataset, whole, clips, batches
        self.seed, self.device = seed, device
        self.labels = torch.as_tensor(whole.labels).to(clips.device())

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        gather = self.gathered()
        if self.device.type == "cuda" and not self.labels.is_cuda:
            gather = one_ahead(gather)
        for gathered in gather:
            batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in gathered.items()}
            yield {**self.whole.finish(batch), "label": batch["label"]}

    def gathered(self) -> Iterator[dict[str, Tensor]]:
        """Of each batch, what the clips hold and what was drawn for them, where the clips are."""
        draws = draws_of_clips(self.seed, self.batch_sampler.epoch, len(self.whole), self.whole.draws)
        plan = {name: drawn.to(self.labels.device) for name, drawn in self.whole.plan(self.clips, draws).items()}
        for clips in self.clips_of_batches():
            yield {**self.clips.gather(plan, clips, self.whole.audio_samples), "label": self.labels[clips]}

    def clips_of_batches(self) -> Sequence[Tensor]:
        """The places of each batch's clips in `whole`: of all at once, so that no batch waits for its own."""
        batches = [[index for _, index in keys] for keys in self.batch_sampler]
        places = torch.tensor([index for batch in batches for index in batch])
        if isinstance(self.dataset, Subset):
            places = torch.as_tensor(self.dataset.indices)[places]
        return places.to(self.labels.device).split([len(batch) for batch in batches])


def one_ahead(batches: Iterator[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The same, each made in a thread while the one before is in use, in memory that a GPU copies from."""
    with ThreadPoolExecutor(1) as pool:
        def start():
            return pool.submit(lambda: {name: tensor.pin_memory() for name, tensor in next(batches, {}).items()})

        waiting = start()
        while batch := waiting.result():
            waiting = start()
            yield batch


class KeptBatches:
    """As the DataLoader `loader` of an evaluation, whose batches are the same in every pass: made once, then kept on
    `device`, unless they take more than SHARE of the memory that is free there before the first pass."""

    def __init__(self, loader: DataLoader, device: torch.device):
        self.dataset, self.batch_sampler = loader.dataset, loader.batch_sampler
        self.loader, self.device, self.kept, self.fits = loader, device, None, True

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Mapping[str, Tensor] | InputError]:
        if self.kept is not None:
            yield from self.kept
            return
        kept, room = [], SHARE * free_on(self.device)
        for batch in self.loader:
            if self.fits and not isinstance(batch, InputError):
                room -= sum(tensor.nbytes for tensor in batch.values())
                self.fits = room > 0
            if self.fits:
                if not isinstance(batch, InputError):
                    batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        if self.fits:
            self.kept, self.loader = kept, None  # its processes are not needed any more
