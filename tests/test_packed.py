"""--cache: clips decoded once give the batches that the loader gives, and are not used after their files changed."""

import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from marked_ucf101 import make_marked_actions
from scipy.stats import ks_2samp
from test_disk import largest_file
from torch.utils.data import Subset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dataset import packing
from dataset.clips import ClipDataset
from dataset.cremad import find_clips
from dataset.crops import CROP_DRAWS, Crop, boxes_of, cut, cut_together
from dataset.draws import draws_of_clip, draws_of_clips
from dataset.errors import DiskError, InputError
from dataset.frames import frame_indices, read_frames
from dataset.identities import read_train_list
from dataset.lists import read_lists
from dataset.packed import Images, Sound
from dataset.streams import MotionDataset
from dataset.ucf101 import find_clips as find_actions
from dataset.ucf101 import read_classes, read_split
from dataset.voxceleb import FACE_CROP, UtteranceDataset
from dataset.whole_files import disk_error, machine
from main_CD import get_args_parser, main
from utils import distributed, memory
from utils.failures import machine_error
from utils.training import cached
from utils.training.cached import Cache, KeptBatches
from utils.training.loading import EvaluationBatches, Loaders, TrainBatches, make_loader

CPU = torch.device("cpu")
INDICES = {"empty index": "{}", "other kinds": '{"lengths": {"audio": "x"}}',
           "endless": '{"lengths": {"audio": [1]}, "shapes": {"audio": [Infinity]}}'}
SIZES = [(360, 480), (112, 112), (40, 300), (300, 40)]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- crops


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [24, 64, 150])
def test_a_box_is_resized_as_torchvision_does_it(size, flip, on_gpu):
    image = torch.from_numpy(generator().integers(0, 256, (3, 90, 130), dtype=np.uint8))
    for top, left, height, width in ((0, 0, 90, 130), (11, 30, 60, 45), (70, 1, 20, 21), (5, 5, 1, 120)):
        expected = F.resized_crop(image, top, left, height, width, [size, size], antialias=True)
        expected = expected.flip(-1) if flip else expected
        box = torch.tensor([[top / 90, left / 130, height / 90, width / 130]], dtype=torch.float64)
        if on_gpu:  # what is computed there, here in the same precision
            first, length = torch.tensor([[top, left]]), torch.tensor([[height, width]])
            found = cut_together(image.unsqueeze(0), first, length, torch.tensor([flip]), size)[0]
        else:
            found = cut(image.unsqueeze(0), box, torch.tensor([flip]), size)[0]
        assert (found.int() - expected.int()).abs().max() <= 1, (top, left, height, width)


@pytest.mark.parametrize("height, width", SIZES)
def test_boxes_are_distributed_as_torchvisions(height, width):
    count = 1500
    crop, image = v2.RandomResizedCrop(8), torch.zeros(3, height, width)
    torch.manual_seed(0)
    drawn = [crop.make_params([image]) for _ in range(count)]
    theirs = np.array([[one["top"], one["left"], one["height"], one["width"]] for one in drawn])
    draws = draws_of_clips(0, 1, 4 * count, CROP_DRAWS)
    boxes = Crop().boxes(draws, np.full((4 * count, 2), (height, width)))
    ours = boxes * [height, width, height, width]
    np.testing.assert_allclose(ours, ours.round(), atol=1e-9)
    for column in range(4):
        assert ks_2samp(ours[:, column].round(), theirs[:, column]).pvalue > 1e-3, column
    areas = [values[:, 2] * values[:, 3] for values in (ours, theirs)]
    assert ks_2samp(*areas).pvalue > 1e-3


def test_images_of_different_sizes_are_cropped_in_parts_of_each():
    boxes = boxes_of(generator().random((2, CROP_DRAWS - 1)), np.array([[100, 100], [200, 100]]), (1, 1), (1, 1))
    np.testing.assert_allclose(boxes[0], [0, 0, 1, 1])
    assert boxes[1, 2:].tolist() == [0.5, 1] and boxes[1, 0] == 0.25  # nothing fits: the middle


# ---- sound and frames


