"""Prepares UCF-101 for main_UCF.py: RGB frames, the frames that follow them, optical flow, a check of every video.

    python scripts/prepare_ucf101.py --data_root data/UCF101                 # flow by DIS
    python scripts/prepare_ucf101.py --data_root data/UCF101 --flow tvl1     # the paper's flow, a hundred times slower
    python scripts/prepare_ucf101.py --data_root data/UCF101 --fps 1         # an RGB frame per second, not three a clip

Reads    <root>/ucfTrainTestlist/classInd.txt, trainlist0{1,2,3}.txt, testlist0{1,2,3}.txt
         <root>/UCF-101/<Class>/<video>.avi              the videos in the lists, or in another format
Writes   <root>/frames/<Class>/<video>/                  rgb_<n>.jpg: frame n (from 0), next_<n>.jpg: the one after it
         <root>/flow_<method>/<Class>/<video>/           u_<n>.jpg, v_<n>.jpg: flow from frame n to the one after it
         <root>/prepare_report.csv                       one row per class: listed, usable
         <root>/prepare_failures.csv                     clip,reason; only when clips failed

Frames and flow fields are evenly spaced: the middles of --num_frames and --flow_frames equal parts of the video. Flow
is in pixels, clipped to +-20 and kept as 8 bits (0: -20, 128: 0, 255: +20), as two-stream networks have it.
If the script is interrupted, run the same command again: finished clips are kept; those of other settings, or of a
video of another length, are extracted again. Every method of flow has a folder of its own.
Exit status: 0 if every clip is usable, 2 otherwise (all usable clips are still prepared).
"""

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

import cv2

from dataset import ucf101
from dataset.errors import InputError, counted, first_few
from dataset.lists import Clip
from dataset.names import VIDEOS, composed, is_named
from dataset.preparation import clips as prep
from dataset.preparation import motion, reader
from dataset.preparation.videos import tell_left_out
from dataset.whole_files import remove_leftovers, write_csv
from utils import cli

HOW_TO_GET = ("data/UCF101/README.md explains where to get the videos and the lists: unpack both and name their "
              "folder by --data_root.")
REPORT = "prepare_report.csv"


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--data_root", type=Path, default=Path("data/UCF101"),
                        help="folder with UCF-101 and ucfTrainTestlist, also the output folder")
    parser.add_argument("--flow", choices=ucf101.FLOWS, default="dis",
                        help="method of optical flow; tvl1 needs opencv-contrib-python")
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--num_frames", type=cli.number(int, 1, 1000), default=3, help="RGB frames per video")
    number.add_argument("--fps", type=cli.number(float, 0, 1000, exclusive=True), help="RGB frames per second instead")
    parser.add_argument("--flow_frames", type=cli.number(int, 1, 1000), default=16, help="flow fields per video")
    parser.add_argument("--workers", type=cli.number(int, 1, 1024), default=os.cpu_count(), help="videos in parallel")
    return parser


def listed_clips(root: Path, classes: Sequence[str]) -> list[Clip]:
    """The clips of all splits, each once. Raises InputError: no list of split 1, or a wrong one."""
    there = [split for split in ucf101.SPLITS
             if split == 1 or (root / ucf101.LISTS / f"trainlist{split:02d}.txt").is_file()]
    lists = [part for split in there for part in ucf101.read_split(root, split, classes, HOW_TO_GET)]
    return list(dict.fromkeys(clip for part in lists for clip in part))


def find_videos(root: Path) -> dict[str, Path]:
    """{`<class>/<video>` in lower case: path}: some copies write HandStandPushups otherwise than the lists."""
    if not (root / "UCF-101").is_dir():
        raise InputError(f"no folder {root / 'UCF-101'}. {HOW_TO_GET}")
    found, others = {}, []
    for path in (Path(place, file) for place, files in prep.walk(root / "UCF-101") for file in files):
        below = path.relative_to(root / "UCF-101")
        if not is_named(path.name, VIDEOS):
            others.append(below)
            continue
        other = found.setdefault(composed(below.with_suffix("").as_posix()).lower(), path)
        if other != path:
            raise InputError(f"{other} and {path} would both be one clip: remove one of them")
    tell_left_out(others, "no videos by their names")
    return found


