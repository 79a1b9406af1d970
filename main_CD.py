"""Audio-visual classification in the CREMA-D layout (the paper's Table 1, left).

    python main_CD.py --train --preset mmcosine-concat                          # the paper's best s with concat, 2
    python main_CD.py --train --mmcosine True --scaling 10                      # its release's command; see below
    python main_CD.py --train --mmcosine True --scaling 10 --demo               # synthetic data, minutes on two cores
    python main_CD.py --train --dataset digits --data_root DIR --num_frames 3   # any other data in this layout
    torchrun --nproc_per_node 4 main_CD.py --train --mmcosine True              # four GPUs; or --gpu_ids 0,1,2,3
    python main_CD.py --resume runs/NAME                                        # continue an interrupted run
    python main_CD.py --ckpt_path runs/NAME                                     # evaluate

On CREMA-D with concat the paper reports 63.44 % for s = 2 and 59.82 % for s = 10, which is below the 60.08 % of the
plain network (the same command without --mmcosine).
"""

import shlex
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from dataset.clips import FURTHER, ClipDataset, ClipFiles
from dataset.cremad import EMOTIONS, PAPER_COUNTS, find_clips, not_comparable, variant_of
from dataset.crops import PAPER_CROP
from dataset.frontends import AUDIO_FRONTENDS, NormaliseFrames
from dataset.lists import check_every_class_has_a_clip, read_lists, split_by_speaker, split_stratified
from utils import cli, distributed
from utils.cli import number
from utils.distributed import print_once
from utils.training import flags, launch, options
from utils.training.modalities import Modality
from utils.training.roles import INPUT, TRAINING

IMAGE_ENCODERS = ("resnet18", "resnet34", "resnet50")
MODALITIES = (
    Modality("audio", IMAGE_ENCODERS, in_channels=1, input_settings=("audio_frontend", "demo")),
    Modality("visual", IMAGE_ENCODERS, in_channels=3, input_settings=("image_size", "demo"), imagenet=True),
)
# --image_size and --audio_seconds have least values because oneDNN's bfloat16 convolutions on AMX give garbage for 3x3
# kernels of stride 2 on maps 1 or 2 wide (torch 2.11), which is what the last stage gets of 32 columns or fewer.
DEMO = {"dataset": "demo", "data_root": Path("data/demo"), "epochs": 12, "image_size": 80, "audio_seconds": 1.0,
        "learning_rate": 0.01, "lr_decay_step": 9, "relearn_every": 3}


def get_args_parser() -> flags.Parser:
    parser = flags.shared_parser("main_CD.py", "Audio-visual classification in the CREMA-D layout.", MODALITIES)
    group = parser.add_argument_group("CREMA-D layout")
    group.add_argument("--num_frames", type=number(int, 1, 1000), default=1, role=INPUT,
                       help="frames per clip, from equal segments")
    group.add_argument("--fps", type=number(int, 1, 1000), default=1, role=INPUT,
                       help="which frames: those in Image-<fps>-FPS")
    group.add_argument("--image_size", type=number(int, 64, 4096), default=224, role=INPUT, help="pixels per side")
    group.add_argument("--audio_seconds", type=number(float, 0.6, 3600), default=3.0, role=INPUT,
                       help="sound is repeated or cut to this")
    group.add_argument("--audio_frontend", choices=list(AUDIO_FRONTENDS), default="mmcosine", role=INPUT,
                       help="which spectrogram")
    cli.add_boolean(group, "--val_by_speaker", False, "--val_fraction holds out whole speakers (<speaker>_... names)",
                    role=TRAINING, needs="val_fraction")
    flags.add_crop_flags(group, PAPER_CROP)
    flags.add_overlap_flag(group)
    parser.set_defaults(dataset="CREMAD")
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    return options.parse(get_args_parser(), argv, DEMO)


if __name__ == "__main__":
    get_args_parser().parse_args()  # --help and misspelt flags are answered before the slow imports below

import torch

from dataset.demo.emotions import make_demo
from models import MultimodalClassifier, make_encoders
from utils.training.classification import Classification, Splits, usable_clips
from utils.training.damage import Found
from utils.training.engine import Compute
from utils.training.loading import Loaders
from utils.training.precision import choose_precision
from utils.training.train import train

