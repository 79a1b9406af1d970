"""Prepares VoxCeleb, or any videos of people who speak, for main_Vox.py: sound, faces, lists.

    python scripts/prepare_voxceleb.py --video vox2/dev/mp4 --audio vox2/dev/aac --split train
    python scripts/prepare_voxceleb.py --video vox2/test/mp4 --audio vox2/test/aac --split test
    python scripts/prepare_voxceleb.py --video my/videos --split train --data_root data/mine --detector mtcnn

Reads    <video>/<id>/.../<utt>.mp4 (mkv, webm, avi, mov, flv, mpg), <audio>/<id>/.../<utt>.m4a (wav, flac, mp3, ogg,
         opus); without --audio the sound of the videos
Writes   <root>/<split>/wav/<id>/.../<utt>.wav               16 kHz, mono, 16 bit
         <root>/<split>/faces/<id>/.../<utt>/0000000.png ... 224 px, --fps a second
         <root>/train.csv (--split train), made anew from what is there; or
         <root>/test_pairs.csv (--split test), unless it is there: 4 + 4 trials an utterance, by chance
         <root>/<split>/prepare_failures.csv                 clip,reason; only when utterances failed

--detector none takes the middle square of each frame: VoxCeleb2's videos are face tracks already. mtcnn and retinaface
(the paper's) find the largest face and align it; frames without one are left out and counted.
An interrupted or killed run goes on where it was: start the same command again.
Exit status 0 when every utterance is usable, 2 otherwise (everything else is written all the same).
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
import torch

from dataset import preparation as prep
from dataset.errors import InputError
from dataset.faces import DETECTORS, Detector, crop_face
from dataset.files import write_whole
from dataset.identities import identity_of, make_trials, read_trials, write_trials
from dataset.voxceleb import SAMPLE_RATE
from utils import cli

VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv", ".mpg")
SOUNDS = (".m4a", ".wav", ".flac", ".mp3", ".ogg", ".opus")
SETTINGS = "prepare.json"  # what the files of a split were made with
TRIALS_AN_UTTERANCE = 4  # targets, and as many non-targets: as VoxCeleb1-O


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, required=True, help="folder of <id>/<video>/<utt>.mp4")
    parser.add_argument("--audio", type=Path, help="folder of <id>/<video>/<utt>.m4a; default: the videos' sound")
    parser.add_argument("--data_root", type=Path, default=Path("data/VoxCeleb"), help="folder to write to")
    parser.add_argument("--split", choices=("train", "test"), required=True, help="which part of it this is")
    parser.add_argument("--detector", choices=DETECTORS, default="none", help="of faces")
    parser.add_argument("--fps", type=cli.number(float, 0, exclusive=True), default=2.0, help="faces a second")
    parser.add_argument("--seed", type=cli.number(int, 0), default=0, help="of the trials")
    parser.add_argument("--workers", type=cli.number(int, 1), default=os.cpu_count(), help="utterances at a time")
    return parser


def find_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """{utterance, the path below `folder` without suffix: suffix}. Raises InputError: no folder, or nothing in it."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: data/VoxCeleb/README.md tells where to get VoxCeleb")
    found = {}
    for place, _, files in os.walk(folder):
        below = os.path.relpath(place, folder)
        for file in files:
            stem, suffix = os.path.splitext(file)
            if suffix.lower() in suffixes and not file.startswith("."):
                found[f"{below}/{stem}".removeprefix("./")] = suffix
    if not found:
        raise InputError(f"{folder} holds no file of {', '.join(suffixes)}: name the folder of the identities' folders")
    return found


def check_names(videos: Mapping[str, str], sounds: Mapping[str, str] | None) -> dict[str, str]:
    """{utterance: reason} of those that cannot be prepared: without video, sound or identity, or unfit for a list."""
    problems = {}
    for name in sorted(videos.keys() | (sounds or {}).keys()):
        if not identity_of(name):
            problems[name] = "it lies in no identity's folder: move it to <id>/<video>/"
        elif "," in name or len(name.split()) > 1:
            problems[name] = "its path holds a comma or a space, which lists cannot: rename it"
        elif name not in videos or (sounds is not None and name not in sounds):
            problems[name] = f"it has no {'sound' if name in videos else 'video'}: download it again"
    return problems


