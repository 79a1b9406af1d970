r"""Prepares videos for main_CD.py: your own, or those of AVE, Kinetics-Sounds and VGGSound.

    python scripts/prepare_videos.py --videos my_videos --data_root data/mine            # my_videos/<class>/*.mp4
    python scripts/prepare_videos.py --list clips.csv --data_root data/mine --group person
    python scripts/prepare_videos.py --format ave --videos AVE --data_root data/AVE --train_list trainSet.txt \
        --val_list valSet.txt --test_list testSet.txt

--list: a csv whose first line names its columns: path,label and, if wanted, split (train, val, test), start and end
(seconds), and the column that --group names. Paths are below --videos, or below the list's folder.

Writes   <data_root>/AudioWAV/<clip>.wav                         16 kHz, channels averaged; silence if there is none
         <data_root>/Image-<fps>-FPS/<clip>/frame_00001.jpg ...  the middles of equal parts of 1/fps seconds
         <data_root>/train.csv, test.csv, stat.csv (val.csv)     existing lists are kept
         <data_root>/missing.csv                                 split,class,listed,missing; if videos are missing
         <data_root>/prepare_failures.csv                        clip,reason; if clips failed
         <data_root>/prepare_videos*.json                        the settings, and what the lists were made of

If the script is interrupted, run the same command again: finished clips are kept. More in docs/own_videos.md.
Exit status: 0 if every clip is usable, 2 otherwise (all usable clips are still prepared).
"""

import argparse
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

import numpy as np
import soundfile

from dataset.cremad import AUDIO_FOLDER, audio_path, clip_folder
from dataset.errors import InputError, counted, first_few
from dataset.lists import NOT_A_NAME, Clip, Lists, check_every_class_has_a_clip, write_clips
from dataset.names import last_name
from dataset.preparation import clips as prep
from dataset.preparation import lists as prep_lists
from dataset.preparation import official_lists as official
from dataset.preparation.video_clips import SAMPLE_RATE, prepare_clip
from dataset.preparation.videos import SPLITS, Source, from_folders, from_list
from dataset.whole_files import remove_leftovers, write_csv, write_whole
from utils import cli

FORMATS = ("ave", "kinetics_sounds", "vggsound")
LISTS_NOTE = "prepare_videos_lists.json"
LEAST_SECONDS = 0.6  # of --audio_seconds of main_CD.py


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of the videos")
    parser.add_argument("--list", type=Path, help="csv of the clips; for --format vggsound its official csv")
    parser.add_argument("--data_root", type=Path, required=True, help="output folder")
    parser.add_argument("--format", choices=FORMATS, help="the official lists of this data set")
    for split in SPLITS:
        parser.add_argument(f"--{split}_list", type=Path, metavar="FILE",
                            help=f"official {split} list, for --format ave and kinetics_sounds")
    cli.add_boolean(parser, "--drop_shared", False, "leave clips of videos that are in the test split too out of the "
                    "training split")
    parser.add_argument("--group", help="column of --list: clips of a group are not on both sides of the split")
    parser.add_argument("--fps", type=cli.number(int, 1, 1000), default=1, help="frames per second of video")
    parser.add_argument("--test_fraction", type=cli.number(float, 0, 1, exclusive=True), default=0.2,
                        help="test part of the clips of each class (with --group: of the clips), if no split is given")
    parser.add_argument("--seed", type=cli.number(int, 0), default=0, help="random seed of the split")
    parser.add_argument("--workers", type=cli.number(int, 1, 1024), default=os.cpu_count(),
                        help="clips decoded in parallel")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = get_args_parser()
    args = parser.parse_args(argv)
    named = [f"--{split}_list" for split in SPLITS if getattr(args, f"{split}_list")]
    if args.format in (None, "vggsound") and named:
        parser.error(f"{named[0]} is for --format ave and kinetics_sounds: leave it out")
    if args.format in ("ave", "kinetics_sounds") and not (args.train_list and args.test_list and args.videos):
        parser.error(f"--format {args.format} needs --videos, --train_list and --test_list")
    if args.format == "vggsound" and not (args.list and args.videos):
        parser.error("--format vggsound needs --videos and --list vggsound.csv")
    if not args.format and not args.videos and not args.list:
        parser.error("name the videos: --videos FOLDER with a folder for each class, or --list CSV")
    if args.group and (args.format or not args.list):
        parser.error("--group names a column of one's own --list: leave it out")
    if args.drop_shared and not args.format:
        parser.error("--drop_shared is for official lists (--format): use --group for your own")
    return args


