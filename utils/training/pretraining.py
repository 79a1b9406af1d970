"""Encoders that start from other weights, and what is known of where these come from."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torchvision.models import ResNet18_Weights, ResNet34_Weights, WeightsEnum

from models import MultimodalClassifier
from models.encoders import ResNet18, ResNet34
from utils.distributed import failing_together, is_first_here, say
from utils.errors import InputError
from utils.training import checkpoint, report
from utils.training.modalities import Start

IMAGENET = {ResNet18: ResNet18_Weights.IMAGENET1K_V1, ResNet34: ResNet34_Weights.IMAGENET1K_V1}

Origin = dict[str, object]  # file, pretrained_on, its epoch, and started_from: the Origin that its own run began with


def load_pretrained(model: MultimodalClassifier, starts: Mapping[str, Start],
                    settings: Mapping[str, object]) -> dict[str, Origin]:
    """Loads the encoders that start from other weights -> {modality: origin}. settings: of this run.

    Raises InputError: weights that do not fit, a download that fails.
    """
    origins = {}
    for modality, start in starts.items():
        encoder = model.encoder(modality)
        origin = load_file(encoder, modality, start, settings) if start.path else load_imagenet(encoder, modality)
        origins[modality] = origin
        say(f"{modality} encoder starts from {origin['file']}, pretrained on {describe(origin)}; its head is not used")
    return origins


def load_file(encoder: nn.Module, modality: str, start: Start, settings: Mapping[str, object]) -> Origin:
    """Loads the encoder of a checkpoint -> what the settings saved in it tell. Notes which inputs differ."""
    path = start.path
    content = checkpoint.load_encoder(encoder, modality, path)
    saved, facts = content.get("args"), content.get("facts")
    if not isinstance(saved, dict) or not isinstance(facts, dict):
        return {"file": str(path), "pretrained_on": None}
    for flag in start.input_settings:
        if flag in saved and saved[flag] != settings[flag]:
            say(f"note: {path} was trained with --{flag} {saved[flag]}, this run has {settings[flag]}")
    return {"file": str(path), "pretrained_on": data_of(saved, facts), "epoch": content.get("epoch"),
            "started_from": facts.get("pretrained", {}).get(modality)}


def data_of(settings: Mapping[str, object], facts: Mapping[str, object]) -> str:
    """`SSW60 images_inat + images_nabirds`, `CREMAD`: what a run with these settings and facts was trained on."""
    return " ".join([str(settings["dataset"]), " + ".join(report.parts_of(facts))]).strip()


def describe(origin: Origin | None) -> str:
    """What the weights were trained on, and before that."""
    if not origin:
        return ""
    before = describe(origin.get("started_from"))
    known = origin["pretrained_on"] or "unknown data (it holds no settings)"
    return f"{known}{', before that on ' + before if before else ''}"


def load_imagenet(encoder: nn.Module, modality: str) -> Origin:
    """Loads torchvision's ImageNet weights of this kind of encoder, downloaded once a machine. Raises InputError."""
    weights = IMAGENET[type(encoder)]
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    with failing_together():
        if is_first_here():
            provide(weights, path)
    checkpoint.load_encoder(encoder, modality, path)
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
