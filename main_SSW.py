"""Sixty bird species by sight and sound (the paper's Table 1, SSW60).

    python main_SSW.py --train --modality audio --pretrain_on audio_ml                   # each encoder alone first
    python main_SSW.py --train --modality visual --pretrain_on images_inat images_nabirds --imagenet
    python main_SSW.py --train --mmcosine True --scaling 20 --audio_pretrain RUN/best.pt --visual_pretrain RUN/best.pt
    python main_SSW.py --train --mmcosine True --scaling 20 --demo        # made birds, minutes on two cores
    torchrun --nproc_per_node 4 main_SSW.py --train --mmcosine True       # four GPUs; or --gpu_ids 0,1,2,3
    python main_SSW.py --ckpt_path runs/NAME/best.pt                      # evaluate
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from dataset.clips import ClipDataset, ClipFiles, find_each
from dataset.demo.birds import make_demo
from dataset.frontends import AUDIO_FRONTENDS
from dataset.lists import check_every_class_has_a_clip, split_stratified
from dataset.ssw60 import (
    OF_MODALITY,
    OFFICIAL_VIDEOS,
    SPLITS,
    Asset,
    check_prepared,
    find_asset,
    read_assets,
    read_taxa,
    reliable_only,
)
from utils import cli
from utils.cli import number
from utils.distributed import say
from utils.errors import InputError
from utils.training import classification, options, train
from utils.training.classification import Built, Splits

DEMO = {"dataset": "demo_birds", "data_root": Path("data/demo_birds"), "epochs": 8, "image_size": 64,
        "audio_seconds": 0.6, "num_frames": 1, "batch_size": 16, "learning_rate": 0.01, "lr_decay_step": 6}
HOW_TO_GET = ("data/SSW60/README.md tells where to get SSW60. Name another folder with --data_root, or add --demo to "
              "go without data.")


def get_args_parser() -> ArgumentParser:
    parser = options.shared_parser("main_SSW.py", "Audio-visual classification of SSW60's bird species.")
    group = parser.add_argument_group("SSW60")
    collections = ["video_ml", *(name for names in OF_MODALITY.values() for name in names)]
    group.add_argument("--pretrain_on", nargs="+", choices=collections,
                       help="train the encoder of --modality on recordings or photographs instead of on the videos "
                       "(video_ml: these after all, to evaluate a pretrained encoder on them)")
    cli.add_boolean(group, "--reliable_audio_only", False, "only the videos whose bird is heard, as the table says")
    group.add_argument("--num_frames", type=number(int, 1), default=3, help="frames a video, of equal segments")
    group.add_argument("--fps", type=number(int, 1), default=1, help="which frames: those prepared with this --fps")
    # least sizes: see main_CD.py
    group.add_argument("--image_size", type=number(int, 64), default=224, help="pixels a side")
    group.add_argument("--audio_seconds", type=number(float, 0.6), default=10.0, help="repeated or cut to this")
    group.add_argument("--audio_frontend", choices=list(AUDIO_FRONTENDS), default="mmcosine", help="which spectrogram")
    parser.set_defaults(dataset="SSW60", scaling=20.0, epochs=100, lr_decay_step=70)
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    parser = get_args_parser()
    args = options.parse(parser, argv, DEMO)
    if args.pretrain_on == ["video_ml"]:
        args.pretrain_on = None
    fitting = OF_MODALITY.get(args.modality, ())
    if args.pretrain_on and not set(args.pretrain_on) <= set(fitting):
        parser.error(f"--pretrain_on {' '.join(args.pretrain_on)} does not go with --modality {args.modality}: "
                     "audio takes audio_ml, visual takes images_inat and images_nabirds")
    if args.pretrain_on and args.reliable_audio_only:
        parser.error("--reliable_audio_only chooses videos: leave it out with --pretrain_on")
    if args.demo and (args.fps != 1 or sample_rate(args) != 16000):
        parser.error("--demo makes one frame a second and sound at 16 kHz: leave out --fps and --audio_frontend")
    return args


def main(argv: Sequence[str]) -> dict:
    """Trains or evaluates as argv says -> what result.json holds. Raises InputError for the user's mistakes."""
    args = parse(argv)
    return train.on_devices(args, argv, __file__, partial(work, args))


