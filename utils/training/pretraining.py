"""Encoders that start from other weights, and what is known of where these come from."""

import hashlib
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torchvision.models import ResNet18_Weights, ResNet34_Weights, WeightsEnum

from models import MultimodalClassifier
from models.encoders import ResNet18, ResNet34
from utils.distributed import is_first_here, say, together
from utils.errors import InputError
from utils.training import checkpoint

IMAGENET = {ResNet18: ResNet18_Weights.IMAGENET1K_V1, ResNet34: ResNet34_Weights.IMAGENET1K_V1}

INPUTS = {"audio": ("audio_frontend", "demo"), "visual": ("image_size", "demo")}  # what an encoder is used to

Origin = dict[str, object]  # file, pretrained_on, its epoch, and started_from: the Origin that its own run began with


def load_pretrained(args: Namespace, model: MultimodalClassifier) -> dict[str, Origin]:
    """Encoders start as --audio_pretrain, --visual_pretrain and --imagenet say -> {modality: origin}; {} on --resume.

    Raises InputError: no such encoder in the model, weights that do not fit, a download that fails.
    """
    files = {"audio": args.audio_pretrain, "visual": args.visual_pretrain}
    for modality, path in files.items():
        if path and modality not in model.modalities:
            raise InputError(f"--{modality}_pretrain {path} has no encoder to go to: --modality is {args.modality}")
    if args.resume:
        return {}
    origins = {name: load_origin(args, model.encoder(name), name, path) for name, path in files.items() if path}
    if args.imagenet:
        origins["visual"] = load_imagenet(model.encoder("visual"))
    for modality, origin in origins.items():
        say(f"{modality} encoder starts from {origin['file']}, pretrained on {tell(origin)}; no head is taken over")
    return origins


def load_origin(args: Namespace, encoder: nn.Module, modality: str, path: Path) -> Origin:
    """Loads the encoder of a checkpoint -> what the settings saved in it tell. Says which inputs were other ones."""
    content = checkpoint.load_encoder(encoder, modality, path)
    settings, facts = content.get("args"), content.get("facts")
    if not isinstance(settings, dict) or not isinstance(facts, dict):
        return {"file": str(path), "pretrained_on": None}
    for flag in INPUTS[modality]:
        if flag in settings and settings[flag] != getattr(args, flag):
            say(f"note: {path} was trained with --{flag} {settings[flag]}, this run has {getattr(args, flag)}")
    return {"file": str(path), "pretrained_on": data_of(settings), "epoch": content.get("epoch"),
            "started_from": facts.get("pretrained", {}).get(modality)}


def data_of(settings: Mapping[str, object]) -> str:
    """`SSW60 images_inat + images_nabirds`, `CREMAD`: what a run with these settings was trained on."""
    return " ".join([str(settings["dataset"]), " + ".join(settings.get("pretrain_on") or [])]).strip()


def tell(origin: Origin | None) -> str:
    if not origin:
        return ""
    before = tell(origin.get("started_from"))
    known = origin["pretrained_on"] or "unknown data (it holds no settings)"
    return f"{known}{', before that on ' + before if before else ''}"


def load_imagenet(encoder: nn.Module) -> Origin:
    """Loads torchvision's ImageNet weights of this kind of encoder, downloaded once a machine. Raises InputError."""
    weights = IMAGENET[type(encoder)]
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    together(lambda: provide(weights, path) if is_first_here() else None)
    checkpoint.load_encoder(encoder, "visual", path)
    return {"file": path.name, "pretrained_on": f"ImageNet ({weights}, torchvision)"}


def provide(weights: WeightsEnum, path: Path) -> None:
    """The file in torchvision's own place, `path`, downloaded if it is not there. Raises InputError: another file."""
    if not path.is_file():
        download(weights, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(path.stem.rpartition("-")[2]):
        raise InputError(f"--imagenet: {path} is damaged or another file (its SHA-256 is not the one in its name): "
                         "delete it and run the same command again")


def download(weights: WeightsEnum, path: Path) -> None:
    """Raises InputError."""
    try:
        weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, no such page, cannot be written; another hash
        raise InputError(f"--imagenet: {weights.url} cannot be downloaded ({error}). Download it elsewhere and put it "
                         f"there as {path}, or name it with --visual_pretrain FILE, or leave --imagenet out") from None
