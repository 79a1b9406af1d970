"""Encoders that start from other weights, and what is known of where these come from."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, ResNet34_Weights, ResNet50_Weights, WeightsEnum

from dataset.errors import InputError
from models import ENCODERS
from models.encoders import ResNet18, ResNet34, ResNet50
from utils.distributed import failing_together, is_first_here, print_once
from utils.training import checkpoint, report
from utils.training.modalities import Start
from utils.training.same_data import Clips, check_no_overlap
from utils.training.trained import Trained, open_trained

IMAGENET = {ResNet18: ResNet18_Weights.IMAGENET1K_V1, ResNet34: ResNet34_Weights.IMAGENET1K_V1,
            ResNet50: ResNet50_Weights.IMAGENET1K_V1}

Origin = dict[str, object]  # file, pretrained_on, its epoch, and started_from: the Origin that its own run began with


def load_pretrained(encoders: Mapping[str, nn.Module], starts: Mapping[str, Start], settings: Mapping[str, object],
                    clips: Clips) -> dict[str, Origin]:
    """Loads the encoders that start from other weights, or the teachers -> {modality: origin}. settings, clips: of this
    run.

    Raises InputError: weights that do not fit, that were trained on test clips of this run (unless --allow_overlap), a
    download that fails.
    """
    origins, opened = {}, {}
    for modality, start in starts.items():
        if start.path and start.path not in opened:
            with failing_together():
                opened[start.path] = open_trained(start.path)
        origins[modality] = (load_file(encoders[modality], modality, opened[start.path], start, settings, clips)
                             if start.path else load_imagenet(encoders[modality], modality, start.colours))
    return origins


def load_encoder(encoder: nn.Module, modality: str, trained: Trained, colours: bool = True,
                 adapted: bool = True) -> bool:
    """Loads an encoder from a checkpoint of a whole model (keys `<modality>_net.*`) or of an encoder alone, such as
    torchvision's ResNet-18 -> whether the file holds a head, which is not used.

    colours: whether the channels of the encoder's input mean what those of the checkpoint's do, if they are as many.
    Notes what had to be adapted: a first convolution of other input channels, a projection that the file lacks; nothing
    is without `adapted`. Raises InputError that names what does not fit.
    """
    path = trained.path
    state = checkpoint.state_dict_of(trained.content, path)
    prefix = f"{modality}_net."
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    own = encoder.state_dict()
    found = inside or state
    head = {name for name in (*state, *found) if name.startswith(("fusion_module.", "fc.")) and name not in own}
    wanted = {name: value for name, value in found.items() if name not in head}
    if adapted:
        adapt_first_convolution(wanted, own, modality, path, colours)
        adapt_projection(wanted, own, modality, path)
    checkpoint.load_weights(encoder, wanted, path, f"It should hold {prefix}* or the encoder's weights alone, of the "
                            f"same --{modality}_encoder.")
    return bool(head)


def adapt_first_convolution(state: dict[str, Tensor], own: Mapping[str, Tensor], modality: str, path: Path,
                            colours: bool) -> None:
    """Puts weights for the encoder's own input channels into `state`, where these are others."""
    name = "conv1.weight"
    if not (name in own and name in state and state[name].dim() == own[name].dim() == 4):
        return
    before, channels = state[name].shape[1], own[name].shape[1]
    if before == channels and colours:
        return
    state[name] = with_channels(state[name], channels)
    how = "averaged over the {} and repeated" if channels > 1 else "summed over the {}"
    print_once(f"note: the first convolution of {path} has {before} input channels, that of the {modality} encoder "
               f"{channels}{'' if colours else ' that are no colours'}: its weights are {how.format(before)}")


