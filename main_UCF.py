"""Actions by appearance and motion: UCF-101 with RGB, optical flow and RGB difference (the paper's supplement).

    python main_UCF.py --train --mmcosine True --scaling 10                                 # RGB and flow
    python main_UCF.py --train --mmcosine True --scaling 10 --modality rgb flow difference  # three modalities
    python main_UCF.py --train --mmcosine True --scaling 10 --demo        # synthetic clips, minutes on two cores
    torchrun --nproc_per_node 4 main_UCF.py --train --mmcosine True       # four GPUs; or --gpu_ids 0,1,2,3
    python main_UCF.py --resume runs/NAME                                 # continue an interrupted run
    python main_UCF.py --ckpt_path runs/NAME                              # evaluate
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from dataset import ucf101
from dataset.crops import PAPER_CROP
from dataset.frontends import NormaliseDifference, NormaliseFlow, NormaliseFrames
from dataset.lists import check_every_class_has_a_clip
from dataset.streams import MotionDataset, MotionFiles
from utils import cli, distributed
from utils.cli import number
from utils.distributed import print_once
from utils.training import flags, launch, options
from utils.training.modalities import Modality
from utils.training.roles import INPUT, NETWORK

IMAGE_ENCODERS = ("resnet18", "resnet34", "resnet50")
MODALITIES = (
    Modality("rgb", IMAGE_ENCODERS, in_channels=3, input_settings=("image_size", "demo"), imagenet=True),
    Modality("flow", IMAGE_ENCODERS, in_channels=2, stacked="flow_frames", colours=False, imagenet=True,
             input_settings=("flow", "flow_frames", "image_size", "demo")),
    Modality("difference", IMAGE_ENCODERS, in_channels=3, colours=False, imagenet=True,
             input_settings=("image_size", "demo")))
DEMO = {"dataset": "demo_actions", "data_root": Path("data/demo_actions"), "epochs": 8, "image_size": 64,
        "num_frames": 1, "flow_frames": 4, "batch_size": 16, "learning_rate": 0.003, "lr_decay_step": 6,
        "relearn_every": 3, "recon_epochs": 2, "opm_warmup": 2, "remix_warmup": 3}


def get_args_parser() -> flags.Parser:
    parser = flags.shared_parser("main_UCF.py", "Classification of UCF-101's actions by appearance and motion.",
                                 MODALITIES)
    group = parser.add_argument_group("UCF-101")
    group.add_argument("--split", type=int, choices=ucf101.SPLITS, default=1, role=INPUT,
                       help="which of the official splits")
    group.add_argument("--num_frames", type=number(int, 1, 1000), default=3, role=INPUT,
                       help="RGB frames and differences per clip")
    group.add_argument("--flow", choices=ucf101.FLOWS, default="dis", role=NETWORK,
                       help="the method that the flow was prepared with")
    group.add_argument("--flow_frames", type=number(int, 1, 1000), default=16, role=NETWORK,
                       help="flow fields per clip, in one stack")
    # why this size has a lower bound: see main_CD.py
    group.add_argument("--image_size", type=number(int, 64, 4096), default=224, role=INPUT, help="pixels per side")
    flags.add_crop_flags(group, PAPER_CROP)
    flags.add_overlap_flag(group)
    parser.set_defaults(dataset="UCF101", modality="rgb+flow")
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    parser = get_args_parser()
    args = options.parse(parser, argv, DEMO)
    if args.demo and args.flow != "dis":
        parser.error("--demo computes its flow with dis: leave out --flow")
    return args


if __name__ == "__main__":
    get_args_parser().parse_args()  # --help and misspelt flags are answered before the slow imports below

import torch

from dataset.demo.actions import make_demo
from models import MultimodalClassifier, make_encoders
from utils.training.classification import Classification, Splits, usable_clips
from utils.training.damage import Found
from utils.training.engine import Compute
from utils.training.loading import Loaders
from utils.training.precision import choose_precision
from utils.training.train import train

HOW_TO_GET = ("data/UCF101/README.md tells where to get UCF-101 and its lists. Name another folder with --data_root, "
              "or add --demo to try synthetic data.")


def main(argv: Sequence[str]) -> dict:
    """Trains or evaluates as argv says -> what result.json holds. Raises InputError for the user's mistakes."""
    args = parse(argv)
    if launch.needs_processes(args.train, args.gpu_ids):
        return launch.one_process_per_gpu(__file__, argv, args.device, args.gpu_ids, options.run_folder(args),
                                          resume=bool(args.resume))
    with distributed.session(args.device, args.gpu_ids) as device:
        provide_demo(args)
        task = build(args, device)
        if not args.train:
            return task.evaluate_checkpoint(args.trained, args.compile, args.allow_overlap,
                                            **options.evaluation(args))
        return train(task, options.training(args, MODALITIES))


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
    front_ends = {"rgb": NormaliseFrames(), "flow": NormaliseFlow(), "difference": NormaliseDifference()}
    return model, Compute(device, choose_precision(args.amp, device),
                          {name: front_ends[name].to(device) for name in model.modalities})


