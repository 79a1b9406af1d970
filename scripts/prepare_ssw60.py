"""Prepares SSW60 for main_SSW.py: frames and sound of videos, sound of recordings, a check of photographs.

    python scripts/prepare_ssw60.py --data_root data/SSW60                   # the unpacked tarball
    python scripts/prepare_ssw60.py --data_root data/SSW60 --collections video_ml   # only the videos
    python scripts/prepare_ssw60.py --data_root data/SSW60 --sample_rate 22050      # for --audio_frontend ogm_ge

Reads    <root>/taxa.csv, and for every collection <root>/<collection>.csv and its media <root>/<collection>/*
Writes   <root>/video_ml-<fps>fps/<asset_id>/frame_00001.jpg ...    the shorter side at most --short_side pixels
         <root>/video_ml-<rate>Hz/<asset_id>.wav, audio_ml-<rate>Hz/<asset_id>.wav    mono, 16 bits
         <root>/video_ml-<rate>Hz/<asset_id>.silent     instead of a wav: the video has no sound stream
         <root>/prepare_report.csv      one row per collection, split and species: listed, usable, without sound
         <root>/prepare_failures.csv    clip,reason; only when some failed

Frames: a video is divided into n = max(1, round(seconds * fps)) equal parts, the middle frame of each is extracted. The
duration is that of the video's frames, not from the table's `frame_count`. Of several streams the first sound stream
and the first video stream that is no cover picture are used.
If the script is interrupted, run the same command again: finished assets are kept.
Exit status: 0 if every asset is usable, 2 otherwise (all usable assets are still prepared).
"""

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

import cv2
import numpy as np

from dataset.errors import InputError
from dataset.files import check_audio, read_image
from dataset.frontends import AUDIO_FRONTENDS
from dataset.lists import read_table
from dataset.preparation import clips as prep
from dataset.preparation.reader import NoSoundError, read_middles, read_sound
from dataset.ssw60 import MEDIA, OF_MODALITY, SPLITS, Asset, is_silent, read_assets, read_taxa
from dataset.whole_files import remove_leftovers, write_csv, write_whole
from utils import cli

HOW_TO_GET = "data/SSW60/README.md explains where to get the tarball: unpack it and name the folder with taxa.csv by " \
             "--data_root; to prepare only some collections, use --collections."
OFFICIAL = {"video_ml": {"train": 3462, "test": 1938, "all": 5400}, "audio_ml": {"all": 3861},
            "images_inat": {"all": 21600}, "images_nabirds": {"all": 10221}}  # assets by split, as published
REPORT = "prepare_report.csv"
OF_SPECIES = ("collection", "split", "label", "common_name")  # its columns beside the counts
FRONTEND_OF = {frontend.sample_rate: name for name, frontend in AUDIO_FRONTENDS.items()}
JPEG_QUALITY = 95


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--data_root", type=Path, default=Path("data/SSW60"),
                        help="folder of the unpacked tarball, also the output folder")
    parser.add_argument("--collections", nargs="+", choices=MEDIA, default=list(MEDIA), help="what to prepare")
    parser.add_argument("--fps", type=cli.number(int, 1, 1000), default=1, help="frames extracted per second of video")
    parser.add_argument("--sample_rate", type=int, choices=list(FRONTEND_OF), default=16000,
                        help="of the wavs in Hz; --audio_frontend ogm_ge needs 22050")
    parser.add_argument("--short_side", type=cli.number(int, 64, 8192), default=256,
                        help="shorter side of the frames is at most this many pixels")
    parser.add_argument("--workers", type=cli.number(int, 1, 1024), default=os.cpu_count(),
                        help="clips decoded in parallel")
    return parser


def prepare_asset(name: str, assets: Mapping[str, Asset], args: argparse.Namespace) -> None:
    """Prepares one asset, as its collection requires, unless that was done before. Raises InputError."""
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
        images = read_middles(path, args.fps)
        prep.write_frames(folder, (shrink(image, args.short_side) for image in images), JPEG_QUALITY)


def shrink(image: np.ndarray, short_side: int) -> np.ndarray:
    """(H, W, 3) -> the same with its shorter side at most `short_side` pixels, at the same aspect ratio."""
    factor = short_side / min(image.shape[:2])
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else image