def find_sources(args: argparse.Namespace) -> list[Source]:
    """Every clip that is listed. Raises InputError."""
    if not args.format:
        if args.list:
            return from_list(args.list, args.videos or args.list.parent, args.group)
        return from_folders(args.videos)
    videos = official.Videos(args.videos)
    if args.format == "vggsound":
        sources = list(official.vggsound(args.list, videos))
    else:
        read = {"ave": official.ave, "kinetics_sounds": official.kinetics_sounds}[args.format]
        paths = {split: getattr(args, f"{split}_list") for split in SPLITS if getattr(args, f"{split}_list")}
        sources = [source for split, path in paths.items() for source in read(path, split, videos)]
    kept, told = official.without_shared(sources, args.drop_shared)
    print("\n".join(told) + "\n" * bool(told), end="")
    official.check_once(kept)
    return kept


def made_of(sources: Sequence[Source], args: argparse.Namespace) -> dict[str, dict]:
    """What decides about the lists, for check_made_of."""
    settings = {name: None if sources[0].split else getattr(args, name) for name in ("group", "test_fraction", "seed")}
    return {"settings": settings, "clips": {source.name: [source.label, source.split, source.group]
                                            for source in sources}}


def check_enough(sources: Sequence[Source]) -> None:
    """Raises InputError: clips that no split is given for, of a class that has only one."""
    counts = Counter(source.label for source in sources)
    if len(counts) < 2:
        raise InputError(f"all clips are of the class {next(iter(counts))}: at least two classes are needed")
    few = [label for label, count in counts.items() if count < 2]
    if few and not sources[0].split:
        raise InputError(f"a single clip of {first_few(few)}: a training and a test clip are needed. Add videos, or "
                         "leave these classes out")


def check_splits(sources: Sequence[Source]) -> None:
    """Raises InputError: the given splits leave the test split, or training of a class, without a clip."""
    classes = sorted({source.label for source in sources})
    train = [Clip(source.name, source.label) for source in sources if source.split == "train"]
    check_every_class_has_a_clip(classes, train, "the training split", "leave the class out")
    if not any(source.split == "test" for source in sources):
        raise InputError("no clip is of the test split: name some in the list, and have their videos there")


def unusable(sources: Sequence[Source]) -> dict[str, str]:
    """{name: reason} of clips whose video is not there, or whose name lists cannot hold."""
    problems = {}
    for source in sources:
        if not source.video:
            place = f": there is no file {source.looked_for}" if source.looked_for else ""
            problems[source.name] = f"its video is not there{place}"
        elif NOT_A_NAME.search(source.name) or source.name != source.name.strip():
            problems[source.name] = (f"the file name {source.video.name!r} holds characters that lists cannot contain: "
                                     "rename the file")
    return problems


def prepare_clips(sources: Mapping[str, Source], args: argparse.Namespace) -> dict[str, str]:
    """{name: reason} of the clips that failed."""
    folders = {path.parent for name in sources for path in (audio_path(args.data_root, name),
                                                            clip_folder(args.data_root, args.fps, name))}
    for folder in {args.data_root, *folders}:
        remove_leftovers(folder)
    work = partial(prepare_clip, sources=sources, root=args.data_root, fps=args.fps)
    return prep.run_parallel(work, list(sources), args.workers, "videos")


