"""Audio-visual classification in the CREMA-D layout (SPEC: the paper's Table 1, left).

    python main_CD.py --train --mmcosine True --scaling 10                      # CREMA-D in data/CREMAD
    python main_CD.py --train --mmcosine True --scaling 10 --demo               # rendered data, minutes on two cores
    python main_CD.py --train --dataset digits --data_root DIR --num_frames 3   # any other data in this layout
    torchrun --nproc_per_node 4 main_CD.py --train --mmcosine True              # four GPUs; or --gpu_ids 0,1,2,3
    python main_CD.py --resume runs/NAME                                        # go on with an interrupted run
    python main_CD.py --ckpt_path runs/NAME/best.pt                             # evaluate
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import torch

from dataset.cremad import EMOTIONS, MODALITIES, PAPER_COUNTS, ClipDataset, ClipFiles, find_clips, report_problems
from dataset.demo import make_demo
from dataset.errors import InputError
from dataset.frontends import AUDIO_FRONTENDS, NormaliseFrames
from dataset.lists import Clip, check_every_class_has_a_clip, read_lists, split_by_speaker, split_stratified
from models import AVClassifier
from utils import classification, cli, distributed, options
from utils.classification import Splits
from utils.cli import number
from utils.distributed import say
from utils.engine import Compute
from utils.precision import choose_precision

# --image_size and --audio_seconds have least values because oneDNN's bfloat16 convolutions on AMX give garbage for 3x3
# kernels of stride 2 on maps 1 or 2 wide (torch 2.11), which is what the last stage gets of 32 columns or fewer.
DEMO = {"dataset": "demo", "data_root": Path("data/demo"), "epochs": 12, "image_size": 80, "audio_seconds": 1.0,
        "learning_rate": 0.01, "lr_decay_step": 9}
HOW_TO_GET = ('Prepare CREMA-D there with "python scripts/prepare_cremad.py --data_root {root}" (data/CREMAD/README.md '
              "tells where to get it), name another folder with --data_root, or add --demo to go without data.")


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


def main(argv: Sequence[str]) -> dict:
    """Trains or evaluates as argv says -> what result.json holds. Raises InputError for the user's mistakes."""
    args = options.parse(get_args_parser(), argv, DEMO)
    args.data_root = args.data_root or Path("data") / args.dataset
    spread = classification.spread_over_cards(args, argv, __file__)
    if spread:
        return spread
    with distributed.session(args.device, args.gpu_ids) as device:
        splits = load_splits(args)
        model = make_model(args, len(splits.classes))
        front_ends = {"audio": AUDIO_FRONTENDS[args.audio_frontend](), "visual": NormaliseFrames()}
        compute = Compute(device, choose_precision(args.amp, device),
                          {name: front_ends[name].to(device) for name in model.modalities})
        return (classification.train if args.train else classification.test)(args, splits, model, compute)


def modalities_of(args: Namespace) -> tuple[str, ...]:
    return MODALITIES if args.modality == "both" else (args.modality,)


def make_model(args: Namespace, num_classes: int) -> AVClassifier:
    if args.lam and args.modality != "both":
        raise InputError(f"--lam compares the modalities: leave it out with --modality {args.modality}")
    torch.manual_seed(args.random_seed)
    try:
        return AVClassifier(num_classes, args.fusion_method, args.mmcosine, args.scaling, modalities_of(args))
    except ValueError as error:
        raise InputError(f"{error}: choose another --fusion_method for --modality {args.modality}") from None


def load_splits(args: Namespace) -> Splits:
    """The lists, held against the files: clips that cannot be used stop here, or are counted and left out."""
    if args.demo:
        say(f"DEMO DATA, rendered into {args.data_root}: what is learnt from it says nothing about CREMA-D")
        make_demo_once(args.data_root)
    lists = read_lists(args.data_root, HOW_TO_GET.format(root=args.data_root))
    tell_of_other_lists(args, lists.classes, len(lists.train), len(lists.test))
    train, val = split_validation(args, lists.train)
    parts = {"train": train, "val": val, "test": lists.test} if args.train else {"test": lists.test}
    found = find_files(args, parts)
    if args.train:
        check_every_class_has_a_clip(lists.classes, found["train"], args.data_root)
    frontend = AUDIO_FRONTENDS[args.audio_frontend]
    return Splits(lists.classes, **{
        name: ClipDataset(found[name], lists.classes, train=name == "train", sample_rate=frontend.sample_rate,
                          audio_seconds=args.audio_seconds, num_frames=args.num_frames, image_size=args.image_size,
                          modalities=modalities_of(args)) if found.get(name) else None
        for name in ("train", "val", "test")})


def make_demo_once(root: Path) -> None:
    """On each machine one process makes the data, the others wait for it."""
    if distributed.is_first_here():
        make_demo(root)
    distributed.wait_for_all()


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


def find_files(args: Namespace, parts: dict[str, list[Clip]]) -> dict[str, list[ClipFiles]]:
    """{split: its clips with their files}. Raises InputError for clips without, unless --skip_missing."""
    found, problems = {}, {}
    for name, clips in parts.items():
        found[name], wrong = find_clips(args.data_root, clips, args.fps, modalities_of(args))
        problems.update(wrong)
    if problems:
        report = report_problems(problems, sum(map(len, parts.values())))
        if not args.skip_missing:
            raise InputError(f"{report}\nMend them (scripts/prepare_cremad.py extracts frames and checks files), or go "
                             "on without them: --skip_missing")
        say(f"{report}\nGoing on without them (--skip_missing).")
    if not found["test"]:
        raise InputError(f"no usable test clip is left in {args.data_root}")
    return found


if __name__ == "__main__":
    cli.run(main)
