"""Sixty bird species by sight and sound (the paper's Table 1, SSW60).

    python main_SSW.py --train --modality audio --pretrain_on audio_ml                   # each encoder alone first
    python main_SSW.py --train --modality visual --pretrain_on images_inat images_nabirds --imagenet
    python main_SSW.py --train --mmcosine True --scaling 20 --audio_pretrain RUN/best.pt --visual_pretrain RUN/best.pt
    python main_SSW.py --train --mmcosine True --scaling 20 --demo        # synthetic birds, minutes on two cores
    torchrun --nproc_per_node 4 main_SSW.py --train --mmcosine True       # four GPUs; or --gpu_ids 0,1,2,3
    python main_SSW.py --ckpt_path runs/NAME                              # evaluate
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from dataset import ssw60
from dataset.clips import ClipDataset, ClipFiles
from dataset.crops import PAPER_CROP
from dataset.errors import InputError
from dataset.frontends import AUDIO_FRONTENDS, NormaliseFrames
from dataset.lists import check_every_class_has_a_clip, split_stratified
from utils import cli, distributed
from utils.cli import number
from utils.distributed import print_once
from utils.training import flags, launch, options
from utils.training.modalities import Modality
from utils.training.roles import INPUT

IMAGE_ENCODERS = ("resnet18", "resnet34", "resnet50")
MODALITIES = (
    Modality("audio", IMAGE_ENCODERS, in_channels=1, input_settings=("audio_frontend", "demo")),
    Modality("visual", IMAGE_ENCODERS, in_channels=3, input_settings=("image_size", "demo"), imagenet=True))
DEMO = {"dataset": "demo_birds", "data_root": Path("data/demo_birds"), "epochs": 8, "image_size": 64, "num_frames": 1,
        "audio_seconds": 0.6, "batch_size": 16, "learning_rate": 0.01, "lr_decay_step": 6, "relearn_every": 3,
        "recon_epochs": 2, "opm_warmup": 2, "remix_warmup": 3}


def get_args_parser() -> flags.Parser:
    parser = flags.shared_parser("main_SSW.py", "Audio-visual classification of SSW60's bird species.", MODALITIES)
    group = parser.add_argument_group("SSW60")
    collections = ["video_ml", *(name for names in ssw60.OF_MODALITY.values() for name in names)]
    group.add_argument("--pretrain_on", nargs="+", choices=collections, role=INPUT,
                       help="train the encoder of --modality on recordings or photographs instead of on the videos "
                       "(video_ml: these after all, to evaluate a pretrained encoder on them)")
    cli.add_boolean(group, "--reliable_audio_only", False, "only videos annotated `reliable_audio`", role=INPUT)
    group.add_argument("--num_frames", type=number(int, 1, 1000), default=3, role=INPUT,
                       help="frames per video, from equal parts")
    group.add_argument("--fps", type=number(int, 1, 1000), default=1, role=INPUT,
                       help="which frames: those prepared with this --fps")
    # why this size has a lower bound: see main_CD.py
    group.add_argument("--image_size", type=number(int, 64, 4096), default=224, role=INPUT, help="pixels per side")
    group.add_argument("--audio_seconds", type=number(float, 0.6, 3600), default=10.0, role=INPUT,
                       help="repeated or cut to this")
    group.add_argument("--audio_frontend", choices=list(AUDIO_FRONTENDS), default="mmcosine", role=INPUT,
                       help="which spectrogram")
    flags.add_crop_flags(group, PAPER_CROP)
    flags.add_overlap_flag(group)
    parser.set_defaults(dataset="SSW60", scaling=20.0, epochs=100, lr_decay_step=70)
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    parser = get_args_parser()
    args = options.parse(parser, argv, DEMO)
    args.pretrain_on = None if args.pretrain_on == ["video_ml"] else args.pretrain_on
    fitting = ssw60.OF_MODALITY.get(args.modality, ())
    if args.pretrain_on and not set(args.pretrain_on) <= set(fitting):
        parser.error(f"--pretrain_on {' '.join(args.pretrain_on)} does not go with --modality {args.modality}: "
                     "audio takes audio_ml, visual takes images_inat and images_nabirds")
    if args.pretrain_on and args.reliable_audio_only:
        parser.error("--reliable_audio_only chooses videos: leave it out with --pretrain_on")
    if args.demo and (args.fps != 1 or sample_rate(args) != 16000):
        parser.error("--demo makes one frame a second and sound at 16 kHz: leave out --fps and --audio_frontend")
    return args


def sample_rate(args: Namespace) -> int:
    return AUDIO_FRONTENDS[args.audio_frontend].sample_rate


if __name__ == "__main__":
    get_args_parser().parse_args()  # --help and misspelt flags are answered before the slow imports below

import torch

from dataset.demo.birds import make_demo
from models import MultimodalClassifier, make_encoders
from utils.training.classification import Classification, Splits, usable_clips
from utils.training.damage import Found
from utils.training.engine import Compute
from utils.training.loading import Loaders
from utils.training.precision import choose_precision
from utils.training.train import train

HOW_TO_GET = ("data/SSW60/README.md tells where to get SSW60. Name another folder with --data_root, or add --demo to "
              "try synthetic data.")


def main(argv: Sequence[str]) -> dict:
    """Trains or evaluates as argv says -> what result.json holds. Raises InputError for the user's mistakes."""
    args = parse(argv)
    if launch.needs_processes(args.train, args.gpu_ids):
        return launch.one_process_per_gpu(__file__, argv, args.device, args.gpu_ids,
                                          options.run_folder(args, args.pretrain_on or []), resume=bool(args.resume))
    with distributed.session(args.device, args.gpu_ids) as device:
        provide_demo(args)
        task = build(args, device)
        if not args.train:
            return task.evaluate_checkpoint(args.trained, args.compile, args.allow_overlap,
                                            **options.evaluation(args))
        return train(task, options.training(args, MODALITIES, args.pretrain_on or []))


