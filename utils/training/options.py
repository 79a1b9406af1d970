"""The flags that all entry scripts share, and how demo, resumed and evaluated runs fill them in."""

import argparse
import shlex
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from models.fusion import FUSIONS
from utils.balancing import METHOD_FLAGS, METHODS
from utils.cli import add_boolean, number
from utils.errors import InputError
from utils.training import checkpoint
from utils.training.engine import OPTIMIZERS
from utils.training.precision import PRECISIONS

# What may differ between a run and its resumption: where and how long it runs, not what it computes.
FREE_ON_RESUME = {"resume", "train", "epochs", "data_root", "num_workers", "device", "gpu_ids", "use_tensorboard",
                  "tensorboard_path", "ckpt_path", "run_name"}
# What an evaluation does not take over from the checkpoint's run.
NOT_FROM_CHECKPOINT = {"train", "ckpt_path", "resume", "run_name", "num_workers", "device", "gpu_ids", "compile",
                       "command", "scores_path"}
OF_THE_NETWORK = ("fusion_method", "mmcosine", "scaling", "modality")  # an evaluation cannot change these


def gpu_list(text: str) -> list[int]:
    """`0,1` -> [0, 1]."""
    try:
        ids = [int(part) for part in text.replace(" ", "").split(",") if part]
    except ValueError:
        ids = [-1]
    if min(ids, default=0) < 0 or len(set(ids)) < len(ids):
        raise ArgumentTypeError(f"{text!r} is not a list of different card numbers such as 0,1")
    return ids


def folder_name(text: str) -> str:
    if text in ("", ".", "..") or Path(text).name != text:
        raise ArgumentTypeError(f"{text!r} is not the name of one file or folder")
    return text


def checked(kind: Callable[[str], object], text: str, flag: str) -> object:
    """kind(text) for a part of a flag's value. Raises InputError where an argparse type raises its own error."""
    try:
        return kind(text)
    except ArgumentTypeError as error:
        raise InputError(f"{flag}: {error}") from None