class Preparer:
    """Frames and flow of one video at a time. videos: as `find_videos` gives them."""

    def __init__(self, args: argparse.Namespace, videos: Mapping[str, Path]):
        self.args, self.root, self.videos = args, args.data_root, videos
        frames = {"fps": args.fps} if args.fps else {"num_frames": args.num_frames}
        self.settings = {"frames": frames, "flow": {"flow": args.flow, "flow_frames": args.flow_frames}}
        self.folders = {"frames": ucf101.frames_folder(self.root), "flow": ucf101.flow_folder(self.root, args.flow)}

    def prepare(self, name: str) -> None:
        """Writes what is missing or incomplete. Raises InputError."""
        path = self.videos.get(name.lower(), ucf101.video_path(self.root, name))
        whole = {kind: motion.read_whole(folder / name, kind, self.settings[kind])
                 for kind, folder in self.folders.items()}
        if all(whole.values()) and not self.has_changed(path, [extract.video_frames for extract in whole.values()]):
            return
        count, rate = reader.measure(path)
        try:
            numbers = self.numbers(count, rate)
        except InputError as error:
            raise InputError(f"{path} cannot be used: {error}") from None
        wanted = {n + step for found in numbers.values() for n in found for step in (0, 1)}
        images = reader.read_numbered(path, wanted)
        for kind, write in (("frames", motion.write_frames), ("flow", motion.write_flow)):
            extract = whole[kind]
            if not extract or extract.video_frames != count:
                write(self.folders[kind] / name, count, images, numbers[kind], self.settings[kind])

    def has_changed(self, path: Path, lengths: Sequence[int]) -> bool:
        """Whether the video is of another length than the prepared one, by its packets."""
        if not path.is_file():
            return False  # removed after the preparation
        count, rate = reader.stated_count(path)
        return any(abs(length - count) > reader.MISSING_END * rate for length in lengths)

    def numbers(self, count: int, rate: float) -> dict[str, tuple[int, ...]]:
        """The frames of a video of `count` frames, `rate` per second, that are extracted."""
        wanted = max(1, round(count / rate * self.args.fps)) if self.args.fps else self.args.num_frames
        return {"frames": motion.evenly_spaced(wanted, count),
                "flow": motion.evenly_spaced(self.args.flow_frames, count)}


def prepare_all(preparer: Preparer, clips: Sequence[Clip], workers: int) -> dict[str, str]:
    """{name: reason} of the clips that failed."""
    for folder in preparer.folders.values():
        for label in {clip.label for clip in clips}:
            remove_leftovers(folder / label)
    cv2.setNumThreads(1)  # the videos run in parallel
    return prep.run_parallel(preparer.prepare, [clip.name for clip in clips], workers, "frames and flow")


def report(root: Path, classes: Sequence[str], clips: Sequence[Clip], problems: Mapping[str, str],
           videos: Mapping[str, Path]) -> None:
    """Writes the counts per class and prints their sums."""
    listed = Counter(clip.label for clip in clips)
    usable = Counter(clip.label for clip in clips if clip.name not in problems)
    write_csv(root / REPORT, [{"number": number, "class": name, "listed": listed[name], "usable": usable[name]}
                              for number, name in enumerate(classes, 1)])
    print(f"{len(clips):,} clips of {len(classes)} classes in the lists (official: {ucf101.OFFICIAL_CLIPS:,}), "
          f"{usable.total():,} usable; by class: {root / REPORT}")
    unlisted = sorted(videos.keys() - {clip.name.lower() for clip in clips})
    if unlisted:
        print(f"{counted(len(unlisted), 'video', 'is')} in no list and left out: {first_few(unlisted)}")


def main(argv: Sequence[str]) -> dict[str, int]:
    """Counts of clips: listed, failed. Raises InputError: a clip failed."""
    args = get_args_parser().parse_args(argv)
    motion.flow_method(args.flow)  # what it needs is missing from every clip or from none
    root = args.data_root
    classes = ucf101.read_classes(root, HOW_TO_GET)
    clips = listed_clips(root, classes)
    videos = find_videos(root)
    problems = prepare_all(Preparer(args, videos), clips, args.workers)
    prep.check_some_usable(root, [clip.name for clip in clips], problems)
    report(root, classes, clips, problems, videos)
    prep.write_failures(root, problems, len(clips))
    prep.finish(root, problems, "python main_UCF.py --train --mmcosine True --scaling 10 "
                                f"--data_root {shlex.quote(str(root))}"
                                f"{f' --flow {args.flow}' if args.flow != 'dis' else ''}"
                                f"{f' --flow_frames {args.flow_frames}' if args.flow_frames != 16 else ''}")
    return {"listed": len(clips), "failed": len(problems)}


if __name__ == "__main__":
    cli.run(main)