def prepare_sound(asset: Asset, args: argparse.Namespace) -> None:
    """Writes the wav of a video or a recording, or a note that the video has no sound."""
    wav, silent = asset.sound(args.data_root, args.sample_rate), asset.silent(args.data_root, args.sample_rate)
    path = asset.file(args.data_root)
    if is_sound(wav) or (silent.exists() and not path.exists()):
        return
    if asset.collection == "audio_ml":
        check_audio(path)
    try:
        prep.write_sound(wav, read_sound(path, args.sample_rate), args.sample_rate)
    except NoSoundError as reason:  # quick to find out, so it is checked again each time
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
        remove_leftovers(folder)
    only_images = not any(asset.collection.endswith("_ml") for asset in assets.values())
    task = "images checked" if only_images else "prepared"
    return prep.run_parallel(partial(prepare_asset, assets=assets, args=args), list(assets), args.workers, task)


def count(assets: Sequence[Asset], problems: Mapping[str, str], args: argparse.Namespace) -> dict[str, Counter]:
    """{what is counted: {(collection, split, species): count}}"""
    def of(chosen: Sequence[Asset]) -> Counter:
        return Counter((asset.collection, asset.split, asset.label) for asset in chosen)

    silent = [asset for asset in assets if is_silent(asset, args.data_root, args.sample_rate)]
    return {"listed": of(assets), "usable": of([asset for asset in assets if asset.name not in problems]),
            "without_sound": of(silent)}


def report(counts: Mapping[str, Counter], taxa: Mapping[str, str], others: Sequence[dict], root: Path) -> None:
    """Prints the counts per collection and split, and writes those per species. others: rows of other collections."""
    for collection in dict.fromkeys(key[0] for key in counts["listed"]):
        for split in (*SPLITS, "all"):
            sums = [sum(n for key, n in counter.items() if key[0] == collection and split in (key[1], "all"))
                    for counter in counts.values()]
            official = OFFICIAL.get(collection, {}).get(split)
            if sums[0] or official:
                told = f", official {official:,}" if official else ""
                print(f"{collection:15} {split:6} " + ", ".join(
                    f"{what.replace('_', ' ')} {n:,}" for what, n in zip(counts, sums, strict=True)) + told)
    labels = {name: label for label, name in taxa.items()}
    rows = list(others)
    for key in sorted(counts["listed"], key=lambda key: (key[0], SPLITS.index(key[1]), int(labels[key[2]]))):
        rows.append({"collection": key[0], "split": key[1], "label": labels[key[2]], "common_name": key[2],
                     **{what: counter[key] for what, counter in counts.items()}})
    write_csv(root / REPORT, rows, columns=(*OF_SPECIES, *counts))
    print(f"by species: {root / REPORT}")


def rows_of_others(path: Path, columns: Sequence[str], collections: Collection[str]) -> list[dict[str, str]]:
    """The rows of other collections in a table of an earlier preparation; the first of `columns` names the collection.
    Raises InputError: another table."""
    if not path.is_file():
        return []
    return [row for _, row in read_table(path, columns, "") if row[columns[0]].split("/")[0] not in collections]


def next_command(args: argparse.Namespace) -> str:
    root = shlex.quote(str(args.data_root))
    if "video_ml" not in args.collections:
        modality = "audio" if "audio_ml" in args.collections else "visual"
        fitting = " ".join(name for name in args.collections if name in OF_MODALITY[modality])
        return f"python main_SSW.py --train --data_root {root} --modality {modality} --pretrain_on {fitting}"
    frontend = f" --audio_frontend {FRONTEND_OF[args.sample_rate]}" if args.sample_rate != 16000 else ""
    fps = f" --fps {args.fps}" if args.fps != 1 else ""
    return f"python main_SSW.py --train --mmcosine True --scaling 20 --data_root {root}{frontend}{fps}"


def main(argv: Sequence[str]) -> dict[str, int]:
    """Counts of assets: listed, failed, without a sound stream. Raises InputError: an asset failed."""
    args = get_args_parser().parse_args(argv)
    taxa = read_taxa(args.data_root, HOW_TO_GET)
    assets = {asset.name: asset for collection in dict.fromkeys(args.collections)
              for asset in read_assets(args.data_root, collection, taxa, HOW_TO_GET)}
    rows = rows_of_others(args.data_root / REPORT, OF_SPECIES, args.collections)
    others = rows_of_others(args.data_root / prep.FAILURES, ("clip", "reason"), args.collections)
    problems = prepare_all(assets, args)
    prep.check_some_usable(args.data_root, list(assets), problems)
    counts = count(list(assets.values()), problems, args)
    report(counts, taxa, rows, args.data_root)
    earlier = {row["clip"]: row["reason"] for row in others}
    prep.write_failures(args.data_root, {**earlier, **problems}, len(assets) + len(earlier))
    prep.finish(args.data_root, problems, next_command(args))
    return {"listed": len(assets), "failed": len(problems), "without_sound": counts["without_sound"].total()}


if __name__ == "__main__":
    cli.run(main)