def build(args: Namespace, device: torch.device) -> Classification:
    """Data, network and task."""
    data = load_splits(args)
    model, compute = make_network(args, len(data.classes), device)
    loaders = Loaders(args.batch_size, args.random_seed, args.num_workers, device, args.cache, args.cache_size)
    return Classification(data, model, compute, loaders, confusions=True)


def make_network(args: Namespace, classes: int, device: torch.device) -> tuple[MultimodalClassifier, Compute]:
    """The network with its first weights, and how it computes."""
    torch.manual_seed(args.random_seed)
    encoders = make_encoders(options.encoders(args, MODALITIES))
    model = MultimodalClassifier(encoders, classes, args.fusion_method, args.mmcosine, args.scaling)
    front_ends = {"audio": AUDIO_FRONTENDS[args.audio_frontend](), "visual": NormaliseFrames()}
    return model, Compute(device, choose_precision(args.amp, device),
                          {name: front_ends[name].to(device) for name in model.modalities})


@distributed.failing_together()
def provide_demo(args: Namespace) -> None:
    """Made for training only: an evaluation uses what is there."""
    if args.demo and args.train and distributed.is_first_here():
        make_demo(args.data_root)
    if args.demo:
        print_once(f"DEMO DATA in {args.data_root}: results say nothing about birds")


def load_splits(args: Namespace) -> Splits:
    """The tables, checked against the files: clips that cannot be used stop the run, or are counted and left out."""
    classes, found = find_files(args)
    clips = usable_clips(found, classes, args.data_root, args.skip_missing, args.num_workers)
    datasets = {name: make_dataset(args, part, classes, train=name == "train") for name, part in clips.items() if part}
    every = [clip for part in clips.values() for clip in part]
    silent = sum(clip.audio is None for clip in every) if "audio" in options.encoders(args, MODALITIES) else 0
    if silent:
        print_once(f"{silent} of {len(every)} videos have no sound stream: silence in its place")
    return Splits(classes, datasets.get("train"), datasets.get("val"), datasets["test"],
                  {"parts": args.pretrain_on or [], "n_without_sound": silent})


def make_dataset(args: Namespace, clips: Sequence[ClipFiles], classes: Sequence[str], train: bool) -> ClipDataset:
    return ClipDataset(clips, classes, train=train, sample_rate=sample_rate(args), audio_seconds=args.audio_seconds,
                       image_size=args.image_size, modalities=list(options.encoders(args, MODALITIES)),
                       num_frames=1 if args.pretrain_on else args.num_frames, move_sound=True,
                       crop=options.crop(args))


@distributed.failing_together()
def find_files(args: Namespace) -> tuple[list[str], Found]:
    """The classes, and for each split the listed assets' files."""
    taxa = ssw60.read_taxa(args.data_root, HOW_TO_GET)
    return list(taxa.values()), {
        name: ssw60.find_assets(assets, args.data_root, args.fps, sample_rate(args), options.encoders(args, MODALITIES))
        for name, assets in listed_assets(args, taxa).items() if args.train or name == "test"}


def listed_assets(args: Namespace, taxa: dict[str, str]) -> dict[str, list[ssw60.Asset]]:
    """{split: the assets that the tables list}. A collection's own `val` clips choose the epoch, with those that
    --val_fraction holds out of the training clips."""
    collections = list(dict.fromkeys(args.pretrain_on or ["video_ml"]))
    assets = [asset for name in collections for asset in ssw60.read_assets(args.data_root, name, taxa, HOW_TO_GET)]
    if args.reliable_audio_only:
        assets = keep_reliable(args, assets)
    listed = {split: [asset for asset in assets if asset.split == split] for split in ssw60.SPLITS}
    where = f"{', '.join(collections)} of {args.data_root}"
    if args.train:
        check_every_class_has_a_clip(list(taxa.values()), listed["train"], where, "take the species out of taxa.csv "
                                     "and its rows out of the other tables")
    note_other_tables(args, listed)
    if not listed["test"]:
        raise InputError(f"no test clip in {where}: the split column names none")
    ssw60.check_prepared(args.data_root, collections[0], args.fps, sample_rate(args),
                         list(options.encoders(args, MODALITIES)))
    if args.train and args.val_fraction:
        listed["train"], held_out = split_stratified(listed["train"], args.val_fraction, args.random_seed)
        listed["val"] += held_out
    return listed


def note_other_tables(args: Namespace, listed: dict[str, list[ssw60.Asset]]) -> None:
    official = ssw60.OFFICIAL_VIDEOS
    counts = {split: len(listed[split]) for split in official}
    if not args.pretrain_on and not args.demo and not args.reliable_audio_only and counts != official:
        print_once(f"note: {counts['train']} train and {counts['test']} test videos, the official tables have "
                   f"{official['train']} and {official['test']}: results are not comparable with the paper's")


def keep_reliable(args: Namespace, videos: Sequence[ssw60.Asset]) -> list[ssw60.Asset]:
    left_out = [video.split for video in videos if not video.reliable_audio]
    print_once(f"--reliable_audio_only: {len(left_out)} of {len(videos)} videos left out, {left_out.count('test')} of "
               "them test videos: results are not comparable with the paper's")
    return ssw60.reliable_only(args.data_root, videos)


if __name__ == "__main__":
    cli.run(main)
