"""Data sets made of a prepared one: several splits into folds, and levels of babble over its words."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from dataset.cremad import AUDIO_FOLDER, VARIANT_NOTE, audio_path, frames_folder
from dataset.errors import InputError
from dataset.lists import Clip, Lists, by_speakers, check_every_class_has_a_clip, group, write_lists
from dataset.names import beside
from dataset.preparation.clips import check_some_usable, run_parallel, write_sound
from dataset.preparation.grid.babble import PEAK, VOICES, add_babble, choose_voices, generator
from dataset.preparation.lists import check_settings
from dataset.preparation.reader import read_sound
from dataset.whole_files import remove_leftovers

SAMPLE_RATE = 16000  # Hz


def folds_of(clips: Sequence[Clip], count: int, seed: int, split: str) -> list[Lists]:
    """`count` splits in which every clip is tested once: `stratified` by class, or each `speaker` as a whole. Raises
    InputError: fewer speakers than folds, a class with fewer clips, or one without a training clip."""
    rng = np.random.default_rng(seed)
    fold_of = (deal_speakers if split == "speaker" else deal_classes)(sorted(clips), count, rng)
    classes = sorted({clip.label for clip in clips})
    folds = [Lists(classes, [clip for clip in clips if fold_of[clip] != fold],
                   [clip for clip in clips if fold_of[clip] == fold]) for fold in range(count)]
    for number, fold in enumerate(folds):
        check_every_class_has_a_clip(classes, fold.train, f"fold {number}", "give fewer --folds")
    return folds


def deal_classes(clips: Sequence[Clip], count: int, rng: np.random.Generator) -> dict[Clip, int]:
    """{clip: its fold}, each class being dealt out evenly."""
    by_class = group(clips, lambda clip: clip.label)
    few = [label for label, members in by_class.items() if len(members) < count]
    if few:
        raise InputError(f"class {few[0]} has {len(by_class[few[0]])} clips, fewer than --folds {count}")
    fold_of = {}
    for label in sorted(by_class):
        shift = int(rng.integers(count))  # else the first folds were larger in every class
        for place, index in enumerate(rng.permutation(len(by_class[label]))):
            fold_of[by_class[label][index]] = (place + shift) % count
    return fold_of


def deal_speakers(clips: Sequence[Clip], count: int, rng: np.random.Generator) -> dict[Clip, int]:
    """{clip: its fold}, the speakers being dealt out evenly."""
    by_speaker = by_speakers(clips)
    if len(by_speaker) < count:
        raise InputError(f"there are {len(by_speaker)} speakers, fewer than --folds {count}")
    names = sorted(by_speaker)
    return {clip: place % count for place, index in enumerate(rng.permutation(len(names)))
            for clip in by_speaker[names[index]]}


def variant_root(root: Path, fold: int | None, level: float | None) -> Path:
    """`digits` -> `digits-fold0-snr-5`."""
    return beside(root, ("" if fold is None else f"-fold{fold}") + ("" if level is None else f"-snr{level:g}"))


def link(source: Path, target: Path) -> None:
    """A folder that is the other one, by a relative link."""
    if not target.is_symlink():
        target.symlink_to(os.path.relpath(source, target.parent), target_is_directory=True)


def make_all(root: Path, lists: Lists, folds: int | None, split: str, levels: Sequence[float | None] | None,
             videos: Mapping[str, Path], spans: Mapping[str, slice], seed: int, workers: int,
             fps: int = 1) -> tuple[list[Path], dict[str, str]]:
    """(the folders of all folds and levels, or `root` itself where neither is wanted, {clip: why it cannot be mixed and
    is not in their lists}). split: how folds are made. levels: None is clean. videos: of the clips' sentences. spans:
    where in its clip the word is. Raises InputError."""
    clips = [*lists.train, *lists.test]
    splits = dict(enumerate(folds_of(clips, folds, seed, split))) if folds else {None: lists}
    wanted = [(fold, level) for fold in splits for level in levels or [None] if (fold, level) != (None, None)]
    speech: dict[str, np.ndarray] = {}
    if any(level is not None for _, level in wanted):
        check_enough(splits.values())
        problems = run_parallel(lambda name: speech.update({name: read_sound(videos[name], SAMPLE_RATE)}),
                                [clip.name for clip in clips], workers, "sentences")
        check_all_read(problems)
    left_out: dict[str, str] = {}
    for fold, level in wanted:
        folder = variant_root(root, fold, level)
        left_out |= make_variant(folder, root, splits[fold], level, speech, spans, seed, workers, fps)
    return [variant_root(root, fold, level) for fold, level in wanted] or [root], left_out


def check_enough(splits: Iterable[Lists]) -> None:
    """Raises InputError: a part of a split has too few sentences for babble of its own."""
    smallest = min(len(part) for lists in splits for part in (lists.train, lists.test))
    if smallest <= VOICES:
        raise InputError(f"babble over a clip needs {VOICES} other sentences of its part of the split, but a part has "
                         f"{smallest} clips: prepare more clips, give fewer --folds or another --test_fraction")


def make_variant(folder: Path, root: Path, lists: Lists, level: float | None, speech: Mapping[str, np.ndarray],
                 spans: Mapping[str, slice], seed: int, workers: int, fps: int = 1) -> dict[str, str]:
    """Lists, linked frames, and sound with babble of each part of the split; clean sound is linked too -> {clip: why it
    cannot be mixed and is not in the lists}. Raises InputError: the folder holds babble of another seed, other clips or
    another split, which would cross this one."""
    folder.mkdir(exist_ok=True)
    check_settings(folder / VARIANT_NOTE,
                   {"babble_snr": level, "voices": VOICES, "peak": PEAK, "seed": seed,
                    "test_clips_sha256": digest(lists.test), "train_clips_sha256": digest(lists.train)},
                   folder / AUDIO_FOLDER)
    problems: dict[str, str] = {}
    link(frames_folder(root, fps), frames_folder(folder, fps))
    if level is None:
        link(root / AUDIO_FOLDER, folder / AUDIO_FOLDER)
    else:
        remove_leftovers(folder / AUDIO_FOLDER)
        for part in (lists.train, lists.test):
            sentences = {clip.name: speech[clip.name] for clip in part}
            mix = Mixer(root, folder, level, sentences, spans, seed)
            problems |= run_parallel(mix, list(sentences), workers, folder.name)
        check_some_usable(folder, [*lists.train, *lists.test], problems)
    mixed = ([clip for clip in part if clip.name not in problems] for part in (lists.train, lists.test))
    write_lists(folder, Lists(lists.classes, *mixed))
    return problems


def digest(clips: Sequence[Clip]) -> str:
    """Of their names, in whatever order."""
    return hashlib.sha256("\n".join(sorted(clip.name for clip in clips)).encode()).hexdigest()


class Mixer(NamedTuple):
    """Writes a clip of `root` with babble of `sentences` into `folder`, unless it is there. Raises InputError."""

    root: Path
    folder: Path
    level: float
    sentences: Mapping[str, np.ndarray]
    spans: Mapping[str, slice]
    seed: int

    def __call__(self, name: str) -> None:
        target = audio_path(self.folder, name)
        if not target.is_file():
            clip, _ = soundfile.read(audio_path(self.root, name), dtype="int16")
            rng = generator(self.seed, name)
            voices = choose_voices(name, self.sentences, rng)
            write_sound(target, add_babble(clip, self.spans[name], voices, self.level, rng), SAMPLE_RATE)


def check_all_read(problems: Mapping[str, str]) -> None:
    """Raises InputError: sentences could not be read."""
    if problems:
        name, reason = next(iter(problems.items()))
        raise InputError(f"{len(problems)} sentences cannot be read. The first, {name}: {reason}")