def test_excerpts_begin_where_they_should_and_repeat_short_sound():
    waves = [np.arange(5, dtype=np.int16), np.arange(100, 112, dtype=np.int16)]
    sound = Sound(torch.from_numpy(np.concatenate(waves)), torch.tensor([0, 5]), torch.tensor([5, 12]))
    found = sound.excerpts(torch.tensor([1, 0]), torch.tensor([3, 0]), 8)
    assert found.tolist() == [list(range(103, 111)), [0, 1, 2, 3, 4, 0, 1, 2]]
    starts = [sound.starts(8, generator(seed).random(2)) for seed in range(60)]
    assert {start[0] for start in starts} == {0} and {start[1] for start in starts} == set(range(5))


def test_frames_are_chosen_as_the_loader_chooses_them():
    available = torch.tensor([1, 2, 7, 30])
    images = Images(torch.empty(40, 1, 1, 1), available.cumsum(0) - available, available, torch.ones(40, 2))
    ours = np.stack([images.places(generator(seed).random((4, 3))) for seed in range(400)])
    ours = ours - images.first.numpy()[:, None]
    for clip, count in enumerate(available.tolist()):
        theirs = np.array([frame_indices(count, 3, draws) for draws in generator(clip).random((400, 3))])
        for place in range(3):
            assert ks_2samp(ours[:, clip, place], theirs[:, place]).pvalue > 1e-4
            assert set(ours[:, clip, place]) <= set(range(count))


# ---- the data sets: batches from the cache against items computed from the files


def loaders(cache: object, seed: int = 0, batch_size: int = 4, size: int = 256) -> Loaders:
    return Loaders(batch_size, seed, 0, CPU, str(cache), size)


def clip_dataset(root: Path, **settings: object) -> ClipDataset:
    classes, train, _ = read_lists(root, "")
    found = find_clips(root, train)[0]
    return ClipDataset(found, classes, train=True, image_size=64, audio_seconds=0.7, **settings)


def batches(loader: object, epoch: int) -> list[dict]:
    loader.batch_sampler.epoch = epoch
    return list(loader)


def in_order(loader: object, epoch: int) -> dict[str, torch.Tensor]:
    """{name: of every clip, in the order of the list}."""
    found = batches(loader, epoch)
    places = torch.tensor([index for keys in loader.batch_sampler for _, index in keys])
    return {name: torch.cat([batch[name] for batch in found])[places.argsort()] for name in found[0]}


def motion_dataset(root: Path, **settings: object) -> MotionDataset:
    make_marked_actions(root)
    classes = read_classes(root, "")
    clips = find_actions(root, read_split(root, 1, classes, "")[0], ("rgb", "flow", "difference"), "dis")[0]
    return MotionDataset(clips, classes, train=True, num_frames=2, flow_frames=3, image_size=64, **settings)


def utterance_dataset(root: Path, **settings: object) -> UtteranceDataset:
    listed = read_train_list(root / "train.csv", "")
    return UtteranceDataset(root / "train", listed, train=True, audio_frames=40, num_frames=2, image_size=64,
                            modalities=("audio", "visual"), **settings)


def check_equal_to_the_files(dataset: object) -> dict[str, torch.Tensor]:
    """Batches from the cache are those from the files, to the last bit, in each of two epochs."""
    cached = loaders("ram").training(dataset)
    read = make_loader(dataset, TrainBatches(len(dataset), 3, 0), 0, 0, CPU)
    for epoch in (1, 2):
        made, expected = in_order(cached, epoch), in_order(read, epoch)
        assert made.keys() == expected.keys()
        for name in made:
            assert torch.equal(made[name], expected[name]), name
    return made


@pytest.mark.parametrize("settings", [
    {}, {"num_frames": 2, "move_sound": True}, {"crop": Crop((0.5, 0.6), (1.0, 1.0), flip=False)},
    {"modalities": ("visual",)}, {"modalities": ("audio",)}])
def test_clips_from_the_cache_are_those_from_the_files(tiny_data, settings):
    check_equal_to_the_files(clip_dataset(tiny_data, **settings))


@pytest.mark.parametrize("settings", [{}, {"modalities": ("flow",)}, {"crop": Crop(flip=False)}])
def test_motion_from_the_cache_is_that_from_the_files(tmp_path, settings):
    made = check_equal_to_the_files(motion_dataset(tmp_path, **settings))
    assert made["flow"].shape[1:] == (6, 64, 64)


@pytest.mark.parametrize("crop", [FACE_CROP, Crop()])
def test_utterances_from_the_cache_are_those_from_the_files(tiny_voices, crop):
    check_equal_to_the_files(utterance_dataset(tiny_voices, crop=crop))


