"""Prepares VoxCeleb, or any videos of speaking people, for main_Vox.py: sound, faces, lists.

    python scripts/prepare_voxceleb.py --video vox2/dev/mp4 --audio vox2/dev/aac --split train
    python scripts/prepare_voxceleb.py --video vox2/test/mp4 --audio vox2/test/aac --split test
    python scripts/prepare_voxceleb.py --video my/videos --split train --data_root data/mine --detector mtcnn

Reads    <video>/<id>/.../<utt>.mp4 and <audio>/<id>/.../<utt>.m4a, or other formats; without --audio the videos' sound
Writes   <root>/<split>/wav/<id>/.../<utt>.wav               16 kHz, mono, 16 bit
         <root>/<split>/faces/<id>/.../<utt>/0000000.png ... 224 px, --fps per second
         <root>/train.csv (--split train), or
         <root>/test_pairs.csv (--split test): 4 + 4 random trials per utterance; a list that you edited is kept
         <root>/<split>/prepare_failures.csv                 clip,reason; only when utterances failed

--detector none takes the middle square of each frame, because VoxCeleb2's videos are already cropped to the face. mtcnn
and retinaface (used in the paper) detect the largest face and align it; frames without a face are skipped and counted.
If the script is interrupted, run the same command again: finished utterances are kept.
Exit status: 0 if every utterance is usable, 2 otherwise (all usable utterances are still prepared).
"""

import argparse
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

import cv2
import numpy as np
import torch

from dataset.errors import InputError, first_few
from dataset.lists import read_text
from dataset.names import SOUNDS, VIDEOS, composed, first_suffixes, is_named, on_disk
from dataset.preparation import clips as prep
from dataset.preparation.faces import DETECTORS, Detector, found_faces, read_faces, write_faces
from dataset.preparation.reader import read_sound
from dataset.preparation.videos import tell_left_out
from dataset.trials import format_trials, identity_of, make_trials
from dataset.voxceleb import SAMPLE_RATE, Utterance, check_utterance, find_faces
from dataset.whole_files import read_json, remove_leftovers, write_whole
from utils import cli

SETTINGS = "prepare.json"  # settings of a split, and the digest of its generated list
LISTS = {"train": "train.csv", "test": "test_pairs.csv"}
NEXT = {"train": "python main_Vox.py --train --mmcosine True --data_root {root}",
        "test": "python main_Vox.py --ckpt_path runs/NAME/best.pt --data_root {root}"}
TRIALS_AN_UTTERANCE = 4  # targets, and as many non-targets, as in VoxCeleb1-O


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--video", type=Path, required=True, help="folder of <id>/<video>/<utt>.mp4")
    parser.add_argument("--audio", type=Path, help="folder of <id>/<video>/<utt>.m4a; default: the videos' sound")
    parser.add_argument("--data_root", type=Path, default=Path("data/VoxCeleb"), help="output folder")
    parser.add_argument("--split", choices=("train", "test"), required=True, help="part of the layout to write")
    parser.add_argument("--detector", choices=DETECTORS, default="none", help="face detector")
    parser.add_argument("--fps", type=cli.number(float, 0, 1000, exclusive=True), default=2.0, help="faces per second")
    parser.add_argument("--seed", type=cli.number(int, 0), default=0, help="random seed of the trials")
    parser.add_argument("--workers", type=cli.number(int, 1, 1024), default=os.cpu_count(), help="done in parallel")
    return parser


