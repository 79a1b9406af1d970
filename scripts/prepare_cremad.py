"""Prepares CREMA-D for main_CD.py: checks the download, extracts frames, writes lists (or checks those that are there).

    git lfs install
    git clone https://github.com/CheyneyComputerScience/CREMA-D data/CREMAD-download
    mv data/CREMAD-download/AudioWAV data/CREMAD-download/VideoFlash data/CREMAD/
    python scripts/prepare_cremad.py --data_root data/CREMAD
    python scripts/prepare_cremad.py --data_root data/CREMAD --split speaker      # no actor in both lists

Reads    <root>/AudioWAV/<clip>.wav and <root>/VideoFlash/<clip>.flv
Writes   <root>/Image-<fps>-FPS/<clip>/frame_00001.jpg ...
         <root>/train.csv, test.csv, stat.csv    unless they are there: then they are checked, never overwritten
         <root>/prepare_failures.csv             clip,reason; only when clips failed

Frames: a clip is divided into n = max(1, round(seconds * fps)) equal parts, the middle frame of each is taken.
An interrupted or killed run goes on where it was: start the same command again.
Exit status 0 when every clip is usable, 2 otherwise (everything else is written all the same).
"""

import argparse
import os
import re
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset.cremad import AUDIO_FOLDER, EMOTIONS, PAPER_COUNTS, audio_path, frames_folder
from dataset.files import read_audio
from dataset.lists import Lists
from dataset.preparation import clips as prep
from utils import cli
from utils.errors import InputError

HOW_TO_GET = ('Get CREMA-D with "git lfs install" and "git clone https://github.com/CheyneyComputerScience/CREMA-D '
              'FOLDER", then name that folder with --data_root.')
PAPER_LISTS = "https://github.com/GeWu-Lab/OGM-GE_CVPR2022, folder data/CREMAD"
OFFICIAL_CLIPS, OFFICIAL_ACTORS = 7442, 91
SENTENCES = "IEO|TIE|IOM|IWW|TAI|MTI|IWL|ITH|DFA|ITS|TSI|WSI"
LEVELS = "LO|MD|HI|XX|X"  # X: one official clip, 1040_ITH_SAD_X
CLIP_NAME = re.compile(rf"\d{{4}}_({SENTENCES})_(?P<emotion>{'|'.join(EMOTIONS)})_({LEVELS})")
JPEG_QUALITY = 95
SAMPLE_RATE = 16000  # Hz


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data/CREMAD", help="folder of the download, also written to")
    parser.add_argument("--fps", type=cli.number(int, 1), default=1, help="frames taken a second of video")
    parser.add_argument("--split", choices=prep.SPLITS, default="stratified", help="speaker: no actor in both lists")
    parser.add_argument("--test_fraction", type=cli.number(float, 0, 1, exclusive=True), default=0.1,
                        help="of the clips (speaker: the actors)")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--workers", type=cli.number(int, 1), default=os.cpu_count(), help="clips decoded at a time")
    return parser


def find_names(root: Path, frames: Path) -> list[str]:
    """Every clip that has a wav, a video or frames. Raises InputError when a folder is missing or there is no clip."""
    if not (root / AUDIO_FOLDER).is_dir():
        raise InputError(f"no folder {root / AUDIO_FOLDER}. {HOW_TO_GET}")
    if not (root / "VideoFlash").is_dir() and not frames.is_dir():
        raise InputError(f"neither {root / 'VideoFlash'} nor {frames} exists. {HOW_TO_GET}")
    found = [*(root / AUDIO_FOLDER).glob("*.wav"), *root.glob("VideoFlash/*.flv")]
    names = {path.stem for path in found} | {path.name for path in frames.glob("[!.]*")}
    if not names:
        raise InputError(f"no wav in {root / AUDIO_FOLDER} and no flv in {root / 'VideoFlash'}. {HOW_TO_GET}")
    return sorted(names)


def check_names(names: list[str]) -> dict[str, str]:
    """{name: reason} of the clips whose name does not say their class."""
    reason = (f"the name is not <actor>_<sentence>_<emotion>_<level> with one of {', '.join(EMOTIONS)}, as "
              "1001_DFA_ANG_XX, so its class is unknown: rename the clip or take it away")
    return {name: reason for name in names if not CLIP_NAME.fullmatch(name)}


def prepare_clip(name: str, root: Path, frames: Path, fps: int) -> None:
    """Reads the sound of a clip and extracts its frames, unless they are there and whole. Raises InputError."""
    read_audio(audio_path(root, name), SAMPLE_RATE)
    if prep.has_frames(frames / name):
        return
    video = root / "VideoFlash" / f"{name}.flv"
    times = prep.middle_times(prep.read_duration(video), fps)
    prep.write_frames(frames / name, prep.read_frames(video, times), JPEG_QUALITY)


def prepare_clips(names: list[str], root: Path, frames: Path, args: argparse.Namespace) -> dict[str, str]:
    """{name: reason} of the clips that failed."""
    for folder in (root, frames):
        prep.remove_leftovers(folder)
    work = partial(prepare_clip, root=root, frames=frames, fps=args.fps)
    return prep.run_parallel(work, names, args.workers, "frames")


def report_download(names: list[str]) -> None:
    """Prints how much of the official data set is there."""
    actors = {name.split("_")[0] for name in names}
    print(f"{len(names):,} clips of {len(actors)} actors; the official data set has {OFFICIAL_CLIPS:,} of "
          f"{OFFICIAL_ACTORS}" + (": this is a part of it" if len(names) < OFFICIAL_CLIPS else ""))


def report_origin(root: Path, lists: Lists, made_here: bool) -> None:
    """Says whose lists are used: only with the paper's are results comparable with the published ones."""
    counts = {"train": len(lists.train), "test": len(lists.test)}
    if counts == PAPER_COUNTS and not made_here:
        print(f"{root}: lists kept; their counts are those of the paper's lists (actors are in both, as published)")
        return
    print(f"{root}: lists {'written' if made_here else 'kept'}. These are not the paper's: OGM-GE's train.csv "
          f"({PAPER_COUNTS['train']:,} clips) and test.csv ({PAPER_COUNTS['test']}), {PAPER_LISTS}. To compare with "
          "published figures put those two and their stat.csv there and run this command again.")


def main(argv: list[str]) -> dict[str, int]:
    """Counts of clips found, failed, and listed for training and test. Raises InputError when a clip failed."""
    args = get_args_parser().parse_args(argv)
    root = Path(args.data_root)
    frames = frames_folder(root, args.fps)
    names = find_names(root, frames)
    report_download(names)
    lists = prep.read_own_lists(root)  # first, so that a mistake in them shows before the long work
    problems = {} if lists else check_names(names)
    problems |= prepare_clips([name for name in names if name not in problems], root, frames, args)
    prep.check_some_usable(root, names, problems)
    usable = [name for name in names if name not in problems]
    labels = {name: CLIP_NAME.fullmatch(name)["emotion"] for name in usable} if lists is None else {}
    made_here = lists is None
    lists = prep.settle_lists(root, lists, labels, problems, len(names), args)
    report_origin(root, lists, made_here)
    prep.report_lists(lists, usable)
    fps = f" --fps {args.fps}" if args.fps != 1 else ""
    prep.finish(root, problems, f"python main_CD.py --train --data_root {root}{fps}")
    return {"clips": len(names), "failed": len(problems), "train": len(lists.train), "test": len(lists.test)}


if __name__ == "__main__":
    cli.run(main)
