"""Prepares SSW60 for main_SSW.py: frames and sound of videos, sound of recordings, a check of photographs.

    python scripts/prepare_ssw60.py --data_root data/SSW60                   # what the tarball unpacks to
    python scripts/prepare_ssw60.py --data_root data/SSW60 --collections video_ml   # only these videos
    python scripts/prepare_ssw60.py --data_root data/SSW60 --sample_rate 22050      # for --audio_frontend ogm_ge

Reads    <root>/taxa.csv, and of every collection <root>/<collection>.csv and its media <root>/<collection>/*
Writes   <root>/video_ml-<fps>fps/<asset_id>/frame_00001.jpg ...    the shorter side at most --short_side pixels
         <root>/video_ml-<rate>Hz/<asset_id>.wav, audio_ml-<rate>Hz/<asset_id>.wav    mono, 16 bits
         <root>/video_ml-<rate>Hz/<asset_id>.silent     in the place of a wav: the video has no sound stream
         <root>/prepare_report.csv      a row a species, collection and split: listed, usable, without sound
         <root>/prepare_failures.csv    clip,reason; only when some failed

Frames: a video is divided into n = max(1, round(seconds * fps)) equal parts, the middle frame of each is taken. How
long it is, its own header says: the `frame_count` of the table is not read. Of several streams the first sound and the
default video are taken.
An interrupted or killed run goes on where it was: start the same command again.
Exit status 0 when every asset is usable, 2 otherwise (everything else is written all the same).
"""

import argparse
import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset.files import check_audio, read_image
from dataset.frontends import AUDIO_FRONTENDS
from dataset.preparation import clips as prep
from dataset.ssw60 import MEDIA, OF_MODALITY, SPLITS, Asset, is_silent, read_assets, read_taxa
from utils import cli
from utils.errors import InputError
from utils.whole_files import write_whole

HOW_TO_GET = "data/SSW60/README.md tells where the tarball is: unpack it and name the folder that has taxa.csv with " \
             "--data_root, or the parts that you have with --collections."
OFFICIAL = {"video_ml": {"train": 3462, "test": 1938, "all": 5400}, "audio_ml": {"all": 3861},
            "images_inat": {"all": 21600}, "images_nabirds": {"all": 10221}}  # assets by split, as published
REPORT = "prepare_report.csv"
FRONTEND_OF = {frontend.sample_rate: name for name, frontend in AUDIO_FRONTENDS.items()}
JPEG_QUALITY = 95


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", type=Path, default=Path("data/SSW60"), help="the unpacked tarball, written to")
    parser.add_argument("--collections", nargs="+", choices=MEDIA, default=list(MEDIA), help="what to prepare")
    parser.add_argument("--fps", type=cli.number(int, 1), default=1, help="frames taken a second of video")
    parser.add_argument("--sample_rate", type=int, choices=list(FRONTEND_OF), default=16000,
                        help="of the wavs, Hz: 22050 is what --audio_frontend ogm_ge wants")
    parser.add_argument("--short_side", type=cli.number(int, 64), default=256, help="of the frames, pixels at most")
    parser.add_argument("--workers", type=cli.number(int, 1), default=os.cpu_count(), help="clips decoded at a time")
    return parser


def prepare_asset(name: str, assets: Mapping[str, Asset], args: argparse.Namespace) -> None:
    """Whatever its collection needs, unless it is there and whole. Raises InputError."""
    asset = assets[name]
    if asset.collection == "video_ml":
        prepare_frames(asset, args)
    if asset.collection in ("video_ml", "audio_ml"):
        prepare_sound(asset, args)
    else:
        read_image(asset.file(args.data_root))


def prepare_frames(video: Asset, args: argparse.Namespace) -> None:
    folder, path = video.frames(args.data_root, args.fps), video.file(args.data_root)
    if not prep.has_frames(folder):
        images = prep.read_frames(path, prep.middle_times(prep.read_duration(path), args.fps))
        prep.write_frames(folder, (shrink(image, args.short_side) for image in images), JPEG_QUALITY)


def shrink(image: np.ndarray, short_side: int) -> np.ndarray:
    """(H, W, 3) -> the same with its shorter side at most `short_side` pixels, the shape of the picture kept."""
    factor = short_side / min(image.shape[:2])
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else image


def prepare_sound(asset: Asset, args: argparse.Namespace) -> None:
    """The wav of a video or a recording, or the note that the video has none."""
    wav, silent = asset.sound(args.data_root, args.sample_rate), asset.silent(args.data_root, args.sample_rate)
    path = asset.file(args.data_root)
    if is_sound(wav) or (silent.exists() and not path.exists()):
        return
    if asset.collection == "audio_ml":
        check_audio(path)
    try:
        prep.write_sound(wav, prep.read_sound(path, args.sample_rate), args.sample_rate)
    except prep.NoSoundError as reason:  # opening the video is enough to know that: asked again each time
        if not silent.exists():
            write_whole(silent, f"{reason}\n")
    else:
        silent.unlink(missing_ok=True)