def work(args: Namespace, device: torch.device) -> dict:
    return classification.run(args, *build(args, device), confusions=True)


def build(args: Namespace, device: torch.device) -> Built:
    return classification.build(args, device, make_demo, "birds", load_splits)


def load_splits(args: Namespace) -> Splits:
    """The tables, held against the files: clips that cannot be used stop here, or are counted and left out.

    A collection's own `val` clips choose the epoch, with those that --val_fraction holds out of the training clips.
    """
    taxa = read_taxa(args.data_root, HOW_TO_GET)
    collections = list(dict.fromkeys(args.pretrain_on or ["video_ml"]))
    assets = [asset for name in collections for asset in read_assets(args.data_root, name, taxa, HOW_TO_GET)]
    if args.reliable_audio_only:
        assets = keep_reliable(args, assets)
    listed = {split: [asset for asset in assets if asset.split == split] for split in SPLITS}
    where = f"{', '.join(collections)} of {args.data_root}"
    if args.train:
        check_every_class_has_a_clip(list(taxa.values()), listed["train"], where, "take the species out of taxa.csv "
                                     "and its rows out of the other tables")
    tell_of_other_tables(args, listed)
    if not listed["test"]:
        raise InputError(f"no test clip in {where}: the split column names none")
    check_prepared(args.data_root, collections[0], args.fps, sample_rate(args), options.modalities(args))
    if args.val_fraction:
        listed["train"], held_out = split_stratified(listed["train"], args.val_fraction, args.random_seed)
        listed["val"] += held_out
    find = partial(find_each, partial(find_asset, root=args.data_root, fps=args.fps, sample_rate=sample_rate(args),
                                      modalities=options.modalities(args)))
    splits = classification.usable_splits(args, list(taxa.values()), listed, find, make_dataset)
    return splits._replace(more=tell_of_data(args, splits))


def tell_of_other_tables(args: Namespace, listed: dict[str, list[Asset]]) -> None:
    counts = {split: len(listed[split]) for split in OFFICIAL_VIDEOS}
    if not args.pretrain_on and not args.demo and not args.reliable_audio_only and counts != OFFICIAL_VIDEOS:
        say(f"note: {counts['train']} train and {counts['test']} test videos, the official tables have "
            f"{OFFICIAL_VIDEOS['train']} and {OFFICIAL_VIDEOS['test']}: figures cannot be held against the paper's")


def tell_of_data(args: Namespace, splits: Splits) -> dict[str, object]:
    """What the result says of the clips beside their number."""
    clips = [clip for part in splits.parts().values() for clip in part.clips]
    silent = sum(clip.audio is None for clip in clips) if "audio" in options.modalities(args) else 0
    if silent:
        say(f"{silent} of {len(clips)} videos have no sound stream: silence in its place")
    return {"pretrain_on": args.pretrain_on, "n_without_sound": silent}


def keep_reliable(args: Namespace, videos: Sequence[Asset]) -> list[Asset]:
    kept = reliable_only(args.data_root, videos)
    left_out = [video.split for video in videos if not video.reliable_audio]
    say(f"--reliable_audio_only: {len(left_out)} of {len(videos)} videos left out, {left_out.count('test')} of them "
        "test videos: figures cannot be held against the paper's")
    return kept


def sample_rate(args: Namespace) -> int:
    return AUDIO_FRONTENDS[args.audio_frontend].sample_rate


def make_dataset(args: Namespace, classes: Sequence[str], clips: Sequence[ClipFiles], train: bool) -> ClipDataset:
    return ClipDataset(clips, classes, train=train, sample_rate=sample_rate(args), audio_seconds=args.audio_seconds,
                       num_frames=1 if args.pretrain_on else args.num_frames, image_size=args.image_size,
                       modalities=options.modalities(args), move_sound=True)


if __name__ == "__main__":
    cli.run(main)
