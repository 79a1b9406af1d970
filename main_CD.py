"""Audio-visual classification in the CREMA-D layout (the paper's Table 1, left).

    python main_CD.py --train --mmcosine True --scaling 10                      # CREMA-D in data/CREMAD
    python main_CD.py --train --mmcosine True --scaling 10 --demo               # rendered data, minutes on two cores
    python main_CD.py --train --dataset digits --data_root DIR --num_frames 3   # any other data in this layout
    torchrun --nproc_per_node 4 main_CD.py --train --mmcosine True              # four GPUs; or --gpu_ids 0,1,2,3
    python main_CD.py --resume runs/NAME                                        # go on with an interrupted run
    python main_CD.py --ckpt_path runs/NAME/best.pt                             # evaluate
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from dataset.clips import ClipDataset, ClipFiles
from dataset.cremad import EMOTIONS, PAPER_COUNTS, find_clips
from dataset.demo.emotions import make_demo
from dataset.frontends import AUDIO_FRONTENDS
from dataset.lists import Clip, check_every_class_has_a_clip, read_lists, split_by_speaker, split_stratified
from utils import cli
from utils.cli import number
from utils.distributed import say
from utils.training import classification, options, train
from utils.training.classification import Built, Splits

# --image_size and --audio_seconds have least values because oneDNN's bfloat16 convolutions on AMX give garbage for 3x3
# kernels of stride 2 on maps 1 or 2 wide (torch 2.11), which is what the last stage gets of 32 columns or fewer.
DEMO = {"dataset": "demo", "data_root": Path("data/demo"), "epochs": 12, "image_size": 80, "audio_seconds": 1.0,
        "learning_rate": 0.01, "lr_decay_step": 9}
HOW_TO_GET = {
    True: 'Prepare CREMA-D there with "python scripts/prepare_cremad.py --data_root {root}" (data/CREMAD/README.md '
          "tells where to get it), name another folder with --data_root, or add --demo to go without data.",
    False: 'Lay the data out as "Your own data" in README.md shows, or name another folder with --data_root.',
}  # by whether the dataset is CREMA-D


def get_args_parser() -> ArgumentParser:
    parser = options.shared_parser("main_CD.py", "Audio-visual classification in the CREMA-D layout.")
    group = parser.add_argument_group("CREMA-D layout")
    group.add_argument("--num_frames", type=number(int, 1), default=1, help="frames a clip, of equal segments")
    group.add_argument("--fps", type=number(int, 1), default=1, help="which frames: those in Image-<fps>-FPS")
    group.add_argument("--image_size", type=number(int, 64), default=224, help="pixels a side")
    group.add_argument("--audio_seconds", type=number(float, 0.6), default=3.0, help="sound is repeated or cut to this")
    group.add_argument("--audio_frontend", choices=list(AUDIO_FRONTENDS), default="mmcosine", help="which spectrogram")
    cli.add_boolean(group, "--val_by_speaker", False, "--val_fraction holds out whole speakers (<speaker>_... names)")
    parser.set_defaults(dataset="CREMAD")
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    parser = get_args_parser()
    args = options.parse(parser, argv, DEMO)
    if args.val_by_speaker and not args.val_fraction:
        parser.error("--val_by_speaker says which clips --val_fraction holds out: give that too")
    return args


def main(argv: Sequence[str]) -> dict:
    """Trains or evaluates as argv says -> what result.json holds. Raises InputError for the user's mistakes."""
    args = parse(argv)
    return train.on_devices(args, argv, __file__, partial(work, args))


def work(args: Namespace, device: torch.device) -> dict:
    return classification.run(args, *build(args, device))


def build(args: Namespace, device: torch.device) -> Built:
    return classification.build(args, device, make_demo, "CREMA-D", load_splits)


def load_splits(args: Namespace) -> Splits:
    """The lists, held against the files: clips that cannot be used stop here, or are counted and left out."""
    classes, listed, test = read_lists(args.data_root, HOW_TO_GET[args.dataset == "CREMAD"].format(root=args.data_root))
    tell_of_other_lists(args, classes, len(listed), len(test))
    train, val = split_validation(args, listed)
    check_every_class_has_a_clip(classes, train, "what --val_by_speaker leaves to train on")
    find = partial(find_clips, args.data_root, fps=args.fps, modalities=options.modalities(args))
    return classification.usable_splits(args, classes, {"train": train, "val": val, "test": test}, find, make_dataset)


def tell_of_other_lists(args: Namespace, classes: Sequence[str], train: int, test: int) -> None:
    if set(classes) == set(EMOTIONS) and not args.demo and (train, test) != tuple(PAPER_COUNTS.values()):
        say(f"note: {train} train and {test} test clips, the paper's lists have {PAPER_COUNTS['train']} and "
            f"{PAPER_COUNTS['test']}: figures cannot be held against the paper's (data/CREMAD/README.md)")


def split_validation(args: Namespace, clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """Training clips -> (training, validation) clips; no validation clips for --val_fraction 0."""
    if not args.val_fraction:
        return clips, []
    split = split_by_speaker if args.val_by_speaker else split_stratified
    return split(clips, args.val_fraction, args.random_seed)


def make_dataset(args: Namespace, classes: Sequence[str], clips: Sequence[ClipFiles], train: bool) -> ClipDataset:
    return ClipDataset(clips, classes, train=train, sample_rate=AUDIO_FRONTENDS[args.audio_frontend].sample_rate,
                       num_frames=args.num_frames, audio_seconds=args.audio_seconds, image_size=args.image_size,
                       modalities=options.modalities(args))


if __name__ == "__main__":
    cli.run(main)
