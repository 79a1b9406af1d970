"""What an entry script declares of each modality; flags, encoders and everything measured follow from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.spelling import invalid_choice

JOINT = ("both", "all")  # what --modality says for all of two, of more modalities
ENSEMBLE = "ensemble"  # of runs of one modality each: scripts/ensemble.py, and --modality of sweeps


class Modality(NamedTuple):
    """One input of the network.

    encoders: names in models.ENCODERS that --<name>_encoder takes, the default first. in_channels: of the encoder's
    first convolution; None for encoders of raw waveforms. input_settings: flags that change what the encoder gets.
    imagenet: whether a bare --imagenet starts its encoder. stacked: the flag that says how many frames of in_channels
    channels are stacked into one input, if any. colours: whether the channels are red, green and blue; if not,
    ImageNet's first convolution is averaged over the colours. extra: only used where --modality names it; no part of
    `both` or `all`.
    """

    name: str
    encoders: tuple[str, ...]
    in_channels: int | None
    input_settings: tuple[str, ...] = ()
    imagenet: bool = False
    stacked: str | None = None
    colours: bool = True
    extra: bool = False


class Start(NamedTuple):
    """What an encoder starts from: a checkpoint, or ImageNet weights (None). input_settings, colours: as of its
    Modality. teaches: whether it is a method's teacher, which stays as it is in the checkpoint."""

    path: Path | None
    input_settings: tuple[str, ...]
    colours: bool = True
    teaches: bool = False


def usual(modalities: Sequence[Modality]) -> tuple[Modality, ...]:
    """Those that `both` and `all` stand for."""
    return tuple(modality for modality in modalities if not modality.extra)


def choices(modalities: Sequence[Modality]) -> list[str]:
    """The words that --modality takes: the joint one first, where there are several modalities."""
    count = len(usual(modalities))
    joint = [JOINT[count > 2]] if count > 1 else []
    return [*joint, *(modality.name for modality in modalities)]


def chosen(modalities: Sequence[Modality], setting: str) -> tuple[Modality, ...]:
    """The modalities that a --modality setting such as `both`, `audio` or `rgb+flow` stands for, in declared order."""
    if setting in JOINT:
        return usual(modalities)
    names = setting.split("+")
    return tuple(modality for modality in modalities if modality.name in names)


def setting_of(modalities: Sequence[Modality], words: Sequence[str]) -> str:
    """The setting that the words of --modality make: `both` or `all`, a name, or names joined by `+`.

    Raises ValueError: a word that is not one of `choices`, one given twice, `both` or `all` beside a name.
    """
    names = [name for word in words for name in word.split("+")]
    joint = [modality.name for modality in usual(modalities)]
    # "all" of two is both, but "both" of three is not all
    if len(names) == 1 and names[0] in JOINT[len(joint) > 2:]:
        names = joint
    known = [modality.name for modality in modalities]
    for name in names:
        if name in JOINT[len(joint) > 2:]:
            raise ValueError(f"{name!r} stands for every modality: leave out the others")
        if name not in known:
            raise ValueError(invalid_choice(name, choices(modalities)))
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is given twice")
    kept = [name for name in known if name in names]
    return choices(modalities)[0] if kept == joint else "+".join(kept)


def unknown(modalities: Sequence[Modality], setting: str) -> set[str]:
    """The names in a --modality setting that no modality has."""
    return set() if setting in JOINT else set(setting.split("+")) - {modality.name for modality in modalities}


def is_joint(setting: str) -> bool:
    """Whether a --modality setting stands for more than one modality."""
    return setting in JOINT or "+" in setting


def predicts_jointly(setting: str) -> bool:
    """Whether what such a run predicts comes from more than one modality: of a joint network, or of an ensemble."""
    return is_joint(setting) or setting == ENSEMBLE