def test_frames_of_a_clip_are_cropped_as_torchvision_crops_the_drawn_box(tiny_data):
    dataset = clip_dataset(tiny_data, num_frames=2)
    for index, clip in enumerate(dataset.clips[:8]):
        draws = draws_of_clip(0, 3, index, dataset.draws)
        frames = read_frames(clip.frames)
        height, width = frames.shape[-2:]
        box = np.round(Crop().boxes(draws[-CROP_DRAWS:], np.array([height, width])) * [height, width, height, width])
        places = [int((k + draws[1 + k]) * len(clip.frames) / 2) for k in range(2)]
        expected = F.resized_crop(frames[places], *map(int, box), [64, 64], antialias=True)
        expected = expected.flip(-1) if draws[-1] < 0.5 else expected
        assert (dataset.item(index, draws)["visual"].int() - expected.int()).abs().max() <= 1


def test_crops_keep_to_area_ratio_and_flip():
    draws = generator().random((3000, CROP_DRAWS))
    sizes = np.full((3000, 2), (200, 300))
    crop = Crop((0.3, 0.5), (0.8, 1.6), flip=False)
    height, width = (crop.boxes(draws, sizes)[:, 2:] * sizes).T
    assert 0.29 < (height * width / 60000).min() < 0.31 and 0.49 < (height * width / 60000).max() < 0.51
    assert 0.78 < (width / height).min() < 0.82 and 1.57 < (width / height).max() < 1.63
    # uniform in the logarithm of the ratio: the median is the geometric mean of its ends
    assert abs(np.median(width / height) - np.sqrt(0.8 * 1.6)) < 0.03
    assert not crop.flips(draws).any() and abs(Crop().flips(draws).mean() - 0.5) < 0.05


def test_a_video_without_sound_is_silent(tiny_data):
    dataset = clip_dataset(tiny_data)
    dataset.clips = [clip._replace(audio=None) for clip in dataset.clips]
    assert not in_order(loaders("ram").training(dataset), 1)["audio"].any()


def test_large_images_are_stored_smaller_and_cropped_alike(tiny_data, monkeypatch):
    dataset = clip_dataset(tiny_data, modalities=("visual",))
    small, whole = (loaders("ram", size=size).training(dataset) for size in (64, 256))
    stored, exact = (loader.clips.images["visual"].pixels for loader in (small, whole))
    assert min(stored.shape[-2:]) == 64 < min(exact.shape[-2:])
    assert small.clips.images["visual"].sizes.equal(whole.clips.images["visual"].sizes)
    a, b = (in_order(loader, 1)["visual"].float() for loader in (small, whole))
    assert (a - b).abs().mean() < 12 < (a - b.roll(1, 0)).abs().mean()


# ---- what is drawn


def test_what_is_drawn_depends_on_seed_epoch_and_clip_alone(tiny_data):
    dataset = clip_dataset(tiny_data)
    one, other = (loaders("ram", batch_size=size).training(dataset) for size in (4, 9))
    first, second = in_order(one, 1), in_order(one, 2)
    assert all(first[name].equal(in_order(other, 1)[name]) for name in first)
    assert all(first[name].equal(in_order(one, 1)[name]) for name in first)  # again, after other epochs
    assert not first["visual"].equal(second["visual"])
    assert not first["visual"].equal(in_order(loaders("ram", seed=1).training(dataset), 1)["visual"])


def test_a_clips_numbers_are_the_same_drawn_alone_or_with_all():
    for count in (4, 26, 7):
        every = draws_of_clips(5, 2, 30, count)
        assert all(np.array_equal(draws_of_clip(5, 2, clip, count), every[clip]) for clip in range(30))
        assert len(np.unique(every)) == every.size and abs(every.mean() - 0.5) < 0.1
    assert not np.array_equal(draws_of_clip(5, 2, 1, 8), draws_of_clip(5, 3, 1, 8))
    assert not np.array_equal(draws_of_clip(5, 2, 1, 8), draws_of_clip(6, 2, 1, 8))


def test_no_two_epochs_of_any_seeds_draw_the_same_numbers():
    drawn = {tuple(draws_of_clip(seed, epoch, clip, 8)) for seed in range(4) for epoch in range(1, 5)
             for clip in range(4)}
    assert len(drawn) == 4 * 4 * 4


