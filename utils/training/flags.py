"""The flags that all entry scripts share.

Nothing here imports torchvision or other packages that are slow to import: --help is answered at once.
"""

import argparse
import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from dataset.crops import Crop
from dataset.errors import InputError, readable
from dataset.lists import NOT_A_NAME
from models.balancing import METHOD_FLAGS, METHODS, Method
from models.fusion import FUSIONS
from utils import cli
from utils.cli import add_boolean, argparse_type, boolean, number
from utils.spelling import invalid_choice
from utils.training import modalities
from utils.training.modalities import JOINT, Modality, is_joint
from utils.training.presets import presets_of
from utils.training.roles import (
    DATA,
    INPUT,
    MACHINE,
    NETWORK,
    OUTPUT,
    TRAINING,
    Group,
    RoleParser,
    Settings,
    always,
)

CACHES = ("auto", "ram", "device")  # kinds of --cache beside a folder
OPTIMIZERS = ("sgd", "adam", "adamw")
PRECISIONS = ("off", "bf16", "fp16")


NOT_GIVEN = object()


class Parser(RoleParser):
    """Of an entry script: the modalities that it declares, and defaults in the help."""

    def __init__(self, prog: str, description: str, declared: Sequence[Modality]):
        super().__init__(prog=prog, description=description, formatter_class=cli.HelpFormatter,
                         usage="%(prog)s --train | --resume RUN | --ckpt_path RUN [--FLAG VALUE ...]")
        self.declared = declared

    def given(self, argv: Sequence[str]) -> dict[str, object]:
        """{flag: value} of what stands in argv. Exits with status 2 on a wrong flag."""
        found = self.parse_args(argv, Namespace(**dict.fromkeys(self.actions, NOT_GIVEN)))
        return {name: value for name, value in vars(found).items() if value is not NOT_GIVEN}

    def defaults(self) -> dict[str, object]:
        return {name: action.default for name, action in self.actions.items()}

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
    """A parser with the flags of every entry script; defaults are set by the script with `set_defaults`.

    The order of declaration is the order in names of runs, in sweeps and in tables.
    """
    parser = Parser(prog, description, declared)
    add_run_flags(parser)
    add_data_flags(parser)
    add_head_flags(parser)
    add_balancing_flags(parser)
    add_modality_flags(parser)
    add_optimisation_flags(parser)
    add_machine_flags(parser)
    return parser


@cache
def parser_of(names: tuple[str, ...]) -> Parser:
    """The shared flags for an entry script with these modalities."""
    return shared_parser("", "", [Modality(name, ("",), in_channels=None, imagenet=True) for name in names])


def parser_for(settings: Settings) -> Parser:
    """The shared flags of the entry script whose run has these settings."""
    return parser_of(tuple(name.removesuffix("_encoder") for name in settings if name.endswith("_encoder")))


def add_run_flags(parser: Parser) -> None:
    group = parser.add_argument_group("what to do")
    add_boolean(group, "--train", False, "train; without it --ckpt_path RUN is evaluated", role=OUTPUT, of_sweep=True)
    group.add_argument("--ckpt_path", type=Path, default=Path("runs"), role=OUTPUT, private=True, of_sweep=True,
                       help="with --train: where the run's folder is made; without: what is evaluated, a run's folder "
                            "(its best.pt) or a checkpoint")
    group.add_argument("--output", type=Path, metavar="DIR", role=OUTPUT, private=True, of_sweep=True,
                       help="with --train: another name of --ckpt_path; without: folder for evaluation.json, default: "
                            "beside the checkpoint")
    group.add_argument("--run_name", type=folder_name, role=OUTPUT, private=True, of_sweep=True,
                       help="name of the run's folder; default: settings and time")
    group.add_argument("--resume", type=Path, metavar="RUN", role=OUTPUT, private=True, of_sweep=True,
                       help="continue the interrupted run in this folder")
    add_boolean(group, "--log_gradients", False, "after each epoch write how strongly each encoder is pulled, and how "
                "far its own modality agrees; measured on four batches", role=OUTPUT)
    add_boolean(group, "--use_tensorboard", True, "write TensorBoard events", role=OUTPUT)
    group.add_argument("--tensorboard_path", type=Path, role=OUTPUT, private=True,
                       help="folder for them; default: the run's own folder")


