"""Prepares CREMA-D for main_CD.py: checks the download, extracts frames, writes lists (or checks those that are there).

    git lfs install
    git clone https://github.com/CheyneyComputerScience/CREMA-D data/CREMAD-download
    mv data/CREMAD-download/AudioWAV data/CREMAD-download/VideoFlash data/CREMAD/
    python scripts/prepare_cremad.py --data_root data/CREMAD
    python scripts/prepare_cremad.py --data_root data/CREMAD --frames middle      # not the paper's frames
    python scripts/prepare_cremad.py --data_root data/CREMAD --split speaker      # no actor in both lists
    python scripts/prepare_cremad.py --data_root data/CREMAD --split speaker --folds 3     # and folds of actors

Reads    <root>/AudioWAV/<clip>.wav and <root>/VideoFlash/<clip>.flv, or videos in other formats
Writes   <root>/Image-<fps>-FPS/<clip>/frame_00001.jpg ...
         <root>/Image-<fps>-FPS.txt              the --frames they were extracted with
         <root>/train.csv, test.csv, stat.csv    existing lists are checked, never overwritten
         <root>/prepare_lists.json               how new lists were made
         <root>/prepare_failures.csv             clip,reason; only when clips failed
         <root>-fold<K>/                         with --folds: lists of the K-th fold, links to sound and frames

--frames ogm_ge (default): the frames that OGM-GE extracts, which the paper uses: the first of every int(frame rate)
frames, which are frames 0, 29, 58, ... of CREMA-D's 29.97 frames per second; with --fps k, k of these frames at equal
distances. --frames middle: a clip is divided into n = max(1, round(seconds * fps)) equal parts, the middle frame of
each is extracted, which was the default before. A folder with frames of one kind keeps them.
If the script is interrupted, run the same command again: finished clips are kept.
Exit status: 0 if every clip is usable, 2 otherwise (all usable clips are still prepared).
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

import numpy as np

from dataset.cremad import AUDIO_FOLDER, EMOTIONS, PAPER_COUNTS, audio_path, clip_folder, frames_folder, not_comparable
from dataset.errors import InputError
from dataset.files import read_audio
from dataset.lists import Lists, read_text
from dataset.names import VIDEOS, composed, is_hidden, is_named
from dataset.preparation import clips as prep
from dataset.preparation import lists as prep_lists
from dataset.preparation import reader
from dataset.preparation.grid import variants
from dataset.preparation.videos import tell_left_out
from dataset.whole_files import remove_leftovers, write_whole
from utils import cli

HOW_TO_GET = ('Get CREMA-D with "git lfs install" and "git clone https://github.com/CheyneyComputerScience/CREMA-D '
              'FOLDER", then name that folder with --data_root.')
PAPER_LISTS = "https://github.com/GeWu-Lab/OGM-GE_CVPR2022, folder data/CREMAD"
OFFICIAL_CLIPS, OFFICIAL_ACTORS = 7442, 91
SENTENCES = "IEO|TIE|IOM|IWW|TAI|MTI|IWL|ITH|DFA|ITS|TSI|WSI"
LEVELS = "LO|MD|HI|XX|X"  # X: one official clip, 1040_ITH_SAD_X
CLIP_NAME = re.compile(rf"\d{{4}}_({SENTENCES})_(?P<emotion>{'|'.join(EMOTIONS)})_({LEVELS})")
JPEG_QUALITY = 95
SAMPLE_RATE = 16000  # Hz


def ogm_ge_frames(video: Path, fps: int) -> Iterator[np.ndarray]:
    """The frames that OGM-GE's preparation extracts, uint8 BGR (H, W, 3). Raises InputError.

    A second counts int(frame rate) frames, 29 of CREMA-D's 29.97; of these, fps frames at equal distances from the
    first one on: frames 0, 29, 58, ... for fps 1.
    """
    count, rate = reader.stated_count(video)
    second = max(1, int(rate + reader.ROUNDING))
    chosen = range(0, second, max(1, second // fps))[:fps]
    numbers = [number for number in range(count) if number % second in chosen]
    return iter(reader.read_numbered(video, numbers).values())


FRAMES = {"ogm_ge": ogm_ge_frames, "middle": reader.read_middles}
DEFAULT_RULE = "ogm_ge"


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--data_root", default="data/CREMAD", help="folder of the download, also written to")
    parser.add_argument("--fps", type=cli.number(int, 1, 1000), default=1, help="frames extracted per second of video")
    parser.add_argument("--frames", choices=FRAMES,
                        help="which frames: those of OGM-GE and the paper, or middles of equal parts; default: those "
                        "that are there, else ogm_ge")
    parser.add_argument("--split", choices=prep_lists.SPLITS, default="stratified",
                        help="how new lists are split; speaker: no actor in both lists")
    parser.add_argument("--test_fraction", type=cli.number(float, 0, 1, exclusive=True), default=0.1,
                        help="test part of the clips (speaker: of the actors)")
    parser.add_argument("--folds", type=cli.number(int, 2, 91), help="also make <data_root>-fold<K>, in which every "
                        "clip is tested once; with --split speaker every actor")
    parser.add_argument("--seed", type=cli.number(int, 0), default=0, help="random seed of the split")
    parser.add_argument("--workers", type=cli.number(int, 1, 1024), default=os.cpu_count(),
                        help="clips decoded in parallel")
    return parser


def find_files(root: Path, frames: Path) -> tuple[list[str], dict[str, Path]]:
    """(every clip that has a wav, a video or frames, {clip: its video}); says how many files are none of these. Raises
    InputError: a folder is missing, there is no clip, or a clip has two videos."""
    if not (root / AUDIO_FOLDER).is_dir():
        raise InputError(f"no folder {root / AUDIO_FOLDER}. {HOW_TO_GET}")
    if not (root / "VideoFlash").is_dir() and not frames.is_dir():
        raise InputError(f"neither {root / 'VideoFlash'} nor {frames} exists. {HOW_TO_GET}")
    names, videos, others = set(clips_with_frames(frames)), {}, []
    for folder, suffixes in ((root / AUDIO_FOLDER, (".wav",)), (root / "VideoFlash", VIDEOS)):
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            path = folder / name
            if not is_named(name, suffixes):
                others += [path.relative_to(root)] * (not is_hidden(name))
                continue
            names.add(composed(path.stem))
            if suffixes == VIDEOS and videos.setdefault(composed(path.stem), path) != path:
                raise InputError(f"a clip has two videos, {videos[composed(path.stem)]} and {path}: remove one of them")
    tell_left_out(others, f"no wav in {AUDIO_FOLDER} and no video in VideoFlash")
    if not names:
        raise InputError(f"no wav in {root / AUDIO_FOLDER} and no flv in {root / 'VideoFlash'}. {HOW_TO_GET}")
    return sorted(names), videos


def clips_with_frames(frames: Path) -> list[str]:
    """The clips that have a folder of frames."""
    if not frames.is_dir():
        return []
    return [composed(name) for name in os.listdir(frames) if not is_hidden(name) and (frames / name).is_dir()]


def check_names(names: list[str]) -> dict[str, str]:
    """{name: reason} of the clips whose class cannot be read from their name."""
    reason = (f"the class is unknown, because the name is not <actor>_<sentence>_<emotion>_<level>, such as "
              f"1001_DFA_ANG_XX, with an emotion of {', '.join(EMOTIONS)}: rename or remove the clip")
    return {name: reason for name in names if not CLIP_NAME.fullmatch(name)}


def settle_rule(frames: Path, wanted: str | None) -> str:
    """By which rule frames are chosen: as `wanted`, else as those that are there; noted beside the folder. Raises
    InputError: the folder holds frames of another rule."""
    note = frames.with_name(f"{frames.name}.txt")
    before = read_text(note).strip() if note.is_file() else "middle"  # what older versions extracted
    if before not in FRAMES:
        raise InputError(f"{note} names no rule of --frames ({', '.join(FRAMES)}): correct it")
    there = bool(clips_with_frames(frames))
    if there and wanted not in (None, before):
        raise InputError(f"{frames} holds frames of --frames {before}: run the command with --frames {before}, or "
                         f"remove that folder to extract the frames again with --frames {wanted}")
    rule = before if there else wanted or DEFAULT_RULE
    if there and rule != DEFAULT_RULE and not wanted:
        print(f"{frames} holds frames of --frames {before}, which are kept. They are not the paper's: for those remove "
              "that folder and run this command again")
    write_whole(note, f"{rule}\n")
    return rule


def prepare_clip(name: str, root: Path, videos: Mapping[str, Path], fps: int, rule: str) -> None:
    """Reads the sound of a clip and extracts its frames, unless they exist and can be read. Raises InputError."""
    read_audio(audio_path(root, name), SAMPLE_RATE)
    folder = clip_folder(root, fps, name)
    if prep.has_frames(folder):
        return
    video = videos.get(name, root / "VideoFlash" / f"{name}.flv")
    prep.write_frames(folder, FRAMES[rule](video, fps), JPEG_QUALITY)


def prepare_clips(names: list[str], root: Path, videos: Mapping[str, Path], fps: int, rule: str,
                  workers: int) -> dict[str, str]:
    """{name: reason} of the clips that failed."""
    for folder in (root, frames_folder(root, fps)):
        remove_leftovers(folder)
    work = partial(prepare_clip, root=root, videos=videos, fps=fps, rule=rule)
    return prep.run_parallel(work, names, workers, "frames")


def report_download(names: list[str]) -> None:
    """Prints how much of the official dataset was found."""
    actors = {name.split("_")[0] for name in names}
    print(f"found {len(names):,} clips of {len(actors)} actors; the official dataset has {OFFICIAL_CLIPS:,} clips of "
          f"{OFFICIAL_ACTORS} actors")


def report_origin(root: Path, lists: Lists, made_here: bool, problems: Collection[str]) -> None:
    """Prints whose lists are used: results are comparable with the paper's only with the paper's lists, all of whose
    clips can be used."""
    counts = {"train": len(lists.train), "test": len(lists.test)}
    if counts == PAPER_COUNTS and not made_here:
        print(f"{root}: existing lists kept; they have as many clips as the paper's lists (whose training and test "
              "clips share actors)")
        unusable = [sum(clip.name in problems for clip in part) for part in (lists.train, lists.test)]
        if any(unusable):
            usable = {name: counts[name] - count for name, count in zip(counts, unusable, strict=True)}
            print(not_comparable(usable))
        return
    print(f"{root}: {'new lists written' if made_here else 'existing lists kept'}. They are not the paper's, so "
          f"results are not comparable with the paper's. For the paper's lists ({PAPER_COUNTS['train']:,} training and "
          f"{PAPER_COUNTS['test']} test clips) copy train.csv, test.csv and stat.csv of {PAPER_LISTS}, to {root} and "
          "run this command again.")


def main(argv: list[str]) -> dict[str, int]:
    """Counts of clips found, failed, and listed for training and test. Raises InputError: a clip failed."""
    args = get_args_parser().parse_args(argv)
    root = Path(args.data_root)
    frames = frames_folder(root, args.fps)
    names, videos = find_files(root, frames)
    report_download(names)
    rule = settle_rule(frames, args.frames)
    how = {name: getattr(args, name) for name in ("split", "test_fraction", "seed")}
    # before the long work, so that mistakes in them show at once; folds are made of all listed clips
    lists = prep_lists.read_own_lists(root, None if args.folds else how)
    problems = {} if lists else check_names(names)
    good = [name for name in names if name not in problems]
    problems |= prepare_clips(good, root, videos, args.fps, rule, args.workers)
    prep.check_some_usable(root, names, problems)
    usable = [name for name in names if name not in problems]
    labels = {name: CLIP_NAME.fullmatch(name)["emotion"] for name in usable} if lists is None else {}
    made_here = lists is None
    lists = prep_lists.settle_lists(root, lists, labels, problems, names, fps=args.fps, **how)
    report_origin(root, lists, made_here, problems)
    prep_lists.report_lists(lists, usable)
    fps = f" --fps {args.fps}" if args.fps != 1 else ""
    made, _ = variants.make_all(root, lists, args.folds, args.split, None, {}, {}, args.seed, args.workers, args.fps)
    command = f"python main_CD.py --train --mmcosine True --scaling 2 --data_root {shlex.quote(str(made[-1]))}{fps}"
    prep.finish(root, problems, command)
    return {"clips": len(names), "failed": len(problems), "train": len(lists.train), "test": len(lists.test)}


if __name__ == "__main__":
    cli.run(main)
