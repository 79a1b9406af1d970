"""The flags that all entry scripts share.

Nothing here imports torchvision or other packages that are slow to import: --help is answered at once.
"""

import argparse
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace, _ArgumentGroup
from collections.abc import Callable, Sequence
from pathlib import Path

from dataset.errors import InputError, readable
from dataset.lists import NOT_A_NAME
from models.balancing import METHOD_FLAGS, METHODS
from models.fusion import FUSIONS
from utils import cli
from utils.cli import add_boolean, argparse_type, boolean, number
from utils.spelling import invalid_choice
from utils.training import modalities
from utils.training.modalities import Modality

CACHES = ("auto", "ram", "device")  # kinds of --cache beside a folder
OPTIMIZERS = ("sgd", "adam", "adamw")
PRECISIONS = ("off", "bf16", "fp16")


class Parser(cli.Parser):
    """Of an entry script: the modalities that it declares, and defaults in the help."""

    def __init__(self, prog: str, description: str, declared: Sequence[Modality]):
        super().__init__(prog=prog, description=description, formatter_class=cli.HelpFormatter,
                         usage="%(prog)s --train | --resume RUN | --ckpt_path FILE [--FLAG VALUE ...]")
        self.declared = declared

    def can_have(self, action: argparse.Action, value: object) -> bool:
        """Whether a flag can have a value that args.json or a checkpoint has for it."""
        if value is None or value == action.default:
            return True
        if action.dest == "modality":
            return isinstance(value, str) and not modalities.unknown(self.declared, value)
        parts = value if isinstance(value, list) and action.nargs else [value]
        if action.type is None or action.dest == "dataset":  # names of older runs may be paths
            return all(isinstance(part, str | bool) and part in (action.choices or [part]) for part in parts)
        if action.type is Path:
            return all(isinstance(part, str) for part in parts)
        texts = [",".join(map(str, part)) if isinstance(part, list) else str(part) for part in parts]
        try:
            read = [action.type(text) for text in texts]
        except (ArgumentTypeError, ValueError):
            return False
        return read == parts


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
    if "/" in text or NOT_A_NAME.search(text):
        raise ArgumentTypeError(f"{text!r} is not a plain name: give the parent folder with another flag, such as "
                                "--ckpt_path or --data_root")
    return text


def trial_list(text: str) -> str:
    """[NAME=]LIST; files are named after NAME, or the list."""
    name = text.partition("=")[0] if "=" in text else Path(text).stem
    if re.search("[\0-\x1f\x7f\ud800-\udfff]", name):  # the last are bytes that are not UTF-8
        raise ArgumentTypeError(f"files cannot be named {readable(name)!r}: give the list another name, NAME=LIST")
    return text


def cache_place(text: str) -> str:
    if text not in ("off", *CACHES) and "/" not in text:
        raise ArgumentTypeError(f"{text!r} is none of off, {', '.join(CACHES)}: write a folder with a slash, such as "
                                f"./{text}")
    return text


def checked(kind: Callable[[str], object], text: str, flag: str) -> object:
    """kind(text) for a part of a flag's value. Raises InputError where an argparse type raises its own error."""
    try:
        return kind(text)
    except ArgumentTypeError as error:
        raise InputError(f"{flag}: {error}") from None


def shared_parser(prog: str, description: str, declared: Sequence[Modality]) -> Parser:
    """A parser with the flags of every entry script; defaults are set by the script with `set_defaults`."""
    parser = Parser(prog, description, declared)
    add_run_flags(parser)
    add_data_flags(parser)
    add_method_flags(parser)
    add_modality_flags(parser)
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
    group.add_argument("--dataset", type=folder_name, help="name in the results, and of the folder under data/")
    group.add_argument("--data_root", type=Path, help="folder of the data; default: data/<dataset>")
    add_boolean(group, "--demo", False, "generate a small synthetic data set and use it, with suitable defaults")
    group.add_argument("--val_fraction", type=number(float, 0, 0.9), default=0.0,
                       help="part of the training clips (main_Vox.py: identities) held out to choose the epoch; 0: "
                            "the paper's protocol, the best test epoch is reported")
    add_boolean(group, "--test_every_epoch", False, "with --val_fraction: evaluate the test set after every epoch as "
                "well, to tell how much better its best epoch looks; it chooses nothing")
    group.add_argument("--cache", type=cache_place, default="off", metavar="WHERE",
                       help="off, or where clips that are decoded once are kept: device (the GPU), ram, auto (one of "
                       "both), or a folder, which later runs use too")
    group.add_argument("--cache_size", type=number(int, 64, 4096), default=256,
                       help="shorter side of images in the --cache, in pixels; all are stored in the size that is "
                            "usual among them, or in this one if it is less")
    add_boolean(group, "--skip_missing", False, "go on without the clips whose files are missing, empty or damaged")


def add_overlap_flag(group: _ArgumentGroup) -> None:
    """For scripts that classify."""
    add_boolean(group, "--allow_overlap", False, "allow evaluation on test clips that the checkpoint, or a pretrained "
                "encoder, was trained on")


