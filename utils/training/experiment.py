"""What makes an experiment: the settings that name it, which of them mean nothing beside others, its name and title.

Settings are flags as plain values, by name: what args.json holds.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from models.balancing import METHODS
from utils.training import flags
from utils.training.modalities import ENSEMBLE

SHARED = flags.parser_of(()).actions
# what names and tables always tell apart, in their order
CORE = tuple(name for name, flag in SHARED.items() if flag.meaning.named == "run")
RECORDED = tuple(name for name, flag in SHARED.items() if flag.meaning.named)  # in every result
# settings that say where a run ran, not what it computed
NOT_COMPARED = frozenset({name for name, flag in SHARED.items() if not flag.meaning.is_compared()} | {"command"})
IN_WORDS = ("fusion_method", "mmcosine", "scaling", "modulation", "modality")  # what `run_name` gives without its name
CHECKPOINTS = ("_pretrain", "_teacher")  # ends of the flags that name one for a modality's encoder


def without_meaning(settings: Mapping[str, object]) -> set[str]:
    """The settings that have no effect beside the others, so that runs which differ in them alone are the same."""
    return flags.parser_for(settings).idle(settings)


def meaningful(settings: Mapping[str, object]) -> dict[str, object]:
    idle = without_meaning(settings)
    return {name: value for name, value in settings.items() if name not in idle}


def run_name(settings: Mapping[str, object], axes: Mapping[str, object] | None = None,
             parts: Sequence[str] = ()) -> str:
    """`CREMAD-concat-mmcosine10-seed0`: dataset, fusion or modality, head, method, whatever else is not the default.

    axes: {other setting: its default} that the name gives where it is not the default. parts: of the dataset that was
    trained on, where it has several.
    """
    meant = meaningful(settings)
    joint = settings["modality"] if is_subset(settings) else ""
    words = [settings["dataset"], "-".join(filter(None, [joint, meant.get("fusion_method", settings["modality"])])),
             *parts, f"mmcosine{short(meant['scaling'])}" if settings["mmcosine"] else "plain"]
    if meant.get("modulation", "none") != "none":
        words.append(meant["modulation"])
    defaults = {**{name: SHARED[name].default for name in CORE if name not in IN_WORDS}, **(axes or {}),
                **METHODS[meant.get("modulation", "none")].default_settings}
    words += [f"{'' if name == 'preset' else name}{short(meant[name])}" for name, default in defaults.items()
              if name in meant and meant[name] != default]
    return "-".join([*words, f"seed{settings['random_seed']}"])


def timed_run_name(settings: Mapping[str, object], parts: Sequence[str] = ()) -> str:
    """What a run's folder is called when nobody names it."""
    return f"{run_name(settings, parts=parts)}-{datetime.now():%Y%m%d-%H%M%S}"


def short(value: object) -> str:
    """A value as part of a folder's name."""
    if isinstance(value, list | tuple):
        return "+".join(map(short, value))
    if isinstance(value, str) and value.endswith(".pt"):
        return Path(value).parent.name  # a checkpoint is known by its run
    return f"{value:.12g}" if isinstance(value, float) else str(value).replace("/", "_")


def is_subset(settings: Mapping[str, object]) -> bool:
    """Whether a run has several modalities but not all of them: names and titles then list them."""
    return "+" in settings["modality"]


def head(settings: Mapping[str, object]) -> str:
    return f"MMCosine s={settings['scaling']:g}" if settings["mmcosine"] else "plain"


def title(settings: Mapping[str, object], parts: Sequence[str] = ()) -> str:
    """`CREMAD · concat · MMCosine s=10 + ogm · seed 0`. parts: of the dataset, where it has several."""
    meant = meaningful(settings)
    what = meant.get("fusion_method", f"{settings['modality']} alone")
    what += f" of {settings['modality']}" if is_subset(settings) else ""
    what += f" of {', '.join(parts)}" if parts else ""
    method = meant.get("modulation", "none")
    return (f"{settings['dataset']} · {what} · {head(settings)}{f' + {method}' if method != 'none' else ''} · "
            f"seed {settings['random_seed']}")


def label(settings: Mapping[str, object], names: Sequence[str]) -> str:
    """A row of a table: fusion, head, method, and in what else these settings differ from others of it (`names`)."""
    meant = meaningful(settings)
    alone = f"{settings['modality']} encoder alone"
    if settings["modality"] == ENSEMBLE:
        alone = "ensemble of the encoders alone"
    parts = [meant.get("fusion_method", alone), head(settings)]
    if meant.get("modulation", "none") != "none":
        parts.append(meant["modulation"])
    given = {"fusion_method", "mmcosine", "scaling", "modulation"}
    given |= (set() if is_subset(settings) else {"modality"}) | (set() if meant.get("lam") else {"lam"})
    others = [name for name in dict.fromkeys(["lam", *names]) if name in meant and name not in given]
    return ", ".join([*parts, *(f"{name} {short(meant[name]) if name.endswith(CHECKPOINTS) else meant[name]}"
                                for name in others if not is_off(meant[name]))])


def seedless(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings, with paths of checkpoints that are the same for every seed: `...-seed3/best.pt` of a run of seed 3
    becomes `...-seed/best.pt`."""
    own = re.compile(rf"seed{settings['random_seed']}\b")
    return {name: own.sub("seed", str(value)) if name.endswith(CHECKPOINTS) and value else value
            for name, value in settings.items()}


def is_off(value: object) -> bool:
    """Whether a table's rows leave a setting out: it was not given, or is a switch that is off. 0 is a value."""
    return value is None or value is False or value == []


def events_folder(run_folder: Path, tensorboard_path: Path | None) -> Path:
    """Where a run's TensorBoard events are."""
    return tensorboard_path / run_folder.name if tensorboard_path else run_folder