@distributed.failing_together()
def provide_demo(args: Namespace) -> None:
    """Made for training only: an evaluation uses what is there."""
    if args.demo and args.train and distributed.is_first_here():
        make_demo(args.data_root)
    if args.demo:
        print_once(f"DEMO DATA in {args.data_root}: results say nothing about UCF-101")


def load_splits(args: Namespace) -> Splits:
    """The lists, checked against the files: clips that cannot be used stop the run, or are counted and left out."""
    classes, found = find_files(args)
    clips = usable_clips(found, classes, args.data_root, args.skip_missing, args.num_workers)
    modalities = list(options.encoders(args, MODALITIES))
    datasets = {name: make_dataset(args, part, classes, train=name == "train") for name, part in clips.items() if part}
    made_by = {"flow": args.flow} if "flow" in modalities else {}
    return Splits(classes, datasets.get("train"), datasets.get("val"), datasets["test"],
                  {"split": args.split, **made_by})


def make_dataset(args: Namespace, clips: Sequence[MotionFiles], classes: Sequence[str], train: bool) -> MotionDataset:
    return MotionDataset(clips, classes, train=train, num_frames=args.num_frames, flow_frames=args.flow_frames,
                         image_size=args.image_size, modalities=list(options.encoders(args, MODALITIES)),
                         crop=options.crop(args))


@distributed.failing_together()
def find_files(args: Namespace) -> tuple[list[str], Found]:
    """The classes, and for each split the listed clips' files."""
    classes = ucf101.read_classes(args.data_root, HOW_TO_GET)
    listed, test = ucf101.read_split(args.data_root, args.split, classes, HOW_TO_GET)
    note_other_lists(args, len(listed), len(test))
    modalities = list(options.encoders(args, MODALITIES))
    ucf101.check_prepared(args.data_root, modalities, args.flow, args.flow_frames, test)
    parts = {"test": test}
    if args.train:
        where = f"trainlist{args.split:02d}.txt of {args.data_root}"
        check_every_class_has_a_clip(classes, listed, where, "number the classes without it")
        fraction = args.val_fraction
        train, val = ucf101.split_by_group(listed, fraction, args.random_seed) if fraction else (listed, [])
        parts = {"train": train, "val": val, "test": test}
    return classes, {name: ucf101.find_clips(args.data_root, clips, modalities, args.flow)
                     for name, clips in parts.items()}


def note_other_lists(args: Namespace, train: int, test: int) -> None:
    official = ucf101.OFFICIAL_COUNTS[args.split]
    if not args.demo and (train, test) != official:
        print_once(f"note: {train} train and {test} test clips, the official split {args.split} has {official[0]} and "
                   f"{official[1]}: results are not comparable with the paper's (data/UCF101/README.md)")


if __name__ == "__main__":
    cli.run(main)