def test_several_processes_get_the_clips_of_one(tiny_data):
    dataset, cache = clip_dataset(tiny_data), Cache("ram", 256, 0, CPU)
    whole = in_order(cache.training(dataset, TrainBatches(24, 8, 0), 0), 1)
    for rank in range(3):
        part = cache.training(dataset, TrainBatches(24, 8, 0, rank, 3), 0)
        made = batches(part, 1)
        places = [index for keys in part.batch_sampler for _, index in keys]
        assert torch.cat([batch["visual"] for batch in made]).equal(whole["visual"][places])


def test_a_part_of_the_clips_gets_its_own(tiny_data):
    dataset, cache = clip_dataset(tiny_data), Cache("ram", 256, 0, CPU)
    whole = in_order(cache.training(dataset, TrainBatches(24, 8, 0), 0), 1)
    kept = [20, 3, 11, 5]
    part = in_order(cache.training(Subset(dataset, kept), TrainBatches(4, 3, 0), 0), 1)
    assert part["visual"].equal(whole["visual"][kept]) and part["label"].equal(whole["label"][kept])
    assert len(cache.known) == 1  # decoded once


# ---- evaluation


def test_evaluation_batches_are_those_of_the_loader_and_are_read_once(tiny_data, monkeypatch):
    dataset = clip_dataset(tiny_data).for_evaluation()
    expected = list(make_loader(dataset, EvaluationBatches(24, 5), 0, 0, CPU))
    kept = loaders("ram", batch_size=5).evaluation(dataset)
    assert isinstance(kept, KeptBatches) and len(kept) == 5
    for _ in range(2):
        for batch, other in zip(kept, expected, strict=True):
            assert batch.keys() == other.keys() and all(batch[name].equal(other[name]) for name in batch)
        monkeypatch.setattr("dataset.clips.read_audio", None)  # from the second pass on nothing is read


# ---- files