def add_data_flags(parser: Parser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", type=folder_name, role=DATA, named="result",
                       help="name in the results, and of the folder under data/")
    group.add_argument("--data_root", type=Path, role=MACHINE, from_checkpoint=True, private=True,
                       help="folder of the data; default: data/<dataset>")
    add_boolean(group, "--demo", False, "generate a small synthetic data set and use it, with suitable defaults",
                role=DATA, named="result")
    group.add_argument("--val_fraction", type=number(float, 0, 0.9), default=0.0, role=TRAINING,
                       help="part of the training clips (main_Vox.py: identities) held out to choose the epoch; 0: "
                            "the paper's protocol, the best test epoch is reported")
    add_boolean(group, "--test_every_epoch", False, "with --val_fraction: evaluate the test set after every epoch as "
                "well, to tell how much better its best epoch looks; it chooses nothing", role=TRAINING,
                needs="val_fraction")
    # images may be stored smaller than in their files, so that runs with and without a cache may differ
    group.add_argument("--cache", type=cache_place, default="off", metavar="WHERE", role=MACHINE, compared=True,
                       may_change=gives_the_same_batches, private=True,
                       help="off, or where clips that are decoded once are kept: device (the GPU), ram, auto (one of "
                       "both), or a folder, which later runs use too")
    group.add_argument("--cache_size", type=number(int, 64, 4096), default=256, role=MACHINE, compared=True,
                       may_change=is_before_training, needs="cache",
                       help="shorter side of images in the --cache, in pixels; all are stored in the size that is "
                            "usual among them, or in this one if it is less")
    add_boolean(group, "--skip_missing", False, "go on without the clips whose files are missing, empty or damaged",
                role=DATA)


def is_before_training(before: Settings, now: Settings, epochs: int) -> bool:
    """Whether no step was made yet; Gradient-Blending's trials train before the first epoch."""
    return not epochs and METHODS[str(before["modulation"])].prepare is Method.prepare


def gives_the_same_batches(before: Settings, now: Settings, epochs: int) -> bool:
    """Whether --cache may change in a run: all kinds of cache give the same batches."""
    return is_before_training(before, now, epochs) or "off" not in (before["cache"], now["cache"])


def add_overlap_flag(group: Group) -> None:
    """For scripts that classify."""
    add_boolean(group, "--allow_overlap", False, "allow evaluation on test clips that the checkpoint, or a pretrained "
                "encoder, was trained on", role=DATA, from_checkpoint=False)


def add_crop_flags(group: Group, usual: Crop) -> None:
    """Of training images. usual: the defaults of the script's data."""
    group.add_argument("--crop_area", type=area, nargs=2, action=RangeAction, role=TRAINING,
                       default=list(usual.area), metavar=("LOW", "HIGH"),
                       help="area of training crops, relative to the image's; 1 1 takes the whole image")
    group.add_argument("--crop_ratio", type=number(float, 0, exclusive=True), nargs=2, action=RangeAction,
                       role=TRAINING, default=list(usual.ratio), metavar=("LOW", "HIGH"),
                       help="width over height of training crops")
    add_boolean(group, "--flip", usual.flip, "mirror half of the training images", role=TRAINING)


def area(text: str) -> float:
    """In (0, 1]."""
    value = number(float, 0, 1)(text)
    if not value:
        raise ArgumentTypeError(f"{text} is out of range: expected more than 0 and at most 1")
    return value