class Preparer:
    """Sound and faces of one utterance at a time, from files {utterance: path} into `out`."""

    def __init__(self, args: argparse.Namespace, videos: Mapping[str, str], sounds: Mapping[str, str] | None):
        self.args, self.videos, self.sounds = args, videos, sounds
        self.out = args.data_root / args.split
        self.detector: Detector | None = DETECTORS[args.detector]()
        self.frames: list[tuple[int, int]] = []  # (taken, with a face) of each utterance

    def prepare(self, name: str) -> None:
        """Writes what is not there yet. Raises InputError."""
        video = self.args.video / f"{name}{self.videos[name]}"
        sound = self.args.audio / f"{name}{self.sounds[name]}" if self.sounds else video
        wav, faces = self.out / "wav" / f"{name}.wav", self.out / "faces" / name
        if not wav.is_file():
            prep.write_sound(wav, prep.read_sound(sound, SAMPLE_RATE), SAMPLE_RATE)
        if not faces.is_dir():
            prep.write_folder_whole(faces, partial(self.write_faces, self.find_faces(video)))

    def find_faces(self, video: Path) -> list[np.ndarray]:
        """(224, 224, 3) uint8 RGB each. Raises InputError: no video, or no face in it."""
        times = prep.middle_times(prep.read_duration(video), self.args.fps)
        crops = [crop_face(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), self.detector)
                 for frame in prep.read_frames(video, times)]
        faces = [crop for crop in crops if crop is not None]
        self.frames.append((len(crops), len(faces)))
        if not faces:
            raise InputError(f"no face found in {len(crops)} frames of {video}: take it out, or try another --detector")
        return faces

    @staticmethod
    def write_faces(faces: list[np.ndarray], folder: Path) -> None:
        for number, face in enumerate(faces):
            png = cv2.imencode(".png", cv2.cvtColor(face, cv2.COLOR_RGB2BGR))[1]
            (folder / f"{number:07d}.png").write_bytes(png)  # cv2.imwrite hides a full disk

    def report(self) -> None:
        taken, kept = (sum(column) for column in zip(*self.frames, strict=True)) if self.frames else (0, 0)
        print(f"{len(self.frames):,} utterances' faces made now: {kept:,} of {taken:,} frames"
              + (f"; {taken - kept:,} without a face left out" if kept < taken else ""))


def check_settings(args: argparse.Namespace, out: Path) -> None:
    """Keeps a split in one style. Raises InputError: it was begun with another --detector or --fps."""
    now = {"detector": args.detector, "fps": args.fps}
    path = out / SETTINGS
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else now
    if before != now:
        raise InputError(f"{out} was prepared with --detector {before['detector']} --fps {before['fps']:g}: give the "
                         f"same, or another --data_root, or remove {out} to begin anew")
    write_whole(path, json.dumps(now) + "\n")


def write_train_list(root: Path) -> int:
    """train.csv from the tree: a row for every utterance with sound and faces -> how many there are."""
    rows, identities = [], set()
    for name in sorted(find_files(root / "train" / "wav", (".wav",))):
        faces = root / "train" / "faces" / name
        if faces.is_dir():
            rows.append(f"{name}.wav,{name},{identity_of(name)},{len(os.listdir(faces))}\n")
            identities.add(identity_of(name))
    write_whole(root / "train.csv", "".join(rows))
    print(f"{root / 'train.csv'}: {len(rows):,} utterances of {len(identities):,} identities")
    return len(rows)


def write_test_list(root: Path, seed: int) -> int:
    """test_pairs.csv, unless it is there -> the number of its trials."""
    path = root / "test_pairs.csv"
    if not path.exists():
        names = sorted(f"{name}.wav" for name in find_files(root / "test" / "wav", (".wav",))
                       if (root / "test" / "faces" / name).is_dir())
        write_trials(path, make_trials(names, [identity_of(name) for name in names], TRIALS_AN_UTTERANCE, seed))
    trials = read_trials(path, "")
    print(f"{path}: {len(trials.labels):,} trials of {len(trials.names):,} utterances, {trials.labels.sum():,} targets")
    return len(trials.labels)


def main(argv: list[str]) -> dict[str, int]:
    """Counts of utterances found, failed, and rows of the list. Raises InputError when an utterance failed."""
    args = get_args_parser().parse_args(argv)
    videos, sounds = find_files(args.video, VIDEOS), args.audio and find_files(args.audio, SOUNDS)
    out = args.data_root / args.split
    check_settings(args, out)
    for place, _, _ in os.walk(out):
        prep.remove_leftovers(Path(place))
    for library in (cv2.setNumThreads, torch.set_num_threads):
        library(1)  # the utterances run in parallel
    preparer = Preparer(args, videos, sounds)
    problems = check_names(videos, sounds)
    names = sorted(videos.keys() | (sounds or {}).keys())
    problems |= prep.run_parallel(preparer.prepare, [name for name in names if name not in problems], args.workers,
                                  "sound and faces", "utterances")
    preparer.report()
    prep.check_some_usable(args.video, names, problems)
    prep.write_failures(out, problems, len(names))
    rows = write_train_list(args.data_root) if args.split == "train" else write_test_list(args.data_root, args.seed)
    prep.finish(out, problems, f"python main_Vox.py --train --mmcosine True --data_root {args.data_root}")
    return {"utterances": len(names), "failed": len(problems), "rows": rows}


if __name__ == "__main__":
    cli.run(main)