HOW_TO_GET = {
    True: 'Prepare CREMA-D there with "python scripts/prepare_cremad.py --data_root {root}" (data/CREMAD/README.md '
          "tells where to get it), name another folder with --data_root, or add --demo to try synthetic data.",
    False: "Lay the data out as docs/own_videos.md shows, or name another folder with --data_root.",
}  # by whether the dataset is CREMA-D


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
    return Classification(data, model, compute, loaders)


def make_network(args: Namespace, classes: int, device: torch.device) -> tuple[MultimodalClassifier, Compute]:
    """The network with its first weights, and how it computes."""
    torch.manual_seed(args.random_seed)
    encoders = make_encoders(options.encoders(args, MODALITIES))
    model = MultimodalClassifier(encoders, classes, args.fusion_method, args.mmcosine, args.scaling)
    front_ends = {"audio": AUDIO_FRONTENDS[args.audio_frontend](), "visual": NormaliseFrames(),
                  **{name: module.FrontEnd() for name, module in FURTHER.items()}}
    return model, Compute(device, choose_precision(args.amp, device),
                          {name: front_ends[name].to(device) for name in model.modalities})


@distributed.failing_together()
def provide_demo(args: Namespace) -> None:
    """Made for training only: an evaluation uses what is there."""
    if args.demo and args.train and distributed.is_first_here():
        make_demo(args.data_root)
    if args.demo:
        print_once(f"DEMO DATA in {args.data_root}: results say nothing about CREMA-D")


def load_splits(args: Namespace) -> Splits:
    """The lists, checked against the files: clips that cannot be used stop the run, or are counted and left out."""
    classes, found, variant = find_files(args)
    clips = usable_clips(found, classes, args.data_root, args.skip_missing, args.num_workers)
    note_unusable(args, classes, found, clips)
    datasets = {name: make_dataset(args, part, classes, train=name == "train") for name, part in clips.items() if part}
    return Splits(classes, datasets.get("train"), datasets.get("val"), datasets["test"], {"variant": variant})


def make_dataset(args: Namespace, clips: Sequence[ClipFiles], classes: Sequence[str], train: bool) -> ClipDataset:
    return ClipDataset(clips, classes, train=train, num_frames=args.num_frames, audio_seconds=args.audio_seconds,
                       sample_rate=AUDIO_FRONTENDS[args.audio_frontend].sample_rate, image_size=args.image_size,
                       modalities=list(options.encoders(args, MODALITIES)), crop=options.crop(args))


@distributed.failing_together()
def find_files(args: Namespace) -> tuple[list[str], Found, str | None]:
    """The classes, for each split the listed clips' files, and which variant of the data they are."""
    how_to_get = HOW_TO_GET[args.dataset == "CREMAD"].format(root=shlex.quote(str(args.data_root)))
    classes, train, test = read_lists(args.data_root, how_to_get)
    note_other_lists(args, classes, len(train), len(test))
    parts = {"test": test}
    if args.train:
        split = split_by_speaker if args.val_by_speaker else split_stratified
        train, val = split(train, args.val_fraction, args.random_seed) if args.val_fraction else (train, [])
        check_every_class_has_a_clip(classes, train, "what --val_by_speaker leaves to train on")
        parts = {"train": train, "val": val, "test": test}
    modalities = list(options.encoders(args, MODALITIES))
    found = {name: find_clips(args.data_root, clips, args.fps, modalities) for name, clips in parts.items()}
    return classes, found, variant_of(args.data_root)


def note_other_lists(args: Namespace, classes: Sequence[str], train: int, test: int) -> None:
    if set(classes) == set(EMOTIONS) and not args.demo and (train, test) != tuple(PAPER_COUNTS.values()):
        print_once(f"note: {train} train and {test} test clips, the paper's lists have {PAPER_COUNTS['train']} and "
                   f"{PAPER_COUNTS['test']}: results are not comparable with the paper's (data/CREMAD/README.md)")


def note_unusable(args: Namespace, classes: Sequence[str], found: Found, clips: Mapping[str, Sequence]) -> None:
    """Says that not all clips of the paper's lists are used. found: with what is wrong of the others."""
    listed, usable = Counter(), Counter()
    for name, (there, wrong) in found.items():
        split = "train" if name == "val" else name
        listed[split] += len(there) + len(wrong)
        usable[split] += len(clips[name])
    papers = set(classes) == set(EMOTIONS) and not args.demo and dict(listed).items() <= PAPER_COUNTS.items()
    if papers and usable != listed:
        print_once(f"note: {not_comparable(usable)}")


if __name__ == "__main__":
    cli.run(main)