class RangeAction(argparse.Action):
    """`--crop_area 0.6 1`: two numbers, the second at least the first."""

    def __call__(self, parser: Parser, namespace: Namespace, values: Sequence[float],
                 option_string: str | None = None):
        if values[0] > values[1]:
            parser.error(f"argument {option_string}: {values[0]:g} is more than {values[1]:g}: give the lower number "
                         "first")
        setattr(namespace, self.dest, list(values))


def is_of_single_modality(settings: Settings) -> bool:
    return not is_joint(str(settings["modality"]))


def add_head_flags(parser: Parser) -> None:
    group = parser.add_argument_group("fusion and head")
    group.add_argument("--fusion_method", choices=list(FUSIONS), default="concat", role=NETWORK, named="run",
                       idle=is_of_single_modality, help="fusion of modality features")
    add_boolean(group, "--mmcosine", False, "cosine logits per modality: features and class weights are normalised",
                role=NETWORK, named="run")
    group.add_argument("--scaling", type=number(float, 0, exclusive=True), default=10.0, role=NETWORK, named="run",
                       idle=lambda settings: not settings["mmcosine"], help="scale s of MMCosine")


def add_modality_flags(parser: Parser) -> None:
    group = parser.add_argument_group("modalities")
    words = modalities.choices(parser.declared)
    group.add_argument("--modality", nargs="+", action=ModalityAction, default=next(iter(words), None), metavar="NAME",
                       role=NETWORK, named="run",
                       help=f"{', '.join(words[:1])}, or one or several of {', '.join(words[1:])}: which encoders are "
                            "trained")
    for modality in parser.declared:
        group.add_argument(f"--{modality.name}_encoder", choices=modality.encoders, default=modality.encoders[0],
                           role=NETWORK, idle=is_without(modality), help=f"network of the {modality.name} encoder")
    for modality in parser.declared:
        group.add_argument(f"--{modality.name}_pretrain", type=Path, metavar="FILE", role=TRAINING, private=True,
                           idle=is_without(modality), help=f"checkpoint that the {modality.name} encoder starts from")
    for modality in parser.declared:
        group.add_argument(f"--{modality.name}_teacher", type=Path, metavar="FILE", role=TRAINING, private=True,
                           idle=has_no_teacher(modality),
                           help=f"checkpoint of the {modality.name} encoder trained alone, for --modulation umt")
    add_boolean(group, "--freeze_encoders", False, "train fusion and classifier only; encoders stay as they start",
                role=TRAINING)
    usual = " and ".join(modality.name for modality in parser.declared if modality.imagenet)
    group.add_argument("--imagenet", action=ImagenetAction, nargs="?", default=False, metavar="NAMES", role=TRAINING,
                       idle=lambda settings: not from_imagenet(settings, parser.declared),
                       help=f"start encoders from torchvision's ImageNet weights: {usual}, or the named ones, "
                            f"such as {'+'.join(modality.name for modality in parser.declared[:2])}")


def is_without(modality: Modality) -> Callable[[Settings], bool]:
    """Whether the network of these settings has no encoder of the modality."""
    return lambda settings: ((modality.extra or settings["modality"] not in JOINT)
                             and modality.name not in str(settings["modality"]).split("+"))


def has_no_teacher(modality: Modality) -> Callable[[Settings], bool]:
    return lambda settings: (is_of_single_modality(settings) or is_without(modality)(settings)
                             or not METHODS[str(settings["modulation"])].needs_teachers)


def from_imagenet(settings: Settings, declared: Sequence[Modality]) -> list[str]:
    """Modalities whose encoders start from ImageNet weights; for a bare --imagenet the usual ones that start from no
    checkpoint."""
    named = settings.get("imagenet")
    if isinstance(named, str):
        return named.split("+")
    return [modality.name for modality in modalities.chosen(declared, settings["modality"])
            if named and modality.imagenet and not settings.get(f"{modality.name}_pretrain")]


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