def shared_parser(prog: str, description: str) -> ArgumentParser:
    """A parser with the flags of every entry script; defaults are set by the script with `set_defaults`."""
    parser = ArgumentParser(prog=prog, description=description, allow_abbrev=False,
                            formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_flags(parser)
    add_data_flags(parser)
    add_method_flags(parser)
    add_balancing_flags(parser)
    add_optimisation_flags(parser)
    add_machine_flags(parser)
    return parser


def add_run_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("what to do")
    add_boolean(group, "--train", False, "train; without it --ckpt_path FILE is evaluated")
    group.add_argument("--ckpt_path", type=Path, default=Path("runs"),
                       help="with --train: where the run's folder is made; without: the checkpoint to evaluate")
    group.add_argument("--run_name", type=folder_name, help="name of the run's folder; default: settings and time")
    group.add_argument("--resume", type=Path, metavar="RUN", help="continue the interrupted run in this folder")
    add_boolean(group, "--use_tensorboard", True, "write TensorBoard events")
    group.add_argument("--tensorboard_path", type=Path, help="folder for them; default: the run's own folder")


def add_data_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", help="name in the results, and of the folder under data/")
    group.add_argument("--data_root", type=Path, help="folder of the data; default: data/<dataset>")
    add_boolean(group, "--demo", False, "make a small rendered data set on the spot and use it, with settings to fit")
    group.add_argument("--val_fraction", type=number(float, 0, 0.9), default=0.0,
                       help="part of the training clips (main_Vox.py: identities) held out to choose the epoch; 0: "
                            "the paper's protocol, the best test epoch is reported")
    add_boolean(group, "--skip_missing", False, "go on without the clips whose files are missing, empty or not media")


def add_method_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument("--fusion_method", choices=list(FUSIONS), default="concat", help="how the modalities meet")
    add_boolean(group, "--mmcosine", False, "cosine logits per modality, features and class weights normalised")
    group.add_argument("--scaling", type=number(float, 0, exclusive=True), default=10.0, help="s of MMCosine")
    group.add_argument("--lam", type=number(float, 0), default=0.0, help="weight of the contrastive loss, 0: none")
    group.add_argument("--modality", choices=["both", "audio", "visual"], default="both",
                       help="train the joint network, or one encoder alone")
    group.add_argument("--audio_pretrain", type=Path, metavar="FILE", help="checkpoint to start the audio encoder from")
    group.add_argument("--visual_pretrain", type=Path, metavar="FILE", help="the same for the visual encoder")
    add_boolean(group, "--imagenet", False, "start the visual encoder from torchvision's ImageNet weights")


def add_balancing_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("balancing beside or instead of MMCosine")
    group.add_argument("--modulation", choices=list(METHODS), default="none",
                       help="; ".join(f"{name}: {method.title}" for name, method in METHODS.items()))
    for flag in METHOD_FLAGS.values():
        group.add_argument(f"--{flag.name}", type=flag.kind, default=flag.default, help=flag.help)


def check_method(parser: ArgumentParser, args: Namespace) -> None:
    """Flags of a method that is not used, or of two modalities where there is one, are mistakes."""
    method = METHODS[args.modulation]
    for flag in METHOD_FLAGS:
        if flag not in method.uses() and getattr(args, flag) != parser.get_default(flag):
            parser.error(f"--{flag} means nothing to --modulation {args.modulation}: leave it out")
    for flag, off in (("lam", 0), ("modulation", "none")):
        if args.modality != "both" and getattr(args, flag) != off:
            parser.error(f"--{flag} compares the modalities: leave it out with --modality {args.modality}")
    try:
        method.check(args)
    except ValueError as error:
        parser.error(str(error))


def add_optimisation_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("optimisation")
    group.add_argument("--batch_size", type=number(int, 1), default=32, help="clips, over all processes together")
    group.add_argument("--epochs", type=number(int, 1), default=200, help="passes over the training clips")
    group.add_argument("--optimizer", choices=list(OPTIMIZERS), default="sgd", help="sgd has momentum 0.9")
    group.add_argument("--learning_rate", type=number(float, 0, exclusive=True), default=1e-3, help="at the start")
    group.add_argument("--weight_decay", type=number(float, 0), default=1e-4, help="L2 (adamw: decoupled)")
    group.add_argument("--lr_decay_step", type=number(int, 1), default=100, help="epochs between two decays")
    group.add_argument("--lr_decay_ratio", type=number(float, 0, 1), default=0.1, help="factor of a decay")
    group.add_argument("--random_seed", type=number(int, 0, 2**63 - 1), default=0,
                       help="of initialisation, order, augmentation")


def add_machine_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:<index>")
    group.add_argument("--gpu_ids", type=gpu_list, default=[], metavar="0,1",
                       help="cards to use; several: one process each (evaluation uses the first)")
    group.add_argument("--amp", choices=["auto", *PRECISIONS], default="auto",
                       help="precision of the encoders; auto: bf16 where the device computes it natively, else off")
    add_boolean(group, "--compile", False, "torch.compile the network (minutes at the start, faster steps)")
    group.add_argument("--num_workers", type=number(int, 0), default=2, help="loader processes per process")


def parse(parser: ArgumentParser, argv: Sequence[str], demo_defaults: Mapping[str, object]) -> Namespace:
    """Flags from argv; those not given come from the run that is resumed, from the checkpoint that is evaluated, from
    `demo_defaults` under --demo, else from the parser. Raises InputError, or exits with status 2 on a wrong flag."""
    first = parser.parse_known_args(argv)[0]
    if first.demo:
        parser.set_defaults(**demo_defaults)
    args = parser.parse_args(argv)  # a wrong flag is told before a missing file
    if first.resume:
        args = resumed(parser, argv, first.resume)
    elif not first.train:
        if first.ckpt_path == parser.get_default("ckpt_path"):
            parser.error("nothing to do: give --train, or --ckpt_path FILE to evaluate a checkpoint")
        args = evaluated(parser, argv, first.ckpt_path)
    check_method(parser, args)
    if args.imagenet and (args.visual_pretrain or args.modality == "audio"):
        parser.error("--imagenet starts the visual encoder: leave it out with --visual_pretrain or --modality audio")
    args.data_root = args.data_root or Path("data") / args.dataset
    args.command = getattr(args, "command", f"python {parser.prog} {shlex.join(argv)}")
    return args


def modalities(args: Namespace) -> tuple[str, ...]:
    return ("audio", "visual") if args.modality == "both" else (args.modality,)


def over(parser: ArgumentParser, argv: Sequence[str], settings: Mapping[str, object]) -> Namespace:
    """argv's flags over `settings` over the parser's defaults."""
    paths = {action.dest for action in parser._actions if action.type is Path}
    restored = {name: Path(value) if name in paths and value else value for name, value in settings.items()}
    return parser.parse_args(argv, namespace=Namespace(**restored))


def evaluated(parser: ArgumentParser, argv: Sequence[str], path: Path) -> Namespace:
    """argv over the settings of the checkpoint. Raises InputError: argv describes another network."""
    saved = evaluation_settings(path)
    args = over(parser, argv, saved)
    others = [name for name in OF_THE_NETWORK if saved.get(name, getattr(args, name)) != getattr(args, name)]
    if others:
        trained = ", ".join(f"--{name} {saved[name]}" for name in others)
        raise InputError(f"{path} was trained with {trained}: leave that out")
    return args


def evaluation_settings(path: Path) -> dict:
    """The settings a checkpoint of ours was trained with; {} for the release's, which hold none."""
    saved = checkpoint.load(path).get("args")
    if not isinstance(saved, dict):
        return {}
    return {name: value for name, value in saved.items() if name not in NOT_FROM_CHECKPOINT}


def resumed(parser: ArgumentParser, argv: Sequence[str], folder: Path) -> Namespace:
    """The run's own settings, as its last.pt has them; of argv only what FREE_ON_RESUME names may differ from them."""
    if not (folder / "last.pt").is_file():
        raise InputError(f"--resume {folder}: no run can be continued there, it holds no last.pt. Give the folder that "
                         "the run printed")
    content = checkpoint.load(folder / "last.pt")
    saved = content.get("args")
    if not isinstance(saved, dict):
        raise InputError(f"{folder / 'last.pt'} cannot be resumed from: it holds no settings")
    args = over(parser, argv, saved)
    changed = [name for name, value in settings(args).items() if saved.get(name, value) != value]
    fixed = [name for name in changed if name not in FREE_ON_RESUME]
    if fixed:
        raise InputError(f"--resume continues a run as it was started: leave out --{', --'.join(fixed)}, or start a "
                         "new run with --train")
    if args.epochs < content["epoch"]:
        raise InputError(f"{folder} has {content['epoch']} epochs behind it: --epochs {args.epochs} is less")
    args.train = True
    return args


def settings(args: Namespace) -> dict[str, object]:
    """The flags as plain values, for args.json and checkpoints."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}


def default_run_name(args: Namespace) -> str:
    head = f"mmcosine{args.scaling:g}" if args.mmcosine else "plain"
    head += f"-{args.modulation}" if args.modulation != "none" else ""
    what = args.fusion_method if args.modality == "both" else args.modality
    what = "-".join([what, *(getattr(args, "pretrain_on", None) or [])])
    return f"{args.dataset}-{what}-{head}-seed{args.random_seed}-{datetime.now():%Y%m%d-%H%M%S}"