def packed_folders(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_folder_is_used_again_until_a_file_changes(tiny_data, tmp_path, monkeypatch, capsys):
    dataset, folder = clip_dataset(tiny_data), tmp_path / "packed"
    first = in_order(loaders(folder).training(dataset), 1)
    before, said = packed_folders(folder), f"--cache {folder}: 24 training clips decoded before, in {folder}/"
    assert said not in capsys.readouterr().out
    monkeypatch.setattr(packing, "pack", None)
    assert in_order(loaders(folder).training(dataset), 1)["audio"].equal(first["audio"])
    assert f"{said}{before[0]}\n" in capsys.readouterr().out
    monkeypatch.undo()
    changed = dataset.clips[0].frames[0]
    state = changed.stat()
    try:
        os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
        in_order(loaders(folder).training(dataset), 1)
    finally:
        os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert len(packed_folders(folder)) == 2 and before[0] in packed_folders(folder)


@pytest.mark.parametrize("settings", [{"modalities": ("audio",)}, {"move_sound": True}, {"sample_rate": 8000}])
def test_other_settings_are_packed_apart(tiny_data, tmp_path, settings):
    one, other = clip_dataset(tiny_data), clip_dataset(tiny_data, **settings)
    assert packing.place_of(one, tmp_path, 256) != packing.place_of(other, tmp_path, 256)
    assert packing.place_of(one, tmp_path, 256) != packing.place_of(one, tmp_path, 128)
    more_frames = clip_dataset(tiny_data, num_frames=2)
    assert packing.place_of(one, tmp_path, 256) == packing.place_of(more_frames, tmp_path, 256)


def test_what_was_packed_in_memory_is_removed(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.training.cached.temporary_folder", lambda size: tmp_path / "memory")
    loader = loaders("ram").training(clip_dataset(tiny_data))
    assert os.listdir(tmp_path / "memory") == [] and len(batches(loader, 1)) == 6


def test_what_was_packed_in_memory_is_removed_when_it_cannot_be_used(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.training.cached.temporary_folder", lambda size: tmp_path / "memory")
    monkeypatch.setattr(packing, "load", lambda place, clips: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loaders("ram").training(clip_dataset(tiny_data))
    assert os.listdir(tmp_path / "memory") == []


def test_two_runs_that_pack_the_same_clips_at_once_both_go_on(tiny_data, tmp_path, monkeypatch):
    dataset, folder, write = clip_dataset(tiny_data), tmp_path / "packed", packing.write_streams

    def write_and_be_overtaken(*where):
        written = write(*where)
        monkeypatch.setattr(packing, "write_streams", write)
        with monkeypatch.context() as other:  # another run, which ends first
            other.setattr(os, "getpid", os.getppid)
            in_order(loaders(folder).training(dataset), 1)
        return written

    monkeypatch.setattr(packing, "write_streams", write_and_be_overtaken)
    slow = in_order(loaders(folder).training(dataset), 1)
    assert slow["visual"].equal(in_order(loaders(folder).training(dataset), 1)["visual"])
    assert packed_folders(folder) == [packing.place_of(dataset, folder, 256).name]


def test_a_killed_packing_leaves_nothing_that_is_used(tiny_data, tmp_path, monkeypatch):
    dataset, folder = clip_dataset(tiny_data), tmp_path / "packed"
    place = packing.place_of(dataset, folder, 256)
    (folder / f".999999999-{machine()}.{place.name}").mkdir(parents=True)  # of a process that has ended
    in_order(loaders(folder).training(dataset), 1)
    assert packed_folders(folder) == [place.name]


def test_leftovers_are_removed_before_the_room_is_measured(tiny_data, tmp_path, monkeypatch):
    """Of killed runs, in the folder of --cache, and of --cache ram in both of its folders; never a live run's."""
    dead, live = (f".{process}-{machine()}.0123456789abcdef" for process in (999999999, os.getppid()))
    roots = [tmp_path / name / f"mmcosine-{os.getuid()}" for name in ("memory", "temporary")]
    left = [folder / dead for folder in (tmp_path / "packed", *roots)]
    for path in left:
        path.mkdir(parents=True)
        path.with_name(live).mkdir()
    monkeypatch.setattr(cached, "SHARED_MEMORY", tmp_path / "memory")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for kind, looked_at in ((tmp_path / "packed", left[:1]), ("ram", left[1:])):
        with monkeypatch.context() as patch:
            patch.setattr("shutil.disk_usage", lambda path, looked_at=looked_at: SimpleNamespace(
                free=0 if any(path.exists() for path in looked_at) else 10**9))
            loaders(kind).training(clip_dataset(tiny_data))
    assert not any(path.exists() for path in left) and all(path.with_name(live).is_dir() for path in left)


def test_a_leftover_of_a_process_with_our_own_number_is_in_nobodys_way(tiny_data, tmp_path, monkeypatch):
    """As after a restart of the machine, or in containers of one name: process numbers repeat."""
    monkeypatch.setattr(cached, "temporary_folders", lambda: [tmp_path, tmp_path])
    dataset = clip_dataset(tiny_data)
    loaders(tmp_path / "packed").training(dataset)
    place, = (tmp_path / "packed").iterdir()
    ours = place.with_name(f".{os.getpid()}-{machine()}.{place.name}")
    ours.mkdir()
    place.rename(tmp_path / ours.name)  # of --cache ram: complete, but nothing says by whom
    (tmp_path / ours.name / "audio.bin").write_bytes(b"")
    for kind in (tmp_path / "packed", "ram"):
        assert len(batches(loaders(kind).training(dataset), 1)) == 6
    assert packed_folders(tmp_path) == ["packed"] and packed_folders(tmp_path / "packed") == [place.name]


def test_the_processes_of_a_machine_share_what_its_first_one_packs(tiny_data, tmp_path, monkeypatch):
    """Where that is the first one says: what is free may change between two looks."""
    dataset, first = clip_dataset(tiny_data), tmp_path / "of_the_first"
    packing.pack(dataset, first, packing.estimate(dataset, 256).stored, 0)
    monkeypatch.setattr(distributed, "from_first_here", lambda place: first)
    monkeypatch.setattr(packing, "pack", None)
    assert len(batches(loaders("ram").training(dataset), 1)) == 6


def test_clips_without_files_are_told_apart_by_their_places(tiny_data, tmp_path):
    dataset, (classes, *_) = clip_dataset(tiny_data, modalities=["audio"]), read_lists(tiny_data, "")
    places = set()
    for silent in ((), (0,), (1,), (0, 1)):
        clips = [clip._replace(audio=None) if k in silent else clip for k, clip in enumerate(dataset.clips)]
        for kept in (clips, clips[1:]):
            other = ClipDataset(kept, classes, train=True, audio_seconds=0.7, modalities=["audio"])
            places.add(packing.place_of(other, tmp_path, 256))
    assert len(places) == 6  # a silent first clip that is left out leaves the same clips as one that sounds


def test_what_is_packed_has_a_row_for_each_clip(tiny_data, tmp_path):
    dataset = clip_dataset(tiny_data)
    loaders(tmp_path).training(dataset)
    place = packing.place_of(dataset, tmp_path, 256)
    assert len(packing.load(place, len(dataset)).sound["audio"].first) == len(dataset)
    with pytest.raises(InputError, match=r"index\.json is missing or damaged: remove"):
        packing.load(place, len(dataset) + 1)


@pytest.mark.parametrize("damage", ["shorter", "missing", "index", "no index", "fractions", "negative", *INDICES])
def test_a_damaged_folder_is_refused_by_name(tiny_data, tmp_path, damage):
    dataset = clip_dataset(tiny_data)
    loaders(tmp_path).training(dataset)
    place = packing.place_of(dataset, tmp_path, 256)
    if damage == "index":
        (place / "index.json").write_text("{", encoding="utf-8")
    elif damage == "no index":
        (place / "index.json").unlink()
    elif damage in INDICES:
        (place / "index.json").write_text(INDICES[damage])
    elif damage in ("fractions", "negative"):
        index = json.loads((place / "index.json").read_text())
        if damage == "fractions":
            index["lengths"]["audio"] = [float(length) for length in index["lengths"]["audio"]]
        else:  # of the same product
            channels, height, width = index["shapes"]["visual"]
            index["shapes"]["visual"] = [-channels, -height, width]
        (place / "index.json").write_text(json.dumps(index))
    elif damage == "missing":
        (place / "visual.bin").unlink()
    else:
        (place / "visual.bin").write_bytes((place / "visual.bin").read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{place.name}.*remove .*{place.name}"):
        loaders(tmp_path).training(dataset)


def test_a_folder_for_which_memory_is_not_enough_is_not_called_damaged(tmp_path):
    (tmp_path / "audio.bin").touch()
    os.truncate(tmp_path / "audio.bin", 2 << 30)  # takes no room on the disk
    (tmp_path / "index.json").write_text(json.dumps({"lengths": {"audio": [1 << 30]}, "shapes": {"audio": []}}))
    assert packing.load(tmp_path, 1).sound["audio"].first.tolist() == [0]
    pages, before = int(Path("/proc/self/statm").read_text().split()[0]), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), before[1]))
    try:
        with pytest.raises(RuntimeError, match="unable to mmap") as failed:
            packing.load(tmp_path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert "of --cache, which are not damaged: raise its limit" in str(machine_error(failed.value))


def test_a_clip_that_cannot_be_decoded_is_named(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SAMPLED", 2)
    dataset = clip_dataset(tiny_data)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    dataset.clips = [*dataset.clips[:3], dataset.clips[3]._replace(audio=broken), *dataset.clips[4:]]
    with pytest.raises(InputError, match=r"broken\.wav"):
        loaders(tmp_path / "packed").training(dataset)
    assert packed_folders(tmp_path / "packed") == []


def test_clips_that_do_not_fit_are_refused_before_they_are_decoded(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and type("", (), {"free": 10**5}))
    with pytest.raises(InputError, match=r"take some .*MB, .* has 100 kB free.*--cache_size"):
        loaders(tmp_path).training(clip_dataset(tiny_data))
    assert packed_folders(tmp_path) == []


def test_a_disk_that_fills_meanwhile_is_one_sentence_with_the_next_step(tiny_data, tmp_path):
    said = rf"^{tmp_path} cannot be written \(.*; .* free there\): name a folder on a larger disk with --cache FOLDER,"
    with largest_file(20_000), pytest.raises(DiskError, match=said):
        loaders(tmp_path).training(clip_dataset(tiny_data))
    assert packed_folders(tmp_path) == []


@pytest.mark.parametrize("call", ["mkdir", "replace"])
def test_a_folder_that_cannot_be_made_or_put_in_place_is_told_as_the_disks(tiny_data, tmp_path, monkeypatch, call):
    dataset, real = clip_dataset(tiny_data), getattr(Path, call)

    def refuse(path, *args, **settings):
        if path.name.startswith(".") and path.suffix != ".json":
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return real(path, *args, **settings)

    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(DiskError, match=rf"^{tmp_path} cannot be written \(Disk quota exceeded; .*\): name a folder"):
        loaders(tmp_path).training(dataset)
    assert packed_folders(tmp_path) == []


def test_what_is_written_only_when_a_file_is_closed_may_not_fit_either(tmp_path):
    (tmp_path / "clips").mkdir()
    with largest_file(5), pytest.raises(DiskError, match=rf"^{tmp_path} cannot be written"):
        packing.write_streams(tmp_path / "clips", [({"audio": np.zeros(9, np.int16)}, {})])


def test_the_free_space_of_an_error_is_that_of_the_folder_which_may_be_a_disk_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=7 if path == tmp_path else 9))
    assert "; 7 bytes free there)" in str(disk_error(tmp_path, OSError(28, "No space left on device")))
    assert "; 7 bytes free there)" in str(disk_error(tmp_path / "a" / "b", OSError(28, "No space left on device")))


def test_a_process_that_ends_while_it_decodes_is_not_called_a_full_disk(tiny_data, tmp_path, monkeypatch):
    def ending(*_, **settings):
        yield {"audio": np.zeros(9, np.int16)}, {}
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(packing, "tqdm", ending)
    with pytest.raises(ConnectionResetError):
        packing.pack(clip_dataset(tiny_data), tmp_path / "packed" / "clips", {}, 0)
    assert packed_folders(tmp_path / "packed") == []


def test_a_closed_folder_of_another_user_is_refused_by_the_flag(tiny_data, tmp_path, monkeypatch):
    folder = tmp_path / "closed"
    folder.mkdir()
    for name in ("listdir", "stat", "open", "mkdir"):
        monkeypatch.setattr(os, name, closed(folder, getattr(os, name)))
    said = rf"^the folder {folder} of --cache cannot be made or written to \(Permission denied\): name another one"
    with pytest.raises(InputError, match=said):
        loaders(folder).training(clip_dataset(tiny_data))


def test_clips_of_another_user_that_are_closed_are_refused_by_the_flag(tiny_data, tmp_path, monkeypatch):
    loaders(tmp_path).training(clip_dataset(tiny_data))
    place, = tmp_path.iterdir()
    for unreadable in (place, place / "index.json"):
        monkeypatch.setattr(os, "access", lambda path, mode, unreadable=unreadable: path != unreadable)
        with pytest.raises(DiskError, match=rf"^{unreadable} of --cache cannot be read .*: name another folder with"):
            loaders(tmp_path).training(clip_dataset(tiny_data))


def closed(folder: Path, call: Callable[..., object]) -> Callable[..., object]:
    """A call of the system that may not look into a folder; root, who runs tests in containers, may look anywhere."""
    def refuse(path, *args, **settings):
        place = Path(path) if isinstance(path, str | Path) else Path()
        if folder in place.parents or (place == folder and call.__name__ in ("listdir", "open")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return call(path, *args, **settings)

    return refuse


@pytest.mark.parametrize("name, reason", [("a_file", "File exists"), ("a_file/below", "Not a directory"),
                                          ("/proc/self/fd", "No such file or directory|Permission denied")])
def test_a_place_that_is_no_folder_or_cannot_be_written_to_is_refused_by_the_flag(tiny_data, tmp_path, name, reason):
    (tmp_path / "a_file").touch()
    place = tmp_path / name  # which /proc/self/fd replaces: nobody can write there
    said = rf"^the folder {place} of --cache cannot be made or written to \(({reason})\): name another one with --cache"
    with pytest.raises(InputError, match=said):
        loaders(place).training(clip_dataset(tiny_data))


def test_the_estimate_is_near_what_is_written(tiny_data, tmp_path):
    dataset = clip_dataset(tiny_data)
    loaders(tmp_path).training(dataset)
    place = packing.place_of(dataset, tmp_path, 256)
    written = sum(file.stat().st_size for file in place.glob("*.bin"))
    assert packing.estimate(dataset, 256).size == pytest.approx(written, rel=0.05)
    assert json.loads((place / "index.json").read_text())["shapes"]["visual"] == list(
        read_frames(dataset.clips[0].frames).shape[1:])




# ---- whole runs


def test_a_resumed_run_with_a_cache_ends_as_the_uninterrupted_one(train_argv, tmp_path, tiny_encoders):
    argv = [*train_argv, "--cache", str(tmp_path / "packed"), "--val_fraction", "0.2"]
    result = main([*argv, "--run_name", "whole", "--epochs", "3"])
    main([*argv, "--epochs", "1"])
    with pytest.raises(InputError, match="leave out --cache"):
        main(["--resume", str(tmp_path / "run"), "--epochs", "3", "--cache", "off"])
    main(["--resume", str(tmp_path / "run"), "--epochs", "3", "--num_workers", "0", "--cache", "ram"])
    whole, resumed = (torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("whole", "run"))
    assert all(value.equal(resumed[name]) for name, value in whole.items())
    evaluated = main(["--ckpt_path", str(tmp_path / "whole" / "best.pt"), "--num_workers", "0"])  # without the cache
    assert evaluated["accuracy"] == result["accuracy"] and evaluated["loss"] == pytest.approx(result["loss"])


def test_evaluation_batches_are_kept_only_where_there_is_room(tiny_data, monkeypatch):
    dataset, reads = clip_dataset(tiny_data).for_evaluation(), []
    room = 3 * sum(tensor.nbytes for tensor in next(iter(loaders("ram", batch_size=5).evaluation(dataset))).values())
    original = type(dataset).__getitem__
    monkeypatch.setattr(type(dataset), "__getitem__", lambda self, k: reads.append(k) or original(self, k))
    for free, passes in ((100 * room, 1), (room, 2), (0, 2)):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        loader = loaders("ram", batch_size=5).evaluation(dataset)
        reads.clear()
        first, second = (torch.cat([batch["visual"] for batch in loader]) for _ in range(2))
        assert first.equal(second) and len(reads) == passes * len(dataset)


def test_a_run_whose_clips_did_not_fit_can_go_on_with_smaller_ones(train_argv, tmp_path, tiny_encoders):
    run, argv = tmp_path / "run", [*train_argv, "--epochs", "1", "--cache", str(tmp_path / "packed")]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match=(
            rf", or start a run with a smaller --cache_size\. {run}/last.pt holds 0 whole epochs .* continue "
            rf"with --resume {run}$")):
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**5))
        main(argv)
    main(["--resume", str(run), "--cache_size", "64", "--num_workers", "0"])
    assert json.loads((run / "args.json").read_text())["cache_size"] == 64
    with pytest.raises(InputError, match="leave out --cache_size"):  # now batches would change
        main(["--resume", str(run), "--cache_size", "80", "--epochs", "2", "--num_workers", "0"])