def add_balancing_flags(parser: Parser) -> None:
    group = parser.add_argument_group("balancing methods, with or without MMCosine")
    group.add_argument("--modulation", choices=list(METHODS), default="none", role=TRAINING, named="run",
                       idle=is_of_single_modality,
                       help="; ".join(f"{name}: {method.title}" for name, method in METHODS.items()))
    for flag in METHOD_FLAGS.values():
        group.add_argument(f"--{flag.name}", type=argparse_type(flag.kind), default=flag.default, role=TRAINING,
                           named="run", idle=is_unused(flag.name), help=flag.help)


def is_unused(name: str) -> Callable[[Settings], bool]:
    """Whether the balancing method of these settings does not use its flag `name`."""
    return lambda settings: (is_of_single_modality(settings)
                             or name not in METHODS[str(settings["modulation"])].uses())


def add_optimisation_flags(parser: Parser) -> None:
    group = parser.add_argument_group("optimisation")
    group.add_argument("--preset", choices=list(presets_of(parser.prog)), role=TRAINING, named="result", metavar="NAME",
                       help="settings as a paper or a method's authors have them, below the flags that are given; "
                            "names: python scripts/reproduce.py --list")
    group.add_argument("--lam", type=number(float, 0), default=0.0, role=TRAINING, named="run",
                       idle=is_of_single_modality, help="weight of the contrastive loss, 0: none")
    group.add_argument("--batch_size", type=number(int, 1, 100_000), default=32, role=TRAINING, evaluated=True,
                       named="result", help="clips, over all processes together")
    group.add_argument("--accumulate", type=number(int, 1, 100_000), default=1, role=TRAINING,
                       help="parts that each batch is computed in, one after the other, to need less memory; "
                            "BatchNorm's statistics are those of a part")
    group.add_argument("--epochs", type=number(int, 1, 1_000_000), default=200, role=TRAINING, may_change=always,
                       named="result", help="passes over the training clips")
    group.add_argument("--optimizer", choices=list(OPTIMIZERS), default="sgd", role=TRAINING,
                       help="sgd has momentum 0.9")
    group.add_argument("--learning_rate", type=number(float, 0, exclusive=True), default=1e-3, role=TRAINING,
                       named="result", help="initial learning rate")
    group.add_argument("--weight_decay", type=number(float, 0), default=1e-4, role=TRAINING,
                       help="L2 (adamw: decoupled)")
    group.add_argument("--lr_decay_step", type=number(int, 1), default=100, role=TRAINING,
                       help="epochs between two decays")
    group.add_argument("--lr_decay_ratio", type=number(float, 0, 1), default=0.1, role=TRAINING,
                       help="factor of a decay")
    group.add_argument("--random_seed", type=number(int, 0, 2**63 - 1), default=0, role=TRAINING, named="result",
                       help="of initialisation, order, augmentation")


def add_machine_flags(parser: Parser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", role=MACHINE, private=True,
                       help="auto (a GPU if there is one), cpu, cuda or cuda:<index>")
    group.add_argument("--gpu_ids", type=gpu_list, default=[], metavar="0,1", role=MACHINE, private=True,
                       help="GPUs to use, one process per GPU (evaluation uses the first)")
    # an evaluation in another precision than the training's is told, as with other input
    group.add_argument("--amp", choices=["auto", *PRECISIONS], default="auto", role=INPUT,
                       help="precision of the encoders; auto: bf16 where it is faster (GPUs from Ampere on, CPUs with "
                       "AMX, AMD's with avx512_bf16), else off; a resumed run keeps its own")
    # a compiled network rounds otherwise
    add_boolean(group, "--compile", False, "torch.compile the network (minutes at the start, faster steps)",
                role=MACHINE, compared=True)
    group.add_argument("--num_workers", type=number(int, 0, 1024), default=2, role=MACHINE,
                       help="loader processes per process")