def report_missing(root: Path, sources: Sequence[Source]) -> None:
    """Prints per split, and writes per class, how many clips have no video."""
    listed = Counter((source.split, source.label) for source in sources)
    missing = Counter((source.split, source.label) for source in sources if source.video is None)
    rows = [{"split": split, "class": label, "listed": count, "missing": missing[split, label]}
            for (split, label), count in sorted(listed.items())]
    for split in dict.fromkeys(source.split for source in sources):
        of_split = [sum(n for key, n in counter.items() if key[0] == split) for counter in (listed, missing)]
        print(f"{split or 'clips'}: {of_split[0]:,} listed, {of_split[1]:,} of them without a video")
    if missing.total():
        write_csv(root / "missing.csv", rows)
        print(f"by class: {root / 'missing.csv'}. Results are not comparable with those on all clips")
    else:
        (root / "missing.csv").unlink(missing_ok=True)  # of an earlier start


def settle(root: Path, usable: Sequence[Source], args: argparse.Namespace) -> Lists:
    """Writes the lists of the usable clips: by their given splits, by groups, or stratified. Raises InputError."""
    if usable[0].split:
        check_splits(usable)
        of = {split: [Clip(source.name, source.label) for source in usable if source.split == split]
              for split in SPLITS}
        if of["val"]:
            write_clips(root / "val.csv", of["val"])
        lists = Lists(sorted({source.label for source in usable}), of["train"], of["test"])
    else:
        clips = [Clip(source.name, source.label) for source in usable]
        groups = {source.name: source.group for source in usable} if args.group else None
        lists = prep_lists.make_lists(clips, "stratified", args.test_fraction, args.seed, groups)
    write_whole(root / LISTS_NOTE, json.dumps(made_of(usable, args)) + "\n")
    return prep_lists.write_new(root, lists)


def next_command(root: Path, names: Sequence[str], fps: int) -> str:
    """To train on the clips, with the length of sound that most of them have."""
    lengths = [soundfile.info(str(audio_path(root, name))).duration for name in names]
    seconds = max(LEAST_SECONDS, round(float(np.median(lengths)), 1))
    rate = ["--fps", str(fps), "--num_frames", str(min(fps, 3))] if fps > 1 else []
    return shlex.join(["python", "main_CD.py", "--train", "--mmcosine", "True", "--dataset", last_name(root),
                       "--data_root", str(root), "--audio_seconds", f"{seconds:g}", *rate])


def main(argv: list[str]) -> dict[str, int]:
    """Counts of clips: listed, missing, failed, silent, in the lists. Raises InputError: a clip cannot be used."""
    args = parse(argv)
    root, sources = args.data_root, find_sources(args)
    check_enough(sources)
    prep_lists.check_settings(root / "prepare_videos.json", {"fps": args.fps, "sample_rate": SAMPLE_RATE},
                              root / AUDIO_FOLDER)
    own = prep_lists.read_own_lists(root)  # before the long work, so that mistakes in them show at once
    if own:
        prep_lists.check_made_of(root / LISTS_NOTE, made_of(sources, args))
    report_missing(root, sources)
    problems = unusable(sources)
    there = {source.name: source for source in sources if source.name not in problems}
    if there and sources[0].split and not own:
        check_splits(list(there.values()))
    problems |= prepare_clips(there, args)
    prep.check_some_usable(root, [source.name for source in sources], problems)
    usable = [source for source in sources if source.name not in problems]
    silent = [source.name for source in usable if not soundfile.read(audio_path(root, source.name))[0].any()]
    if silent:
        print(f"{counted(len(silent), 'clip', 'is')} silent or without a sound stream: {first_few(silent)}")
    problems |= prep_lists.listed_problems(root, own, args.fps, problems) if own else {}
    prep.write_failures(root, problems, len(sources))
    lists = own or settle(root, usable, args)
    prep_lists.report_lists(lists, [source.name for source in usable if source.split != "val"])
    prep.finish(root, problems, next_command(root, [source.name for source in usable], args.fps))
    missing = sum(source.video is None for source in sources)
    return {"clips": len(sources), "missing": missing, "failed": len(problems),
            "silent": len(silent), "train": len(lists.train), "test": len(lists.test)}


if __name__ == "__main__":
    cli.run(main)