def test_a_run_whose_cache_cannot_be_written_goes_on_with_another(train_argv, tmp_path, tiny_encoders):
    run, argv = tmp_path / "run", [*train_argv, "--epochs", "1", "--cache", "/proc/self/fd/packed"]
    with pytest.raises(InputError, match=rf"name another one with --cache FOLDER\. .*continue with --resume {run}$"):
        main(argv)
    main(["--resume", str(run), "--cache", str(tmp_path / "packed"), "--num_workers", "0"])
    assert len(packed_folders(tmp_path / "packed")) == 1


def test_a_run_of_a_version_without_a_flag_cannot_be_continued(train_argv, tmp_path, tiny_encoders):
    main([*train_argv, "--epochs", "1"])
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    del last["args"]["cache"]
    torch.save(last, tmp_path / "run" / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt is of an older version .* had no --cache: continue the run with"):
        main(["--resume", str(tmp_path / "run"), "--epochs", "2", "--num_workers", "0"])


def test_a_run_that_may_have_had_trials_goes_on_with_the_cache_that_they_had():
    meanings = get_args_parser().meanings()

    def may_change(modulation: str, epochs: int) -> set[str]:
        before, now = ({"cache": cache, "modulation": modulation} for cache in ("ram", "off"))
        return {name for name in ("cache", "cache_size") if meanings[name].can_change(before, now, epochs)}

    assert may_change("none", 0) == {"cache", "cache_size"}
    assert may_change("none", 1) == set()
    assert may_change("gblend", 0) == set()


def test_a_method_that_holds_clips_out_does_so_with_a_cache(train_argv, tiny_encoders):
    assert main([*train_argv, "--cache", "ram", "--epochs", "1", "--modulation", "lfm_learned"])["n_trained"] == 22


def test_less_detail_than_the_networks_images_is_refused(train_argv, tiny_encoders):
    with pytest.raises(InputError, match="--cache_size 64 is less than --image_size 80"):
        main([*train_argv, "--cache", "ram", "--cache_size", "64", "--image_size", "80"])


def test_a_misspelt_place_is_no_folder(train_argv, capsys):
    with pytest.raises(SystemExit):
        main([*train_argv, "--cache", "devise"])
    assert "'devise' is none of off, auto, ram, device: write a folder with a slash, such as ./devise" in \
        capsys.readouterr().err