def with_channels(weight: Tensor, channels: int) -> Tensor:
    """The weights (O, C, H, W) of a first convolution for K input channels instead of C -> (O, K, H, W).

    Several channels: the mean over C, repeated K times, which is the cross-modality initialisation of TSN (Wang et al.,
    ECCV 2016). One channel: the sum over C, which gives what an image that has it in all colours would.
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight.mean(1, keepdim=True).repeat(1, channels, 1, 1)


def adapt_projection(state: dict[str, Tensor], own: Mapping[str, Tensor], modality: str, path: Path) -> None:
    """Leaves the projection of a ResNet-50 at its initialisation where `state` has none."""
    projection = {name: value for name, value in own.items() if name.startswith("projection.")}
    if projection and not projection.keys() & state.keys():
        state.update(projection)
        print_once(f"note: {path} has no projection to 512 features: that of the {modality} encoder starts from "
                   "scratch")


@failing_together()
def load_file(encoder: nn.Module, modality: str, trained: Trained, start: Start, settings: Mapping[str, object],
              clips: Clips) -> Origin:
    """Loads the encoder of a checkpoint -> what its settings say of it. Notes which inputs differ."""
    path, content, saved, facts = trained.path, trained.content, trained.settings, trained.facts
    head = load_encoder(encoder, modality, trained, adapted=not start.teaches)
    origin = {"file": str(path), "pretrained_on": None}
    if clips and "clips" in content:
        check_no_overlap(content, clips, path, bool(settings.get("allow_overlap")))
    if saved and facts:
        for flag in start.input_settings:
            if flag in saved and saved[flag] != settings[flag]:
                print_once(f"note: {path} was trained with --{flag} {saved[flag]}, this run has {settings[flag]}")
        origin.update(pretrained_on=data_of(saved, facts), epoch=content.get("epoch"),
                      started_from=facts.get("pretrained", {}).get(modality))
    print_start(modality, origin, head, "is taught by" if start.teaches else "starts from")
    return origin


def print_start(modality: str, origin: Origin, head: bool, what: str = "starts from") -> None:
    """head: whether the file holds one. what: the encoder does with it."""
    print_once(f"{modality} encoder {what} {origin['file']}, pretrained on {describe(origin)}"
               f"{'; its head is not used' if head else ''}")


def data_of(settings: Mapping[str, object], facts: Mapping[str, object]) -> str:
    """`SSW60 images_inat + images_nabirds`, `UCF101 split 2`: what a run with these settings and facts was trained
    on."""
    split = f"split {facts['split']}" if "split" in facts else ""
    return " ".join(filter(None, [str(settings.get("dataset")), split, " + ".join(report.parts_of(facts))]))


def describe(origin: Origin | None) -> str:
    """What the weights were trained on, and before that."""
    if not origin:
        return ""
    before = describe(origin.get("started_from"))
    known = origin["pretrained_on"] or "unknown data (it holds no settings)"
    return f"{known}{', before that on ' + before if before else ''}"


def load_imagenet(encoder: nn.Module, modality: str, colours: bool = True) -> Origin:
    """Loads torchvision's ImageNet weights of this kind of encoder, downloaded once a machine. colours: whether its
    input channels are red, green and blue. Raises InputError."""
    if type(encoder) not in IMAGENET:
        names = [name for name, kind in ENCODERS.items() if kind in IMAGENET]
        raise InputError(f"--imagenet: there are no ImageNet weights of the {modality} encoder, only of "
                         f"{', '.join(names)}: leave {modality} out of --imagenet, or start it from another file with "
                         f"--{modality}_pretrain FILE")
    weights = IMAGENET[type(encoder)]
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    with failing_together():
        if is_first_here():
            provide(weights, path, modality)
    head = load_encoder(encoder, modality, open_trained(path), colours)
    origin = {"file": path.name, "pretrained_on": f"ImageNet ({weights}, torchvision)"}
    print_start(modality, origin, head)
    return origin


def provide(weights: WeightsEnum, path: Path, modality: str) -> None:
    """The file in torchvision's own place, `path`, downloaded if it is not there. Raises InputError: another file."""
    if not path.is_file():
        download(weights, path, modality)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(path.stem.rpartition("-")[2]):
        raise InputError(f"--imagenet: {path} is damaged or another file (its SHA-256 is not the one in its name): "
                         "delete it and run the same command again")


def download(weights: WeightsEnum, path: Path, modality: str) -> None:
    """Raises InputError."""
    try:
        weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, no such page, cannot be written; another hash
        raise InputError(f"--imagenet: {weights.url} cannot be downloaded ({error}). Download it elsewhere and put it "
                         f"there as {path}, or name it with --{modality}_pretrain FILE, or leave --imagenet out"
                         ) from None