def find_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[str]]:
    """{utterance, the path below `folder` without suffix: its suffixes}. Raises InputError: no folder, none in it."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: data/VoxCeleb/README.md explains where to get VoxCeleb")
    found: dict[str, list[str]] = {}
    others = []
    for place, files in prep.walk(folder):
        below = os.path.relpath(place, folder)
        for file in files:
            stem, suffix = os.path.splitext(file)
            if is_named(file, suffixes):
                found.setdefault(composed(f"{below}/{stem}".removeprefix("./")), []).append(suffix)
            else:
                others.append(Path(below, file))
    if not found:
        raise InputError(f"{folder} holds no file of {', '.join(suffixes)}: name the folder with the identities")
    tell_left_out(others, f"not named {first_suffixes(suffixes)}")
    return found


def check_names(videos: Mapping[str, list[str]], sounds: Mapping[str, list[str]] | None) -> dict[str, str]:
    """{utterance: reason} of those that cannot be prepared: no video, sound or identity, or an unusable name."""
    problems = {}
    for name in sorted(videos.keys() | (sounds or {}).keys()):
        suffixes = videos.get(name, []), (sounds or {}).get(name, [])
        if not identity_of(name):
            problems[name] = "it is in no identity's folder: move it to <id>/<video>/"
        elif "," in name or len(name.split()) > 1:
            problems[name] = "its path has a comma or a space, which lists cannot contain: rename it"
        elif not suffixes[0] or (sounds is not None and not suffixes[1]):
            problems[name] = f"it has no {'sound' if suffixes[0] else 'video'}: download it again"
        elif max(map(len, suffixes)) > 1:
            problems[name] = f"there are files {' and '.join(sorted(max(suffixes, key=len)))}: remove all but one"
    return problems


class Preparer:
    """Sound and faces of one utterance at a time, from files {utterance: suffixes} into `out`."""

    def __init__(self, args: argparse.Namespace, videos: Mapping[str, list[str]],
                 sounds: Mapping[str, list[str]] | None):
        self.args, self.videos, self.sounds = args, videos, sounds
        self.out = args.data_root / args.split
        self.detector: Detector | None = DETECTORS[args.detector]()
        self.frames: list[tuple[int, int]] = []  # (taken, with a face) of each utterance

    def prepare(self, name: str) -> None:
        """Writes what is missing or incomplete. Raises InputError."""
        video = on_disk(self.args.video / f"{name}{self.videos[name][0]}")
        sound = on_disk(self.args.audio / f"{name}{self.sounds[name][0]}") if self.sounds else video
        wav, faces = on_disk(self.out / "wav" / f"{name}.wav"), on_disk(self.out / "faces" / name)
        if not is_whole(self.out, name, "audio"):
            prep.write_sound(wav, read_sound(sound, SAMPLE_RATE), SAMPLE_RATE)
        if not is_whole(self.out, name, "visual"):
            prep.write_folder_whole(faces, partial(write_faces, self.find_faces(video)))

    def find_faces(self, video: Path) -> list[np.ndarray]:
        """(224, 224, 3) uint8 RGB each. Raises InputError: no video, or no face in it."""
        crops = read_faces(video, self.args.fps, self.detector)
        self.frames.append((len(crops), sum(crop is not None for crop in crops)))
        return found_faces(crops, video)

    def report(self) -> None:
        taken, kept = (sum(column) for column in zip(*self.frames, strict=True)) if self.frames else (0, 0)
        print(f"{len(self.frames):,} utterances with new faces: {kept:,} of {taken:,} frames"
              + (f"; {taken - kept:,} frames without a face skipped" if kept < taken else ""))


def is_whole(out: Path, name: str, modality: str) -> bool:
    """Whether the sound or the faces of an utterance exist, by the check that main_Vox.py makes before training."""
    try:
        check_utterance(out, Utterance(f"{name}.wav", name, 0), (modality,))
    except InputError:
        return False
    return True


def read_settings(out: Path) -> dict[str, object]:
    """The content of prepare.json; {} without it, or if nothing was prepared yet. Raises InputError: damaged."""
    path = out / SETTINGS
    if not path.is_file() or not (out / "faces").is_dir():
        return {}
    return read_json(path, f"remove it if {out} was prepared with the same settings, or remove {out} to start again")


def check_settings(args: argparse.Namespace, before: Mapping[str, object], out: Path) -> None:
    """Raises InputError: the split was prepared with another --detector or --fps."""
    now = {"detector": args.detector, "fps": args.fps}
    if {**now, **before, "list": ""} != {**now, "list": ""}:
        raise InputError(f"{out} was prepared with --detector {before.get('detector')} --fps {before.get('fps')}: use "
                         f"the same, choose another --data_root, or remove {out} to start again")


def prepared_names(out: Path) -> list[str]:
    """The utterances whose sound and faces are complete."""
    return [name for name in sorted(find_files(out / "wav", (".wav",)))
            if is_whole(out, name, "audio") and is_whole(out, name, "visual")]


def train_list(out: Path, names: Sequence[str]) -> str:
    """Rows wav,faces,identity,n_frames."""
    return "".join(f"{name}.wav,{name},{identity_of(name)},{len(find_faces(out / 'faces', name))}\n" for name in names)


def trial_list(names: Sequence[str], seed: int) -> str:
    """Rows label,utt1,utt2, with equally many of both labels."""
    return format_trials(make_trials([f"{name}.wav" for name in names], [identity_of(name) for name in names],
                                     TRIALS_AN_UTTERANCE, seed))


def settle_list(args: argparse.Namespace, names: Sequence[str], before: object) -> tuple[object, int]:
    """Writes the split's list, unless the user has another -> (digest of the list last written here, rows of the list).

    before: the digest of the list last written here.
    """
    path = args.data_root / LISTS[args.split]
    if path.exists() and digest(read_text(path)) != before:
        text = read_text(path)
        unlisted = [name for name in names if f"{name}.wav" not in text]
        print(f"{path}: kept unchanged; {len(unlisted):,} of {len(names):,} prepared utterances are not in it"
              + (f": {first_few(unlisted)}. Remove the list to create a new one" if unlisted else ""))
        return before, len(text.splitlines())
    out = args.data_root / args.split
    text = train_list(out, names) if args.split == "train" else trial_list(names, args.seed)
    write_whole(path, text)
    identities = len({identity_of(name) for name in names})
    rows = len(text.splitlines())
    print(f"{path}: {rows:,} rows of {len(names):,} utterances of {identities:,} identities")
    return digest(text), rows


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main(argv: list[str]) -> dict[str, int]:
    """Counts of utterances found, failed, and rows of the list. Raises InputError: an utterance failed."""
    args = get_args_parser().parse_args(argv)
    videos, sounds = find_files(args.video, VIDEOS), args.audio and find_files(args.audio, SOUNDS)
    out = args.data_root / args.split
    settings = read_settings(out)
    check_settings(args, settings, out)
    preparer = Preparer(args, videos, sounds)
    settings |= {"detector": args.detector, "fps": args.fps}
    write_whole(out / SETTINGS, json.dumps(settings) + "\n")
    names = sorted(videos.keys() | (sounds or {}).keys())
    problems = prepare_all(preparer, names, check_names(videos, sounds), args.workers)
    preparer.report()
    prep.check_some_usable(args.video, names, problems)
    prep.write_failures(out, problems, len(names))
    settings["list"], rows = settle_list(args, prepared_names(out), settings.get("list"))
    write_whole(out / SETTINGS, json.dumps(settings) + "\n")
    prep.finish(out, problems, NEXT[args.split].format(root=shlex.quote(str(args.data_root))))
    return {"utterances": len(names), "failed": len(problems), "rows": rows}


def prepare_all(preparer: Preparer, names: Sequence[str], problems: dict[str, str], workers: int) -> dict[str, str]:
    """{utterance: reason} of those that failed, including the given `problems`."""
    for place, _ in list(prep.walk(preparer.out)):  # before some are removed
        remove_leftovers(Path(place))
    for library in (cv2.setNumThreads, torch.set_num_threads):
        library(1)  # the utterances run in parallel
    good = [name for name in names if name not in problems]
    return problems | prep.run_parallel(preparer.prepare, good, workers, "sound and faces", "utterances")


if __name__ == "__main__":
    cli.run(main)