def is_sound(path: Path) -> bool:
    try:
        check_audio(path)
    except InputError:
        return False
    return True


def prepare_all(assets: Mapping[str, Asset], args: argparse.Namespace) -> dict[str, str]:
    """{name: reason} of those that failed."""
    for folder in {args.data_root, *(path.parent for asset in assets.values() for path in (
            asset.frames(args.data_root, args.fps), asset.sound(args.data_root, args.sample_rate)))}:
        prep.remove_leftovers(folder)
    return prep.run_parallel(partial(prepare_asset, assets=assets, args=args), list(assets), args.workers, "prepared")


def count(assets: Sequence[Asset], problems: Mapping[str, str], args: argparse.Namespace) -> dict[str, Counter]:
    """{what is counted: {(collection, split, species): how many}}"""
    def of(chosen: Sequence[Asset]) -> Counter:
        return Counter((asset.collection, asset.split, asset.label) for asset in chosen)

    silent = [asset for asset in assets if is_silent(asset, args.data_root, args.sample_rate)]
    return {"listed": of(assets), "usable": of([asset for asset in assets if asset.name not in problems]),
            "without_sound": of(silent)}


def report(counts: Mapping[str, Counter], taxa: Mapping[str, str], root: Path) -> None:
    """Prints the clips of every collection and split, and writes those of every species."""
    for collection in dict.fromkeys(key[0] for key in counts["listed"]):
        for split in (*SPLITS, "all"):
            sums = [sum(n for key, n in counter.items() if key[0] == collection and split in (key[1], "all"))
                    for counter in counts.values()]
            official = OFFICIAL.get(collection, {}).get(split)
            if sums[0] or official:
                told = f", official {official:,}" if official else ""
                print(f"{collection:15} {split:6} " + ", ".join(
                    f"{what.replace('_', ' ')} {n:,}" for what, n in zip(counts, sums, strict=True)) + told)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("collection", "split", "label", "common_name", *counts))
    labels = {name: label for label, name in taxa.items()}
    writer.writerows(rows_of_others(root / REPORT, {key[0] for key in counts["listed"]}))
    for key in sorted(counts["listed"], key=lambda key: (key[0], SPLITS.index(key[1]), int(labels[key[2]]))):
        writer.writerow((key[0], key[1], labels[key[2]], key[2], *(counter[key] for counter in counts.values())))
    write_whole(root / REPORT, table.getvalue())
    print(f"by species: {root / REPORT}")


def rows_of_others(path: Path, collections: Collection[str]) -> list[list[str]]:
    """The rows of an earlier preparation's table that are about other collections."""
    if not path.is_file():
        return []
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    return [row for row in rows[1:] if row and row[0].split("/")[0] not in collections]


def next_command(args: argparse.Namespace) -> str:
    if "video_ml" not in args.collections:
        modality = "audio" if "audio_ml" in args.collections else "visual"
        fitting = " ".join(name for name in args.collections if name in OF_MODALITY[modality])
        return f"python main_SSW.py --train --data_root {args.data_root} --modality {modality} --pretrain_on {fitting}"
    frontend = f" --audio_frontend {FRONTEND_OF[args.sample_rate]}" if args.sample_rate != 16000 else ""
    fps = f" --fps {args.fps}" if args.fps != 1 else ""
    return f"python main_SSW.py --train --data_root {args.data_root}{frontend}{fps}"


def main(argv: Sequence[str]) -> dict[str, int]:
    """Counts of what is listed, failed, and has no sound stream. Raises InputError when something failed."""
    args = get_args_parser().parse_args(argv)
    taxa = read_taxa(args.data_root, HOW_TO_GET)
    assets = {asset.name: asset for collection in dict.fromkeys(args.collections)
              for asset in read_assets(args.data_root, collection, taxa, HOW_TO_GET)}
    problems = prepare_all(assets, args)
    prep.check_some_usable(args.data_root, list(assets), problems)
    counts = count(list(assets.values()), problems, args)
    report(counts, taxa, args.data_root)
    earlier = dict(rows_of_others(args.data_root / prep.FAILURES, args.collections))
    prep.write_failures(args.data_root, {**earlier, **problems}, len(assets) + len(earlier))
    prep.finish(args.data_root, problems, next_command(args))
    return {"listed": len(assets), "failed": len(problems), "without_sound": counts["without_sound"].total()}


if __name__ == "__main__":
    cli.run(main)