def add_method_flags(parser: Parser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument("--fusion_method", choices=list(FUSIONS), default="concat", help="fusion of modality features")
    add_boolean(group, "--mmcosine", False, "cosine logits per modality: features and class weights are normalised")
    group.add_argument("--scaling", type=number(float, 0, exclusive=True), default=10.0, help="scale s of MMCosine")
    group.add_argument("--lam", type=number(float, 0), default=0.0, help="weight of the contrastive loss, 0: none")


def add_modality_flags(parser: Parser) -> None:
    group = parser.add_argument_group("modalities")
    words = modalities.choices(parser.declared)
    group.add_argument("--modality", nargs="+", action=ModalityAction, default=words[0], metavar="NAME",
                       help=f"{words[0]}, or one or several of {', '.join(words[1:])}: which encoders are trained")
    for modality in parser.declared:
        group.add_argument(f"--{modality.name}_encoder", choices=modality.encoders, default=modality.encoders[0],
                           help=f"network of the {modality.name} encoder")
    for modality in parser.declared:
        group.add_argument(f"--{modality.name}_pretrain", type=Path, metavar="FILE",
                           help=f"checkpoint that the {modality.name} encoder starts from")
    for modality in parser.declared:
        group.add_argument(f"--{modality.name}_teacher", type=Path, metavar="FILE",
                           help=f"checkpoint of the {modality.name} encoder trained alone, for --modulation umt")
    add_boolean(group, "--freeze_encoders", False, "train fusion and classifier only; encoders stay as they start")
    usual = " and ".join(modality.name for modality in parser.declared if modality.imagenet)
    group.add_argument("--imagenet", action=ImagenetAction, nargs="?", default=False, metavar="NAMES",
                       help=f"start encoders from torchvision's ImageNet weights: {usual}, or the named ones, "
                            f"such as {'+'.join(modality.name for modality in parser.declared[:2])}")


class ModalityAction(argparse.Action):
    """`--modality rgb flow` -> "rgb+flow"; every modality -> "both" or "all"."""

    def __call__(self, parser: Parser, namespace: Namespace, values: Sequence[str], option_string: str | None = None):
        try:
            namespace.modality = modalities.setting_of(parser.declared, values)
        except ValueError as error:
            parser.error(f"argument --modality: {error}")


class ImagenetAction(argparse.Action):
    """`--imagenet`, `--imagenet False`, or names joined by `+`, kept in declared order; the usual ones are True."""

    def __call__(self, parser: Parser, namespace: Namespace, value: str | None, option_string: str | None = None):
        usual = [modality.name for modality in parser.declared if modality.imagenet]
        try:
            namespace.imagenet = True if value is None else boolean(value)
        except ArgumentTypeError:
            known = [modality.name for modality in parser.declared]
            unknown = [name for name in value.split("+") if name not in known]
            if unknown:
                parser.error(f"argument --imagenet: {invalid_choice(unknown[0], known)}")
            names = [name for name in known if name in value.split("+")]
            namespace.imagenet = True if names == usual else "+".join(names)


def add_balancing_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("balancing methods, with or without MMCosine")
    group.add_argument("--modulation", choices=list(METHODS), default="none",
                       help="; ".join(f"{name}: {method.title}" for name, method in METHODS.items()))
    for flag in METHOD_FLAGS.values():
        group.add_argument(f"--{flag.name}", type=argparse_type(flag.kind), default=flag.default, help=flag.help)


def add_optimisation_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("optimisation")
    group.add_argument("--batch_size", type=number(int, 1, 100_000), default=32,
                       help="clips, over all processes together")
    group.add_argument("--accumulate", type=number(int, 1, 100_000), default=1,
                       help="parts that each batch is computed in, one after the other, to need less memory; "
                            "BatchNorm's statistics are those of a part")
    group.add_argument("--epochs", type=number(int, 1, 1_000_000), default=200, help="passes over the training clips")
    group.add_argument("--optimizer", choices=list(OPTIMIZERS), default="sgd", help="sgd has momentum 0.9")
    group.add_argument("--learning_rate", type=number(float, 0, exclusive=True), default=1e-3,
                       help="initial learning rate")
    group.add_argument("--weight_decay", type=number(float, 0), default=1e-4, help="L2 (adamw: decoupled)")
    group.add_argument("--lr_decay_step", type=number(int, 1), default=100, help="epochs between two decays")
    group.add_argument("--lr_decay_ratio", type=number(float, 0, 1), default=0.1, help="factor of a decay")
    group.add_argument("--random_seed", type=number(int, 0, 2**63 - 1), default=0,
                       help="of initialisation, order, augmentation")


def add_machine_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:<index>")
    group.add_argument("--gpu_ids", type=gpu_list, default=[], metavar="0,1",
                       help="GPUs to use, one process per GPU (evaluation uses the first)")
    group.add_argument("--amp", choices=["auto", *PRECISIONS], default="auto",
                       help="precision of the encoders; auto: bf16 where the device computes it natively, else off")
    add_boolean(group, "--compile", False, "torch.compile the network (minutes at the start, faster steps)")
    group.add_argument("--num_workers", type=number(int, 0, 1024), default=2, help="loader processes per process")
